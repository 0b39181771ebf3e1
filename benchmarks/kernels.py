"""What kernels take of each chip, compiled ahead of time without a GPU. Writes docs/benchmarks/kernels.md and .json.

python benchmarks/kernels.py [--only WORD] [--fresh] [--minutes 30]

Kernels whose text and configuration are in kernels.json already are not compiled again, unless ``--fresh``. What is not
reached in time is left out; another run goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, TimeoutError
from pathlib import Path
from typing import Any

import triton

from maskc.backends.triton.aot import Shape, compile_kernel
from maskc.backends.triton.configs import Rows, parse_target, shared_memory
from maskc.backends.triton.emit import Written, written
from maskc.ir.program import Program
from maskc.lower import lower_text

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks" / "kernels.md"
DATA = PAGE.with_suffix(".json")
TARGETS = ("cuda:80", "cuda:90", "cuda:100", "cuda:120", "hip:gfx942")
STAGES = ("forward", "dq", "dkv", "pairs")
#: Kernels that calls on Hopper take where they know what their plan's rows are like, by what these are called here.
BY_ROWS: dict[str, tuple[str, Rows]] = {
    "forward, short rows": ("forward", "short"),
    "dkv, short rows": ("dkv", "short"),
    "dq, long rows": ("dq", "long"),
    "forward, masked": ("forward", "masked"),
}
DIMS = (64, 128)
#: What the models' patterns do not have.
PATTERNS = {
    "causal": "causal",
    "sinks and window": "sinks(4) | sliding_window(1024)",
    "documents": "pattern p(doc: int[token]) { attend same(doc) & causal }",
    "3-D grid": "pattern p over grid(t, y, x)"
    " { attend neighborhood(t, 18) & neighborhood(y, 24) & neighborhood(x, 24) }",
    "soft cap and sink": "pattern p(sink: float[head]) { attend causal\n"
    " score 30.0 * tanh(s / 30.0)\n normalize softmax(sink = sink[h]) }",
    "bias of pairs": "pattern p(bias: float[head, q, k]) { attend causal\n score s + bias[h, q, k] }",
}
Row = dict[str, Any]
HEAD = """# What kernels take of each chip

Compiled ahead of time by `python benchmarks/kernels.py` with the default configuration, bfloat16, no GPU involved:
every file of `examples/models`, and a few patterns more. Tiles are queries x keys; registers are a thread's; spilled
and shared memory are in bytes; shared memory is shown with the most that a block of the chip has. On AMD chips
registers count accumulators too. The kernel `pairs` exists only for float inputs read by query and key together.

On Hopper a call that knows its plan may take other tiles, and one loop for full and partial tiles
([triton.md](../triton.md)): where rows are short, where they are long (dQ; dK and dV then take the kernel of short
rows), and where most tiles are masked. Those kernels have rows of their own. With D = 128 that of dK and dV spills some
bytes, and is 10 to 17 % faster than what spills nothing ([measured](gpu-tiles.md)).

No row says how fast a kernel is. `kernels.json` beside this page has every row; a test fails where a kernel takes more
than it says.

"""


def programs() -> dict[str, Program]:
    """The patterns by name: those above, and the models'."""
    files = sorted((ROOT / "examples" / "models").glob("*.mask"))
    models = {path.stem: lower_text(path.read_text(encoding="utf-8"))[0] for path in files}
    return {name: lower_text(text)[0] for name, text in PATTERNS.items()} | models


def kernels(program: Program, target: str, dim: int) -> dict[str, Written]:
    """The kernels of a pattern with the default values of its arguments, or 64 where there is none: by stage, and for
    Hopper those of ``BY_ROWS`` that are others."""
    args = {p.name: 64 if p.default is None else p.default.value for p in program.params if p.is_scalar}
    chip, shape = parse_target(target), Shape(head_dim=dim, value_dim=dim)
    found = {each.stage: each for each in written(program, args, chip, shape, STAGES)}
    for name, (stage, rows) in BY_ROWS.items() if target == "cuda:90" else ():
        (each,) = written(program, args, chip, shape, (stage,), rows=rows)
        if identity(each, target, dim) != identity(found[stage], target, dim):
            found[name] = each
    return found


def identity(each: Written, target: str, dim: int) -> str:
    """What a compiled kernel depends on, as one word."""
    c = each.config
    return f"{each.kernel.digest[:20]}/{target}/{dim}/{c.q_tile}x{c.k_tile}/{c.warps}/{c.stages}"


def compiled(each: Written, program: Program, target: str, dim: int) -> Row:
    """What a kernel takes of a chip."""
    chip = parse_target(target)
    found = compile_kernel(each.kernel, program, chip, each.config, Shape(head_dim=dim, value_dim=dim))
    return {
        "registers": found.registers,
        "spilled": found.spilled,
        "shared": found.shared,
        "limit": shared_memory(chip),
        "matrix": sorted(found.tensor_cores),
        "predicates": None if each.stage == "pairs" or one_loop(each) else predicates(found.ttir),
    }


def one_loop(each: Written) -> bool:
    """Whether full and partial tiles are one sequence, with the mask behind a branch."""
    return any(a.name == "ONE_RUN" for a in each.kernel.arguments)


def predicates(ttir: str) -> int:
    """Comparisons and selections in the loop over full tiles: the first loop with a product and no loop inside."""
    at = 0
    while (at := ttir.find("scf.for", at)) >= 0:
        body = _body(ttir, at)
        if "tt.dot" in body and "scf.for" not in body[len("scf.for") :]:
            return sum(body.count(word) for word in ("arith.cmpi", "arith.cmpf", "arith.select", "arith.andi"))
        at += 1
    raise ValueError("no loop with a product")


def _body(text: str, start: int) -> str:
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "{") - (text[i] == "}")
        if text[i] == "}" and depth == 0:
            return text[start : i + 1]
    raise ValueError("the loop has no end")


def places() -> list[tuple[str, str, int]]:
    """Patterns, chips and head dimensions: causal attention and one chip first."""
    every = [(name, chip, dim) for dim in DIMS[::-1] for chip in TARGETS for name in programs()]
    return sorted(every, key=lambda p: (p[0] != "causal", p[1] != "cuda:90"))


def rows(only: str, known: dict[str, Row], deadline: float, jobs: int = 1) -> Iterator[Row]:
    """A row for each pattern, chip, head dimension and kernel. ``known``: what is compiled already; it grows."""
    every = programs()
    wanted = [(*p, n, e) for p in places() if only in p[0] for n, e in kernels(every[p[0]], *p[1:]).items()]
    missing = {identity(e, chip, dim): (name, chip, dim, kind) for name, chip, dim, kind, e in wanted}
    missing = {key: where for key, where in missing.items() if key not in known}
    with ProcessPoolExecutor(jobs) as pool:
        waiting = {key: pool.submit(compiled_at, *where) for key, where in missing.items()}
        for name, chip, dim, kind, each in wanted:
            key, c = identity(each, chip, dim), each.config
            if key in waiting:
                try:
                    known[key] = waiting.pop(key).result(max(0.0, deadline - time.monotonic()))
                except TimeoutError:
                    pool.shutdown(wait=False, cancel_futures=True)
                    waiting.clear()
            if key in known:
                tile = {"tile": [c.q_tile, c.k_tile], "warps": c.warps, "stages": c.stages}
                where = {"pattern": name, "chip": chip, "dim": dim, "kernel": kind, "identity": key}
                yield {**where, **tile, **known[key]}


def compiled_at(name: str, target: str, dim: int, kind: str) -> Row:
    """What one kernel of a pattern takes of a chip; in a process of a pool."""
    program = programs()[name]
    return compiled(kernels(program, target, dim)[kind], program, target, dim)


def read() -> tuple[str, list[Row]]:
    """The version of Triton that the rows are of, and the rows."""
    if not DATA.exists():
        return "", []
    data = json.loads(DATA.read_text(encoding="utf-8"))
    return data["triton"], data["rows"]


_FACTS = ("registers", "spilled", "shared", "limit", "matrix", "predicates")


def facts(found: Iterable[Row]) -> dict[str, Row]:
    """What is known of each compiled kernel."""
    return {row["identity"]: {fact: row[fact] for fact in _FACTS} for row in found}


def line(row: Row) -> str:
    """A row as Markdown."""
    q_tile, k_tile = row["tile"]
    cells = [row["pattern"], row["chip"], row["dim"], row["kernel"], f"{q_tile} x {k_tile}", row["warps"]]
    cells += [row["stages"], row["registers"], row["spilled"], f"{row['shared']} / {row['limit']}"]
    return "| " + " | ".join(str(c) for c in [*cells, " ".join(row["matrix"])]) + " |"


def page(found: list[Row]) -> str:
    """The page: the chips at a glance, every kernel for causal attention, and every pattern on one chip."""
    lines = ["## Chips", "", "The most that any of the patterns takes.", ""]
    heads = ["chip", "D", "kernel", "patterns", "kernels", "registers", "spilled", "shared"]
    lines += _head(heads)
    for chip, dim, kernel in dict.fromkeys((r["chip"], r["dim"], r["kernel"]) for r in found):
        some = [r for r in found if (r["chip"], r["dim"], r["kernel"]) == (chip, dim, kernel)]
        spilling = sorted({r["pattern"] for r in some if r["spilled"]})
        most = {what: max(r[what] or 0 for r in some) for what in ("registers", "spilled", "shared")}
        named = "all" if len(spilling) == len(some) else ", ".join(spilling)
        spilled = f"{most['spilled']} ({named})" if spilling else "0"
        distinct = len({r["identity"] for r in some})
        cells = [chip, dim, kernel, len(some), distinct, most["registers"], spilled]
        lines.append("| " + " | ".join(map(str, [*cells, f"{most['shared']} / {some[0]['limit']}"])) + " |")
    columns = ["pattern", "chip", "D", "kernel", "tile", "warps", "stages", "registers", "spilled", "shared", "matrix"]
    parts = {"Causal attention": ("causal", ""), "Every pattern, D = 128, on one chip": ("", "cuda:90")}
    for title, (name, chip) in parts.items():
        some = [r for r in found if r["pattern"] == name or (r["chip"] == chip and r["dim"] == 128)]
        lines += ["", f"## {title}", "", *_head(columns), *map(line, some)]
    return HEAD + "\n".join(lines) + "\n"


def _head(columns: list[str]) -> list[str]:
    return ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="patterns whose name holds this; print only")
    parser.add_argument("--fresh", action="store_true", help="compile everything again")
    parser.add_argument("--minutes", type=float, default=30.0, help="what is not reached by then is left out")
    asked = parser.parse_args()
    deadline = time.monotonic() + 60 * asked.minutes
    version, old = read()
    known = facts(old) if version == triton.__version__ and not asked.fresh else {}
    found = []
    for row in rows(asked.only, known, deadline, os.cpu_count() or 1):
        found.append(row)
        print(line(row), flush=True)
    if not asked.only:
        text = ",\n".join(json.dumps(row) for row in found)
        DATA.write_text(f'{{"triton": "{triton.__version__}", "rows": [\n{text}\n]}}\n', encoding="utf-8")
        PAGE.write_text(page(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

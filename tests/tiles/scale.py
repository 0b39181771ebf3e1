"""The long masks whose plans are promised: within 512 MiB of address space, and with work that grows with length.

Run by itself, plans all of them under that limit, and prints what it planned.
"""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import numpy as np

from maskc.diagnostics import MaskcError
from maskc.ir.binding import Binding
from maskc.ir.program import Program
from maskc.lower import lower_text
from maskc.tiles import make_plan
from maskc.tiles.binding import make_binding

MEGA = 1 << 20
ROOM = 512 << 20
NEAR = "neighborhood(t, 18{0}) & neighborhood(y, 24{1}) & neighborhood(x, 24{1})"

#: Masks over plain tokens, of any length.
TOKENS: dict[str, str] = {
    "causal": "causal",
    "window": "sliding_window(4096)",
    "sinks": "causal & (sinks(64) | sliding_window(4096))",
    "chunks": "chunk(8192) & causal",
    "Longformer": "window(256, 256) | global(token < 64)",
    "BigBird": "window(1, 1) on token // 64 | any(i in 0..3: k // 64 == hash(q // 64, i) % (size(k) // 64))"
    " | global(token < 64)",
    "dilated": "dilated(64, 64)",
    "strided": "causal & (sliding_window(128) | strided(128))",
    "prefix": "causal | prefix(1000)",
    "documents": "pattern p(doc: int[token]) { attend causal & same(doc) }",
}
#: Periods just below and just above what a tile holds, and far above.
PERIODS = {f"strided {n}": f"causal & (sliding_window({n}) | strided({n}))" for n in (100, 127, 129, 200, 255, 5000)}
PERIODS |= {f"dilated {n}": f"dilated(64, {n})" for n in (2, 100, 129, 200)}
PERIODS |= {f"halves of {2 * n}": f"causal & q // {n} % 2 == k // {n} % 2" for n in (16, 64)}
SCATTERED: dict[str, str] = {
    "scattered documents": "pattern p(lab: int[token]) { attend causal & same(lab) }",
    "clusters or a window": "pattern p(lab: int[token]) { attend causal & (same(lab) | sliding_window(256)) }",
    "padding": "pattern p(mark: bool[token]) { attend causal & mark[k] }",
    "rare marks": "pattern p(rare: bool[token]) { attend sliding_window(500) | global(rare) }",
}
GRID = {"t": 30, "y": 48, "x": 80}
IMAGE = {"y": 1024, "x": 1024}
#: Masks over a grid: axes and body.
GRIDS: dict[str, tuple[dict[str, int], str]] = {
    "neighbourhoods": (GRID, NEAR.format("", "")),
    "strided neighbourhoods": (GRID, NEAR.format(", stride = 2", ", stride = 8")),
    "sliding tile": (GRID, "neighborhood(t // 6, 3) & neighborhood(y // 8, 3) & neighborhood(x // 8, 3)"),
    "image window": (IMAGE, "window(32, 32) on y & window(32, 32) on x"),
    "image halo": (IMAGE, "halo(y, 16, 8) & halo(x, 16, 8)"),
    "image Swin": (IMAGE, "shifted_window(y, 16, 8) & shifted_window(x, 16, 8)"),
}


def token_case(text: str, n: int) -> tuple[Program, Binding]:
    program, rng = lower_text(text)[0], np.random.default_rng(0)
    every: dict[str, Any] = {
        "doc": lambda: np.sort(rng.integers(0, max(1, n // 1000), n)),
        "lab": lambda: rng.integers(0, 64, n),
        "mark": lambda: rng.random(n) < 0.9,
        "rare": lambda: np.arange(n) % 30_011 == 0,
    }
    given = {p.name: every[p.name]() for p in program.params}
    return program, make_binding(program, n, n, **given)


def grid_case(name: str) -> tuple[Program, Binding]:
    sizes, body = GRIDS[name]
    program = lower_text(f"pattern p() over grid({', '.join(sizes)}) {{ attend {body} }}")[0]
    n = int(np.prod(list(sizes.values())))
    return program, make_binding(program, n, n, sizes=sizes)


def _limited() -> None:
    """No more address space than now, and ``ROOM``."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main() -> None:
    make_plan(*token_case("causal", 1000))
    _limited()
    for name, text in (TOKENS | PERIODS | SCATTERED).items():
        print(name, make_plan(*token_case(text, MEGA)).nbytes, flush=True)
    for name in GRIDS:
        print(name, make_plan(*grid_case(name)).nbytes, flush=True)
    heads = lower_text("pattern p(w: int[head]) { attend sliding_window(w[h]) }")[0]
    binding = make_binding(heads, 131_072, 131_072, heads=32, w=np.arange(1, 33) * 256)
    print("heads", make_plan(heads, binding).nbytes, flush=True)
    try:
        make_plan(*token_case("hash(q, k) % 2 == 0", MEGA), budget=100_000_000)
    except MaskcError as refused:
        print("refused", *refused.codes, str(refused).splitlines()[0], flush=True)


if __name__ == "__main__":
    main()

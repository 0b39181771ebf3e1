"""How long plans take, what they hold and what they waste, beside FlexAttention's ``create_block_mask``.

    python benchmarks/plan.py [--quick] [--write docs/benchmarks/plan.md]

One thread. Times are medians after one warm-up, so that the analysis of the pattern is there already, but for the
cold rows, which start from text. Memory is the peak that ``tracemalloc`` sees above the baseline (NumPy's arrays
included). The peers run in the same process: eager at 16,384 tokens, compiled at 65,536.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskc.ir.binding import Binding
from maskc.ir.program import Program
from maskc.lower import lower_text
from maskc.tiles import make_plan
from maskc.tiles.binding import make_binding
from maskc.tiles.plan import TilePlan
from maskc.tiles.statistics import tile_counts

MEGA = 1 << 20
GRID = {"t": 30, "y": 48, "x": 80}
IMAGE = {"y": 1024, "x": 1024}


@dataclass(frozen=True)
class Case:
    """A pattern to plan. ``flex``: the same as a ``mask_mod``, for the eager peer."""

    name: str
    text: str
    length: int = MEGA
    sizes: dict[str, int] = field(default_factory=dict)
    inputs: Callable[[int], dict[str, Any]] = lambda n: {}
    target_ms: float = 50.0
    heads: int = 1

    def bound(self, length: int | None = None) -> tuple[Program, Binding]:
        program = lower_text(self.text)[0]
        n = length or self.length
        given = self.inputs(n)
        return program, make_binding(program, n, n, heads=self.heads, sizes=self.sizes, **given)


def _documents(n: int) -> dict[str, Any]:
    return {"doc": np.sort(np.random.default_rng(0).integers(0, 1000, n))}


def _grid(body: str) -> str:
    return f"pattern p() over grid(t, y, x) {{ attend {body} }}"


def _image(body: str) -> str:
    return f"pattern p() over grid(y, x) {{ attend {body} }}"


_NEAR = "neighborhood(t, 18{0}) & neighborhood(y, 24{1}) & neighborhood(x, 24{1})"
_BIGBIRD = (
    "window(1, 1) on token // 64 | any(i in 0..3: k // 64 == hash(q // 64, i) % (size(k) // 64)) | global(token < 64)"
)

CASES = (
    Case("causal", "causal"),
    Case("sliding window, 4,096", "sliding_window(4096)"),
    Case("64 sinks or the window", "causal & (sinks(64) | sliding_window(4096))"),
    Case("chunks of 8,192", "chunk(8192) & causal"),
    Case("Longformer, 64 global", "window(256, 256) | global(token < 64)"),
    Case("BigBird, random blocks", _BIGBIRD),
    Case("dilated, rate 64", "dilated(64, 64)"),
    Case("strided, 128", "causal & (sliding_window(128) | strided(128))"),
    Case("prefix, 1,000", "causal | prefix(1000)"),
    Case("1,000 packed documents", "pattern p(doc: int[token]) { attend causal & same(doc) }", inputs=_documents),
    Case("neighbourhoods 18 x 24 x 24", _grid(_NEAR.format("", "")), 115_200, GRID),
    Case("the same, strided", _grid(_NEAR.format(", stride = 2", ", stride = 8")), 115_200, GRID),
    Case(
        "sliding tile 6 x 8 x 8",
        _grid("neighborhood(t // 6, 3) & neighborhood(y // 8, 3) & neighborhood(x // 8, 3)"),
        115_200,
        GRID,
    ),
    Case("image, window 65 x 65", _image("window(32, 32) on y & window(32, 32) on x"), MEGA, IMAGE),
    Case("image, halo 16 + 8", _image("halo(y, 16, 8) & halo(x, 16, 8)"), MEGA, IMAGE),
    Case("image, Swin 16 shifted", _image("shifted_window(y, 16, 8) & shifted_window(x, 16, 8)"), MEGA, IMAGE),
    Case(
        "32 heads, 32 windows, 131,072",
        "pattern p(w: int[head]) { attend sliding_window(w[h]) }",
        131_072,
        inputs=lambda n: {"w": np.arange(1, 33) * 256},
        target_ms=100.0,
        heads=32,
    ),
)


def median_ms(run: Callable[[], object], times: int) -> float:
    run()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        taken.append((time.perf_counter() - start) * 1e3)
    return statistics.median(taken)


def peak_mib(run: Callable[[], object]) -> float:
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def executed(plan: TilePlan) -> int:
    return (
        sum(sum(tile_counts(g.runs)) * len(g.heads) * len(g.batches) for g in plan.groups) * plan.q_tile * plan.k_tile
    )


def planned(times: int) -> Iterator[str]:
    yield "| pattern | plan, ms | target | peak, MiB | plan, KiB | runs | full | partial |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    for case in CASES:
        program, binding = case.bound()
        plan = make_plan(program, binding)
        ms = median_ms(lambda p=program, b=binding: make_plan(p, b), times)
        mib = peak_mib(lambda p=program, b=binding: make_plan(p, b))
        counts = np.array([tile_counts(g.runs) for g in plan.groups]).sum(axis=0)
        runs = sum(g.runs.start.size for g in plan.groups)
        yield (
            f"| {case.name} | {ms:.1f} | {case.target_ms:.0f} | {mib:.0f} | {plan.nbytes / 1024:,.0f} | {runs:,} "
            f"| {counts[0]:,} | {counts[1]:,} |"
        )


_FLEX: dict[str, tuple[str, Any]] = {
    "causal": ("causal", lambda b, h, q, k: q >= k),
    "sliding window, 1,024": ("sliding_window(1024)", lambda b, h, q, k: (q >= k) & (q - k < 1024)),
    "64 sinks or the window": (
        "causal & (sinks(64) | sliding_window(1024))",
        lambda b, h, q, k: (q >= k) & ((q - k < 1024) | (k < 64)),
    ),
    "dilated, rate 64": ("dilated(16, 64)", lambda b, h, q, k: ((q - k).abs() <= 1024) & ((q - k) % 64 == 0)),
}


def compared(length: int, compiled: bool, times: int) -> Iterator[str]:
    """Beside ``create_block_mask`` on the CPU; equal tile kinds are checked."""
    from torch.nn.attention.flex_attention import create_block_mask

    kind = "compiled, warm" if compiled else "eager"
    yield f"| pattern, {length:,} tokens | maskc, ms | create_block_mask ({kind}), ms | ratio | same tiles |"
    yield "|---|--:|--:|--:|---|"
    build = torch.compile(create_block_mask) if compiled else create_block_mask
    for name, (text, mod) in _FLEX.items():
        program = lower_text(text)[0]
        binding = make_binding(program, length, length)
        ours = median_ms(lambda p=program, b=binding: make_plan(p, b), 5 * times)
        theirs = median_ms(lambda m=mod: build(m, 1, 1, length, length, device="cpu"), times)
        same = _same(make_plan(program, binding), build(mod, 1, 1, length, length, device="cpu"))
        yield f"| {name} | {ours:.2f} | {theirs:,.0f} | {theirs / ours:,.0f} | {'yes' if same else 'NO'} |"


def _same(plan: TilePlan, mask: Any) -> bool:
    kinds = np.zeros((plan.rows, plan.cols), np.uint8)
    for count, index, kind in (
        (mask.kv_num_blocks, mask.kv_indices, 1),
        (mask.full_kv_num_blocks, mask.full_kv_indices, 2),
    ):
        for row in range(plan.rows):
            kinds[row, index[0, 0, row, : int(count[0, 0, row])].numpy()] = kind
    return bool((plan.kinds() == kinds).all())


def growth(times: int) -> Iterator[str]:
    lengths = [1 << e for e in range(14, 24)]
    yield "| pattern | " + " | ".join(f"2^{n.bit_length() - 1}" for n in lengths) + " | exponent |"
    yield "|---|" + "--:|" * (len(lengths) + 1)
    for case in CASES[:3]:
        ms = []
        for n in lengths:
            program, binding = case.bound(n)
            ms.append(median_ms(lambda p=program, b=binding: make_plan(p, b), times))
        slope = np.polyfit(np.log(lengths), np.log(ms), 1)[0]
        yield f"| {case.name} | " + " | ".join(f"{x:.2f}" for x in ms) + f" | {slope:.2f} |"


def wasted() -> Iterator[str]:
    """Executed over useful pairs, beside tiles of 128 x 128 in the tokens' own order, which is what Flex does."""
    yield "| pattern | useful pairs | FlexAttention's tiles, waste | layout=auto, waste | layout | times better |"
    yield "|---|--:|--:|--:|---|--:|"
    small = (
        Case("dilated, rate 64", "dilated(64, 64)", 131_072),
        Case("sliding window, 4,096", "sliding_window(4096)", 131_072),
        *(c for c in CASES if c.length == 115_200),
    )
    for case in small:
        program, binding = case.bound()
        own, best = make_plan(program, binding), make_plan(program, binding, layout="auto")
        useful = best.stats.useful_pairs if best.stats.useful_exact else own.stats.useful_pairs
        a, b = executed(own) / useful, executed(best) / useful
        about = "" if best.stats.useful_exact or own.stats.useful_exact else "about "
        yield f"| {case.name} | {about}{useful:,} | {a:.2f} | {b:.2f} | {best.q_order.name} | {a / b:.1f} |"


def further(times: int) -> Iterator[str]:
    yield "| work | ms | target |"
    yield "|---|--:|--:|"
    program = lower_text("causal & (sinks(64) | sliding_window(4096))")[0]
    steps = iter([make_binding(program, 1, MEGA + i) for i in range(64)])
    make_plan(program, next(steps), q_tile=1)
    yield f"| one decode step at 1,048,576 keys, each a new length | {median_ms(lambda: make_plan(program, next(steps), q_tile=1), 50):.2f} | 1 |"  # noqa: E501
    texts = iter([f"causal & (sinks({i}) | sliding_window({4096 + i}))" for i in range(64)])

    def cold() -> None:
        new = lower_text(next(texts))[0]
        make_plan(new, make_binding(new, MEGA, MEGA))

    yield f"| a new pattern, from text to plan at 1,048,576 | {median_ms(cold, times):.1f} | 50 |"


def machine() -> str:
    load = os.getloadavg()[0]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    return (
        f"{platform.machine()}, {os.cpu_count()} cores (load {load:.1f} when started), Python "
        f"{platform.python_version()}, NumPy {np.__version__}, torch {torch.__version__}, commit {commit.strip()}."
    )


def report(quick: bool) -> Iterator[str]:
    times = 3 if quick else 9
    yield "# Planning\n"
    yield "Written by `python benchmarks/plan.py --write docs/benchmarks/plan.md`: tiles of 128 x 128, one thread,"
    yield f"medians of {times} warm runs. {machine()}\n"
    sections: list[tuple[str, Callable[[], Iterator[str]]]] = [
        ("Plans at full length", lambda: planned(times)),
        ("Beside `create_block_mask`, eager", lambda: compared(16_384, False, 1)),
        ("Decoding, and new patterns", lambda: further(times)),
        ("Growth (ms)", lambda: growth(times)),
        ("Waste: executed over useful pairs", wasted),
    ]
    if not quick:
        sections.insert(2, ("Beside `create_block_mask`, compiled", lambda: compared(65_536, True, 3)))
    for title, lines in sections:
        yield f"\n## {title}\n"
        try:
            yield from lines()
        except (RuntimeError, MemoryError) as failed:  # The peer, on a machine that is too small for it.
            yield f"\nNot measured: {type(failed).__name__}: {str(failed).splitlines()[0][:200]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, without the compiled peer")
    parser.add_argument("--write", type=Path, help="write the tables here, too")
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    for line in report(given.quick):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        lines.append(line)
    if given.write:
        given.write.parent.mkdir(parents=True, exist_ok=True)
        given.write.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Every kernel in several tile sizes on this machine's GPU, decoding in several splits, and loads by TMA.

    PYTHONPATH=. python benchmarks/gpu_tiles.py [--only WORD] [--two-loops] [--out FILE]

What the defaults in ``maskc/backends/triton/configs.py`` were taken from. Milliseconds between events around each
kernel, the median of some rounds, each with a cold cache. Tiles of a row take turns, in an order that moves by one in
every round, after a call that does not count: the first one after a pause of the GPU takes longer. Kernels are compiled
by several processes first. ``--two-loops``: full and partial tiles are never one sequence.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from _gpu_rows import PATTERNS, Pattern, named  # noqa: E402

Tile = tuple[int, int, int, int]
KERNELS = {"forward": "attention_forward", "dq": "attention_dq", "dkv": "attention_dkv"}
#: Queries and keys a tile, warps, stages: by head dimension and kernel.
TILES: dict[int, dict[str, list[Tile]]] = {
    128: {
        "forward": [(64, 64, 4, 3), (128, 64, 8, 3), (64, 32, 4, 3)],
        "dq": [(64, 64, 4, 2), (128, 64, 8, 3), (64, 32, 4, 2)],
        "dkv": [(64, 64, 4, 2), (64, 128, 8, 3), (32, 64, 4, 3)],
    },
    64: {
        "forward": [(64, 64, 4, 3), (128, 64, 4, 3), (128, 64, 8, 3)],
        "dq": [(64, 64, 4, 3), (64, 64, 4, 2), (64, 32, 4, 3)],
        "dkv": [(64, 64, 4, 3), (64, 64, 4, 2), (32, 64, 4, 3)],
    },
}
ROUNDS = 9
FLUSHES = 14  # so that the host has submitted all kernels before the device comes to the first


Job = tuple[str, dict[str, Tile], bool]


def jobs(only: str, two_loops: bool) -> Iterator[Job]:
    """Names of rows, a tile size for each kernel, and whether there are two loops in any case."""
    for p in PATTERNS:
        if only in p.name and p.queries is None:
            tiles = TILES[p.dim]
            for i in range(max(map(len, tiles.values()))):
                yield p.name, {stage: sizes[min(i, len(sizes) - 1)] for stage, sizes in tiles.items()}, two_loops


def call_of(name: str, tiles: dict[str, Tile], two_loops: bool) -> Callable[[], Any]:
    """A forward and backward pass of a row in these tiles; it has run once."""
    import torch
    from _gpu_work import prepared

    from maskc.backends.triton import plans
    from maskc.backends.triton.configs import Config
    from maskc.backends.triton.entry import Entry

    p = named(name)
    if two_loops:
        plans.joined = lambda rows: None
    assert isinstance(p, Pattern)
    op, leaves, _, given = prepared(p, "cuda")
    grad = torch.randn_like(leaves[0])

    def call() -> None:
        Entry._config = lambda self, stage, *rest: Config(*tiles[stage])  # type: ignore[method-assign]
        torch.autograd.grad(op(*leaves, **given), leaves, grad)

    call()
    torch.cuda.synchronize()
    return call


def compile_one(job: Job) -> str:
    """Compile, in a process of a pool; what went wrong."""
    try:
        call_of(*job)
    except Exception as error:
        return f"{job}: {type(error).__name__}: {error}".splitlines()[0][:200]
    return ""


def kernel_times(calls: Sequence[Callable[[], Any]]) -> list[dict[str, float]]:
    """The median time of each kernel in each call."""
    import torch

    from maskc.backends.triton.launch import Prepared

    marks: list[tuple[int | None, str, Any, Any]] = []
    now: list[int | None] = [None]
    whole, flush = Prepared.start_at, torch.empty(32 << 20, dtype=torch.int32, device="cuda")

    def start(self: Prepared, *given: Any) -> None:
        new: Any = torch.cuda.Event
        first, last = new(enable_timing=True), new(enable_timing=True)
        first.record()
        whole(self, *given)
        last.record()
        if not self._shared.get("CAREFUL"):
            marks.append((now[0], self._kernel.name, first, last))

    Prepared.start_at = start  # type: ignore[method-assign]
    try:
        for number in range(ROUNDS):
            order = [(number + i) % len(calls) for i in range(len(calls))]
            for now[0] in (None, *order):
                for _ in range(FLUSHES):
                    flush.zero_()
                calls[order[0] if now[0] is None else now[0]]()
            torch.cuda.synchronize()
    finally:
        Prepared.start_at = whole  # type: ignore[method-assign]
    found: list[dict[str, list[float]]] = [{} for _ in calls]
    for which, name, first, last in marks:
        if which is not None:
            found[which].setdefault(name, []).append(first.elapsed_time(last))
    return [{name: sorted(times)[len(times) // 2] for name, times in each.items()} for each in found]


def decoding() -> Iterator[str]:
    """Decoding over 4 caches of 131,072 keys, 32 query heads and 8 key heads, D = 128."""
    import torch
    from _gpu_tma import median

    import maskc
    from maskc.backends.triton.configs import Config
    from maskc.backends.triton.serving import CachedKernels

    q = torch.randn(4, 32, 1, 128, device="cuda", dtype=torch.bfloat16)
    k, v = (torch.randn(4, 8, 131072, 128, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    lengths = torch.full((4,), 131072, dtype=torch.int32, device="cuda")
    for k_tile, warps, stages in ((64, 4, 2), (64, 4, 3), (64, 4, 4), (128, 4, 2), (32, 4, 4), (64, 2, 3)):
        for splits in (9, 17, 33):
            op = maskc.compile("causal", heads=32, backend="triton")
            chosen = Config(16, k_tile, warps, stages)
            made = CachedKernels(op.compiled.program, frozenset(), "ieee", config=chosen, splits=splits)
            op.compiled.remember(("triton decode", frozenset(), "ieee"), None, lambda made=made: made)
            ms = median(lambda op=op: op.decode(q, k, v, lengths))
            yield f"decode | {k_tile} keys, {warps} warps, {stages} stages, {splits} splits | {ms:.3f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--two-loops", action="store_true", help="full and partial tiles are never one sequence")
    parser.add_argument("--out", type=Path, help="a file for the lines, too")
    asked = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print("no GPU that torch can use: nothing to measure")
        return 0
    every = list(jobs(asked.only, asked.two_loops))
    with ProcessPoolExecutor(max(1, (os.cpu_count() or 1) - 1)) as pool:
        for wrong in filter(None, pool.map(compile_one, every)):
            print(wrong, flush=True)
    lines = []
    for name, group in itertools.groupby(every, lambda job: job[0]):
        some = list(group)
        for (_, tiles, _), times in zip(some, kernel_times([call_of(*job) for job in some]), strict=True):
            for stage, kernel in KERNELS.items():
                lines.append(f"{name} | {stage} {' '.join(map(str, tiles[stage]))} | {times[kernel]:.3f}")
                print(lines[-1], flush=True)
        torch.cuda.empty_cache()
    from _gpu_tma import loads

    for line in (*decoding(), *loads()):
        lines.append(line)
        print(line, flush=True)
    if asked.out:
        asked.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    # Processes of the pool must not inherit a CUDA context.
    import multiprocessing

    multiprocessing.set_start_method("spawn")
    sys.exit(main())

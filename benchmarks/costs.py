"""Measure the constants of the cost model on this machine.

    python benchmarks/costs.py [--backend cpu|triton] [--tokens 2048] [--heads 2] [--head-dim 64] [--repeat 5] [--json]

Times the forward pass of masks that are dense, half empty and sparse in blocks of 128, kept whole and in part, in tiles
of five sizes, and fits ``maskc.tiles.cost.CostModel`` to them. Prints every measurement beside what the model makes of
it, so that it can be seen where the model does not hold. With ``--backend triton`` on a GPU; by default there where
there is one. The CPU backend computes masks of few intervals a query without tiles: the ones here have many.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Sequence

import torch

from maskc.lower import lower_text
from maskc.tiles import TilePlan, make_plan
from maskc.tiles.binding import make_binding
from maskc.tiles.cost import ROUGH, CostModel, fit, plan_cost

_BLOCKS = "hash(q // 128, k // 128, {seed}) % {every} == 0"
MASKS = {
    "dense": "hash(q // 128, k // 128) >= 0",
    "half": _BLOCKS.format(seed=1, every=2),
    "an eighth": _BLOCKS.format(seed=2, every=8),
    "dense, partial": "hash(q, k) % 2 == 0",
    "half, partial": _BLOCKS.format(seed=3, every=2) + " & hash(q, k) % 2 == 0",
    "an eighth, partial": _BLOCKS.format(seed=4, every=8) + " & hash(q, k) % 2 == 0",
}
SIZES = ((128, 128), (64, 128), (128, 64), (64, 64), (32, 64))
Run = Callable[[], object]


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--backend", choices=("cpu", "triton"), default="triton" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print the constants only, as JSON")
    given = parser.parse_args(words)
    torch.set_num_threads(1)
    names, plans, seconds = measured(given)
    model = fit(plans, seconds)
    if given.json:
        print(json.dumps(dataclasses.asdict(model)))
    else:
        report(names, plans, seconds, model)


def measured(given: argparse.Namespace) -> tuple[list[str], list[TilePlan], list[float]]:
    """Names, plans and seconds of all masks in tiles of all sizes."""
    names, plans, seconds = [], list[TilePlan](), []
    for name, text in MASKS.items():
        program = lower_text(text)[0]
        binding = make_binding(program, given.tokens, given.tokens, heads=given.heads)
        for q_tile, k_tile in SIZES:
            plan = make_plan(program, binding, q_tile=q_tile, k_tile=k_tile)
            names.append(f"{name}, {q_tile} x {k_tile}")
            plans.append(plan)
            seconds.append(fastest(call(plan, given.backend, given.head_dim), given.backend, given.repeat))
    return names, plans, seconds


def call(plan: TilePlan, backend: str, head_dim: int) -> Run:
    """A forward pass that runs over the plan's tiles."""
    b, scale = plan.binding, head_dim**-0.5
    device, dtype = ("cuda", torch.bfloat16) if backend == "triton" else ("cpu", torch.float32)
    generator = torch.Generator().manual_seed(0)
    shape = (1, b.heads, b.k_len, head_dim)
    q, k, v = (torch.randn(shape, generator=generator).to(device, dtype) for _ in range(3))
    if backend == "cpu":
        from maskc.backends.cpu.entry import Entry

        on_cpu = Entry(plan.program, b, (), made=plan)
        return lambda: on_cpu.forward(q, k, v, (), scale)
    from maskc.backends.triton.configs import Config
    from maskc.backends.triton.entry import Entry as Kernels

    configs = {"forward": Config(plan.q_tile, plan.k_tile, 4, 2)}
    kernels = Kernels(plan.program, b, (), configs=configs)
    return lambda: kernels.forward(q, k, v, (), scale)


def fastest(run: Run, backend: str, repeat: int) -> float:
    """Seconds of the fastest of some runs: whatever else the machine does only adds to them."""
    clock = time.process_time if backend == "cpu" else time.perf_counter
    run()
    found = []
    for _ in range(repeat):
        if backend != "cpu":
            torch.cuda.synchronize()
        began = clock()
        run()
        if backend != "cpu":
            torch.cuda.synchronize()
        found.append(clock() - began)
    return min(found)


def report(names: Sequence[str], plans: Sequence[TilePlan], seconds: Sequence[float], model: CostModel) -> None:
    """The constants beside the defaults, and what every measurement is off by."""
    print(f"\n{'constant':10} {'measured':>12} {'default':>10}")
    for field in dataclasses.fields(model)[:-1]:
        print(f"{field.name:10} {getattr(model, field.name):12.2f} {getattr(ROUGH, field.name):10.2f}")
    assert model.seconds is not None
    print(f"{'unit':10} {model.seconds * 1e12:9.1f} ps\n")
    print(f"{'mask, tiles':32} {'ms':>9} {'model':>9} {'off by':>7}")
    off = []
    for name, plan, taken in zip(names, plans, seconds, strict=True):
        expected = plan_cost(plan, model) * model.seconds
        off.append(abs(expected / taken - 1))
        print(f"{name:32} {1e3 * taken:9.3f} {1e3 * expected:9.3f} {100 * (expected / taken - 1):+6.1f} %")
    print(f"\noff by {100 * sorted(off)[len(off) // 2]:.1f} % in the median, by {100 * max(off):.1f} % at most")


if __name__ == "__main__":
    main()

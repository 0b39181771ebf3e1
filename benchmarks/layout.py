"""Executed and useful pairs in the token orders that plans choose, and what choosing and planning take.

``python benchmarks/layout.py [--markdown]``. FlexAttention's column is that of its default tiles, 128 x 128 in the
tokens' own order: what ``make_plan(layout="none")`` counts, which ``--flex`` compares with ``create_block_mask``.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from maskc.ir.binding import Binding
from maskc.ir.evaluate import dense, evaluate
from maskc.ir.program import Program
from maskc.lower import lower_text
from maskc.tiles import TilePlan, make_plan
from maskc.tiles.binding import make_binding
from maskc.tiles.layouts.separate import separate

TILE = 128


@dataclass(frozen=True)
class Case:
    """A mask: a condition on each axis (one axis: plain tokens), or text with inputs."""

    name: str
    extents: tuple[int, ...]
    conditions: tuple[str, ...]
    inputs: dict[str, Any] = field(default_factory=dict)
    signature: str = ""

    @property
    def axes(self) -> tuple[str, ...]:
        return ("t", "y", "x")[-len(self.extents) :]

    def bound(self) -> tuple[Program, Binding]:
        n = math.prod(self.extents)
        if len(self.extents) == 1:
            program = lower_text(f"pattern p({self.signature}) {{ attend {self.conditions[0]} }}")[0]
            return program, make_binding(program, n, n, **self.inputs)
        over = f"over grid({', '.join(self.axes)})"
        program = lower_text(f"pattern p() {over} {{ attend {' & '.join(self.conditions)} }}")[0]
        return program, make_binding(program, n, n, sizes=dict(zip(self.axes, self.extents, strict=True)))

    def useful(self) -> int:
        """Pairs that the mask keeps, exactly."""
        if self.inputs:
            return int(dense(*self.bound()).sum())
        if len(self.extents) == 1:
            # Only the difference of the positions matters in these.
            program, binding = self.bound()
            d = np.arange(1 - self.extents[0], self.extents[0])
            q, k = np.maximum(d, 0), np.maximum(-d, 0)
            kept = np.broadcast_to(evaluate(program.mask, binding, q=q, k=k, params=program.params), d.shape)
            return int((self.extents[0] - np.abs(d))[kept].sum())
        total = 1
        for axis, extent, condition in zip(self.axes, self.extents, self.conditions, strict=True):
            program = lower_text(f"pattern p() over grid({axis}) {{ attend {condition} }}")[0]
            total *= int(dense(program, make_binding(program, extent, extent, sizes={axis: extent})).sum())
        return total


VIDEO, IMAGE = (30, 48, 80), (1024, 1024)


def _documents(n: int, count: int) -> dict[str, Any]:
    return {"doc": np.random.default_rng(0).integers(0, count, n)}


CASES = (
    Case("neighbourhood 18 x 24 x 24", VIDEO, ("neighborhood(t, 18)", "neighborhood(y, 24)", "neighborhood(x, 24)")),
    Case(
        "the same, stride 2 x 4 x 4",
        VIDEO,
        ("neighborhood(t, 18, stride = 2)", "neighborhood(y, 24, stride = 4)", "neighborhood(x, 24, stride = 4)"),
    ),
    Case(
        "sliding tile: 3 x 3 x 3 tiles of 6 x 8 x 8",
        VIDEO,
        ("neighborhood(t // 6, 3)", "neighborhood(y // 8, 3)", "neighborhood(x // 8, 3)"),
    ),
    Case("windows 33 x 33", IMAGE, ("window(16, 16) on y", "window(16, 16) on x")),
    Case("neighbourhood 13 x 13", IMAGE, ("neighborhood(y, 13)", "neighborhood(x, 13)")),
    Case("halo: blocks 16 x 16, reach 4", IMAGE, ("halo(y, 16, 4)", "halo(x, 16, 4)")),
    Case("Swin: windows 16 x 16", IMAGE, ("shifted_window(y, 16)", "shifted_window(x, 16)")),
    Case("Swin: the same, shifted by 8", IMAGE, ("shifted_window(y, 16, 8)", "shifted_window(x, 16, 8)")),
    Case(
        "dilated neighbourhood 7 x 7, rate 8",
        (256, 256),
        ("neighborhood(y, 7, dilation = 8)", "neighborhood(x, 7, dilation = 8)"),
    ),
    Case("dilated: 64 to either side, rate 64", (1 << 20,), ("dilated(64, 64)",)),
    Case("strided 128 alone", (1 << 17,), ("causal & strided(128)",)),
    Case("window 128 or strided 128", (1 << 17,), ("causal & (sliding_window(128) | strided(128))",)),
    Case("64 documents, unsorted", (1 << 14,), ("same(doc)",), _documents(1 << 14, 64), "doc: int[token]"),
    Case("the same, causal", (1 << 14,), ("causal & same(doc)",), _documents(1 << 14, 64), "doc: int[token]"),
    Case("causal", (1 << 17,), ("causal",)),
    Case("sliding window 4096", (1 << 17,), ("sliding_window(4096)",)),
)


def executed(plan: TilePlan) -> int:
    return sum(int((g.runs.end - g.runs.start).sum()) for g in plan.groups) * TILE * TILE


def timed(work: Callable[[], TilePlan], rounds: int = 7) -> tuple[TilePlan, float]:
    """The result, and the least processor time in milliseconds of a few rounds: others may use the machine, too."""
    least = math.inf
    for _ in range(rounds):
        start = time.process_time()
        plan = work()
        least = min(least, time.process_time() - start)
    return plan, 1e3 * least


def measure(case: Case) -> list[str]:
    program, binding = case.bound()
    own = executed(make_plan(program, binding))
    auto, auto_ms = timed(lambda: make_plan(program, binding, layout="auto"), 3)
    name, useful = auto.q_order.name, case.useful()
    separate.cache_clear()
    _, first_ms = timed(lambda: make_plan(program, binding, layout=name), 1)
    plan, plan_ms = timed(lambda: make_plan(program, binding, layout=name))
    assert executed(plan) == executed(auto)
    extents = " x ".join(map(str, case.extents))
    ratios = [f"{own / useful:.2f}", f"{executed(auto) / useful:.2f}", f"{own / executed(auto):.2f}"]
    times = [f"{plan_ms:.1f}", f"{first_ms:.0f}", f"{auto_ms:.0f}"]
    return [case.name, extents, name, *ratios, *times]


HEADINGS = (
    "mask", "tokens", "order", "executed / useful, FlexAttention", "in this order", "times fewer",
    "planning, ms", "first time, ms", "with the choice, ms",
)  # fmt: skip


def compare_with_flex() -> None:
    """That the tokens' own order counts what FlexAttention's block masks count."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask

    program = lower_text("pattern p() over grid(y, x) { attend window(3, 3) on y & window(3, 3) on x }")[0]
    binding = make_binding(program, 4096, 4096, sizes={"y": 64, "x": 64})

    def near(b: Any, h: Any, q: Any, k: Any) -> Any:
        return ((q // 64 - k // 64).abs() <= 3) & ((q % 64 - k % 64).abs() <= 3)

    block_mask: Any = create_block_mask(near, None, None, 4096, 4096, device="cpu", BLOCK_SIZE=TILE)
    theirs = int(block_mask.kv_num_blocks.sum() + torch.as_tensor(block_mask.full_kv_num_blocks).sum())
    ours = executed(make_plan(program, binding)) // TILE**2
    print(f"tiles of 128 x 128 in a 64 x 64 image with 7 x 7 windows: FlexAttention {theirs}, this plan {ours}")
    assert ours == theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markdown", action="store_true", help="print a table for docs/benchmarks/layout.md")
    parser.add_argument("--flex", action="store_true", help="compare counts with create_block_mask, too")
    chosen = parser.parse_args()
    if chosen.flex:
        compare_with_flex()
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    print("\n".join(lines) if chosen.markdown else " | ".join(HEADINGS), flush=True)
    for case in CASES:
        row = measure(case)
        print("| " + " | ".join(row) + " |" if chosen.markdown else " | ".join(row), flush=True)


if __name__ == "__main__":
    main()

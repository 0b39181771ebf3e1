"""Alternatives to a plan, tried as long as that costs little: other tile sizes, compared by what their plans cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from maskc.arguments import integer, shown
from maskc.diagnostics import MaskcError
from maskc.ir.binding import Binding
from maskc.ir.program import Program
from maskc.tiles.cost import ROUGH, CostModel, plan_cost
from maskc.tiles.planner import make_tiling
from maskc.tiles.tiling import Tiling
from maskc.tiles.values import fail

__all__ = ["TILE_SIZES", "TRIALS", "Allowance", "Choice", "compare_tiles", "pairs"]

#: Tile sizes (queries, keys) that are compared, the largest first.
TILE_SIZES = ((128, 128), (128, 64), (64, 128), (64, 64), (64, 32), (32, 64), (32, 32))
#: What planning all other tile sizes may cost together, in evaluations of the mask: about a second.
TRIALS = 40_000_000


@dataclass(eq=False)
class Allowance:
    """Evaluations of the mask that planning several alternatives may cost together."""

    left: int

    def plan(self, program: Program, binding: Binding, **options: Any) -> Tiling | None:
        """As ``make_plan``; None if that would take more than half of what is left."""
        spent = 0

        def watch(done: int, total: int) -> None:
            nonlocal spent
            spent = done

        try:
            return make_tiling(program, binding, budget=self.left // 2, watch=watch, **options)
        except MaskcError:
            return None
        finally:
            self.left -= spent


@dataclass(frozen=True, eq=False)
class Choice:
    """The cheapest of some plans and what it costs; and the tile sizes that were left out, since planning them costs
    more than was allowed."""

    plan: Tiling
    cost: float
    left_out: tuple[tuple[int, int], ...]


def compare_tiles(
    plan: Tiling,
    sizes: Sequence[tuple[int, int]] = TILE_SIZES,
    model: CostModel = ROUGH,
    layout: str = "none",
    budget: int = TRIALS,
) -> Choice:
    """A plan beside those in tiles of other sizes. What is no larger than a size that costs too much to plan is left
    out, too."""
    allowance, best, cost = Allowance(budget), plan, plan_cost(plan, model)
    left_out: list[tuple[int, int]] = []
    for q_tile, k_tile in pairs(sizes, least=0):
        if (q_tile, k_tile) == (plan.q_tile, plan.k_tile):
            continue
        other = None
        if not any(q_tile <= q and k_tile <= k for q, k in left_out):
            other = allowance.plan(plan.program, plan.binding, q_tile=q_tile, k_tile=k_tile, layout=layout)
        if other is None:
            left_out.append((q_tile, k_tile))
        elif plan_cost(other, model) < cost:
            best, cost = other, plan_cost(other, model)
    return Choice(best, cost, tuple(left_out))


def pairs(sizes: Sequence[tuple[int, int]], least: int = 1) -> list[tuple[int, int]]:
    """The tile sizes, each a pair. Raises E503 to E505."""
    if isinstance(sizes, str) or not isinstance(sizes, Sequence):
        raise fail("E503", "sizes must be a sequence of pairs (queries, keys)")
    if len(sizes) < least:
        raise fail("E505", "sizes: expected at least one pair (queries, keys)")
    found = []
    for pair in sizes:
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise fail("E503", f"sizes: expected pairs (queries, keys), found {shown(pair)}")
        found.append((integer("q_tile", pair[0], 1), integer("k_tile", pair[1], 1)))
    return found

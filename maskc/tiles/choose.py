"""The cheapest of several tile sizes."""

from __future__ import annotations

from collections.abc import Sequence

from maskc.ir.binding import Binding
from maskc.ir.program import Program
from maskc.tiles.compare import TILE_SIZES, TRIALS, compare_tiles, pairs
from maskc.tiles.cost import ROUGH, CostModel
from maskc.tiles.plan import TilePlan, make_plan

__all__ = ["choose_tiles"]


def choose_tiles(
    program: Program,
    binding: Binding,
    sizes: Sequence[tuple[int, int]] = TILE_SIZES,
    model: CostModel = ROUGH,
    layout: str = "none",
    budget: int = TRIALS,
) -> TilePlan:
    """The cheapest plan among tile sizes, by exact executed work under the cost model.

    The first size is planned whatever it takes (raises as ``make_plan``); the others as long as they cost no more than
    ``budget`` evaluations of the mask together, those left out being in the ``Choice`` of ``compare_tiles``.
    """
    first, *rest = pairs(sizes)
    plan = make_plan(program, binding, q_tile=first[0], k_tile=first[1], layout=layout)
    return TilePlan.of(compare_tiles(plan, rest, model, layout, budget).plan)

"""From a program and a binding to a tile plan."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.ir.binding import Binding
from maskc.ir.program import Program
from maskc.tiles.classify import Classifier
from maskc.tiles.groups import members
from maskc.tiles.plan import Group, Runs, TilePlan
from maskc.tiles.runs import assemble
from maskc.tiles.subdivide import BUDGET, Budget, Grid, evaluate_tiles, subdivide

__all__ = ["make_plan", "tile_mask"]

Array = npt.NDArray[Any]


def make_plan(
    program: Program,
    binding: Binding,
    *,
    q_tile: int = 128,
    k_tile: int = 128,
    layout: str = "none",
    budget: int = BUDGET,
) -> TilePlan:
    """The exact tiles of a program's mask.

    Args:
        program: as lowered; its mask is what is planned.
        binding: lengths, arguments, tables and inputs.
        q_tile, k_tile: queries and keys a tile; the last tiles may be ragged.
        layout: the order of the tokens; "none" leaves it.
        budget: what planning may cost, in evaluations of the mask at a point.

    Raises:
        MaskcError: E801 if planning would go beyond the budget.
    """
    grid = Grid(binding.q_len, binding.k_len, q_tile, k_tile, binding.offset)
    purse, fields = Budget(budget), dict[Any, Any]()
    groups: list[Group] = []
    for products in members(program, binding):
        heads, batches = products[0]
        c = Classifier(program.mask, binding, program.params, heads[0], batches[0], fields if not groups else {})
        runs = _runs(c, grid, purse)
        groups += [Group(h, b, runs) for h, b in products]
    return TilePlan(program, binding, q_tile, k_tile, tuple(groups))


def _runs(c: Classifier, grid: Grid, budget: Budget) -> Runs:
    if not grid.rows or not grid.cols:
        empty = np.zeros(0, np.int32)
        return Runs(np.zeros(grid.rows + 1, np.int32), empty, empty, empty.astype(np.uint8))
    found = subdivide(c, grid, None, budget)
    return assemble(grid.rows, grid.cols, found.r0, found.r1, found.c0, found.c1, found.kind)


def tile_mask(
    plan: TilePlan, group: Group, rows: npt.NDArray[np.integer[Any]], cols: npt.NDArray[np.integer[Any]]
) -> npt.NDArray[np.bool_]:
    """See ``TilePlan.tile_mask``."""
    b = plan.binding
    grid = Grid(b.q_len, b.k_len, plan.q_tile, plan.k_tile, b.offset)
    c = Classifier(plan.program.mask, b, plan.program.params, group.heads[0], group.batches[0])
    kept, inside = evaluate_tiles(c, grid, np.asarray(rows, np.int64), np.asarray(cols, np.int64))
    return kept & inside

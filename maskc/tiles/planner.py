"""From a program and a binding to a tile plan."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.diagnostics import MaskcError
from maskc.ir.binding import Binding
from maskc.ir.nodes import Node
from maskc.ir.program import Parameter, Program, Space
from maskc.passes.specialise import bind as specialise
from maskc.tiles.classify import Classifier
from maskc.tiles.groups import members
from maskc.tiles.plan import Group, Runs, TilePlan
from maskc.tiles.rowwise import RowForm, count_pairs, row_form, rowwise
from maskc.tiles.runs import assemble
from maskc.tiles.subdivide import BUDGET, Budget, Grid, Rectangles, evaluate_tiles, subdivide

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
    analysis = analyse(program, binding)
    purse, fields = Budget(budget), dict[Any, Any]()
    groups: list[Group] = []
    for products in members(analysis.program, binding):
        heads, batches = products[0]
        c = Classifier(analysis.program.mask, binding, analysis.program.params, heads[0], batches[0], fields)
        runs = _runs(c, analysis.form, grid, purse)
        groups += [Group(h, b, runs) for h, b in products]
    return TilePlan(program, binding, q_tile, k_tile, tuple(groups))


@dataclass(frozen=True)
class Analysis:
    """What is known of a program before lengths and inputs are: its normal form, and its row form if it has one."""

    program: Program
    form: RowForm | None


def analyse(program: Program, binding: Binding) -> Analysis:
    """The analysis of a program under the scalars, sizes and the layer of a binding; made once and kept."""
    args = tuple(sorted(binding.args.items()))
    sizes = tuple(sorted(binding.sizes.items()))
    return _analyse(program.mask, program.params, args, sizes, binding.layer, binding.heads)


@functools.lru_cache(maxsize=256)
def _analyse(
    mask: Node,
    params: tuple[Parameter, ...],
    args: tuple[tuple[str, bool | int | float], ...],
    sizes: tuple[tuple[str, int], ...],
    layer: int,
    heads: int,
) -> Analysis:
    bare = Program("mask", params, Space(), Space(), False, mask)
    try:
        bound = specialise(bare, args=dict(args), layer=layer, heads=heads, sizes=dict(sizes))
    except MaskcError:  # More alternatives than the normal form unrolls: `any` is analysed as it is.
        return Analysis(bare, None)
    return Analysis(bound, row_form(bound.mask))


def _runs(c: Classifier, form: RowForm | None, grid: Grid, budget: Budget) -> Runs:
    if not grid.rows or not grid.cols:
        empty = np.zeros(0, np.int32)
        return Runs(np.zeros(grid.rows + 1, np.int32), empty, empty, empty.astype(np.uint8))
    found = _tiles(c, form, grid, budget)
    return assemble(grid.rows, grid.cols, found.r0, found.r1, found.c0, found.c1, found.kind)


#: Tiles a row that rows may leave undecided; with more, boxes that span many rows are the better way.
_WIDE = 32


def _tiles(c: Classifier, form: RowForm | None, grid: Grid, budget: Budget) -> Rectangles:
    found = rowwise(c, form, grid) if form is not None else None
    if found is None:
        return subdivide(c, grid, None, budget)
    done, unknown = found
    if not unknown.size:
        return done
    if unknown.area > _WIDE * grid.rows:
        verdict = c.classify(grid.boxes(unknown))
        mixed = unknown.pick(verdict.some & verdict.gap & ~(verdict.hit & verdict.miss))
        if mixed.area > _WIDE * grid.rows:
            return subdivide(c, grid, None, budget)
    return Rectangles.join([done, subdivide(c, grid, unknown, budget)])


def tile_mask(
    plan: TilePlan, group: Group, rows: npt.NDArray[np.integer[Any]], cols: npt.NDArray[np.integer[Any]]
) -> npt.NDArray[np.bool_]:
    """See ``TilePlan.tile_mask``."""
    b = plan.binding
    grid = Grid(b.q_len, b.k_len, plan.q_tile, plan.k_tile, b.offset)
    c = Classifier(plan.program.mask, b, plan.program.params, group.heads[0], group.batches[0])
    kept, inside = evaluate_tiles(c, grid, np.asarray(rows, np.int64), np.asarray(cols, np.int64))
    return kept & inside


def count_by_rows(plan: TilePlan, group: Group) -> int | None:
    """How many pairs the mask keeps, from the key intervals of every query; None if it has no such form."""
    b = plan.binding
    analysis = analyse(plan.program, b)
    if analysis.form is None or not b.q_len:
        return None
    c = Classifier(analysis.program.mask, b, analysis.program.params, group.heads[0], group.batches[0])
    return count_pairs(c, analysis.form, Grid(b.q_len, b.k_len, 1, 1, b.offset))

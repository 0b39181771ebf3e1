"""The plan by key tiles: what the backward pass runs over for the gradients of keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskc.tiles.plan import Group, Runs, TransposedPlan
from maskc.tiles.runs import assemble, rectangles

if TYPE_CHECKING:
    from maskc.tiles.plan import TilePlan

__all__ = ["transpose", "transpose_runs"]


def transpose(plan: TilePlan, q_tile: int | None = None, k_tile: int | None = None) -> TransposedPlan:
    """See ``TilePlan.transposed``."""
    q_tile, k_tile = plan.q_tile if q_tile is None else q_tile, plan.k_tile if k_tile is None else k_tile
    if (q_tile, k_tile) != (plan.q_tile, plan.k_tile):
        from maskc.tiles.planner import make_plan

        plan = make_plan(plan.program, plan.binding, q_tile=q_tile, k_tile=k_tile, layout=plan.q_order.name)
    made: dict[int, Runs] = {}
    groups: list[Group] = []
    for g in plan.groups:
        if id(g.runs) not in made:
            made[id(g.runs)] = transpose_runs(g.runs, plan.rows, plan.cols)
        groups.append(Group(g.heads, g.batches, made[id(g.runs)]))
    return TransposedPlan(plan.program, plan.binding, q_tile, k_tile, tuple(groups), plan.q_order, plan.k_order)


def transpose_runs(runs: Runs, rows: int, cols: int) -> Runs:
    """Runs of query tiles for every key-tile column, from runs of key tiles for every query-tile row."""
    r0, r1, c0, c1, kind = rectangles(runs)
    return assemble(cols, rows, c0, c1, r0, r1, kind)

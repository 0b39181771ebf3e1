"""The plan by key tiles: what the backward pass runs over for the gradients of keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskc.tiles.planner import make_tiling
from maskc.tiles.runs import concatenated_ranges, row_of_runs
from maskc.tiles.tiling import Group, Runs, TransposedPlan
from maskc.tiles.values import fail

if TYPE_CHECKING:
    from maskc.tiles.tiling import Tiling

__all__ = ["MAX_RUNS", "transpose", "transpose_runs"]

Array = npt.NDArray[Any]
#: Most runs of columns, which take a hundred bytes each while they are found.
MAX_RUNS = 1 << 26


def transpose(plan: Tiling, q_tile: int | None = None, k_tile: int | None = None) -> TransposedPlan:
    """See ``TilePlan.transposed``."""
    q_tile, k_tile = plan.q_tile if q_tile is None else q_tile, plan.k_tile if k_tile is None else k_tile
    if (q_tile, k_tile) != (plan.q_tile, plan.k_tile):
        plan = make_tiling(plan.program, plan.binding, q_tile=q_tile, k_tile=k_tile, layout=plan.q_order.name)
    made: dict[int, Runs] = {}
    groups: list[Group] = []
    for g in plan.groups:
        if id(g.runs) not in made:
            made[id(g.runs)] = transpose_runs(g.runs, plan.cols)
        groups.append(Group(g.heads, g.batches, made[id(g.runs)]))
    return TransposedPlan(plan.program, plan.binding, q_tile, k_tile, tuple(groups), plan.q_order, plan.k_order)


def transpose_runs(runs: Runs, cols: int) -> Runs:
    """Runs of query tiles for every key-tile column, from runs of key tiles for every query-tile row.

    Takes what the boundary of the mask does, and not what its area does: a run of a column starts where a row has a
    kind of tile that the row before has not, and ends where it is the other way round. Raises MaskcError E801.
    """
    rows, row = runs.offsets.size - 1, row_of_runs(runs)
    starts, ends = [], []
    for kind in np.unique(runs.kind):
        here = runs.kind == kind
        new, gone = _changes(row[here], runs.start[here].astype(np.int64), runs.end[here].astype(np.int64), cols)
        starts.append((*new, kind))
        ends.append((*gone, kind))
    count = sum(int(length.sum()) for _, _, length, _ in starts)
    if count > MAX_RUNS:
        message = f"by keys the mask has {count:.3g} separate runs of tiles, and at most {MAX_RUNS:.3g} are listed"
        raise fail("E801", message, "use larger tiles")
    (col, first, kinds), (_, last, _) = (_by_column(changes, rows) for changes in (starts, ends))
    offsets = np.zeros(cols + 1, np.int32)
    np.cumsum(np.bincount(col, minlength=cols), out=offsets[1:])
    return Runs(offsets, first.astype(np.int32), last.astype(np.int32), kinds)


#: A row, and columns from a first one on: as many as a length says.
_Change = tuple[Array, Array, Array]


def _changes(row: Array, start: Array, end: Array, cols: int) -> tuple[_Change, _Change]:
    """Where rows have tiles that the row before has not, and where the row before has tiles that they have not, of
    runs of one kind."""
    at = np.concatenate([row, row, row + 1, row + 1])
    place = np.concatenate([start, end, start, end])
    step = np.repeat(np.array([2, -2, 1, -1], np.int8), row.size)  # this row's tiles count 2, those of the one before 1
    order = np.argsort(at * (cols + 1) + place, kind="stable")
    at, place, seen = at[order], place[order], np.cumsum(step[order], dtype=np.int8)
    here, before = (np.flatnonzero((seen[:-1] == count) & (place[1:] > place[:-1])) for count in (2, 1))
    return tuple((at[i], place[i], place[i + 1] - place[i]) for i in (here, before))  # type: ignore[return-value]


def _by_column(changes: list[tuple[Array, Array, Array, Any]], rows: int) -> tuple[Array, Array, Array]:
    """Column, row and kind of all changes, by column and row."""
    col = np.concatenate([np.zeros(0, np.int64), *(concatenated_ranges(first, n) for _, first, n, _ in changes)])
    row = np.concatenate([np.zeros(0, np.int64), *(np.repeat(at, n) for at, _, n, _ in changes)])
    kind = np.concatenate([np.zeros(0, np.uint8), *(np.full(int(n.sum()), k, np.uint8) for _, _, n, k in changes)])
    order = np.argsort(col * (rows + 1) + row, kind="stable")
    return col[order], row[order], kind[order]

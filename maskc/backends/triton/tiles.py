"""The tile plan as a kernel reads it: for every row of tiles its full and its partial tiles.

Where no row has more than one run of a kind, two numbers a row say it all; where none has more than two (partial tiles
at the two edges of a window, full ones on both sides of it), four do; else the tiles are listed.
A ragged tile at the end counts as partial, so that the loop over full tiles needs no bounds.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from maskc.diagnostics import Diagnostic, MaskcError
from maskc.tiles.plan import TilePlan
from maskc.tiles.runs import concatenated_ranges, row_of_runs
from maskc.tiles.tiling import FULL, Group, Runs
from maskc.tiles.transpose import transpose_runs

__all__ = [
    "FULL_ENDS",
    "PARTIAL_WORK",
    "PART_ENDS",
    "PART_SKIP",
    "RECORD",
    "SHARE",
    "KernelPlan",
    "Tiles",
    "distinct_groups",
    "full_skips",
    "joined",
    "kernel_plan",
    "schedule",
    "work_order",
]

Array = npt.NDArray[Any]
#: Times as much as a full tile that a partial one takes, about.
PARTIAL_WORK = 1.5
#: Longest list of tiles: beyond it the list alone would fill a GPU's memory.
MAX_TILES = 1 << 28
#: Tiles that are sorted at most to make one list of two, which takes a tenth of a second.
_MOST_JOINED = 1 << 20
#: Tiles that are listed together, but for the last run of them.
_AT_ONCE = 1 << 18
#: A line of the schedule, in int32: the row of tiles, ends of its runs of full and of partial tiles (excluded), from
#: which number on partial tiles are how much further, the share of the row. As much as one access to memory brings.
RECORD, FULL_ENDS, PART_ENDS, PART_SKIP, SHARE = 8, (1, 2), (3, 4), (5, 6), 7


class Tiles(NamedTuple):
    """The tiles of one kind, row by row.

    Attributes:
        first, last: (masks * rows,), ends excluded: of tiles, or of places in ``tiles``.
        tiles: the list of them; None where rows have two runs at most.
        skips: (masks * rows, 2), where some row has two: from which number on (the last of the first run, excluded)
            tiles are how much further.
    """

    first: Array
    last: Array
    tiles: Array | None = None
    skips: Array | None = None


@dataclass(frozen=True, eq=False)
class KernelPlan:
    """The arrays of all distinct masks one after another, int32.

    Attributes:
        plan_of: (batch * heads,): which mask.
        row_order: (masks * rows,): rows of tiles, those with most work first; by keys in the same order for all
            masks, since an instance does the heads of a group one after another.
        full, part: the tiles of either kind.
        intervals: ``(low, high)``, each (masks * clauses * q_len,), or None.
        rows: rows of tiles.
        clauses: intervals a query; 0 where there are none.
        by_keys: rows are columns of the mask.
        joined: ``part`` has all tiles: see ``joined``, the function.
    """

    plan_of: Array
    row_order: Array
    full: Tiles
    part: Tiles
    intervals: tuple[Array, Array] | None
    rows: int
    clauses: int
    by_keys: bool = False
    joined: bool = False


def schedule(plan: KernelPlan, row_of: Array | None = None, share_of: Array | None = None) -> Array:
    """What a kernel reads of each row of tiles, in the order in which rows start: (masks * rows, 8), int32.

    ``row_of``, ``share_of``: see ``shares.Shares``; None: rows are whole.
    """
    at = _line_order(plan)
    out = np.zeros((at.size, RECORD), np.int32)
    out[:, 0] = plan.row_order if row_of is None else row_of[plan.row_order]
    for places, kind in ((FULL_ENDS, plan.full), (PART_ENDS, plan.part)):
        out[:, places[0]], out[:, places[1]] = kind.first[at], kind.last[at]
    if plan.part.skips is not None:
        out[:, PART_SKIP] = plan.part.skips[at]
    out[:, SHARE] = -1 if share_of is None else share_of[plan.row_order]
    return out


def full_skips(plan: KernelPlan) -> Array | None:
    """The skips of full tiles, in the order of the lines of ``schedule``, which have no place for them."""
    return None if plan.full.skips is None else plan.full.skips[_line_order(plan)]


def _line_order(plan: KernelPlan) -> Array:
    """Which row of which mask each line of the schedule is."""
    masks = plan.row_order.size // plan.rows if plan.rows else 0
    order: Array = np.arange(masks)[:, None] * plan.rows + plan.row_order.reshape(masks, plan.rows)
    return order.ravel()


def work_order(work: Array, by_keys: bool) -> Array:
    """Rows with most ``work``, (masks, rows), first: see ``KernelPlan.row_order``."""
    if by_keys:
        work = np.broadcast_to(work.sum(axis=0), work.shape)
    return np.argsort(-work, axis=1, kind="stable").astype(np.int32).ravel()


def kernel_plan(plan: TilePlan, *, by_keys: bool = False, intervals: bool = False) -> KernelPlan:
    """``plan`` for a kernel that works on rows of tiles, or on columns (``by_keys``). Raises E801."""
    rows, cols = _extent(plan.binding.q_len, plan.q_tile), _extent(plan.binding.k_len, plan.k_tile)
    ragged = plan.binding.k_len % plan.k_tile != 0
    if by_keys:
        ragged, rows, cols = plan.binding.q_len % plan.q_tile != 0, cols, rows
    plan_of = np.zeros((plan.binding.batch, plan.binding.heads), np.int32)
    masks = distinct_groups(plan)
    runs = [transpose_runs(g.runs, rows) if by_keys else g.runs for g in masks]
    index = {id(g.runs): i for i, g in enumerate(masks)}
    for group in plan.groups:
        plan_of[np.ix_(group.batches, group.heads)] = index[id(group.runs)]
    parts = [_split(r, cols, ragged) for r in runs]
    full, part = (_tiles([p[i] for p in parts]) for i in range(2))
    order = work_order(np.array([_work(f, p) for f, p in parts]).reshape(len(parts), rows), by_keys)
    low, high = plan.stacked_intervals(masks) if intervals else (None, None)
    found = None if low is None or high is None else (low.ravel(), high.ravel())
    return KernelPlan(plan_of.ravel(), order, full, part, found, rows, 0 if low is None else low.shape[1], by_keys)


def joined(plan: KernelPlan) -> KernelPlan | None:
    """The plan with the full and the partial tiles of a row as one sequence in order, in the place of the partial ones;
    None where the list would take long to make.

    There is no list where the tiles of every row touch: which of them are full, the run of these tells. Else each is
    listed as twice its number, and one more where it is partial.
    """
    runs = _runs(plan)
    if runs is not None:
        (start, end), some = runs, runs[0] < runs[1]
        count = np.where(some, end - start, 0).sum(axis=0)
        low = np.where(count > 0, np.where(some, start, np.iinfo(np.int32).max).min(axis=0), 0)
        high = np.where(some, end, 0).max(axis=0)
        if bool((high - low == count).all()):
            return replace(plan, part=Tiles(low.astype(np.int32), high.astype(np.int32)), joined=True)
    counts = [kind.last.astype(np.int64) - kind.first for kind in (plan.full, plan.part)]
    if sum(int(c.sum()) for c in counts) > _MOST_JOINED:
        return None
    row = np.concatenate([np.repeat(np.arange(c.size), c) for c in counts])
    found = np.concatenate([2 * _tiles_of(plan.full), 2 * _tiles_of(plan.part) + 1])
    last = np.cumsum(counts[0] + counts[1])
    first = np.concatenate([[0], last[:-1]])[: last.size]
    tiles = found[np.lexsort((found, row))].astype(np.int32)
    return replace(plan, part=Tiles(first.astype(np.int32), last.astype(np.int32), tiles), joined=True)


def _runs(plan: KernelPlan) -> tuple[Array, Array] | None:
    """Starts and ends of the runs of rows, a full one and two partial ones, (3, rows); None where there are more."""
    if plan.full.tiles is not None or plan.full.skips is not None or plan.part.tiles is not None:
        return None
    first, last, _, skips = plan.part
    cut, gap = last, np.zeros_like(last)
    if skips is not None:
        cut, gap = skips.T
    cut = np.where(gap > 0, cut, last)
    start = np.stack([plan.full.first, first, np.maximum(first, cut) + gap])
    end = np.stack([plan.full.last, np.minimum(last, cut), last + gap])
    return start, end


def _tiles_of(kind: Tiles) -> Array:
    """The tiles of a kind, row by row."""
    count = kind.last.astype(np.int64) - kind.first
    places = np.asarray(concatenated_ranges(kind.first.astype(np.int64), count), np.int64)
    if kind.tiles is not None:
        return np.asarray(kind.tiles[places], np.int64)
    if kind.skips is not None:
        cut, gap = (np.repeat(x, count) for x in kind.skips.T)
        places = places + np.where(places >= cut, gap, 0)
    return places


def distinct_groups(plan: TilePlan) -> list[Group]:
    """A group for each distinct mask, in the order of a ``KernelPlan``."""
    return list({id(g.runs): g for g in reversed(plan.groups)}.values())[::-1]


def _extent(length: int, tile: int) -> int:
    return -(-length // tile)


#: Runs of one kind: row, start, end; and the number of rows.
_Kind = tuple[Array, Array, Array, int]


def _split(runs: Runs, cols: int, ragged: bool) -> tuple[_Kind, _Kind]:
    row, rows = row_of_runs(runs), runs.offsets.size - 1
    start, end, full = runs.start.astype(np.int64), runs.end.astype(np.int64), runs.kind == FULL
    last = cols - 1 if ragged else cols
    inside = np.minimum(end, last)
    keep = full & (inside > start)
    cut = full & (end > last)
    part_row = np.concatenate([row[~full], row[cut]])
    part_start = np.concatenate([start[~full], np.full(int(cut.sum()), last)])
    part_end = np.concatenate([end[~full], end[cut]])
    order = np.lexsort((part_start, part_row))
    part_row, part_start, part_end = part_row[order], part_start[order], part_end[order]
    joins = (part_row[1:] == part_row[:-1]) & (part_start[1:] == part_end[:-1])
    first = np.concatenate([[True], ~joins])[: part_row.size]
    at = np.flatnonzero(first)
    ends = part_end[np.append(at[1:], part_row.size) - 1] if at.size else part_end
    return (row[keep], start[keep], inside[keep], rows), (part_row[at], part_start[at], ends, rows)


def _tiles(kinds: list[_Kind]) -> Tiles:
    """The tiles of one kind of all masks. Runs are sorted."""
    most = max((int(np.bincount(row).max(initial=0)) for row, *_ in kinds), default=0)
    if most <= 2:
        return _runs_of_rows(kinds, most == 2)
    counts = [np.bincount(row, weights=end - start, minlength=rows) for row, start, end, rows in kinds]
    last = np.cumsum(np.concatenate(counts)).astype(np.int64)
    if last.size and last[-1] > MAX_TILES:
        raise MaskcError(
            Diagnostic("E801", f"the mask has {int(last[-1]):,} separate tiles to list", hint="use larger tiles")
        )
    first = np.concatenate([[0], last[:-1]])
    return Tiles(first.astype(np.int32), last.astype(np.int32), _listed(kinds, int(last[-1])))


def _runs_of_rows(kinds: list[_Kind], two: bool) -> Tiles:
    """The tiles where rows have one run each at most, or ``two``."""
    found = []
    for row, start, end, rows in kinds:
        first, last, cut, gap = np.zeros((4, rows), np.int32)
        again = np.append(False, row[1:] == row[:-1])[: row.size]
        one, more = row[~again], row[again]
        first[one], last[one], cut[one] = start[~again], end[~again], end[~again]
        gap[more] = start[again] - cut[more]
        last[more] += (end - start)[again].astype(np.int32)
        found.append((first, last, np.stack([cut, gap], axis=1)))
    first, last = (_concatenate([f[i] for f in found]) for i in range(2))
    return Tiles(first, last, skips=np.concatenate([f[2] for f in found]) if two else None)


def _listed(kinds: list[_Kind], total: int) -> Array:
    """The tiles of all runs, one after another: they may be very many, so that only some are 64 bits wide at a time."""
    out, at = np.empty(total, np.int32), 0
    for _, start, end, _ in kinds:
        length = end - start
        last = np.cumsum(length)
        cuts = np.searchsorted(last, np.arange(_AT_ONCE, int(length.sum()), _AT_ONCE))
        for a, b in itertools.pairwise([0, *cuts.tolist(), length.size]):
            some = concatenated_ranges(start[a:b], length[a:b])
            out[at : at + some.size] = some
            at += some.size
    return out


def _work(full: _Kind, part: _Kind) -> Array:
    work = np.zeros(full[3])
    for (row, start, end, _), weight in ((full, 1.0), (part, PARTIAL_WORK)):
        np.add.at(work, row, weight * (end - start))
    return work


def _concatenate(parts: list[Array]) -> Array:
    return np.concatenate([np.zeros(0, np.int32), *parts]).astype(np.int32)

"""The keys of every query as a few intervals of laid-out positions: solved from the mask, or read off the tiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskc.tiles.budget import evaluations_of
from maskc.tiles.rowsets import KeyRanges, row_sets
from maskc.tiles.runs import concatenated_ranges, row_of_runs
from maskc.tiles.subdivide import tile_mask
from maskc.tiles.tiling import FULL, PARTIAL

if TYPE_CHECKING:
    from maskc.tiles.tiling import Group, Order, Runs, Tiling

__all__ = ["key_intervals", "merged"]

Array = npt.NDArray[Any]
Bounds = tuple[Array, Array]
_SOLVED = 8  # rules that are evaluated
_READ = 4  # intervals a query that are read off
_LOOK = 1 << 26  # pairs of partial tiles that are looked at to read them off
_AT_ONCE = 1 << 20  # of them, together
_MOST_SPANS = 1 << 24  # stretches of keys, one for each query and full run


def key_intervals(plan: Tiling, group: Group) -> tuple[Bounds, ...] | None:
    """See ``TilePlan.intervals``."""
    bounds = _solved(plan, group)
    if bounds is None:
        bounds = _read_off(plan, group)
    if bounds is None:
        return None
    lo, hi = merged(bounds, plan.binding.k_len)
    return tuple((a.astype(np.int32), b.astype(np.int32)) for a, b in zip(lo, hi, strict=True))


def merged(bounds: Sequence[tuple[Any, Any]], k_len: int) -> Bounds:
    """The union of intervals ``lo <= k < hi``, each a pair of arrays over the queries, as disjoint intervals that do
    not touch, in ascending order.

    Returns ``lo`` and ``hi`` of shape (intervals, queries), no more than some query has; ``lo == hi == 0`` is empty.
    """
    if not bounds:
        return np.zeros((0, 0), np.int64), np.zeros((0, 0), np.int64)
    if len(bounds) == 1:
        return _single(*(np.asarray(x, dtype=np.int64).clip(0, k_len) for x in bounds[0]))
    lo = np.stack([np.asarray(a, dtype=np.int64) for a, _ in bounds]).clip(0, k_len)
    hi = np.stack([np.asarray(b, dtype=np.int64) for _, b in bounds]).clip(0, k_len)
    lo, hi = np.where(hi > lo, (lo, hi), k_len + 1)  # the empty ones last
    lo, hi = _merged_sorted(lo, hi, k_len + 1)
    empty = lo > k_len
    lo[empty], hi[empty] = 0, 0
    some = ~empty.all(axis=1)
    return lo[some], hi[some]


def _single(lo: Array, hi: Array) -> Bounds:
    """One interval a query, as ``merged`` returns it; in place."""
    empty = hi <= lo
    lo[empty], hi[empty] = 0, 0
    rows = 0 if empty.all() else 1
    return lo[None][:rows], hi[None][:rows]


def _merged_sorted(lo: Array, hi: Array, past: int) -> Bounds:
    order = np.argsort(lo, axis=0, kind="stable")
    lo, hi = np.take_along_axis(lo, order, 0), np.take_along_axis(hi, order, 0)
    reach = np.maximum.accumulate(hi, axis=0)
    new = np.ones(lo.shape, dtype=np.bool_)
    new[1:] = lo[1:] > reach[:-1]
    place = np.cumsum(new, axis=0) - 1
    merged_lo, merged_hi = np.full_like(lo, past), np.full_like(hi, past)
    columns = np.arange(lo.shape[1])
    for i in range(len(lo)):
        starts = columns[new[i]]
        merged_lo[place[i, starts], starts] = lo[i, starts]
        merged_hi[place[i], columns] = reach[i]
    return merged_lo, merged_hi


def _solved(plan: Tiling, group: Group) -> list[Bounds] | None:
    """From the mask itself, one interval for each of its rules."""
    sets = row_sets(plan.program, plan.binding, group.heads[0], group.batches[0])
    if sets is None or len(sets.rules) > _SOLVED or not sets.all_ranges:
        return None
    found: list[Bounds] = []
    for ranges in sets.ranges():
        bounds = _laid_out(plan, ranges)
        if bounds is None:
            return None
        found.append(bounds)
    return found


def _laid_out(plan: Tiling, ranges: KeyRanges) -> Bounds | None:
    """A rule's keys as intervals of laid-out positions; None if those of some query are in several stretches."""
    start, end = ranges.start, ranges.end
    if plan.q_order.index is not None:
        start, end = start[plan.q_order.index], end[plan.q_order.index]
    places = _places(plan.k_order, ranges.order)
    if places is None:
        return start, end
    some = np.flatnonzero(end > start)
    lo, hi = np.zeros((2, start.size), np.int64)
    if some.size:
        first, last = start[some], end[some] - 1
        breaks = np.concatenate([[0], np.cumsum(places[1:] != places[:-1] + 1)])
        if (breaks[first] != breaks[last]).any():
            return None
        lo[some] = places[first]
        hi[some] = places[last] + 1
    return lo, hi


def _places(laid: Order, order: Array | None) -> Array | None:
    """The laid-out position of each key of an order; None if that is the identity."""
    if laid.index is None:
        return order
    places = np.empty(laid.index.size, np.int64)
    places[laid.index] = np.arange(laid.index.size)
    return places if order is None else places[order]


def _read_off(plan: Tiling, group: Group) -> list[Bounds] | None:
    """From the tiles; None where there are many intervals, or many pairs to look at."""
    full, partial = _full_spans(plan, group.runs), _partial_spans(plan, group)
    if full is None or partial is None:
        return None
    row, start, end = (np.concatenate(x) for x in zip(full, *partial, strict=True))
    order = np.lexsort((start, row))
    row, start, end = row[order], start[order], end[order]
    apart = np.ones(row.size, np.bool_)
    apart[1:] = (row[1:] != row[:-1]) | (start[1:] > end[:-1])  # spans that touch are one
    at = np.flatnonzero(apart)
    row, start, end = row[at], start[at], end[np.append(at[1:], row.size)[: at.size] - 1]
    number = np.arange(row.size) - np.searchsorted(row, row)
    most = int(number.max(initial=-1)) + 1
    if most > _READ:
        return None
    lo, hi = np.zeros((2, most, plan.binding.q_len), np.int64)
    lo[number, row], hi[number, row] = start, end
    return list(zip(lo, hi, strict=True))


Spans = tuple[Array, Array, Array]  # query, first key, last key (excluded)


def _full_spans(plan: Tiling, runs: Runs) -> Spans | None:
    """What full runs keep; None if they are too many."""
    full, q_tile = runs.kind == FULL, plan.q_tile
    if int(full.sum()) * q_tile > _MOST_SPANS:
        return None
    query = (row_of_runs(runs)[full][:, None] * q_tile + np.arange(q_tile)).ravel()
    start = np.repeat(runs.start[full].astype(np.int64) * plan.k_tile, q_tile)
    end = np.repeat(runs.end[full].astype(np.int64) * plan.k_tile, q_tile).clip(max=plan.binding.k_len)
    there = query < plan.binding.q_len
    return query[there], start[there], end[there]


def _partial_spans(plan: Tiling, group: Group) -> list[Spans] | None:
    """What partial tiles keep; None where they are too many, or too frayed."""
    some = group.runs.kind == PARTIAL
    length = (group.runs.end - group.runs.start)[some].astype(np.int64)
    size, found = plan.q_tile * plan.k_tile, list[Spans]()
    if int(length.sum()) * size * evaluations_of(plan.program, plan.binding, outright=True) > _LOOK:
        return None
    rows = np.repeat(row_of_runs(group.runs)[some], length)
    cols = concatenated_ranges(group.runs.start[some], length)
    step = max(1, _AT_ONCE // size)
    for a in range(0, rows.size, step):
        r, c = rows[a : a + step], cols[a : a + step]
        kept = np.pad(tile_mask(plan, group, r, c).astype(np.int8), ((0, 0), (0, 0), (1, 1)))
        edges = np.diff(kept, axis=2)
        if int((edges == 1).sum(axis=2).max(initial=0)) > _READ:
            return None
        tile, i, j = np.nonzero(edges == 1)
        ends = np.nonzero(edges == -1)[2]
        found.append((r[tile] * plan.q_tile + i, c[tile] * plan.k_tile + j, c[tile] * plan.k_tile + ends))
    return found

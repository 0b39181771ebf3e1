"""Which keys some later query can still see: the KV cache that a mask needs while decoding.

While query ``t`` is computed, a key is live if it is there already and query ``t`` or a later one sees it. A window
of W keys and S sinks need W + S places, however long the sequence is.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskc.tiles.rowsets import KeyRanges, row_sets
from maskc.tiles.runs import row_of_runs

if TYPE_CHECKING:
    from maskc.tiles.plan import Group, TilePlan

__all__ = ["Liveness", "last_queries", "liveness", "survey"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Liveness:
    """The KV cache of a batch entry whose heads all share one (a bound for those with one each).

    Attributes:
        most: the most keys that are live at once.
        at: the first absolute query position where that is so.
        at_end: keys that are live when the last query is computed.
        never_seen: keys that no query sees.
        exact: whether this was found token by token; else by tiles, and more keys seem live than are.
        causal: whether no query sees a key behind it, as decoding presumes; True for cross-attention, whose keys
            are all there from the start.
    """

    most: int
    at: int
    at_end: int
    never_seen: int
    exact: bool
    causal: bool


def liveness(plan: TilePlan, group: Group | None = None) -> Liveness:
    """Liveness under the mask of one group, or (by default) of all heads together: then of the batch entry that
    needs most. Keys are counted in their own order, whatever the plan's layout."""
    return survey(plan, plan.groups if group is None else (group,))[0]


def survey(plan: TilePlan, groups: Sequence[Group]) -> tuple[Liveness, list[Liveness], Array]:
    """The liveness of groups whose heads share one cache, of the batch entry that needs most, and of each group; and
    the last key that each query sees under any of them (-1: none; as exact as the liveness)."""
    entries = sorted({b for g in groups for b in g.batches}) or [0]
    alike = {tuple(i for i, g in enumerate(groups) if b in g.batches) for b in entries}
    unseen = _Seen(np.full(plan.binding.k_len, -1, np.int64), np.full(plan.binding.q_len, -1, np.int64), True)
    together = dict.fromkeys(alike, unseen)
    each: list[Liveness] = []
    runs, seen = None, None
    for i, g in enumerate(groups):
        if seen is None or g.runs is not runs:  # Groups that hold the same runs have the same mask.
            runs, seen = g.runs, _Seen(*last_queries(plan, g))
        each.append(_counted(plan, seen))
        for which in alike:
            if i in which:
                together[which] = together[which].joined(seen)
    every = functools.reduce(_Seen.joined, together.values(), unseen)
    return max((_counted(plan, x) for x in together.values()), key=lambda x: x.most), each, every.furthest


@dataclass(frozen=True, eq=False)
class _Seen:
    """The last query of each key, the last key of each query, and whether these are exact."""

    last: Array
    furthest: Array
    exact: bool

    def joined(self, other: _Seen) -> _Seen:
        last, furthest = np.maximum(self.last, other.last), np.maximum(self.furthest, other.furthest)
        return _Seen(last, furthest, self.exact and other.exact)


def _counted(plan: TilePlan, seen: _Seen) -> Liveness:
    b = plan.binding
    count = _live(seen.last, b.q_len, b.offset, b.cross)
    at = int(count.argmax()) if count.size else 0
    return Liveness(
        most=int(count[at]) if count.size else 0,
        at=b.offset + at,
        at_end=int(count[-1]) if count.size else 0,
        never_seen=int((seen.last < 0).sum()),
        exact=seen.exact,
        causal=b.cross or bool((seen.furthest <= b.offset + np.arange(b.q_len)).all()),
    )


def _live(last: Array, q_len: int, offset: int, cross: bool) -> Array:
    """How many keys are live at each query, given the last query of each key (absolute; -1: none)."""
    born = np.zeros(last.size, np.int64) if cross else np.maximum(np.arange(last.size) - offset, 0)
    dies = last - offset + 1
    kept = dies > born
    change = np.bincount(born[kept], minlength=q_len + 1) - np.bincount(dies[kept], minlength=q_len + 1)
    return np.cumsum(change)[:q_len]


def last_queries(plan: TilePlan, group: Group) -> tuple[Array, Array, bool]:
    """For every key the last query that sees it, and for every query the last key that it sees (absolute positions,
    -1 where there is none, int64), and whether that is exact: by tiles either may come out too large."""
    b = plan.binding
    sets = row_sets(plan.program, b, group.heads[0], group.batches[0])
    if sets is None or not sets.all_ranges:
        return _by_tiles(plan, group)
    last, furthest = np.full(b.k_len, -1, np.int64), np.full(b.q_len, -1, np.int64)
    for ranges in sets.ranges():
        np.maximum(furthest, ranges.last_key(), out=furthest)
        _raise(last, ranges, b.offset)
    return last, furthest, True


def _raise(last: Array, ranges: KeyRanges, offset: int) -> None:
    some = np.flatnonzero(ranges.end > ranges.start)
    if not some.size:
        return
    size = last.size if ranges.order is None else ranges.order.size
    found = _latest(ranges.start[some], ranges.end[some], some + offset, size)
    if ranges.order is None:
        np.maximum(last, found, out=last)
    else:
        last[ranges.order] = np.maximum(last[ranges.order], found)


def _latest(start: Array, end: Array, value: Array, size: int) -> Array:
    """For every position the last of the rising ``value`` whose range ``start`` to ``end`` holds it; else -1."""
    if (start[1:] >= start[:-1]).all() and (end[1:] >= end[:-1]).all():
        # Ranges move on: the last one that has started is the only one that may hold a position still.
        at = np.searchsorted(start, np.arange(size), side="right") - 1
        return np.where((at >= 0) & (end[at] > np.arange(size)), value[at], -1)
    # Each range is two overlapping ones of a power of two; wide ones hand down to those half as wide.
    level = np.frexp((end - start).astype(np.float64))[1] - 1
    above: Array | None = None
    for each in range(int(level.max()), -1, -1):
        layer = np.full(size, -1, np.int64)
        if above is not None:
            half = 1 << each
            layer = above.copy()
            np.maximum(layer[half:], above[: size - half], out=layer[half:])
        here = np.flatnonzero(level == each)
        for first in (start[here], end[here] - (1 << each)):
            fresh = np.full(size, -1, np.int64)
            fresh[first] = value[here]  # values rise, and of equal places the last one stays
            np.maximum(layer, fresh, out=layer)
        above = layer
    assert above is not None
    return above


def _by_tiles(plan: TilePlan, group: Group) -> tuple[Array, Array, bool]:
    b, runs = plan.binding, group.runs
    row = row_of_runs(runs)
    if plan.q_order.index is not None or plan.k_order.index is not None:
        seen = b.offset + b.q_len - 1 if row.size else -1
        return np.full(b.k_len, seen), np.full(b.q_len, b.k_len - 1 if row.size else -1), False
    ends = b.offset + np.minimum((row + 1) * plan.q_tile, b.q_len) - 1
    tiles = np.full(plan.cols, -1, np.int64)
    if row.size:
        tiles = _latest(runs.start.astype(np.int64), runs.end.astype(np.int64), ends, plan.cols)
    last = np.repeat(tiles, plan.k_tile)[: b.k_len]
    furthest = np.full(plan.rows, -1, np.int64)
    np.maximum.at(furthest, row, np.minimum(runs.end.astype(np.int64) * plan.k_tile, b.k_len) - 1)
    return last, np.repeat(furthest, plan.q_tile)[: b.q_len], False

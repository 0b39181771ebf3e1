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
    from maskc.tiles.tiling import Group, Tiling

__all__ = ["Liveness", "Seen", "Survey", "last_of", "last_queries", "liveness"]

Array = npt.NDArray[Any]
_AT_ONCE = 1 << 16  # positions that are looked at together: few enough to stay within the cache


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


def liveness(plan: Tiling, group: Group | None = None) -> Liveness:
    """Liveness under the mask of one group, or (by default) of all heads together: then of the batch entry that
    needs most. Keys are counted in their own order, whatever the plan's layout."""
    groups = plan.groups if group is None else (group,)
    found = Survey(plan, groups)
    runs, seen = None, None
    for g in groups:
        if seen is None or g.runs is not runs:  # Groups that hold the same runs have the same mask.
            runs, seen = g.runs, Seen(*last_queries(plan, g))
        found.add(seen)
    return found.together()


@dataclass(frozen=True, eq=False)
class Seen:
    """The last query of each key, the last key of each query, and whether these are exact."""

    last: Array
    furthest: Array
    exact: bool


class Survey:
    """The liveness of groups, one after another, and of all of them together."""

    def __init__(self, plan: Tiling, groups: Sequence[Group]) -> None:
        self._plan, self._births = plan, _Births.of(plan)
        entries = sorted({b for g in groups for b in g.batches}) or [0]
        # Batch entries whose heads are in the same groups need the same.
        alike = {tuple(i for i, g in enumerate(groups) if b in g.batches) for b in entries}
        self._together = {which: self._unseen() for which in alike}
        self._added = 0
        self._last: tuple[Seen, Liveness] | None = None

    def _unseen(self) -> Seen:
        b = self._plan.binding
        return Seen(np.full(b.k_len, -1, np.int64), np.full(b.q_len, -1, np.int64), True)

    def add(self, seen: Seen) -> Liveness:
        """That of the next group by itself."""
        if self._last is None or self._last[0] is not seen:
            self._last = seen, _counted(self._births, seen)
        for which, found in self._together.items():
            if self._added in which:
                self._together[which] = _joined(found, seen)
        self._added += 1
        return self._last[1]

    def together(self) -> Liveness:
        """That of the batch entry that needs most."""
        return max((_counted(self._births, x) for x in self._together.values()), key=lambda x: x.most)

    def furthest(self) -> Array:
        """The last key that each query sees under any of the groups."""
        return functools.reduce(_joined, self._together.values(), self._unseen()).furthest


def _joined(into: Seen, other: Seen) -> Seen:
    """Both, in the arrays of the first."""
    np.maximum(into.last, other.last, out=into.last)
    np.maximum(into.furthest, other.furthest, out=into.furthest)
    return Seen(into.last, into.furthest, into.exact and other.exact)


@dataclass(frozen=True, eq=False)
class _Births:
    """What is the same for all groups of a plan: the absolute position of each query, at which query from the first on
    each key is there, and how many keys are there at each query."""

    offset: int
    cross: bool
    query: Array
    born: Array
    there: Array

    @staticmethod
    def of(plan: Tiling) -> _Births:
        b = plan.binding
        query = np.arange(b.offset, b.offset + b.q_len)
        if b.cross:
            return _Births(b.offset, True, query, np.zeros(b.k_len, np.int64), np.full(b.q_len, b.k_len))
        born = np.maximum(np.arange(b.k_len) - b.offset, 0)
        return _Births(b.offset, False, query, born, np.minimum(query + 1, b.k_len))

    def live(self, last: Array) -> Array:
        """How many keys are live at each query, given the last query of each key (absolute; -1: none)."""
        # A key that no query sees once it is there is taken to die when it is born.
        dies = last - (self.offset - 1)
        np.maximum(dies, self.born, out=dies)
        count = np.bincount(dies, minlength=self.query.size)[: self.query.size]
        np.cumsum(count, out=count)
        return np.asarray(np.subtract(self.there, count, out=count))


def _counted(births: _Births, seen: Seen) -> Liveness:
    count = births.live(seen.last)
    at = int(count.argmax()) if count.size else 0
    return Liveness(
        most=int(count[at]) if count.size else 0,
        at=births.offset + at,
        at_end=int(count[-1]) if count.size else 0,
        never_seen=int(np.count_nonzero(seen.last < 0)),
        exact=seen.exact,
        causal=births.cross or bool((seen.furthest <= births.query).all()),
    )


def last_queries(plan: Tiling, group: Group) -> tuple[Array, Array, bool]:
    """For every key the last query that sees it, and for every query the last key that it sees (absolute positions,
    -1 where there is none, int64), and whether that is exact: by tiles either may come out too large."""
    sets = row_sets(plan.program, plan.binding, group.heads[0], group.batches[0])
    return last_of(plan, group, sets.ranges() if sets is not None and sets.all_ranges else None)


def last_of(plan: Tiling, group: Group, every: list[KeyRanges] | None) -> tuple[Array, Array, bool]:
    """``last_queries`` of a mask that keeps some ranges; None: it cannot be written as such."""
    b = plan.binding
    if every is None:
        return _by_tiles(plan, group)
    last, furthest = np.full(b.k_len, -1, np.int64), np.full(b.q_len, -1, np.int64)
    for i, ranges in enumerate(every):
        furthest = np.maximum(furthest, ranges.last_key(), out=furthest) if i else ranges.last_key()
        _raise(last, ranges, b.offset)
    return last, furthest, True


def _raise(last: Array, ranges: KeyRanges, offset: int) -> None:
    start, end, query = ranges.start, ranges.end, np.arange(offset, offset + ranges.start.size)
    some = end > start
    if not some.all():
        start, end, query = start[some], end[some], query[some]
    if not query.size:
        return
    size = last.size if ranges.order is None else ranges.order.size
    found = _latest(start, end, query, size)
    if ranges.order is None:
        np.maximum(last, found, out=last)
    else:
        last[ranges.order] = np.maximum(last[ranges.order], found)


def _latest(start: Array, end: Array, value: Array, size: int) -> Array:
    """For every position the last of the rising ``value`` whose range ``start`` to ``end`` holds it; else -1."""
    if (start[1:] >= start[:-1]).all() and (end[1:] >= end[:-1]).all():
        return _latest_moving(start, end, value, size)
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


def _latest_moving(start: Array, end: Array, value: Array, size: int) -> Array:
    """``_latest`` of ranges that move on: the last one that has started alone may hold a position still."""
    found = np.empty(size, np.int64)
    edges = np.arange(0, size + _AT_ONCE, _AT_ONCE)
    began = np.searchsorted(start, edges)
    for first, a, b in zip(edges[:-1].tolist(), began[:-1].tolist(), began[1:].tolist(), strict=True):
        position = np.arange(first, min(first + _AT_ONCE, size))
        at = np.full(position.size, a - 1)
        at[start[a:b] - first] = np.arange(a, b)  # of equal places the last one stays
        np.maximum.accumulate(at, out=at)
        found[first : first + position.size] = np.where((at >= 0) & (end[at] > position), value[at], -1)
    return found


def _by_tiles(plan: Tiling, group: Group) -> tuple[Array, Array, bool]:
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

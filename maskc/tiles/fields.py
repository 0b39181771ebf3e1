"""The least and the greatest value of a table over ranges of its positions, in constant time a range."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.forks import new_lock
from maskc.tiles.inputs import structure

__all__ = ["Field", "Field2", "LabelRuns", "Tower", "field_of", "label_runs"]

Array = npt.NDArray[Any]
_BLOCK = 64
_NARROW = 16  # positions of which each is looked at: parts of tiles are that narrow
_growing = new_lock()  # held while a tower grows


class Tower:
    """Least and greatest values of blocks of 64 positions, and of runs of 2, 4, 8, ... blocks from each block on.

    Whole blocks only, and none ever changes: tables that begin with the same values share a tower, which grows with
    the longest of them. ``promised``: the size of that one; ``read``: how many values were read to build it.
    """

    def __init__(self, promised: int) -> None:
        self.promised, self.read, self.blocks = promised, 0, 0
        self.low: list[Array] = []  # with room at the end
        self.high: list[Array] = []

    def fork(self, size: int, promised: int) -> Tower:
        """A tower of its own for other values after the first ``size``."""
        other = Tower(promised)
        other.blocks = min(self.blocks, size // _BLOCK)
        levels = other.blocks.bit_length()
        other.low = [x[: other.blocks].copy() for x in self.low[:levels]]
        other.high = [x[: other.blocks].copy() for x in self.high[:levels]]
        return other

    def cover(self, values: Array) -> None:
        """Grow over the whole blocks of ``values``."""
        with _growing:
            before, after = self.blocks, values.size // _BLOCK
            if after <= before:
                return
            body = values[before * _BLOCK : after * _BLOCK].reshape(-1, _BLOCK)
            self.read += body.size
            for levels, reduce in ((self.low, np.minimum), (self.high, np.maximum)):
                _put(levels, 0, before, reduce.reduce(body, axis=1))
                for j in range(1, after.bit_length()):
                    half = 1 << (j - 1)
                    first, last = max(0, before - 2 * half + 1), after - 2 * half + 1
                    below = levels[j - 1]
                    _put(levels, j, first, reduce(below[first:last], below[first + half : last + half]))
            self.blocks = after

    def range(self, a: Array, b: Array) -> tuple[Array, Array]:
        """Over blocks ``a`` to ``b`` (included)."""
        level = np.frexp((b - a + 1).astype(np.float64))[1] - 1
        right = b - (np.int64(1) << level.astype(np.int64)) + 1
        low, high = (np.empty(a.shape, x[0].dtype) for x in (self.low, self.high))
        for each in np.unique(level):
            here = level == each
            low_of, high_of = self.low[each], self.high[each]
            low[here] = np.minimum(low_of[a[here]], low_of[right[here]])
            high[here] = np.maximum(high_of[a[here]], high_of[right[here]])
        return low, high


def _put(levels: list[Array], j: int, at: int, values: Array) -> None:
    """Write ``values`` from place ``at`` of a level on; room doubles where it runs out, so that growing is cheap."""
    if j == len(levels):
        levels.append(np.empty(0, values.dtype))
    end = at + values.size
    if end > levels[j].size:
        grown = np.empty(max(end, 2 * levels[j].size if at else end), values.dtype)
        grown[:at] = levels[j][:at]
        levels[j] = grown
    levels[j][at:end] = values


@dataclass(frozen=True, eq=False)
class _Facts:
    """What is known of a table of ``size`` values."""

    size: int
    ascending: bool
    tower: Tower

    @staticmethod
    def of(values: Array) -> _Facts:
        return _Facts(values.size, _ascends(values), Tower(values.size))

    def extended(self, values: Array) -> _Facts:
        """The same of a table that begins with those values."""
        size, tower = self.size, self.tower
        if tower.promised == size:
            tower.promised = values.size
        else:  # Other values follow somewhere else.
            tower = tower.fork(size, values.size)
        return _Facts(values.size, self.ascending and _ascends(values[max(0, size - 1) :]), tower)


def _ascends(values: Array) -> bool:
    return bool((values[1:] >= values[:-1]).all())


def field_of(whole: Array, path: tuple[int, ...], values: Array) -> Field:
    """``values``, which are ``whole[path]``, ready for range queries; from what is known of ``whole``."""
    plain = _numbers(values)
    facts = structure(whole, ("range", path), lambda: _Facts.of(plain), lambda f: f.extended(plain))
    return Field(values, facts)


def _numbers(values: Array) -> Array:
    return values.view(np.uint8) if values.dtype == np.bool_ else values


class Field:
    """A table over positions 0 to n - 1, ready for range queries.

    Built in O(n). A sorted table answers from the ends of the range; any other from blocks of 64 positions (ranges
    are rounded outward to blocks, but for those of a few positions).
    """

    def __init__(self, values: Array, facts: _Facts | None = None) -> None:
        self.values = _numbers(values)
        self.size = values.shape[0]
        self.facts = _Facts.of(self.values) if facts is None else facts

    @property
    def ascending(self) -> bool:
        return self.facts.ascending

    @functools.cached_property
    def _tower(self) -> Tower:
        self.facts.tower.cover(self.values)
        return self.facts.tower

    @functools.cached_property
    def _tail(self) -> tuple[Any, Any] | None:
        """Of what is left after the whole blocks."""
        rest = self.values[self.size // _BLOCK * _BLOCK :]
        return (rest.min(), rest.max()) if rest.size else None

    def range(self, first: Array, last: Array) -> tuple[Array, Array, Any]:
        """Over positions ``first`` to ``last`` (included): least, greatest, and whether both are attained."""
        if self.ascending:
            return self.values[first], self.values[last], True
        low, high = self._blocks(np.asarray(first // _BLOCK), np.asarray(last // _BLOCK))
        point = first == last
        low, high = np.where(point, self.values[first], low), np.where(point, self.values[first], high)
        aligned = (first % _BLOCK == 0) & ((last % _BLOCK == _BLOCK - 1) | (last == self.size - 1))
        exact = np.asarray(point | aligned | (low == high))
        narrow = (last - first < _NARROW) & ~exact & (self.values.dtype.kind != "f")  # whose ends may be no numbers
        if narrow.any():
            each = np.minimum(first[narrow][:, None] + np.arange(_NARROW), last[narrow][:, None])
            low[narrow], high[narrow] = self.values[each].min(axis=1), self.values[each].max(axis=1)
        return low, high, exact | narrow

    def _blocks(self, a: Array, b: Array) -> tuple[Array, Array]:
        whole = self.size // _BLOCK
        if not whole:
            assert self._tail is not None
            return tuple(np.full(a.shape, x, self.values.dtype) for x in self._tail)  # type: ignore[return-value]
        low, high = self._tower.range(np.minimum(a, whole - 1), np.minimum(b, whole - 1))
        if self._tail is not None and (b == whole).any():
            low = np.where(a == whole, self._tail[0], np.where(b == whole, np.minimum(low, self._tail[0]), low))
            high = np.where(a == whole, self._tail[1], np.where(b == whole, np.maximum(high, self._tail[1]), high))
        return low, high


@dataclass(frozen=True, eq=False)
class LabelRuns:
    """Runs of equal labels among ``size`` ones. ``starts``: where each begins; ``labels``: its label;
    ``scattered``: whether a label comes back later."""

    size: int
    starts: Array
    labels: Array
    scattered: bool

    @staticmethod
    def of(values: Array) -> LabelRuns:
        return LabelRuns(0, np.zeros(0, np.int64), values[:0].copy(), False).extended(values)

    def extended(self, values: Array) -> LabelRuns:
        """The runs of labels that begin with those; reads the rest only."""
        size = self.size
        rest = values[max(0, size - 1) :]
        starts = np.flatnonzero(rest[1:] != rest[:-1]) + max(1, size)
        if not size and values.size:
            starts = np.concatenate([[0], starts])
        if not starts.size:
            return LabelRuns(values.size, self.starts, self.labels, self.scattered)
        labels = np.concatenate([self.labels, values[starts]])
        scattered = self.scattered or np.unique(labels).size < labels.size
        return LabelRuns(values.size, np.concatenate([self.starts, starts]), labels, scattered)


def label_runs(whole: Array, path: tuple[int, ...], values: Array) -> LabelRuns:
    """The runs of ``values``, which are ``whole[path]``; from what is known of ``whole``."""
    found = structure(whole, ("runs", path), lambda: LabelRuns.of(values), lambda r: r.extended(values))
    return LabelRuns.of(values) if found is None else found


class Field2:
    """A Boolean table over two indices: whether it holds somewhere, and everywhere, in a rectangle.

    Kept as counts over blocks of 64 x 64; rectangles are rounded outward.
    """

    def __init__(self, values: Array) -> None:
        self.shape = values.shape
        self.values = values
        self.some = self._prefix(np.logical_or)
        self.lacks = self._prefix(np.logical_and)

    def _prefix(self, reduce: Any) -> Array:
        rows = reduce.reduceat(self.values, np.arange(0, self.shape[0], _BLOCK), axis=0)
        both = reduce.reduceat(rows, np.arange(0, self.shape[1], _BLOCK), axis=1)
        marks = both if reduce is np.logical_or else ~both
        out = np.zeros((marks.shape[0] + 1, marks.shape[1] + 1), np.int64)
        out[1:, 1:] = marks.cumsum(axis=0).cumsum(axis=1)
        return out

    def range(self, i0: Array, i1: Array, j0: Array, j1: Array) -> tuple[Array, Array, Any]:
        """Least and greatest value over the rectangle (ends included), and whether both are attained."""
        a, b, c, d = i0 // _BLOCK, i1 // _BLOCK + 1, j0 // _BLOCK, j1 // _BLOCK + 1
        high = _count(self.some, a, b, c, d) > 0
        low = _count(self.lacks, a, b, c, d) == 0
        point = (i0 == i1) & (j0 == j1)
        value = self.values[i0, j0]
        low, high = np.where(point, value, low), np.where(point, value, high)
        return low.astype(np.uint8), high.astype(np.uint8), point | self._aligned(i0, i1, j0, j1) | (low == high)

    def _aligned(self, i0: Array, i1: Array, j0: Array, j1: Array) -> Any:
        rows = (i0 % _BLOCK == 0) & ((i1 % _BLOCK == _BLOCK - 1) | (i1 == self.shape[0] - 1))
        return rows & (j0 % _BLOCK == 0) & ((j1 % _BLOCK == _BLOCK - 1) | (j1 == self.shape[1] - 1))


def _count(prefix: Array, a: Array, b: Array, c: Array, d: Array) -> Array:
    out: Array = prefix[b, d] - prefix[a, d] - prefix[b, c] + prefix[a, c]
    return out

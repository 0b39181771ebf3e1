"""The least and the greatest value of a table over ranges of its positions, in constant time a range."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Field", "Field2"]

Array = npt.NDArray[Any]
_BLOCK = 64


class Field:
    """A table over positions 0 to n - 1, ready for range queries.

    Built in O(n). A sorted table answers from the ends of the range; any other from a sparse table over
    blocks of 64 positions (ranges are rounded outward to blocks, but for single positions).
    """

    def __init__(self, values: Array) -> None:
        self.values = values.view(np.uint8) if values.dtype == np.bool_ else values
        self.size = values.shape[0]

    @functools.cached_property
    def ascending(self) -> bool:
        return bool((self.values[1:] >= self.values[:-1]).all())

    @functools.cached_property
    def _levels(self) -> tuple[list[Array], list[Array]]:
        whole = self.size // _BLOCK * _BLOCK
        body = self.values[:whole].reshape(-1, _BLOCK)
        low, high = [body.min(axis=1)], [body.max(axis=1)]
        if whole < self.size:
            low[0] = np.append(low[0], self.values[whole:].min())
            high[0] = np.append(high[0], self.values[whole:].max())
        width = 1
        while 2 * width <= low[0].size:
            low.append(np.minimum(low[-1][:-width], low[-1][width:]))
            high.append(np.maximum(high[-1][:-width], high[-1][width:]))
            width *= 2
        return low, high

    def range(self, first: Array, last: Array) -> tuple[Array, Array, Any]:
        """Over positions ``first`` to ``last`` (included): least, greatest, and whether both are attained."""
        if self.ascending:
            return self.values[first], self.values[last], True
        a, b = np.asarray(first // _BLOCK), np.asarray(last // _BLOCK)
        level = np.frexp((b - a + 1).astype(np.float64))[1] - 1
        right = b - (np.int64(1) << level.astype(np.int64)) + 1
        low, high = np.empty(a.shape, self.values.dtype), np.empty(a.shape, self.values.dtype)
        for each in np.unique(level):
            here = level == each
            left, low_of, high_of = a[here], self._levels[0][each], self._levels[1][each]
            low[here] = np.minimum(low_of[left], low_of[right[here]])
            high[here] = np.maximum(high_of[left], high_of[right[here]])
        point = first == last
        low, high = np.where(point, self.values[first], low), np.where(point, self.values[first], high)
        aligned = (first % _BLOCK == 0) & ((last % _BLOCK == _BLOCK - 1) | (last == self.size - 1))
        return low, high, point | aligned | (low == high)


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

"""Intervals of keys, cut to the parts where a digit of the key is within bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.tiles.rowform import Digit
from maskc.tiles.runs import concatenated_ranges

__all__ = ["Pieces"]

Array = npt.NDArray[Any]
_AT_ONCE = 1 << 16  # parts that are listed together to count those within them


@dataclass(frozen=True, eq=False)
class Pieces:
    """Intervals of keys, by fragment."""

    owner: Array
    lo: Array
    hi: Array

    def pick(self, keep: Array) -> Pieces:
        return Pieces(self.owner[keep[self.owner]], self.lo[keep[self.owner]], self.hi[keep[self.owner]])

    def within(self, d: Digit, low: Array, high: Array, hull: bool) -> Pieces:
        """The parts where the digit is between the fragment's bounds; or their hull."""
        lo, hi, owner = self.lo, self.hi, self.owner
        keep = (hi > lo) & (high > low)[owner]
        if not keep.all():
            lo, hi, owner = lo[keep], hi[keep], owner[keep]
        cycle = d.stride * d.modulus
        free = d.free(low, high)[owner]
        if free.any():
            rest = Pieces(owner[~free], lo[~free], hi[~free]).within(d, low, high, hull)
            return Pieces(
                *(np.concatenate(x) for x in ((owner[free], rest.owner), (lo[free], rest.lo), (hi[free], rest.hi)))
            )
        first, last = d.stride * low[owner] - d.shift, d.stride * high[owner] - d.shift
        start, end = Pieces(owner, lo, hi).cycles(d, low, high)
        if hull:
            return Pieces(owner, np.maximum(lo, start * cycle + first), np.minimum(hi, end * cycle + last))
        count = np.maximum(end - start + 1, 0)
        turn = concatenated_ranges(start, count) * cycle
        owner, lo, hi, first, last = (np.repeat(x, count) for x in (owner, lo, hi, first, last))
        return Pieces(owner, np.maximum(lo, turn + first), np.minimum(hi, turn + last))

    def count_within(self, d: Digit, low: Array, high: Array, hull: Array) -> int:
        """How many parts ``within`` finds, with the hull of all where it is to."""
        start, end = self.cycles(d, low, high)
        one = (d.free(low, high) | hull)[self.owner]
        count = np.where(one, np.minimum(end - start + 1, 1), end - start + 1)
        return int(np.maximum(count, 0)[(self.hi > self.lo) & (high > low)[self.owner]].sum())

    def least(self, digits: Sequence[tuple[Digit, Array, Array]], hull: Array, most: int) -> int:
        """How many parts there are within all digits, or within some of the first ones, with the hull of those of the
        last one where it is to. Beyond ``most`` it is about how many."""
        *others, last = digits
        if not others:
            return self.count_within(*last, hull)
        # Some at a time, by how often the digits come round there: what is listed stays small.
        width, none = np.maximum(self.hi - self.lo, 0), np.zeros_like(hull)
        step = np.cumsum(1 + sum(width // (d.stride * d.modulus) for d, *_ in others)) // _AT_ONCE
        found, listed = 0, self.count_within(*others[0], none)
        if listed > most:
            return listed
        listed = 0
        for part in np.split(np.arange(self.owner.size), np.flatnonzero(np.diff(step)) + 1):
            pieces = Pieces(self.owner[part], self.lo[part], self.hi[part])
            for d, low, high in others:
                pieces = pieces.within(d, low, high, hull=False)
            listed += pieces.owner.size
            found += pieces.count_within(*last, hull)
            if max(listed, found) > most:
                return max(listed, found) * self.owner.size // (int(part[-1]) + 1)
        return max(listed, found)

    def cut(self, low: Array, high: Array) -> Pieces:
        """The parts before, between and after two places in each fragment."""
        first = np.clip(low[self.owner], self.lo, self.hi)
        last = np.clip(high[self.owner], first, self.hi)
        lo, hi = (np.stack(x, axis=1).ravel() for x in ((self.lo, first, last), (first, last, self.hi)))
        return Pieces(np.repeat(self.owner, 3)[hi > lo], lo[hi > lo], hi[hi > lo])

    def cycles(self, d: Digit, low: Array, high: Array) -> tuple[Array, Array]:
        """The first cycle of the digit whose part between the bounds ends after ``lo``, and the last whose part starts
        before ``hi``."""
        cycle = d.stride * d.modulus
        start = (self.lo + d.shift - d.stride * high[self.owner]) // cycle + 1
        end = -((d.stride * low[self.owner] - self.hi - d.shift) // cycle) - 1
        return start, end

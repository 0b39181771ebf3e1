"""Which keys the queries of each rank see under a mask."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskc.parallel.partitions import Partition
from maskc.parallel.seen import Seen, costs_of

if TYPE_CHECKING:
    from maskc.tiles.plan import TilePlan

__all__ = ["Needs", "needs_of"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Needs:
    """Which keys are needed, where a sequence is divided as ``division`` says.

    Attributes:
        division: the partition.
        keys: of each rank, ranges (start, end) of the keys that its queries see, its own ones too, rounded to blocks.
        spans: of each chunk of each rank, the first key that it sees and the end of the last (0, 0: none).
        work: float64 (ranks,): what each rank computes, in pairs of a full tile, of all heads and batch entries.
        received: int64 (ranks,): how many keys each gets from others.
    """

    division: Partition
    keys: tuple[tuple[tuple[int, int], ...], ...]
    spans: tuple[tuple[tuple[int, int], ...], ...]
    work: Array
    received: Array

    @functools.cached_property
    def digest(self) -> bytes:
        """Equal for equal needs under equal partitions, in every process."""
        return hashlib.sha256(repr((self.division.digest, self.keys, self.spans)).encode()).digest()

    def of_others(self, rank: int) -> Array:
        """The positions of the keys that a rank needs of others, int64, rising."""
        there = np.zeros(self.division.length, np.bool_)
        for start, end in self.keys[rank]:
            there[start:end] = True
        for c in self.division.chunks[rank]:
            there[c.start : c.end] = False
        return np.flatnonzero(there)


def needs_of(plan: TilePlan, division: Partition) -> Needs:
    """What the ranks need under the mask of ``plan``, which is of the whole sequence."""
    starts = np.sort([c.start for chunks in division.chunks for c in chunks])
    bounds = np.append(starts, division.length)
    seen, cost = Seen(plan, bounds), costs_of(plan, bounds)
    places = [np.searchsorted(starts, [c.start for c in chunks]) for chunks in division.chunks]
    keys = tuple(seen.ranges(place) for place in places)
    spans = tuple(tuple(_span(seen.ranges(np.array([i]))) for i in place) for place in places)
    work = np.array([cost[place].sum() for place in places])
    received = np.array([seen.received(place) for place in places], np.int64)
    return Needs(division, keys, spans, work, received)


def _span(ranges: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    return (ranges[0][0], ranges[-1][1]) if ranges else (0, 0)

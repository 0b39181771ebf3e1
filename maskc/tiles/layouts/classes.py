"""Tiles of a mask that tells positions apart only by what it looks up for them: one of each class tells all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.ir.nodes import Lookup, Symbol
from maskc.tiles.budget import Budget
from maskc.tiles.classify import Classifier
from maskc.tiles.columns import joint_labels
from maskc.tiles.grid import Grid, Rectangles
from maskc.tiles.layouts.kinds import dense_rectangles
from maskc.tiles.subdivide import is_affordable

__all__ = ["tiles_by_class"]

Array = npt.NDArray[Any]
_AT_ONCE = 1 << 18  # points evaluated at once, or those of a row of tiles


@dataclass(frozen=True, eq=False)
class _Classes:
    """A position of each class that a tile has: those of tile ``t`` from ``start[t]`` on."""

    at: Array
    start: Array

    @staticmethod
    def of(values: list[Array], tile: int) -> _Classes:
        """Positions are of one class where all values are equal."""
        _, rank = np.unique(joint_labels(values, values)[0], return_inverse=True)
        owner = np.arange(rank.size) // tile
        _, at = np.unique(owner * (int(rank.max()) + 1) + rank.reshape(-1), return_index=True)
        return _Classes(at, np.searchsorted(owner[at], np.arange(owner[-1] + 1)))


def _bits(values: Array) -> Array:
    """Numbers that are equal only where they are the same: 0 and -0 are not."""
    return values.view(np.int64) if values.dtype == np.float64 else values


def tiles_by_class(c: Classifier, grid: Grid, budget: Budget) -> Rectangles | None:
    """The FULL and PARTIAL tiles, by the mask at a pair of positions for each pair of classes; None if it speaks of
    positions themselves, or where boxes are likely to take less. Raises MaskcError E801."""
    of = {x: [n for n in c.order if isinstance(n, Lookup) and n.indices == (x,)] for x in (Symbol("q"), Symbol("k"))}
    others = (n for n in c.order if not any(n in found for found in of.values()))
    if any(x in n.children for n in others for x in of) or not all(of.values()):
        return None
    values = [[_bits(c.table(n.name)) for n in found] for found in of.values()]
    q, k = (_Classes.of(v, tile) for v, tile in zip(values, (grid.q_tile, grid.k_tile), strict=True))
    cost = q.at.size * k.at.size
    boxes = Budget(cost * budget.each, each=budget.each, measure=budget.measure)
    if not budget.affords(cost) or is_affordable(c, grid, boxes):
        return None
    parts, row = list[Rectangles](), 0
    ends = np.append(q.start[1:], q.at.size)
    while row < grid.rows:
        last = max(row + 1, int(np.searchsorted(ends, q.start[row] + _AT_ONCE // k.at.size, side="right")))
        first = q.start[row]
        at = q.at[first : ends[last - 1]]
        later = (q.at.size - int(ends[last - 1])) * k.at.size
        budget.evaluate(at.size * k.at.size, "pairs of what the mask tells apart", 0, later)
        kept = c.points(at[:, None], k.at)
        bits = np.bitwise_or.reduceat(np.where(kept, np.uint8(1), np.uint8(2)), k.start, axis=1)
        parts.append(dense_rectangles(np.bitwise_or.reduceat(bits, q.start[row:last] - first, axis=0), row, 0))
        row = last
    return Rectangles.join(parts)

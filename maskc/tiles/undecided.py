"""What row intervals leave undecided: boxes are asked about, before there are too many of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskc.tiles.grid import Grid, Rectangles
from maskc.tiles.subdivide import BOXES
from maskc.tiles.tiling import FULL, PARTIAL

if TYPE_CHECKING:
    from maskc.tiles.budget import Budget
    from maskc.tiles.classify import Classifier

__all__ = ["Undecided"]

#: Tiles a row that rows may leave undecided, on average.
_WIDE = 32
_ASKED = 1 << 14  # boxes asked about at once


class Undecided:
    """Rectangles that row intervals do not decide. Once there are many, boxes are asked about, some at a time: there
    may be millions, of which only those that are mixed are kept."""

    def __init__(self, c: Classifier, grid: Grid, budget: Budget) -> None:
        self.c, self.grid, self.budget, self.most = c, grid, budget, _WIDE * grid.rows
        self.left: list[Rectangles] = []
        self.decided: list[Rectangles] = []
        self.mixed, self.area = 0, 0  # how many of those left are known to be mixed; tiles left

    def add(self, unknown: Rectangles) -> bool:
        """Whether what is left is little enough, with these."""
        self.left.append(unknown)
        self.area += unknown.area
        if self.area > self.most:
            new = Rectangles.join(self.left[self.mixed :])
            del self.left[self.mixed :]
            self.area -= new.area
            for first in range(0, new.size, _ASKED):
                self._ask(new.pick(slice(first, first + _ASKED)))
                if self.area > self.most:
                    return False
            self.mixed = len(self.left)
        return True

    def _ask(self, unknown: Rectangles) -> None:
        self.budget.ask(unknown.size, BOXES)
        found = self.c.classify(self.grid.boxes(unknown))
        uniform = found.hit & found.miss
        mixed = unknown.pick(found.some & found.gap & ~uniform)
        self.decided.append(unknown.pick(found.some & ~found.gap).of(FULL).compact())
        self.decided.append(unknown.pick(uniform).of(PARTIAL).compact())
        self.left.append(mixed)
        self.area += mixed.area

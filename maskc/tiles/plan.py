"""The tile plan: a tiling that is asked for its intervals, its statistics, its columns and its picture."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskc.ir.binding import Binding
from maskc.ir.program import Program
from maskc.tiles.budget import BUDGET, Watch
from maskc.tiles.intervals import key_intervals
from maskc.tiles.planner import make_tiling
from maskc.tiles.runs import to_dense
from maskc.tiles.subdivide import tile_mask
from maskc.tiles.tiling import Group, Runs, Tiling, TransposedPlan
from maskc.tiles.transpose import transpose

if TYPE_CHECKING:
    from maskc.tiles.figures import Statistics

__all__ = ["TilePlan", "make_plan"]

Int32 = npt.NDArray[np.int32]


def make_plan(
    program: Program,
    binding: Binding,
    *,
    q_tile: int = 128,
    k_tile: int = 128,
    layout: str = "none",
    budget: int = BUDGET,
    watch: Watch | None = None,
) -> TilePlan:
    """The exact tiles of a program's mask.

    Args:
        program: as lowered; its mask is what is planned.
        binding: lengths, arguments, tables and inputs.
        q_tile, k_tile: queries and keys a tile; the last tiles may be ragged.
        layout: the order of the tokens: "none" leaves it; "residues", "sorted" and "blocks" take the best order of
            their kind if the mask suggests one; "auto" takes what leaves the fewest tiles, if it leaves at least
            1.1 times fewer than the tokens' own order; "residues:64", "sorted:doc", "blocks:8x4x4,4x8x4" (shapes
            for queries and for keys, then perhaps "%2x2x1": within residue classes along the axes, and "@4x0x0":
            where a block starts) take that one. The plan's orders say which it is and why.
        budget: what planning may cost, in evaluations of the mask at a point.
        watch: called now and then with the evaluations that are done and with those that there are likely to be in
            all, which is an estimate that changes. What it raises ends the planning and nothing else.

    Raises:
        MaskcError: E801 if planning would go beyond the budget; E502 for a layout that there is not; E503 and E504 for
            tile sizes; E501 for a binding that lacks what the mask reads.
    """
    options: dict[str, Any] = {"layout": layout, "budget": budget, "watch": watch}
    return TilePlan.of(make_tiling(program, binding, q_tile=q_tile, k_tile=k_tile, **options))


@dataclass(frozen=True, eq=False)
class TilePlan(Tiling):
    """A tiling that is asked for more: what users hold, and what kernels are started with."""

    @classmethod
    def of(cls, tiling: Tiling) -> TilePlan:
        """The plan that these tiles are."""
        t = tiling
        return cls(t.program, t.binding, t.q_tile, t.k_tile, t.groups, t.q_order, t.k_order)

    def kinds(self, group: Group | None = None) -> npt.NDArray[np.uint8]:
        """The kind of every tile of a group (the first by default), (rows, cols): for small plans."""
        return to_dense((group or self.groups[0]).runs, self.cols)

    def tile_mask(
        self, group: Group, rows: npt.NDArray[np.integer[Any]], cols: npt.NDArray[np.integer[Any]]
    ) -> npt.NDArray[np.bool_]:
        """The mask on whole tiles in laid-out order, exactly: (n, q_tile, k_tile), False beyond the ends.

        ``rows`` and ``cols`` are the tiles' rows and columns, (n,).
        """
        return tile_mask(self, group, rows, cols)

    def intervals(self, group: Group) -> tuple[tuple[Int32, Int32], ...] | None:
        """The keys of every query as intervals, where the mask of a group keeps but a few a query; else None.

        One pair ``(lo, hi)`` of int32 arrays over the laid-out queries, (q_len,), for each interval: the mask is the
        union of ``lo <= k < hi`` in laid-out positions of keys. A query's intervals are disjoint, do not touch, and
        ascend; what is left of them is ``lo == hi == 0``. An empty tuple: the mask keeps nothing. Found when they are
        first asked for, and kept: 8 bytes an interval and query, which ``nbytes`` does not count.
        """
        if group.runs not in self._intervals:
            self._intervals[group.runs] = key_intervals(self, group)
        return self._intervals[group.runs]

    def stacked_intervals(self, groups: Sequence[Group]) -> tuple[Int32, Int32]:
        """The intervals of some groups, ``lo`` and ``hi`` as one array each, (groups, intervals, q_len). They are kept
        in place of those of each group, which become parts of them."""
        which = tuple(g.runs for g in groups)
        if which not in self._stacked:
            most = max((len(self.intervals(g) or ()) for g in groups), default=0)
            low, high = np.zeros((2, len(groups), most, self.binding.q_len), np.int32)
            for i, group in enumerate(groups):
                found = self.intervals(group) or ()
                for c, (lo, hi) in enumerate(found):
                    low[i, c], high[i, c] = lo, hi
                self._intervals[group.runs] = tuple(zip(low[i, : len(found)], high[i, : len(found)], strict=True))
            self._stacked[which] = low, high
        return self._stacked[which]

    @functools.cached_property
    def _stacked(self) -> dict[tuple[Runs, ...], tuple[Int32, Int32]]:
        return {}

    @functools.cached_property
    def _intervals(self) -> dict[Runs, tuple[tuple[Int32, Int32], ...] | None]:
        return {}

    def transposed(self, q_tile: int | None = None, k_tile: int | None = None) -> TransposedPlan:
        """The plan by key tiles, for the backward pass, with tile sizes of its own if they are given. Tiles of other
        sizes hold other blocks of tokens: where there is a layout, the orders are then the transposed plan's own."""
        return transpose(self, q_tile, k_tile)

    @functools.cached_property
    def stats(self) -> Statistics:
        """What the plan costs and what the mask implies; see ``maskc.tiles.statistics``."""
        # Not at the top: calls, which plan, have no use for it.
        from maskc.tiles.statistics import statistics

        return statistics(self)

    def __str__(self) -> str:
        return str(self.stats)

    def _repr_svg_(self) -> str | None:
        from maskc.picture.notebook import plan_svg

        return plan_svg(self)

    def _repr_html_(self) -> str:
        from maskc.picture.notebook import plan_html

        return plan_html(self, str(self))

    def __getstate__(self) -> dict[str, Any]:
        return {n: v for n, v in self.__dict__.items() if n not in ("stats", "_intervals", "_stacked")}

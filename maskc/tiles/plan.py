"""The tile plan: which tiles of (query, key) are computed, as runs of key tiles a query-tile row."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from maskc.ir.binding import Binding
    from maskc.ir.program import Program
    from maskc.tiles.statistics import Statistics

    Int32 = npt.NDArray[np.int32]

__all__ = ["EMPTY", "FULL", "PARTIAL", "Group", "Order", "Runs", "TilePlan", "TransposedPlan"]

#: Kinds of tile: no pair kept, some, all.
EMPTY, PARTIAL, FULL = 0, 1, 2


@dataclass(frozen=True)
class Stretch:
    """A stretch of a token order as index arithmetic: laid-out position ``first + i`` holds token ``base +
    sum(digit[j] * strides[j])``, where the digits of ``i`` have the radices ``extents``, the first digit being the
    most significant."""

    first: int
    base: int
    extents: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of tokens."""
        return math.prod(self.extents)


@dataclass(frozen=True, eq=False)
class Order:
    """A token order: position ``i`` of the laid-out sequence holds token ``index[i]`` (of queries: counted from
    the first one present).

    ``index`` is None for the identity. ``name`` says which layout it is, ``reason`` why it was chosen.
    ``stretches``: the same order as index arithmetic with absolute positions, in a few stretches that cover all
    places in turn; empty where it is none, such as for an order sorted by an input.
    """

    name: str = "none"
    index: Int32 | None = None
    reason: str = ""
    stretches: tuple[Stretch, ...] = ()


@dataclass(frozen=True, eq=False)
class Runs:
    """Runs of key tiles for every query-tile row: row ``r`` owns runs ``offsets[r]:offsets[r + 1]``,
    ordered by key. Run ``i`` covers key tiles ``start[i]`` to ``end[i]`` (excluded), all of ``kind[i]``
    (PARTIAL or FULL); EMPTY tiles are in no run. Arrays are int32 (``kind`` uint8)."""

    offsets: Int32
    start: Int32
    end: Int32
    kind: npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Group:
    """Heads and batch entries that share one mask, and its runs. Groups of a plan that hold the same runs (the same
    object) share one mask, too: their heads and batch entries are no product."""

    heads: tuple[int, ...]
    batches: tuple[int, ...]
    runs: Runs


@dataclass(frozen=True, eq=False)
class _Plan:
    """What plans by rows and by columns have in common. Equal if they plan the same masks by the same runs."""

    program: Program
    binding: Binding
    q_tile: int
    k_tile: int
    groups: tuple[Group, ...]
    q_order: Order = Order()
    k_order: Order = Order()

    @property
    def rows(self) -> int:
        """Number of query-tile rows."""
        return -(-self.binding.q_len // self.q_tile)

    @property
    def cols(self) -> int:
        """Number of key-tile columns."""
        return -(-self.binding.k_len // self.k_tile)

    def group_of(self, head: int, batch: int = 0) -> Group:
        """The group that a head and a batch entry belong to; raises KeyError."""
        for group in self.groups:
            if head in group.heads and batch in group.batches:
                return group
        raise KeyError((head, batch))

    @property
    def nbytes(self) -> int:
        """Size of the runs and the token orders."""
        runs = {id(g.runs): g.runs for g in self.groups}.values()
        arrays = [a for r in runs for a in (r.offsets, r.start, r.end, r.kind)]
        arrays += [o.index for o in (self.q_order, self.k_order) if o.index is not None]
        return sum(a.nbytes for a in arrays)

    @property
    def digest(self) -> str:
        """A hash of all that the plan holds, equal across processes."""
        from maskc.tiles.exchange import digest

        return digest(self)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def to(self, device: Any) -> dict[str, Any]:
        """The runs and orders as torch tensors on a device: "groups" holds for each group its heads and batches,
        and "offsets", "start", "end" (int32) and "kind" (uint8); "q_index" and "k_index" are int32 or None."""
        from maskc.tiles.exchange import to_device

        return to_device(self, device)


@dataclass(frozen=True, eq=False)
class TransposedPlan(_Plan):
    """A plan by key tiles: the runs of row ``c`` are those of the query tiles that key-tile column ``c`` meets."""


@dataclass(frozen=True, eq=False)
class TilePlan(_Plan):
    """Exact block-sparse tiles of a program's mask under a binding.

    Rows are query tiles of ``q_tile`` laid-out queries (counted from the first query present, so the
    first row holds absolute positions ``binding.offset`` and on), columns are key tiles of ``k_tile``.
    """

    def kinds(self, group: Group | None = None) -> npt.NDArray[np.uint8]:
        """The kind of every tile of a group (the first by default), (rows, cols): for small plans."""
        from maskc.tiles.runs import to_dense

        return to_dense((group or self.groups[0]).runs, self.cols)

    def tile_mask(
        self, group: Group, rows: npt.NDArray[np.integer[Any]], cols: npt.NDArray[np.integer[Any]]
    ) -> npt.NDArray[np.bool_]:
        """The mask on whole tiles in laid-out order, exactly: (n, q_tile, k_tile), False beyond the ends.

        ``rows`` and ``cols`` are the tiles' rows and columns, (n,).
        """
        from maskc.tiles.planner import tile_mask

        return tile_mask(self, group, rows, cols)

    def intervals(self, group: Group) -> tuple[tuple[Int32, Int32], ...] | None:
        """The keys of every query as intervals, where the mask of a group keeps but a few a query; else None.

        One pair ``(lo, hi)`` of int32 arrays over the laid-out queries, (q_len,), for each interval: the mask is the
        union of ``lo <= k < hi`` in laid-out positions of keys. A query's intervals are disjoint, do not touch, and
        ascend; what is left of them is ``lo == hi == 0``. An empty tuple: the mask keeps nothing. Found when they are
        first asked for, and kept: 8 bytes an interval and query, which ``nbytes`` does not count.
        """
        from maskc.tiles.intervals import key_intervals

        if group.runs not in self._intervals:
            self._intervals[group.runs] = key_intervals(self, group)
        return self._intervals[group.runs]

    def stacked_intervals(self, groups: Sequence[Group]) -> tuple[Int32, Int32]:
        """The intervals of some groups, ``lo`` and ``hi`` as one array each, (groups, intervals, q_len). They are kept
        in place of those of each group, which become parts of them."""
        import numpy as np

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
        from maskc.tiles.transpose import transpose

        return transpose(self, q_tile, k_tile)

    @functools.cached_property
    def stats(self) -> Statistics:
        """What the plan costs and what the mask implies; see ``maskc.tiles.statistics``."""
        from maskc.tiles.statistics import statistics

        return statistics(self)

    def __str__(self) -> str:
        return str(self.stats)

    def _repr_svg_(self) -> str | None:
        from maskc.picture.notebook import plan_svg

        return plan_svg(self)

    def _repr_html_(self) -> str:
        from maskc.picture.notebook import plan_html

        return plan_html(self)

    def __getstate__(self) -> dict[str, Any]:
        return {n: v for n, v in self.__dict__.items() if n not in ("stats", "_intervals", "_stacked")}

"""The tile plan: which tiles of (query, key) are computed, as runs of key tiles a query-tile row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from maskc.ir.binding import Binding
    from maskc.ir.program import Program

    Int32 = npt.NDArray[np.int32]

__all__ = ["EMPTY", "FULL", "PARTIAL", "Group", "Order", "Runs", "TilePlan"]

#: Kinds of tile: no pair kept, some, all.
EMPTY, PARTIAL, FULL = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Order:
    """A token order: position ``i`` of the laid-out sequence holds token ``index[i]``.

    ``index`` is None for the identity. ``name`` says which layout it is, ``reason`` why it was chosen.
    """

    name: str = "none"
    index: Int32 | None = None
    reason: str = ""


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
    """Heads and batch entries that share one mask, and its runs. ``intervals``: if the mask of every
    row is a union of at most a few key intervals (in laid-out positions), one (lo, hi) pair of int32
    arrays over the laid-out query rows per clause: ``lo <= k < hi``; else None, and partial tiles
    are evaluated by ``TilePlan.tile_mask``."""

    heads: tuple[int, ...]
    batches: tuple[int, ...]
    runs: Runs
    intervals: tuple[tuple[Int32, Int32], ...] | None = None


@dataclass(frozen=True, eq=False)
class TilePlan:
    """Exact block-sparse tiles of a program's mask under a binding.

    Rows are query tiles of ``q_tile`` laid-out queries (counted from the first query present, so the
    first row holds absolute positions ``binding.offset`` and on), columns are key tiles of ``k_tile``.
    """

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

"""Tiles over queries and keys, and rectangles of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.tiles.boxes import Boxes

__all__ = ["Grid", "Rectangles"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Grid:
    """Tiles of ``q_tile`` x ``k_tile`` over ``q_len`` queries from position ``offset`` on, and ``k_len`` keys."""

    q_len: int
    k_len: int
    q_tile: int
    k_tile: int
    offset: int

    @property
    def rows(self) -> int:
        return -(-self.q_len // self.q_tile)

    @property
    def cols(self) -> int:
        return -(-self.k_len // self.k_tile)

    def boxes(self, r: Rectangles) -> Boxes:
        """The boxes of positions that rectangles of tiles cover."""
        q0, k0 = r.r0 * self.q_tile, r.c0 * self.k_tile
        q1, k1 = np.minimum(r.r1 * self.q_tile, self.q_len), np.minimum(r.c1 * self.k_tile, self.k_len)
        q_last, k_last = self.q_len - (self.rows - 1) * self.q_tile, self.k_len - (self.cols - 1) * self.k_tile
        q_width = np.where(r.r1 == self.rows, q_last, self.q_tile)
        k_width = np.where(r.c1 == self.cols, k_last, self.k_tile)
        single = (r.r1 - r.r0 == 1) & (r.c1 - r.c0 == 1)
        return Boxes(q0 + self.offset, q1 + self.offset - 1, k0, k1 - 1, q_width, k_width, single)


@dataclass(frozen=True, eq=False)
class Rectangles:
    """Disjoint rectangles of tiles: rows ``r0`` to ``r1``, columns ``c0`` to ``c1`` (excluded), int64, of a kind.

    Of those that are only kept to be assembled there may be millions: these are ``compact``.
    """

    r0: Array
    r1: Array
    c0: Array
    c1: Array
    kind: Array = field(default_factory=lambda: np.zeros(0, np.uint8))

    @property
    def size(self) -> int:
        return int(self.r0.size)

    @property
    def area(self) -> int:
        """Number of tiles."""
        return int(np.multiply(self.r1 - self.r0, self.c1 - self.c0, dtype=np.int64).sum())

    def pick(self, which: Any) -> Rectangles:
        kind = self.kind[which] if self.kind.size == self.size else self.kind
        return Rectangles(self.r0[which], self.r1[which], self.c0[which], self.c1[which], kind)

    def compact(self) -> Rectangles:
        """The same in int32: to be joined and assembled, not to be computed with."""
        r0, r1, c0, c1 = (x.astype(np.int32, copy=False) for x in (self.r0, self.r1, self.c0, self.c1))
        return Rectangles(r0, r1, c0, c1, self.kind)

    def down(self, rows: int) -> Rectangles:
        """The same, some rows further down."""
        return Rectangles(self.r0 + rows, self.r1 + rows, self.c0, self.c1, self.kind) if rows else self

    def of(self, kind: int) -> Rectangles:
        return Rectangles(self.r0, self.r1, self.c0, self.c1, np.full(self.size, kind, np.uint8))

    @staticmethod
    def join(parts: list[Rectangles]) -> Rectangles:
        some = [p for p in parts if p.size]
        if len(some) == 1 and some[0].kind.size == some[0].size:
            return some[0]  # nothing to copy
        if not parts:
            empty = np.zeros(0, np.int64)
            return Rectangles(empty, empty, empty, empty, np.zeros(0, np.uint8))
        names = ("r0", "r1", "c0", "c1", "kind")
        return Rectangles(*(np.concatenate([getattr(p, n) for p in parts]) for n in names))

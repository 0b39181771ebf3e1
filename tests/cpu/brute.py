"""A tile plan made from the dense mask: slow, obvious, and independent of the planner."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from maskc.ir.binding import Binding
from maskc.ir.evaluate import dense
from maskc.ir.program import Program
from maskc.tiles.tiling import FULL, PARTIAL, Group, Order, Runs


@dataclass(frozen=True, eq=False)
class BrutePlan:
    """What backends use of a ``TilePlan``."""

    program: Program
    binding: Binding
    q_tile: int
    k_tile: int
    groups: tuple[Group, ...]
    masks: tuple[np.ndarray[Any, Any], ...]
    most: int
    q_order: Order = field(default_factory=Order)
    k_order: Order = field(default_factory=Order)

    def intervals(self, group: Group) -> Any:
        return _intervals(self.masks[self.groups.index(group)], self.most)

    def tile_mask(self, group: Group, rows: Any, cols: Any) -> np.ndarray[Any, Any]:
        mask = self.masks[self.groups.index(group)]
        q, k = -(-mask.shape[0] // self.q_tile), -(-mask.shape[1] // self.k_tile)
        full = np.zeros((q * self.q_tile, k * self.k_tile), dtype=bool)
        full[: mask.shape[0], : mask.shape[1]] = mask
        return full.reshape(q, self.q_tile, k, self.k_tile).transpose(0, 2, 1, 3)[rows, cols]


def brute_plan(
    program: Program,
    binding: Binding,
    *,
    q_tile: int = 16,
    k_tile: int = 16,
    intervals: int = 4,
    q_order: Any = None,
    k_order: Any = None,
) -> Any:
    """The plan of a program. ``intervals``: most key intervals a row; 0: only tiles."""
    found: dict[bytes, tuple[np.ndarray[Any, Any], list[tuple[int, int]]]] = {}
    for b in range(binding.batch):
        for h in range(binding.heads):
            mask = dense(program, binding, h=h, b=b)
            mask = mask if q_order is None else mask[q_order]
            mask = mask if k_order is None else mask[:, k_order]
            found.setdefault(mask.tobytes(), (mask, []))[1].append((b, h))
    groups, masks = [], []
    for mask, where in found.values():
        for b in sorted({b for b, _ in where}):
            heads = tuple(h for c, h in where if c == b)
            groups.append(Group(heads, (b,), _runs(mask, q_tile, k_tile)))
            masks.append(mask)
    if len(groups) == binding.batch and all(len(g.heads) == binding.heads for g in groups) and len(found) == 1:
        masks = masks[:1]
        groups = [Group(groups[0].heads, tuple(range(binding.batch)), groups[0].runs)]
    orders = [Order() if o is None else Order("test", np.asarray(o, np.int32)) for o in (q_order, k_order)]
    return BrutePlan(program, binding, q_tile, k_tile, tuple(groups), tuple(masks), intervals, *orders)


def _runs(mask: np.ndarray[Any, Any], q_tile: int, k_tile: int) -> Runs:
    offsets, start, end, kind = [0], [], [], []
    for a in range(0, mask.shape[0], q_tile):
        last = None
        for j, c in enumerate(range(0, mask.shape[1], k_tile)):
            tile = mask[a : a + q_tile, c : c + k_tile]
            now = FULL if tile.all() else PARTIAL if tile.any() else None
            if now is not None and now == last:
                end[-1] = j + 1
            elif now is not None:
                start.append(j)
                end.append(j + 1)
                kind.append(now)
            last = now
        offsets.append(len(start))
    return Runs(*(np.array(x, np.int32) for x in (offsets, start, end)), np.array(kind, np.uint8))


def _intervals(mask: np.ndarray[Any, Any], most: int) -> Any:
    padded = np.pad(mask.astype(np.int8), ((0, 0), (1, 1)))
    edges = np.diff(padded, axis=1)
    count = int((edges == 1).sum(axis=1).max(initial=0))
    if not 0 < count <= most:
        return None
    lo, hi = np.zeros((2, count, len(mask)), np.int32)
    for i, row in enumerate(edges):
        starts, ends = np.flatnonzero(row == 1), np.flatnonzero(row == -1)
        lo[: len(starts), i], hi[: len(ends), i] = starts, ends
    return tuple(zip(lo, hi, strict=True))

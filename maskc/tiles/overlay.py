"""Runs of key tiles of several clauses laid over each other, and the kinds that they prove."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.tiles.grid import Grid, Rectangles
from maskc.tiles.tiling import FULL, PARTIAL

__all__ = ["EXACT", "FILL", "INSIDE", "TOUCH", "Entries", "decide_fragments", "decide_rows"]

Array = npt.NDArray[Any]
#: Four counters in one number: intervals that touch; that are exact; that fill; bounds of a residual that fill.
TOUCH, EXACT, FILL, INSIDE = 1, 1 << 16, 1 << 32, 1 << 48


def _field(total: Array, which: int) -> Array:
    return (total >> (which.bit_length() - 1)) & 0xFFFF


@dataclass(frozen=True, eq=False)
class Entries:
    """Runs of key tiles, by fragment, with what they say of their tiles (``weight``), and how many keys of a tile each
    query keeps by them at most."""

    owner: Array
    start: Array
    end: Array
    weight: Array
    most: Array

    @staticmethod
    def join(parts: list[Entries]) -> Entries:
        names = ("owner", "start", "end", "weight", "most")
        if not parts:
            return Entries(*(np.zeros(0, np.int64) for _ in names))
        return (
            parts[0] if len(parts) == 1 else Entries(*(np.concatenate([getattr(p, n) for p in parts]) for n in names))
        )

    def pick(self, keep: Array) -> Entries:
        if keep.all():
            return self
        return Entries(*(x[keep] for x in (self.owner, self.start, self.end, self.weight, self.most)))


def _sweep(owner: Array, start: Array, end: Array, cols: int, *weights: Array) -> tuple[Array, ...]:
    """Overlaid runs as disjoint segments (owner, start, end) with the sums of the weights there, where the first is not
    0."""
    key = np.concatenate([owner * (cols + 1) + start, owner * (cols + 1) + end])
    order = np.argsort(key, kind="stable")
    key = key[order]
    last = np.flatnonzero(np.append(key[1:] != key[:-1], True)) if key.size else order
    totals = [np.cumsum(np.concatenate([w, -w])[order])[last] for w in weights]
    key = key[last]
    live = np.flatnonzero(totals[0][:-1] != 0)
    owner, start = np.divmod(key[live], cols + 1)
    return owner, start, key[live + 1] - owner * (cols + 1), *(x[live] for x in totals)


def _overlaid(e: Entries, grid: Grid) -> tuple[Array, ...]:
    """Disjoint segments (owner, start, end), and whether each tile of a segment is surely full, surely has a kept pair,
    and surely has a dropped one: as its only run says, or since no query keeps so many keys by all runs together."""
    key = e.owner * (grid.cols + 1) + e.start
    owner, start, end, total, most = e.owner, e.start, e.end, e.weight, e.most
    if not (key[1:] >= (key + end - start)[:-1]).all():  # else nothing is laid over anything
        if (most < grid.k_tile).any():
            owner, start, end, total, most = _sweep(owner, start, end, grid.cols, total, most)
        else:
            owner, start, end, total = _sweep(owner, start, end, grid.cols, total)
            most = np.full_like(start, grid.k_tile)
    touch, exact, fill = (_field(total, f) for f in (TOUCH, EXACT, FILL))
    full = fill > 0
    narrowest = np.where(end == grid.cols, grid.k_len - (grid.cols - 1) * grid.k_tile, grid.k_tile)
    gap = ~full & ((touch == 1) & (exact == 1) | (most < narrowest))
    return owner, start, end, full, full | (exact > 0), gap


def decide_rows(e: Entries, grid: Grid) -> tuple[Rectangles, Rectangles]:
    """Every row is one fragment."""
    owner, start, end, full, some, gap = _overlaid(e, grid)
    partial = some & gap
    return _rectangles(owner, start, end, full, partial, ~full & ~partial)


def decide_fragments(e: Entries, grid: Grid, row: Array) -> tuple[Rectangles, Rectangles]:
    owner, start, end, full, some, gap = _overlaid(e, grid)
    weight = TOUCH + EXACT * some + FILL * gap + INSIDE * full
    tile_row, start, end, total = _sweep(row[owner], start, end, grid.cols, weight)
    pieces = np.bincount(row)[tile_row]
    touch, hit = _field(total, TOUCH), _field(total, EXACT)
    miss, full = _field(total, FILL) > 0, _field(total, INSIDE) == pieces
    partial = ~full & (hit > 0) & (miss | (touch < pieces))
    return _rectangles(tile_row, start, end, full, partial, ~full & ~partial)


def _rectangles(
    row: Array, start: Array, end: Array, full: Array, partial: Array, unknown: Array
) -> tuple[Rectangles, Rectangles]:
    sure = full | partial
    kind = np.where(full, FULL, PARTIAL).astype(np.uint8)
    done = Rectangles(row[sure], row[sure] + 1, start[sure], end[sure], kind[sure])
    return done, Rectangles(row[unknown], row[unknown] + 1, start[unknown], end[unknown])

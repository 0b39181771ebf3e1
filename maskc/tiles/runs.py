"""Runs of key tiles, assembled from rectangles of tiles: sorted and merged."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.tiles.tiling import EMPTY, Runs

__all__ = ["assemble", "concatenated_ranges", "row_of_runs", "to_dense"]

Array = npt.NDArray[Any]


def concatenated_ranges(start: Array, length: Array) -> Array:
    """``start[i], start[i] + 1, ...`` for ``length[i]`` numbers, one after another for every i; int64."""
    length = np.asarray(length, np.int64)
    total = int(length.sum())
    out = np.ones(total, np.int64)
    keep = length > 0
    start, length = np.asarray(start, np.int64)[keep], length[keep]
    if not total:
        return out
    first = np.cumsum(length) - length
    out[0] = start[0]
    out[first[1:]] = start[1:] - (start[:-1] + length[:-1] - 1)
    return np.cumsum(out)


def assemble(rows: int, cols: int, r0: Array, r1: Array, c0: Array, c1: Array, kind: Array) -> Runs:
    """The runs of disjoint rectangles of tiles: rows ``r0`` to ``r1``, columns ``c0`` to ``c1`` (excluded).

    Neighbours of one kind become one run. EMPTY and vanishing rectangles are left out.
    """
    keep = (kind != EMPTY) & (r1 > r0) & (c1 > c0)
    if not keep.all():
        r0, r1, c0, c1, kind = r0[keep], r1[keep], c0[keep], c1[keep], kind[keep]
    return _merged(rows, *_in_order(cols, r0, r1, c0, c1, kind))


def _in_order(cols: int, r0: Array, r1: Array, c0: Array, c1: Array, kind: Array) -> tuple[Array, Array, Array, Array]:
    """Rectangles row by row: row, first and last column, kind."""
    height, row = r1 - r0, r0
    if (height != 1).any():
        row = concatenated_ranges(r0, height)
        c0, c1, kind = np.repeat(c0, height), np.repeat(c1, height), np.repeat(kind, height)
    key = row.astype(np.int64) * (cols + 1) + c0
    if row.size and (key[1:] < key[:-1]).any():
        order = np.argsort(key, kind="stable")
        row, c0, c1, kind = row[order], c0[order], c1[order], kind[order]
    return row, c0, c1, kind


def _merged(rows: int, row: Array, c0: Array, c1: Array, kind: Array) -> Runs:
    first = np.ones(row.size, np.bool_)
    first[1:] = (row[1:] != row[:-1]) | (c0[1:] != c1[:-1]) | (kind[1:] != kind[:-1])
    last = np.append(first[1:], True)[: row.size]
    offsets = np.zeros(rows + 1, np.int32)
    np.cumsum(np.bincount(row[first], minlength=rows), out=offsets[1:])
    return Runs(offsets, c0[first].astype(np.int32), c1[last].astype(np.int32), kind[first].astype(np.uint8))


def row_of_runs(runs: Runs) -> Array:
    """The tile row that each run belongs to, int64."""
    return np.repeat(np.arange(runs.offsets.size - 1), np.diff(runs.offsets))


def to_dense(runs: Runs, cols: int) -> npt.NDArray[np.uint8]:
    """The kinds of all tiles, (rows, cols): for tests and small pictures."""
    dense = np.zeros((runs.offsets.size - 1, cols), np.uint8)
    length = (runs.end - runs.start).astype(np.int64)
    dense[np.repeat(row_of_runs(runs), length), concatenated_ranges(runs.start, length)] = np.repeat(runs.kind, length)
    return dense

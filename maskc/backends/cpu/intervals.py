"""Jobs from key intervals: where the bounds run straight, the shape between them is known exactly.

A query row keeps a few key intervals ``lo <= k < hi``. Over a stretch of rows each bound either
stays or moves by one a row, which leaves four shapes: a rectangle, a triangle under a rectangle
(causal), the same upside down, and a band (a sliding window). No tile is needed to compute them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from maskc.backends.cpu.jobs import CAUSAL, Bools, Ints, Job, Line, Mask

__all__ = ["interval_jobs"]

_SHORT = 32  # rows; a shorter stretch is not worth a job of its own
_ROWS = 64  # rows of a block where the bounds follow no line
_TRIANGLE = 256  # rows of a masked triangle
_TALL = 8192  # rows of a rectangle: bounds the result that waits to be merged
_RECTANGLE, _CAUSAL, _ANTICAUSAL, _BAND, _CROOKED = range(5)


def interval_jobs(lo: Ints, hi: Ints, *, backward: bool = False) -> list[Job]:
    """Jobs that compute the disjoint intervals ``lo <= k < hi``, (clauses, queries), of every query.

    ``backward``: for the backward pass, where bands are cut into blocks of keys: one gradient overlaps then, not two.
    """
    return [job for low, high in zip(lo, hi, strict=True) for job in _clause_jobs(low, high, backward)]


def _clause_jobs(lo: Ints, hi: Ints, backward: bool) -> Iterator[Job]:
    band = _band_by_keys if backward else _band
    for first, last, shape in _stretches(lo, hi):
        if shape == _CROOKED:
            yield from _crooked(lo, hi, first, last)
        elif hi[first] > lo[first] and shape == _BAND:
            yield from band(first, last - first, int(lo[first]), int(hi[first]))
        elif hi[first] > lo[first]:
            yield from _SHAPES[shape](first, last - first, int(lo[first]), int(hi[first]))


def _stretches(lo: Ints, hi: Ints) -> Iterator[tuple[int, int, int]]:
    """Ranges of rows and the shape of each, covering all rows."""
    down, up = np.diff(lo), np.diff(hi)
    live = hi > lo
    straight = (down >= 0) & (down <= 1) & (up >= 0) & (up <= 1) & (live[1:] == live[:-1])
    shape = np.where(straight, 2 * down + up, _CROOKED)
    turns = np.flatnonzero(np.diff(shape)) + 1
    starts, ends = np.concatenate([[0], turns]), np.concatenate([turns, [len(shape)]])
    long = (ends - starts + 1 >= min(_SHORT, len(lo))) & (ends > starts)
    done = 0
    for s, e in zip(starts[long].tolist(), ends[long].tolist(), strict=True):
        first, last = max(s, done), e + 1
        if shape[s] == _CROOKED or last - first < min(_SHORT, len(lo)):
            continue
        if first > done:
            yield done, first, _CROOKED
        yield first, last, int(shape[s])
        done = last
    if done < len(lo):
        yield done, len(lo), _CROOKED


def _rectangle(row: int, rows: int, lo: int, hi: int) -> Iterator[Job]:
    if hi > lo:
        for a in range(0, rows, _TALL):
            yield Job(row + a, min(_TALL, rows - a), lo, hi - lo)


def _causal(row: int, rows: int, lo: int, hi: int) -> Iterator[Job]:
    yield Job(row, rows, hi - 1, rows, mask=CAUSAL)
    yield from _rectangle(row, rows, lo, hi - 1)


def _anticausal(row: int, rows: int, lo: int, hi: int) -> Iterator[Job]:
    for a in range(0, rows, _TRIANGLE):
        n = min(_TRIANGLE, rows - a)
        if n > 1:
            yield Job(row + a, n, lo + a, n - 1, mask=_line_mask("anticausal", n, n - 1, 0, n))
        yield from _rectangle(row + a, n, lo + a + n - 1, hi)


def _band(row: int, rows: int, lo: int, hi: int) -> Iterator[Job]:
    width = hi - lo
    step = min(rows, _band_rows(width))
    count, rest = divmod(rows, step)
    for n, blocks, at in ((step, count, 0), (rest, 1, count * step)):
        if n and n > 1:
            mask = _line_mask("band", n, width + n - 1, 0, width)
            yield Job(row + at, n, lo + at, width + n - 1, blocks, step, step, mask)
        elif n:
            yield Job(row + at, 1, lo + at, width, blocks, step, step)


def _band_rows(width: int) -> int:
    """Rows of a block: few, so that little outside the band is computed, but enough for the matrix product."""
    return 32 if width <= 320 else 64 if width <= 1536 else 256


def _band_by_keys(row: int, rows: int, lo: int, hi: int) -> Iterator[Job]:
    """A band as blocks of keys that ``hi - lo`` queries keep each, and a triangle at either end."""
    width = hi - lo
    if rows < width:
        yield from _band(row, rows, lo, hi)
        return
    if width > 1:
        yield from _anticausal(row, width - 1, lo, hi - 1)
        yield from _causal(row + rows - width + 1, width - 1, lo + rows, lo + rows + 1)
    keys = rows - width + 1
    step = min(keys, _band_keys(width))
    count, rest = divmod(keys, step)
    for n, blocks, at in ((step, count, 0), (rest, 1, count * step)):
        if n:
            mask = _line_mask("band", width + n - 1, n, 1 - width, width)
            yield Job(row + at, width + n - 1, hi - 1 + at, n, blocks, step, step, mask)


def _band_keys(width: int) -> int:
    """Keys of a block: about as many as its queries, so that a query is in few blocks."""
    return min(512, max(64, width))


def _line_mask(name: str, rows: int, keys: int, start: int, width: int) -> Mask:
    """Row ``i`` keeps ``start + i <= k < start + i + width``."""

    def make() -> Bools:
        distance = np.arange(keys)[None, :] - np.arange(rows)[:, None] - start
        return (distance >= 0) & (distance < width)

    return Mask(make, rows * keys, (name, rows, keys, start, width), line=Line(start, width))


_SHAPES = {_RECTANGLE: _rectangle, _CAUSAL: _causal, _ANTICAUSAL: _anticausal}


def _crooked(lo: Ints, hi: Ints, first: int, last: int) -> Iterator[Job]:
    for a in range(first, last, _ROWS):
        b = min(a + _ROWS, last)
        low, high = lo[a:b], hi[a:b]
        live = high > low
        if not live.any():
            continue
        start, end = int(low[live].min()), int(high[live].max())
        if bool((live & (low == start) & (high == end)).all()):
            yield Job(a, b - a, start, end - start)
        else:
            yield Job(a, b - a, start, end - start, mask=_bounds_mask(low.copy(), high.copy(), start, end))


def _bounds_mask(lo: Ints, hi: Ints, start: int, end: int) -> Mask:
    def make() -> Bools:
        k = np.arange(start, end)
        return (k >= lo[:, None]) & (k < hi[:, None])

    return Mask(make, len(lo) * (end - start))

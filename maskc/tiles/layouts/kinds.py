"""The kinds of tiles that are boxes of digits, exactly, from tables: no pair of tokens is looked at."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.tiles.grid import Rectangles
from maskc.tiles.layouts.digits import Part
from maskc.tiles.layouts.tables import MOST_POINTS, Tables, Unsuited
from maskc.tiles.tiling import EMPTY, FULL, PARTIAL

__all__ = ["dense_rectangles", "digit_rectangles", "kinds_between"]

Array = npt.NDArray[Any]
_CHUNK = 1 << 20  # pairs of pieces looked at once
#: A tile may hold a kept pair (bit 0), and a dropped one (bit 1).
_KIND = np.array([EMPTY, FULL, EMPTY, PARTIAL], np.uint8)


def kinds_between(tables: Tables, q: Part, k: Part) -> Iterator[tuple[slice, Array]]:
    """The bits of every pair of pieces, (some of the query pieces, key pieces), chunk by chunk."""
    columns = []
    for table in tables.tables:
        group = table.group
        q_spans, q_ids = _distinct(q, group.q)
        k_spans, k_ids = _distinct(k, group.k)
        if math.prod(x.size for x, _ in (*q_spans, *k_spans)) > MOST_POINTS:
            raise Unsuited
        bits = table.over(q_spans, k_spans)
        q_flat, q_id = _flat(q_ids, [x.size for x, _ in q_spans], q.tile.size)
        k_flat, k_id = _flat(k_ids, [x.size for x, _ in k_spans], k.tile.size)
        distinct, classes = np.unique(bits, return_inverse=True)
        columns.append((distinct.astype(np.uint64), classes.reshape(q_flat, k_flat), q_id, k_id))
    kinds = tables.kinds([c[0] for c in columns])
    step = max(1, _CHUNK // max(1, k.tile.size))
    for first in range(0, q.tile.size, step):
        rows = slice(first, min(first + step, q.tile.size))
        place: Array = np.zeros((rows.stop - first, k.tile.size), np.int32)
        for distinct, classes, q_id, k_id in columns:
            place = place * distinct.size + classes.astype(np.int32)[q_id[rows]][:, k_id]
        yield rows, kinds.ravel()[place]


def _distinct(part: Part, digits: Sequence[int]) -> tuple[list[tuple[Array, Array]], list[Array]]:
    """The distinct intervals of each digit, and which of them every piece has."""
    spans, ids = [], []
    for j in digits:
        both, which = np.unique(part.low[:, j] << 32 | part.high[:, j], return_inverse=True)
        spans.append((both >> 32, both & 0xFFFFFFFF))
        ids.append(which)
    return spans, ids


def _flat(ids: Sequence[Array], sizes: Sequence[int], count: int) -> tuple[int, Array]:
    out = np.zeros(count, np.int64)
    for each, size in zip(ids, sizes, strict=True):
        out = out * size + each
    return math.prod(sizes), out


def digit_rectangles(tables: Tables, q: Part, k: Part) -> Rectangles | None:
    """FULL and PARTIAL runs between two parts cut into blocks, digit by digit; None if they do not factor."""
    if q.counts is None or k.counts is None:
        return None
    levels = _levels(tables, q, k)
    if levels is None:
        return None
    places = [level.table for level in levels if level.table is not None]
    kinds = tables.kinds([next(x.distinct for x in levels if x.table == i) for i in range(len(tables.tables))])
    shape = tuple(level.distinct.size for level in levels)
    kinds = kinds.transpose(places).reshape(shape)
    row, col, state = (np.zeros(1, np.int64) for _ in range(3))
    for n, level in enumerate(levels[:-1]):
        alive = (kinds & 1).reshape(math.prod(shape[:n]), shape[n], -1).any(axis=2)
        row, col, state = _expand(level, alive, row, col, state)
    last = levels[-1]
    out = [Rectangles.join([])]
    for value in np.unique(state):
        here = state == value
        start, end, q_at, kind = _runs(_KIND[kinds.reshape(-1, shape[-1])[value]][last.classes])
        r = (row[here][:, None] + q_at * last.q_step).ravel()
        c0 = (col[here][:, None] + start).ravel()
        c1 = (col[here][:, None] + end).ravel()
        out.append(Rectangles(r, r + 1, c0, c1, np.tile(kind, int(here.sum()))))
    found = Rectangles.join(out)
    q0, k0 = q.tile[0], k.tile[0]
    return Rectangles(found.r0 + q0, found.r1 + q0, found.c0 + k0, found.c1 + k0, found.kind)


@dataclass(frozen=True, eq=False)
class _Level:
    """The blocks of one table's digits: their distinct bits, and which of them every pair (q block, k block) has."""

    table: int | None
    distinct: Array
    classes: Array
    q_step: int
    k_step: int


def _levels(tables: Tables, q: Part, k: Part) -> list[_Level] | None:
    """One level a table, the one with the innermost block digit of the keys last; digits without conditions are
    levels of their own."""
    steps = [_block_steps(q), _block_steps(k)]
    levels, used = [], (set[int](), set[int]())
    for i, table in enumerate(tables.tables):
        g = table.group
        if len(g.q) > 1 or len(g.k) > 1:
            return None
        used[0].update(g.q)
        used[1].update(g.k)
        q_spans, k_spans = _blocks(q, g.q), _blocks(k, g.k)
        bits = table.over(q_spans, k_spans)
        distinct, classes = np.unique(bits, return_inverse=True)
        shape = (q_spans[0][0].size if q_spans else 1, k_spans[0][0].size if k_spans else 1)
        step = (steps[0][g.q[0]] if g.q else 0, steps[1][g.k[0]] if g.k else 0)
        levels.append(_Level(i, distinct.astype(np.uint64), classes.reshape(shape), *step))
    one = np.ones(1, np.uint64)
    for side, part in enumerate((q, k)):
        assert part.counts is not None
        for j, n in enumerate(part.counts):
            if j not in used[side]:
                free = np.zeros((n, 1) if side == 0 else (1, n), np.int64)
                step = (steps[0][j], 0) if side == 0 else (0, steps[1][j])
                levels.append(_Level(None, one, free, *step))
    innermost = min(range(len(levels)), key=lambda i: (levels[i].k_step != 1, -levels[i].classes.shape[1]))
    return [*levels[:innermost], *levels[innermost + 1 :], levels[innermost]]


def _block_steps(part: Part) -> dict[int, int]:
    """By how many tiles the next block of a digit is away."""
    assert part.counts is not None
    steps, below = {}, 1
    for j in reversed(part.nesting):
        steps[j] = below
        below *= part.counts[j]
    return steps


def _blocks(part: Part, digits: Sequence[int]) -> list[tuple[Array, Array]]:
    """The blocks of one digit."""
    assert part.counts is not None
    out = []
    for j in digits:
        first, size = part.low[0, j], part.high[0, j] - part.low[0, j]
        low = first + size * np.arange(part.counts[j], dtype=np.int64)
        out.append((low, low + size))
    return out


def _expand(level: _Level, alive: Array, row: Array, col: Array, state: Array) -> tuple[Array, Array, Array]:
    rows, cols, states = ([np.zeros(0, np.int64)] for _ in range(3))
    for value in np.unique(state):
        here = state == value
        qb, kb = np.nonzero(alive[value][level.classes])
        rows.append((row[here][:, None] + qb * level.q_step).ravel())
        cols.append((col[here][:, None] + kb * level.k_step).ravel())
        after = value * level.distinct.size + level.classes[qb, kb]
        states.append(np.tile(after, int(here.sum())))
    return np.concatenate(rows), np.concatenate(cols), np.concatenate(states)


def _runs(kinds: Array) -> tuple[Array, Array, Array, Array]:
    """The runs of equal kind, but EMPTY, of a table of kinds: start, end, row, kind."""
    rows, cols = kinds.shape
    edge = np.ones((rows, cols), np.bool_)
    edge[:, 1:] = kinds[:, 1:] != kinds[:, :-1]
    at = np.flatnonzero(edge)
    end = np.append(at[1:], kinds.size)
    row, kind = at // cols, kinds.ravel()[at]
    keep = kind != EMPTY
    start, end, row = at[keep], end[keep], row[keep]
    return start - row * cols, end - row * cols, row, kind[keep]


def dense_rectangles(bits: Array, first_row: int, first_col: int) -> Rectangles:
    """FULL and PARTIAL runs of a table of bits."""
    start, end, row, kind = _runs(_KIND[bits])
    r = row + first_row
    return Rectangles(r, r + 1, start + first_col, end + first_col, kind)

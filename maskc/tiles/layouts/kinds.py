"""The kinds of tiles that are boxes of digits, exactly, from tables of one digit of the query and one of the key.

The conditions on one digit are looked at together: which combinations of their truth values occur between a block of
query digits and a block of key digits is found from the digits' own tables. Blocks of different digits vary
independently, so a tile's kind is a matter of these combinations alone, and no pair of tokens is looked at.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.ir.evaluate import evaluate
from maskc.ir.nodes import Apply, Const, Lookup, Node, Symbol
from maskc.ir.ops import apply
from maskc.ir.rewrite import mentions, substitute
from maskc.passes.linear import bound_of, linear
from maskc.tiles.classify import Classifier
from maskc.tiles.layouts.digits import Axes, Part
from maskc.tiles.layouts.separate import Group, Separated, digit, is_connective
from maskc.tiles.plan import EMPTY, FULL, PARTIAL
from maskc.tiles.subdivide import Rectangles

__all__ = ["Tables", "Unsuited", "dense_rectangles", "digit_rectangles", "kinds_between"]

Array = npt.NDArray[Any]
#: Points of a digit's table, at most; truth values that are told apart; combinations of those of all digits.
_MOST_POINTS = 1 << 21
_MOST_SIGNATURES = 60
_MOST_UNCHECKED = 8  # with fewer, combinations that do not occur are not weeded out
_MOST_COMBINATIONS = 1 << 20
_CHUNK = 1 << 20  # pairs of pieces looked at once
#: A tile may hold a kept pair (bit 0), and a dropped one (bit 1).
_KIND = np.array([EMPTY, FULL, EMPTY, PARTIAL], np.uint8)


class Unsuited(Exception):
    """The mask is not one of digits, or one of too many."""


@dataclass(frozen=True, eq=False)
class _Table:
    """Which combinations of truth values occur, one bit each: at all values of the digits, (q digits, k digits), or
    by the difference of the two, counted in cumulative sums, (signatures, differences + 1)."""

    group: Group
    signatures: Array  # (combinations, atoms), bool
    cells: Array
    differences: int | None  # the index of difference 0
    turns: tuple[Array | None, Array | None]  # where cells stand for several values of a digit: the cell of each

    def over(self, q: Sequence[tuple[Array, Array]], k: Sequence[tuple[Array, Array]]) -> Array:
        """The bits that occur in products of intervals (first, last excluded), one axis a digit."""
        if self.differences is not None:
            first = q[0][0][:, None] - k[0][1][None, :] + 1 + self.differences
            last = q[0][1][:, None] - k[0][0][None, :] + self.differences
            out = np.zeros(first.shape, np.uint64)
            for i, counts in enumerate(self.cells):
                out |= (counts[last] > counts[first]).astype(np.uint64) << np.uint64(i)
            return out
        cells = self.cells
        every = [self._turned(span, 0) for span in q] + [self._turned(span, 1) for span in k]
        for axis, (first, last) in enumerate(every):
            cells = _spans(cells, first, last, axis)
        return cells

    def _turned(self, span: tuple[Array, Array], side: int) -> tuple[Array, Array]:
        cell = self.turns[side]
        return span if cell is None else (cell[span[0]], cell[span[1] - 1] + 1)


def _spans(cells: Array, first: Array, last: Array, axis: int) -> Array:
    """Bitwise or over spans along an axis."""
    width = last - first
    if first.size and (first[1:] == last[:-1]).all() and (width == width[0]).all():
        part = cells[(slice(None),) * axis + (slice(int(first[0]), int(last[-1])),)]
        blocks = part.reshape(*cells.shape[:axis], first.size, int(width[0]), *cells.shape[axis + 1 :])
        return np.asarray(np.bitwise_or.reduce(blocks, axis=axis + 1))
    if (width == 1).all():
        return np.take(cells, first, axis=axis)
    padded = np.concatenate([cells, np.zeros_like(np.take(cells, [0], axis=axis))], axis=axis)
    return np.take(
        np.bitwise_or.reduceat(padded, np.stack([first, last], 1).ravel(), axis=axis),
        range(0, 2 * first.size, 2),
        axis=axis,
    )


class Tables:
    """A mask between two segments, ready to be asked about boxes of their digits."""

    def __init__(self, c: Classifier, found: Separated, q_axes: Axes, k_axes: Axes) -> None:
        self.found, self.axes = found, (q_axes, k_axes)
        self.tables = [self._shared(c, g) for g in found.groups]
        self.combinations = [len(t.signatures) for t in self.tables]
        if math.prod(self.combinations) > _MOST_COMBINATIONS:
            raise Unsuited
        self.truth = self._truth()

    def _shared(self, c: Classifier, group: Group) -> _Table:
        """The table of a group, made once for all heads and batch entries of which it says the same."""
        own = mentions(group.atoms)
        inputs = {n.name for n in own if isinstance(n, Lookup)}
        head = c.head if any("h" in own[a] for a in group.atoms) else None
        batch = c.batch if any("b" in own[a] for a in group.atoms) or inputs & c.binding.batched else None
        return c._once(("digits", group, self.axes, head, batch), lambda: self._table(c, group))

    def _extents(self, side: int, digits: Iterable[int]) -> list[int]:
        return [self.axes[side].digits[j][1] for j in digits]

    def _table(self, c: Classifier, group: Group) -> _Table:
        shape = [*self._extents(0, group.q), *self._extents(1, group.k)]
        if _of_difference(group):
            nq, nk = shape
            d = np.arange(1 - nk, nq, dtype=np.int64)
            which, signatures = _signatures(self._values(c, group, np.maximum(d, 0), np.maximum(-d, 0)), d.shape)
            hits = which[None, :] == np.arange(len(signatures))[:, None]
            counts = np.zeros((len(signatures), d.size + 1), np.int32)
            np.cumsum(hits, axis=1, out=counts[:, 1:])
            return _Table(group, signatures, counts, nk - 1, (None, None))
        q, k = (np.arange(math.prod(x), dtype=np.int64) for x in (shape[: len(group.q)], shape[len(group.q) :]))
        turns: tuple[Array | None, Array | None] = (None, None)
        if len(group.q) <= 1 and len(group.k) <= 1:
            q, q_cell = self._few(c, group, "q", q)
            k, k_cell = self._few(c, group, "k", k)
            turns, shape = (q_cell, k_cell), [x.size for x, g in ((q, group.q), (k, group.k)) if g]
        if q.size * k.size > _MOST_POINTS:
            raise Unsuited
        which, signatures = _signatures(self._values(c, group, q[:, None], k[None, :]), (q.size, k.size))
        width = np.uint8 if len(signatures) <= 8 else np.uint16 if len(signatures) <= 16 else np.uint64
        bits = np.left_shift(width(1), which, dtype=width)
        return _Table(group, signatures, bits.reshape(shape), None, turns)

    def _few(self, c: Classifier, group: Group, side: str, values: Array) -> tuple[Array, Array]:
        """The values of a digit at which what is said of it changes, and how many of them are up to each value."""
        digits = self._digits(group)
        zero = np.zeros(1, np.int64)
        changes = values == 0
        for node in _one_sided([substitute(a, digits) for a in group.atoms], side):
            q, k = (values, zero) if side == "q" else (zero, values)
            found = evaluate(node, c.binding, q=q, k=k, h=c.head, b=c.batch, params=c.params)
            found = np.broadcast_to(found, values.shape)
            changes[1:] |= found[1:] != found[:-1]
        return values[changes], np.cumsum(changes) - 1

    def _values(self, c: Classifier, group: Group, q: Array, k: Array) -> Iterator[Array]:
        digits = self._digits(group)
        for atom in group.atoms:
            node = substitute(atom, digits)
            yield evaluate(node, c.binding, q=q, k=k, h=c.head, b=c.batch, params=c.params)

    def _digits(self, group: Group) -> dict[Node, Node]:
        """The group's digits as functions of one number a side, in which they stand one after another."""
        digits: dict[Node, Node] = {}
        for side, (name, places) in enumerate((("q", group.q), ("k", group.k))):
            below = 1
            for j, n in reversed(list(zip(places, self._extents(side, places), strict=True))):
                value: Node = Symbol(name)
                if len(places) > 1:
                    value = apply("mod", apply("floordiv", value, Const(below)), Const(n))
                digits[digit(name, j)] = value
                below *= n
        return digits

    def _truth(self) -> Array:
        """The mask for all combinations of truth values, one axis a group."""
        known: dict[Node, Array] = {}
        rank = len(self.tables)
        for axis, table in enumerate(self.tables):
            shape = tuple(-1 if i == axis else 1 for i in range(rank))
            for i, atom in enumerate(table.group.atoms):
                known[atom] = table.signatures[:, i].reshape(shape)
        return np.broadcast_to(_combine(self.found.mask, known), tuple(self.combinations))

    def kinds(self, classes: Sequence[Array]) -> Array:
        """What combinations of bits (one array of distinct ones a group) come to: bits of kept and dropped."""
        out = []
        for wanted in (self.truth, ~self.truth):
            some = wanted
            for bits in classes:
                # Over the first axis that is left; the group's own comes last.
                has = (bits[:, None] >> np.arange(some.shape[0], dtype=np.uint64)) & np.uint64(1) != 0
                some = np.tensordot(some, has, axes=(0, 1)) > 0
            out.append(some)
        kinds: Array = out[0].astype(np.uint8) | (out[1].astype(np.uint8) << 1)
        return kinds


def _of_difference(group: Group) -> bool:
    """Whether all conditions speak of the difference of the two digits only."""
    if len(group.q) != 1 or len(group.k) != 1:
        return False
    q, k = digit("q", group.q[0]), digit("k", group.k[0])
    for atom in group.atoms:
        bound = bound_of(atom)
        if bound is None or isinstance(bound, bool):
            return False
        inner = [(a.args[0] if isinstance(a, Apply) and a.op == "mod" and isinstance(a.args[1], Const) else a, f)
                 for a, f in bound.form.terms]  # fmt: skip
        plain = bound.form.terms
        if len(plain) == 1 and inner[0][0] is not plain[0][0]:
            plain = linear(inner[0][0]).terms
        slopes = dict(plain)
        if set(slopes) != {q, k} or slopes[q] != -slopes[k]:
            return False
    return True


def _one_sided(atoms: list[Node], side: str) -> list[Node]:
    """The largest expressions within ``atoms`` that speak of one side, but not of the other."""
    names = mentions(atoms)
    other = "k" if side == "q" else "q"
    found, stack, seen = dict[Node, None](), list(atoms), set[Node]()
    while stack:
        node = stack.pop()
        if node in seen or side not in names[node]:
            continue
        seen.add(node)
        if other in names[node]:
            stack.extend(node.children)
        else:
            found[node] = None
    return list(found)


def _signatures(values: Iterable[Array], shape: tuple[int, ...]) -> tuple[Array, Array]:
    """For every point the number of its combination of truth values, and the combinations."""
    which: Array = np.zeros(shape, np.uint8)
    signatures: Array = np.zeros((1, 0), np.bool_)
    for value in values:
        both = (which << 1) | value
        if len(signatures) < _MOST_UNCHECKED:
            which = both
            signatures = _doubled(signatures)
            continue
        present = np.bincount(both.ravel(), minlength=2 * len(signatures)) > 0
        if present.sum() > _MOST_SIGNATURES:
            raise Unsuited
        renumbered = (np.cumsum(present) - 1).astype(np.uint8)
        which = both if present.all() else renumbered[both]
        signatures = _doubled(signatures)[present]
    return which, signatures


def _doubled(signatures: Array) -> Array:
    """Every combination with one more truth value, false and true."""
    return np.concatenate([np.repeat(signatures, 2, axis=0), np.tile([[False], [True]], (len(signatures), 1))], 1)


def _combine(mask: Node, known: dict[Node, Array]) -> Array:
    if isinstance(mask, Const):
        return np.asarray(bool(mask.value))
    if mask not in known:
        assert isinstance(mask, Apply)
        assert is_connective(mask)
        args = [_combine(a, known) for a in mask.args]
        joined = {"and": np.logical_and, "or": np.logical_or, "eq": np.equal, "ne": np.not_equal}
        if mask.op == "not":
            known[mask] = ~args[0]
        elif mask.op == "select":
            known[mask] = np.where(args[0], args[1], args[2])
        else:
            known[mask] = functools.reduce(joined[mask.op], args)
    return known[mask]


def kinds_between(tables: Tables, q: Part, k: Part) -> Iterator[tuple[slice, Array]]:
    """The bits of every pair of pieces, (some of the query pieces, key pieces), chunk by chunk."""
    columns = []
    for table in tables.tables:
        group = table.group
        q_spans, q_ids = _distinct(q, group.q)
        k_spans, k_ids = _distinct(k, group.k)
        if math.prod(x.size for x, _ in (*q_spans, *k_spans)) > _MOST_POINTS:
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

"""Tables of the conditions of a mask on one digit of the query and one of the key.

The conditions on one digit are looked at together: which combinations of their truth values occur between a block of
query digits and a block of key digits is found from the digits' own tables. Blocks of different digits vary
independently, so what the mask is between them is a matter of these combinations alone.
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
from maskc.tiles.layouts.digits import Axes
from maskc.tiles.layouts.separate import Group, Separated, digit, is_connective

__all__ = ["MOST_POINTS", "Tables", "Unsuited"]

Array = npt.NDArray[Any]
#: Points of a digit's table, at most; truth values that are told apart; combinations of those of all digits.
MOST_POINTS = 1 << 21
_MOST_SIGNATURES = 60
_MOST_UNCHECKED = 8  # with fewer, combinations that do not occur are not weeded out
_MOST_COMBINATIONS = 1 << 20


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
        if q.size * k.size > MOST_POINTS:
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
        kinds: Array = out[0].astype(np.uint8) | (out[1].astype(np.uint8) << np.uint8(1))
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

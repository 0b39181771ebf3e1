"""Masks that keep, for each query, a box of keys: `a(q) <= f(k) <= b(q)` for several functions f at once.

A neighbourhood in a grid is one: a range of columns, of rows and of frames. So are documents with a causal mask, and
dilation (the remainder of a key is that of the query). Computed pair by pair, each range takes two comparisons; and
each f a division or a look-up, for every key of every tile. Instead the values f(k) of a key become the digits of one
integer, its *point*, and the bounds of a query those of two *corners*, once for all calls. With a bit that is free
above each digit, one subtraction compares all of them: a digit of the point is not below that of the corner if the
difference leaves the bit. So a pair takes two subtractions, whatever the number of ranges.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.backends.triton.sides import put_apart
from maskc.ir.binding import Binding
from maskc.ir.evaluate import evaluate
from maskc.ir.nodes import Apply, Exists, Node, Symbol, Type, postorder
from maskc.ir.program import Program
from maskc.tiles.plan import TilePlan
from maskc.tiles.tiling import Group

__all__ = ["BOX_COST", "Box", "Packed", "box_of", "packed"]

Array = npt.NDArray[Any]
#: Operations a pair that a box takes.
BOX_COST = 4
_BITS = 31
_QUERY, _KEY = frozenset({"q"}), frozenset({"k"})


@dataclass(frozen=True)
class Side:
    """The bounds of one function of keys: at least each of ``low``, at most each of ``high`` (plus ``below``: 0, or -1
    where the bound itself is not reached)."""

    low: tuple[tuple[Node, int], ...] = ()
    high: tuple[tuple[Node, int], ...] = ()


@dataclass(frozen=True)
class Box:
    """A mask as bounds of functions of keys. ``queries``, ``keys``: conditions that speak of one side alone."""

    sides: dict[Node, Side]
    queries: tuple[Node, ...]
    keys: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class Packed:
    """Boxes as integers, int32: a pair is kept if ``(point - low) & (high - point)`` has all bits of ``guard``.

    ``low``, ``high``: (masks * q_len,), in laid-out order of the queries; ``point``: (masks * k_len,), of the keys.
    """

    low: Array
    high: Array
    point: Array
    guard: int


def box_of(program: Program) -> Box | None:
    """The box that the mask is, if it is one: a conjunction of comparisons of a query with a key."""
    mask = program.mask
    parts = mask.args if isinstance(mask, Apply) and mask.op == "and" else (mask,)
    sides: dict[Node, Side] = {}
    queries, keys = [], []
    for part in parts:
        tokens = _tokens(part)
        if tokens is None:
            return None
        if "k" not in tokens:
            queries.append(part)
        elif "q" not in tokens:
            keys.append(part)
        elif not _compared(part, sides):
            return None
    return Box(sides, tuple(queries), tuple(keys)) if sides else None


def _tokens(node: Node) -> frozenset[str] | None:
    """Which of "q" and "k" it speaks of; None where numbers alone do not tell its value."""
    below = list(postorder([node]))
    if any(isinstance(n, Exists) or n.type is Type.FLOAT for n in below):
        return None
    return frozenset(n.name for n in below if isinstance(n, Symbol) and n.name in ("q", "k"))


def _compared(part: Node, sides: dict[Node, Side]) -> bool:
    """Take in a comparison of a query with a key; False if it is none."""
    found = put_apart(part)
    if not (isinstance(found, Apply) and found.op in ("lt", "le", "eq")):
        return False
    part, (a, b) = found, found.args
    of_a, of_b = _tokens(a), _tokens(b)
    if (of_a, of_b) not in ((_KEY, _QUERY), (_QUERY, _KEY)):
        return False
    key, query, upper = (a, b, True) if of_a == _KEY else (b, a, False)
    side, strict = sides.get(key, Side()), 1 if part.op == "lt" else 0
    low, high = side.low, side.high
    if part.op == "eq" or upper:
        high = (*high, (query, -strict))
    if part.op == "eq" or not upper:
        low = (*low, (query, strict))
    sides[key] = Side(low, high)
    return True


def packed(box: Box, program: Program, plan: TilePlan, groups: Sequence[Group]) -> Packed | None:
    """The boxes of some groups of a plan, one mask each; None where their digits need more than 31 bits."""
    # Group by group, since what many heads of a long sequence have is large: first how many values each digit takes.
    least, most = [], []
    for group in groups:
        keys = list(_Values(box, program, plan.binding, group).keys())
        least.append([int(x.min(initial=0)) for x in keys])
        most.append([int(x.max(initial=0)) for x in keys])
    digits, guard, shift = list[_Digit](), 0, 0
    for lows, highs in zip(zip(*least, strict=True), zip(*most, strict=True), strict=True):
        digits.append(_Digit(min(lows), max(highs) - min(lows) + 1, shift))
        bits = digits[-1].count.bit_length()
        guard |= 1 << (shift + bits)
        shift += bits + 1
    if shift > _BITS:
        return None
    first, last = np.empty((2, len(groups), plan.binding.q_len), np.int32)
    point = np.empty((len(groups), plan.binding.k_len), np.int32)
    q_order, k_order = (slice(None) if x.index is None else x.index for x in (plan.q_order, plan.k_order))
    for i, group in enumerate(groups):
        values = _Values(box, program, plan.binding, group)
        bounds = [d.bounds(*ends) for d, ends in zip(digits, values.bounds(), strict=True)]
        low, high = (np.sum(x, axis=0) for x in zip(*bounds, strict=True))
        first[i], last[i] = (low - guard)[q_order], (high + guard)[q_order]
        points = [d.point(x) for d, x in zip(digits, values.keys(), strict=True)]
        point[i] = np.sum(points, axis=0)[k_order]
    return Packed(first.ravel(), last.ravel(), point.ravel(), guard)


@dataclass(frozen=True)
class _Digit:
    """Where a digit is, and the values of keys that it tells apart: ``count`` from ``least`` on."""

    least: int
    count: int
    shift: int

    def point(self, key: Array) -> Array:
        """What keys have there."""
        return (key - self.least) << self.shift

    def bounds(self, low: Array, high: Array) -> tuple[Array, Array]:
        """What queries have there."""
        # One more than the largest key has is what no key reaches.
        lower = np.where(high < self.least, self.count, np.clip(low - self.least, 0, self.count))
        return lower << self.shift, np.clip(high - self.least, 0, self.count - 1) << self.shift


@dataclass(frozen=True, eq=False)
class _Values:
    """The values of the digits of a group's boxes. Conditions on one side alone are one digit that is 0 where they
    hold."""

    box: Box
    program: Program
    binding: Binding
    group: Group

    def keys(self) -> Iterator[Array]:
        """Of every key, digit by digit."""
        for node in self.box.sides:
            yield self._of(node, "k")
        if self.box.queries or self.box.keys:
            yield (~self._all(self.box.keys, "k")).astype(np.int64)

    def bounds(self) -> Iterator[tuple[Array, Array]]:
        """The least and the greatest value for every query, digit by digit."""
        far = np.iinfo(np.int64).max >> 1
        for side in self.box.sides.values():
            lows = [self._of(bound, "q") + more for bound, more in side.low]
            highs = [self._of(bound, "q") + more for bound, more in side.high]
            none = np.full(self.binding.q_len, far)
            yield np.max([-none, *lows], axis=0), np.min([none, *highs], axis=0)
        if self.box.queries or self.box.keys:
            here = self._all(self.box.queries, "q")
            yield np.zeros(here.shape, np.int64), np.where(here, 0, -1)

    def _all(self, nodes: Sequence[Node], side: str) -> Array:
        true = np.ones(self.binding.q_len if side == "q" else self.binding.k_len, np.bool_)
        found: Array = np.logical_and.reduce([true, *(self._of(n, side) for n in nodes)])
        return found

    def _of(self, node: Node, side: str) -> Array:
        b = self.binding
        q = np.arange(b.offset, b.offset + (b.q_len if side == "q" else min(b.q_len, 1)), dtype=np.int64)
        k = np.arange(b.k_len if side == "k" else min(b.k_len, 1), dtype=np.int64)
        at: dict[str, Any] = {"q": q, "k": k, "h": self.group.heads[0], "b": self.group.batches[0]}
        return np.broadcast_to(evaluate(node, b, **at, params=self.program.params), at[side].shape)

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
    fields = [list(_fields(box, program, plan.binding, g)) for g in groups]
    low, high = np.zeros((2, len(groups), plan.binding.q_len), np.int64)
    point = np.zeros((len(groups), plan.binding.k_len), np.int64)
    guard = shift = 0
    for digits in zip(*fields, strict=True):
        least = min(int(d.key.min(initial=0)) for d in digits)
        count = max(int(d.key.max(initial=0)) for d in digits) - least + 1
        bits = count.bit_length()
        for i, d in enumerate(digits):
            # One more than the largest key has is what no key reaches.
            low[i] += np.where(d.high < least, count, np.clip(d.low - least, 0, count)) << shift
            high[i] += np.clip(d.high - least, 0, count - 1) << shift
            point[i] += (d.key - least) << shift
        guard |= 1 << (shift + bits)
        shift += bits + 1
    if shift > _BITS:
        return None
    if plan.q_order.index is not None:
        low, high = low[:, plan.q_order.index], high[:, plan.q_order.index]
    if plan.k_order.index is not None:
        point = point[:, plan.k_order.index]
    first, last, points = (x.astype(np.int32).ravel() for x in (low - guard, high + guard, point))
    return Packed(first, last, points, guard)


@dataclass(frozen=True, eq=False)
class _Field:
    """The values of one digit: of every key, and the bounds at every query."""

    key: Array
    low: Array
    high: Array


def _fields(box: Box, program: Program, binding: Binding, group: Group) -> Iterator[_Field]:
    """The digits of a group's boxes. Conditions on one side alone are one digit that is 0 where they hold."""
    q = np.arange(binding.offset, binding.offset + binding.q_len, dtype=np.int64)
    k = np.arange(binding.k_len, dtype=np.int64)
    far = np.iinfo(np.int64).max >> 1

    def value(node: Node, like: Array) -> Array:
        at: dict[str, Any] = {"q": q[:1], "k": k[:1], "h": group.heads[0], "b": group.batches[0]}
        at["q" if like is q else "k"] = like
        return np.broadcast_to(evaluate(node, binding, **at, params=program.params), like.shape)

    for node, side in box.sides.items():
        low, high = np.full((1, *q.shape), -far), np.full((1, *q.shape), far)
        lows = [value(bound, q) + more for bound, more in side.low]
        highs = [value(bound, q) + more for bound, more in side.high]
        yield _Field(value(node, k), np.max([*low, *lows], axis=0), np.min([*high, *highs], axis=0))
    if box.queries or box.keys:
        here = np.logical_and.reduce([np.ones(q.shape, bool), *(value(n, q) for n in box.queries)])
        there = np.logical_and.reduce([np.ones(k.shape, bool), *(value(n, k) for n in box.keys)])
        yield _Field((~there).astype(np.int64), np.zeros_like(q), np.where(here, 0, -1))

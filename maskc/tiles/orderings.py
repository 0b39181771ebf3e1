"""Conditions that something of the query is at most, or below, something of the key: ``rank[k] < rank[q]``.

The least and the greatest of each tile tell what it is, whatever order the tokens are in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.ir.nodes import Apply, Node, Symbol, Type, postorder
from maskc.ir.ops import apply
from maskc.passes.linear import Linear, linear, linear_node
from maskc.tiles.budget import Budget
from maskc.tiles.columns import PairColumns, runs_of_kinds

__all__ = ["Order", "order_of", "ordered_places", "places_in_order"]

Array = npt.NDArray[Any]
_ORDERED, _TRIED = 4, 16  # nanoseconds for a pair of tiles; rows that tell how many runs others have


@dataclass(frozen=True)
class Order:
    """``condition`` as ``query <= key``, or as ``query < key`` if ``strict``. ``unordered``: it also holds where one of
    the two is not a number."""

    condition: Node
    query: Node
    key: Node
    strict: bool = False
    unordered: bool = False


def order_of(part: Node) -> Order | None:
    """The order that ``part`` states, if it compares numbers and each can be put on a side of its own."""
    opposite = isinstance(part, Apply) and part.op == "not"  # of floats: else negation has moved inward
    inner = part.children[0] if opposite else part
    if not (isinstance(inner, Apply) and inner.op in ("lt", "le")):
        return None
    strict, (low, high) = inner.op == "lt", inner.args
    if low.type is Type.INT:
        return None if opposite else _of_integers(part, linear(high).plus(linear(low), -1), int(strict))
    if opposite:
        low, high, strict = high, low, not strict
    if _speaks_of(low) == {"q"} and _speaks_of(high) == {"k"}:
        return Order(part, low, high, strict, opposite)
    if _speaks_of(low) == {"k"} and _speaks_of(high) == {"q"}:
        return Order(part, apply("neg", high), apply("neg", low), strict, opposite)
    return None


def _of_integers(part: Node, room: Linear, least: int) -> Order | None:
    """``least <= room``."""
    names = {atom: _speaks_of(atom) for atom, _ in room.terms}
    if not ({"q"} in names.values() and {"k"} in names.values()) or {"q", "k"} in names.values():
        return None
    of_key = Linear(tuple(t for t in room.terms if names[t[0]] == {"k"}))
    return Order(part, linear_node(of_key.plus(room, -1).plus(Linear((), least))), linear_node(of_key))


def _speaks_of(node: Node) -> set[str]:
    """Which of the query and the key."""
    return {n.name for n in postorder([node]) if isinstance(n, Symbol)} & {"q", "k"}


def places_in_order(
    q_value: Array,
    k_value: Array,
    strict: bool = False,
    unordered: bool = False,
    admitted: tuple[Array | bool, Array | bool] = (True, True),
    free: Array | None = None,
) -> tuple[Array, Array]:
    """An integer of each query and of each key, of which the query's is at most the key's where ``q_value <= k_value``,
    or ``<`` if ``strict``, or, if ``unordered``, where one of them is not a number; of what is ``admitted`` and
    ``free`` as in ``shared_labels``."""
    q, k = _integers(q_value) + strict, _integers(k_value)
    if q_value.dtype.kind == "f":
        q = np.where(np.isnan(q_value), -_MOST if unordered else _MOST, q)
        k = np.where(np.isnan(k_value), _MOST - 1 if unordered else -_MOST - 1, k)
    q, k = np.where(admitted[0], q, _MOST), np.where(admitted[1], k, -_MOST - 1)
    return q, k if free is None else np.where(free, _MOST, k)


#: Integers of a program are below 2**62, and floats become such as leave some at the ends, too.
_MOST = (1 << 63) - 1


def _integers(values: Array) -> Array:
    """Integers in the same order; 0 and -0 become one."""
    if values.dtype.kind != "f":
        return values
    bits = (values + 0.0).view(np.int64)
    return np.where(bits < 0, bits ^ _MOST, bits)


def ordered_places(
    q: Array, k: Array, starts: Array, tile: int, reach: tuple[Array, Array] | None = None, budget: Budget | None = None
) -> PairColumns | None:
    """As ``shared_labels``, what there is to find the runs of ``q <= k``."""
    k_starts = np.arange(0, k.size, tile)
    ends = [f.reduceat(x, at) for x, at in ((q, starts), (k, k_starts)) for f in (np.minimum, np.maximum)]
    lo, hi = (np.zeros(starts.size, np.int64), np.full(starts.size, k_starts.size)) if reach is None else reach
    found = PairColumns(_Ends(*ends), np.zeros(starts.size, np.bool_), lo, hi, tile)
    return found.within(budget, "numbers in an order that tiles have")


@dataclass(frozen=True, eq=False)
class _Ends:
    """The least and the greatest number of each tile of queries and of keys. A pair passes where the query's is at most
    the key's."""

    q_least: Array
    q_greatest: Array
    k_least: Array
    k_greatest: Array

    @property
    def k_count(self) -> int:
        return self.k_least.size

    @property
    def runs_of_row(self) -> int:
        rows = np.unique(np.linspace(0, self.q_least.size - 1, _TRIED).astype(np.int64))
        return int(runs_of_kinds(self.kinds(rows, 0, self.k_count))[0].max()) + 1

    def work(self, rows: Array, tiles: int) -> int:
        return _ORDERED * tiles

    def kinds(self, rows: Array, first: int, last: int) -> Array:
        some = self.q_least[rows, None] <= self.k_greatest[first:last]
        whole = self.q_greatest[rows, None] <= self.k_least[first:last]
        found: Array = some.astype(np.uint8) + whole
        return found

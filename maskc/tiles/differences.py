"""Conditions on ``q - k`` alone: which differences they hold for tells what every tile is.

A tile has the differences between its corners, all of them. So clauses that speak of ``q - k`` are asked about at each
difference once, all of a union together, and a row of tiles is a stretch of that: for tiles of one size, of the same
stretch as any other row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.ir.nodes import TRUE, Const, Node, Symbol, postorder
from maskc.ir.ops import conjunction
from maskc.passes.linear import linear, linear_node
from maskc.passes.rows import conjuncts
from maskc.tiles.budget import OPERATIONS, Budget
from maskc.tiles.classify import Classifier
from maskc.tiles.columns import Columns
from maskc.tiles.grid import Grid
from maskc.tiles.rowform import Bounds, Differences, Solved, on_difference, operands
from maskc.tiles.runs import concatenated_ranges

__all__ = ["Diagonals", "diagonals", "with_differences"]

Array = npt.NDArray[Any]
_Q, _K = Symbol("q"), Symbol("k")
_CONDITIONS = "conditions on q - k"


@dataclass(frozen=True)
class _Part:
    """What a clause says of ``q - k`` alone: from ``low`` to ``high`` (excluded), and ``condition``, with ``k`` in the
    place of the difference. ``rest``: the clause without it."""

    low: int
    high: int
    condition: Node
    rest: Solved


def with_differences(c: Classifier, clauses: tuple[Solved, ...], grid: Grid) -> tuple[Solved, ...]:
    """The clauses with the same union, where what some say of ``q - k`` is known by difference, if that is worth it:
    those that say the same of all else as one."""
    if not any(x.digits or x.residual is not TRUE for x in clauses):
        return clauses
    parts = {x: part for x in clauses if (part := _part(c, x, grid)) is not None}
    together: dict[Solved, list[Solved]] = {}
    for x, part in parts.items():
        together.setdefault(part.rest, []).append(x)
    found: dict[Solved, Solved | None] = {}
    for rest, alike in together.items():
        some = [parts[x] for x in alike]
        low, high = min(p.low for p in some), max(p.high for p in some)
        if any(_worth_it(x, parts[x], high - low, grid) for x in alike):
            holds = _holds(c, some, low, high)
            found[alike[0]] = replace(rest, differences=Differences(low, holds))
            found.update(dict.fromkeys(alike[1:]))
    return tuple(y for x in clauses if (y := found.get(x, x)) is not None)


def _part(c: Classifier, clause: Solved, grid: Grid) -> _Part | None:
    """None if the clause has digits of the key, labels that come back or a condition on the key, which are known by
    other means."""
    if clause.pairs or clause.keep is not TRUE or any(d.part is None for d in clause.digits):
        return None
    conditions, rest = list[Node](), list[Node]()
    for part in (*(d.part for d in clause.digits if d.part is not None), *conjuncts(clause.residual)):
        condition = on_difference(part)
        (rest if condition is None else conditions).append(part if condition is None else condition)
    least, end = grid.offset - grid.k_len + 1, grid.offset + grid.q_len
    low, high, los, his = least, end, [], []
    for node in (n for lo in clause.bounds.lo for n in operands(lo, "max")):
        shift = _shift(c, node)
        if shift is not None:  # k >= q + shift
            high = min(high, 1 - shift)
        elif not (isinstance(node, Const) and node.value <= 0):
            los.append(node)
    for node in (n for hi in clause.bounds.hi for n in operands(hi, "min")):
        shift = _shift(c, node)
        if shift is not None:  # k < q + shift
            low = max(low, 1 - shift)
        else:
            his.append(node)
    bounds = Bounds(tuple(los), tuple(his))
    other = replace(clause, bounds=bounds, digits=(), residual=conjunction([x for x in rest if x is not TRUE]))
    low = min(low, end)
    return _Part(low, max(low, high), conjunction(conditions), other)


def _shift(c: Classifier, node: Node) -> int | None:
    """How much more than ``q`` a node is, if it is so much for all."""
    factor, rest = linear(node).apart(_Q)
    if factor != 1 or {_Q, _K} & set(postorder([n for n, _ in rest.terms])):
        return None
    return int(c.points_of(linear_node(rest), np.zeros(1, np.int64), "k")[0])


def _worth_it(clause: Solved, part: _Part, differences: int, grid: Grid) -> bool:
    """Whether looking at so many differences takes less than what the clause takes otherwise."""
    if any(on_difference(x) is not None for x in conjuncts(clause.residual)):
        return True
    if not clause.digits or differences > 4 * grid.rows * grid.cols:
        return False
    # A short period alone is in every tile, but for the ends of the bounds.
    long = len(clause.digits) > 1 or clause.digits[0].modulus >= grid.q_tile + grid.k_tile
    return long or part.high - part.low < grid.q_len


def _holds(c: Classifier, parts: list[_Part], low: int, high: int) -> Array:
    """Which differences from ``low`` to ``high`` (excluded) some part holds for."""
    found = np.zeros(high - low, np.bool_)
    for p in parts:
        if c.budget is not None:
            c.budget.spend((p.high - p.low) * (1 + c.size_of(p.condition) // OPERATIONS), _CONDITIONS)
        found[p.low - low : p.high - low] |= c.points_of(p.condition, np.arange(p.low, p.high, dtype=np.int64), "k")
    return found


def diagonals(
    d: Differences, grid: Grid, starts: Array, reach: tuple[Array, Array], budget: Budget
) -> Diagonals | None:
    """``starts``: the first query of each fragment, counted from the first one present; ``reach``: the first key tile
    that each may meet, and the one after the last. None if the budget does not suffice."""
    first, size = starts + grid.offset, np.diff(starts, append=grid.q_len)
    lo = np.maximum(reach[0], (first - d.low - d.holds.size + 1) // grid.k_tile)
    hi = np.minimum(reach[1], (first + size - 1 - d.low) // grid.k_tile + 1)
    found = Diagonals(d.low, np.append(0, np.cumsum(d.holds)), grid, first, size, lo, np.maximum(lo, hi))
    cost = int(found.classes(slice(None)).count.sum())
    if not budget.affords_beside(cost):
        return None
    budget.spend(cost, _CONDITIONS)
    return found


@dataclass(frozen=True, eq=False)
class _Classes:
    """Fragments by class: those of one size and in one place within a key tile, for which what a key tile is that is
    so many tiles before their own is the same. ``of``: the class of each fragment; ``example``: a fragment of each
    class; ``far``: by how many tiles the first key tile that one of them meets is before its own; ``count``: how many
    tiles it is from there to the last one.
    """

    of: Array
    example: Array
    far: Array
    count: Array


@dataclass(frozen=True, eq=False)
class Diagonals:
    """The columns of a condition on ``q - k``, found for some fragments of queries at a time.

    ``before``: for how many differences from ``low`` on, up to each, the condition holds; ``first`` and ``size``: the
    first query of each fragment, and how many it has; ``lo`` and ``hi``: the key tiles that each meets.
    """

    low: int
    before: Array
    grid: Grid
    first: Array
    size: Array
    lo: Array
    hi: Array

    def classes(self, some: slice) -> _Classes:
        """Of some fragments."""
        own, place = np.divmod(self.first[some], self.grid.k_tile)
        key = place * (self.grid.q_len + 1) + self.size[some]
        _, example, of = np.unique(key, return_index=True, return_inverse=True)
        lo, hi = self.lo[some], self.hi[some]
        meets = hi > lo
        far, near = np.full(example.size, -_FAR), np.full(example.size, _FAR)
        np.maximum.at(far, of[meets], (own - lo)[meets])
        np.minimum.at(near, of[meets], (own - hi)[meets])
        return _Classes(of, example, np.where(far > near, far, 0), np.maximum(far - near, 0))

    @property
    def runs(self) -> int:
        """How many runs a fragment has, at most, if others are like the one that meets most tiles."""
        widest = int(np.argmax(self.hi - self.lo))
        return self.rows(widest, widest + 1).start.size + 1

    def rows(self, first: int, last: int) -> Columns:
        """Those of some fragments, counted from the first of them."""
        some, tile, cols = slice(first, last), self.grid.k_tile, self.grid.cols
        x, q0, size, hi = self.classes(some), self.first[some], self.size[some], self.hi[some]
        place = q0 // tile - x.far[x.of]
        # The differences of a tile: from its last key to the fragment's first query, and from its first to the last.
        low = (q0 % tile - tile + 1)[x.example]
        low = np.repeat(low, x.count) - tile * concatenated_ranges(-x.far, x.count)
        wide = np.repeat((tile + size - 1)[x.example], x.count)
        columns = _columns(self._number(low, wide), wide, x.count, tile)
        narrow = self.grid.k_len % tile and np.any(hi == cols)
        end = np.minimum(hi, cols - 1) if narrow else hi
        of, start, end, whole, most = columns.meet(x.of, self.lo[some] - place, end - place)
        found: tuple[Array, ...] = (of, start + place[of], end + place[of], whole, most)
        if narrow:
            low, wide = q0 - self.grid.k_len + 1, size + (self.grid.k_len - 1) % tile
            number = self._number(low, wide)
            there = np.flatnonzero((number > 0) & (hi == cols))
            end = np.full(there.size, cols)
            more = (there, end - 1, end, (number == wide)[there], np.minimum(number[there], tile))
            order = np.argsort(np.append(of, there), kind="stable")
            found = tuple(np.append(*both)[order] for both in zip(found, more, strict=True))
        of, start, end, whole, most = found
        offsets = np.append(0, np.cumsum(np.bincount(of, minlength=last - first)))
        return Columns(cols, offsets, start, end, whole, most, False)

    def _number(self, low: Array, wide: Array) -> Array:
        """For how many differences from ``low`` on the condition holds, of so many."""
        at = np.clip(np.stack([low, low + wide]) - self.low, 0, self.before.size - 1)
        found: Array = self.before[at[1]] - self.before[at[0]]
        return found


_FAR = 1 << 40  # more tiles than there are


def _columns(number: Array, wide: Array, count: Array, tile: int) -> Columns:
    """The runs of rows of ``count`` tiles each, of which ``number`` of ``wide`` differences hold."""
    kind = (number > 0).astype(np.uint8) + (number == wide)
    begin = np.cumsum(count) - count
    edge = np.append(True, kind[1:] != kind[:-1])[: kind.size]
    edge[begin[count > 0]] = True
    start = np.flatnonzero(edge)
    row, end = np.searchsorted(begin, start, side="right") - 1, np.append(start[1:], kind.size)[: start.size]
    most = np.minimum(np.maximum.reduceat(number, start) if start.size else start, tile)
    kept = kind[start] > 0
    row, start, end, most = row[kept], start[kept], end[kept], most[kept]
    offsets = np.append(0, np.cumsum(np.bincount(row, minlength=count.size)))
    whole = kind[start] == 2
    return Columns(int(count.max(initial=0)), offsets, start - begin[row], end - begin[row], whole, most, False)

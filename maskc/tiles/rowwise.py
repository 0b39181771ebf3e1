"""Tile kinds from row intervals: what each clause of a mask keeps is solved for the key, a stretch of queries at once.

A clause says ``lo(q) <= k < hi(q)``, perhaps bounds on digits of the key (``k // 80 % 48``: a grid's coordinate) and
perhaps a residual. Query tiles are cut where a digit of the query wraps or the argument of a hash changes; on each
fragment, all that the clause touches and all that it fills are a few intervals of keys. Where that decides a tile,
it is decided here, in time proportional to the number of intervals; the rest is handed back as unknown.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.ir.nodes import TRUE, Apply, Const, Lookup, Node, Symbol, Type, postorder
from maskc.ir.ops import conjunction
from maskc.ir.rewrite import substitute
from maskc.passes.linear import linear, linear_node
from maskc.passes.rows import Clause, rows
from maskc.tiles.classify import Classifier, Walk
from maskc.tiles.plan import FULL, PARTIAL
from maskc.tiles.ranges import Boxes, Range
from maskc.tiles.runs import concatenated_ranges
from maskc.tiles.subdivide import Grid, Rectangles

__all__ = ["Bounds", "Digit", "RowForm", "count_pairs", "row_form", "rowwise"]

Array = npt.NDArray[Any]
_Q, _K = Symbol("q"), Symbol("k")
_MOST_ENTRIES = 1 << 23  # intervals; with more, boxes are the better way


@dataclass(frozen=True)
class Bounds:
    """``lo <= x < hi`` as the greatest of some and the least of others."""

    lo: tuple[Node, ...] = ()
    hi: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Digit:
    """Bounds on ``k // stride % modulus``."""

    stride: int
    modulus: int
    bounds: Bounds


@dataclass(frozen=True)
class Solved:
    """A clause: bounds on the key, on digits of it, per-token inputs that are equal at the query and the key, a
    condition on the query, and what is left to test."""

    bounds: Bounds
    digits: tuple[Digit, ...]
    labels: tuple[str, ...]
    guard: Node
    residual: Node


@dataclass(frozen=True)
class RowForm:
    """A mask as clauses, and where query tiles have to be cut: at ``q + shift`` divisible by ``period``."""

    clauses: tuple[Solved, ...]
    cuts: tuple[tuple[int, int], ...] = field(default=())


def row_form(mask: Node) -> RowForm | None:
    """The row form of a bound, normalised mask; None if no clause says anything about the key."""
    clauses = tuple(_solved(c) for c in rows(mask))
    if any(not (c.bounds.lo or c.bounds.hi or c.digits or c.labels) and c.residual is not TRUE for c in clauses):
        return None
    nodes = [n for c in clauses for b in (c.bounds, *(d.bounds for d in c.digits)) for n in (*b.lo, *b.hi)]
    nodes += [c.guard for c in clauses]
    return RowForm(clauses, tuple(sorted(set(_cuts(nodes)))))


def _solved(clause: Clause) -> Solved:
    guard: list[Node] = []
    rest: list[Node] = []
    labels: list[str] = []
    digits: dict[tuple[int, int], Bounds] = {}
    for part in _conjuncts(clause.residual):
        names = {n.name for n in postorder([part]) if isinstance(n, Symbol)}
        label = _equal_label(part)
        if label is not None:
            labels.append(label)
            continue
        digit = _digit_bounds(part) if "k" in names else None
        if "k" not in names:
            guard.append(part)
        elif digit is None:
            rest.append(part)
        else:
            place, found = digit
            before = digits.get(place, Bounds())
            digits[place] = Bounds((*before.lo, *found.lo), (*before.hi, *found.hi))
    lo = () if clause.lo is None else (clause.lo,)
    hi = () if clause.hi is None else (clause.hi,)
    ordered = sorted(digits.items(), key=lambda d: -d[0][0] * d[0][1])
    places = tuple(Digit(*place, b) for place, b in ordered)
    return Solved(Bounds(lo, hi), places, tuple(labels), conjunction(guard), conjunction(rest))


def _equal_label(part: Node) -> str | None:
    """The table if ``part`` is ``table[q] == table[k]``."""
    if not (isinstance(part, Apply) and part.op == "eq"):
        return None
    a, b = part.args
    if not (isinstance(a, Lookup) and isinstance(b, Lookup) and a.name == b.name):
        return None
    return a.name if {*a.indices, *b.indices} == {_Q, _K} and len(a.indices) == 1 else None


def _conjuncts(node: Node) -> tuple[Node, ...]:
    if node is TRUE:
        return ()
    return node.args if isinstance(node, Apply) and node.op == "and" else (node,)


def _operands(node: Node, op: str) -> tuple[Node, ...]:
    if isinstance(node, Apply) and node.op == op:
        return tuple(n for a in node.args for n in _operands(a, op))
    return (node,)


def _digit_bounds(part: Node) -> tuple[tuple[int, int], Bounds] | None:
    """If ``part`` speaks of the key through one digit only: which, and the bounds on it."""
    for node in postorder([part]):
        if not (isinstance(node, Apply) and node.op == "mod" and isinstance(node.args[1], Const)):
            continue
        stride, shift = _quotient(node.args[0], _K)
        modulus = int(node.args[1].value)
        if stride == 0 or shift or modulus <= 1:
            continue
        plain = substitute(part, {node: _K})
        if any(n is _K for n in postorder([substitute(part, {node: Const(0)})])):
            continue
        found = rows(plain)
        if len(found) == 1 and found[0].residual is TRUE:
            lo = () if found[0].lo is None else (found[0].lo,)
            hi = () if found[0].hi is None else (found[0].hi,)
            return (stride, modulus), Bounds(lo, hi)
    return None


def _quotient(node: Node, symbol: Symbol) -> tuple[int, int]:
    """(stride, shift) if the node is ``(symbol + shift) // stride``; else (0, 0)."""
    stride = 1
    while isinstance(node, Apply) and node.op == "floordiv" and isinstance(node.args[1], Const):
        stride *= int(node.args[1].value)
        node = node.args[0]
    if node is symbol:
        return max(stride, 0), 0
    if isinstance(node, Apply) and node.op in ("add", "sub") and node.args[0] is symbol and stride > 0:
        other = node.args[1]
        if isinstance(other, Const):
            return stride, int(other.value) * (1 if node.op == "add" else -1)
    return 0, 0


def _cuts(nodes: Iterable[Node]) -> Iterable[tuple[int, int]]:
    """Where digits of the query wrap, and where what is not monotone in it changes."""
    for node in postorder(nodes):
        if isinstance(node, Apply) and node.op == "mod" and isinstance(node.args[1], Const):
            stride, shift = _quotient(node.args[0], _Q)
            if stride:
                yield stride * abs(int(node.args[1].value)), shift
                continue
        if (isinstance(node, Apply) and node.op == "hash") or isinstance(node, Lookup):
            for child in node.children:
                stride, shift = _quotient(child, _Q)
                if stride:
                    yield stride, shift


def rowwise(c: Classifier, form: RowForm, grid: Grid) -> tuple[Rectangles, Rectangles] | None:
    """What row intervals decide: FULL and PARTIAL rectangles, and the rectangles that are still unknown.

    None if there would be too many intervals, or labels that are scattered.
    """
    labels = {name: _label_runs(c, name, grid.k_len) for x in form.clauses for name in x.labels}
    if any(found is None for found in labels.values()):
        return None
    bounds = {name: found for name, found in labels.items() if found is not None}
    starts, row = _fragments(form, grid, bounds)
    if starts.size * max(1, len(form.clauses)) > _MOST_ENTRIES:
        return None
    parts: list[tuple[Rectangles, Rectangles]] = []
    step = max(1, _AT_ONCE // max(1, len(form.clauses)))
    ends = np.append(starts[1:], grid.q_len)
    edges = [0, *(int(np.searchsorted(row, row[i])) for i in range(step, row.size, step)), row.size]
    for a, b in itertools.pairwise(edges):
        if a < b:
            found = _decide(_Fragments(c, grid, starts[a:b], ends[a:b], bounds), form, row[a:b])
            if found is None:
                return None
            parts.append(found)
    return Rectangles.join([p[0] for p in parts]), Rectangles.join([p[1] for p in parts])


#: Fragments times clauses that are looked at together: few enough to stay within the cache.
_AT_ONCE = 1 << 15


def _decide(fragments: _Fragments, form: RowForm, row: Array) -> tuple[Rectangles, Rectangles] | None:
    """What some whole rows of tiles are; ``row`` is the tile row of each fragment."""
    parts = []
    for clause in form.clauses:
        entries = fragments.entries(clause)
        if entries is None:
            return None
        parts.append(entries)
    if (row[1:] > row[:-1]).all():
        found = _decide_rows(_Entries.join(parts), fragments.grid)
    else:
        found = _decide_fragments(_Entries.join(parts), fragments.grid, row - row[0])
    shift = int(row[0])
    return found[0].down(shift), found[1].down(shift)


def _sorted_union(parts: list[Array]) -> Array:
    if len(parts) == 1:
        return parts[0]
    every = np.sort(np.concatenate(parts), kind="stable")
    found: Array = every[np.append(True, every[1:] != every[:-1])]
    return found


def _label_runs(c: Classifier, name: str, k_len: int) -> Array | None:
    """Where runs of equal labels start, and where the last one ends; None if a label comes back later."""
    table = c.table(name)
    if table.ndim != 1 or table.size < k_len or not k_len:
        return None
    table = table[:k_len]
    starts = np.concatenate([[0], np.flatnonzero(table[1:] != table[:-1]) + 1, [k_len]])
    return starts if np.unique(table[starts[:-1]]).size == starts.size - 1 else None


def _fragments(form: RowForm, grid: Grid, labels: Mapping[str, Array]) -> tuple[Array, Array]:
    """The first query of each fragment (counted from the first query present), and its tile row."""
    starts = [np.arange(grid.rows, dtype=np.int64) * grid.q_tile]
    for period, shift in form.cuts:
        if period > 0:
            first = -(grid.offset + shift) % period
            starts.append(np.arange(first, grid.q_len, period, dtype=np.int64))
    for bounds in labels.values():
        places = bounds[:-1] - grid.offset
        starts.append(places[(places > 0) & (places < grid.q_len)])
    every = _sorted_union(starts)
    return every, every // grid.q_tile


#: Four counters in one number: intervals that touch; that are exact; that fill; bounds of a residual that fill.
_TOUCH, _EXACT, _FILL, _INSIDE = 1, 1 << 16, 1 << 32, 1 << 48


def _field(total: Array, which: int) -> Array:
    return (total >> (which.bit_length() - 1)) & 0xFFFF


@dataclass(frozen=True, eq=False)
class _Entries:
    """Runs of key tiles, by fragment, with what they say of their tiles (``weight``)."""

    owner: Array
    start: Array
    end: Array
    weight: Array

    @staticmethod
    def join(parts: list[_Entries]) -> _Entries:
        names = ("owner", "start", "end", "weight")
        if not parts:
            return _Entries(*(np.zeros(0, np.int64) for _ in names))
        return (
            parts[0] if len(parts) == 1 else _Entries(*(np.concatenate([getattr(p, n) for p in parts]) for n in names))
        )

    def pick(self, keep: Array) -> _Entries:
        if keep.all():
            return self
        return _Entries(self.owner[keep], self.start[keep], self.end[keep], self.weight[keep])


@dataclass(frozen=True, eq=False)
class _Span:
    """Bounds over fragments: of the union (outer) and the intersection (inner) over their queries."""

    outer_lo: Array
    outer_hi: Array
    inner_lo: Array
    inner_hi: Array
    exact: Any
    point: Any


class _Fragments:
    """Stretches of queries, over which clauses are solved."""

    def __init__(self, c: Classifier, grid: Grid, starts: Array, ends: Array, labels: Mapping[str, Array]) -> None:
        self.grid, self.labels = grid, labels
        self.first = starts + grid.offset
        q0, q1 = starts + grid.offset, ends + grid.offset - 1
        k0, k1 = np.zeros(1, np.int64), np.full(1, grid.k_len - 1)
        single = np.zeros(1, np.bool_)
        self.walk = Walk(c, Boxes(q0, q1, k0, k1, ends - starts, k1 + 1, single))
        self.count = starts.size
        self.known: dict[Node, Any] = {}

    def value(self, node: Node) -> Any:
        return self.walk.value(node, self.known)

    def span(self, bounds: Bounds, low: int, high: int) -> _Span:
        """The bounds, clipped to ``low <= x < high``."""
        los = [self.value(n) for n in bounds.lo]
        his = [self.value(n) for n in bounds.hi]
        outer_lo = self._fold(np.maximum, [r.lo for r in los], low)
        inner_lo = self._fold(np.maximum, [r.hi for r in los], low)
        outer_hi = self._fold(np.minimum, [r.hi for r in his], high)
        inner_hi = self._fold(np.minimum, [r.lo for r in his], high)
        point = (outer_lo == inner_lo) & (outer_hi == inner_hi)
        if np.all(point):
            return _Span(outer_lo, outer_hi, inner_lo, inner_hi, True, point)
        steps = [_step(n, r) for n, r in zip((*bounds.lo, *bounds.hi), (*los, *his), strict=True)]
        exact = point
        if all(s is not None for s in steps):
            # The bounds rise with the query, and by less than they are apart: the union has no holes.
            step = max([s for s in steps[: len(los)] if s is not None], default=0)
            room = [self._room(lo, h) >= max(step, 1) for h in bounds.hi for lo in bounds.lo]
            exact = exact | functools.reduce(np.logical_and, room, np.bool_(True))
        return _Span(outer_lo, outer_hi, inner_lo, inner_hi, exact, point)

    def _room(self, lo: Node, hi: Node) -> Any:
        """The least ``hi - lo`` over each fragment, or less."""
        pairs = [(a, b) for a in _operands(lo, "max") for b in _operands(hi, "min")]
        parts = functools.reduce(np.minimum, [self._difference(b, a) for a, b in pairs])
        return np.maximum(parts, self._difference(hi, lo))

    def _difference(self, hi: Node, lo: Node) -> Any:
        return self.value(linear_node(linear(hi).plus(linear(lo), -1))).lo

    def _fold(self, f: Any, values: list[Any], start: int) -> Array:
        found = functools.reduce(f, values, np.int64(start))
        return np.broadcast_to(found, (self.count,))

    def entries(self, clause: Solved) -> _Entries | None:
        k_len, tile = self.grid.k_len, self.grid.k_tile
        span = self.span(clause.bounds, 0, k_len)
        digits = [(d, self.span(d.bounds, 0, d.modulus)) for d in clause.digits]
        whole = (clause.residual is TRUE) & np.ones(self.count, np.bool_)
        alive = np.ones(self.count, np.bool_)
        if clause.guard is not TRUE:
            verdict = self.value(clause.guard)
            alive = alive & verdict.some
            whole = whole & ~np.asarray(verdict.gap)
        varying = ~np.asarray(span.point) + sum((~np.asarray(s.point) for _, s in digits), start=np.int64(0))
        exact = whole & span.exact & (varying <= 1)
        for _, s in digits:
            exact = exact & s.exact
        for name in clause.labels:
            span = self._within_label(span, self.labels[name])
        outer = _Pieces(np.flatnonzero(alive), span.outer_lo[alive], span.outer_hi[alive])
        inner = _Pieces(np.arange(self.count), span.inner_lo, span.inner_hi)
        gap = 0
        for i, (d, s) in enumerate(digits):
            widest = d.stride * (d.modulus - int(np.min(s.outer_hi - s.outer_lo, initial=d.modulus)))
            last = i == len(digits) - 1
            outer = outer.within(d, s.outer_lo, s.outer_hi, hull=last and widest + gap < tile)
            if outer.owner.size > _MOST_ENTRIES:
                return None
        if digits:
            d, s = digits[-1]
            room = d.stride * (s.inner_hi - s.inner_lo)
            room = np.where(room >= d.stride * d.modulus, tile, room)
            least = self.grid.k_len - (self.grid.cols - 1) * tile  # the last tile may be narrow
            inner = inner.pick((room >= min(tile, least)) & whole)
            for d, s in digits:
                inner = inner.within(d, s.inner_lo, s.inner_hi, hull=False)
        return self._tiles(outer, inner, exact, whole, alive, bool(digits))

    def _within_label(self, span: _Span, starts: Array) -> _Span:
        """The part of the span that has the label of the fragment's queries."""
        run = np.searchsorted(starts, self.first, side="right") - 1
        low, high = starts[run], starts[run + 1]
        return _Span(
            np.maximum(span.outer_lo, low),
            np.minimum(span.outer_hi, high),
            np.maximum(span.inner_lo, low),
            np.minimum(span.inner_hi, high),
            span.exact,
            span.point,
        )

    def _tiles(
        self, outer: _Pieces, inner: _Pieces, exact: Array, whole: Array, alive: Array, digits: bool
    ) -> _Entries:
        tile, cols = self.grid.k_tile, self.grid.cols
        weight = np.where(exact, _TOUCH + _EXACT, _TOUCH)[outer.owner]
        found = _Entries(outer.owner, outer.lo // tile, -(-outer.hi // tile), weight)
        keep = (outer.hi > outer.lo) & (found.end > found.start)
        end = np.where(inner.hi >= self.grid.k_len, cols, inner.hi // tile)
        weight = np.where(whole, _FILL, _INSIDE)[inner.owner]
        filled = _Entries(inner.owner, -(-inner.lo // tile), end, weight)
        good = (filled.end > filled.start) & alive[inner.owner]
        if digits:
            good &= whole[inner.owner]
        return _Entries.join([found.pick(keep), filled.pick(good)] if good.any() else [found.pick(keep)])


@dataclass(frozen=True, eq=False)
class _Pieces:
    """Intervals of keys, by fragment."""

    owner: Array
    lo: Array
    hi: Array

    def pick(self, keep: Array) -> _Pieces:
        return _Pieces(self.owner[keep[self.owner]], self.lo[keep[self.owner]], self.hi[keep[self.owner]])

    def within(self, d: Digit, low: Array, high: Array, hull: bool) -> _Pieces:
        """The parts where the digit is between the fragment's bounds; or their hull."""
        lo, hi, owner = self.lo, self.hi, self.owner
        keep = (hi > lo) & (high > low)[owner]
        if not keep.all():
            lo, hi, owner = lo[keep], hi[keep], owner[keep]
        cycle = d.stride * d.modulus
        free = ((low <= 0) & (high >= d.modulus))[owner]
        if free.any():
            rest = _Pieces(owner[~free], lo[~free], hi[~free]).within(d, low, high, hull)
            return _Pieces(
                *(np.concatenate(x) for x in ((owner[free], rest.owner), (lo[free], rest.lo), (hi[free], rest.hi)))
            )
        first, last = d.stride * low[owner], d.stride * high[owner]
        start, end = lo // cycle, (hi - 1) // cycle
        # The first cycle whose part ends after ``lo``, and the last whose part starts before ``hi``.
        start = start + (start * cycle + last <= lo)
        end = end - (end * cycle + first >= hi)
        if hull:
            return _Pieces(owner, np.maximum(lo, start * cycle + first), np.minimum(hi, end * cycle + last))
        count = np.maximum(end - start + 1, 0)
        turn = concatenated_ranges(start, count) * cycle
        at = np.repeat(np.arange(owner.size), count)
        return _Pieces(owner[at], np.maximum(lo[at], turn + first[at]), np.minimum(hi[at], turn + last[at]))


def _step(node: Node, value: Range) -> int | None:
    """The most that a node rises from a query to the next within a fragment; None if it may fall."""
    return 0 if np.all(np.asarray(value.lo) == value.hi) else _rise(node)


def _rise(node: Node) -> int | None:
    if not any(n is _Q or n is _K for n in postorder([node])):
        return 0
    if node is _Q:
        return 1
    if not isinstance(node, Apply) or node.type is not Type.INT:
        return None
    steps = [_rise(a) for a in node.args]
    known = [s for s in steps if s is not None]
    if len(known) < len(steps) or (node.op == "sub" and known[1]):
        return None
    if node.op in ("min", "max"):
        return max(known)
    if node.op in ("add", "sub"):
        return sum(known)
    factor = node.args[-1]
    if not (isinstance(factor, Const) and factor.value > 0):
        return None
    if node.op == "mul":
        return known[0] * int(factor.value)
    if node.op == "floordiv":
        return -(-known[0] // int(factor.value))
    # A remainder does not wrap within a fragment if its argument is one that fragments are cut for.
    return known[0] if node.op == "mod" and _quotient(node.args[0], _Q)[0] > 0 else None


def _sweep(owner: Array, start: Array, end: Array, weight: Array, cols: int) -> tuple[Array, Array, Array, Array]:
    """Overlaid runs as disjoint segments (owner, start, end) with the sum of the weights there."""
    key = np.concatenate([owner * (cols + 1) + start, owner * (cols + 1) + end])
    change = np.concatenate([weight, -weight])
    order = np.argsort(key, kind="stable")
    key, total = key[order], np.cumsum(change[order])
    last = np.ones(key.size, np.bool_)
    last[:-1] = key[1:] != key[:-1]
    key, total = key[last], total[last]
    live = np.flatnonzero(total[:-1] != 0) if total.size else np.zeros(0, np.int64)
    owner, start = np.divmod(key[live], cols + 1)
    return owner, start, key[live + 1] - owner * (cols + 1), total[live]


def _decide_rows(e: _Entries, grid: Grid) -> tuple[Rectangles, Rectangles]:
    """Every row is one fragment."""
    owner, start, end, total = e.owner, e.start, e.end, e.weight
    if (total == _TOUCH + _EXACT).all():
        key = owner * (grid.cols + 1) + start
        if (key[1:] >= (key + end - start)[:-1]).all():
            found = Rectangles(owner, owner + 1, start, end).of(PARTIAL)
            return found, found.pick(slice(0, 0))
    owner, start, end, total = _sweep(owner, start, end, total, grid.cols)
    touch, exact, fill = (_field(total, f) for f in (_TOUCH, _EXACT, _FILL))
    full = fill > 0
    partial = ~full & (touch == 1) & (exact == 1)
    return _rectangles(owner, start, end, full, partial, ~full & ~partial)


def _decide_fragments(e: _Entries, grid: Grid, row: Array) -> tuple[Rectangles, Rectangles]:
    owner, start, end, total = _sweep(e.owner, e.start, e.end, e.weight, grid.cols)
    touch, exact, fill = (_field(total, f) for f in (_TOUCH, _EXACT, _FILL))
    full = fill > 0
    miss = ~full & (touch == 1) & (exact == 1)
    weight = _TOUCH + _EXACT * (full | (exact > 0)) + _FILL * miss + _INSIDE * full
    tile_row, start, end, total = _sweep(row[owner], start, end, weight, grid.cols)
    pieces = np.bincount(row)[tile_row]
    touch, hit = _field(total, _TOUCH), _field(total, _EXACT)
    miss, full = _field(total, _FILL) > 0, _field(total, _INSIDE) == pieces
    partial = ~full & (hit > 0) & (miss | (touch < pieces))
    return _rectangles(tile_row, start, end, full, partial, ~full & ~partial)


def _rectangles(
    row: Array, start: Array, end: Array, full: Array, partial: Array, unknown: Array
) -> tuple[Rectangles, Rectangles]:
    sure = full | partial
    kind = np.where(full, FULL, PARTIAL).astype(np.uint8)
    done = Rectangles(row[sure], row[sure] + 1, start[sure], end[sure], kind[sure])
    return done, Rectangles(row[unknown], row[unknown] + 1, start[unknown], end[unknown])


_ROWS_AT_ONCE = 1 << 17


def count_pairs(c: Classifier, form: RowForm, grid: Grid) -> int | None:
    """How many pairs are kept, from the intervals of every single query; None if a clause has more to it."""
    if any(x.digits or x.labels or x.residual is not TRUE for x in form.clauses):
        return None
    total = 0
    for first in range(0, grid.q_len, _ROWS_AT_ONCE):
        starts = np.arange(first, min(first + _ROWS_AT_ONCE, grid.q_len), dtype=np.int64)
        part = Grid(int(starts[-1]) + 1, grid.k_len, 1, 1, grid.offset)
        total += _union_length(_Fragments(c, part, starts, starts + 1, {}), form, grid.k_len)
    return total


def _union_length(rows: _Fragments, form: RowForm, k_len: int) -> int:
    lows, highs = [], []
    for clause in form.clauses:
        span = rows.span(clause.bounds, 0, k_len)
        alive = np.ones(rows.count, np.bool_) if clause.guard is TRUE else rows.value(clause.guard).some
        lows.append(span.outer_lo)
        highs.append(np.where(alive, np.maximum(span.outer_lo, span.outer_hi), span.outer_lo))
    if not lows:
        return 0
    lo, hi = np.stack(lows), np.stack(highs)
    order = np.argsort(lo, axis=0)
    lo, hi = np.take_along_axis(lo, order, 0), np.take_along_axis(hi, order, 0)
    reached = np.maximum.accumulate(hi, axis=0)
    reached = np.concatenate([np.zeros_like(lo[:1]), reached[:-1]])
    return int(np.maximum(hi - np.maximum(lo, reached), 0).sum())

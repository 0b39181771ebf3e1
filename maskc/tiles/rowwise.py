"""Tile kinds from row intervals: what each clause of a mask keeps is solved for the key, a stretch of queries at once.

A clause says ``lo(q) <= k < hi(q)``, perhaps bounds on digits of the key (``k // 80 % 48``: a grid's coordinate) and
perhaps a residual. Query tiles are cut where a digit of the query wraps or the argument of a hash changes; on each
fragment, all that the clause touches and all that it fills are a few intervals of keys. Where that decides a tile,
it is decided here, in time proportional to the number of intervals; the rest is handed back as unknown.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.ir.nodes import TRUE, Node
from maskc.passes.linear import linear, linear_node
from maskc.tiles.boxes import Boxes, Range
from maskc.tiles.budget import BOX_COST, INTERVAL_COST, INTERVALS, LISTED_COST, Budget
from maskc.tiles.classify import Classifier, Walk
from maskc.tiles.columns import Columns
from maskc.tiles.grid import Grid, Rectangles
from maskc.tiles.overlay import EXACT, FILL, INSIDE, TOUCH, Entries, decide_fragments, decide_rows
from maskc.tiles.pieces import Pieces
from maskc.tiles.rowfit import columns_of, fitted
from maskc.tiles.rowform import Bounds, RowForm, Solved, operands, rise
from maskc.tiles.subdivide import is_affordable
from maskc.tiles.undecided import Undecided

__all__ = ["rowwise"]

Array = npt.NDArray[Any]
_MOST_ENTRIES = 1 << 23  # intervals; with more, boxes are the better way


def rowwise(c: Classifier, form: RowForm, grid: Grid, budget: Budget) -> tuple[Rectangles, Rectangles] | None:
    """What row intervals decide: FULL and PARTIAL rectangles, and the rectangles that are still unknown.

    None if there would be too many intervals, labels that take too long to compare, or too much that is unknown, so
    that boxes that span many rows are the better way. Raises MaskcError E801, and Outdone.
    """
    form, bounds = fitted(c, form, grid)
    starts, row = _fragments(form, grid, bounds)
    if starts.size * max(1, len(form.clauses)) > _MOST_ENTRIES:
        return None
    ends = np.append(starts[1:], grid.q_len)
    every = _Fragments(c, grid, starts, ends, bounds)
    reach = every.reach

    def least(most: int) -> float:
        return sum(every.least(clause, most) for clause in form.clauses)

    if (few := least(_FEW)) > _FEW:
        whole = min(INTERVAL_COST * few * budget.measure.plain, budget.limit)
        if is_affordable(c, grid, Budget(int(whole) // 2, each=budget.each, measure=budget.measure)):
            return None  # Boxes know what repeats within a tile by its period, too, and take less.
        few = least(budget.limit // INTERVAL_COST)
    if few == math.inf:
        return None
    if not budget.affords_beside(INTERVAL_COST * int(few)):
        if any(d.wraps for clause in form.clauses for d in clause.digits) or is_affordable(c, grid, budget):
            return None
        budget.spend(INTERVAL_COST * int(few), INTERVALS)
    columns = [columns_of(c, clause, grid, starts, reach, budget) for clause in form.clauses]
    if any((x.pairs or x.differences) and found is None for x, found in zip(form.clauses, columns, strict=True)):
        return None
    # Which queries and keys have a label at all is settled with the tiles that share one.
    settled = (x if not x.pairs else replace(x, guard=TRUE, keep=TRUE) for x in form.clauses)
    form = replace(form, clauses=tuple(settled))
    parts: list[Rectangles] = []
    unknown = Undecided(c, grid, budget)
    each = 1 + sum(_intervals(x, grid, reach) for x in form.clauses)
    listed = sum(x.runs for x in columns if x is not None)
    step = max(_FEWEST, min(max(_LEAST, _AT_ONCE // each), _MOST_AT_ONCE // max(each, listed)))
    area = 0
    edges = [0, *(int(np.searchsorted(row, row[i])) for i in range(step, row.size, step)), row.size]
    for a, b in itertools.pairwise(edges):
        if a < b:
            there = [None if x is None else x.rows(a, b) for x in columns]
            some = _Fragments(c, grid, starts[a:b], ends[a:b], bounds)
            found = _decide(some, form, there, row[a:b], budget, row.size - b)
            if found is None:
                return None
            area += found[0].area
            parts.append(found[0].compact())
            if not unknown.add(found[1]):
                return None
            if b < row.size:
                budget.found(area)
    return Rectangles.join([*parts, *unknown.decided]), Rectangles.join(unknown.left)


#: Intervals that take no longer than finding out whether boxes take less.
_FEW = 1 << 19
#: Intervals that are looked at together: few enough to stay within the cache.
_AT_ONCE = 1 << 16
_LEAST = 1 << 11  # fragments, which may have far fewer intervals: a step takes some milliseconds whatever it does
#: Where fragments have very many, fewer are looked at together, since memory goes by them; but always some.
_MOST_AT_ONCE, _FEWEST = 1 << 18, 64


def _intervals(clause: Solved, grid: Grid, reach: Callable[[Solved], tuple[Array, Array]]) -> int:
    """About how many intervals of keys a clause has for a fragment: one for each cycle of digits that it reaches, or
    that it goes through; the last digit's that come round within a tile are mostly taken together."""
    cycles = [d.stride * d.modulus for d in clause.digits]
    if cycles and cycles[-1] <= grid.k_tile:
        cycles.pop()
    if not cycles:
        return 1
    lo, hi = reach(clause)
    return 1 + int(np.maximum(hi - lo, 0).mean() * grid.k_tile) // min(cycles)


def _decide(
    fragments: _Fragments, form: RowForm, columns: list[Columns | None], row: Array, budget: Budget, left: int
) -> tuple[Rectangles, Rectangles] | None:
    """What some whole rows of tiles are; ``row`` is the tile row of each fragment, and ``left`` are to come."""
    parts = []
    if budget.each > 1:  # else the bounds of the clauses cost no more than the intervals that they make
        budget.evaluate(row.size * BOX_COST, "bounds of intervals of keys")
    for clause, there in zip(form.clauses, columns, strict=True):
        if there is None and fragments.unsolved(clause):
            there = Columns.every(fragments.grid.cols, fragments.grid.k_tile)
        entries = fragments.entries(clause) if there is None else fragments.entries_in(clause, there)
        if entries is None:
            return None
        cost = entries.owner.size * LISTED_COST
        if there is None:
            cost = max(entries.owner.size, fragments.listed) * INTERVAL_COST
        budget.spend(cost, INTERVALS, more=cost * left // row.size)
        parts.append(entries)
    if (row[1:] > row[:-1]).all():
        found = decide_rows(Entries.join(parts), fragments.grid)
    else:
        found = decide_fragments(Entries.join(parts), fragments.grid, row - row[0])
    shift = int(row[0])
    return found[0].down(shift), found[1].down(shift)


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
    every = np.sort(np.concatenate(starts), kind="stable")
    every = every[np.append(True, every[1:] != every[:-1])]
    return every, every // grid.q_tile


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
        self.listed = 0  # intervals that the last clause's digits but the last went through, at most at once
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
        pairs = [(a, b) for a in operands(lo, "max") for b in operands(hi, "min")]
        parts = functools.reduce(np.minimum, [self._difference(b, a).lo for a, b in pairs])
        return np.maximum(parts, self._difference(hi, lo).lo)

    def widest(self, bounds: Bounds) -> Array:
        """How many keys of a tile each query of a fragment keeps at most, by the bounds on the key."""
        tile = self.grid.k_tile
        pairs = [
            (a, b) for lo in bounds.lo for a in operands(lo, "max") for hi in bounds.hi for b in operands(hi, "min")
        ]
        return np.maximum(self._fold(np.minimum, [self._difference(b, a).hi for a, b in pairs], tile), 0)

    def _difference(self, hi: Node, lo: Node) -> Range:
        found: Range = self.value(linear_node(linear(hi).plus(linear(lo), -1)))
        return found

    def _fold(self, f: Any, values: list[Any], start: int) -> Array:
        found = functools.reduce(f, values, np.int64(start))
        return np.broadcast_to(found, (self.count,))

    def unsolved(self, clause: Solved) -> bool:
        """Whether keys are no matter of intervals: differences of a period are in all of them, and of queries that a
        condition admits in part more is known a tile at a time."""
        if clause.period or clause.guard is TRUE or clause.digits:
            return bool(clause.period)
        verdict = self.value(clause.guard)
        return bool(np.any(verdict.some & verdict.gap))

    def entries(self, clause: Solved) -> Entries | None:
        k_len, tile = self.grid.k_len, self.grid.k_tile
        span = self.span(clause.bounds, 0, k_len)
        digits = [(d, self.span(d.bounds, *d.ends)) for d in clause.digits]
        whole = (clause.residual is TRUE) & np.ones(self.count, np.bool_)
        alive = np.ones(self.count, np.bool_)
        if clause.guard is not TRUE:
            verdict = self.value(clause.guard)
            alive = alive & verdict.some
            whole = whole & ~np.asarray(verdict.gap)
        varying = sum((~np.asarray(s.point) for _, s in digits), start=np.int64(0))
        within = whole & (varying <= 1)  # exact where all queries admit the keys
        for _, s in digits:
            within = within & s.exact
        exact = within & span.exact & (varying + ~np.asarray(span.point) <= 1)
        for name in clause.labels:
            span = self._within_label(span, self.labels[name])
        outer = Pieces(np.flatnonzero(alive), span.outer_lo[alive], span.outer_hi[alive])
        inner = Pieces(np.arange(self.count), span.inner_lo, span.inner_hi)
        gap = self.listed = 0
        for i, (d, s) in enumerate(digits):
            widest = d.stride * (d.modulus - int(np.min(s.outer_hi - s.outer_lo, initial=d.modulus)))
            last = i == len(digits) - 1
            hull = last and widest + gap < tile
            if outer.count_within(d, s.outer_lo, s.outer_hi, np.broadcast_to(hull, self.count)) > _MOST_ENTRIES:
                return None
            outer = outer.within(d, s.outer_lo, s.outer_hi, hull)
            if not last:
                self.listed = max(self.listed, outer.owner.size)
            if hull and not np.all(span.point):
                end = np.where(span.inner_hi >= self.grid.k_len, self.grid.k_len, span.inner_hi // tile * tile)
                outer = outer.cut(-(-span.inner_lo // tile) * tile, end)  # between them, all queries admit the keys
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
        surely = exact[outer.owner] | (
            within[outer.owner] & (outer.lo >= span.inner_lo[outer.owner]) & (outer.hi <= span.inner_hi[outer.owner])
        )
        most = self.widest(clause.bounds)
        for d, s in digits:
            most = np.minimum(most, d.most(tile, s.outer_lo, s.outer_hi))
        return self._tiles(outer, inner, surely, whole, alive, bool(digits), most)

    def least(self, clause: Solved, most: int) -> float:
        """How many intervals ``entries`` finds at least, or goes through: counted where cycles of digits make them.
        Beyond ``most`` it is about how many; infinite where they are so many that it finds none."""
        if clause.period or not clause.digits or clause.labels:
            return 0
        span, alive = self.span(clause.bounds, 0, self.grid.k_len), self.value(clause.guard).some
        *others, (last, s) = ((d, self.span(d.bounds, *d.ends)) for d in clause.digits)
        hull = last.stride * (last.modulus - (s.outer_hi - s.outer_lo)) < self.grid.k_tile
        cycles = [d.stride * d.modulus for d, _ in (others if hull.all() else [*others, (last, s)])]
        owners = np.flatnonzero(alive & (span.outer_hi > span.outer_lo))
        if not cycles or not owners.size:
            return 0
        if (span.outer_hi - span.outer_lo)[owners].max() // cycles[-1] > _MOST_ENTRIES // _FEWEST:
            return math.inf
        digits = [(d, t.outer_lo, t.outer_hi) for d, t in (*others, (last, s))]
        return Pieces(owners, span.outer_lo[owners], span.outer_hi[owners]).least(digits, hull, most)

    def reach(self, clause: Solved) -> tuple[Array, Array]:
        """The first key tile that a clause may meet in each fragment, and the one after the last."""
        span = self.span(clause.bounds, 0, self.grid.k_len)
        for name in clause.labels:
            span = self._within_label(span, self.labels[name])
        some = np.asarray(self.value(clause.guard).some)
        return span.outer_lo // self.grid.k_tile, np.where(some, -(-span.outer_hi // self.grid.k_tile), 0)

    def entries_in(self, clause: Solved, columns: Columns) -> Entries:
        """Of a clause whose keys are restricted to some columns."""
        span = self.span(clause.bounds, 0, self.grid.k_len)
        for name in clause.labels:
            span = self._within_label(span, self.labels[name])
        some, full = self._guarded(clause.guard)
        tile, cols = self.grid.k_tile, self.grid.cols
        owner = np.flatnonzero(some & (span.outer_hi > span.outer_lo))
        lo, hi = span.outer_lo[owner] // tile, -(-span.outer_hi[owner] // tile)
        widest = self.widest(clause.bounds)
        if clause.once:
            widest = np.minimum(widest, -(-tile // clause.period))
        if clause.residual is not TRUE:
            of, start, end, _, most = columns.meet(owner, lo, hi)
            most = np.minimum(widest[owner][of], most)
            return Entries(owner[of], start, end, np.full_like(start, TOUCH), most)
        # Before, between and after the tiles of which every query of the fragment admits all keys, by the bounds.
        first = np.clip(-(-span.inner_lo[owner] // tile), lo, hi)
        last = np.clip(np.where(span.inner_hi >= self.grid.k_len, cols, span.inner_hi // tile)[owner], first, hi)
        start, end = (np.stack(x, axis=1).ravel() for x in ((lo, first, last), (first, last, hi)))
        there = end > start
        part = np.flatnonzero(there)
        of, start, end, whole, most = columns.meet(owner[part // 3], start[there], end[there])
        owner, inside = owner[part[of] // 3], part[of] % 3 == 1
        most = np.minimum(widest[owner], most)
        # A kept pair is sure if the query and the key may be chosen apart, or if one of them may be any.
        kept = True if columns.apart else whole | full[owner]
        weight = np.where(whole & full[owner], FILL, np.where(kept, EXACT, 0))
        if clause.period:
            weight = np.where((weight == FILL) & self._all_differences(clause.period, owner, end), EXACT, 0)
        return Entries(owner, start, end, TOUCH + weight * inside, most)

    def _all_differences(self, period: int, owner: Array, end: Array) -> Array:
        """Whether fragments hold all remainders of ``q - k``, with every tile of a run that ends somewhere."""
        tile, last = self.grid.k_tile, self.grid.k_len - (self.grid.cols - 1) * self.grid.k_tile
        width = np.where(end == self.grid.cols, last, tile)
        found: Array = self.walk.boxes.q_width[owner] + width > period
        return found

    def _guarded(self, guard: Node) -> tuple[Array, Array]:
        """Whether a condition on the query holds somewhere in each fragment, and everywhere; exactly."""
        verdict = self.value(guard)
        if np.any(verdict.some & verdict.gap):
            q0, q1 = self.walk.boxes.q0, self.walk.boxes.q1
            holds = self.walk.c.points_of(guard, np.arange(q0[0], q1[-1] + 1), "q")
            return np.logical_or.reduceat(holds, q0 - q0[0]), np.logical_and.reduceat(holds, q0 - q0[0])
        return tuple(np.broadcast_to(x, self.count) for x in (verdict.some, ~np.asarray(verdict.gap)))  # type: ignore

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
        self, outer: Pieces, inner: Pieces, exact: Array, whole: Array, alive: Array, digits: bool, most: Array
    ) -> Entries:
        tile, cols = self.grid.k_tile, self.grid.cols
        weight = np.where(exact, TOUCH + EXACT, TOUCH)
        found = Entries(outer.owner, outer.lo // tile, -(-outer.hi // tile), weight, most[outer.owner])
        keep = (outer.hi > outer.lo) & (found.end > found.start) & (found.most > 0)
        end = np.where(inner.hi >= self.grid.k_len, cols, inner.hi // tile)
        weight = np.where(whole, FILL, INSIDE)[inner.owner]
        filled = Entries(inner.owner, -(-inner.lo // tile), end, weight, np.full_like(end, tile))
        good = (filled.end > filled.start) & alive[inner.owner]
        if digits:
            good &= whole[inner.owner]
        if not good.any():
            return found.pick(keep)
        found, filled = found.pick(keep), filled.pick(good)
        if all(np.array_equal(getattr(found, x), getattr(filled, x)) for x in ("owner", "start", "end")):
            return replace(found, weight=found.weight + filled.weight)  # all that is touched is filled
        return Entries.join([found, filled])


def _step(node: Node, value: Range) -> int | None:
    """The most that a node rises from a query to the next within a fragment; None if it may fall."""
    return 0 if np.all(np.asarray(value.lo) == value.hi) else rise(node)

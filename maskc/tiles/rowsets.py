"""The keys of each query as ranges: exact counts, and the last query of each key, without N x N.

A rule that says nothing of digits keeps, for each query, one range of positions in some order of the keys: the
keys themselves; the keys that the rule's own condition admits; or the keys sorted by their labels. Counting is
subtracting the ends of ranges. Ranges that overlap are counted once, by inclusion and exclusion between the
ends of intervals.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.ir.binding import Binding
from maskc.ir.evaluate import evaluate
from maskc.ir.nodes import TRUE, Lookup, Node, Symbol, postorder
from maskc.ir.program import Program
from maskc.tiles.keyorders import KeyOrder
from maskc.tiles.rules import DigitRange, Rule, rules_of

__all__ = ["KeyRanges", "RowSets", "merged_intervals", "row_sets"]

Array = npt.NDArray[Any]
_CHUNK = 1 << 17  # queries looked at at once
_MOST_OVERLAPS = 6  # rules that are no plain intervals, in an overlay


@dataclass(frozen=True, eq=False)
class KeyRanges:
    """For each query the keys ``order[start:end]``; ``order`` None: ``start`` to ``end`` itself."""

    order: Array | None
    start: Array
    end: Array

    def last_key(self) -> Array:
        """The greatest key of each query, -1 where there is none. Keys rise along each range."""
        at = self.end - 1
        at[self.end <= self.start] = -1
        if self.order is None or not self.order.size:
            return at
        return np.where(at >= 0, self.order[at], -1)


@dataclass(frozen=True, eq=False)
class _Digit:
    stride: int
    modulus: int
    lo: Array
    hi: Array


@dataclass(frozen=True, eq=False)
class _Rows:
    """A rule evaluated for some queries: bounds, the queries' labels, ranges of digits."""

    lo: Array
    hi: Array
    labels: tuple[Array, ...]
    digits: tuple[_Digit, ...]

    def pick(self, at: Array) -> _Rows:
        digits = tuple(_Digit(d.stride, d.modulus, d.lo[at], d.hi[at]) for d in self.digits)
        return _Rows(self.lo[at], self.hi[at], tuple(x[at] for x in self.labels), digits)


def row_sets(
    program: Program, binding: Binding, head: int = 0, batch: int = 0, shared: dict[Any, Any] | None = None
) -> RowSets | None:
    """The mask of one head and one batch entry as rules to count with; None if it cannot be written as such.

    ``shared``: where the orders of keys are kept that do not depend on the head or the batch entry, for the next ones
    of the same program and binding.
    """
    rules = rules_of(program, binding)
    if rules is None or sum(not r.is_interval for r in rules) > _MOST_OVERLAPS:
        return None
    sets = RowSets(program, binding, rules, head, batch, {} if shared is None else shared)
    return sets if sets.digits_nest() else None


@dataclass(eq=False)
class RowSets:
    """A union of rules under a binding. Positions of queries count from the first query present."""

    program: Program
    binding: Binding
    rules: tuple[Rule, ...]
    head: int
    batch: int
    shared: dict[Any, KeyOrder]

    @property
    def all_ranges(self) -> bool:
        """Whether every rule is a range in some order of the keys (no digits)."""
        return not any(r.digits for r in self.rules)

    def counts(self) -> Array:
        """How many keys each query keeps, int64 (q_len,)."""
        return _joined([self._counts(rows, n) for rows, n in self._rows_of_all()])

    def ranges(self) -> list[KeyRanges]:
        """One for each rule; needs ``all_ranges``."""
        return self._put_together([self._ranges(rows) for rows, _ in self._rows_of_all()])

    def counts_and_ranges(self) -> tuple[Array, list[KeyRanges]]:
        """Both; needs ``all_ranges``. Rules are evaluated once."""
        counts, found = [], []
        for rows, n in self._rows_of_all():
            ranges = self._ranges(rows)
            counts.append(ranges[0][1] - ranges[0][0] if len(rows) == 1 else self._counts(rows, n))
            found.append(ranges)
        return _joined(counts), self._put_together(found)

    def _ranges(self, rows: list[_Rows]) -> list[tuple[Array, Array]]:
        return [self._index((i,)).range(r.labels, r.lo, r.hi) for i, r in enumerate(rows)]

    def _put_together(self, parts: list[list[tuple[Array, Array]]]) -> list[KeyRanges]:
        return [
            KeyRanges(self._index((i,)).order, *(_joined([p[i][end] for p in parts]) for end in (0, 1)))
            for i in range(len(self.rules))
        ]

    def digits_nest(self) -> bool:
        """Whether digits can be counted: each period divides the next larger digit's stride."""
        ranged = [r for r in self.rules if r.digits]
        if any(r.keep is not TRUE or r.equal for r in ranged):
            return False
        if ranged and any(not r.is_interval for r in self.rules if not r.digits):
            return False
        places = sorted({(d.stride, d.modulus) for r in ranged for d in r.digits}, key=lambda p: -p[0] * p[1])
        return all(a[0] % (b[0] * b[1]) == 0 for a, b in itertools.pairwise(places))

    def _rows_of_all(self) -> Iterator[tuple[list[_Rows], int]]:
        """All rules, for some queries at a time, and for how many."""
        for first in range(0, self.binding.q_len, _CHUNK):
            last = min(first + _CHUNK, self.binding.q_len)
            yield [self._rows(r, first, last) for r in self.rules], last - first

    # Evaluation

    def _query_values(self, node: Node, q: Array) -> Array:
        b = self.binding
        value = evaluate(node, b, q=q, k=np.zeros((), np.int64), h=self.head, b=self.batch, params=self.program.params)
        return np.broadcast_to(value, q.shape)

    def _key_values(self, node: Node) -> Array:
        b, k = self.binding, np.arange(self.binding.k_len, dtype=np.int64)
        value = evaluate(node, b, q=np.zeros((), np.int64), k=k, h=self.head, b=self.batch, params=self.program.params)
        return np.broadcast_to(value, k.shape)

    def _rows(self, rule: Rule, first: int, last: int) -> _Rows:
        q = np.arange(first, last, dtype=np.int64) + self.binding.offset
        n = self.binding.k_len
        lo = np.zeros(q.size, np.int64) if rule.lo is None else np.clip(self._query_values(rule.lo, q), 0, n)
        hi = np.full(q.size, n) if rule.hi is None else np.clip(self._query_values(rule.hi, q), 0, n)
        if rule.guard is not TRUE:
            hi = np.where(self._query_values(rule.guard, q), hi, 0)
        labels = tuple(self._query_values(label, q).astype(np.int64) for _, label in rule.equal)
        return _Rows(lo, np.maximum(lo, hi), labels, tuple(self._digit(d, q) for d in rule.digits))

    def _digit(self, d: DigitRange, q: Array) -> _Digit:
        lo, hi = np.zeros(q.size, np.int64), np.full(q.size, d.modulus, np.int64)
        for node in d.lo:
            lo = np.maximum(lo, self._query_values(node, q))
        for node in d.hi:
            hi = np.minimum(hi, self._query_values(node, q))
        return _Digit(d.stride, d.modulus, lo, np.maximum(lo, hi))

    def _index(self, which: tuple[int, ...]) -> KeyOrder:
        """The order of the keys for the rules ``which`` together."""
        if which not in self._indices:
            rules = [self.rules[i] for i in which]
            keeps, labels = [r.keep for r in rules if r.keep is not TRUE], [key for r in rules for key, _ in r.equal]
            own = any(self._is_own(node) for node in (*keeps, *labels))
            name = (tuple(keeps), tuple(labels), (self.head, self.batch) if own else ())
            found = self.shared.get(name)
            if found is None:
                values = [self._key_values(node).astype(np.int64) for node in labels]
                keep = functools.reduce(np.logical_and, [self._key_values(x) for x in keeps]) if keeps else None
                found = KeyOrder.of(self.binding.k_len, keep, values)
                if not own:
                    self.shared[name] = found
            self._indices[which] = found
        return self._indices[which]

    @functools.cached_property
    def _indices(self) -> dict[tuple[int, ...], KeyOrder]:
        return {}

    def _is_own(self, node: Node) -> bool:
        """Whether an expression may differ between heads or batch entries."""
        below = list(postorder([node]))
        return any(isinstance(n, Lookup) and n.name in self.binding.batched for n in below) or not (
            {n.name for n in below if isinstance(n, Symbol)} <= {"q", "k", "layer"}
        )

    # Counting

    def _counts(self, every: list[_Rows], n: int) -> Array:
        plain = [x for r, x in zip(self.rules, every, strict=True) if r.is_interval]
        rows = {i: every[i] for i, r in enumerate(self.rules) if not r.is_interval}
        if not rows:
            return interval_counts([(r.lo, r.hi) for r in plain], n)
        if not plain and len(rows) == 1:
            ((special, only),) = rows.items()
            return self._met((special,), [only], only.lo, only.hi)
        return self._overlaid(plain, rows, n)

    def _overlaid(self, plain: list[_Rows], special: dict[int, _Rows], n: int) -> Array:
        """Rows are cut where any rule starts or ends; between the cuts the same rules apply."""
        bounds = [(r.lo, r.hi) for r in (*plain, *special.values())]
        cuts = np.sort(np.stack([x for pair in bounds for x in pair], axis=1), axis=1)
        counts = np.zeros(n, np.int64)
        for i in range(cuts.shape[1] - 1):
            lo, hi = cuts[:, i], cuts[:, i + 1]
            covered = np.zeros(n, np.bool_)
            for r in plain:
                covered |= (r.lo <= lo) & (hi <= r.hi)
            counts += np.where(covered, hi - lo, 0)
            active = np.zeros(n, np.int64)
            for bit, r in enumerate(special.values()):
                active |= ((r.lo <= lo) & (hi <= r.hi)).astype(np.int64) << bit
            active[covered | (hi <= lo)] = 0
            for code in np.unique(active):
                at = np.flatnonzero(active == code)
                which = [i for bit, i in enumerate(special) if code >> bit & 1]
                counts[at] += self._union(which, special, at, lo[at], hi[at])
        return counts

    def _union(self, which: list[int], special: dict[int, _Rows], at: Array, lo: Array, hi: Array) -> Array:
        """Keys from ``lo`` to ``hi`` that any of some rules keeps, by inclusion and exclusion."""
        total = np.zeros(at.size, np.int64)
        picked = {i: special[i].pick(at) for i in which}
        for size in range(1, len(which) + 1):
            for some in itertools.combinations(which, size):
                total += (-1) ** (size - 1) * self._met(some, [picked[i] for i in some], lo, hi)
        return total

    def _met(self, which: tuple[int, ...], rows: list[_Rows], lo: Array, hi: Array) -> Array:
        """Keys from ``lo`` to ``hi`` that all of some rules keep."""
        digits = [d for r in rows for d in r.digits]
        if digits:
            met = _met_digits(digits)
            found: Array = np.maximum(_below(hi, met) - _below(lo, met), 0)
            return found
        start, end = self._index(which).range(tuple(x for r in rows for x in r.labels), lo, hi)
        count: Array = end - start
        return count


def _joined(parts: list[Array]) -> Array:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def merged_intervals(bounds: list[tuple[Array, Array]], n: int) -> tuple[Array, Array]:
    """Intervals of each row as disjoint ones in order, (n, intervals) each; those that vanish have equal ends."""
    if not bounds:
        return np.zeros((n, 0), np.int64), np.zeros((n, 0), np.int64)
    lo = np.stack([np.where(b > a, a, np.iinfo(np.int64).max) for a, b in bounds], axis=1)
    hi = np.stack([np.where(b > a, b, np.iinfo(np.int64).max) for a, b in bounds], axis=1)
    # Starts and ends each in their own order: from the end before the i-th to the i-th end all intervals but i - 1 are
    # open or to come, and one is open from the i-th start on.
    lo.sort(axis=1)
    hi.sort(axis=1)
    lo[:, 1:] = np.maximum(lo[:, 1:], hi[:, :-1])
    return lo, hi


def interval_counts(bounds: list[tuple[Array, Array]], n: int) -> Array:
    """How many keys the union of some intervals of each row has."""
    if len(bounds) == 1:
        return bounds[0][1] - bounds[0][0]
    lo, hi = merged_intervals(bounds, n)
    found: Array = (hi - lo).sum(axis=1) if bounds else np.zeros(n, np.int64)
    return found


def _met_digits(digits: list[_Digit]) -> list[_Digit]:
    """One range a place, the largest period first."""
    found: dict[tuple[int, int], _Digit] = {}
    for d in digits:
        before = found.get((d.stride, d.modulus))
        if before is not None:
            lo = np.maximum(before.lo, d.lo)
            d = _Digit(d.stride, d.modulus, lo, np.maximum(lo, np.minimum(before.hi, d.hi)))
        found[d.stride, d.modulus] = d
    return sorted(found.values(), key=lambda d: -d.stride * d.modulus)


def _below(x: Array, digits: list[_Digit]) -> Array:
    """How many numbers below ``x`` have all their digits in range; periods divide the next larger stride."""
    if not digits:
        return x
    d, rest = digits[0], digits[1:]
    cycles, left = np.divmod(x, d.stride * d.modulus)
    unit = _below(np.full_like(x, d.stride), rest)
    at, inside = np.divmod(left, d.stride)
    whole = np.clip(at, d.lo, d.hi) - d.lo
    part = np.where((d.lo <= at) & (at < d.hi), _below(inside, rest), 0)
    found: Array = (cycles * (d.hi - d.lo) + whole) * unit + part
    return found

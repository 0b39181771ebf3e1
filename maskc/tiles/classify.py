"""What a mask is on boxes of (query, key): full, empty, mixed, or mixed in every tile of the box.

Abstract interpretation of the IR over many boxes at once. The answer is always sound: a box called full holds kept
pairs only, one called empty holds none, and one called uniform holds, in every one of its tiles, a kept pair and a
dropped one. The uniform answer is what keeps a fine dilation from being enumerated tile by tile.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from maskc.ir.nodes import Apply, Const, Exists, Lookup, Node, Param, Size, Symbol, Type
from maskc.ir.schedule import outside_exists
from maskc.ir.size import MAX_ALTERNATIVES
from maskc.tiles import ranges
from maskc.tiles.boxes import Boxes, Range
from maskc.tiles.budget import RANGES_AT_ONCE
from maskc.tiles.fields import Field2, LabelRuns, field_of, label_runs
from maskc.tiles.headmask import HeadMask
from maskc.tiles.periods import Repeats, repeats

__all__ = ["Classifier", "Verdict", "Walk"]

Array = npt.NDArray[Any]
T = TypeVar("T")
#: Sizes of tiles that are told apart: more than a grid has.
_MOST_WIDTHS = 16


@dataclass(frozen=True, eq=False)
class Verdict:
    """A mask on each box: ``some`` pair may be kept, ``gap``: some may be dropped; ``hit``: every tile of
    the box surely holds a kept pair, ``miss``: every tile surely holds a dropped one."""

    some: Any
    gap: Any
    hit: Any
    miss: Any


@dataclass(eq=False)
class Classifier(HeadMask):
    """A mask that is ready to be asked about boxes.

    Building one analyses the expression; asking is vectorised over the boxes.
    """

    def classify(self, boxes: Boxes) -> Verdict:
        """The verdict on each box; arrays of bool, one entry a box."""
        step = max(1, RANGES_AT_ONCE // len(self.order))
        if boxes.q0.size > step:
            parts = [self.classify(boxes.part(slice(a, a + step))) for a in range(0, boxes.q0.size, step)]
            return Verdict(*(np.concatenate([getattr(p, n) for p in parts]) for n in ("some", "gap", "hit", "miss")))
        with np.errstate(all="ignore"):
            found = Walk(self, boxes).value(self.mask, {})
        shape = boxes.q0.shape
        return Verdict(*(np.broadcast_to(x, shape) for x in (found.some, found.gap, found.hit, found.miss)))

    @functools.cached_property
    def repeats(self) -> Repeats:
        """What repeats within the mask."""
        return repeats(self)

    def range_over(self, node: Lookup, indices: list[Range]) -> tuple[Any, Any, Any]:
        """Bounds of a look-up whose indices range, and whether they are attained."""
        path, table, spans = self._table(node, indices)
        if 0 in table.shape:
            return 0, 0, True
        lows = [np.clip(np.asarray(r.lo), 0, n - 1) for r, n in zip(spans, table.shape, strict=True)]
        highs = [np.clip(np.asarray(r.hi), 0, n - 1) for r, n in zip(spans, table.shape, strict=True)]
        while lows and lows[0].ndim == 0 and lows[0] == highs[0]:
            path = (*path, int(lows[0]))
            table, lows, highs = table[path[-1]], lows[1:], highs[1:]
        if not lows:
            value = table[()]
            return value, value, True
        dense = functools.reduce(
            lambda a, b: a & b, [np.asarray(r.dense & (r.modulus <= 1)) for r in spans[-len(lows) :]]
        )
        whole = self._whole(node.name)
        if table.ndim == 1:
            found = self._once((node.name, path), lambda: field_of(whole, path, table))
            low, high, attained = found.range(*np.broadcast_arrays(lows[0], highs[0]))
        elif table.ndim == 2 and table.dtype == np.bool_:
            ends = np.broadcast_arrays(lows[0], highs[0], lows[1], highs[1])
            low, high, attained = self._once((node.name, path), lambda: Field2(table)).range(*ends)
            dense = dense & ranges._apart(*spans[-2:])
        else:
            low, high, attained = self._hull(node.name, path, table, lows, highs)
        return low, high, attained & (dense | functools.reduce(np.logical_and, map(np.equal, lows, highs)))

    def _table(self, node: Lookup, indices: list[Range]) -> tuple[tuple[int, ...], Array, list[Range]]:
        domain = self.domains[node.name]
        shift = ranges.constant(-self.binding.offset)
        spans = [_shifted(r, shift) if d == "q" else r for d, r in zip(domain, indices, strict=True)]
        return self._entry(node.name), self.table(node.name), spans

    def _whole(self, name: str) -> Array:
        """A table or an input as int64, bool or float64, of all batch entries."""

        def made() -> Array:
            type_ = next(p.type for p in self.params if p.name == name)
            dtype = {Type.INT: np.int64, Type.BOOL: np.bool_, Type.FLOAT: np.float64}[type_]
            return np.asarray(self.binding.tables[name], dtype)

        return self._once(name, made)

    def _entry(self, name: str) -> tuple[int, ...]:
        """Where this batch entry is in ``_whole(name)``."""
        return (min(self.batch, self._whole(name).shape[0] - 1),) if name in self.binding.batched else ()

    def table(self, name: str) -> Array:
        """A table or an input as int64, bool or float64, of this batch entry."""
        table: Array = self._whole(name)[self._entry(name)]
        return table

    def label_runs(self, name: str) -> LabelRuns:
        """The runs of equal labels of an input over one kind of position, of this batch entry."""
        path, whole = self._entry(name), self._whole(name)
        return self._once(("runs", name, path), lambda: label_runs(whole, path, whole[path]))

    def _hull(
        self, name: str, path: tuple[int, ...], table: Array, lows: list[Array], highs: list[Array]
    ) -> tuple[Any, Any, Any]:
        whole = self._once((name, path), lambda: (table.min(), table.max()))
        point = functools.reduce(np.logical_and, map(np.equal, lows, highs))
        value = table[tuple(lows)]
        return np.where(point, value, whole[0]), np.where(point, value, whole[1]), point


def _shifted(r: Range, shift: Range) -> Range:
    return Range(r.lo + shift.lo, r.hi + shift.lo, r.modulus, 0, r.exact, r.dense, r.uses)


@dataclass(eq=False)
class Walk:
    """One evaluation over one set of boxes. Values with an index of ``Exists`` have axes in front."""

    c: Classifier
    boxes: Boxes
    depth: int = 0  # of the ``Exists`` around
    copies: int = 1  # values of their indices that are looked at together

    def value(self, node: Node, known: dict[Node, Any]) -> Any:
        """The range of a number or the verdict on a mask; ``known`` holds what is already computed, and grows."""
        for each in outside_exists(node, known):
            known[each] = self._one(each, known)
        return known[node]

    def _one(self, node: Node, known: dict[Node, Any]) -> Any:
        if isinstance(node, Const):
            return _settled(bool(node.value)) if node.type is Type.BOOL else ranges.constant(node.value)
        if isinstance(node, Symbol):
            return self._symbol(node.name)
        if isinstance(node, (Size, Param)):
            return self._given(node)
        if isinstance(node, Lookup):
            return self._lookup(node, [known[i] for i in node.indices])
        if isinstance(node, Exists):
            return self._exists(node, known)
        assert isinstance(node, Apply)
        args = [known[a] for a in node.args]
        if node.type is not Type.BOOL:
            return self._number(node, args)
        return self._with_period(node, self._mask(node, args))

    def _symbol(self, name: str) -> Range:
        if name == "q":
            return ranges.linear(self.boxes, 1, 0, 0)
        if name == "k":
            return ranges.linear(self.boxes, 0, 1, 0)
        c = self.c
        return ranges.constant({"h": c.head, "b": c.batch, "layer": c.binding.layer, "heads": c.binding.heads}[name])

    def _given(self, node: Size | Param) -> Any:
        value = self.c.binding.size(node.name) if isinstance(node, Size) else self.c.binding.args[node.name]
        if node.type is Type.BOOL:
            return _settled(bool(value))
        return ranges.constant(float(value) if node.type is Type.FLOAT else int(value))

    def _lookup(self, node: Lookup, indices: list[Range]) -> Any:
        low, high, attained = self.c.range_over(node, indices)
        uses = frozenset().union(*(r.uses for r in indices))
        if node.type is Type.BOOL:
            some, gap = np.asarray(high) != 0, np.asarray(low) == 0
            return self._atom(some, gap, attained, attained)
        if node.type is Type.FLOAT:
            attained = attained & ~(np.isnan(low) | np.isnan(high))
            low, high = ranges.without_nan(low, high)
        same = np.asarray(low) == high
        return Range(low, high, exact=attained, dense=attained & same, uses=uses)

    def _number(self, node: Apply, args: list[Any]) -> Range:
        if node.op != "select":
            return ranges.apply_op(self.boxes, node.op, args)
        when: Verdict = args[0]
        uses = self.c.uses_of(node.args[0])
        return ranges.choice(~np.asarray(when.gap), ~np.asarray(when.some), args[1], args[2], uses)

    def _mask(self, node: Apply, args: list[Any]) -> Verdict:
        if node.op in ("and", "or"):
            found = _joined(node.op, args, [self.c.uses_of(a) for a in node.args])
            joint = self.c.repeats.joint.get(node)
            return found if joint is None else _both_known(found, self._with_joint(node, args, joint))
        if node.op == "not":
            return _not(args[0])
        if node.op == "select":
            return self._choice(*args)
        if node.op in ("lt", "le"):
            some, gap, exact = ranges.less(self.boxes, args[0], args[1], node.op == "le")
            return self._atom(some, gap, exact, exact)
        if node.args[0].type is Type.BOOL:
            both = self._choice(args[0], args[1], _not(args[1]))
            return both if node.op == "eq" else _not(both)
        found = self._atom(*ranges.equal(self.boxes, args[0], args[1]))
        return found if node.op == "eq" else _not(found)

    def _with_joint(self, node: Apply, args: list[Any], joint: Apply) -> Verdict:
        """A conjunction or a union, with those of its operands that repeat taken as one."""
        every = [(a, v, self.c.uses_of(a)) for a, v in zip(node.args, args, strict=True)]
        within, rest = ([x for x in every if (x[0] in joint.args) is some] for some in (True, False))
        one = _joined(node.op, [v for _, v, _ in within], [u for *_, u in within])
        parts = [(self._with_period(joint, one), self.c.uses_of(joint)), *((v, u) for _, v, u in rest)]
        return _joined(node.op, [v for v, _ in parts], [u for _, u in parts])

    def _atom(self, some: Any, gap: Any, some_exact: Any, gap_exact: Any) -> Verdict:
        """Within one tile, what is attained in the box is attained in the tile."""
        some, gap = np.asarray(some), np.asarray(gap)
        hit = ~gap | (some & some_exact & self.boxes.single)
        miss = ~some | (gap & gap_exact & self.boxes.single)
        return Verdict(some, gap, hit, miss)

    def _choice(self, when: Verdict, yes: Verdict, no: Verdict) -> Verdict:
        true, false = ~np.asarray(when.gap), ~np.asarray(when.some)
        some = (when.some & yes.some) | (when.gap & no.some)
        gap = (when.some & yes.gap) | (when.gap & no.gap)
        hit = np.where(true, yes.hit, np.where(false, no.hit, ~gap))
        miss = np.where(true, yes.miss, np.where(false, no.miss, ~some))
        return Verdict(some, gap, hit, miss)

    def _with_period(self, node: Node, found: Verdict) -> Verdict:
        period = self.c.repeats.periods.get(node)
        if period is None:
            return found
        widths, of = self._widths
        hit, miss = np.array([period.within(q, k) for q, k in widths], np.bool_).reshape(-1, 2)[of].T
        some, gap = found.some & period.cell.any(), found.gap & ~period.cell.all()
        return Verdict(some, gap, (found.hit | hit) & some, (found.miss | miss) & gap)

    @functools.cached_property
    def _widths(self) -> tuple[list[tuple[int, int]], Array]:
        """The sizes that tiles have, each once, and of which of them are the smallest tile of each box."""
        boxes = self.boxes
        q, k = (
            w if step == 1 else np.ones_like(w)
            for w, step in ((boxes.q_width, boxes.q_step), (boxes.k_width, boxes.k_step))
        )
        pairs, of = np.unique((q << 32) + k, return_inverse=True)
        if pairs.size > _MOST_WIDTHS:
            pairs, of = (q.min() << 32) + k.min(keepdims=True), np.zeros_like(of)
        return [divmod(x, 1 << 32) for x in pairs.tolist()], of

    def _exists(self, node: Exists, known: dict[Node, Any]) -> Verdict:
        count = known[node.count]
        most = min(int(np.max(count.hi)), MAX_ALTERNATIVES)  # a binding has no more cases, whatever is known here
        depth, copies = self.depth, self.copies
        outer = {n: v for n, v in known.items() if node.index not in self.c.free_of(n)}
        total: Verdict | None = None
        step = max(1, RANGES_AT_ONCE // max(1, self.boxes.q0.size * copies * self.c.size_of(node.body)))
        for first in range(0, most, step):
            values = np.arange(first, min(first + step, most), dtype=np.int64)
            index = values.reshape((-1,) + (1,) * (depth + 1))
            inner: dict[Node, Any] = {**outer, node.index: ranges.constant(index)}
            self.depth, self.copies = depth + 1, copies * values.size
            body = self.value(node.body, inner)
            self.depth, self.copies = depth, copies
            below = ranges.less(self.boxes, inner[node.index], count, False)
            body = _all([body, Verdict(below[0], below[1], ~below[1], ~below[0])], [frozenset("qk")] * 2)
            part = _any_of_axis(body, depth + 1)
            total = part if total is None else _not(_all([_not(total), _not(part)], [frozenset("qk")] * 2))
        return total if total is not None else _settled(False)


def _any_of_axis(v: Verdict, depth: int) -> Verdict:
    """The disjunction over the axis of an index: axis ``-1 - depth``, if the arrays have it."""
    arrays = np.broadcast_arrays(v.some, v.gap, v.hit, v.miss)
    if arrays[0].ndim < depth + 1:
        return v
    some, gap, hit, miss = arrays
    axis = -1 - depth
    # The first axis is the innermost index' own: all deeper ones are gone.
    none_else = some.sum(axis=axis) <= 1
    all_miss = np.where(none_else, miss.all(axis=axis), False) | ~some.any(axis=axis)
    return Verdict(some.any(axis=axis), gap.all(axis=axis), hit.any(axis=axis), all_miss)


def _settled(value: bool) -> Verdict:
    yes, no = np.bool_(value), np.bool_(not value)
    return Verdict(yes, no, yes, no)


def _not(v: Verdict) -> Verdict:
    return Verdict(v.gap, v.some, v.miss, v.hit)


def _both_known(v: Verdict, w: Verdict) -> Verdict:
    """What two proofs say of one mask."""
    return Verdict(v.some & w.some, v.gap & w.gap, v.hit | w.hit, v.miss | w.miss)


def _joined(op: str, parts: list[Verdict], uses: list[frozenset[str]]) -> Verdict:
    """The conjunction (``and``) or the union (``or``)."""
    return _all(parts, uses) if op == "and" else _not(_all([_not(p) for p in parts], uses))


def _all(parts: list[Verdict], uses: list[frozenset[str]]) -> Verdict:
    """The conjunction. A common kept pair is sure if all but one part are full, or if the parts that are
    not speak of the query alone and of the key alone."""
    some = functools.reduce(np.logical_and, [p.some for p in parts])
    gap = functools.reduce(np.logical_or, [p.gap for p in parts])
    miss = functools.reduce(np.logical_or, [p.miss for p in parts])
    hit = functools.reduce(np.logical_and, [p.hit for p in parts])
    q_only = _mixed(parts, uses, frozenset("q"))
    k_only = _mixed(parts, uses, frozenset("k"))
    other = sum(
        (np.asarray(p.gap, np.int64) for p, u in zip(parts, uses, strict=True) if len(u) != 1), start=np.int64(0)
    )
    alone = (q_only <= 1) & (k_only <= 1) & (other == 0)
    return Verdict(some, gap, (hit & (alone | (q_only + k_only + other <= 1))) | ~gap, miss | ~some)


def _mixed(parts: list[Verdict], uses: list[frozenset[str]], which: frozenset[str]) -> Any:
    found = [np.asarray(p.gap, np.int64) for p, u in zip(parts, uses, strict=True) if u == which]
    return sum(found, start=np.int64(0))

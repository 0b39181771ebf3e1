"""Integers as linear forms, and comparisons of integers as bounds on them.

``k > q - n``, ``q - k < n`` and ``q < n + k`` are one bound: ``q - k`` is below ``n``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from maskc.ir.interval import MAX_INT, Interval
from maskc.ir.nodes import Apply, Const, Node, Symbol, Type
from maskc.ir.ops import apply

__all__ = ["Bound", "Linear", "bound_node", "bound_of", "interval_of", "linear", "linear_node", "order_key"]

#: Sums of more terms than this stay as they are, and so do those with numbers too large to compute with.
MAX_TERMS = 24


@dataclass(frozen=True)
class Linear:
    """``sum(factor * atom) + constant``; the terms are in the order of ``order_key``, factors are not 0."""

    terms: tuple[tuple[Node, int], ...]
    constant: int = 0

    def plus(self, other: Linear, factor: int = 1) -> Linear:
        """``self + factor * other``."""
        sums = dict(self.terms)
        for atom, f in other.terms:
            sums[atom] = sums.get(atom, 0) + factor * f
        return Linear(_sorted(sums.items()), self.constant + factor * other.constant)

    def times(self, factor: int) -> Linear:
        return Linear((), 0).plus(self, factor)

    def apart(self, atom: Node) -> tuple[int, Linear]:
        """The factor of ``atom``, and the rest."""
        factor = dict(self.terms).get(atom, 0)
        return factor, Linear(tuple(t for t in self.terms if t[0] is not atom), self.constant)


def interval_of(form: Linear, of: Callable[[Node], Interval]) -> Interval:
    """The interval of a form, by those ``of`` its atoms."""
    low: int | float = form.constant
    high: int | float = form.constant
    for atom, factor in form.terms:
        ends = [factor * end for end in of(atom)]
        low, high = low + min(ends), high + max(ends)
    return low, high


def _sorted(terms: Iterable[tuple[Node, int]]) -> tuple[tuple[Node, int], ...]:
    return tuple(sorted((t for t in terms if t[1]), key=lambda t: order_key(t[0])))


@functools.lru_cache(maxsize=1 << 14)
def order_key(node: Node) -> tuple[int, int, str]:
    """Where a node stands among commutative operands: what speaks of the query, then of both, then of the
    key, then of neither; constants last; small before large. Equal across processes."""
    names: set[str] = set()
    size = 0
    for n in _below(node):
        size += 1
        if isinstance(n, Symbol):
            names.add("i" if n.name[0] == "i" else n.name)
    rank = {(True, False): 0, (True, True): 1, (False, True): 2}.get(("q" in names, "k" in names), 3)
    return (4 if isinstance(node, Const) else rank), size, node.digest


def _below(root: Node) -> set[Node]:
    """``root`` and all nodes below it, in no order."""
    seen = {root}
    stack = [root]
    while stack:
        for c in stack.pop().children:
            if c not in seen:
                seen.add(c)
                stack.append(c)
    return seen


#: The forms of nodes that were asked for, emptied when there are many: the same sums are looked at again and again,
#: each within the larger ones that it is a part of.
_forms: dict[Node, Linear] = {}
_MAX_FORMS = 1 << 14


def linear(node: Node) -> Linear:
    """The linear form of an INT node; what is not linear in it is an atom."""
    found = _forms.get(node)
    if found is None:
        done: dict[Node, Linear] = {}
        for n in _arithmetic(node, done):
            done[n] = _linear(n, done)
        if len(_forms) > _MAX_FORMS:
            _forms.clear()
        _forms.update(done)
        found = done[node]
    return found


def _arithmetic(node: Node, done: dict[Node, Linear]) -> Iterable[Node]:
    """The sums, differences and products that ``node`` consists of and their operands, operands first; but those
    whose form is known are put into ``done``."""
    stack, seen = [(node, False)], set[Node]()
    while stack:
        n, ready = stack.pop()
        if n in seen:
            continue
        known = _forms.get(n)
        if known is not None:
            seen.add(n)
            done[n] = known
        elif ready or not (isinstance(n, Apply) and n.op in ("add", "sub", "neg", "mul")):
            seen.add(n)
            yield n
        else:
            stack.append((n, True))
            stack.extend((c, False) for c in n.children)


def _linear(n: Node, done: dict[Node, Linear]) -> Linear:
    if isinstance(n, Const):
        return Linear((), int(n.value))
    if not isinstance(n, Apply) or n.op not in ("add", "sub", "neg", "mul"):
        return Linear(((n, 1),))
    args = [done[a] for a in n.args]
    if n.op == "neg":
        return args[0].times(-1)
    if n.op == "mul":
        for one, other in (args, args[::-1]):
            if not one.terms:
                result = other.times(one.constant)
                return result if _is_small(result) else Linear(((n, 1),))
        return Linear(((n, 1),))
    result = args[0].plus(args[1], 1 if n.op == "add" else -1)
    return result if len(result.terms) <= MAX_TERMS and _is_small(result) else Linear(((n, 1),))


def _is_small(form: Linear) -> bool:
    return max(abs(form.constant), *(abs(f) for _, f in form.terms), 0) < MAX_INT


def linear_node(form: Linear) -> Node:
    """The form as an expression: positive terms first, the constant last."""
    positive = [(a, f) for a, f in form.terms if f > 0]
    negative = [(a, -f) for a, f in form.terms if f < 0]
    constant = form.constant
    if positive:
        total = _sum(positive)
    elif not negative or constant > 0:
        total, constant = Const(constant), 0
    else:
        total = apply("neg", _term(*negative.pop(0)))
    for term in negative:
        total = apply("sub", total, _term(*term))
    if constant:
        total = apply("add" if constant > 0 else "sub", total, Const(abs(constant)))
    return total


def _sum(terms: list[tuple[Node, int]]) -> Node:
    total = _term(*terms[0])
    for term in terms[1:]:
        total = apply("add", total, _term(*term))
    return total


def _term(atom: Node, factor: int) -> Node:
    return atom if factor == 1 else apply("mul", atom, Const(factor))


@dataclass(frozen=True)
class Bound:
    """A comparison of integers: ``low``: limit <= form; ``high``: form < limit; ``eq``; ``ne``.

    The first term of ``form`` has a positive factor, the factors have no common divisor, and ``form`` has
    no constant: it is in ``limit``.
    """

    kind: Literal["low", "high", "eq", "ne"]
    form: Linear
    limit: int

    def holds(self, value: int) -> bool:
        """Whether it holds where ``form`` is ``value``."""
        kinds = {"low": value >= self.limit, "high": value < self.limit, "eq": value == self.limit}
        return kinds.get(self.kind, value != self.limit)

    def negated(self) -> Bound:
        other: dict[str, Literal["low", "high", "eq", "ne"]] = {"low": "high", "high": "low", "eq": "ne", "ne": "eq"}
        return Bound(other[self.kind], self.form, self.limit)


@functools.lru_cache(maxsize=1 << 14)  # Rules ask again and again.
def bound_of(node: Node) -> Bound | bool | None:
    """The bound that a comparison of integers states; its truth value if it has one anyway; None for other nodes."""
    if not (isinstance(node, Apply) and node.op in ("lt", "le", "eq", "ne")) or node.args[0].type is not Type.INT:
        return None
    a, b = linear(node.args[0]), linear(node.args[1])
    form = b.plus(a, -1)
    if node.op in ("eq", "ne"):
        return _equation(form, node.op == "eq")
    return _inequality(form.plus(Linear((), -1 if node.op == "lt" else 0)))


def _equation(form: Linear, equal: bool) -> Bound | bool:
    if not form.terms:
        return (form.constant == 0) is equal
    divisor = math.gcd(*(f for _, f in form.terms))
    if form.constant % divisor:
        return not equal
    sign = divisor if form.terms[0][1] > 0 else -divisor
    terms = tuple((a, f // sign) for a, f in form.terms)
    return Bound("eq" if equal else "ne", Linear(terms), -form.constant // sign)


def _inequality(form: Linear) -> Bound | bool:
    """``0 <= form``."""
    if not form.terms:
        return form.constant >= 0
    divisor = math.gcd(*(f for _, f in form.terms))
    if form.terms[0][1] > 0:  # -constant <= divisor * terms
        terms = tuple((a, f // divisor) for a, f in form.terms)
        return Bound("low", Linear(terms), -(form.constant // divisor))
    terms = tuple((a, -f // divisor) for a, f in form.terms)
    return Bound("high", Linear(terms), form.constant // divisor + 1)


def bound_node(bound: Bound) -> Node:
    """The bound as a comparison, in the one spelling that all its spellings come to."""
    varying = Linear(tuple(t for t in bound.form.terms if _varies(t[0])))
    if not varying.terms:
        varying = bound.form
    # varying + rest <op> limit  ->  varying <op> limit - rest
    limit = Linear((), bound.limit).plus(bound.form.plus(varying, -1), -1)
    positive = Linear(tuple(t for t in varying.terms if t[1] > 0))
    negative = Linear(tuple((a, -f) for a, f in varying.terms if f < 0))
    if not limit.terms and negative.terms:
        two_sided = _two_sided(bound.kind, limit.constant, linear_node(positive), linear_node(negative))
        if two_sided is not None:
            return two_sided
    left, right = linear_node(varying), linear_node(limit)
    if bound.kind == "low":
        return apply("le", right, left)
    return apply({"high": "lt", "eq": "eq", "ne": "ne"}[bound.kind], left, right)


def _two_sided(kind: str, limit: int, positive: Node, negative: Node) -> Node | None:
    """``positive - negative`` against a limit of about 0 as a comparison of the two: ``k <= q``."""
    if kind in ("eq", "ne"):
        return apply(kind, positive, negative) if limit == 0 else None
    if limit not in (0, 1):
        return None
    if kind == "low":
        return apply("le" if limit == 0 else "lt", negative, positive)
    return apply("lt" if limit == 0 else "le", positive, negative)


@functools.lru_cache(maxsize=1 << 14)
def _varies(atom: Node) -> bool:
    return any(isinstance(n, Symbol) and (n.name in ("q", "k") or n.name[0] == "i") for n in _below(atom))

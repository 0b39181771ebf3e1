"""Masks as clauses that can be solved for the key: what is known before lengths and inputs are."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.ir.nodes import FALSE, TRUE, Apply, Const, Lookup, Node, Symbol, Type, postorder
from maskc.ir.ops import apply, conjunction
from maskc.ir.rewrite import substitute
from maskc.passes.linear import Linear, linear, linear_node
from maskc.passes.rows import MAX_CLAUSES, Clause, conjuncts, rows
from maskc.tiles.equalities import equal_label, equal_pair, unequal_pair
from maskc.tiles.orderings import Order, order_of

__all__ = [
    "Bounds",
    "Differences",
    "Digit",
    "RowForm",
    "Solved",
    "cuts_of",
    "on_difference",
    "operands",
    "rise",
    "row_form",
]

Array = npt.NDArray[Any]
_Q, _K = Symbol("q"), Symbol("k")
#: Clauses of a union that are taken as they are written, each solved by itself.
_MOST_WRITTEN = 256


@dataclass(frozen=True)
class Bounds:
    """``lo <= x < hi`` as the greatest of some and the least of others."""

    lo: tuple[Node, ...] = ()
    hi: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Digit:
    """Bounds on ``(k + shift) // stride % modulus``. ``part``: the condition, if it speaks of ``(q - k + c) % modulus``
    alone.

    ``alike``: the same of a condition that equals ``q % modulus == k % modulus``, which may also be left as it is.
    ``wraps``: the bounds may lie below 0 or beyond the modulus, and stand for all that is congruent to what is between.
    """

    stride: int
    modulus: int
    bounds: Bounds
    part: Node | None = None
    wraps: bool = False
    shift: int = 0
    alike: Node | None = None

    @property
    def ends(self) -> tuple[int, int]:
        """What bounds are clipped to."""
        return (-2 * self.modulus, 2 * self.modulus) if self.wraps else (0, self.modulus)

    def free(self, low: Array, high: Array) -> Array:
        """Where bounds leave nothing out."""
        found: Array = high - low >= self.modulus if self.wraps else (low <= 0) & (high >= self.modulus)
        return found

    def most(self, keys: int, low: Array, high: Array) -> Array:
        """How many of so many keys in a row have the digit between bounds, at most."""
        cycles, rest = divmod(keys, self.stride * self.modulus)
        found: Array = self.stride * np.clip(high - low, 0, self.modulus)
        return cycles * found + np.minimum(found, rest)

    @property
    def cuts(self) -> tuple[tuple[int, int], ...]:
        """Where query tiles have to be cut for it."""
        return tuple(cuts_of(*self.bounds.lo, *self.bounds.hi))


@dataclass(frozen=True, eq=False)
class Differences:
    """Which differences ``q - k`` a condition holds for: ``holds``, from ``low`` on, and none else."""

    low: int
    holds: Array


@dataclass(frozen=True)
class Solved:
    """A clause: bounds on the key, on digits of it, per-token inputs that are equal at the query and the key, labels
    of the query that equal ones of the key, conditions on the query and on the key, and what is left to test.
    ``period``: besides, ``q - k`` has certain remainders modulo that, which any so many differences have; 0: not.
    ``once``: it is a single one.
    ``unequal``: the labels are not all equal, instead. ``order``: they, numbers, are in that one. ``free``: keys that
    need no label and no condition.
    ``differences``: those that ``q - k`` has besides; None: any.
    """

    bounds: Bounds
    digits: tuple[Digit, ...]
    labels: tuple[str, ...]
    pairs: tuple[tuple[Node, Node], ...]
    guard: Node
    keep: Node
    residual: Node
    period: int = 0
    once: bool = False
    unequal: bool = False
    order: Order | None = None
    free: Node = FALSE
    differences: Differences | None = None


@dataclass(frozen=True)
class RowForm:
    """A mask as clauses, and where query tiles have to be cut: at ``q + shift`` divisible by ``period``."""

    clauses: tuple[Solved, ...]
    cuts: tuple[tuple[int, int], ...] = field(default=())


def row_form(mask: Node) -> RowForm | None:
    """The row form of a bound, normalised mask; None if no clause says anything about the key."""
    clauses = tuple(_solved(c) for c in rows(mask, _most_clauses(mask)))
    if any(not (c.bounds.lo or c.bounds.hi or c.digits or c.labels) and c.residual is not TRUE for c in clauses):
        return None
    nodes = [n for c in clauses for n in (*c.bounds.lo, *c.bounds.hi)]
    cuts = set(cuts_of(*nodes))
    # Without digits, what a stretch of queries has both of is known to be mixed: no need to take it query by query.
    cuts.update(x for x in cuts_of(*(c.guard for c in clauses)) if x[0] > 1)
    return RowForm(clauses, tuple(sorted(cuts)))


def _solved(clause: Clause) -> Solved:
    guard: list[Node] = []
    keep: list[Node] = []
    rest: list[Node] = []
    labels: list[str] = []
    digits: dict[_Place, Bounds] = {}
    differences: dict[_Place, Node] = {}
    aligned: dict[_Place, Node] = {}
    stretches: dict[_Difference, Digit] = {}
    for part in conjuncts(clause.residual):
        names = {n.name for n in postorder([part]) if isinstance(n, Symbol)}
        label = equal_label(part)
        if label is not None:
            labels.append(label)
            continue
        stretch = _stretch(part) or _other_digit(part)
        if stretch is not None:
            stretches[stretch[0]] = _both(stretches.get(stretch[0]), stretch[1])
            continue
        digit = _digit_bounds(_as_digit(part)) if "k" in names else None
        if "k" not in names:
            guard.append(part)
        elif digit is None:
            (rest if "q" in names else keep).append(part)
        else:
            place, on_digit = digit
            if "q" in names and _as_digit(part) is not part and place not in digits:
                differences[place] = part
            elif (alike := _equal_remainders(part)) is not None and place not in digits:
                aligned[place] = alike
            else:
                differences.pop(place, None)
                aligned.pop(place, None)
            before = digits.get(place, Bounds())
            digits[place] = Bounds((*before.lo, *on_digit.lo), (*before.hi, *on_digit.hi))
    lo = () if clause.lo is None else (clause.lo,)
    hi = () if clause.hi is None else (clause.hi,)
    ordered = sorted(digits.items(), key=lambda d: -d[0][0] * d[0][1])
    found = [Digit(*x[:2], b, differences.get(x), shift=x[2], alike=aligned.get(x)) for x, b in ordered]
    places = tuple(sorted((*stretches.values(), *found), key=lambda d: -d.stride * d.modulus))
    pairs = {part: pair for part in rest if (pair := equal_pair(part)) is not None}
    others = {part: pair for part in rest if (pair := unequal_pair(part)) is not None}
    unequal = not pairs and len(others) == 1
    pairs = others if unequal else pairs
    order = None if pairs else next((x for part in rest if (x := order_of(part)) is not None), None)
    if order is not None:
        pairs = {order.condition: (order.query, order.key)}
    if any(d.part is None for d in places):  # With digits, conditions on the key are no matter of whole tiles.
        rest, keep, pairs = rest + keep, [], {}
    rest = [part for part in rest if part not in pairs]
    guards, keeps, residual = (conjunction(x) for x in (guard, keep, rest))
    labelled = tuple(labels), tuple(pairs.values())
    unequal, order = unequal and bool(pairs), order if pairs else None
    return Solved(Bounds(lo, hi), places, *labelled, guards, keeps, residual, unequal=unequal, order=order)


def _as_digit(part: Node) -> Node:
    """``(q - k) % n == c`` as ``k % n == (q - c) % n``; else ``part``."""
    if not (isinstance(part, Apply) and part.op == "eq"):
        return part
    for remainder, value in (part.args, part.args[::-1]):
        if not (isinstance(remainder, Apply) and remainder.op == "mod" and isinstance(value, Const)):
            continue
        argument, modulus = remainder.args
        if not (isinstance(modulus, Const) and 0 <= value.value < modulus.value):
            continue
        form = linear(argument)
        factor = dict(form.terms).get(_K)
        if factor not in (1, -1) or not {n for n, _ in form.terms} <= {_Q, _K}:
            continue
        rest = form.plus(linear(value), -1).plus(linear(_K), -factor).times(-factor)
        return apply("eq", apply("mod", _K, modulus), apply("mod", linear_node(rest), modulus))
    return part


def _equal_remainders(part: Node) -> Node | None:
    """``q % n == k % n`` as ``(q - k) % n == 0``."""
    if not (isinstance(part, Apply) and part.op == "eq"):
        return None
    a, b = part.args
    if 1 < _modulus(a) == _modulus(b):
        form = linear(a.children[0]).plus(linear(b.children[0]), -1)
        if dict(form.terms) in ({_Q: 1, _K: -1}, {_Q: -1, _K: 1}):
            return apply("eq", apply("mod", linear_node(form), a.children[1]), Const(0))
    return None


#: The modulus and the shift of ``(q - k + shift) % modulus``, and a condition on it that goes with no other.
_Difference = tuple[int, int, Node | None]


def _stretch(part: Node) -> tuple[_Difference, Digit] | None:
    """Of what, and which, if ``part`` says ``low <= (q - k + shift) % n < high``: bounds on ``k % n`` that wrap. Beside
    an equality: see ``_as_digit``."""
    if not (isinstance(part, Apply) and part.op in ("lt", "le", "ne") and part.args[0].type is Type.INT):
        return None
    for at, (remainder, value) in enumerate((part.args, part.args[::-1])):
        if not (isinstance(remainder, Apply) and remainder.op == "mod" and isinstance(value, Const)):
            continue
        form, modulus = linear(remainder.args[0]), remainder.args[1]
        if not isinstance(modulus, Const) or dict(form.terms) not in ({_Q: 1, _K: -1}, {_Q: -1, _K: 1}):
            continue
        n, v, strict = int(modulus.value), int(value.value), part.op == "lt"
        low, high = (v + 1, v + n) if part.op == "ne" else (0, v + 1 - strict) if at == 0 else (v + strict, n)
        if n < 2 or not (0 <= low < high and 0 < high - low < n and (part.op == "ne" or high <= n)):
            continue
        shift = form.constant
        if dict(form.terms)[_Q] < 0:  # n - 1 - (q - k - shift - 1) % n
            low, high, shift = n - high, n - low, -shift - 1
        query = apply("mod", linear_node(Linear(((_Q, 1),), shift % n)), modulus)
        lo, hi = (apply("add", query, Const(1 - x)) for x in (high, low))
        return (n, shift % n, part if part.op == "ne" else None), Digit(1, n, Bounds((lo,), (hi,)), part, True)
    return None


def _other_digit(part: Node) -> tuple[_Difference, Digit] | None:
    """If ``part`` says that a digit of the key is not one of its values: the others, as one stretch that wraps."""
    if not (isinstance(part, Apply) and part.op == "ne"):
        return None
    for digit, value in (part.args, part.args[::-1]):
        n = _modulus(digit)
        stride, shift = _quotient(digit.children[0], _K) if n > 1 else (0, 0)
        fits = 0 <= value.value < n if isinstance(value, Const) else 0 < _modulus(value) <= n
        if stride and fits and _K not in set(postorder([value])):
            bounds = Bounds((apply("add", value, Const(1)),), (apply("add", value, Const(n)),))
            return (n, shift, part), Digit(stride, n, bounds, None, True, shift % (stride * n))
    return None


def _modulus(node: Node) -> int:
    """What integers a node is the remainder modulo; 0 if of none."""
    if isinstance(node, Apply) and node.op == "mod" and node.type is Type.INT and isinstance(node.args[1], Const):
        return max(0, int(node.args[1].value))
    return 0


def _both(a: Digit | None, b: Digit) -> Digit:
    """Two stretches of one difference."""
    if a is None or a.part is None or b.part is None:
        return b
    bounds = Bounds((*a.bounds.lo, *b.bounds.lo), (*a.bounds.hi, *b.bounds.hi))
    return Digit(b.stride, b.modulus, bounds, conjunction([a.part, b.part]), True)


def on_difference(part: Node) -> Node | None:
    """The condition with ``k`` in the place of ``q - k``, if it speaks of the query and the key through that alone."""
    if not {_Q, _K} <= set(postorder([part])):
        return None
    forms = {n: linear(n) for n in postorder([part]) if n.type is Type.INT and not isinstance(n, Symbol | Const)}
    apart: dict[Node, Node] = {}
    for node, form in forms.items():
        factor = dict(form.terms).get(_Q, 0)
        rest = form.plus(Linear(((_Q, factor), (_K, -factor))), -1)
        if factor and not {_Q, _K} & set(postorder([n for n, _ in rest.terms])):
            apart[node] = linear_node(rest.plus(linear(_K), factor))
    left = set(postorder([substitute(part, dict.fromkeys(apart, Const(0)))]))
    return None if {_Q, _K} & left else substitute(part, apart)


def operands(node: Node, op: str) -> tuple[Node, ...]:
    if isinstance(node, Apply) and node.op == op:
        return tuple(n for a in node.args for n in operands(a, op))
    return (node,)


#: The stride, the modulus and the shift of a digit.
_Place = tuple[int, int, int]


def _digit_bounds(part: Node) -> tuple[_Place, Bounds] | None:
    """If ``part`` speaks of the key through one digit only: which, and the bounds on it."""
    for node in postorder([part]):
        if not (isinstance(node, Apply) and node.op == "mod" and isinstance(node.args[1], Const)):
            continue
        stride, shift = _quotient(node.args[0], _K)
        modulus = int(node.args[1].value)
        if stride == 0 or modulus <= 1:
            continue
        plain = substitute(part, {node: _K})
        if any(n is _K for n in postorder([substitute(part, {node: Const(0)})])):
            continue
        found = rows(plain)
        if len(found) == 1 and found[0].residual is TRUE:
            lo = () if found[0].lo is None else (found[0].lo,)
            hi = () if found[0].hi is None else (found[0].hi,)
            return (stride, modulus, shift % (stride * modulus)), Bounds(lo, hi)
    return None


def _quotient(node: Node, symbol: Symbol) -> tuple[int, int]:
    """(stride, shift) if the node is ``(symbol + shift) // stride``; else (0, 0)."""
    stride, shift = 1, 0
    while isinstance(node, Apply) and node.op in ("floordiv", "add", "sub") and isinstance(node.args[1], Const):
        value = int(node.args[1].value)
        if node.op != "floordiv":
            shift += value if node.op == "add" else -value
        elif value > 0:
            stride, shift = stride * value, shift * value
        else:
            break
        node = node.args[0]
    return (stride, shift) if node is symbol else (0, 0)


def cuts_of(*nodes: Node) -> Iterable[tuple[int, int]]:
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


@functools.lru_cache(maxsize=1 << 14)  # What is shared is asked about wherever it is used.
def rise(node: Node) -> int | None:
    """The most that a node rises from a query to the next within a fragment; None if it may fall."""
    if not any(n is _Q or n is _K for n in postorder([node])):
        return 0
    if node is _Q:
        return 1
    if not isinstance(node, Apply) or node.type is not Type.INT:
        return None
    steps = [rise(a) for a in node.args]
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


def _most_clauses(mask: Node) -> int:
    """How many clauses a mask may have: as many as it, or a part of its conjunction, is a union of, if they are not
    very many. A part that has more would be a residual, which has to be asked about in boxes."""
    unions = [part for part in conjuncts(mask) if isinstance(part, Apply) and part.op == "or"]
    return max(MAX_CLAUSES, min(max((len(u.args) for u in unions), default=0), _MOST_WRITTEN))

"""A mask as rules for the keys of a query that can be counted without visiting them.

A rule keeps the keys ``lo(q) <= k < hi(q)`` of those queries that its guard admits, and may ask three things more:
a condition on the key alone, that labels of the query and of the key are equal (``doc[q] == doc[k]``,
``(q - k) % 64 == 0``), and that digits of the key (``k // 80 % 48``, the coordinates of grids) lie in ranges.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from maskc.ir.binding import Binding
from maskc.ir.nodes import TRUE, Apply, Const, Node, Symbol, Type, postorder
from maskc.ir.ops import apply, conjunction
from maskc.ir.program import Program
from maskc.ir.rewrite import mentions, substitute
from maskc.passes.linear import Linear, linear, linear_node
from maskc.passes.rows import Clause, conjuncts, rows
from maskc.tiles.analysis import analyse

__all__ = ["DigitRange", "Rule", "rules_of"]

_KEY = Symbol("k")


@dataclass(frozen=True)
class DigitRange:
    """``lo <= k // stride % modulus < hi``, the greatest of ``lo`` and the least of ``hi``."""

    stride: int
    modulus: int
    lo: tuple[Node, ...]
    hi: tuple[Node, ...]


@dataclass(frozen=True)
class Rule:
    """Keys of a query. ``lo``, ``hi`` and ``guard`` do not speak of the key, ``keep`` not of the query;
    ``equal`` are pairs of a label of the key and one of the query."""

    lo: Node | None
    hi: Node | None
    guard: Node
    keep: Node
    equal: tuple[tuple[Node, Node], ...]
    digits: tuple[DigitRange, ...]

    @property
    def is_interval(self) -> bool:
        """Whether the keys of every query are one interval."""
        return self.keep is TRUE and not self.equal and not self.digits


def rules_of(program: Program, binding: Binding) -> tuple[Rule, ...] | None:
    """Rules whose union is the mask (they may overlap), or None if it cannot be written so."""
    analysis = analyse(program, binding)
    return _rules(analysis.program.mask) if analysis.normal else None


@functools.lru_cache(maxsize=128)
def _rules(mask: Node) -> tuple[Rule, ...] | None:
    found = [_rule(c) for c in rows(mask)]
    return None if any(r is None for r in found) else tuple(r for r in found if r is not None)


def _rule(clause: Clause) -> Rule | None:
    guard: list[Node] = []
    keep: list[Node] = []
    equal: list[tuple[Node, Node]] = []
    digits: list[DigitRange] = []
    for part in conjuncts(clause.residual):
        names = _names(part)
        if "k" not in names:
            guard.append(part)
        elif "q" not in names:
            keep.append(part)
        elif (digit := _digit_range(part)) is not None:
            digits.append(digit)
        elif (pair := _equality(part)) is not None:
            equal.append(pair)
        else:
            return None
    return Rule(clause.lo, clause.hi, conjunction(guard), conjunction(keep), tuple(equal), _merged(digits))


def _names(node: Node) -> frozenset[str]:
    return mentions([node])[node]


def _merged(digits: list[DigitRange]) -> tuple[DigitRange, ...]:
    """One range a digit, those of the largest period first."""
    found: dict[tuple[int, int], DigitRange] = {}
    for d in digits:
        before = found.get((d.stride, d.modulus), DigitRange(d.stride, d.modulus, (), ()))
        found[d.stride, d.modulus] = DigitRange(d.stride, d.modulus, before.lo + d.lo, before.hi + d.hi)
    return tuple(sorted(found.values(), key=lambda d: -d.stride * d.modulus))


def _digit_range(part: Node) -> DigitRange | None:
    """If ``part`` speaks of the key by way of one digit only, and bounds that."""
    for node in postorder([part]):
        place = _digit(node)
        if place is None or _KEY in set(postorder([substitute(part, {node: Const(0)})])):
            continue
        found = rows(substitute(part, {node: _KEY}))
        if len(found) == 1 and found[0].residual is TRUE:
            c = found[0]
            return DigitRange(*place, () if c.lo is None else (c.lo,), () if c.hi is None else (c.hi,))
    return None


def _digit(node: Node) -> tuple[int, int] | None:
    """(stride, modulus) of ``k // stride % modulus``."""
    if not (isinstance(node, Apply) and node.op == "mod"):
        return None
    inner, modulus = node.args
    stride = 1
    while isinstance(inner, Apply) and inner.op == "floordiv":
        divisor = inner.args[1]
        if not (isinstance(divisor, Const) and divisor.value > 0):
            return None
        stride *= int(divisor.value)
        inner = inner.args[0]
    if inner is not _KEY or not (isinstance(modulus, Const) and modulus.value > 0):
        return None
    return stride, int(modulus.value)


def _equality(part: Node) -> tuple[Node, Node] | None:
    """A label of the key and one of the query whose equality ``part`` says."""
    if not (isinstance(part, Apply) and part.op == "eq"):
        return None
    for a, b in (part.args, part.args[::-1]):
        if "q" not in _names(a) and "k" not in _names(b) and a.type is not Type.FLOAT:
            return a, b
    if part.args[0].type is not Type.INT:
        return None
    for a, b in (part.args, part.args[::-1]):
        if isinstance(a, Apply) and a.op == "mod" and isinstance(a.args[1], Const) and "k" not in _names(b):
            return _congruence(a.args[0], int(a.args[1].value), b)
    sides = _sides(linear(part.args[0]).plus(linear(part.args[1]), -1))
    return None if sides is None else (linear_node(sides[0]), linear_node(sides[1].times(-1)))


def _congruence(argument: Node, modulus: int, value: Node) -> tuple[Node, Node] | None:
    """``argument % modulus == value``: the key's part of the argument is congruent to ``value`` less the query's."""
    sides = _sides(linear(argument))
    if sides is None or modulus <= 0:
        return None
    m, zero = Const(modulus), Const(0)
    wanted = apply("mod", apply("sub", value, linear_node(sides[1])), m)
    possible = apply("and", apply("le", zero, value), apply("lt", value, m))
    return apply("mod", linear_node(sides[0]), m), apply("select", possible, wanted, Const(-1))


def _sides(form: Linear) -> tuple[Linear, Linear] | None:
    """The part of a linear form that speaks of the key, and the rest; None if a term speaks of both."""
    key = tuple(t for t in form.terms if "k" in _names(t[0]))
    if any("q" in _names(atom) for atom, _ in key):
        return None
    rest = tuple(t for t in form.terms if "k" not in _names(t[0]))
    return Linear(key), Linear(rest, form.constant)

"""Masks that others contain go: bounds on one quantity become one, ``a & (a | b)`` is ``a``, ``a & (a & b | c)`` is
``a & (b | c)``."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from maskc.ir.nodes import Apply, Const, Node
from maskc.ir.ops import apply
from maskc.ir.program import Program
from maskc.ir.rewrite import map_program, rewrite
from maskc.passes.linear import Bound, Linear, bound_node, bound_of, order_key
from maskc.passes.negate import opposite
from maskc.passes.simplify import operands

__all__ = ["absorb"]

_DUAL = {"and": "or", "or": "and"}
#: Of rules, at one node: more than there may be operators and operands, each of which goes but once.
_MOST_STEPS = 1 << 14


def absorb(program: Program) -> Program:
    """The pass."""
    return map_program(program, lambda node: rewrite(node, (_settled,)))


def _settled(node: Node) -> Node:
    """``node`` when no rule applies to it any more: one may serve another, as in ``a & (~a | b) & (~b | c)``, and such
    chains may be longer than a rewriting has rounds."""
    # What the rules make of operands may be alike, or constant: such go first, which the other rules rely on.
    rules = (operands, bounds, contained, repeated, shared)
    for _ in range(_MOST_STEPS):
        after = next((made for rule in rules if (made := rule(node)) is not None and made is not node), None)
        if after is None:
            break
        node = after
    return node


def bounds(node: Node) -> Node | None:
    """``q - k < 8 & q - k < 4`` is ``q - k < 4``; of ``|`` the loosest stays; the impossible is false."""
    if not isinstance(node, Apply) or node.op not in _DUAL:
        return None
    groups: dict[Linear, list[Bound]] = {}
    others: list[Node] = []
    for a in node.args:
        bound = bound_of(a)
        if isinstance(bound, Bound):
            groups.setdefault(bound.form, []).append(bound)
        else:
            others.append(a)
    made: list[Node] = []
    for group in groups.values():
        # An `or` is the negation of the `and` of the negated bounds.
        merged = _both(group) if node.op == "and" else _both([b.negated() for b in group])
        if merged is None:
            return Const(node.op == "or")
        made.extend(bound_node(b if node.op == "and" else b.negated()) for b in merged)
    parts = sorted({*made, *others}, key=order_key)
    return _joined(node.op, parts) if set(parts) != set(node.args) else None


def _both(group: Iterable[Bound]) -> list[Bound] | None:
    """The fewest bounds on one form that hold together where all of ``group`` do; None if they never do."""
    group = list(group)
    form = group[0].form
    fixed = {b.limit for b in group if b.kind == "eq"}
    if fixed:
        value = fixed.pop()
        return [Bound("eq", form, value)] if not fixed and all(b.holds(value) for b in group) else None
    low = max((b.limit for b in group if b.kind == "low"), default=None)
    high = min((b.limit for b in group if b.kind == "high"), default=None)
    holes = {b.limit for b in group if b.kind == "ne"}
    while low is not None and low in holes:
        holes.remove(low)
        low += 1
    while high is not None and high - 1 in holes:
        holes.remove(high - 1)
        high -= 1
    if low is not None and high is not None and low >= high - 1:
        return [Bound("eq", form, low)] if low == high - 1 else None
    inside = [h for h in sorted(holes) if (low is None or h > low) and (high is None or h < high)]
    ends = [Bound("low", form, low)] if low is not None else []
    ends += [Bound("high", form, high)] if high is not None else []
    return [*ends, *(Bound("ne", form, h) for h in inside)]


def contained(node: Node) -> Node | None:
    """``a & (a | b)`` is ``a``, and ``(a | b) & (a | b | c)`` is ``a | b``; likewise with the two exchanged."""
    if not isinstance(node, Apply) or node.op not in _DUAL:
        return None
    sets = {a: _operands(a, _DUAL[node.op]) for a in node.args}
    # A set lies within another only if any one element of it does: each is found by one of its elements.
    found_by: dict[Node, list[frozenset[Node]]] = {}
    for s in sets.values():
        found_by.setdefault(next(iter(s)), []).append(s)
    kept = [a for a in node.args if not any(s < sets[a] for n in sets[a] for s in found_by.get(n, ()))]
    return _joined(node.op, kept) if len(kept) < len(node.args) else None


def repeated(node: Node) -> Node | None:
    """``a & ~a`` is false, ``a & (~a | b)`` is ``a & b``, and ``a & (a & b | c)`` is ``a & (b | c)``, however deep;
    likewise with the two exchanged."""
    if not isinstance(node, Apply) or node.op not in _DUAL:
        return None
    against = {_opposite(a) for a in node.args}
    if any(a in against for a in node.args):
        return Const(node.op == "or")
    # An operand matters where all others hold, of an `or` where none does.
    known: dict[Node, Node] = {a: Const(node.op == "or") for a in against}
    known.update({a: Const(node.op == "and") for a in node.args})
    parts = [_told(a, known) if isinstance(a, Apply) and a.op in _DUAL else a for a in node.args]
    return _joined(node.op, parts) if tuple(parts) != node.args else None


def _told(node: Apply, known: dict[Node, Node]) -> Node:
    """``node`` with what is ``known`` of masks put in below it; what that makes of others is known from then on."""
    parts = []
    for a in node.args:
        if a not in known:
            known[a] = _told(a, known) if isinstance(a, Apply) and a.op in _DUAL else a
        parts.append(known[a])
    if tuple(parts) == node.args:
        return node
    found = operands(apply(node.op, *parts))
    assert found is not None
    return found


def shared(node: Node) -> Node | None:
    """``a & b | a & c`` is ``a & (b | c)``, where all operands share some; likewise with the two exchanged."""
    if not isinstance(node, Apply) or node.op not in _DUAL:
        return None
    dual = _DUAL[node.op]
    common = frozenset.intersection(*(_operands(a, dual) for a in node.args))
    if not common:
        return None
    first = [n for n in _in_order(node.args[0], dual) if n in common]
    rest = [[n for n in _in_order(a, dual) if n not in common] for a in node.args]
    if not all(rest):  # ``a | a & b`` is ``a``
        return _joined(dual, first)
    return _joined(dual, [*first, _joined(node.op, [_joined(dual, left) for left in rest])])


def _in_order(node: Node, op: str) -> tuple[Node, ...]:
    return node.args if isinstance(node, Apply) and node.op == op else (node,)


def _operands(node: Node, op: str) -> frozenset[Node]:
    return frozenset(_in_order(node, op))


@functools.lru_cache(maxsize=1 << 14)  # Asked about again with whatever an operand tells of others.
def _opposite(node: Node) -> Node:
    bound = bound_of(node)
    if isinstance(bound, Bound):
        return bound_node(bound.negated())
    return opposite(node)


def _joined(op: str, parts: list[Node]) -> Node:
    if not parts:
        return Const(op == "and")
    return apply(op, *parts) if len(parts) > 1 else parts[0]

"""Negation moves inward, until it stands before look-ups and comparisons of floats only."""

from __future__ import annotations

import functools

from maskc.ir.nodes import Apply, Const, Node, Type
from maskc.ir.ops import apply, negation
from maskc.ir.program import Program
from maskc.ir.rewrite import map_program, rewrite

__all__ = ["inward", "negate", "opposite", "truths"]

_DUAL = {"and": "or", "or": "and"}


def negate(program: Program) -> Program:
    """The pass."""
    return map_program(program, lambda node: rewrite(node, (inward, truths)))


def inward(node: Node) -> Node | None:
    """De Morgan's laws; ``~(a < b)`` is ``b <= a``, but not of floats, which may be NaN."""
    if not (isinstance(node, Apply) and node.op == "not" and isinstance(node.args[0], Apply)):
        return None
    inner = node.args[0]
    if inner.op == "not":
        return inner.args[0]
    if inner.op in _DUAL:
        return apply(_DUAL[inner.op], *(opposite(a) for a in inner.args))
    if inner.op == "select":
        return apply("select", inner.args[0], opposite(inner.args[1]), opposite(inner.args[2]))
    return _comparison(inner)


def _comparison(inner: Apply) -> Node | None:
    a, b = inner.args[0], inner.args[-1]
    if inner.op in ("eq", "ne"):
        return apply("ne" if inner.op == "eq" else "eq", a, b)
    if inner.op in ("lt", "le") and a.type is Type.INT:
        return apply("le" if inner.op == "lt" else "lt", b, a)
    return None


@functools.lru_cache(maxsize=1 << 14)  # What is shared is negated wherever it is used.
def opposite(node: Node) -> Node:
    """``~node`` with the negation as far inward as it goes."""
    made = negation(node)
    moved = inward(made)
    return made if moved is None else moved


def truths(node: Node) -> Node | None:
    """``a == true``; ``a != b`` of Booleans is ``a == ~b`` where one side is constant."""
    if not (isinstance(node, Apply) and node.op in ("eq", "ne") and node.args[0].type is Type.BOOL):
        return None
    for one, other in (node.args, node.args[::-1]):
        if isinstance(one, Const):
            return other if bool(one.value) is (node.op == "eq") else opposite(other)
    return None

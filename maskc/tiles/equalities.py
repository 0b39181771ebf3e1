"""Conditions that something of the query equals something of the key, or does not."""

from __future__ import annotations

from maskc.ir.nodes import Apply, Lookup, Node, Symbol, Type, postorder
from maskc.ir.ops import apply

__all__ = ["equal_label", "equal_pair", "label_pair", "unequal_pair"]

_Q, _K = Symbol("q"), Symbol("k")


def equal_label(part: Node) -> str | None:
    """The table if ``part`` is ``table[q] == table[k]``."""
    if not (isinstance(part, Apply) and part.op == "eq"):
        return None
    a, b = part.args
    if not (isinstance(a, Lookup) and isinstance(b, Lookup) and a.name == b.name and a.type is not Type.FLOAT):
        return None  # no float that is not a number equals itself
    return a.name if {*a.indices, *b.indices} == {_Q, _K} and len(a.indices) == 1 else None


def label_pair(name: str, type_: Type) -> tuple[Node, Node]:
    """What ``table[q] == table[k]`` compares."""
    return Lookup(name, type_, (_Q,)), Lookup(name, type_, (_K,))


def equal_pair(part: Node) -> tuple[Node, Node] | None:
    """(a, b) if ``part`` says that ``a`` of the query equals ``b`` of the key, both integers."""
    if not (isinstance(part, Apply) and part.op == "eq" and part.args[0].type is Type.INT is part.args[1].type):
        return None
    for a, b in (part.args, part.args[::-1]):
        on_a, on_b = (set(postorder([x])) for x in (a, b))
        if _Q in on_a and _K not in on_a and _K in on_b and _Q not in on_b:
            return a, b
    return None


def unequal_pair(part: Node) -> tuple[Node, Node] | None:
    """(a, b) if ``part`` says that ``a`` of the query, a label or an integer, does not equal ``b`` of the key."""
    if not (isinstance(part, Apply) and part.op == "ne"):
        return None
    equal = apply("eq", *part.args)
    name = equal_label(equal)
    return equal_pair(equal) if name is None else label_pair(name, part.args[0].type)

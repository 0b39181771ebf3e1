"""Derivatives of float expressions, as expressions."""

from __future__ import annotations

import math
from collections.abc import Callable

from maskc.ir.nodes import Apply, Const, Lookup, Node, Type, postorder
from maskc.ir.ops import apply

__all__ = ["derivative", "float_lookups"]

_ZERO, _ONE = Const(0.0), Const(1.0)


def derivative(node: Node, by: Node) -> Node:
    """The derivative of a FLOAT ``node`` by ``by``, a symbol or a look-up taken as a variable.

    Where two operands of ``min`` or ``max`` are equal each has half of it, as in torch; the absolute
    value has derivative 0 at 0. Integers and Booleans do not depend on floats smoothly: they count as constant.
    """
    known: dict[Node, Node] = {}
    for each in postorder([node]):
        if each is by:
            known[each] = _ONE
        elif isinstance(each, Apply) and each.type is Type.FLOAT:
            known[each] = _chain(each, [known[a] for a in each.args])
        else:
            known[each] = _ZERO
    return known[node]


def float_lookups(node: Node) -> tuple[Lookup, ...]:
    """The look-ups of floats below ``node``, each once."""
    return tuple(n for n in postorder([node]) if isinstance(n, Lookup) and n.type is Type.FLOAT)


def _chain(node: Apply, inner: list[Node]) -> Node:
    if all(d is _ZERO for d in inner):
        return _ZERO
    a = node.args
    if node.op == "select":
        return _select(a[0], inner[1], inner[2])
    if node.op in ("add", "sub", "neg"):
        return _linear(node.op, inner)
    if node.op in ("min", "max"):
        return _extreme(node.op, a, inner)
    if node.op in _BINARY:
        left, right = _BINARY[node.op](*a)
        return _add(_mul(inner[0], left), _mul(inner[1], right))
    return _mul(inner[0], _UNARY[node.op](a[0], node))


def _linear(op: str, inner: list[Node]) -> Node:
    if op == "neg":
        return apply("neg", inner[0])
    if op == "add":
        return _add(*inner)
    if inner[1] is _ZERO:
        return inner[0]
    return apply("neg", inner[1]) if inner[0] is _ZERO else apply("sub", *inner)


def _extreme(op: str, args: tuple[Node, ...], inner: list[Node]) -> Node:
    """Operands are taken in one after another, as evaluation does."""
    value, slope = args[0], inner[0]
    for arg, its in zip(args[1:], inner[1:], strict=True):
        first = apply("lt", value, arg) if op == "min" else apply("lt", arg, value)
        half = _mul(Const(0.5), _add(slope, its))
        slope = _select(first, slope, _select(apply("eq", value, arg), half, its))
        value = apply(op, value, arg)
    return slope


def _add(*terms: Node) -> Node:
    some = [t for t in terms if t is not _ZERO]
    total = some[0] if some else _ZERO
    for term in some[1:]:
        total = apply("add", total, term)
    return total


def _mul(a: Node, b: Node) -> Node:
    if a is _ZERO or b is _ZERO:
        return _ZERO
    return b if a is _ONE else a if b is _ONE else apply("mul", a, b)


def _select(condition: Node, a: Node, b: Node) -> Node:
    return a if a is b else apply("select", condition, a, b)


def _divide(a: Node, b: Node) -> Node:
    return apply("div", a, b)


def _power(a: Node, b: Node) -> tuple[Node, Node]:
    by_base = _select(apply("eq", b, _ZERO), _ZERO, _mul(b, apply("pow", a, apply("sub", b, _ONE))))
    by_exponent = _select(apply("eq", a, _ZERO), _ZERO, _mul(apply("pow", a, b), apply("log", a)))
    return by_base, by_exponent


_BINARY: dict[str, Callable[..., tuple[Node, Node]]] = {
    "mul": lambda a, b: (b, a),
    "div": lambda a, b: (_divide(_ONE, b), apply("neg", _divide(a, apply("mul", b, b)))),
    "pow": _power,
}

# From the operand and the value itself.
_UNARY: dict[str, Callable[[Node, Node], Node]] = {
    "abs": lambda a, _: _select(apply("lt", a, _ZERO), Const(-1.0), _select(apply("eq", a, _ZERO), _ZERO, _ONE)),
    "exp": lambda _, y: y,
    "exp2": lambda _, y: _mul(y, Const(math.log(2.0))),
    "log": lambda a, _: _divide(_ONE, a),
    "log2": lambda a, _: _divide(Const(1.0 / math.log(2.0)), a),
    "sqrt": lambda _, y: _divide(Const(0.5), y),
    "sin": lambda a, _: apply("cos", a),
    "cos": lambda a, _: apply("neg", apply("sin", a)),
    "tanh": lambda _, y: apply("sub", _ONE, apply("mul", y, y)),
    "sigmoid": lambda _, y: apply("mul", y, apply("sub", _ONE, y)),
}

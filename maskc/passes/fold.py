"""Operators on constants are carried out."""

from __future__ import annotations

import functools
import math
from types import SimpleNamespace

from maskc.ir.nodes import FALSE, Apply, Const, Exists, Node, Type
from maskc.ir.ops import OPS
from maskc.ir.program import Program
from maskc.ir.rewrite import map_program, rewrite

__all__ = ["fold", "fold_node", "operators"]

#: The array functions that the meanings in ``OPS`` use, on Python's numbers.
_PYTHON = SimpleNamespace(where=lambda c, a, b: a if c else b, minimum=min, maximum=max, abs=abs)
#: Floats are folded where the result is the same on every machine.
_EXACT = frozenset({"lt", "le", "eq", "ne", "add", "sub", "mul", "div", "neg", "abs", "min", "max", "float", "select"})


def fold(program: Program) -> Program:
    """The pass."""
    return map_program(program, lambda node: rewrite(node, (operators, branches, alternatives)))


def fold_node(node: Node) -> Node:
    """The same for one expression."""
    return rewrite(node, (operators, branches, alternatives))


def operators(node: Node) -> Node | None:
    """``2 * 3``"""
    if not isinstance(node, Apply) or node.op == "select" or not all(isinstance(a, Const) for a in node.args):
        return None
    values = [a.value for a in node.args if isinstance(a, Const)]
    if any(isinstance(v, float) for v in values) and node.op not in _EXACT:
        return None
    return _constant(node, values)


def _constant(node: Apply, values: list[bool | int | float]) -> Node | None:
    op = OPS[node.op]
    if op.name == "not":
        return Const(not values[0])
    if op.name == "float":
        return Const(float(values[0]))
    if (op.name == "div" and values[1] == 0) or (op.gives is Type.FLOAT and op.name != "div"):
        return None
    if op.arity is None and "associative" in op.laws:
        value = functools.reduce(functools.partial(op.meaning, _PYTHON), values)
    else:
        value = op.meaning(_PYTHON, *values)
    if node.type is Type.FLOAT:
        return Const(float(value)) if math.isfinite(value) else None
    if node.type is Type.BOOL:
        return Const(bool(value))
    return Const(int(value)) if abs(value) < 1 << 62 else None


def branches(node: Node) -> Node | None:
    """``match true { true: a; else: b }``"""
    if not isinstance(node, Apply) or node.op != "select":
        return None
    condition, yes, no = node.args
    if yes is no:
        return yes
    if isinstance(condition, Const):
        return yes if condition.value else no
    return None


def alternatives(node: Node) -> Node | None:
    """``any(i in 0..0: m)``, and ``any(i in 0..n: false)``"""
    if not isinstance(node, Exists):
        return None
    if isinstance(node.count, Const) and node.count.value <= 0:
        return FALSE
    if node.body is FALSE:
        return FALSE
    return None

"""Comparisons that the ranges of their operands decide: ``q >= 0``, ``k < size(k)``, ``x % 4 < 4``."""

from __future__ import annotations

import math

from maskc.ir.interval import Interval, Intervals, ranges_of
from maskc.ir.nodes import Apply, Const, Node, Size, Symbol, Type
from maskc.ir.program import Program
from maskc.ir.rewrite import map_program, rewrite
from maskc.passes.linear import Bound, Linear, bound_of, interval_of

__all__ = ["decide"]


def decide(program: Program) -> Program:
    """The pass. It relies on positions being within the sequences, and on inputs within their declared ranges."""
    known = Intervals(ranges_of(program))
    limits = _limits(program)

    def by_range(node: Node) -> Node | None:
        """What has one value only, or a remainder of less than its divisor."""
        if isinstance(node, Const) or node.type is Type.FLOAT:
            return None
        value = known.of(node)
        if value[0] == value[1] and not math.isinf(value[0]):
            return Const(bool(value[0]) if node.type is Type.BOOL else int(value[0]))
        if isinstance(node, Apply) and node.op in ("floordiv", "mod"):
            return _small(node, *(known.of(a) for a in node.args))
        bound = bound_of(node)
        return _decided(bound, known, limits) if isinstance(bound, Bound) else None

    return map_program(program, lambda node: rewrite(node, (by_range,)))


def _limits(program: Program) -> dict[Node, Node]:
    """Symbols, and the sizes that they stay below."""
    size = Size("q" if program.cross else "k")
    return {Symbol("q"): size, Symbol("k"): Size("k"), Symbol("h"): Symbol("heads")}


def _small(node: Apply, value: Interval, divisor: Interval) -> Node | None:
    if value[0] >= 0 and value[1] < divisor[0]:
        return node.args[0] if node.op == "mod" else Const(0)
    return None


def _decided(bound: Bound, known: Intervals, limits: dict[Node, Node]) -> Node | None:
    low, high = _span(bound.form, known, limits)
    if bound.kind in ("low", "high"):
        at_ends = {value >= bound.limit for value in (low, high)}
        return Const((True in at_ends) is (bound.kind == "low")) if len(at_ends) == 1 else None
    return None if low <= bound.limit <= high else Const(bound.kind == "ne")


def _span(form: Linear, known: Intervals, limits: dict[Node, Node]) -> Interval:
    """The interval of a linear form, with symbols measured from 0 or from the size that they stay below."""
    low, high = interval_of(form, known.of)
    for symbol, size in limits.items():
        factor, rest = form.apart(symbol)
        if factor:
            # symbol = size - 1 - back, and back is at least 0.
            rest = rest.plus(Linear(((size, 1),), -1), factor)
            end = interval_of(rest, known.of)
            low, high = (low, min(high, end[1])) if factor > 0 else (max(low, end[0]), high)
    return low, high

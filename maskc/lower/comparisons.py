"""Comparisons and membership, and the names of enumerators that stand in them."""

from __future__ import annotations

from collections.abc import Sequence

from maskc.diagnostics import Span
from maskc.ir.nodes import Apply, Const, Node, Symbol, Type
from maskc.ir.ops import conjunction
from maskc.lower import operators as ops
from maskc.lower.context import Lowering
from maskc.lower.scope import RESERVED, Pair, Scope, did_you_mean
from maskc.lower.values import POISON, Coord, Poison, Value, Valued, both, where_defined
from maskc.syntax import tree as t

__all__ = ["lower_comparison", "lower_member", "not_an_enumerator", "within"]


def lower_comparison(lower: Lowering, e: t.Comparison, scope: Scope, pair: Pair, here: Node | None) -> Valued:
    values = _with_enumerators(lower, e.operands, scope, pair, here)

    def combine(*vs: Valued) -> Valued:
        plain = [ops.as_value(lower.ctx, v, o.span, "what is compared") for v, o in zip(vs, e.operands, strict=True)]
        parts: list[Node] = []
        for i, op in enumerate(e.ops):
            a, b = plain[i], plain[i + 1]
            if isinstance(a, Poison) or isinstance(b, Poison):
                return POISON
            node = ops.compare(lower.ctx, op, (e.operands[i].span, e.operands[i + 1].span), a, b)
            if node is None:
                return POISON
            if op in ("==", "!=") and (_is_quotient(a) or _is_quotient(b)):
                message = f"`/` does not round, and `{op}` tells quotients apart to the last digit"
                hint = "`//` divides integers: `q // 64 == k // 64`"
                lower.ctx.warn("W405", message, e.span, hint, within=True)  # `same(token / 64)` compares them, too
            parts.append(node)
        return Value(conjunction(parts))

    return ops.lift(lower.ctx, e.span, combine, *values)


def _is_quotient(value: Value) -> bool:
    """Whether it is integers that were divided by `/`."""
    node = value.node
    if not (isinstance(node, Apply) and node.op == "div"):
        return False
    whole = [isinstance(a, Apply) and a.op == "float" for a in node.args]
    return any(whole) and all(w or isinstance(a, Const) for w, a in zip(whole, node.args, strict=True))


def _with_enumerators(
    lower: Lowering, exprs: Sequence[t.Expr], scope: Scope, pair: Pair, here: Node | None
) -> list[Valued]:
    """Values of operands that are compared: a bare name beside an enumeration is one of its values."""
    labels: tuple[str, ...] = ()
    found: dict[int, Valued] = {}
    for i, e in enumerate(exprs):
        if not isinstance(e, t.Name) or scope.find(e.id) is not None:
            found[i] = lower.value(e, scope, pair, here)
            labels = labels or _labels_of(found[i])
    for i, e in enumerate(exprs):
        if isinstance(e, t.Name) and e.id in labels and not _labels_of(found.get(i, POISON)):
            found[i] = Value(Const(labels.index(e.id)), None, labels)
        elif i not in found and labels and _is_unknown(e, scope):
            found[i] = not_an_enumerator(lower, e, labels)
        elif i not in found:
            found[i] = lower.value(e, scope, pair, here)
    return [found[i] for i in range(len(exprs))]


def _is_unknown(e: t.Expr, scope: Scope) -> bool:
    return isinstance(e, t.Name) and e.id not in RESERVED and scope.globals.find(e.id) is None


def not_an_enumerator(lower: Lowering, e: t.Expr, labels: tuple[str, ...]) -> Poison:
    written = e.id if isinstance(e, t.Name) else "this"
    hint = did_you_mean(written, labels) or "the values are " + ", ".join(labels)
    return lower.ctx.error("E303", f"`{written}` is none of its values", e.span, hint)


def _labels_of(v: Valued) -> tuple[str, ...]:
    if isinstance(v, Coord):
        v = v.at(Symbol("k"))
    return v.labels if isinstance(v, Value) else ()


def lower_member(lower: Lowering, e: t.Member, scope: Scope, pair: Pair, here: Node | None) -> Valued:
    value = lower.value(e.value, scope, pair, here)
    if isinstance(e.container, t.Range):
        bounds = e.container
        return ops.lift(lower.ctx, e.span, lambda v: within(lower, v, e.value.span, bounds, scope, pair), value)
    container = lower.value(e.container, scope, pair)
    if not isinstance(container, Coord):
        if isinstance(container, Poison):
            return POISON
        hint = "write a segment's name, or a range `0..8`"
        return lower.ctx.error("E301", f"`in` wants a segment or a range, and this is {container.kind}",
                              e.container.span, hint)  # fmt: skip

    def inside(v: Valued) -> Valued:
        plain = ops.as_value(lower.ctx, v, e.value.span, "the left side of `in`")
        if isinstance(plain, Poison):
            return POISON
        if plain.type is not Type.INT:
            message = f"what is in a segment is a token, by its index, and this is {plain.kind}"
            return lower.ctx.error("E301", message, e.value.span, "write `q in` or `k in` and the segment's name")
        read = container.at(plain.node)
        if isinstance(read, Poison):
            return POISON
        defined = read.defined if isinstance(read, Value) else None
        return Value(where_defined(both(defined, plain.defined)))

    return ops.lift(lower.ctx, e.span, inside, value)


def within(lower: Lowering, v: Valued, span: Span, bounds: t.Range, scope: Scope, pair: Pair) -> Valued:
    """``v`` in ``start..end``, either of which may be missing."""
    value = ops.as_value(lower.ctx, v, span, "what is compared with a range")
    if isinstance(value, Poison):
        return POISON
    parts: list[Node] = [] if value.defined is None else [value.defined]
    for bound, op in ((bounds.start, "<="), (bounds.end, "<")):
        if bound is None:
            continue
        limit = lower.plain(bound, scope, pair, "the end of a range")
        if isinstance(limit, Poison):
            return POISON
        sides = (limit, value) if op == "<=" else (value, limit)
        node = ops.compare(lower.ctx, op, (span, bound.span), *sides)
        if node is None:
            return POISON
        parts.append(node)
    return Value(conjunction(parts))

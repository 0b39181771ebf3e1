"""Operators on values: types are checked, integers meet floats, undefined values spread."""

from __future__ import annotations

from collections.abc import Callable

from maskc.diagnostics import Span
from maskc.ir.nodes import Const, Node, Symbol, Type, postorder
from maskc.ir.ops import OPS, apply
from maskc.lower.context import Context
from maskc.lower.values import INDICES, POISON, Coord, Poison, Table, Value, Valued, both, mask_of, to_float

__all__ = ["arithmetic", "as_coord", "as_mask", "as_value", "call", "compare", "lift", "remembered"]

_ARITHMETIC = {op.symbol: op.name for op in OPS.values() if op.form == "infix" and op.precedence >= 5}
_INT_ONLY = {"//": "/", "%": None}
#: Comparisons as an operator of the table, and whether the sides change places.
_COMPARE = {
    "<": ("lt", False), "<=": ("le", False), ">": ("lt", True), ">=": ("le", True),
    "==": ("eq", False), "!=": ("ne", False),
}  # fmt: skip

#: What to do about a float where an integer is wanted.
INTEGERS = "`//` divides integers"


def lift(ctx: Context, span: Span, fn: Callable[..., Valued], *args: Valued) -> Valued:
    """``fn`` of the arguments; a coordinate if any of them is one; poison if any is."""
    for a in args:
        if isinstance(a, Poison):
            return POISON
    if not any(isinstance(a, Coord) for a in args):
        return fn(*args)

    def at(e: Node) -> Valued:
        return lift(ctx, span, fn, *[a.at(e) if isinstance(a, Coord) else a for a in args])

    return Coord(remembered(ctx, span, at))


def remembered(ctx: Context, span: Span, at: Callable[[Node], Valued]) -> Callable[[Node], Valued]:
    """``at``, of each position once: a coordinate that uses another twice would double the work at every level.

    Each is an evaluation like any other: counted, and as deep as what it stands in. Raises MaskcError E103, E901.
    """
    known: dict[Node, Valued] = {}

    def once(e: Node) -> Valued:
        if e not in known:
            ctx.enter(span)
            known[e] = found = at(e)
            ctx.leave(span, found)
        return known[e]

    return once


def as_value(ctx: Context, value: Valued, span: Span, what: str) -> Value | Poison:
    """A plain value, or an error saying how to get one."""
    if isinstance(value, (Value, Poison)):
        return value
    if isinstance(value, Coord):
        hint = "apply what it reads to a token, by `...[q]` or `...[k]`: `same(c)` is `c[q] == c[k]`"
        return ctx.error("E301", f"{what} must be a value, and this is a coordinate", span, hint)
    places = ", ".join(INDICES.get(d, "i") if isinstance(d, str) else "i" for d in value.parameter.domain)
    hint = f"index it: `{value.parameter.name}[{places}]`"
    return ctx.error("E301", f"{what} must be a value, and this is a table", span, hint)


def as_mask(ctx: Context, value: Valued, span: Span, what: str = "this") -> Node | None:
    """A mask as a node; None if it was reported not to be one."""
    plain = as_value(ctx, value, span, what)
    if isinstance(plain, Poison):
        return None
    if plain.type is not Type.BOOL:
        hint = "compare it with something: `... != 0`" if plain.type is Type.INT else None
        ctx.error("E301", f"{what} must be a mask, and this is {plain.kind}", span, hint)
        return None
    return mask_of(plain)


def as_coord(ctx: Context, value: Valued, span: Span) -> Coord | None:
    """A coordinate; a plain integer is a constant one."""
    if isinstance(value, Coord):
        return value
    if isinstance(value, Value) and value.type is not Type.FLOAT:
        fixed = value
        if _of_a_pair(ctx, fixed.node, span):
            message = "a coordinate is a function of one token, and this is the same number for the query and the key"
            hint = "leave `q` and `k` out: `on token // 64` divides either position; an input is named without `[q]`"
            ctx.error("E301", message, span, hint)
            return None
        return Coord(lambda e: fixed)
    if isinstance(value, Value):
        ctx.error("E301", "a coordinate is an integer for each token, and this is a float", span, INTEGERS)
    elif isinstance(value, Table):
        p = value.parameter
        domain = ", ".join(str(d) for d in p.domain)
        own = [d for d in p.domain if d != "batch"]  # what is by token may come for each batch entry
        alone = f"declare it by `{own[0]}` alone: a call may give one row a batch entry" if own == ["token"] else None
        ctx.error("E301", f"a coordinate is a function of one token, and this is a table over [{domain}]", span, alone)
    return None


def _of_a_pair(ctx: Context, node: Node, span: Span) -> bool:
    """Whether a number depends on the position of the query or the key."""
    for n in postorder([node]):
        ctx.count(span)
        if isinstance(n, Symbol) and n.name in ("q", "k"):
            return True
    return False


def _numbers(ctx: Context, symbol: str, spans: tuple[Span, ...], values: tuple[Value, ...]) -> bool:
    for span, v in zip(spans, values, strict=True):
        if v.type is Type.BOOL or v.labels:
            hint = "compare it with `==`"
            if v.type is Type.BOOL:
                hint = "`a` without `b` is `a & ~b`" if symbol == "-" else "masks are combined with `&`, `|` and `~`"
            ctx.error("E301", f"`{symbol}` takes numbers, and this is {v.kind}", span, hint)
            return False
    return True


def _unified(values: tuple[Value, ...]) -> tuple[Value, ...]:
    """All as floats if any is."""
    if any(v.type is Type.FLOAT for v in values):
        return tuple(to_float(v) for v in values)
    return values


def arithmetic(ctx: Context, symbol: str, spans: tuple[Span, Span], a: Value, b: Value) -> Value | Poison:
    """``a symbol b`` for + - * / // % **."""
    if not _numbers(ctx, symbol, spans, (a, b)):
        return POISON
    if symbol in _INT_ONLY:
        for s, v in zip(spans, (a, b), strict=True):
            if v.type is Type.FLOAT:
                return ctx.error("E301", f"`{symbol}` takes integers, and this is a float", s, "use `floor(...)`")
        if isinstance(b.node, Const) and b.node.value == 0:
            return ctx.error("E306", f"the right side of `{symbol}` is 0", spans[1])
    pair = (to_float(a), to_float(b)) if symbol in ("/", "**") else _unified((a, b))
    return Value(apply(_ARITHMETIC[symbol], pair[0].node, pair[1].node), both(a.defined, b.defined))


def compare(ctx: Context, symbol: str, spans: tuple[Span, Span], a: Value, b: Value) -> Node | None:
    """``a symbol b`` as a mask, false where a side is undefined; None if it was reported."""
    name, swapped = _COMPARE[symbol]
    if (a.labels or b.labels) and (a.labels != b.labels or symbol not in ("==", "!=")):
        at = spans[0] if b.labels and not a.labels else spans[1]
        hint = "an enumeration is compared with `==` or `!=`, with one of its own values"
        ctx.error("E301", f"cannot compare {a.kind} with {b.kind} by `{symbol}`", at, hint)
        return None
    if (Type.BOOL in (a.type, b.type)) and (a.type is not b.type or symbol not in ("==", "!=")):
        ctx.error("E301", f"cannot compare {a.kind} with {b.kind} by `{symbol}`", spans[1])
        return None
    if a.type is Type.BOOL:
        return apply(name, mask_of(a), mask_of(b))
    left, right = _unified((a, b))
    node = apply(name, right.node, left.node) if swapped else apply(name, left.node, right.node)
    defined = both(a.defined, b.defined)
    return node if defined is None else apply("and", defined, node)


def call(ctx: Context, symbol: str, span: Span, spans: tuple[Span, ...], values: tuple[Value, ...]) -> Value | Poison:
    """A function of the core on values. ``min`` and ``max`` take two or more."""
    op = next(o for o in OPS.values() if o.symbol == symbol and o.form == "call")
    count = len(values)
    folded = symbol in ("min", "max")
    least = 2 if folded else op.arity or 1
    if count < least or (op.arity is not None and not folded and count != op.arity):
        more = " or more" if op.arity is None or folded else ""
        plural = "" if least == 1 and not more else "s"
        return ctx.error("E204", f"`{symbol}` takes {least}{more} argument{plural}, and got {count}", span)
    if not _numbers(ctx, symbol, spans, values):
        return POISON
    if op.takes == (Type.INT,):
        for s, v in zip(spans, values, strict=True):
            if v.type is not Type.INT:
                return ctx.error("E301", f"`{symbol}` takes integers, and this is {v.kind}", s, "use `floor(...)`")
    if op.name == "float":
        return to_float(values[0])
    ready = tuple(to_float(v) for v in values) if op.takes == (Type.FLOAT,) else _unified(values)
    nodes = [v.node for v in ready]
    result = apply(op.name, *nodes) if not folded else nodes[0]
    for n in nodes[1:] if folded else ():
        result = apply(op.name, result, n)
    return Value(result, both(*(v.defined for v in values)))

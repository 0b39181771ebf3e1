"""Signatures: declared types, domains, ranges and defaults."""

from __future__ import annotations

from maskc.ir.interval import MAX_TOKENS
from maskc.ir.nodes import Const, Type
from maskc.ir.program import DOMAINS, Parameter
from maskc.lower.context import MAX_LABELS, Context
from maskc.lower.scope import RESERVED, did_you_mean
from maskc.syntax import tree as t

__all__ = ["default_value", "lower_parameter", "lower_signature"]

_TYPES = {"int": Type.INT, "float": Type.FLOAT, "bool": Type.BOOL}
#: What shapes of tensors are written with, and what is written here.
_SHAPES = {
    "H": "heads are called `head`",
    "B": "batch entries are called `batch`; what is by `token` may come for each of them without",
    **dict.fromkeys(("N", "L", "S", "T", "seq", "seq_len"), "positions are called `token`, or `q` and `k`"),
}


def lower_signature(ctx: Context, params: tuple[t.ParameterDecl, ...], cross: bool) -> tuple[Parameter, ...]:
    """Every parameter that could be understood; the rest is reported."""
    made: dict[str, Parameter] = {}
    scalars = {p.name.id for p in params if p.type.name and p.type.name.id == "int" and not p.type.domain}
    for p in params:
        if p.name.id in RESERVED:
            ctx.reserved(p.name.id, "cannot be a parameter", p.name.span)
            continue
        if p.name.id in made:
            ctx.error("E202", f"`{p.name.id}` is declared twice", p.name.span)
            continue
        declared = lower_parameter(ctx, p, scalars)
        if declared is None:
            continue
        if cross and "token" in declared.domain:
            hint = "say whose tokens: `[q]` or `[k]`"
            ctx.error("E301", "queries and keys are separate sequences here", p.type.span, hint)
            continue
        made[p.name.id] = declared
    return tuple(made.values())


def lower_parameter(ctx: Context, p: t.ParameterDecl, scalars: set[str] | None) -> Parameter | None:
    """One declaration. ``scalars``: integer parameters, which may be extents; None: not checked again."""
    labels = tuple(n.id for n in p.type.labels)
    ctx.at_most(MAX_LABELS, len(labels), "values of an enumeration", p.name.span, "use an integer")
    if len(set(labels)) < len(labels):
        twice = next(n for n in p.type.labels if labels.count(n.id) > 1)
        ctx.error("E202", f"`{twice.id}` is a value twice", twice.span)
        return None
    name = p.type.name
    if name is not None and name.id not in _TYPES:
        hint = did_you_mean(name.id, _TYPES) or "a type is int, float, bool, or values in braces: {text, image}"
        ctx.error("E201", f"there is no type `{name.id}`", name.span, hint)
        return None
    type_ = Type.INT if name is None else _TYPES[name.id]
    domain = _domain(ctx, p, scalars)
    bounds = _bounds(ctx, p.type.range, type_)
    if domain is None or bounds is None:
        return None
    low, high = (0, len(labels)) if labels else bounds
    declared = Parameter(p.name.id, type_, domain, labels, None, low=low, high=high)
    if p.default is None:
        return declared
    if domain:
        ctx.error("E301", "a table or an input has no default", p.default.span, "leave it out: the caller gives it")
        return None
    default = default_value(ctx, declared, p.default)
    return Parameter(p.name.id, type_, domain, labels, default, low=low, high=high)


def _domain(ctx: Context, p: t.ParameterDecl, scalars: set[str] | None) -> tuple[str | int, ...] | None:
    found: list[str | int] = []
    for d in p.type.domain:
        if isinstance(d, t.Literal):
            found.append(int(d.value))
            if d.value < 1:
                ctx.error("E301", "an extent is at least 1", d.span)
                return None
            if d.value > MAX_TOKENS:
                ctx.error("E104", f"an extent is at most {MAX_TOKENS}", d.span, "what is longer comes in parts")
                return None
        elif d.id in DOMAINS or scalars is None or d.id in scalars:
            found.append(d.id)
        else:
            meant = _SHAPES.get(d.id) or did_you_mean(d.id, [*DOMAINS, *scalars])
            hint = meant or f"a domain is one of {', '.join(DOMAINS)}, a number, or an int parameter"
            ctx.error("E201", f"`{d.id}` is nothing to index by", d.span, hint)
            return None
    return tuple(found)


def _bounds(ctx: Context, r: t.Range | None, type_: Type) -> tuple[int | None, int | None] | None:
    if r is None:
        return None, None
    if type_ is not Type.INT:
        ctx.error("E301", "only integers have a range", r.span)
        return None
    ends: list[int | None] = []
    for e in (r.start, r.end):
        value = None if e is None else _literal(e)
        if e is not None and (value is None or isinstance(value, (bool, float))):
            ctx.error("E301", "the range of a parameter is given by plain integers", e.span)
            return None
        ends.append(value if value is None else int(value))
    low, high = ends
    if low is not None and high is not None and low >= high:
        ctx.error("E301", "this range holds nothing: its end is not included", r.span)
        return None
    return low, high


def _literal(e: t.Expr) -> bool | int | float | None:
    if isinstance(e, t.Literal):
        return e.value
    if isinstance(e, t.Unary) and e.op == "-" and isinstance(e.operand, t.Literal):
        return -e.operand.value
    return None


def default_value(ctx: Context, p: Parameter, e: t.Expr) -> Const | None:
    """The default of a scalar parameter, of its type and within its range."""
    if p.labels:
        if isinstance(e, t.Name) and e.id in p.labels:
            return Const(p.labels.index(e.id))
        hint = "the values are " + ", ".join(p.labels)
        if isinstance(e, t.Name):
            hint = did_you_mean(e.id, p.labels) or hint
        ctx.error("E303", "the default is none of the values", e.span, hint)
        return None
    value = _literal(e)
    if isinstance(value, int) and not isinstance(value, bool) and p.type is Type.FLOAT:
        value = float(value)
    if value is None or Const(value).type is not p.type:
        ctx.error("E301", f"the default must be a plain {p.type.value}", e.span)
        return None
    if not _in_range(p, value):
        ctx.error("E504", f"the default is outside the declared range {_range_text(p)}", e.span)
        return None
    return Const(value)


def _in_range(p: Parameter, value: bool | int | float) -> bool:
    return (p.low is None or value >= p.low) and (p.high is None or value < p.high)


def _range_text(p: Parameter) -> str:
    low = "" if p.low is None else str(p.low)
    return f"{low}..{'' if p.high is None else p.high}"

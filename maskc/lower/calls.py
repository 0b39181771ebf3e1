"""Calls of definitions and patterns: which argument goes to which parameter, and what kind it is."""

from __future__ import annotations

from collections.abc import Sequence

from maskc.diagnostics import Note, Span
from maskc.ir.nodes import Const, Node, Type
from maskc.ir.program import Parameter
from maskc.lower import operators as ops
from maskc.lower.context import Lowering
from maskc.lower.scope import Binding, ByName, Globals, Pair, Scope, did_you_mean
from maskc.lower.signature import default_value, lower_parameter
from maskc.lower.values import POISON, Coord, Poison, Table, Value, Valued, to_float
from maskc.syntax import tree as t

__all__ = ["bind_arguments"]

_KINDS = {"int": Type.INT, "float": Type.FLOAT, "bool": Type.BOOL}


def bind_arguments(
    lower: Lowering,
    e: t.Call,
    item: t.Definition | t.Pattern,
    home: Globals,
    scope: Scope,
    pair: Pair,
    here: Node | None,
) -> dict[str, Binding] | None:
    """The parameters' bindings for a call; None if something was reported."""
    formals: Sequence[t.Formal | t.ParameterDecl] = item.formals if isinstance(item, t.Definition) else item.params
    given = _assign(lower, e, item, formals)
    if given is None:
        return None
    names: dict[str, Binding] = {}
    earlier = Scope(home)
    ok = True
    for f in formals:
        argument = given.get(f.name.id)
        if isinstance(f, t.Formal):
            lower.ctx.count(e.span)
            bound = _bind_formal(lower, f, e, argument, earlier, scope, pair, here)
            earlier = earlier.child({f.name.id: bound})
        else:
            lower.ctx.count(e.span, 4 + len(f.type.labels))  # Its declaration is read anew.
            bound = _bind_parameter(lower, e, item, f, argument, scope, pair)
        ok = ok and not isinstance(bound, Poison)
        names[f.name.id] = bound
    return names if ok else None


def _assign(
    lower: Lowering, e: t.Call, item: t.Definition | t.Pattern, formals: Sequence[t.Formal | t.ParameterDecl]
) -> dict[str, t.Argument] | None:
    names = [f.name.id for f in formals]
    given: dict[str, t.Argument] = {}
    note = Note(f"`{item.name.id}` is defined here", item.name.span)
    for i, a in enumerate(e.args):
        name = a.name if a.name is not None else names[i] if i < len(names) else None
        if name is None:
            count = f"{len(names)} argument{'' if len(names) == 1 else 's'}"
            message = f"`{item.name.id}` takes {count}, and this is one more"
            lower.ctx.error("E204", message, a.span, None, note)
            return None
        if name not in names:
            hint = did_you_mean(name, names) or ("its parameters are " + ", ".join(names) if names else None)
            lower.ctx.error("E204", f"`{item.name.id}` has no parameter `{name}`", a.span, hint, note)
            return None
        if name in given:
            lower.ctx.error("E204", f"`{name}` is given twice", a.span, None, note)
            return None
        given[name] = a
    return given


def _missing(lower: Lowering, e: t.Call, name: str, at: Span) -> Poison:
    note = Note(f"`{name}` is declared here", at)
    return lower.ctx.error("E204", f"`{e.name.id}` needs an argument for `{name}`", e.span, None, note)


def _bind_formal(
    lower: Lowering,
    f: t.Formal,
    e: t.Call,
    argument: t.Argument | None,
    earlier: Scope,
    scope: Scope,
    pair: Pair,
    here: Node | None,
) -> Binding:
    kind = f.kind.id if f.kind else None
    if argument is None:
        if f.default is None:
            return _missing(lower, e, f.name.id, f.span)
        # A default is read where the definition stands, and may speak of the parameters before it.
        expr, read_in = f.default, earlier
    else:
        expr, read_in = argument.value, scope
    if kind == "mask":
        return ByName(expr, read_in)
    value = lower.value(expr, read_in, pair, here if kind != "coord" else None)
    return _of_kind(lower, value, kind, f, expr.span)


def _of_kind(lower: Lowering, value: Valued, kind: str | None, f: t.Formal, span: Span) -> Valued:
    if kind is None or isinstance(value, Poison):
        return value
    what = f"`{f.name.id}`"
    if kind == "coord":
        return ops.as_coord(lower.ctx, value, span) or POISON
    if isinstance(value, Coord):
        return value
    plain = ops.as_value(lower.ctx, value, span, what)
    if isinstance(plain, Poison):
        return POISON
    wanted = _KINDS.get(kind)
    if wanted is None:  # An unknown kind, reported with the definition.
        return POISON
    if wanted is Type.FLOAT and plain.type is Type.INT:
        return to_float(plain)
    if plain.type is not wanted:
        message = f"{what} must be {Value(_example(wanted)).kind}, and this is {plain.kind}"
        hint = "write a whole number; `//` divides integers" if (wanted, plain.type) == (Type.INT, Type.FLOAT) else None
        return lower.ctx.error("E301", message, span, hint, Note(f"{what} is declared here", f.span))
    return plain


def _example(type_: Type) -> Node:
    return Const({Type.INT: 0, Type.FLOAT: 0.0, Type.BOOL: False}[type_])


def _bind_parameter(
    lower: Lowering,
    e: t.Call,
    item: t.Definition | t.Pattern,
    f: t.ParameterDecl,
    argument: t.Argument | None,
    scope: Scope,
    pair: Pair,
) -> Valued:
    """A pattern called as a mask: scalars by argument or default, inputs by argument or by their name here."""
    declared = lower_parameter(lower.ctx, f, None)
    if declared is None:
        return POISON
    if argument is None and declared.is_scalar:
        if f.default is None:
            return _missing(lower, e, f.name.id, f.span)
        default = default_value(lower.ctx, declared, f.default)
        return POISON if default is None else Value(default, None, declared.labels)
    if argument is None:
        found = scope.find(f.name.id)
        if not isinstance(found, Table) or not _fits(found.parameter, declared):
            message = f"`{item.name.id}` needs its input `{f.name.id}`, and there is none of that name and type here"
            return lower.ctx.error("E204", message, e.span, "declare it in this pattern too",
                                   Note("it is declared here", f.span))  # fmt: skip
        lower.ctx.used.add(f.name.id)
        return found
    return _given(lower, f, declared, argument, scope, pair)


def _given(
    lower: Lowering, f: t.ParameterDecl, declared: Parameter, argument: t.Argument, scope: Scope, pair: Pair
) -> Valued:
    a = argument.value
    if not declared.is_scalar:
        found = scope.find(a.id) if isinstance(a, t.Name) else None
        if not isinstance(found, Table) or not _fits(found.parameter, declared):
            domain = ", ".join(str(d) for d in declared.domain)
            message = f"`{f.name.id}` wants a table or input over [{domain}]"
            return lower.ctx.error("E301", message, argument.span, None, Note("it is declared here", f.span))
        lower.ctx.used.add(found.parameter.name)
        return found
    if declared.labels and isinstance(a, t.Name) and a.id in declared.labels and scope.find(a.id) is None:
        return Value(Const(declared.labels.index(a.id)), None, declared.labels)
    value = lower.plain(a, scope, pair, f"`{f.name.id}`")
    if isinstance(value, Poison):
        return POISON
    if declared.type is Type.FLOAT and value.type is Type.INT:
        return to_float(value)
    if value.type is not declared.type or value.labels != declared.labels:
        message = f"`{f.name.id}` is declared {declared.type.value}, and this is {value.kind}"
        return lower.ctx.error("E301", message, argument.span, None, Note("it is declared here", f.span))
    return value


def _fits(have: Parameter, want: Parameter) -> bool:
    return (have.type, have.domain, have.labels) == (want.type, want.domain, want.labels)

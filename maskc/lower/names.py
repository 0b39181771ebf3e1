"""Checks of the definitions of a file, before any is expanded: names, and circles."""

from __future__ import annotations

from collections.abc import Iterator

from maskc.diagnostics import Note, Span
from maskc.lower.context import MAX_PARAMETERS, Context
from maskc.lower.scope import ELSEWHERE, FUNCTIONS, RESERVED, Globals, did_you_mean, how_to_call
from maskc.syntax import tree as t

__all__ = ["check_definitions", "collect_globals"]

_CORE = frozenset({"q", "k", "h", "b", "layer", "heads", "token", "s", "o"})


def collect_globals(ctx: Context, file: t.File, prelude: Globals | None) -> Globals:
    """The definitions and patterns of a file; names defined twice are reported."""
    definitions: dict[str, t.Definition] = {}
    patterns: dict[str, t.Pattern] = {}
    seen: dict[str, Span] = {}
    for item in file.items:
        if not isinstance(item, (t.Definition, t.Pattern)):
            continue
        name = item.name
        if name.id in RESERVED:
            ctx.reserved(name.id, "cannot be defined", name.span)
        elif name.id in seen:
            ctx.error("E202", f"`{name.id}` is defined twice", name.span, None, Note("first here", seen[name.id]))
        else:
            seen[name.id] = name.span
            if isinstance(item, t.Definition):
                definitions[name.id] = item
            else:
                patterns[name.id] = item
    return Globals(definitions, patterns, prelude)


def check_definitions(ctx: Context, found: Globals) -> None:
    """Report unknown names in definitions (called or not), and definitions that use themselves."""
    for d in found.definitions.values():
        local: set[str] = set()
        ctx.at_most(MAX_PARAMETERS, len(d.formals), "parameters", d.name.span, "use tables, or fewer parameters")
        for f in d.formals:
            _check_formal(ctx, f, local)
            if f.default is not None:
                _check_names(ctx, d, f.default, local, found)
            local.add(f.name.id)
        _check_names(ctx, d, d.body, local, found)
    found.cyclic = frozenset(_cycles(ctx, found))


def _check_formal(ctx: Context, f: t.Formal, local: set[str]) -> None:
    if f.name.id in RESERVED:
        ctx.reserved(f.name.id, "cannot be a parameter", f.name.span)
    if f.name.id in local:
        ctx.error("E202", f"`{f.name.id}` is a parameter twice", f.name.span)
    kinds = ("mask", "coord", "int", "float", "bool")
    if f.kind and f.kind.id not in kinds:
        hint = did_you_mean(f.kind.id, kinds) or "a parameter is a mask, coord, int, float or bool"
        ctx.error("E201", f"there is no kind of parameter `{f.kind.id}`", f.kind.span, hint)


def _check_names(ctx: Context, d: t.Definition, body: t.Expr, formals: set[str], found: Globals) -> None:
    """Names that nothing defines. Enumerators are known only by type, so comparisons and cases are left out."""
    bound = formals | {e.variable.id for e in walk(body) if isinstance(e, t.Exists)}
    spared = {id(o) for e in walk(body) for o in _maybe_enumerators(e)}
    for e in walk(body):
        if isinstance(e, t.Call):
            known = e.name.id in FUNCTIONS or e.name.id == "size" or found.find(e.name.id)
            if not known:
                hint = how_to_call(e.name.id, found.names())
                ctx.error("E201", f"nothing is called `{e.name.id}` here", e.name.span, hint)
        elif isinstance(e, t.Name) and id(e) not in spared:
            if e.id in bound or e.id in _CORE or found.find(e.id) or e.id in FUNCTIONS:
                continue
            hint = ELSEWHERE.get(e.id) or did_you_mean(e.id, [*bound, *_CORE, *found.names()])
            hint = hint or f"pass it to `{d.name.id}` as a parameter"
            ctx.error("E201", f"nothing is called `{e.id}` here", e.span, hint)


def _maybe_enumerators(e: t.Expr) -> Iterator[t.Expr]:
    if isinstance(e, t.Comparison):
        yield from (o for o in e.operands if isinstance(o, t.Name))
    if isinstance(e, t.Match):
        for a in e.arms:
            for case in a.cases or ():
                yield from (c for c in case if isinstance(c, t.Name))


def walk(e: t.Expr) -> Iterator[t.Expr]:
    """The expression and all below it."""
    stack: list[t.Expr] = [e]
    while stack:
        at = stack.pop()
        yield at
        stack.extend(_parts(at))


def _parts(e: t.Expr) -> list[t.Expr]:
    if isinstance(e, t.Unary):
        return [e.operand]
    if isinstance(e, t.Binary):
        return [e.left, e.right]
    if isinstance(e, (t.Chain, t.Comparison)):
        return list(e.operands)
    if isinstance(e, t.Member):
        return [e.value, *_ends(e.container)]
    if isinstance(e, t.Pullback):
        return [e.mask, e.coordinate]
    if isinstance(e, t.Index):
        return [e.base, *e.indices]
    if isinstance(e, t.Exists):
        return [*_ends(e.range), e.body]
    if isinstance(e, t.Call):
        return [a.value for a in e.args]
    if isinstance(e, t.Match):
        cells = [c for a in e.arms for case in a.cases or () for cell in case for c in _ends(cell)]
        return [*e.subjects, *cells, *(a.value for a in e.arms)]
    return []


def _ends(e: t.Expr | t.Range) -> list[t.Expr]:
    return [x for x in (e.start, e.end) if x is not None] if isinstance(e, t.Range) else [e]


def _uses(item: t.Definition | t.Pattern, found: Globals) -> Iterator[t.Name]:
    if isinstance(item, t.Definition):
        exprs = [*(f.default for f in item.formals if f.default), item.body]
    else:
        exprs = [s.value for s in item.statements if s.value]
    local = {f.name.id for f in (item.formals if isinstance(item, t.Definition) else item.params)}

    def is_own(name: str) -> bool:
        return name in found.definitions or name in found.patterns

    for e in (x for top in exprs for x in walk(top)):
        if isinstance(e, t.Call) and is_own(e.name.id):
            yield e.name
        elif isinstance(e, t.Name) and is_own(e.id) and e.id not in local:
            yield e


def _cycles(ctx: Context, found: Globals) -> Iterator[str]:
    """Names of the items that lie on a circle of uses; each circle is reported once."""
    own: dict[str, t.Definition | t.Pattern] = {**found.definitions, **found.patterns}
    graph = {name: list(_uses(item, found)) for name, item in own.items()}
    state: dict[str, int] = {}
    for root in graph:
        path: list[tuple[str, Iterator[t.Name]]] = []
        if root not in state:
            state[root] = 1
            path.append((root, iter(graph[root])))
        while path:
            name, uses = path[-1]
            use = next(uses, None)
            if use is None:
                state[name] = 2
                path.pop()
            elif state.get(use.id) == 1:
                circle = [n for n, _ in path]
                circle = circle[circle.index(use.id) :]
                arrows = " -> ".join([*circle, use.id][:12])
                ctx.error("E203", f"`{use.id}` uses itself: {arrows}", use.span, "definitions cannot be recursive")
                yield from circle
            elif use.id not in state:
                state[use.id] = 1
                path.append((use.id, iter(graph[use.id])))

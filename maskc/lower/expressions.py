"""Lowering of expressions: names are looked up, definitions expanded, types checked."""

from __future__ import annotations

import functools
from collections.abc import Callable

from maskc.ir import nodes as ir
from maskc.ir.nodes import Const, Node, Size, Symbol, Type, index_symbol, postorder
from maskc.ir.ops import apply, conjunction, disjunction, flat_length, negation
from maskc.ir.program import Parameter
from maskc.ir.size import FEWER, MAX_ALTERNATIVES, MAX_NODES
from maskc.lower import operators as ops
from maskc.lower.calls import bind_arguments
from maskc.lower.comparisons import lower_comparison, lower_member
from maskc.lower.context import Context
from maskc.lower.matches import lower_match
from maskc.lower.scope import FUNCTIONS, ByName, Pair, Scope, how_to_call, how_to_declare
from maskc.lower.spaces import token_coordinate
from maskc.lower.values import POISON, Coord, Frame, Poison, Table, Value, Valued, both, mask_of
from maskc.syntax import tree as t

__all__ = ["Expressions"]


class Expressions:
    """Lowers expressions of one pattern. ``cross``: queries and keys are separate sequences.

    ``value`` is the entry: the expression's value with ``q`` and ``k`` standing for ``pair``; within
    a coordinate, ``here`` is the position that coordinates are read at.
    """

    def __init__(self, ctx: Context, cross: bool) -> None:
        self.ctx = ctx
        self.cross = cross
        self.token = token_coordinate(cross)
        self.score: Node = Symbol("s")
        self.output: Node = Symbol("o")
        self.memo: dict[tuple[int, int, Pair, Node | None], Valued] = {}
        self.kept: list[object] = []  # Keeps alive whatever `memo` knows by id.
        self.fixed: dict[Node, bool] = {}  # What is known of nodes by `known_when_compiling`.

    def value(self, e: t.Expr, scope: Scope, pair: Pair, here: Node | None = None) -> Valued:
        key = (id(e), id(scope), pair, here)
        found = self.memo.get(key)
        if found is None:
            self.ctx.enter(e.span)
            found = _LOWER[type(e)](self, e, scope, pair, here)
            self.ctx.leave(e.span, found)
            self.memo[key] = found
            self.kept.append((e, scope))
        return found

    def mask(self, e: t.Expr, scope: Scope, pair: Pair, what: str = "this") -> Node | None:
        """The expression as a mask, or None if it was reported not to be one."""
        return ops.as_mask(self.ctx, self.value(e, scope, pair), e.span, what)

    def plain(self, e: t.Expr, scope: Scope, pair: Pair, what: str = "this") -> Value | Poison:
        return ops.as_value(self.ctx, self.value(e, scope, pair), e.span, what)

    # Leaves

    def literal(self, e: t.Literal, scope: Scope, pair: Pair, here: Node | None) -> Valued:
        return Value(Const(e.value))

    def name(self, e: t.Name, scope: Scope, pair: Pair, here: Node | None) -> Valued:
        bound = scope.find(e.id)
        if bound is None:
            return self.core_name(e, scope, pair, here)
        self.ctx.used.add(e.id)
        if isinstance(bound, ByName):
            return self.value(bound.expr, bound.scope, pair, here)
        if isinstance(bound, Table) and len(bound.parameter.domain) == 1:
            bound = self.input_coordinate(bound)
        return bound.at(here) if isinstance(bound, Coord) and here is not None else bound

    def core_name(self, e: t.Name, scope: Scope, pair: Pair, here: Node | None) -> Valued:
        if e.id in ("q", "k"):
            position = pair.q if e.id == "q" else pair.k
            if position is None:
                return self.ctx.error("E305", f"`{self.ctx.statement}` speaks of no {_SIDE[e.id]}", e.span)
            return Value(position)
        if e.id == "token":
            return self.token if here is None else self.token.at(here)
        if e.id in ("h", "b", "layer", "heads"):
            return Value(Symbol(e.id))
        if e.id in ("s", "o"):
            wanted = "score" if e.id == "s" else "output"
            if self.ctx.statement not in (wanted, "let"):
                what = "the score" if e.id == "s" else "an output element"
                return self.ctx.error("E305", f"`{e.id}` is {what}: it can stand only after `{wanted}`", e.span)
            return Value(self.score if e.id == "s" else self.output)
        if scope.globals.find(e.id) is not None:
            return self.call(t.Call(e.span, e, ()), scope, pair, here)
        if e.id in FUNCTIONS or e.id == "size":
            return self.ctx.error("E204", f"`{e.id}` is a function: give it arguments in parentheses", e.span)
        hint = how_to_declare(e.id, scope.visible())
        return self.ctx.error("E201", f"nothing is called `{e.id}` here", e.span, hint)

    def input_coordinate(self, table: Table) -> Valued:
        """A per-token input, not yet applied, is a coordinate; over one side, of that side only."""
        p = table.parameter
        if p.domain[0] not in ("token", "q", "k"):
            return table
        return Coord(lambda e: _look_up(p, (Value(e),)), lambda: None if p.high is None else Const(p.high))

    # Operators

    def unary(self, e: t.Unary, scope: Scope, pair: Pair, here: Node | None) -> Valued:
        if e.op == "-" and isinstance(e.operand, t.Literal) and not isinstance(e.operand.value, bool):
            return Value(Const(-e.operand.value))
        operand = self.value(e.operand, scope, pair, here)

        def negate(v: Valued) -> Valued:
            if e.op == "~":
                node = ops.as_mask(self.ctx, v, e.operand.span, "what `~` turns round")
                return POISON if node is None else Value(negation(node))
            plain = ops.as_value(self.ctx, v, e.operand.span, "what `-` takes")
            if isinstance(plain, Value) and (plain.type is Type.BOOL or plain.labels):
                return self.ctx.error("E301", f"`-` takes a number, and this is {plain.kind}", e.span, "use `~`")
            return Value(apply("neg", plain.node), plain.defined) if isinstance(plain, Value) else plain

        return ops.lift(self.ctx, e.span, negate, operand)

    def binary(self, e: t.Binary, scope: Scope, pair: Pair, here: Node | None) -> Valued:
        left = self.value(e.left, scope, pair, here)
        right = self.value(e.right, scope, pair, here)
        spans = (e.left.span, e.right.span)

        def combine(a: Valued, b: Valued) -> Valued:
            x = ops.as_value(self.ctx, a, spans[0], f"the left side of `{e.op}`")
            y = ops.as_value(self.ctx, b, spans[1], f"the right side of `{e.op}`")
            if isinstance(x, Poison) or isinstance(y, Poison):
                return POISON
            return ops.arithmetic(self.ctx, e.op, spans, x, y)

        made = ops.lift(self.ctx, e.span, combine, left, right)
        return Coord(made.at, self.extent_of(e, left, right)) if isinstance(made, Coord) else made

    def extent_of(self, e: t.Binary, left: Valued, right: Valued) -> Callable[[], Node | None]:
        """The extent of an operator on coordinates, found once when it is asked for."""

        @functools.lru_cache(maxsize=1)
        def extent() -> Node | None:
            self.ctx.enter(e.span)
            found = _extent(e.op, left, right)
            self.ctx.leave(e.span, None if found is None else Value(found))
            return found

        return extent

    def chain(self, e: t.Chain, scope: Scope, pair: Pair, here: Node | None) -> Valued:
        values = [self.value(o, scope, pair, here) for o in e.operands]

        what = f"each side of `{e.op}`"
        if any(isinstance(v, Poison) for v in values):  # The other operands are looked at all the same.
            for v, o in zip(values, e.operands, strict=True):
                if isinstance(v, Value):
                    ops.as_mask(self.ctx, v, o.span, what)
            return POISON

        def combine(*vs: Valued) -> Valued:
            nodes = [ops.as_mask(self.ctx, v, o.span, what) for v, o in zip(vs, e.operands, strict=True)]
            if any(n is None for n in nodes):
                return POISON
            known = [n for n in nodes if n is not None]
            self.ctx.at_most(MAX_NODES, flat_length(_CHAINS[e.op], known), f"operands of `{e.op}`", e.span, _TABLE)
            return Value(conjunction(known) if e.op == "&" else disjunction(known))

        return ops.lift(self.ctx, e.span, combine, *values)

    def comparison(self, e: t.Comparison, scope: Scope, pair: Pair, here: Node | None) -> Valued:
        return lower_comparison(self, e, scope, pair, here)

    def member(self, e: t.Member, scope: Scope, pair: Pair, here: Node | None) -> Valued:
        return lower_member(self, e, scope, pair, here)

    # Positions

    def pullback(self, e: t.Pullback, scope: Scope, pair: Pair, here: Node | None) -> Valued:
        coordinate = ops.as_coord(self.ctx, self.value(e.coordinate, scope, pair), e.coordinate.span)
        if coordinate is None:
            return POISON
        if pair.q is None or pair.k is None:
            return self.ctx.error("E305", f"`{self.ctx.statement}` has no pair of tokens to use `on` for", e.span)
        sides = (coordinate.at(pair.q), coordinate.at(pair.k))
        values = [ops.as_value(self.ctx, s, e.coordinate.span, "the coordinate") for s in sides]
        if any(isinstance(v, Poison) for v in values):
            return POISON
        x, y = (v for v in values if isinstance(v, Value))
        if x.type is not Type.INT:
            hint = ops.INTEGERS if x.type is Type.FLOAT else None
            return self.ctx.error("E301", f"a coordinate is an integer, and this is {x.kind}", e.coordinate.span, hint)
        mask = self.mask(e.mask, scope, Pair(x.node, y.node, pair.depth), "what `on` pulls back")
        return POISON if mask is None else Value(mask_of(Value(mask, both(x.defined, y.defined))))

    def index(self, e: t.Index, scope: Scope, pair: Pair, here: Node | None) -> Valued:
        base = self.value(e.base, scope, pair)
        indices = [self.value(i, scope, pair, here) for i in e.indices]
        if isinstance(base, Poison):
            return POISON
        domain = base.parameter.domain if isinstance(base, Table) else (None,)
        if isinstance(base, Value):
            return self.ctx.error(
                "E301", f"only tables and coordinates have an index; this is {base.kind}", e.base.span
            )
        if len(indices) != len(domain):
            wanted = ", ".join(str(d) for d in domain) if isinstance(base, Table) else "one token"
            hint = f"it is indexed by [{wanted}]"
            if not isinstance(base, Table):
                hint += "; that it is the batch entry's own goes without saying"
            message = f"this takes {len(domain)} index{'es' if len(domain) > 1 else ''}, and got {len(indices)}"
            return self.ctx.error("E302", message, e.span, hint)

        def read(*vs: Valued) -> Valued:
            plain = [ops.as_value(self.ctx, v, i.span, "an index") for v, i in zip(vs, e.indices, strict=True)]
            known = tuple(v for v in plain if isinstance(v, Value))
            if len(known) < len(plain):
                return POISON
            for v, i in zip(known, e.indices, strict=True):
                if v.type is not Type.INT:
                    return self.ctx.error("E301", f"an index is an integer, and this is {v.kind}", i.span)
            if isinstance(base, Table):
                return _look_up(base.parameter, known)
            found = base.at(known[0].node)
            if isinstance(found, Value):
                return Value(found.node, both(found.defined, known[0].defined), found.labels)
            return found

        return ops.lift(self.ctx, e.span, read, *indices)

    def exists(self, e: t.Exists, scope: Scope, pair: Pair, here: Node | None) -> Valued:
        bounds: list[Node] = []
        for bound in (e.range.start, e.range.end):
            if bound is None:
                return self.ctx.error("E301", "`any` needs both ends of its range", e.range.span)
            value = self.plain(bound, scope, pair, "the end of a range")
            if isinstance(value, Poison):
                return POISON
            if value.type is not Type.INT or value.labels:
                return self.ctx.error("E301", f"the end of a range is an integer, and this is {value.kind}", bound.span)
            if not self.known_when_compiling(value.node):
                hint = "compare with the largest count instead: `any(i in 0..8: i < n[q] & ...)`"
                return self.ctx.error("E305", "this is not known when compiling", bound.span, hint)
            bounds.append(value.node)
        start, end = bounds
        index: Node = index_symbol(pair.depth)
        zero = start is Const(0)
        shifted = index if zero else apply("add", start, index)
        inner = scope.child({e.variable.id: Value(shifted)})
        body = self.mask(e.body, inner, Pair(pair.q, pair.k, pair.depth + 1), "what `any` looks for")
        if body is None:
            return POISON
        count = end if zero else apply("sub", end, start)
        if isinstance(count, Const) and count.value > MAX_ALTERNATIVES:
            message = f"`any` may have {MAX_ALTERNATIVES} alternatives at most"
            return self.ctx.error("E508", message, e.range.span, FEWER)
        return Value(ir.Exists(index_symbol(pair.depth), count, body))

    def known_when_compiling(self, node: Node) -> bool:
        """Whether it follows from parameters, tables, sizes, head and layer alone."""
        for n in postorder([node], self.fixed.__contains__):
            varies = isinstance(n, Symbol) and n.name in ("q", "k", "b", "s", "o")
            self.fixed[n] = not varies and all(self.fixed[c] for c in n.children)
        return self.fixed[node]

    # Calls

    def call(self, e: t.Call, scope: Scope, pair: Pair, here: Node | None) -> Valued:
        if e.name.id == "size" or (e.name.id in FUNCTIONS and e.name.id not in scope.globals.definitions):
            return self.core_call(e, scope, pair, here)
        found = scope.globals.find(e.name.id)
        if found is None:
            if scope.find(e.name.id) is not None:
                return self.ctx.error("E301", f"`{e.name.id}` is no function", e.name.span, "a look-up uses `[...]`")
            hint = how_to_call(e.name.id, scope.globals.names())
            return self.ctx.error("E201", f"nothing is called `{e.name.id}` here", e.name.span, hint)
        item, home = found
        if item.name.id in home.cyclic:
            return POISON  # Reported when the file was read.
        names = bind_arguments(self, e, item, home, scope, pair, here)
        if names is None:
            return POISON
        self.ctx.frames.append(Frame(item.name.id, e.span))
        try:
            inner = Scope(home, names, scope.coordinates if isinstance(item, t.Pattern) else {})
            if isinstance(item, t.Definition):
                return self.value(item.body, inner, pair, here)
            return self.pattern_as_mask(item, inner, pair)
        finally:
            self.ctx.frames.pop()

    def pattern_as_mask(self, item: t.Pattern, scope: Scope, pair: Pair) -> Valued:
        for s in item.statements:
            if s.kind in ("score", "normalize", "output"):
                message = f"`{item.name.id}` is more than a mask: it has `{s.kind}`"
                return self.ctx.error("E305", message, s.span, "move its mask into a `def` and call that")
        for s in item.statements:
            self.ctx.count(s.span)
            if s.kind == "let" and s.name and s.value:
                scope = scope.child({s.name.id: ByName(s.value, scope)})
            elif s.kind == "attend" and s.value:
                return self.value(s.value, scope, pair)
        return POISON

    def core_call(self, e: t.Call, scope: Scope, pair: Pair, here: Node | None) -> Valued:
        for a in e.args:
            if a.name is not None:
                return self.ctx.error("E204", f"`{e.name.id}` has no parameter names", a.span, "give just the value")
        if e.name.id == "size":
            return self.size(e, scope, pair)
        values = [self.value(a.value, scope, pair, here) for a in e.args]
        spans = tuple(a.value.span for a in e.args)

        def combine(*vs: Valued) -> Valued:
            plain = [ops.as_value(self.ctx, v, s, f"what `{e.name.id}` takes") for v, s in zip(vs, spans, strict=True)]
            known = tuple(v for v in plain if isinstance(v, Value))
            return POISON if len(known) < len(plain) else ops.call(self.ctx, e.name.id, e.span, spans, known)

        return ops.lift(self.ctx, e.span, combine, *values)

    def size(self, e: t.Call, scope: Scope, pair: Pair) -> Valued:
        if len(e.args) != 1:
            return self.ctx.error("E204", f"`size` takes one coordinate, and got {len(e.args)}", e.span)
        arg = e.args[0].value
        if isinstance(arg, t.Name) and arg.id in ("q", "k") and scope.find(arg.id) is None:
            return Value(Size(arg.id))
        value = self.value(arg, scope, pair)
        if isinstance(value, Poison):
            return POISON
        extent = value.extent() if isinstance(value, Coord) else None
        if extent is not None:
            return Value(extent)
        hint = "use `size(q)` or `size(k)`" if value is self.token else _RANGE
        if not isinstance(value, Coord):
            return self.ctx.error("E301", f"`size` takes a coordinate, and this is {value.kind}", arg.span)
        return self.ctx.error("E307", "how many values this has is not known", arg.span, hint)

    def match(self, e: t.Match, scope: Scope, pair: Pair, here: Node | None) -> Valued:
        return lower_match(self, e, scope, pair, here)


_CHAINS = {"&": "and", "|": "or"}
_RANGE = "declare inputs with a range, as in `doc: int(0..100)[token]`, or pass the number as a parameter"
_TABLE = "use a table or an input in place of repetition"
_SIDE = {"q": "query", "k": "key"}
_LOWER: dict[type, Callable[..., Valued]] = {
    t.Literal: Expressions.literal,
    t.Name: Expressions.name,
    t.Unary: Expressions.unary,
    t.Binary: Expressions.binary,
    t.Chain: Expressions.chain,
    t.Comparison: Expressions.comparison,
    t.Member: Expressions.member,
    t.Pullback: Expressions.pullback,
    t.Index: Expressions.index,
    t.Exists: Expressions.exists,
    t.Call: Expressions.call,
    t.Match: Expressions.match,
}


def _look_up(p: Parameter, indices: tuple[Value, ...]) -> Value:
    node = ir.Lookup(p.name, p.type, [v.node for v in indices])
    return Value(node, both(*(v.defined for v in indices)), p.labels)


def _extent(op: str, left: Valued, right: Valued) -> Node | None:
    """How many values an operator on coordinates has, counted from 0; None where that is not known."""
    if op in ("+", "*") and isinstance(right, Coord) and isinstance(left, Value):
        left, right = right, left
    if not isinstance(left, Coord):
        return None
    extent = left.extent()
    if isinstance(right, Coord):
        other = right.extent()
        if op != "+" or extent is None or other is None:
            return None
        return apply("add", extent, apply("sub", other, Const(1)))
    if not isinstance(right, Value):
        return None
    operand = right.node
    if extent is None:
        return operand if op == "%" else None
    if op == "//":
        if operand is Const(1):
            return extent
        return apply("floordiv", apply("add", extent, apply("sub", operand, Const(1))), operand)
    if op == "%":
        return apply("min", extent, operand)
    if op == "+":
        return apply("add", extent, operand)
    if op == "*":
        return apply("add", apply("mul", apply("sub", extent, Const(1)), operand), Const(1))
    return None

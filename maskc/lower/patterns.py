"""Lowering of a pattern: its spaces, its signature and its statements."""

from __future__ import annotations

from dataclasses import dataclass, field

from maskc.diagnostics import Note, Span
from maskc.ir.nodes import Node, Param, Type
from maskc.ir.program import OUTPUT, SCORE, SOFTMAX, Assertion, Normalizer, Parameter, Program, Segment, Space
from maskc.ir.size import size_problem
from maskc.ir.text import text_problem
from maskc.lower.context import MAX_AXES, MAX_PARAMETERS, MAX_SEGMENTS, MAX_STATEMENTS, Context
from maskc.lower.expressions import Expressions
from maskc.lower.scope import RESERVED, Binding, ByName, Globals, Pair, Scope, did_you_mean
from maskc.lower.signature import lower_signature
from maskc.lower.spaces import space_coordinates
from maskc.lower.values import POISON, Table, Value, to_float
from maskc.syntax import tree as t

__all__ = ["lower_expression", "lower_pattern"]

_NORMALIZERS = ("softmax", "sigmoid", "relu")
#: Statements that say a number: a score, a sink, an output.
_NUMBERS = ("score", "normalize", "output")


def lower_expression(ctx: Context, e: t.Expr, found: Globals, name: str) -> Program | None:
    """A bare mask expression as a program without parameters."""
    mask = Expressions(ctx, cross=False).mask(e, Scope(found), Pair(), "a program")
    return None if mask is None else _checked(ctx, Program(name, (), Space(), Space(), False, mask), e.span)


def lower_pattern(ctx: Context, p: t.Pattern, found: Globals) -> Program | None:
    """One pattern; None if something was reported."""
    before = len(ctx.errors)
    at = p.name.span
    ctx.at_most(MAX_PARAMETERS, len(p.params), "parameters", at, "use tables and inputs, or fewer parameters")
    ctx.at_most(MAX_STATEMENTS, len(p.statements), "statements", at, "use a table or an input in place of repetition")
    cross = p.k_space is not None
    q_space = _space(ctx, p.q_space)
    k_space = _space(ctx, p.k_space) if p.k_space is not None else q_space
    if len(ctx.errors) == before:
        _check_extents(ctx, (*p.q_space, *(p.k_space or ())))
    ctx.used = set()
    params = lower_signature(ctx, p.params, cross)
    # What could not be understood was reported; where it is used it makes no further errors.
    names: dict[str, Binding] = {d.name.id: POISON for d in p.params}
    names.update({d.name: _bound(d) for d in params})
    coordinates = space_coordinates(q_space, k_space, lambda: ctx.statement in _NUMBERS)
    for d in p.params:
        if d.name.id in coordinates:
            message = f"`{d.name.id}` is a parameter and a coordinate of the space"
            hint = f"an extent is no parameter: leave it out, and read `size({d.name.id})`"
            ctx.error("E202", message, d.name.span, hint)
    made = _Body(ctx, p, Scope(found, names, coordinates), Expressions(ctx, cross))
    made.run()
    if len(ctx.errors) > before or made.mask is None:  # A mask may fail by what was reported before.
        return None
    _unused(ctx, p, params)
    program = Program(
        p.name.id, params, q_space, k_space, cross, made.mask, made.score, made.normalizer, made.output,
        tuple(made.assertions), p.doc,
    )  # fmt: skip
    return _checked(ctx, program, at)


def _checked(ctx: Context, program: Program, at: Span) -> Program:
    """The program, if it is no larger than what all stages can handle."""
    problem = size_problem(program) or text_problem(program)
    if problem is not None:
        ctx.stop(problem.code, problem.message, at, problem.hint or "")
    return program


def _bound(p: Parameter) -> Binding:
    return Value(Param(p.name, p.type), None, p.labels) if p.is_scalar else Table(p)


def _space(ctx: Context, segments: tuple[t.SegmentDecl, ...]) -> Space:
    made: list[Segment] = []
    named: set[str] = set()
    parts = sum(1 + len(s.axes) for s in segments)
    if segments:
        at, hint = segments[0].span, "tell stretches apart by an input: `part: int[token]`"
        ctx.at_most(MAX_SEGMENTS, parts, "segments and axes", at, hint)
    for s in segments:
        if s.shape is not None and s.shape.id != "grid":
            hint = "write `grid(...)` with the names of its axes"
            ctx.error("E201", f"there is no shape `{s.shape.id}`", s.shape.span, hint)
        if s.axes:
            ctx.at_most(MAX_AXES, len(s.axes), "axes of a grid", s.axes[0].span, "join some of them")
        for n in (*(() if s.name is None else (s.name,)), *s.axes):
            if n.id in RESERVED:
                ctx.reserved(n.id, "cannot name a part of a space", n.span)
        # An axis may be that of several grids, and of a segment by itself; two segments have two names.
        again = [s.name] if s.name is not None and s.name.id in named else []
        again += [a for i, a in enumerate(s.axes) if a.id in {b.id for b in s.axes[:i]}]
        for n in again:
            hint = "an axis of a grid has a name of its own" if n in s.axes else "give one of the segments another name"
            ctx.error("E202", f"`{n.id}` is in this space twice", n.span, hint)
        named |= set() if s.name is None else {s.name.id}
        made.append(Segment(s.name.id if s.name else None, tuple(a.id for a in s.axes)))
    return Space(tuple(made))


def _check_extents(ctx: Context, segments: tuple[t.SegmentDecl, ...]) -> None:
    """A name has one extent in all of both spaces: `size(image)` cannot be that of a grid and one of its own."""
    known: dict[str, list[str]] = {}
    for s in segments:
        named = [] if s.name is None else [(s.name, [a.id for a in s.axes] or [s.name.id])]
        for n, factors in [*named, *((a, [a.id]) for a in s.axes)]:
            before = known.setdefault(n.id, factors)
            if sorted(before) != sorted(factors):
                a, b = ("one of its own" if f == [n.id] else f"`{' * '.join(f)}`" for f in (before, factors))
                hint = "give one of them another name, or all of them the same axes"
                ctx.error("E202", f"`{n.id}` has two extents here: {a} and {b}", n.span, hint)


def _unused(ctx: Context, p: t.Pattern, params: tuple[Parameter, ...]) -> None:
    extents = {d for q in params for d in q.domain}
    for d in p.params:
        if d.name.id not in ctx.used and d.name.id not in extents:
            ctx.warn("W401", f"the parameter `{d.name.id}` is never used", d.name.span, "remove it, or use it")
    for s in p.statements:
        if s.kind == "let" and s.name and s.name.id not in ctx.used:
            ctx.warn("W404", f"`{s.name.id}` is never used", s.name.span, "remove it, or use it")


@dataclass
class _Body:
    """The statements of a pattern, one after another."""

    ctx: Context
    pattern: t.Pattern
    scope: Scope
    lower: Expressions
    mask: Node | None = None
    score: Node = SCORE
    normalizer: Normalizer = SOFTMAX
    output: Node = OUTPUT
    assertions: list[Assertion] = field(default_factory=list)
    first: dict[str, Span] = field(default_factory=dict)

    def run(self) -> None:
        lower = {
            "let": self._let, "attend": self._attend, "score": self._score, "normalize": self._normalize,
            "output": self._output, "assert": self._assert,
        }  # fmt: skip
        for s in self.pattern.statements:
            self.ctx.statement = s.kind
            self.lower.memo.clear()  # What `s` and `o` stand for changes from one statement to the next.
            lower[s.kind](s)
        if "attend" not in self.first:
            hint = "say which keys are kept: `attend causal`"
            self.ctx.error("E106", f"`{self.pattern.name.id}` has no `attend`", self.pattern.name.span, hint)

    def once(self, s: t.Statement) -> bool:
        if s.kind in self.first:
            note = Note("first here", self.first[s.kind])
            self.ctx.error("E106", f"a pattern has one `{s.kind}`", s.span, "join them into one", note)
            return False
        self.first[s.kind] = s.span
        return True

    def _let(self, s: t.Statement) -> None:
        assert s.name is not None
        assert s.value is not None
        if s.name.id in RESERVED:
            self.ctx.reserved(s.name.id, "cannot be given away", s.name.span)
            return
        if self.scope.find(s.name.id) is not None:
            self.ctx.error("E202", f"`{s.name.id}` has a meaning already", s.name.span, "choose another name")
            return
        # Read once for its errors, though nothing may use it; where it is used decides on q and k.
        self.lower.value(s.value, self.scope, Pair())
        self.scope = self.scope.child({s.name.id: ByName(s.value, self.scope)})

    def _attend(self, s: t.Statement) -> None:
        assert s.value
        mask = self.lower.mask(s.value, self.scope, Pair(), "what is attended")
        if self.once(s) and mask is not None:
            self.mask = mask

    def _number(self, e: t.Expr, what: str, pair: Pair) -> Node | None:
        value = self.lower.plain(e, self.scope, pair, what)
        if not isinstance(value, Value):
            return None
        if value.type is Type.BOOL or value.labels:
            self.ctx.error("E301", f"{what} is a float, and this is {value.kind}", e.span)
            return None
        return to_float(value).node

    def _score(self, s: t.Statement) -> None:
        assert s.value
        node = self._number(s.value, "a score", Pair())
        if node is not None:
            self.score = self.lower.score = node

    def _output(self, s: t.Statement) -> None:
        assert s.value
        node = self._number(s.value, "an output", Pair(k=None))
        if node is not None:
            self.output = self.lower.output = node

    def _normalize(self, s: t.Statement) -> None:
        e = s.value
        if not self.once(s):
            return
        name = e if isinstance(e, t.Name) else e.name if isinstance(e, t.Call) else None
        if name is None or name.id not in _NORMALIZERS:
            written = name.id if name else "this"
            hint = did_you_mean(written, _NORMALIZERS) or "write softmax, softmax(sink = ...), sigmoid or relu"
            self.ctx.error("E201", f"there is no normaliser `{written}`", s.span, hint)
            return
        sink = None
        for a in e.args if isinstance(e, t.Call) else ():
            if name.id != "softmax" or a.name != "sink" or sink is not None:
                hint = "only `softmax(sink = ...)` takes an argument"
                self.ctx.error("E204", f"`{name.id}` has no such argument", a.span, hint)
                return
            sink = self._number(a.value, "a sink", Pair(k=None))
        self.normalizer = Normalizer(name.id, sink)  # type: ignore[arg-type]

    def _assert(self, s: t.Statement) -> None:
        if s.name is not None:
            if s.name.id not in ("q", "k"):
                hint = "`assert some k`: every query keeps a key; `assert some q`: every key is kept"
                self.ctx.error("E101", "`some` asks for `q` or `k`", s.name.span, hint)
                return
            self.assertions.append(Assertion("some_key" if s.name.id == "k" else "some_query"))
            return
        assert s.value
        claim = self.lower.mask(s.value, self.scope, Pair(), "what is asserted")
        if claim is not None:
            self.assertions.append(Assertion("all", claim))

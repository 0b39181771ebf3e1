"""``match``: conditions of the cases, whether they cover every value, and the values' common type."""

from __future__ import annotations

import itertools

from maskc.ir.nodes import TRUE, Const, Node, Type
from maskc.ir.ops import apply, conjunction, disjunction, negation
from maskc.ir.size import MAX_NODE_DEPTH, TOO_DEEP
from maskc.lower import operators as ops
from maskc.lower.comparisons import not_an_enumerator, within
from maskc.lower.context import Context, Lowering
from maskc.lower.scope import Pair, Scope
from maskc.lower.values import POISON, Poison, Value, Valued, mask_of, to_float, where_defined
from maskc.syntax import tree as t

__all__ = ["lower_match"]

_MAX_COVER = 4096  # combinations of finite subjects that are told apart
_MAX_COMPARED = 1 << 20  # comparisons of a value with a case, to find cases that are never reached


def lower_match(lower: Lowering, e: t.Match, scope: Scope, pair: Pair, here: Node | None) -> Valued:
    """The value of a match: of the first case that fits."""
    lower.ctx.at_most(MAX_NODE_DEPTH, len(e.arms), "cases", e.span, TOO_DEEP)  # Each stands within those before.
    subjects = [lower.value(s, scope, pair, here) for s in e.subjects]
    values = [lower.value(a.value, scope, pair, here) for a in e.arms]

    def combine(*vs: Valued) -> Valued:
        return _Matcher(lower, e, scope, pair, here).run(vs[: len(subjects)], vs[len(subjects) :])

    if not e.arms:
        return lower.ctx.error("E304", "a match needs at least one case", e.span, "write `{ else: ... }`")
    return ops.lift(lower.ctx, e.span, combine, *subjects, *values)


class _Matcher:
    def __init__(self, lower: Lowering, e: t.Match, scope: Scope, pair: Pair, here: Node | None) -> None:
        self.lower, self.e, self.scope, self.pair, self.here = lower, e, scope, pair, here
        self.ctx = lower.ctx

    def run(self, subjects: tuple[Valued, ...], values: tuple[Valued, ...]) -> Valued:
        plain = [
            ops.as_value(self.ctx, s, x.span, "what is matched") for s, x in zip(subjects, self.e.subjects, strict=True)
        ]
        known = [s for s in plain if isinstance(s, Value)]
        results = self.results(values)
        conditions = [self.condition(a, known) for a in self.e.arms] if len(known) == len(plain) else []
        if results is None or not conditions or any(c is None for c in conditions):
            return POISON
        covered = _Cover(self.ctx, self.e, known).check()
        if not covered:
            return POISON
        made = results[-1]
        rest = list(zip(conditions, results, strict=True))[:-1]
        for condition, result in reversed(rest):
            assert condition is not None
            made = _select(condition, result, made)
        return made

    def results(self, values: tuple[Valued, ...]) -> list[Value] | None:
        """The cases' values, all of one type."""
        plain = [ops.as_value(self.ctx, v, a.value.span, "the value of a case")
                 for v, a in zip(values, self.e.arms, strict=True)]  # fmt: skip
        known = [v for v in plain if isinstance(v, Value)]
        if len(known) < len(plain):
            return None
        if any(v.type is Type.FLOAT for v in known):
            known = [to_float(v) if v.type is Type.INT and not v.labels else v for v in known]
        for v, a in zip(known, self.e.arms, strict=True):
            if v.type is not known[0].type:
                message = f"the cases differ in type: this is {v.kind}, and the first is {known[0].kind}"
                self.ctx.error("E301", message, a.value.span)
                return None
        return known

    def condition(self, arm: t.Arm, subjects: list[Value]) -> Node | None:
        """When the case fits; None if something was reported."""
        if arm.cases is None:
            return TRUE
        fits: list[Node] = []
        for case in arm.cases:
            if len(case) != len(subjects):
                message = f"this case has {len(case)} value{'' if len(case) == 1 else 's'} for {len(subjects)} matched"
                hint = "alternatives are joined by `|`: `0 | 3: ...`" if len(subjects) == 1 else None
                self.ctx.error("E204", message, arm.span, hint)
                return None
            cells = [self.cell(c, s) for c, s in zip(case, subjects, strict=True)]
            if any(c is None for c in cells):
                return None
            fits.append(conjunction([c for c in cells if c is not None and c is not TRUE]))
        return disjunction(fits)

    def cell(self, cell: t.Expr | t.Range, subject: Value) -> Node | None:
        if isinstance(cell, t.Name) and cell.id == "_":
            return TRUE
        if isinstance(cell, t.Range):
            inside = within(self.lower, subject, cell.span, cell, self.scope, self.pair)
            return inside.node if isinstance(inside, Value) else None
        if subject.labels:
            return self.enumerator(cell, subject)
        if subject.type is Type.BOOL and isinstance(cell, t.Literal) and isinstance(cell.value, bool):
            return mask_of(subject) if cell.value else negation(mask_of(subject))
        value = self.lower.value(cell, self.scope, self.pair, self.here)
        plain = ops.as_value(self.ctx, value, cell.span, "a case")
        if isinstance(plain, Poison):
            return None
        return ops.compare(self.ctx, "==", (cell.span, cell.span), subject, plain)

    def enumerator(self, cell: t.Expr, subject: Value) -> Node | None:
        if not isinstance(cell, t.Name) or cell.id not in subject.labels:
            not_an_enumerator(self.lower, cell, subject.labels)
            return None
        node = apply("eq", subject.node, Const(subject.labels.index(cell.id)))
        return node if subject.defined is None else apply("and", subject.defined, node)


def _select(condition: Node, a: Value, b: Value) -> Value:
    node = apply("select", condition, a.node, b.node)
    if a.defined is None and b.defined is None:
        return Value(node, None, a.labels if a.labels == b.labels else ())
    defined = apply("select", condition, where_defined(a.defined), where_defined(b.defined))
    return Value(node, defined, a.labels if a.labels == b.labels else ())


class _Cover:
    """Which values earlier cases have taken: to report cases never reached, and values never met."""

    def __init__(self, ctx: Context, e: t.Match, subjects: list[Value]) -> None:
        self.ctx, self.e, self.subjects = ctx, e, subjects
        self.defined = all(s.defined is None for s in subjects)

    def check(self) -> bool:
        last = self.e.arms[-1]
        for i, arm in enumerate(self.e.arms):
            if i and _takes_all(self.e.arms[i - 1]):
                self.ctx.warn("W402", "this case is never reached: the one before takes everything", arm.span)
                return True
        if self.defined and all(s.labels or s.type is Type.BOOL for s in self.subjects):
            return self.finite()
        self.integers()
        if not _takes_all(last):
            self.ctx.error("E304", "there are values that no case takes", self.e.span, "add a last case `else: ...`")
            return False
        return True

    def finite(self) -> bool:
        """Enumerations and Booleans: every combination is told apart."""
        ranges = [range(len(s.labels) or 2) for s in self.subjects]
        total = 1
        for r in ranges:
            total *= len(r)
        if total > _MAX_COVER or total * _cases(self.e) > _MAX_COMPARED:
            return True
        left = set(itertools.product(*ranges))
        for arm in self.e.arms:
            taken = {x for x in left if self.takes(arm, x)}
            if not taken:
                self.ctx.warn("W402", "this case is never reached: those before take all its values", arm.span)
            left -= taken
        if left and not _takes_all(self.e.arms[-1]):
            missing = ", ".join(self.spell(i, v) for i, v in enumerate(min(left)))
            message = f"no case takes {missing}"
            self.ctx.error("E304", message, self.e.span, f"add a case `{missing}: ...`, or `else: ...`")
            return False
        return True

    def spell(self, at: int, value: int) -> str:
        labels = self.subjects[at].labels
        return labels[value] if labels else ("true" if value else "false")

    def takes(self, arm: t.Arm, point: tuple[int, ...]) -> bool:
        if arm.cases is None:
            return True
        return any(all(self.cell(c, i, v) for i, (c, v) in enumerate(zip(case, point, strict=True)))
                   for case in arm.cases if len(case) == len(point))  # fmt: skip

    def cell(self, cell: t.Expr | t.Range, at: int, value: int) -> bool:
        if isinstance(cell, t.Name):
            return cell.id == "_" or (bool(self.subjects[at].labels) and cell.id == self.spell(at, value))
        return isinstance(cell, t.Literal) and isinstance(cell.value, bool) and int(cell.value) == value

    def integers(self) -> None:
        """One integer subject and plain numbers: a case whose every value was taken is never reached."""
        if len(self.subjects) != 1 or _cases(self.e) ** 2 > _MAX_COMPARED:
            return
        taken: list[tuple[int, int]] = []
        for arm in self.e.arms:
            spans = [_interval(case[0]) for case in arm.cases or () if len(case) == 1]
            if spans and all(s is not None and any(lo <= s[0] and s[1] <= hi for lo, hi in taken) for s in spans):
                self.ctx.warn("W402", "this case is never reached: those before take all its values", arm.span)
            taken.extend(s for s in spans if s is not None)


_FAR = 1 << 62


def _interval(cell: t.Expr | t.Range) -> tuple[int, int] | None:
    """The integers ``lo <= x < hi`` that a case of plain numbers takes."""
    if isinstance(cell, t.Range):
        ends = [_FAR * s if e is None else _number(e) for e, s in ((cell.start, -1), (cell.end, 1))]
        return None if ends[0] is None or ends[1] is None else (ends[0], ends[1])
    value = _number(cell)
    return None if value is None else (value, value + 1)


def _number(e: t.Expr) -> int | None:
    if isinstance(e, t.Literal) and isinstance(e.value, int) and not isinstance(e.value, bool):
        return e.value
    if isinstance(e, t.Unary) and e.op == "-" and isinstance(e.operand, t.Literal):
        inner = _number(e.operand)
        return None if inner is None else -inner
    return None


def _cases(e: t.Match) -> int:
    """How many alternatives all the cases have."""
    return sum(len(a.cases or ()) for a in e.arms)


def _takes_all(arm: t.Arm) -> bool:
    return arm.cases is None or any(all(isinstance(c, t.Name) and c.id == "_" for c in case) for case in arm.cases)

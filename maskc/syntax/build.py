"""From the parser's tree to ours: rule names become node classes, positions become spans."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING, Any, cast

from maskc.diagnostics import Diagnostic, Source, Span
from maskc.syntax import tree as t
from maskc.syntax.tokens import MAX_DEPTH, too_deep

if TYPE_CHECKING:
    from lark import Tree

__all__ = ["build", "depth_problem"]


def depth_problem(source: Source, tree: Tree[Any]) -> Diagnostic | None:
    """The first sub-expression that is too deep to be handled by recursion, if any."""
    depth: dict[int, int] = {}
    for sub in tree.iter_subtrees():  # Operands first.
        below = 0
        for c in sub.children:
            if hasattr(c, "data"):
                flat = sub.data == "chain" and c.data == "chain" and c.children[1] == sub.children[1]
                below = max(below, depth[id(c)] - flat)
        depth[id(sub)] = below + 1
        if below > MAX_DEPTH:
            return too_deep(Span(source, sub.meta.start_pos, sub.meta.end_pos))
    return None


def build(source: Source, tree: Tree[Any], comments: list[t.Comment]) -> t.File:
    """Our tree of a whole file."""
    return _Builder(source, comments).file(tree)


class _Builder:
    """One method a rule of the grammar, called by name of the rule."""

    def __init__(self, source: Source, comments: list[t.Comment]) -> None:
        self.source = source
        self.comments = comments
        self.own_lines = [c.span.start for c in comments]

    def span(self, node: Any) -> Span:
        meta = getattr(node, "meta", node)
        return Span(self.source, meta.start_pos, meta.end_pos)

    def file(self, tree: Any) -> t.File:
        version = tree.children[0]
        number = None if version is None else self.expr_integer(version.children[1])
        items = tuple(self.item(c) for c in tree.children[1:] if hasattr(c, "data") or getattr(c, "type", "") == "NAME")
        return t.File(Span(self.source, 0, len(self.source.text)), number, items, tuple(self.comments))

    def item(self, node: Any) -> t.Definition | t.Pattern | t.Expr:
        if node.data == "definition":
            return self.definition(node)
        return self.pattern(node) if node.data == "pattern" else self.expr(node)

    def doc(self, start: int) -> str:
        """The `##` comments on the lines right before ``start``."""
        lines: list[str] = []
        at = bisect.bisect_left(self.own_lines, start) - 1
        while at >= 0:
            c = self.comments[at]
            gap = self.source.text[c.span.end : start]
            if not c.own_line or not c.text.startswith("##") or gap.strip() or gap.count("\n") > 1:
                break
            lines.append(c.text[2:].removeprefix(" "))
            start = self.source.text.rfind("\n", 0, c.span.start) + 1
            at -= 1
        return "\n".join(reversed(lines))

    def name(self, token: Any) -> t.Name:
        return t.Name(self.span(token), str(token))

    def names(self, tokens: Any) -> tuple[t.Name, ...]:
        return tuple(self.name(n) for n in tokens if n is not None)

    # Items

    def definition(self, node: Any) -> t.Definition:
        _, name, *formals, body = node.children
        made = tuple(self.formal(f) for f in formals if f is not None)
        return t.Definition(self.span(node), self.name(name), made, self.expr(body), self.doc(node.meta.start_pos))

    def formal(self, node: Any) -> t.Formal:
        name, kind, default = node.children
        return t.Formal(
            self.span(node),
            self.name(name),
            None if kind is None else self.name(kind),
            None if default is None else self.expr(default),
        )

    def pattern(self, node: Any) -> t.Pattern:
        header, *statements = node.children
        _, name, *rest = header.children
        params = tuple(self.parameter(c) for c in rest if getattr(c, "data", "") == "parameter")
        spaces = [self.space(c) for c in rest if getattr(c, "data", "") == "space"]
        made = tuple(self.statement(s) for s in statements if s is not None)
        q_space = spaces[0] if spaces else ()
        k_space = spaces[1] if len(spaces) > 1 else None
        return t.Pattern(
            self.span(node), self.name(name), params, q_space, k_space, made, self.doc(node.meta.start_pos)
        )

    def parameter(self, node: Any) -> t.ParameterDecl:
        name, type_, default = node.children
        made = None if default is None else self.expr(default)
        return t.ParameterDecl(self.span(node), self.name(name), self.type(type_), made)

    def type(self, node: Any) -> t.TypeDecl:
        domain = tuple(self.domain(c.children[0]) for c in node.children if getattr(c, "data", "") == "domain")
        tokens = [c for c in node.children if getattr(c, "type", "") == "NAME"]
        if node.data == "enumeration":
            return t.TypeDecl(self.span(node), None, None, self.names(tokens), domain)
        spans = [c for c in node.children if getattr(c, "data", "") == "span"]
        made = self.range(spans[0]) if spans else None
        return t.TypeDecl(self.span(node), self.name(tokens[0]), made, (), domain)

    def domain(self, token: Any) -> t.Name | t.Literal:
        return self.expr_integer(token) if token.type == "INT" else self.name(token)

    def space(self, node: Any) -> tuple[t.SegmentDecl, ...]:
        return tuple(self.segment(c) for c in node.children)

    def segment(self, node: Any) -> t.SegmentDecl:
        if node.data == "plain_segment":
            return t.SegmentDecl(self.span(node), self.name(node.children[0]), None, ())
        name, shape, *axes = node.children
        made = None if name is None else self.name(name)
        return t.SegmentDecl(self.span(node), made, self.name(shape), self.names(axes))

    def statement(self, node: Any) -> t.Statement:
        span, parts = self.span(node), node.children
        if node.data == "let":
            return t.Statement(span, "let", self.name(parts[1]), self.expr(parts[2]))
        if node.data == "assert_some":
            return t.Statement(span, "assert", self.name(parts[2]), None)
        kind = "assert" if node.data == "assert_all" else str(node.data)
        return t.Statement(span, cast(t.Kind, kind), None, self.expr(parts[1]))

    # Expressions

    def expr(self, node: Any) -> t.Expr:
        made: t.Expr = getattr(self, f"expr_{node.data}")(node)
        return made

    def expr_name(self, node: Any) -> t.Expr:
        return self.name(node.children[0])

    def expr_integer(self, node: Any) -> t.Literal:
        text = str(getattr(node, "children", [node])[0])
        return t.Literal(self.span(node), int(text.replace("_", "")), text)

    def expr_floating(self, node: Any) -> t.Expr:
        text = str(node.children[0])
        return t.Literal(self.span(node), float(text.replace("_", "")), text)

    def expr_boolean(self, node: Any) -> t.Expr:
        text = str(node.children[0])
        return t.Literal(self.span(node), text == "true", text)

    def expr_group(self, node: Any) -> t.Expr:
        return self.expr(node.children[0])

    def expr_unary(self, node: Any) -> t.Expr:
        op, operand = node.children
        return t.Unary(self.span(node), str(op), self.expr(operand))

    def expr_binary(self, node: Any) -> t.Expr:
        left, op, right = node.children
        return t.Binary(self.span(node), str(op), self.expr(left), self.expr(right))

    def expr_chain(self, node: Any) -> t.Expr:
        op, operands, at = str(node.children[1]), [], node
        while at.data == "chain" and str(at.children[1]) == op:
            operands.append(at.children[2])
            at = at.children[0]
        operands.append(at)
        return t.Chain(self.span(node), op, tuple(self.expr(o) for o in reversed(operands)))

    def expr_comparison(self, node: Any) -> t.Expr:
        operands = tuple(self.expr(c) for c in node.children[::2])
        return t.Comparison(self.span(node), operands, tuple(str(c) for c in node.children[1::2]))

    def expr_member(self, node: Any) -> t.Expr:
        value, _, container = node.children
        return t.Member(self.span(node), self.expr(value), self.cell(container))

    def expr_pullback(self, node: Any) -> t.Expr:
        mask, _, coordinate = node.children
        return t.Pullback(self.span(node), self.expr(mask), self.expr(coordinate))

    def expr_index(self, node: Any) -> t.Expr:
        base, *indices = node.children
        return t.Index(self.span(node), self.expr(base), tuple(self.expr(i) for i in indices))

    def expr_call(self, node: Any) -> t.Expr:
        name, *args = node.children
        made = tuple(self.argument(a) for a in args if a is not None)
        return t.Call(self.span(node), self.name(name), made)

    def argument(self, node: Any) -> t.Argument:
        name, value = node.children
        return t.Argument(self.span(node), None if name is None else self.name(name).id, self.expr(value))

    def expr_exists(self, node: Any) -> t.Expr:
        _, index, _, span, body = node.children
        return t.Exists(self.span(node), self.name(index), self.range(span), self.expr(body))

    def expr_match(self, node: Any) -> t.Expr:
        subjects: list[t.Expr] = []
        arms: list[t.Arm] = []
        for c in node.children[1:]:
            if c is None or getattr(c, "type", "") == "_SEP":
                continue
            if c.data in ("arm", "otherwise"):
                arms.append(self.arm(c))
            else:
                subjects.append(self.expr(c))
        return t.Match(self.span(node), tuple(subjects), tuple(arms))

    def arm(self, node: Any) -> t.Arm:
        if node.data == "otherwise":
            return t.Arm(self.span(node), None, self.expr(node.children[1]))
        alternatives, value = node.children
        cases = tuple(tuple(self.cell(c) for c in case.children) for case in alternatives.children[::2])
        return t.Arm(self.span(node), cases, self.expr(value))

    def cell(self, node: Any) -> t.Expr | t.Range:
        return self.range(node) if node.data == "span" else self.expr(node)

    def range(self, node: Any) -> t.Range:
        start, end = (None if c is None else self.expr(c) for c in node.children)
        return t.Range(self.span(node), start, end)

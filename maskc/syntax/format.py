"""The one way a program is laid out. Formatting twice is formatting once."""

from __future__ import annotations

import bisect
import re
from collections import deque
from collections.abc import Iterable

from maskc.diagnostics import Source
from maskc.syntax import tree as t
from maskc.syntax.parse import parse

__all__ = ["format_text"]

_WIDTH = 100
_INDENT = "    "
_BLANKS = re.compile(r"\s*")
_SAME_LINE = re.compile("[ \t;]*")
#: How tightly an operator binds; an operand that binds less tightly stands in parentheses.
_TIGHT = {"|": 1, "&": 2, "~": 3, "on": 4, "compare": 5, "+": 6, "-": 6, "*": 7, "/": 7, "//": 7, "%": 7, "neg": 8}
_POW, _ATOM = 9, 10


def format_text(text: str, name: str = "<text>") -> str:
    """The text laid out anew, comments kept. Raises MaskcError if it does not parse."""
    source = Source(text, name)
    return _Formatter(source, parse(source)).run()


class _Formatter:
    def __init__(self, source: Source, file: t.File) -> None:
        self.source, self.file = source, file
        self.comments = deque(file.comments)  # Those that are not yet written, in order.
        self.lines: list[str] = []

    def run(self) -> str:
        if self.file.version is not None:
            self.leading(self.file.version.span.start, "")
            self.lines.append(f"maskc {self.file.version.text}")
            self.trailing(self.file.version.span.end)
            self.blank()
        for i, item in enumerate(self.file.items):
            following = self.file.items[i + 1].span.start if i + 1 < len(self.file.items) else len(self.source.text)
            self.item(item)
            self.trailing(item.span.end)
            if following < len(self.source.text) and not self.stay_together(item, self.file.items[i + 1]):
                self.blank()
        self.leading(len(self.source.text) + 1, "")
        while self.lines and not self.lines[-1]:
            self.lines.pop()
        return "\n".join(self.lines) + "\n"

    def stay_together(self, item: t.Definition | t.Pattern | t.Expr, after: t.Definition | t.Pattern | t.Expr) -> bool:
        """Definitions written on lines right after one another stay so."""
        between = self.source.text[item.span.end : after.span.start]
        both = isinstance(item, t.Definition) and isinstance(after, t.Definition)
        return both and between.count("\n") < 2

    def blank(self) -> None:
        if self.lines and self.lines[-1]:
            self.lines.append("")

    def leading(self, before: int, indent: str) -> None:
        """Comments that stand before an offset, on lines of their own."""
        while self.comments and self.comments[0].span.start < before:
            c = self.comments.popleft()
            if self.paragraph(c) and self.lines and not self.lines[-1].endswith("{"):
                self.blank()
            self.lines.append(indent + c.text)
            gap = _BLANKS.match(self.source.text, c.span.end)
            if before <= len(self.source.text) and gap is not None and gap[0].count("\n") > 1:
                self.blank()

    def paragraph(self, c: t.Comment) -> bool:
        """Whether an empty line stands before the comment."""
        text, at = self.source.text, c.span.start
        while at > 0 and text[at - 1] in " \t":
            at -= 1
        return text.endswith("\n\n", 0, at) or text.endswith("\n\r\n", 0, at)

    def trailing(self, end: int) -> None:
        """A comment behind a statement, on its last line."""
        if not self.comments:
            return
        c = self.comments[0]
        if c.span.start >= end and _SAME_LINE.fullmatch(self.source.text, end, c.span.start):
            self.comments.popleft()
            self.lines[-1] += "  " + c.text

    def inner(self, end: int, indent: str) -> None:
        """Comments inside a statement that is laid out anew as a whole go before it."""
        while self.comments and self.comments[0].span.start < end:
            self.lines.append(indent + self.comments.popleft().text)

    def before_item(self, start: int, end: int) -> None:
        """Comments before an item, and those inside it, up to ``end``, which is laid out anew as a whole. These go
        before its doc comment, which stays next to it, and do not become one."""
        first = len(self.lines)
        self.leading(start, "")
        doc = len(self.lines)
        while doc > first and self.lines[doc - 1].startswith("##"):
            doc -= 1
        documented, self.lines = self.lines[doc:], self.lines[:doc]
        if self.comments and self.comments[0].span.start < end:
            if doc == first:  # It may have stood right after another definition, and no longer does.
                self.blank()
            self.inner(end, "")
            if self.lines[-1].startswith("##"):
                self.blank()
        self.lines += documented

    def item(self, item: t.Definition | t.Pattern | t.Expr) -> None:
        if isinstance(item, t.Pattern):
            self.pattern(item)
            return
        self.before_item(item.span.start, item.span.end)
        if isinstance(item, t.Definition):
            formals = ", ".join(_formal(f) for f in item.formals)
            head = f"def {item.name.id}" + (f"({formals})" if item.formals else "")
            self.statement(f"{head} =", item.body, "")
        else:
            self.lines.extend(_expression(item, 0, _WIDTH).split("\n"))

    def pattern(self, p: t.Pattern) -> None:
        body = min((s.span.start for s in p.statements), default=p.span.end)
        brace = self.last_brace(p.span.start, body)
        self.before_item(p.span.start, brace)
        self.lines.extend(_header(p))
        previous = brace
        for s in p.statements:
            gap = self.source.text[previous : s.span.start]
            first_comment = self.comments and self.comments[0].span.start < s.span.start
            if previous != brace and "\n\n" in gap.replace("\r", "").replace(" ", "") and not first_comment:
                self.blank()
            self.leading(s.span.start, _INDENT)
            self.inner(s.span.end, _INDENT)
            self.body(s)
            self.trailing(s.span.end)
            previous = s.span.end
        self.leading(p.span.end, _INDENT)
        while not self.lines[-1]:
            self.lines.pop()
        self.lines.append("}")

    def last_brace(self, start: int, end: int) -> int:
        """Where the last `{` of a stretch of the text is that stands in no comment."""
        while True:
            at = self.source.text.rfind("{", start, end)
            i = bisect.bisect_right(self.file.comments, at, key=lambda c: c.span.start) - 1
            if i < 0 or self.file.comments[i].span.end <= at:
                return at
            end = self.file.comments[i].span.start

    def body(self, s: t.Statement) -> None:
        if s.kind == "let":
            assert s.name is not None
            assert s.value is not None
            self.statement(f"let {s.name.id} =", s.value, _INDENT)
        elif s.value is None:
            self.lines.append(f"{_INDENT}assert some {s.name.id if s.name else ''}")
        else:
            self.statement(s.kind, s.value, _INDENT)

    def statement(self, head: str, value: t.Expr, indent: str) -> None:
        text = _expression(value, len(indent) + len(head) + 1, _WIDTH)
        lines = text.split("\n")
        chained = _is_chained(value) and len(lines) > 1
        if chained and head.endswith("="):
            text = _expression(value, len(indent) + len(_INDENT), _WIDTH)
            self.lines.append(indent + head)
            self.lines.extend(indent + _INDENT + line for line in text.split("\n"))
            return
        self.lines.append(f"{indent}{head} {lines[0]}")
        self.lines.extend(indent + (_INDENT if chained else "") + line for line in lines[1:])


def _header(p: t.Pattern) -> list[str]:
    params = [_parameter(d) for d in p.params]
    space = f" over {_space(p.q_space)}" if p.q_space else ""
    space += f" -> {_space(p.k_space)}" if p.k_space is not None else ""
    signature = f"({', '.join(params)})" if params else ""
    line = f"pattern {p.name.id}{signature}{space} {{"
    if len(line) <= _WIDTH or not params:
        return [line]
    return [f"pattern {p.name.id}(", *(f"{_INDENT}{q}," for q in params), f"){space} {{"]


def _formal(f: t.Formal) -> str:
    kind = f": {f.kind.id}" if f.kind else ""
    return f.name.id + kind + (f" = {_flat(f.default)}" if f.default is not None else "")


def _parameter(d: t.ParameterDecl) -> str:
    default = "" if d.default is None else f" = {_flat(d.default)}"
    return f"{d.name.id}: {_type(d.type)}{default}"


def _type(d: t.TypeDecl) -> str:
    base = d.name.id if d.name else "{" + ", ".join(n.id for n in d.labels) + "}"
    bounds = f"({_range(d.range)})" if d.range else ""
    domain = ", ".join(x.id if isinstance(x, t.Name) else x.text for x in d.domain)
    return base + bounds + (f"[{domain}]" if domain else "")


def _space(segments: Iterable[t.SegmentDecl]) -> str:
    made = []
    for s in segments:
        shape = f"{s.shape.id}({', '.join(a.id for a in s.axes)})" if s.shape else ""
        made.append(": ".join(x for x in (s.name.id if s.name else "", shape) if x))
    return " ++ ".join(made)


def _expression(e: t.Expr, column: int, width: int) -> str:
    """The expression on one line if it fits after ``column``; else chains, sums and matches over several."""
    flat = _flat(e)
    if isinstance(e, t.Match) and (len(e.arms) > 2 or column + len(flat) > width):
        return _broken_match(e, width)
    if column + len(flat) <= width and not _has_long_match(e):
        return flat
    if _is_chained(e):
        first, *rest = [(op, _wrapped(o, _binds(e) + 1, width)) for op, o in _links(e)]
        return "\n".join([first[1], *(f"{op} {text}" for op, text in rest)])
    return flat if not _has_long_match(e) else _wrapped(e, 0, width)


def _is_chained(e: t.Expr) -> bool:
    """Whether lines are broken at its operators."""
    return isinstance(e, t.Chain) or (isinstance(e, t.Binary) and e.op in ("+", "-"))


def _links(e: t.Expr) -> list[tuple[str, t.Expr]]:
    """The operands of a chain or of a sum, each with the operator before it."""
    if isinstance(e, t.Chain):
        return [(e.op, o) for o in e.operands]
    links: list[tuple[str, t.Expr]] = []
    while isinstance(e, t.Binary) and e.op in ("+", "-"):
        links.append((e.op, e.right))
        e = e.left
    return [("", e), *reversed(links)]


def _wrapped(e: t.Expr, tight: int, width: int) -> str:
    text = _expression(e, 4, width) if isinstance(e, (t.Match, t.Chain)) else _flat(e)
    return f"({text})" if _binds(e) < tight else text


def _has_long_match(e: t.Expr) -> bool:
    if isinstance(e, t.Match):
        return len(e.arms) > 2
    return isinstance(e, t.Chain) and any(_has_long_match(o) for o in e.operands)


def _broken_match(e: t.Match, width: int) -> str:
    subjects = ", ".join(_flat(s) for s in e.subjects)
    heads = [_arm_head(a) for a in e.arms]
    lines = [f"match {subjects} {{"]
    for a, head in zip(e.arms, heads, strict=True):
        # A line that starts with `-` would be a case.
        is_difference = any(op == "-" for op, _ in _links(a.value))
        body = _flat(a.value) if is_difference else _expression(a.value, 4 + len(head) + 1, width - 4)
        first, *rest = body.split("\n")
        lines.append(f"{_INDENT}{head} {first}")
        lines.extend(_INDENT * (2 if _is_chained(a.value) else 1) + line for line in rest)
    return "\n".join([*lines, "}"])


def _arm_head(a: t.Arm) -> str:
    if a.cases is None:
        return "else:"
    return " | ".join(", ".join(_cell(c) for c in case) for case in a.cases) + ":"


def _cell(c: t.Expr | t.Range) -> str:
    return _range(c) if isinstance(c, t.Range) else _operand(c, _TIGHT["+"])


def _range(r: t.Range) -> str:
    start = "" if r.start is None else _operand(r.start, _TIGHT["+"])
    return f"{start}..{'' if r.end is None else _operand(r.end, _TIGHT['+'])}"


def _binds(e: t.Expr) -> int:
    if isinstance(e, (t.Chain, t.Binary)):
        return _POW if e.op == "**" else _TIGHT[e.op]
    if isinstance(e, t.Unary):
        return _TIGHT["~" if e.op == "~" else "neg"]
    if isinstance(e, t.Pullback):
        return _TIGHT["on"]
    return _TIGHT["compare"] if isinstance(e, (t.Comparison, t.Member)) else _ATOM


def _operand(e: t.Expr, tight: int) -> str:
    text = _flat(e)
    return f"({text})" if _binds(e) < tight else text


def _flat(e: t.Expr) -> str:
    """The expression on one line."""
    if isinstance(e, t.Name):
        return e.id
    if isinstance(e, t.Literal):
        return e.text
    if isinstance(e, t.Unary):
        return e.op + _operand(e.operand, _binds(e))
    if isinstance(e, t.Binary):
        return _flat_binary(e)
    if isinstance(e, t.Chain):
        return f" {e.op} ".join(_operand(o, _TIGHT[e.op] + 1) for o in e.operands)
    if isinstance(e, t.Comparison):
        return _flat_comparison(e)
    if isinstance(e, t.Member):
        container = _range(e.container) if isinstance(e.container, t.Range) else _operand(e.container, _TIGHT["+"])
        return f"{_operand(e.value, _TIGHT['+'])} in {container}"
    if isinstance(e, t.Pullback):
        return f"{_operand(e.mask, _TIGHT['on'])} on {_operand(e.coordinate, _TIGHT['+'])}"
    if isinstance(e, t.Index):
        return f"{_operand(e.base, _ATOM)}[{', '.join(_flat(i) for i in e.indices)}]"
    if isinstance(e, t.Call):
        return f"{e.name.id}({', '.join(_argument(a) for a in e.args)})"
    if isinstance(e, t.Exists):
        return f"any({e.variable.id} in {_range(e.range)}: {_flat(e.body)})"
    arms = "; ".join(f"{_arm_head(a)} {_flat(a.value)}" for a in e.arms)
    return f"match {', '.join(_flat(s) for s in e.subjects)} {{ {arms} }}"


def _flat_binary(e: t.Binary) -> str:
    tight = _binds(e)
    if e.op == "**":
        return f"{_operand(e.left, _ATOM)} ** {_operand(e.right, _TIGHT['neg'])}"
    return f"{_operand(e.left, tight)} {e.op} {_operand(e.right, tight + 1)}"


def _flat_comparison(e: t.Comparison) -> str:
    parts = [_operand(e.operands[0], _TIGHT["+"])]
    for op, operand in zip(e.ops, e.operands[1:], strict=True):
        parts += [op, _operand(operand, _TIGHT["+"])]
    return " ".join(parts)


def _argument(a: t.Argument) -> str:
    return (f"{a.name} = " if a.name else "") + _flat(a.value)

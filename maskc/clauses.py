"""A mask at one point: which of its clauses hold there, with the values of their operands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from maskc.diagnostics import MaskcError, Source, Span
from maskc.ir.nodes import Apply, Const, Node, Type
from maskc.syntax import tree as t

if TYPE_CHECKING:
    from maskc.ir.binding import Binding
    from maskc.ir.program import Program

__all__ = ["Clause", "Examiner", "deciding", "source_texts"]

#: Clauses looked into at most: a mask may have hundreds of thousands of nodes.
_MOST = 300
_MOST_SOURCES = 40
_COMPARISONS = {"lt": "<", "le": "<=", "eq": "==", "ne": "!="}


@dataclass(frozen=True)
class Clause:
    """A sub-mask at a point.

    ``kind`` is "and", "or", "not", "match" or "clause" (no parts); ``text`` the core language;
    ``source`` as it is written in the file, or ""; ``values`` the operands' values of a comparison,
    as "3 < 4"; ``parts`` the sub-masks that it is made of, of a match only the case that applies.
    """

    kind: str
    text: str
    source: str
    holds: bool
    values: str = ""
    parts: tuple[Clause, ...] = ()


@dataclass
class Examiner:
    """Evaluates the un-normalised mask of a program for one head, query and key."""

    program: Program
    binding: Binding
    head: int
    query: int
    key: int
    sources: Mapping[Node, str]
    left: int = _MOST

    def examine(self) -> Clause:
        """The whole mask."""
        return self._clause(self.program.mask, 0)

    def _clause(self, node: Node, depth: int) -> Clause:
        from maskc.ir.text import print_node

        self.left -= 1
        holds = bool(self._value(node))
        source = self.sources.get(node, "")
        text = _short(print_node(node))
        kind = node.op if isinstance(node, Apply) else ""
        if kind in ("and", "or", "not", "select") and isinstance(node, Apply) and self.left > 0 and depth < 50:
            parts = self._branch(node) if kind == "select" else node.args
            clauses = tuple(self._clause(p, depth + 1) for p in parts)
            return Clause("match" if kind == "select" else kind, text, source, holds, "", clauses)
        return Clause("clause", text, source, holds, self._operands(node))

    def _branch(self, node: Apply) -> tuple[Node, ...]:
        condition, yes, no = node.args
        return (yes if bool(self._value(condition)) else no,)

    def _operands(self, node: Node) -> str:
        if not isinstance(node, Apply) or node.op not in _COMPARISONS:
            return ""
        if all(isinstance(a, Const) for a in node.args):
            return ""
        left, right = (self._shown(a) for a in node.args)
        return f"{left} {_COMPARISONS[node.op]} {right}"

    def _shown(self, node: Node) -> str:
        value = self._value(node)
        if node.type is Type.BOOL:
            return "true" if value else "false"
        return f"{float(value):g}" if node.type is Type.FLOAT else str(int(value))

    def _value(self, node: Node) -> Any:
        import numpy as np

        from maskc.ir.evaluate import evaluate

        q, k = np.array([self.query]), np.array([self.key])
        value = evaluate(node, self.binding, q=q, k=k, h=self.head, b=0, params=self.program.params)
        return np.asarray(value).reshape(-1)[0]


def _short(text: str, most: int = 200) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 4] + " ..."


def deciding(clause: Clause) -> Clause:
    """The smallest clause on which the truth of ``clause`` rests alone."""
    while clause.parts:
        parts = clause.parts
        if clause.kind in ("and", "or"):
            wanted = clause.kind == "or"
            if clause.holds is not wanted:  # All the parts of an `and` hold, or none of an `or`.
                return clause
            parts = tuple(p for p in parts if p.holds is wanted)
        clause = parts[0]
    return clause


def source_texts(source: Source, program: Program) -> dict[Node, str]:
    """How the sub-masks of a pattern's `attend` are written, by the expression that they lower to.

    Each piece of source is lowered by itself in place of the whole; one that means nothing by
    itself is left out.
    """
    from maskc.lower import lower_source
    from maskc.syntax.parse import parse

    found: dict[Node, str] = {}
    place = _attend(parse(source), program)
    if place is None:
        return found
    for piece in _pieces(place)[:_MOST_SOURCES]:
        text = source.text[piece.start : piece.end]
        changed = f"{source.text[: place.span.start]}({text}){source.text[place.span.end :]}"
        try:
            programs = lower_source(Source(changed, source.name)).programs
        except MaskcError:
            continue
        for each in programs:
            if each.name == program.name:
                found.setdefault(each.mask, _short(text))
    return found


def _attend(file: t.File, program: Program) -> t.Expr | None:
    for item in file.items:
        if isinstance(item, t.Pattern) and item.name.id == program.name:
            return next((s.value for s in item.statements if s.kind == "attend"), None)
    bare = [i for i in file.items if not isinstance(i, (t.Pattern, t.Definition))]
    return bare[0] if bare else None


def _pieces(expr: t.Expr) -> list[Span]:
    return list(_walk(expr))


def _walk(expr: t.Expr) -> Iterator[Span]:
    yield expr.span
    inside: tuple[t.Expr, ...] = ()
    if isinstance(expr, t.Chain):
        inside = expr.operands
    elif isinstance(expr, t.Unary) and expr.op == "~":
        inside = (expr.operand,)
    elif isinstance(expr, t.Match):
        inside = tuple(arm.value for arm in expr.arms)
    for each in inside:
        yield from _walk(each)

"""A mask at one point: which of its clauses hold there, with the values of their operands."""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maskc.diagnostics import MaskcError, Source, Span
from maskc.ir.nodes import Apply, Const, Exists, Node, Type
from maskc.ir.rewrite import remake
from maskc.syntax import tree as t

if TYPE_CHECKING:
    from maskc.ir.binding import Binding
    from maskc.ir.program import Program
    from maskc.ir.text import Labels

__all__ = ["Clause", "Examiner", "deciding", "source_texts"]

#: Clauses looked into at most: a mask may have hundreds of thousands of nodes.
_MOST = 300
_MOST_SOURCES = 40
#: Steps of lowering, and characters of source, that finding out how clauses are written may take in all: a file at
#: the limits takes that many once or twice, and an ordinary one far less for all of its clauses.
_MOST_WORK = 1 << 19
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
    known: dict[Node, Const] = field(default_factory=dict)

    @functools.cached_property
    def labels(self) -> Labels:
        """The names of the values of enumerations."""
        from maskc.ir.text import labels_of

        return labels_of(self.program)

    def examine(self) -> Clause:
        """The whole mask."""
        return self._clause(self.program.mask, 0)

    def _clause(self, node: Node, depth: int) -> Clause:
        from maskc.ir.text import MOST_SHOWN, print_node

        self.left -= 1
        holds = bool(self._value(node))
        source = self.sources.get(node, "")
        text = print_node(node, labels=self.labels, most=MOST_SHOWN) if self.left >= 0 else "..."
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

    def _value(self, node: Node) -> bool | int | float:
        """What the node is at this point. Each is worked out once, from what its operands are: clauses share them."""
        pending = [node]
        while pending:
            last = pending[-1]
            needs = () if isinstance(last, Exists) else [c for c in last.children if c not in self.known]
            if needs:
                pending.extend(needs)
                continue
            pending.pop()
            if last not in self.known:
                self.known[last] = self._worked_out(last)
        return self.known[node].value

    def _worked_out(self, node: Node) -> Const:
        import numpy as np

        from maskc.ir.evaluate import evaluate

        small = node if isinstance(node, Exists) else remake(node, tuple(self.known[c] for c in node.children))
        q, k = np.array([self.query]), np.array([self.key])
        value = evaluate(small, self.binding, q=q, k=k, h=self.head, b=0, params=self.program.params)
        found: bool | int | float = np.asarray(value).reshape(-1)[0].item()
        return Const(found)


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
    """How the sub-masks of a pattern's `attend` are written, by the expression that they lower to; without comments.

    Each piece of source is lowered by itself in place of the whole; one that means nothing by
    itself is left out.
    """
    from maskc.lower import lower_source
    from maskc.syntax.parse import parse

    found: dict[Node, str] = {}
    file = parse(source)
    place = _attend(file, program)
    if place is None:
        return found
    left, steps = _MOST_WORK, 0
    for piece in itertools.islice(_pieces(place), _MOST_SOURCES):
        if left <= 0:
            break
        text = source.text[piece.span.start : piece.span.end]
        changed = f"{source.text[: place.span.start]}({text}){source.text[place.span.end :]}"
        try:
            lowered = lower_source(Source(changed, source.name))
        except MaskcError:
            left -= len(changed) + steps  # About as many as the one before: it does not say.
            continue
        steps = lowered.steps
        left -= len(changed) + steps
        for each in lowered.programs:
            if each.name == program.name:
                found.setdefault(each.mask, _written(source, piece.span, file.comments))
    return found


def _written(source: Source, span: Span, comments: Sequence[t.Comment]) -> str:
    """A piece of source on one line, without comments: what stands in one is no part of the clause."""
    from maskc.ir.text import shortened

    kept, at = [], span.start
    for c in comments[bisect.bisect_left(comments, span.start, key=lambda c: c.span.start) :]:
        if c.span.start >= span.end:
            break
        kept.append(source.text[at : c.span.start])
        at = c.span.end
    return shortened(" ".join(" ".join([*kept, source.text[at : span.end]]).split()))


def _attend(file: t.File, program: Program) -> t.Expr | None:
    for item in file.items:
        if isinstance(item, t.Pattern) and item.name.id == program.name:
            return next((s.value for s in item.statements if s.kind == "attend"), None)
    bare = [i for i in file.items if not isinstance(i, (t.Pattern, t.Definition))]
    return bare[0] if bare else None


def _pieces(expr: t.Expr) -> Iterator[t.Expr]:
    """The expression and the masks that it is made of, from the outside in."""
    yield expr
    inside: tuple[t.Expr, ...] = ()
    if isinstance(expr, t.Chain):
        inside = expr.operands
    elif isinstance(expr, t.Unary) and expr.op == "~":
        inside = (expr.operand,)
    elif isinstance(expr, t.Match):
        inside = tuple(arm.value for arm in expr.arms)
    for each in inside:
        yield from _pieces(each)

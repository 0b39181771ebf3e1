"""A mask at one point: which of its clauses hold there, with the values of their operands."""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maskc.diagnostics import MaskcError, Source, Span
from maskc.ir.nodes import Apply, Const, Exists, Node, Symbol, Type, postorder
from maskc.ir.ops import OPS, apply
from maskc.ir.rewrite import rebuild, remake
from maskc.passes.fold import branches, operators
from maskc.syntax import tree as t

if TYPE_CHECKING:
    from maskc.ir.binding import Binding
    from maskc.ir.program import Program
    from maskc.ir.text import Labels

__all__ = ["Clause", "Examiner", "coordinate_names", "deciding", "grouped", "readable", "source_texts"]

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
    """Evaluates the ``readable`` mask of a program for one head, query and key."""

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

    @functools.cached_property
    def names(self) -> dict[Node, str]:
        """The names of coordinates."""
        return coordinate_names(self.program)

    def examine(self) -> Clause:
        """The whole mask."""
        mask, self.sources = grouped(readable(self.program.mask), self.sources)
        return self._clause(mask, 0)

    def _clause(self, node: Node, depth: int) -> Clause:
        from maskc.ir.text import MOST_SHOWN, print_node

        self.left -= 1
        holds = bool(self._value(node))
        source = self.sources.get(node, "")
        text = print_node(node, self.names, self.labels, MOST_SHOWN) if self.left >= 0 else "..."
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


def readable(mask: Node, known: dict[Node, Node] | None = None) -> Node:
    """The mask without what constants decide: definitions are written for all their arguments, and of
    `neighborhood(y, 7)` there would else be `~false` and `y[q] // 1`. Clauses stay in the order and on the sides on
    which they were written, as they do not in a normal form. ``known`` remembers the results between calls."""
    return rebuild(mask, _plainer, known)


def grouped(mask: Node, sources: Mapping[Node, str]) -> tuple[Node, dict[Node, str]]:
    """A ``readable`` mask in which what is written as a clause of its own is one, and how that is written.

    ``and`` and ``or`` are flat: ``neighborhood(y, 7) & neighborhood(x, 7)`` is one ``and`` of four comparisons, which
    does not tell which of the two a comparison is of. In what this gives they may hold others of the same name.
    """
    joined = [n for n in sources if isinstance(n, Apply) and n.op in ("and", "or")]
    pieces = [(n, frozenset(n.args)) for n in sorted(joined, key=lambda n: -len(n.args))]
    done: dict[Node, Node] = {}

    def regroup(node: Node) -> None:
        """``node``, whose operands are done."""
        if not isinstance(node, Apply) or node.op not in ("and", "or"):
            done[node] = remake(node, tuple(done[c] for c in node.children))
            return
        parts: list[Node] = []
        before: set[Node] = set()
        at = 0
        while at < len(node.args):
            piece, length = _starting(node, at, before, sources, pieces)
            if piece not in done:
                regroup(piece)
            parts.append(done[piece])
            before.update(node.args[at : at + length])
            at += length
        done[node] = Apply(node.op, parts, node.type)

    for node in postorder([mask]):
        if node not in done:
            regroup(node)
    return done[mask], {**sources, **{done[n]: text for n, text in sources.items() if n in done}}


def _starting(
    whole: Apply,
    at: int,
    before: Set[Node],
    sources: Mapping[Node, str],
    pieces: Sequence[tuple[Apply, frozenset[Node]]],
) -> tuple[Node, int]:
    """The largest of ``pieces`` that an ``and`` or ``or`` holds from its operand number ``at`` on, and how many of its
    operands that are: fewer than the piece has where some stand ``before``, since none stands twice. Else that
    operand."""
    for piece, members in pieces:
        if piece.op != whole.op or len(piece.args) >= len(whole.args) or whole.args[at] not in members:
            continue
        rest = tuple(a for a in piece.args if a not in before)
        alone = len(rest) < len(piece.args) and whole.args[at] in sources  # is written by itself
        if not alone and whole.args[at : at + len(rest)] == rest:
            return piece, len(rest)
    return whole.args[at], 1


def _plainer(node: Node) -> Node:
    while True:
        after = next((n for n in (rule(node) for rule in (operators, branches, _neutral)) if n is not None), node)
        if after is node:
            return node
        node = after


def _neutral(node: Node) -> Node | None:
    """``true & a``, ``false & a``, ``a & a``, ``x // 1``, ``x % 1``, ``x * 1``, ``x + 0``, ``x + 1 - 1``"""
    if not isinstance(node, Apply):
        return None
    if node.op in ("and", "or"):
        if Const(OPS[node.op].absorber is True) in node.args:
            return Const(OPS[node.op].absorber is True)
        kept = [a for a in dict.fromkeys(node.args) if a is not Const(OPS[node.op].identity is True)]
        return kept[0] if len(kept) == 1 else apply(node.op, *kept) if len(kept) < len(node.args) else None
    if node.type is not Type.INT or len(node.args) != 2:
        return None
    left, right = node.args
    if right is Const(1) and node.op in ("floordiv", "mul", "mod"):
        return Const(0) if node.op == "mod" else left
    if node.op not in ("add", "sub") or not isinstance(right, Const):
        return None
    if isinstance(left, Apply) and left.op in ("add", "sub") and isinstance(left.args[1], Const):
        total = sum(int(c.value) * (1 if op == "add" else -1) for op, c in ((node.op, right), (left.op, left.args[1])))
        return apply("add" if total >= 0 else "sub", left.args[0], Const(abs(total)))
    return left if right is Const(0) else None


def coordinate_names(program: Program) -> dict[Node, str]:
    """`y[q]` and `y[k]` for what the axes and segments of the program's spaces are as expressions."""
    from maskc.lower.spaces import space_coordinates
    from maskc.lower.values import Value

    found: dict[Node, str] = {}
    for name, coordinate in space_coordinates(program.q_space, program.k_space, lambda: False).items():
        for token in (Symbol("q"), Symbol("k")):
            value = coordinate.at(token)
            assert isinstance(value, Value)
            node = readable(value.node)
            if node.children:  # The only segment is the sequence itself: `q` says as much.
                found.setdefault(node, f"{name}[{token.name}]")
    return found


def source_texts(source: Source, program: Program) -> dict[Node, str]:
    """How the sub-masks of a pattern's `attend`, and of its `let` names, are written, by the ``readable`` expression
    that they lower to; without comments.

    Each piece of source is lowered by itself in place of the whole; one that means nothing by
    itself is left out.
    """
    from maskc.lower import lower_source
    from maskc.syntax.parse import parse

    found: dict[Node, str] = {}
    file = parse(source)
    place, lets = _attend(file, program)
    if place is None:
        return found
    left, steps = _MOST_WORK, 0
    known: dict[Node, Node] = {}
    for piece in itertools.islice(_pieces(place, lets), _MOST_SOURCES):
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
                found.setdefault(readable(each.mask, known), _written(source, piece.span, file.comments))
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


def _attend(file: t.File, program: Program) -> tuple[t.Expr | None, dict[str, t.Expr]]:
    """What a pattern attends to, and what its names stand for."""
    for item in file.items:
        if isinstance(item, t.Pattern) and item.name.id == program.name:
            lets = {s.name.id: s.value for s in item.statements if s.kind == "let" and s.name and s.value}
            return next((s.value for s in item.statements if s.kind == "attend"), None), lets
    bare = [i for i in file.items if not isinstance(i, (t.Pattern, t.Definition))]
    return (bare[0] if bare else None), {}


def _pieces(expr: t.Expr, lets: dict[str, t.Expr]) -> Iterator[t.Expr]:
    """The expression and the masks that it is made of, from the outside in; what a name stands for, once. ``lets``:
    those that there have not been, by their names."""
    yield expr
    inside: tuple[t.Expr, ...] = ()
    if isinstance(expr, t.Chain):
        inside = expr.operands
    elif isinstance(expr, t.Unary) and expr.op == "~":
        inside = (expr.operand,)
    elif isinstance(expr, t.Match):
        inside = tuple(arm.value for arm in expr.arms)
    elif isinstance(expr, t.Name) and expr.id in lets:
        inside = (lets.pop(expr.id),)
    for each in inside:
        yield from _pieces(each, lets)

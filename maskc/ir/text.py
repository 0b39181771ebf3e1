"""Programs and expressions as text of the core language, which lowers back to the identical graph."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeGuard

from maskc.diagnostics import Diagnostic, MaskcError
from maskc.ir.nodes import Apply, Const, Exists, Lookup, Node, Param, Size, Symbol, Type, postorder
from maskc.ir.ops import OPS
from maskc.ir.program import OUTPUT, SCORE, SOFTMAX, Parameter, Program, Segment, Space
from maskc.ir.schedule import free_indices
from maskc.ir.size import MAX_PRINTED

__all__ = [
    "MOST_SHOWN",
    "Labels",
    "declaration",
    "labels_of",
    "print_node",
    "print_parameter",
    "print_program",
    "print_statements",
    "shortened",
    "text_problem",
]

#: Characters of an expression in a message, a page or a comment: about as much as one reads in a line.
MOST_SHOWN = 200
_ATOM = 9
_PREFIX = OPS["neg"].precedence
_COMPARISON = OPS["lt"].precedence
_SUM = OPS["add"].precedence
#: Shared expressions whose text is no longer than this are repeated rather than named.
_SHORT = 10
#: Characters of an expression that are written where nobody says how many are wanted.
_LONG = 10_000
#: About how long a name is; and how many times longer a text may be than was thought.
_NAMED, _LEEWAY = 2, 4

#: The names of the values of enumerations, by the name of the parameter or input.
Labels = Mapping[str, tuple[str, ...]]


def labels_of(program: Program) -> Labels:
    """The names of the values of the program's enumerations."""
    return {p.name: p.labels for p in program.params if p.labels}


def shortened(text: str, most: int = MOST_SHOWN) -> str:
    """The text, of which no more than ``most`` characters are left: then it ends in "..."."""
    return text if len(text) <= most else text[: most - 3] + "..."


def print_node(
    node: Node, names: Mapping[Node, str] | None = None, labels: Labels | None = None, most: int = _LONG
) -> str:
    """The expression as text, with as few brackets as the precedences of ``OPS`` allow.

    ``names`` gives names to sub-expressions, which then stand for them; ``labels`` to the values of enumerations.
    ``most``: a longer text is broken off there and ends in "...", and costs no more than that: written out, what is
    used over and over may be exponentially long.
    """
    return _Printer(names or {}, labels or {}).text(node, most)


def print_program(program: Program, *, name: str | None = None, docs: bool = True) -> str:
    """The program as a ``pattern``. Long expressions that are used more than once become ``let v0 = ...``.

    ``name`` replaces the pattern's name; ``docs`` says whether to write its doc comment. Raises E901 where
    ``text_problem`` finds one.
    """
    lines = [f"## {line}".rstrip() for line in program.doc.splitlines()] if docs else []
    params = ", ".join(print_parameter(p) for p in program.params)
    header = f"pattern {program.name if name is None else name}" + (f"({params})" if params else "")
    lines.append(f"{header}{_print_spaces(program)} {{")
    lines += [f"    {s}" for s in print_statements(program)]
    return "\n".join([*lines, "}", ""])


def print_statements(program: Program) -> list[str]:
    """What stands between the braces of ``print_program``, which see: the names, and the statements."""
    lets, length = _lets(program)
    if length > MAX_PRINTED:
        raise MaskcError(_too_long())
    printer = _Printer({**lets, **_indices(program)}, labels_of(program), left=_LEEWAY * MAX_PRINTED)
    named = [f"let {let} = {printer.whole(node, spelled_out=True)}" for node, let in lets.items()]
    return [*named, *_statements(program, printer)]


def text_problem(program: Program) -> Diagnostic | None:
    """E901, without a place, if the program has no text of a size that can be read: what speaks of the index of an
    ``any`` cannot be given a name outside, and is written wherever it is used."""
    return _too_long() if _lets(program)[1] > MAX_PRINTED else None


def declaration(p: Parameter) -> str:
    """The parameter as a signature declares it, without its default: ``doc: int(0..8)[token]``."""
    kind = "{" + ", ".join(p.labels) + "}" if p.labels else p.type.value
    if not p.labels and (p.low is not None or p.high is not None):
        kind += f"({'' if p.low is None else p.low}..{'' if p.high is None else p.high})"
    return f"{p.name}: {kind}" + (f"[{', '.join(map(str, p.domain))}]" if p.domain else "")


def print_parameter(p: Parameter) -> str:
    """One entry of a signature."""
    if p.default is None:
        return declaration(p)
    default = p.labels[int(p.default.value)] if p.labels else print_node(p.default)
    return f"{declaration(p)} = {default}"


def _statements(program: Program, printer: _Printer) -> Iterator[str]:
    yield f"attend {printer.whole(program.mask)}"
    if program.score is not SCORE:
        yield f"score {printer.whole(program.score)}"
    if program.normalizer != SOFTMAX:
        sink = program.normalizer.sink
        yield f"normalize {program.normalizer.kind}" + (f"(sink = {printer.whole(sink)})" if sink is not None else "")
    if program.output is not OUTPUT:
        yield f"output {printer.whole(program.output)}"
    for a in program.assertions:
        if a.claim is not None:
            yield f"assert {printer.whole(a.claim)}"
        else:
            yield f"assert some {'k' if a.kind == 'some_key' else 'q'}"


def _print_spaces(program: Program) -> str:
    if program.cross:
        return f" over {_print_space(program.q_space)} -> {_print_space(program.k_space)}"
    return f" over {_print_space(program.q_space)}" if program.q_space.segments else ""


def _print_space(space: Space) -> str:
    return " ++ ".join(_print_segment(s) for s in space.segments) or "token"


def _print_segment(segment: Segment) -> str:
    shape = f"grid({', '.join(segment.axes)})" if segment.axes else ""
    return ": ".join(part for part in (segment.name, shape) if part)


def _lets(program: Program) -> tuple[dict[Node, str], int]:
    """Names for the expressions worth one, operands before the nodes that use them; and about how long the text is."""
    roots = program.roots()
    nodes = list(postorder(roots))
    uses = Counter(c for n in nodes for c in n.children)
    uses.update(roots)
    free = free_indices(roots)
    stem = _stem(_taken(program), ("v", "v_", "v__", "let_v"), "let_v")
    lets: dict[Node, str] = {}
    lengths: dict[Node, int] = {}
    total = 0
    for n in nodes:
        lengths[n] = _length(n, lengths)
        if uses[n] > 1 and n.children and not free[n] and lengths[n] > _SHORT:
            total += lengths[n]
            lets[n] = f"{stem}{len(lets)}"
            lengths[n] = _NAMED
    return lets, total + sum(lengths[r] for r in roots)


def _indices(program: Program) -> dict[Node, str]:
    """Names for the indices of ``any`` where the signature or a space has one of theirs, which would hide it there."""
    bound = {n.index for n in postorder(program.roots()) if isinstance(n, Exists)}
    taken = _taken(program)
    if not any(index.name in taken for index in bound):
        return {}
    stem = _stem(taken, ("i_", "i__"), "i_")
    return {index: stem + index.name[1:] for index in bound}


def _stem(taken: Collection[str], wanted: Sequence[str], last: str) -> str:
    """What none of the names starts with: one of ``wanted``, else ``last`` and a number. A pattern may take any number
    of stems, but not all of them."""
    stems = itertools.chain(wanted, (f"{last}{n}_" for n in itertools.count()))
    return next(s for s in stems if not any(t.startswith(s) for t in taken))


def _taken(program: Program) -> set[str]:
    """The names that the text of a program has already."""
    return {p.name for p in program.params} | _space_names(program)


def _space_names(program: Program) -> set[str]:
    segments = (*program.q_space.segments, *program.k_space.segments)
    return {name for s in segments for name in (s.name, *s.axes) if name}


def _length(node: Node, lengths: Mapping[Node, int]) -> int:
    """About how long the text of ``node`` is, given that of its operands."""
    own = 0 if node.children or isinstance(node, Lookup) else len(_leaf(node))
    return (
        own + sum(lengths[c] + 3 for c in node.children) - (3 if isinstance(node, Apply) and len(node.args) > 1 else 0)
    )


def _too_long() -> Diagnostic:
    hint = "what speaks of the index of an `any` is written out at every use: use such definitions less often"
    return Diagnostic("E901", f"the program as text has more than {MAX_PRINTED} characters", hint=hint)


#: A piece of a text: words, or an expression and how tightly it has to bind to stand there without brackets.
_Piece = str | tuple[Node, int]


@dataclass
class _Printer:
    """Writes expressions from left to right, so that it can stop: it costs what is written, however much is left.

    ``left``: the characters that ``whole`` may write yet, in all. ``known``: what ``_values`` found.
    """

    names: Mapping[Node, str]
    labels: Labels
    left: int = 0
    known: dict[Node, tuple[str, ...]] = field(default_factory=dict)

    def text(self, node: Node, most: int) -> str:
        """The expression, broken off after ``most`` characters."""
        text, broken = self._written(node, most)
        return text[: max(0, most - 3)] + "..." if broken else text

    def whole(self, node: Node, *, spelled_out: bool = False) -> str:
        """All of the expression; with ``spelled_out`` even if it has a name itself. Raises E901."""
        text, broken = self._written(node, self.left, spelled_out)
        self.left -= len(text)
        if broken:
            raise MaskcError(_too_long())
        return text

    def _written(self, root: Node, most: int, spelled_out: bool = False) -> tuple[str, bool]:
        """The text, or as much of its beginning as tells that it is longer than ``most``; and whether it is."""
        out: list[str] = []
        length, open_ = 0, [self._parts(root) if spelled_out else self._operand(root, 0)]
        while open_:
            piece = next(open_[-1], None)
            if piece is None:
                open_.pop()
            elif isinstance(piece, str):
                out.append(piece)
                length += len(piece)
            else:
                open_.append(self._operand(*piece))
            # Whatever has operands writes a character of its own besides, now or after them.
            if length > most or len(open_) > most:
                return "".join(out), True
        return "".join(out), False

    def _operand(self, node: Node, tight: int) -> Iterator[_Piece]:
        """The expression, or its name, in brackets where it binds less tightly than that."""
        if node in self.names:
            return iter((self.names[node],))
        return self._parts(node) if _precedence(node) >= tight else self._bracketed(node)

    def _bracketed(self, node: Node) -> Iterator[_Piece]:
        yield "("
        yield from self._parts(node)
        yield ")"

    def _parts(self, node: Node) -> Iterator[_Piece]:
        if isinstance(node, Lookup):
            return _joined([(i, 0) for i in node.indices], ", ", f"{node.name}[", "]")
        if isinstance(node, Exists):
            index = self.names.get(node.index, node.index.name)
            return iter((f"any({index} in 0..", (node.count, _SUM), ": ", (node.body, 0), ")"))
        if isinstance(node, Apply):
            return _applied(node, self._labelled(node))
        return iter((_leaf(node),))

    def _labelled(self, node: Apply) -> Iterable[str | Node]:
        """The operands; compared with an enumeration, an integer is one of its values."""
        if not self.labels or node.op not in ("eq", "ne"):
            return node.args
        found = next(filter(None, map(self._values, node.args)), ())
        return [
            found[int(a.value)] if isinstance(a, Const) and a.type is Type.INT and 0 <= a.value < len(found) else a
            for a in node.args
        ]

    def _values(self, node: Node) -> tuple[str, ...]:
        """The names of the expression's values, if it is one of an enumeration."""
        for n in postorder([node], self.known.__contains__):
            self.known[n] = ()
            if _is_named(n):
                self.known[n] = self.labels.get(n.name, ())
            elif isinstance(n, Apply) and n.op == "select":
                yes, no = (self.known[a] for a in n.args[1:])
                self.known[n] = yes if yes == no else ()
        return self.known[node]


def _is_named(node: Node) -> TypeGuard[Param | Lookup]:
    return isinstance(node, (Param, Lookup))


def _precedence(node: Node) -> int:
    if isinstance(node, Apply):
        op = OPS[node.op]
        return op.precedence if op.form in ("prefix", "infix") else _ATOM
    return _PREFIX if isinstance(node, Const) and _leaf(node).startswith("-") else _ATOM


def _leaf(node: Node) -> str:
    if isinstance(node, Const):
        return ("true" if node.value else "false") if node.type is Type.BOOL else repr(node.value)
    if isinstance(node, Size):
        return f"size({node.name})"
    assert isinstance(node, (Symbol, Param)), node
    return node.name


def _joined(pieces: Iterable[_Piece], between: str, before: str = "", after: str = "") -> Iterator[_Piece]:
    yield before
    for i, piece in enumerate(pieces):
        if i:
            yield between
        yield piece
    yield after


def _applied(node: Apply, operands: Iterable[str | Node]) -> Iterator[_Piece]:
    op = OPS[node.op]

    def piece(operand: str | Node, tight: int) -> _Piece:
        return operand if isinstance(operand, str) else (operand, tight)

    if op.form == "call":
        return _joined((piece(o, 0) for o in operands), ", ", f"{op.symbol}(", ")")
    if op.form == "match":
        condition, yes, no = (piece(o, 0) for o in operands)
        return iter(("match ", condition, " { true: ", yes, "; else: ", no, " }"))
    if op.form == "prefix":
        (inner,) = operands
        return iter((op.symbol, piece(inner, op.precedence + 1 if node.op == "neg" else op.precedence)))
    first = op.precedence + (1 if op.precedence in (_COMPARISON, OPS["pow"].precedence) else 0)
    tights = (first if i == 0 else op.precedence + 1 for i in itertools.count())
    return _joined((piece(o, t) for o, t in zip(operands, tights, strict=False)), f" {op.symbol} ")

"""The syntax tree: what was written, with its place, before any name is looked up.

Named tuples, because they are made several times faster than data classes when this is imported.
"""

from __future__ import annotations

from typing import Literal as OneOf
from typing import NamedTuple

from maskc.diagnostics import Span

__all__ = [
    "Argument",
    "Arm",
    "Binary",
    "Call",
    "Chain",
    "Comment",
    "Comparison",
    "Definition",
    "Exists",
    "Expr",
    "File",
    "Formal",
    "Index",
    "Kind",
    "Literal",
    "Match",
    "Member",
    "Name",
    "ParameterDecl",
    "Pattern",
    "Pullback",
    "Range",
    "SegmentDecl",
    "Statement",
    "TypeDecl",
    "Unary",
]


class Name(NamedTuple):
    span: Span
    id: str


class Literal(NamedTuple):
    span: Span
    value: bool | int | float
    text: str


class Unary(NamedTuple):
    """``~a`` or ``-a``."""

    span: Span
    op: str
    operand: Expr


class Binary(NamedTuple):
    """An arithmetic operator."""

    span: Span
    op: str
    left: Expr
    right: Expr


class Chain(NamedTuple):
    """``a | b | c`` or ``a & b & c``, flat, so that a long one is not deep."""

    span: Span
    op: str
    operands: tuple[Expr, ...]


class Comparison(NamedTuple):
    """``a < b <= c``: operands and, between them, the operators."""

    span: Span
    operands: tuple[Expr, ...]
    ops: tuple[str, ...]


class Range(NamedTuple):
    """``start..end``, the end not included; either may be missing."""

    span: Span
    start: Expr | None
    end: Expr | None


class Member(NamedTuple):
    """``q in text`` or ``x in 0..8``."""

    span: Span
    value: Expr
    container: Expr | Range


class Pullback(NamedTuple):
    """``mask on coordinate``."""

    span: Span
    mask: Expr
    coordinate: Expr


class Argument(NamedTuple):
    span: Span
    name: str | None
    value: Expr


class Call(NamedTuple):
    span: Span
    name: Name
    args: tuple[Argument, ...]


class Index(NamedTuple):
    """``base[indices]``: a look-up, or a coordinate applied to a position."""

    span: Span
    base: Expr
    indices: tuple[Expr, ...]


class Exists(NamedTuple):
    """``any(variable in start..end: body)``."""

    span: Span
    variable: Name
    range: Range
    body: Expr


class Arm(NamedTuple):
    """One case of a match: alternatives, each with a cell a subject; None: ``else``."""

    span: Span
    cases: tuple[tuple[Expr | Range, ...], ...] | None
    value: Expr


class Match(NamedTuple):
    span: Span
    subjects: tuple[Expr, ...]
    arms: tuple[Arm, ...]


Kind = OneOf["let", "attend", "score", "normalize", "output", "assert"]
Expr = Name | Literal | Unary | Binary | Chain | Comparison | Member | Pullback | Call | Index | Exists | Match


class Formal(NamedTuple):
    """A parameter of a definition. ``kind``: mask, coord, int, float, bool, or None."""

    span: Span
    name: Name
    kind: Name | None
    default: Expr | None


class Definition(NamedTuple):
    span: Span
    name: Name
    formals: tuple[Formal, ...]
    body: Expr
    doc: str


class TypeDecl(NamedTuple):
    """``int``, ``int(0..9)``, ``{a, b}``, each perhaps with a domain in square brackets."""

    span: Span
    name: Name | None
    range: Range | None
    labels: tuple[Name, ...]
    domain: tuple[Name | Literal, ...]


class ParameterDecl(NamedTuple):
    span: Span
    name: Name
    type: TypeDecl
    default: Expr | None


class SegmentDecl(NamedTuple):
    """``text``, ``grid(y, x)`` or ``image: grid(y, x)``."""

    span: Span
    name: Name | None
    shape: Name | None
    axes: tuple[Name, ...]


class Statement(NamedTuple):
    """``kind`` is the keyword. ``name``: of a let, or what ``assert some`` asks for."""

    span: Span
    kind: Kind
    name: Name | None
    value: Expr | None


class Pattern(NamedTuple):
    span: Span
    name: Name
    params: tuple[ParameterDecl, ...]
    q_space: tuple[SegmentDecl, ...]
    k_space: tuple[SegmentDecl, ...] | None
    statements: tuple[Statement, ...]
    doc: str


class Comment(NamedTuple):
    """``text`` with its ``#``. ``own_line``: nothing but blanks before it on its line."""

    span: Span
    text: str
    own_line: bool


class File(NamedTuple):
    """A whole file: its items in order; a bare mask expression stands in ``items`` as itself."""

    span: Span
    version: Literal | None
    items: tuple[Definition | Pattern | Expr, ...]
    comments: tuple[Comment, ...]

"""The syntax tree: what was written, with its place, before any name is looked up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal as OneOf

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


@dataclass(frozen=True)
class Name:
    span: Span
    id: str


@dataclass(frozen=True)
class Literal:
    span: Span
    value: bool | int | float
    text: str


@dataclass(frozen=True)
class Unary:
    """``~a`` or ``-a``."""

    span: Span
    op: str
    operand: Expr


@dataclass(frozen=True)
class Binary:
    """An arithmetic operator."""

    span: Span
    op: str
    left: Expr
    right: Expr


@dataclass(frozen=True)
class Chain:
    """``a | b | c`` or ``a & b & c``, flat, so that a long one is not deep."""

    span: Span
    op: str
    operands: tuple[Expr, ...]


@dataclass(frozen=True)
class Comparison:
    """``a < b <= c``: operands and, between them, the operators."""

    span: Span
    operands: tuple[Expr, ...]
    ops: tuple[str, ...]


@dataclass(frozen=True)
class Range:
    """``start..end``, the end not included; either may be missing."""

    span: Span
    start: Expr | None
    end: Expr | None


@dataclass(frozen=True)
class Member:
    """``q in text`` or ``x in 0..8``."""

    span: Span
    value: Expr
    container: Expr | Range


@dataclass(frozen=True)
class Pullback:
    """``mask on coordinate``."""

    span: Span
    mask: Expr
    coordinate: Expr


@dataclass(frozen=True)
class Argument:
    span: Span
    name: str | None
    value: Expr


@dataclass(frozen=True)
class Call:
    span: Span
    name: Name
    args: tuple[Argument, ...]


@dataclass(frozen=True)
class Index:
    """``base[indices]``: a look-up, or a coordinate applied to a position."""

    span: Span
    base: Expr
    indices: tuple[Expr, ...]


@dataclass(frozen=True)
class Exists:
    """``any(index in start..end: body)``."""

    span: Span
    index: Name
    range: Range
    body: Expr


@dataclass(frozen=True)
class Arm:
    """One case of a match: alternatives, each with a cell a subject; None: ``else``."""

    span: Span
    cases: tuple[tuple[Expr | Range, ...], ...] | None
    value: Expr


@dataclass(frozen=True)
class Match:
    span: Span
    subjects: tuple[Expr, ...]
    arms: tuple[Arm, ...]


Kind = OneOf["let", "attend", "score", "normalize", "output", "assert"]
Expr = Name | Literal | Unary | Binary | Chain | Comparison | Member | Pullback | Call | Index | Exists | Match


@dataclass(frozen=True)
class Formal:
    """A parameter of a definition. ``kind``: mask, coord, int, float, bool, or None."""

    span: Span
    name: Name
    kind: Name | None
    default: Expr | None


@dataclass(frozen=True)
class Definition:
    span: Span
    name: Name
    formals: tuple[Formal, ...]
    body: Expr
    doc: str


@dataclass(frozen=True)
class TypeDecl:
    """``int``, ``int(0..9)``, ``{a, b}``, each perhaps with a domain in square brackets."""

    span: Span
    name: Name | None
    range: Range | None
    labels: tuple[Name, ...]
    domain: tuple[Name | Literal, ...]


@dataclass(frozen=True)
class ParameterDecl:
    span: Span
    name: Name
    type: TypeDecl
    default: Expr | None


@dataclass(frozen=True)
class SegmentDecl:
    """``text``, ``grid(y, x)`` or ``image: grid(y, x)``."""

    span: Span
    name: Name | None
    shape: Name | None
    axes: tuple[Name, ...]


@dataclass(frozen=True)
class Statement:
    """``kind`` is the keyword. ``name``: of a let, or what ``assert some`` asks for."""

    span: Span
    kind: Kind
    name: Name | None
    value: Expr | None


@dataclass(frozen=True)
class Pattern:
    span: Span
    name: Name
    params: tuple[ParameterDecl, ...]
    q_space: tuple[SegmentDecl, ...]
    k_space: tuple[SegmentDecl, ...] | None
    statements: tuple[Statement, ...]
    doc: str


@dataclass(frozen=True)
class Comment:
    """``text`` with its ``#``. ``own_line``: nothing but blanks before it on its line."""

    span: Span
    text: str
    own_line: bool


@dataclass(frozen=True)
class File:
    """A whole file: its items in order; a bare mask expression stands in ``items`` as itself."""

    span: Span
    version: Literal | None
    items: tuple[Definition | Pattern | Expr, ...]
    comments: tuple[Comment, ...]

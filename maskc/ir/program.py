"""A program: what one pattern means, with nothing of its spelling left but its names."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from maskc.ir.nodes import Const, Node, Size, Symbol, Type

__all__ = [
    "LANGUAGE_VERSION",
    "Assertion",
    "Normalizer",
    "Parameter",
    "Program",
    "Segment",
    "Space",
]

#: The version of the language; a file may start with ``maskc 1``.
LANGUAGE_VERSION = 1

#: Domains that a table or input may be indexed by, besides a literal extent or an integer parameter's name.
DOMAINS = ("head", "layer", "batch", "token", "q", "k")


@dataclass(frozen=True)
class Segment:
    """A stretch of a sequence: one-dimensional (``axes`` empty), or a row-major grid.

    The extent of a one-dimensional segment is ``Size(name)``; of a grid, the product of
    ``Size(axis)`` over its axes. ``name`` is None for an unnamed grid.
    """

    name: str | None
    axes: tuple[str, ...] = ()

    @property
    def extents(self) -> tuple[Size, ...]:
        return tuple(Size(a) for a in self.axes) if self.axes else (Size(self.name or "token"),)


@dataclass(frozen=True)
class Space:
    """A sequence as a concatenation of segments. No segments: a plain sequence of tokens."""

    segments: tuple[Segment, ...] = ()


@dataclass(frozen=True)
class Parameter:
    """One entry of a pattern's signature.

    ``domain`` is empty for a scalar; else one entry per dimension: one of ``DOMAINS``, an
    integer extent, or the name of an integer parameter that gives the extent.
    ``labels`` names the values of an enumeration (type INT). ``low`` and ``high`` (not included)
    are the declared range of an integer, None where it is open.
    """

    name: str
    type: Type
    domain: tuple[str | int, ...] = ()
    labels: tuple[str, ...] = ()
    default: Const | None = None
    low: int | None = None
    high: int | None = None

    @property
    def is_scalar(self) -> bool:
        return not self.domain

    @property
    def when(self) -> Literal["compile", "call"]:
        """When the value arrives: tables of floats and anything by token or batch come with the call."""
        if any(d in ("token", "q", "k", "batch") for d in self.domain):
            return "call"
        return "call" if self.type is Type.FLOAT and self.domain else "compile"


@dataclass(frozen=True)
class Normalizer:
    """How scores become weights. ``sink`` is a logit added to a softmax's denominator, or None."""

    kind: Literal["softmax", "sigmoid", "relu"] = "softmax"
    sink: Node | None = None


#: What a program that says nothing of scores, weights and outputs does to them.
SCORE, OUTPUT, SOFTMAX = Symbol("s"), Symbol("o"), Normalizer()


@dataclass(frozen=True)
class Assertion:
    """A contract: ``kind`` "all": ``mask`` implies ``claim`` at every (q, k); "some_key": every
    query keeps a key; "some_query": every key is kept by a query (``claim`` is None for both)."""

    kind: Literal["all", "some_key", "some_query"]
    claim: Node | None = None


@dataclass(frozen=True)
class Program:
    """The meaning of one pattern.

    Attributes:
        name: the pattern's name (no part of its meaning, nor of its hash).
        params: the signature, in order of declaration.
        q_space, k_space: the sequences that queries and keys run over.
        cross: queries and keys are separate sequences: positions of both start at 0. Otherwise they
            are one sequence, and with fewer queries than keys the last query is the last key, unless a binding
            says otherwise.
        mask: BOOL; whether key ``k`` is kept for query ``q``.
        score: FLOAT; the modified score, of the scaled score ``Symbol("s")``.
        normalizer: how scores become weights.
        output: FLOAT; what becomes of an output element ``Symbol("o")``. Speaks of no key.
        assertions: contracts.
        doc: the pattern's doc comment.
    """

    name: str
    params: tuple[Parameter, ...]
    q_space: Space
    k_space: Space
    cross: bool
    mask: Node
    score: Node = SCORE
    normalizer: Normalizer = SOFTMAX
    output: Node = OUTPUT
    assertions: tuple[Assertion, ...] = ()
    doc: str = field(default="", compare=False)

    def roots(self) -> tuple[Node, ...]:
        """Every expression of the program, for traversals."""
        sink = () if self.normalizer.sink is None else (self.normalizer.sink,)
        claims = tuple(a.claim for a in self.assertions if a.claim is not None)
        return (self.mask, self.score, *sink, self.output, *claims)

    def parameter(self, name: str) -> Parameter:
        """The parameter called ``name``; raises KeyError."""
        for p in self.params:
            if p.name == name:
                return p
        raise KeyError(name)

    def replace(self, **changes: object) -> Program:
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

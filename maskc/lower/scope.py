"""Names: what is in scope, and what somebody may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from maskc.ir.nodes import Node, Symbol
from maskc.ir.ops import OPS
from maskc.lower.values import INDICES, Coord, Valued
from maskc.syntax import tree as t
from maskc.syntax.tokens import FOREIGN

__all__ = [
    "ELSEWHERE",
    "FUNCTIONS",
    "RESERVED",
    "Binding",
    "ByName",
    "Globals",
    "Pair",
    "Scope",
    "did_you_mean",
    "how_to_call",
    "how_to_declare",
]

#: Functions of the core that are written as calls.
FUNCTIONS = tuple(op.symbol for op in OPS.values() if op.form == "call")
#: Names that nothing else may have.
RESERVED = frozenset({"q", "k", "h", "b", "layer", "heads", "s", "o", "token", "size", "_", *FUNCTIONS})


@dataclass(frozen=True)
class Pair:
    """The position that ``q`` and ``k`` stand for here, and how many ``any`` are around."""

    q: Node | None = field(default_factory=lambda: Symbol("q"))
    k: Node | None = field(default_factory=lambda: Symbol("k"))
    depth: int = 0


@dataclass(eq=False)
class ByName:
    """A ``let``, or the argument for a ``mask`` parameter: an expression and the scope to read it in."""

    expr: t.Expr
    scope: Scope


Binding = ByName | Valued

#: Comparing two names takes time by their lengths, and there may be as many as fit into a file.
_LONG = 80
_MANY = 500


@dataclass(eq=False)
class Globals:
    """Definitions and patterns of a file, in front of those of the prelude."""

    definitions: dict[str, t.Definition]
    patterns: dict[str, t.Pattern]
    outer: Globals | None = None
    cyclic: frozenset[str] = frozenset()

    def find(self, name: str) -> tuple[t.Definition | t.Pattern, Globals] | None:
        """The definition or pattern of that name, with the globals to read it in."""
        own = self.definitions.get(name) or self.patterns.get(name)
        if own is not None:
            return own, self
        return self.outer.find(name) if self.outer else None

    def names(self) -> list[str]:
        return [*self.definitions, *self.patterns, *(self.outer.names() if self.outer else ())]


@dataclass(eq=False)
class Scope:
    """Local names, innermost first, over the globals of the file they stand in.

    ``outer`` holds the names that were there before: a ``let`` adds a scope and copies none.
    """

    globals: Globals
    names: Mapping[str, Binding] = field(default_factory=dict)
    coordinates: Mapping[str, Coord] = field(default_factory=dict)
    outer: Scope | None = None

    def child(self, names: Mapping[str, Binding]) -> Scope:
        return Scope(self.globals, names, self.coordinates, self)

    def find(self, name: str) -> Binding | None:
        scope: Scope | None = self
        while scope is not None:
            found = scope.names.get(name)
            if found is not None:
                return found
            scope = scope.outer
        return self.coordinates.get(name)

    def visible(self) -> list[str]:
        local: list[str] = []
        scope: Scope | None = self
        while scope is not None:
            local += scope.names
            scope = scope.outer
        return [*local, *self.coordinates, *self.globals.names(), *RESERVED - {"_"}]


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """A hint with the closest known name, if one is close; of very many, only those of about its length count."""
    near = sorted(k for k in set(known) if len(k) <= _LONG)
    if len(near) > _MANY:
        near = sorted(near, key=lambda k: abs(len(k) - len(name)))[:_MANY]
    close = difflib.get_close_matches(name[:_LONG], near, n=1, cutoff=0.6)
    return f"did you mean `{close[0]}`?" if close else None


#: What other systems write, and what is written here instead.
ELSEWHERE = {
    "q_idx": "the position of the query is called `q`",
    "kv_idx": "the position of the key is called `k`",
    "inf": "no score is infinite: `attend` says which pairs are kept",
    "where": "write `match condition { true: a; else: b }`",
    "document": "write `same(doc)`, with `doc: int[token]` in the signature",
    "tril": "write `causal`",
    "default": "the last case is `else: ...`",
    **dict.fromkeys(("full", "bidirectional"), "every pair is kept by `all`"),
    **dict.fromkeys(
        ("q_len", "kv_len", "Q_LEN", "KV_LEN", "seq_len", "seqlen", "n_ctx", "len", "N"),
        "lengths are called `size(q)` and `size(k)`",
    ),
    **dict.fromkeys(("dim", "head_dim", "scale"), "`s` is scaled already, by default by 1 / sqrt(head dimension)"),
    "softmax": "weights are made of scores by `normalize softmax`, which goes without saying",
    "range": "a range is written `x in 0..8`",
    "clamp": "write `min(max(x, low), high)`",
    "ceil": "write `-floor(-x)`",
    "round": "write `floor(x + 0.5)`",
    "int": "a float is made an integer by `floor`",
    "bool": "a number is made a mask by a comparison: `x != 0`",
    **{word: f"write `{here}`" for word, here in FOREIGN.items() if word.isalpha()},
}


def how_to_call(name: str, known: Iterable[str]) -> str | None:
    """What to do about a function that nothing defines: its form here, or the nearest name, if there is one."""
    return ELSEWHERE.get(name) or did_you_mean(name, [*known, *FUNCTIONS, "size"])


def how_to_declare(name: str, known: Iterable[str]) -> str:
    """What to do about a name that nothing defines: its spelling here, the nearest one, or where to declare it."""
    if INDICES.get(name, name) != name:
        return f"the {name} of a pair is called `{INDICES[name]}`"
    declared = f"`pattern p({name}: int[token]) {{ ... }}`" if len(name) <= _LONG else "the signature of a `pattern`"
    nearest = ELSEWHERE.get(name) or did_you_mean(name, known)
    return nearest or f"declare it: an input or parameter in {declared}, an axis or segment by `over`"

"""Which keys the queries of a decoding step keep at most: intervals of any length's, found once for a pattern."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskc.diagnostics import MaskcError
from maskc.ir.evaluate import evaluate
from maskc.ir.nodes import TRUE, Lookup, Node, Symbol, postorder
from maskc.ir.ops import conjunction
from maskc.ir.program import Parameter, Program, Space
from maskc.ir.rewrite import mentions
from maskc.passes.rows import Clause, conjuncts, rows
from maskc.passes.specialise import bind as specialise

if TYPE_CHECKING:
    from maskc.backends import Compiled
    from maskc.backends.decoding import Cohort

__all__ = ["KeyBounds", "key_bounds", "key_ranges"]

Ints = npt.NDArray[np.int64]
_BATCH = Symbol("b")
#: Ranges of keys at most that are found without a plan.
MAX_RANGES = 8


@dataclass(frozen=True, eq=False)
class KeyBounds:
    """Intervals that hold all keys a query keeps, for any length: ``lo <= k < hi``, where ``guard`` holds.

    ``exact``: they hold no other keys.
    """

    clauses: tuple[Clause, ...]
    exact: bool
    params: tuple[Parameter, ...] = field(default=())

    def of(self, cohorts: Sequence[Cohort]) -> list[tuple[Ints, Ints]]:
        """For each cohort ``lo`` and ``hi``, (clauses, heads or 1, queries); empty where ``hi <= lo``.

        Cohorts of as many queries are evaluated together, unless their inputs decide.
        """
        alike: dict[int, list[int]] = {}
        for i, cohort in enumerate(cohorts):
            alike.setdefault(i if self._reads_inputs else -cohort.rows, []).append(i)
        found: dict[int, tuple[Ints, Ints]] = {}
        for some in alike.values():
            lo, hi = self._together([cohorts[i] for i in some])
            found.update({i: (lo[:, j], hi[:, j]) for j, i in enumerate(some)})
        return [found[i] for i in range(len(cohorts))]

    @functools.cached_property
    def _reads_inputs(self) -> bool:
        given = {p.name for p in self.params if p.when == "call"}
        nodes = [n for c in self.clauses for n in (c.lo, c.hi, c.residual) if n is not None]
        return any(n is _BATCH or (isinstance(n, Lookup) and n.name in given) for n in postorder(nodes))

    def _together(self, cohorts: Sequence[Cohort]) -> tuple[Ints, Ints]:
        """``lo`` and ``hi``, (clauses, cohorts, heads or 1, queries)."""
        first = cohorts[0]
        binding = first.one()[1] if self._reads_inputs else _Lengths(cohorts)
        end = np.array([[[c.length]] for c in cohorts])
        start = np.array([[[c.start]] for c in cohorts])
        offset = np.array([[[c.offset]] for c in cohorts])
        q = np.arange(first.rows, dtype=np.int64) + offset
        h = np.arange(binding.heads, dtype=np.int64)[:, None]
        b = first.entries[0] if first.call.numbered else 0

        def value(node: Node) -> Any:
            at: Any = binding
            return evaluate(node, at, q=q, k=np.zeros((), np.int64), h=h, b=b, params=self.params)

        lo, hi = [], []
        for clause in self.clauses:
            low = start if clause.lo is None else np.maximum(value(clause.lo), start)
            high = end if clause.hi is None else np.minimum(value(clause.hi), end)
            lo.append(low)
            hi.append(high if clause.residual is TRUE else np.where(value(clause.residual), high, 0))
        heads = max((x.shape[1] for x in (*lo, *hi)), default=1)
        shape = (len(cohorts), heads, q.shape[2])
        empty = np.zeros((0, *shape), np.int64)
        wide = [np.stack([np.broadcast_to(x, shape) for x in side]) if side else empty for side in (lo, hi)]
        return wide[0], wide[1]


class _Lengths:
    """What an expression that reads no input asks of a binding, for several cohorts at once."""

    def __init__(self, cohorts: Sequence[Cohort]) -> None:
        self._cohorts = cohorts
        first = cohorts[0].binding
        self.layer, self.heads, self.args, self.tables = first.layer, first.heads, first.args, first.tables
        self.batched: frozenset[str] = frozenset()

    def size(self, name: str) -> Ints:
        if name in ("q", "k"):
            return np.array([[[c.rows if name == "q" else c.length]] for c in self._cohorts])
        return np.array([[[c.sizes[name]]] for c in self._cohorts])


def key_bounds(compiled: Compiled) -> KeyBounds:
    """The bounds of a compiled pattern; found once."""
    return compiled.remember("key bounds", None, lambda: _key_bounds(compiled))


def _key_bounds(compiled: Compiled) -> KeyBounds:
    program = compiled.program
    bare = Program("mask", program.params, Space(), Space(), False, program.mask)
    known: dict[str, Any] = {"args": compiled.args, "tables": compiled.tables}
    try:
        bound = specialise(bare, layer=compiled.layer, heads=compiled.heads, **known)
    except MaskcError:  # more alternatives than are written out
        return KeyBounds((Clause(None, None, TRUE),), False, bare.params)
    return KeyBounds(*key_ranges(bound.mask), bound.params)


def key_ranges(mask: Node) -> tuple[tuple[Clause, ...], bool]:
    """Clauses, a few, that hold all keys a query keeps, and whether they hold no other keys. Their residuals speak
    of no key. Pass a normalised mask."""
    found, exact = [], True
    for clause in rows(mask):
        parts = conjuncts(clause.residual)
        guards = [p for p in parts if "k" not in mentions([p])[p]]
        exact = exact and len(guards) == len(parts)
        found.append(replace(clause, residual=conjunction(guards) if guards else TRUE))
    return (tuple(found), exact) if len(found) <= MAX_RANGES else ((Clause(None, None, TRUE),), False)

"""Cases for the gallery, and dense formulas to compare with. Nothing here may use maskc."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np

__all__ = [
    "Case",
    "Formula",
    "Here",
    "bools",
    "case",
    "divide",
    "floats",
    "formula",
    "formulas_of",
    "image",
    "ints",
    "neighbours",
    "normals",
    "softmax",
    "video",
]


@dataclass(frozen=True, eq=False)
class Case:
    """What one pattern is applied to. ``values`` are its arguments, tables and inputs; those in
    ``batched`` have the batch in front."""

    q_len: int
    k_len: int
    heads: int
    layer: int
    batch: int
    sizes: Mapping[str, int]
    values: Mapping[str, Any]
    batched: frozenset[str]

    def given(self, **values: Any) -> Case:
        """The case with other values."""
        return replace(self, values={**self.values, **values})


def case(
    q_len: int,
    k_len: int | None = None,
    *,
    heads: int = 1,
    layer: int = 0,
    batch: int = 1,
    sizes: Mapping[str, int] | None = None,
    batched: Iterable[str] = (),
    **values: Any,
) -> Case:
    """A case; as many keys as queries unless ``k_len`` is given."""
    return Case(q_len, q_len if k_len is None else k_len, heads, layer, batch, sizes or {}, values, frozenset(batched))


def image(height: int, width: int, **more: Any) -> Case:
    """Self-attention within an image."""
    return case(height * width, sizes={"y": height, "x": width}, **more)


def video(t: int, y: int, x: int, **more: Any) -> Case:
    """Self-attention within a video."""
    return case(t * y * x, sizes={"t": t, "y": y, "x": x}, **more)


@dataclass(frozen=True, eq=False)
class Here:
    """A case seen from one head and one batch entry: ``here["name"]`` is a value there."""

    case: Case
    h: int
    b: int

    def __getitem__(self, name: str) -> Any:
        value = self.case.values[name]
        return value[self.b] if name in self.case.batched else value

    def get(self, name: str, default: Any) -> Any:
        """The value, or the default that the header of the file gives."""
        return self[name] if name in self.case.values else default

    @property
    def layer(self) -> int:
        return self.case.layer

    @property
    def heads(self) -> int:
        return self.case.heads

    @property
    def nq(self) -> int:
        return self.case.q_len

    @property
    def nk(self) -> int:
        return self.case.k_len

    def size(self, name: str) -> int:
        return self.case.sizes[name]


#: Whether query ``q`` sees key ``k``, as absolute positions.
Sees = Callable[[Here, int, int], bool]
#: The score that becomes of ``s``.
Score = Callable[[Here, float, int, int], float]
#: What becomes of an output element ``o`` of query ``q``.
Output = Callable[[Here, float, int], float]
#: The weights of the keys ``k`` that query ``q`` keeps, whose scaled scores are ``s``.
Weights = Callable[[Here, np.ndarray, int, np.ndarray], np.ndarray]
#: Inputs that are computed from all scaled scores, (batch, heads, q_len, k_len), in a pass before.
Before = Callable[[Case, np.ndarray], Mapping[str, np.ndarray]]


@dataclass(frozen=True, eq=False)
class Formula:
    """The meaning of the pattern ``pattern`` of the file ``path``, written from its description.

    ``cross``: queries and keys are separate sequences, and the first query is at position 0; else the
    last query is the last key. Weights are the softmax of ``score``, or what ``weights`` says, which says both then.
    """

    path: str
    pattern: str
    sees: Sees
    cases: tuple[Case, ...]
    cross: bool = False
    score: Score | None = None
    output: Output | None = None
    weights: Weights | None = None
    before: Before | None = None

    @property
    def key(self) -> str:
        return f"{self.path}::{self.pattern}"

    def offset(self, case: Case) -> int:
        """Absolute position of the first query."""
        return 0 if self.cross else case.k_len - case.q_len

    def dense(self, case: Case, h: int, b: int) -> np.ndarray:
        """The mask, bool (q_len, k_len), one pair at a time."""
        here, first = Here(case, h, b), self.offset(case)
        rows = [[bool(self.sees(here, first + q, k)) for k in range(case.k_len)] for q in range(case.q_len)]
        return np.array(rows, dtype=bool).reshape(case.q_len, case.k_len)

    def attention(self, case: Case, mask: np.ndarray, s: np.ndarray, v: np.ndarray, h: int, b: int) -> np.ndarray:
        """The attention of one head, (q_len, dim), of its scaled scores, one query at a time."""
        here, first, out = Here(case, h, b), self.offset(case), np.zeros((case.q_len, v.shape[1]))
        for i in range(case.q_len):
            kept = np.flatnonzero(mask[i])
            if kept.size:
                out[i] = self._weights(here, s[i, kept], first + i, kept) @ v[kept]
            if self.output:
                out[i] = [self.output(here, o, first + i) for o in out[i]]
        return out

    def _weights(self, here: Here, s: np.ndarray, q: int, k: np.ndarray) -> np.ndarray:
        if self.weights:
            return self.weights(here, s, q, k)
        return softmax([self.score(here, x, q, int(j)) for x, j in zip(s, k, strict=True)] if self.score else s)


def formula(
    path: str,
    *cases: Case,
    pattern: str | None = None,
    cross: bool = False,
    score: Score | None = None,
    output: Output | None = None,
    weights: Weights | None = None,
    before: Before | None = None,
) -> Callable[[Sees], Formula]:
    """Make the decorated function the formula of a pattern, called like the function unless named."""
    return lambda sees: Formula(
        f"{path}.mask", pattern or sees.__name__, sees, cases, cross, score, output, weights, before
    )


def formulas_of(*modules: ModuleType) -> tuple[Formula, ...]:
    """All formulas of some modules, in order."""
    return tuple(f for m in modules for f in vars(m).values() if isinstance(f, Formula))


def ints(seed: int, low: int, high: int, *shape: int) -> np.ndarray:
    """Integers from ``low`` to ``high``, not included."""
    return np.random.default_rng(seed).integers(low, high, size=shape)


def bools(seed: int, *shape: int, p: float = 0.5) -> np.ndarray:
    """True with probability ``p``."""
    return np.random.default_rng(seed).random(shape) < p


def floats(seed: int, *shape: int) -> np.ndarray:
    """Floats from 0.1 to 1.1."""
    return np.random.default_rng(seed).random(shape) + 0.1


def normals(seed: int, *shape: int) -> np.ndarray:
    """Floats of either sign."""
    return np.random.default_rng(seed).normal(size=shape)


def softmax(s: Any) -> np.ndarray:
    """Weights that sum to 1."""
    weights = np.exp(np.asarray(s) - np.max(s))
    return np.asarray(weights / weights.sum())


def divide(position: int, *extents: int) -> tuple[int, ...]:
    """The coordinates of a position in a row-major grid whose extents, but for the first, are given."""
    rest: list[int] = []
    for extent in reversed(extents):
        position, coordinate = divmod(position, extent)
        rest.append(coordinate)
    return (position, *reversed(rest))


def neighbours(n: int, i: int, size: int, step: int = 1, gap: int = 1, causal: bool = False) -> set[int]:
    """The neighbourhood of position ``i`` of ``n``: ``size`` keys that are ``gap`` apart, shared by groups of
    ``step`` queries, around the middle of the group (causal: up to its end), moved inward at the borders."""
    mates = list(range(i % gap, n, gap))
    here = mates.index(i)
    group = mates[here - here % step :][:step]
    if causal:
        last = mates.index(group[-1])
        return {m for m in mates[max(0, last - size + 1) : last + 1] if m <= i}
    middle = mates.index(group[min(step // 2, len(group) - 1)])
    start = middle - size // 2
    start = max(0, min(start, len(mates) - size))
    return set(mates[start : start + size])

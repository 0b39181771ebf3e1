"""Jobs: the rectangles of (query, key) that the CPU computes, each one call of a dense primitive.

A job is a batch of equal blocks at regular distances, so that all of them are one strided view of
the tensors and nothing is copied: the blocks of a sliding window, the documents of a packed
sequence, or a single rectangle. Queries and keys are positions in the laid-out sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["CAUSAL", "Allowance", "Bools", "Ints", "Job", "Line", "Mask", "Schedule", "batch_equal", "order_jobs"]

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_T = TypeVar("_T")
_SMALL = 1 << 16  # masks of up to so many pairs are kept with their job, also in additive form


class Allowance:
    """How many pairs of larger masks may be kept."""

    def __init__(self, pairs: int) -> None:
        self._left = pairs

    def take(self, pairs: int) -> bool:
        """Whether ``pairs`` more may be kept; then they count."""
        if pairs > self._left:
            return False
        self._left -= pairs
        return True


class Line(NamedTuple):
    """Row ``i`` keeps the keys ``start + i`` to ``start + i + width`` (excluded)."""

    start: int
    width: int


class Mask:
    """Which pairs of a job's blocks are kept: bool (blocks or 1, queries, keys).

    ``key`` identifies masks that are the same for every block: jobs whose masks have equal keys
    may be joined into one. None: the mask belongs to one job alone. ``allowance``: such a mask, if
    it is not small, is kept while there is some, else made again for every pass. ``line``: the mask
    as a formula, if it is one.
    """

    def __init__(
        self,
        make: Callable[[], Bools],
        pairs: int,
        key: tuple[int | str, ...] | None = None,
        allowance: Allowance | None = None,
        line: Line | None = None,
    ) -> None:
        self._make = make
        self.line = line
        self._small = pairs <= _SMALL or key is not None
        self._stays = self._small or (allowance is not None and allowance.take(pairs))
        self.key = key
        self._kept: torch.Tensor | None = None
        self._additive: dict[torch.dtype, torch.Tensor] = {}
        self._empty: torch.Tensor | bool | None = None
        self._remembered: dict[object, Any] = {}

    def kept(self) -> torch.Tensor:
        """The mask: True is kept."""
        if self._kept is not None:
            return self._kept
        kept = torch.from_numpy(np.ascontiguousarray(self._make()))
        kept = kept if kept.ndim == 3 else kept[None]
        if self._stays:
            self._kept = kept
        return kept

    def additive(self, dtype: torch.dtype) -> torch.Tensor:
        """0 where the pair is kept, minus infinity elsewhere."""
        found = self._additive.get(dtype)
        if found is None:
            kept = self.kept()
            found = torch.zeros(kept.shape, dtype=dtype).masked_fill_(~kept, -torch.inf)
            if self._small:
                self._additive[dtype] = found
        return found

    def empty_rows(self) -> torch.Tensor | None:
        """Which rows keep no key in this job, bool (blocks or 1, queries); None: no row."""
        if self._empty is None:
            empty = ~self.kept().any(dim=-1)
            self._empty = empty if bool(empty.any()) else False
        return self._empty if isinstance(self._empty, torch.Tensor) else None

    def remember(self, what: object, make: Callable[[], _T]) -> _T:
        """``make()``, made once where the mask is small."""
        if not self._small:
            return make()
        if what not in self._remembered:
            self._remembered[what] = make()
        return cast("_T", self._remembered[what])


_FAR = 1 << 62
#: The mask of a square block in which query ``i`` keeps the keys 0 to ``i``.
CAUSAL = Mask(lambda: np.ones((1, 1, 1), dtype=np.bool_), 1, ("causal",), line=Line(1 - _FAR, _FAR))


@dataclass(frozen=True)
class Job:
    """``count`` blocks of ``q_len`` queries by ``k_len`` keys; block ``i`` starts at query
    ``q_start + i * q_step`` and key ``k_start + i * k_step``. ``mask``: None keeps every pair.
    ``k_runs``: the keys are these ranges one after another instead (of a single block).
    ``fresh``: no earlier job has given a result for any of these queries."""

    q_start: int
    q_len: int
    k_start: int
    k_len: int
    count: int = 1
    q_step: int = 0
    k_step: int = 0
    mask: Mask | None = None
    k_runs: tuple[tuple[int, int], ...] | None = None
    fresh: bool = field(default=False, compare=False)

    @property
    def pairs(self) -> int:
        """Pairs that are computed."""
        full = self.count * self.q_len * self.k_len
        return full // 2 if self.mask is CAUSAL else full

    def queries(self) -> Ints:
        """Laid-out positions of the queries, (count, q_len)."""
        return self.q_start + self.q_step * np.arange(self.count)[:, None] + np.arange(self.q_len)

    def keys(self) -> Ints:
        """Laid-out positions of the keys, (count, k_len)."""
        if self.k_runs is not None:
            return np.concatenate([np.arange(a, b) for a, b in self.k_runs])[None]
        return self.k_start + self.k_step * np.arange(self.count)[:, None] + np.arange(self.k_len)


@dataclass(frozen=True)
class Schedule:
    """The jobs of heads and batch entries that share a mask. ``covered``: every query has a fresh job."""

    heads: tuple[int, ...]
    batches: tuple[int, ...]
    jobs: tuple[Job, ...]
    covered: bool


def batch_equal(jobs: Iterable[Job]) -> list[Job]:
    """``jobs`` with equal blocks at regular distances joined into one."""
    kinds: dict[tuple[object, ...], list[Job]] = {}
    for i, job in enumerate(jobs):
        key = job.mask.key if job.mask is not None else "full"
        alone = job.count > 1 or job.k_runs is not None or key is None
        kinds.setdefault((i,) if alone else (job.q_len, job.k_len, key), []).append(job)
    return [joined for kind in kinds.values() for joined in _join(kind)]


def _join(jobs: list[Job]) -> list[Job]:
    out: list[Job] = []
    for job in sorted(jobs, key=lambda j: j.q_start):
        last = out[-1] if out else None
        if last is not None:
            q_step, k_step = job.q_start - last.q_start, job.k_start - last.k_start
            if last.count > 1:
                q_step, k_step = q_step - (last.count - 1) * last.q_step, k_step - (last.count - 1) * last.k_step
            regular = last.count == 1 or (q_step, k_step) == (last.q_step, last.k_step)
            if regular and q_step >= job.q_len and (k_step >= job.k_len or k_step == 0 or 2 * k_step >= job.k_len):
                out[-1] = replace(last, count=last.count + 1, q_step=q_step, k_step=k_step)
                continue
        out.append(job)
    return out


def order_jobs(jobs: Iterable[Job], q_len: int) -> tuple[tuple[Job, ...], bool]:
    """The jobs in the order of execution with ``fresh`` set, and whether fresh jobs cover every query."""
    met, covered = np.zeros((2, q_len), dtype=np.bool_)
    out = []
    for job in sorted(jobs, key=lambda j: -j.count * j.q_len):
        queries = job.queries().ravel()
        fresh = not met[queries].any()
        if fresh:
            covered[queries] = True
        met[queries] = True  # Also by a job that is merged: a later one must not write over its result.
        out.append(replace(job, fresh=fresh))
    return tuple(out), bool(covered.all())

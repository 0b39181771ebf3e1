"""Views of tensors as the blocks of a job, and sums back into them. Nothing is copied but gathered keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from maskc.backends.cpu.jobs import Job

__all__ = ["Block", "Given", "Gradients", "Pick", "add_at", "add_spaced", "gather_runs", "pick", "scatter_runs"]
__all__ += ["spaced", "split", "take"]

Tensor = torch.Tensor
#: A choice of heads or batch entries: all (None), a slice (a view), or indices (a copy).
Pick = slice | Tensor | None
Runs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Given:
    """What a backward pass is given: queries (B, H, Nq, D), keys, values, the gradient of the output, and
    (B, H, Nq, 1): ``lse`` over all keys of the row in powers of two (0 if there is none), and ``delta``, the
    product of output and its gradient less the gradient of the log-sum-exp. ``out``: the output, where
    ``delta`` is that product and nothing else."""

    q: Tensor
    k: Tensor
    v: Tensor
    grad: Tensor
    lse: Tensor
    delta: Tensor
    out: Tensor | None = None


@dataclass(frozen=True)
class Gradients:
    """Gradients of queries, keys and values, to which is added."""

    q: Tensor
    k: Tensor
    v: Tensor


@dataclass(frozen=True)
class Block:
    """Blocks ``first`` to ``last`` (excluded) of a job, as one call of a dense primitive sees them.

    Tensors are (B, H, N, D). With ``batch`` None there is a single block, and the leading dimension
    of all views is that of the batch; else the leading dimension is that of the blocks, and the
    batch entry is ``batch``.
    """

    job: Job
    first: int
    last: int
    batch: int | None = None

    @property
    def count(self) -> int:
        return self.last - self.first

    def queries(self, x: Tensor) -> Tensor:
        """View of (B, H, Nq, D) as (leading, H, q_len, D)."""
        job = self.job
        return self._view(x, job.q_start, job.q_step, job.q_len)

    def keys(self, x: Tensor) -> Tensor:
        """View, or with ``k_runs`` a copy, of (B, H, Nk, D) as (leading, H, k_len, D)."""
        job = self.job
        if job.k_runs is not None:
            return gather_runs(x, job.k_runs)
        return self._view(x, job.k_start, job.k_step, job.k_len)

    def add_to_queries(self, x: Tensor, g: Tensor) -> None:
        """Add (leading, H, q_len, D) at its place in (B, H, Nq, D), also where blocks overlap."""
        self._add(x, self.job.q_start, self.job.q_step, g)

    def add_to_keys(self, x: Tensor, g: Tensor) -> None:
        """Add (leading, H, k_len, D) at its place in (B, H, Nk, D), also where blocks overlap."""
        if self.job.k_runs is not None:
            scatter_runs(x, self.job.k_runs, g)
        else:
            self._add(x, self.job.k_start, self.job.k_step, g)

    def of_mask(self, mask: Tensor) -> Tensor:
        """The part of a mask (blocks or 1, queries, ...) for these blocks, or of one for all."""
        return mask if mask.shape[0] == 1 else mask[self.first : self.last]

    def _view(self, x: Tensor, start: int, step: int, length: int) -> Tensor:
        at = start + self.first * step
        return x.narrow(2, at, length) if self.batch is None else spaced(x[self.batch], at, step, self.count, length)

    def _add(self, x: Tensor, start: int, step: int, g: Tensor) -> None:
        at = start + self.first * step
        if self.batch is None:
            x.narrow(2, at, g.shape[2]).add_(g)
        else:
            add_spaced(x[self.batch], at, step, g)


def spaced(x: Tensor, start: int, step: int, count: int, length: int) -> Tensor:
    """View of (..., N, D) as (count, ..., length, D): ``count`` stretches of tokens, ``step`` apart."""
    *outer, tokens, inner = x.stride()
    shape = (count, *x.shape[:-2], length, x.shape[-1])
    return x.as_strided(shape, (step * tokens, *outer, tokens, inner), x.storage_offset() + start * tokens)


def add_spaced(x: Tensor, start: int, step: int, part: Tensor, factor: float = 1.0) -> None:
    """Add ``factor`` times (count, ..., length, D) to the stretches of ``spaced``, also where they overlap."""
    length = part.shape[-2]
    if step == 0:
        x.narrow(-2, start, length).add_(part.sum(dim=0), alpha=factor)
        return
    for a in range(0, length, step):  # pieces as long as the step do not overlap one another
        n = min(step, length - a)
        spaced(x, start + a, step, len(part), n).add_(part.narrow(-2, a, n), alpha=factor)


def gather_runs(x: Tensor, runs: Runs) -> Tensor:
    """The tokens of some ranges of (B, H, N, D), one after another."""
    return torch.cat([x[:, :, a:b] for a, b in runs], dim=2)


def scatter_runs(x: Tensor, runs: Runs, g: Tensor) -> None:
    """Add to (B, H, N, D) at the places that ``gather_runs`` took."""
    at = 0
    for a, b in runs:
        x[:, :, a:b].add_(g[:, :, at : at + b - a])
        at += b - a


def split(job: Job, batch: int, most: int) -> Iterator[Block]:
    """The job as calls of at most ``most`` blocks each (one at least), for ``batch`` batch entries."""
    if job.count == 1 or most <= 1 or batch > min(job.count, most):
        for i in range(job.count):
            yield Block(job, i, i + 1)
        return
    for b in range(batch):
        for i in range(0, job.count, most):
            yield Block(job, i, min(i + most, job.count), b)


def pick(indices: tuple[int, ...], total: int) -> Pick:
    """How to select ``indices`` of a dimension of ``total`` entries, as a view if possible."""
    if indices == tuple(range(total)):
        return None
    step = indices[1] - indices[0] if len(indices) > 1 else 1
    if step > 0 and indices == tuple(range(indices[0], indices[-1] + 1, step)):
        return slice(indices[0], indices[-1] + 1, step)
    return torch.tensor(indices)


def take(x: Tensor, dim: int, which: Pick) -> Tensor:
    """The chosen entries of ``x`` along ``dim``."""
    if which is None:
        return x
    if isinstance(which, slice):
        return x[(slice(None),) * dim + (which,)]
    return x.index_select(dim, which)


def add_at(x: Tensor, dim: int, which: Pick, g: Tensor) -> None:
    """Add ``g`` to the chosen entries of ``x`` along ``dim``."""
    if isinstance(which, torch.Tensor):
        x.index_add_(dim, which, g)
    else:
        take(x, dim, which).add_(g)

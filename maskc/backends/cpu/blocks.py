"""Views of tensors as the blocks of a job, and sums back into them. Nothing is copied but gathered keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from maskc.backends.cpu.jobs import Job

__all__ = ["Block", "Pick", "add_at", "pick", "split"]

Tensor = torch.Tensor
#: A choice of heads or batch entries: all (None), a slice (a view), or indices (a copy).
Pick = slice | Tensor | None


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
            return torch.cat([x[:, :, a:b] for a, b in job.k_runs], dim=2)
        return self._view(x, job.k_start, job.k_step, job.k_len)

    def add_to_keys(self, x: Tensor, g: Tensor) -> None:
        """Add (leading, H, k_len, D) at its place in (B, H, Nk, D), also where blocks overlap."""
        job = self.job
        if job.k_runs is not None:
            at = 0
            for a, b in job.k_runs:
                x[:, :, a:b].add_(g[:, :, at : at + b - a])
                at += b - a
        elif self.batch is None or job.k_step >= job.k_len:
            self.keys(x).add_(g)
        elif job.k_step == 0:
            x[self.batch, :, job.k_start : job.k_start + job.k_len].add_(g.sum(dim=0))
        else:
            # Pieces as long as the step do not overlap one another.
            for a in range(0, job.k_len, job.k_step):
                n = min(job.k_step, job.k_len - a)
                self._view(x, job.k_start + a, job.k_step, n).add_(g[:, :, a : a + n])

    def of_mask(self, mask: Tensor) -> Tensor:
        """The part of a mask (blocks or 1, queries, ...) for these blocks, or of one for all."""
        return mask if mask.shape[0] == 1 else mask[self.first : self.last]

    def _view(self, x: Tensor, start: int, step: int, length: int) -> Tensor:
        at = start + self.first * step
        if self.batch is None:
            return x.narrow(2, at, length)
        x = x[self.batch]
        heads, tokens, inner = x.stride()
        shape = (self.count, x.shape[0], length, x.shape[2])
        return x.as_strided(shape, (step * tokens, heads, tokens, inner), x.storage_offset() + at * tokens)


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

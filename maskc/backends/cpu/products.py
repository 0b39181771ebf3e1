"""Gradients of plain softmax attention as batched matrix products, in tiles that stay in the cache.

A tile is a strip of keys by the queries that keep them. Its five products write into memory that
all tiles share, so that none is asked for but that of the gradients themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from maskc.backends.cpu.blocks import Given, Gradients, gather_runs, scatter_runs
from maskc.backends.cpu.jobs import Job
from maskc.backends.cpu.strips import Strip, strips

__all__ = ["LOG2_E", "add_gradients"]

Tensor = torch.Tensor
LOG2_E = math.log2(math.e)
_ROWS = 1024  # most queries of a tile
_PAIRS = 1 << 19  # of all the blocks or heads that are computed at once


def add_gradients(job: Job, given: Given, into: Gradients, scale: float) -> None:
    """Add a job's part of the gradients of ``softmax(scale * q @ k.T) @ v`` to ``into``."""
    if job.k_runs is not None:
        k, v = (gather_runs(x, job.k_runs) for x in (given.k, given.v))
        part = Gradients(into.q, torch.zeros_like(k), torch.zeros_like(v))
        add_gradients(replace(job, k_start=0, k_runs=None), replace(given, k=k, v=v), part, scale)
        scatter_runs(into.k, job.k_runs, part.k)
        scatter_runs(into.v, job.k_runs, part.v)
        return
    size = _strip_keys(job)
    cut = strips(job, size, given.q.dtype)
    rows = min(_ROWS, max((s.q_last - s.q_first for s in cut), default=0))
    memory = _Memory(given.q)
    for batch in _batches(job, given, max(1, _PAIRS // max(1, size * rows))):
        step = max(128, min(_ROWS, _PAIRS // (batch.count * size)))
        for strip in cut:
            for a in range(strip.q_first, strip.q_last, step):
                _tile(batch, strip, a, min(a + step, strip.q_last), given, into, scale, memory)


def _strip_keys(job: Job) -> int:
    """Keys of a strip: few where a mask slants, so that little beside it is computed."""
    line = None if job.mask is None else job.mask.line
    return 128 if line is None else 64 if line.width > 192 else 32


def _tile(
    batch: _Batch, strip: Strip, first: int, last: int, given: Given, into: Gradients, scale: float, memory: _Memory
) -> None:
    """A strip's keys by the rows ``first`` to ``last`` (excluded)."""
    at, keys, rows, count = strip.k_first, strip.k_last - strip.k_first, last - first, batch.count
    of_queries, of_keys = batch.queries, batch.keys
    q, grad = of_queries.view(given.q, count, first, rows), of_queries.view(given.grad, count, first, rows)
    k, v = of_keys.view(given.k, count, at, keys), of_keys.view(given.v, count, at, keys)
    level, delta = (of_queries.repeated(x, count, first, rows, keys) for x in (given.lse, given.delta))
    # In powers of two: torch's exp takes twice as long as its exp2, and four times as long for minus infinity.
    weight = torch.baddbmm(level, k, q.mT, beta=-1, alpha=scale * LOG2_E, out=memory.take(0, count, keys, rows))
    for edge in strip.edges:
        a, b = max(edge.first, first), min(edge.last, last)
        if a < b:
            weight[:, :, a - first : b - first].add_(batch.of_mask(edge.added)[:, :, a - edge.first : b - edge.first])
    weight.exp2_()
    slope = torch.baddbmm(delta, v, grad.mT, beta=-1, out=memory.take(1, count, keys, rows)).mul_(weight)
    of_keys.add(into.v, at, torch.bmm(weight, grad, out=memory.take(2, count, keys, grad.shape[2])), 1.0)
    of_keys.add(into.k, at, torch.bmm(slope, q, out=memory.take(2, count, keys, q.shape[2])), scale)
    of_queries.add(into.q, first, torch.bmm(slope.mT, k, out=memory.take(2, count, rows, q.shape[2])), scale)


class _Memory:
    """Memory for the results of products, one piece for each place, as large as was ever needed."""

    def __init__(self, like: Tensor) -> None:
        self._held = [like.new_empty(0) for _ in range(3)]
        self._views: dict[tuple[int, ...], Tensor] = {}

    def take(self, *where: int) -> Tensor:
        """A tensor of the shape ``where[1:]`` at the place ``where[0]``."""
        found = self._views.get(where)
        if found is None:
            place, *shape = where
            if self._held[place].numel() < math.prod(shape):
                self._held[place] = self._held[place].new_empty(math.prod(shape))
                self._views = {key: view for key, view in self._views.items() if key[0] != place}
            found = self._views[where] = self._held[place][: math.prod(shape)].view(shape)
        return found


@dataclass(frozen=True)
class _Side:
    """Where the queries or the keys of a batch of matrices lie in (B, H, N, D): the first matrix in batch entry
    ``entry``, at head ``head`` and token ``start``; ``heads`` and ``tokens`` lie between one and the next."""

    entry: int
    head: int
    start: int
    heads: int
    tokens: int

    def view(self, x: Tensor, count: int, first: int, length: int) -> Tensor:
        """Tokens ``first`` and on of ``count`` matrices: (count, length, D)."""
        entry, head, token, inner = x.stride()
        at = x.storage_offset() + entry * self.entry + head * self.head + token * (self.start + first)
        return x.as_strided((count, length, x.shape[3]), (head * self.heads + token * self.tokens, token, inner), at)

    def repeated(self, x: Tensor, count: int, first: int, length: int, times: int) -> Tensor:
        """Of (B, H, N, 1): (count, times, length)."""
        entry, head, token, _ = x.stride()
        at = x.storage_offset() + entry * self.entry + head * self.head + token * (self.start + first)
        return x.as_strided((count, times, length), (head * self.heads + token * self.tokens, 0, token), at)

    def add(self, x: Tensor, first: int, part: Tensor, factor: float) -> None:
        """Add ``factor`` times ``part`` at its place, also where matrices overlap."""
        count, length, _ = part.shape
        if count == 1 or self.heads or self.tokens >= length:
            self.view(x, count, first, length).add_(part, alpha=factor)
        elif self.tokens == 0:
            self.view(x, 1, first, length).add_(part.sum(dim=0), alpha=factor)
        else:
            for a in range(0, length, self.tokens):  # pieces as long as the step do not overlap one another
                n = min(self.tokens, length - a)
                self.view(x, count, first + a, n).add_(part[:, a : a + n], alpha=factor)


@dataclass(frozen=True)
class _Batch:
    """``count`` pairs of a matrix of queries and one of keys; ``blocks``: whose blocks of the job they are."""

    count: int
    queries: _Side
    keys: _Side
    blocks: slice

    def of_mask(self, mask: Tensor) -> Tensor:
        """The part of a mask (blocks or 1, ...)."""
        return mask if mask.shape[0] == 1 else mask[self.blocks]


def _batches(job: Job, given: Given, most: int) -> Iterator[_Batch]:
    """The job as batches of matrices: along the blocks, ``most`` at once, or along the heads if those are more."""
    entries, heads, k_heads = given.q.shape[0], given.q.shape[1], given.k.shape[1]
    group = heads // k_heads
    for b in range(entries):
        if job.count > k_heads:
            for i in range(0, job.count, most):
                count = min(most, job.count - i)
                for h in range(heads):
                    q_side = _Side(b, h, job.q_start + i * job.q_step, 0, job.q_step)
                    k_side = _Side(b, h // group, job.k_start + i * job.k_step, 0, job.k_step)
                    yield _Batch(count, q_side, k_side, slice(i, i + count))
        else:
            for i in range(job.count):
                for h in range(group):
                    q_side = _Side(b, h, job.q_start + i * job.q_step, group, 0)
                    k_side = _Side(b, 0, job.k_start + i * job.k_step, 1, 0)
                    yield _Batch(k_heads, q_side, k_side, slice(i, i + 1))

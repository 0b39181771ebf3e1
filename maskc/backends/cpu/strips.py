"""Strips: a job's keys in small ranges, each with the queries that may keep one of them.

Cutting a job along its keys leaves out most of what a slanting mask does not keep, and says where
within a strip the mask has still to be applied: at the edges of the slant, a square each.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from maskc.backends.cpu.jobs import Job, Line, Mask

__all__ = ["Edge", "Strip", "strips"]

Tensor = torch.Tensor


@dataclass(frozen=True)
class Edge:
    """``added`` (blocks or 1, keys, rows): 0 or minus infinity, for the rows from ``first`` on."""

    first: int
    added: Tensor

    @property
    def last(self) -> int:
        return self.first + self.added.shape[2]


@dataclass(frozen=True)
class Strip:
    """Keys ``k_first`` to ``k_last`` (excluded) of a job's blocks, and the queries that keep some of them: all
    of them but where ``edges`` says otherwise. Counted from the start of a block."""

    k_first: int
    k_last: int
    q_first: int
    q_last: int
    edges: tuple[Edge, ...] = ()


def strips(job: Job, keys: int, dtype: torch.dtype) -> list[Strip]:
    """The job in strips of ``keys`` keys; those that no query keeps are left out."""
    mask = job.mask
    ranges = [(a, min(a + keys, job.k_len)) for a in range(0, job.k_len, keys)]
    if mask is None:
        return [Strip(a, b, 0, job.q_len) for a, b in ranges]
    if mask.line is not None:
        return [s for a, b in ranges for s in _of_line(mask.line, a, b, job.q_len, dtype)]
    return mask.remember((keys, dtype), lambda: [s for a, b in ranges for s in _of_mask(mask, a, b, dtype)])


def _of_line(line: Line, a: int, b: int, rows: int, dtype: torch.dtype) -> Iterator[Strip]:
    """Row ``i`` keeps ``line.start + i <= k < line.start + i + line.width``."""
    first, last = max(0, a - line.start - line.width + 1), min(rows, b - line.start)
    if first >= last:
        return
    whole, past = b - line.start - line.width, a - line.start + 1  # rows between keep every key of the strip
    cuts = [(first, last)] if whole >= past else [(first, min(whole, last)), (max(past, first), last)]
    edges = [Edge(x, _edge(x - a + line.start, y - x, b - a, line.width, dtype)) for x, y in cuts if x < y]
    yield Strip(a, b, first, last, tuple(edges))


@functools.lru_cache(maxsize=256)
def _edge(first: int, rows: int, keys: int, width: int, dtype: torch.dtype) -> Tensor:
    """(1, keys, rows): row ``i`` keeps the keys ``first + i`` to ``first + i + width`` (excluded)."""
    distance = torch.arange(keys)[:, None] - torch.arange(first, first + rows)[None, :]
    kept = (distance >= 0) & (distance < width)
    return torch.zeros(1, keys, rows, dtype=dtype).masked_fill_(~kept, -torch.inf)


def _of_mask(mask: Mask, a: int, b: int, dtype: torch.dtype) -> Iterator[Strip]:
    kept = mask.kept()[:, :, a:b]
    live = kept.any(dim=2).any(dim=0).nonzero()
    if len(live) == 0:
        return
    first, last = int(live[0]), int(live[-1]) + 1
    part = (~kept[:, first:last].all(dim=2).all(dim=0)).nonzero().flatten() + first
    edges = tuple(_masked(kept, x, y, dtype) for x, y in _runs(part))
    yield Strip(a, b, first, last, edges)


def _runs(rows: Tensor) -> Iterator[tuple[int, int]]:
    """The ends of ascending ``rows``, in two ranges if a gap lies between."""
    if len(rows) == 0:
        return
    gap = int((rows[1:] - rows[:-1]).argmax()) if len(rows) > 1 else 0
    low, high = int(rows[0]), int(rows[-1]) + 1
    if len(rows) > 1 and int(rows[gap + 1] - rows[gap]) > 1:
        yield low, int(rows[gap]) + 1
        low = int(rows[gap + 1])
    yield low, high


def _masked(kept: Tensor, first: int, last: int, dtype: torch.dtype) -> Edge:
    hidden = ~kept[:, first:last].transpose(1, 2)
    return Edge(first, torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -torch.inf))

"""Decoding on the CPU: every cohort of batch entries over views of its live keys, or copies of these alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch

from maskc.backends.cpu.blocks import pick, take
from maskc.backends.cpu.entry import add_sink, finite, same_width
from maskc.backends.cpu.execute import attend
from maskc.backends.cpu.expressions import Expressions
from maskc.backends.cpu.intervals import interval_jobs
from maskc.backends.cpu.jobs import Ints, Job, Schedule, batch_equal, order_jobs
from maskc.backends.cpu.kernels import FlashKernel, GeneralKernel, Kernel
from maskc.backends.cpu.tiles import schedule
from maskc.backends.decoding import Cohort, DecodeCall, KeyBounds, check_pages, key_bounds
from maskc.tiles.intervals import merged

__all__ = ["decode"]

Tensor = torch.Tensor
_K_TILE = 32  # keys a tile where the mask has to be planned: few queries, so that finer costs nothing
_FEW_RANGES = 16  # of pages, that are copied whole; more are copied key by key


def decode(call: DecodeCall) -> tuple[Tensor, Tensor]:
    """Output (B, Hq, Nq, Dv) in the dtype of ``q``, and log-sum-exp (B, Hq, Nq). Raises E504 before it computes."""
    bounds = key_bounds(call.compiled)
    parts = [_Part(c, _schedules(c, bounds)) for c in call.cohorts()]
    q = call.q
    batch, heads, rows, _ = q.shape
    precise = torch.float64 if q.dtype == torch.float64 else torch.float32
    out = q.new_zeros((batch, rows, heads, call.v.shape[-1])).transpose(1, 2)
    lse = q.new_full((batch, heads, rows), -torch.inf, dtype=precise)
    keys = [(part.keys(call.k), part.keys(call.v)) for part in parts]
    for part, (k, v) in zip(parts, keys, strict=True):
        entries, first = list(part.cohort.entries), rows - part.cohort.binding.q_len
        out[entries, :, first:], lse[entries, :, first:] = part.attend(q[entries, :, first:], k, v)
    return out, lse


def _schedules(cohort: Cohort, bounds: KeyBounds) -> tuple[Schedule, ...]:
    """The jobs of every group of heads, in absolute positions of keys."""
    binding, entries = cohort.binding, tuple(range(len(cohort.entries)))
    if not bounds.exact:
        from maskc.tiles import make_plan

        plan = make_plan(*cohort.one(), k_tile=_K_TILE)
        return tuple(replace(s, batches=entries) for s in schedule(plan)[0])
    lo, hi = bounds.of(cohort)
    groups: dict[bytes, list[int]] = {}
    for head in range(lo.shape[1]):
        groups.setdefault(lo[:, head].tobytes() + hi[:, head].tobytes(), []).append(head)
    found = []
    for group in groups.values():
        pairs = list(zip(lo[:, group[0]], hi[:, group[0]], strict=True))
        jobs = batch_equal(interval_jobs(*merged(pairs, binding.k_len)))
        heads = tuple(group) if lo.shape[1] > 1 else tuple(range(binding.heads))
        found.append(Schedule(heads, entries, *order_jobs(jobs, binding.q_len)))
    return tuple(found)


@dataclass(frozen=True)
class _Positions:
    """Absolute positions of the keys of a view that starts at ``start``."""

    start: int

    def __getitem__(self, at: Ints) -> Ints:
        return at + self.start


class _Part:
    """One cohort: its jobs, and which keys they need."""

    def __init__(self, cohort: Cohort, schedules: tuple[Schedule, ...]) -> None:
        self.cohort, self.call = cohort, cohort.call
        self.schedules = schedules
        self.dtype = torch.float64 if self.call.q.dtype == torch.float64 else torch.float32
        self.ranges = _union([r for s in schedules for job in s.jobs for r in _key_ranges(job)])
        program = cohort.program
        self.softmax = program.normalizer.kind == "softmax"
        queries = np.arange(cohort.binding.q_len) + cohort.binding.offset
        floats = {name: x.to(self.dtype) for name, x in cohort.floats.items()}
        self.viewed = self._can_view()
        self.expressions = Expressions(program, cohort.binding, floats, (queries, self._positions()))
        self.flash = self.softmax and self.expressions.plain_score
        self.jobs = tuple(replace(s, jobs=tuple(self._moved(j) for j in s.jobs)) for s in schedules)
        if self.call.block_table is not None:
            self._check_pages(self.call.block_table)

    def _can_view(self) -> bool:
        """Whether jobs may read the cache itself: no page, and nothing to convert."""
        call = self.call
        which = pick(self.cohort.entries, call.q.shape[0])
        plain = all(x.dtype == self.dtype and x.stride(-1) == 1 for x in (call.k, call.v))
        same = call.k.shape[-1] == call.v.shape[-1]
        return call.block_table is None and plain and same and not isinstance(which, Tensor)

    def _positions(self) -> Ints:
        if self.viewed:
            return cast("Ints", _Positions(self.cohort.start))
        return np.concatenate([np.arange(0), *(np.arange(a, b) for a, b in self.ranges)])

    def _moved(self, job: Job) -> Job:
        """The job in positions of the keys as ``keys`` gives them."""
        if job.k_runs is not None:
            runs = tuple((self._place(a), self._place(a) + b - a) for a, b in job.k_runs)
            return replace(job, k_start=runs[0][0], k_runs=runs)
        return replace(job, k_start=self._place(job.k_start))

    def _place(self, position: int) -> int:
        if self.viewed:
            return position - self.cohort.start
        before = 0
        for a, b in self.ranges:
            if position < b:
                break
            before += b - a
        return before + position - a

    def _check_pages(self, table: Tensor) -> None:
        size = self.call.block_size
        for entry in self.cohort.entries:
            row = table[entry].numpy()
            for a, b in self._in_cache():
                check_pages(self.call, entry, row[a // size : -(-b // size)])

    def _in_cache(self) -> list[tuple[int, int]]:
        start = self.cohort.start
        return [(a - start, b - start) for a, b in self.ranges]

    def keys(self, cache: Tensor) -> Tensor:
        """The keys (or values) that jobs read, (entries, Hkv, N, D), in the dtype of the computation."""
        call, ranges, entries = self.call, self._in_cache(), self.cohort.entries
        which = pick(entries, call.q.shape[0])
        if self.viewed:
            return take(cache, 0, which)
        if not ranges:
            return cache.new_zeros((len(entries), call.kv_heads, 0, cache.shape[3]), dtype=self.dtype)
        if call.block_table is None:
            parts = [take(cache[:, :, a:b], 0, which) for a, b in ranges]
            found = _joined(parts, dim=2)
        else:
            found = self._from_pages(cache, take(call.block_table, 0, which).long(), ranges)
        found = found.to(self.dtype)
        return found if found.stride(-1) == 1 else found.contiguous()

    def _from_pages(self, cache: Tensor, table: Tensor, ranges: Sequence[tuple[int, int]]) -> Tensor:
        size, entries = self.call.block_size, len(self.cohort.entries)
        if len(ranges) > _FEW_RANGES:
            at = torch.cat([torch.arange(a, b) for a, b in ranges])
            return cache[table[:, at // size], at % size].transpose(1, 2)
        parts = []
        for a, b in ranges:
            first = a // size
            pages = table[:, first : -(-b // size)]
            rows = cache.index_select(0, pages.flatten()).view(entries, -1, *cache.shape[2:])
            parts.append(rows[:, a - first * size : b - first * size])
        return _joined(parts, dim=1).transpose(1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Output (entries, Hq, rows, Dv) in the dtype of ``q`` and log-sum-exp; with care where needed."""
        query = q.to(self.dtype)
        out, lse = self._attend(query, k, v, careful=False)
        if not finite(out):
            out, lse = self._attend(query, k, v, careful=True)
        out, lse = add_sink(out, lse, self.expressions.sink(self.dtype))
        if not self.softmax:
            lse = torch.zeros_like(lse)
        return self.expressions.output(out).to(q.dtype), lse

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, careful: bool) -> tuple[Tensor, Tensor]:
        width, flash = v.shape[3], self.flash and not careful
        if flash:
            q, k, v = same_width(q, k, v)

        def make(one: Schedule) -> Kernel:
            if flash:
                return FlashKernel(self.call.scale)
            return GeneralKernel(self.call.scale, self.expressions, one.heads, one.batches, {}, careful)

        out, lse = attend(self.jobs, make, q, k, v, not self.softmax)
        return out[..., :width], lse


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=dim)


def _key_ranges(job: Job) -> list[tuple[int, int]]:
    if job.k_runs is not None:
        return list(job.k_runs)
    return [(job.k_start, job.k_start + (job.count - 1) * job.k_step + job.k_len)]


def _union(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Disjoint ranges that do not touch, in order."""
    found: list[tuple[int, int]] = []
    for a, b in sorted(ranges):
        if found and a <= found[-1][1]:
            found[-1] = (found[-1][0], max(b, found[-1][1]))
        else:
            found.append((a, b))
    return found

"""Decoding on the CPU: entries over views of their live keys, or copies of these alone; together where that pays."""

from __future__ import annotations

import functools
import itertools
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch

from maskc.backends.cpu.blocks import pick, take
from maskc.backends.cpu.entry import add_sink, dense, finite, same_width
from maskc.backends.cpu.execute import attend
from maskc.backends.cpu.expressions import Expressions
from maskc.backends.cpu.intervals import interval_jobs
from maskc.backends.cpu.jobs import Ints, Job, Schedule, batch_equal, order_jobs
from maskc.backends.cpu.kernels import FlashKernel, GeneralKernel, Kernel
from maskc.backends.cpu.tiles import schedule
from maskc.backends.cpu.together import Group, Live, can_share, copies, union, views
from maskc.backends.decoding import Cohort, DecodeCall, check_kept_pages
from maskc.backends.keybounds import key_bounds
from maskc.tiles.intervals import merged

__all__ = ["decode"]

Tensor = torch.Tensor
_Q_TILE = 128
_K_TILE = 32  # keys a tile where the mask has to be planned: few queries, so that finer costs nothing
_LITTLE = 1 << 22  # bytes of keys that several cohorts rather copy, to be computed together


def decode(call: DecodeCall) -> tuple[Tensor, Tensor]:
    """Output (B, Hq, Nq, Dv) in the dtype of ``q``, and log-sum-exp (B, Hq, Nq). Raises E504 before it computes."""
    q = call.q
    batch, heads, rows, _ = q.shape
    precise = torch.float64 if q.dtype == torch.float64 else torch.float32
    out = q.new_zeros((batch, rows, heads, call.v.shape[-1])).transpose(1, 2)
    lse = q.new_full((batch, heads, rows), -torch.inf, dtype=precise)
    bounds, cohorts = key_bounds(call.compiled), list(call.cohorts())
    if not bounds.exact:
        _compute(_planned(cohorts), out, lse)
        return out, lse
    ranges = bounds.of(cohorts)
    left, copied = {entry for cohort in cohorts for entry in cohort.entries}, list[Group]()
    if can_share(call, ranges):
        live = Live(call, cohorts, ranges)
        left = {entry for entry in left if live.spans[entry]}  # the others keep nothing
        left -= _put(views(call, live), out, lse)
        copied = list(copies(call, live, left))
    apart = left.difference(*(group.entries for group in copied))
    parts = _parts_of(cohorts, ranges, apart)  # which looks at the pages of all that are left before any is read
    left = left - apart - _put(copied, out, lse)
    _compute([*parts, *_parts_of(cohorts, ranges, left)], out, lse)
    return out, lse


def _put(groups: Iterable[Group], out: Tensor, lse: Tensor) -> set[int]:
    """Write the results of groups to their places; the entries that are done."""
    return {entry for group in groups if group.put(out, lse) for entry in group.entries}


def _compute(parts: list[_Part], out: Tensor, lse: Tensor) -> None:
    """Write the results of parts to their places."""
    for some in _alike(parts):
        call = some[0].call
        # Views where there are some: looking entries up in a list takes as long as attention over a short one.
        which = pick(tuple([e for part in some for e in part.cohort.entries]), len(out))
        entries = slice(None) if which is None else which
        first = out.shape[2] - some[0].cohort.rows
        k, v = (_joined([part.keys(x) for part in some], dim=0) for x in (call.k, call.v))
        out[entries, :, first:], lse[entries, :, first:] = some[0].attend(call.q[entries, :, first:], k, v)


def _parts_of(cohorts: list[Cohort], ranges: list[tuple[Ints, Ints]], entries: set[int]) -> list[_Part]:
    """The parts of some entries."""
    found = []
    for cohort, (lo, hi) in zip(cohorts, ranges, strict=True):
        some = tuple([entry for entry in cohort.entries if entry in entries])
        if some:
            part = cohort.only(some)
            found.append(_Part(part, _solved(part, lo, hi), len(cohorts) > 1))
    return found


def _planned(cohorts: list[Cohort]) -> list[_Part]:
    """The parts of masks whose tiles have to be looked for."""
    from maskc.tiles import make_plan

    found = []
    for cohort in cohorts:
        entries = tuple(range(len(cohort.entries)))
        # No more queries a tile than there are: partial tiles are evaluated whole.
        q_tile = min(_Q_TILE, max(1, cohort.binding.q_len))
        plan = make_plan(*cohort.one(), q_tile=q_tile, k_tile=_K_TILE, budget=cohort.call.compiled.budget)
        found.append(_Part(cohort, tuple(replace(s, batches=entries) for s in schedule(plan)[0]), len(cohorts) > 1))
    return found


def _solved(cohort: Cohort, lo: Ints, hi: Ints) -> tuple[Schedule, ...]:
    """The jobs of every group of heads with the same intervals ``lo <= k < hi``, (intervals, heads or 1, queries)."""
    entries = tuple(range(len(cohort.entries)))
    if lo.shape[1] == 1:
        return (Schedule(tuple(range(cohort.binding.heads)), entries, *_jobs(lo[:, 0], hi[:, 0])),)
    groups: dict[bytes, list[int]] = {}
    for head in range(lo.shape[1]):
        groups.setdefault(lo[:, head].tobytes() + hi[:, head].tobytes(), []).append(head)
    return tuple(Schedule(tuple(g), entries, *_jobs(lo[:, g[0]], hi[:, g[0]])) for g in groups.values())


def _jobs(lo: Ints, hi: Ints) -> tuple[tuple[Job, ...], bool]:
    """The jobs of intervals (intervals, queries), in order, and whether some job has each query."""
    if lo.shape[1] == 1:  # a single query, the usual case: no shape but that of its ranges
        ranges = union([(a, b) for a, b in zip(lo[:, 0].tolist(), hi[:, 0].tolist(), strict=True) if b > a])
        return tuple(Job(0, 1, a, b - a, fresh=not i) for i, (a, b) in enumerate(ranges)), bool(ranges)
    bounds = merged(list(zip(lo, hi, strict=True)), int(hi.max(initial=0)))
    return order_jobs(batch_equal(interval_jobs(*bounds)), lo.shape[1])


def _alike(parts: list[_Part]) -> list[list[_Part]]:
    """Parts that do the same with keys of their own, together: one computation serves all of them."""
    found: dict[Any, list[_Part]] = {}
    for i, part in enumerate(parts):
        work = part.work()
        found.setdefault(i if work is None else work, []).append(part)
    return list(found.values())


@dataclass(frozen=True)
class _Positions:
    """Absolute positions of the keys of a view that starts at ``start``."""

    start: int

    def __getitem__(self, at: Ints) -> Ints:
        return at + self.start


class _Part:
    """One cohort: its jobs, and which keys they need."""

    def __init__(self, cohort: Cohort, schedules: tuple[Schedule, ...], others: bool) -> None:
        self.cohort, self.call = cohort, cohort.call
        self.dtype = torch.float64 if self.call.q.dtype == torch.float64 else torch.float32
        self.ranges = union([r for s in schedules for job in s.jobs for r in _key_ranges(job)])
        # A tile may begin before the first key that is there.
        self.gone = max(0, cohort.start - self.ranges[0][0]) if self.ranges else 0
        if self.call.block_table is not None:
            self._check_pages(self.call.block_table)
            self.ranges = self._whole_pages()
        program = cohort.program
        self.softmax = program.normalizer.kind == "softmax"
        queries = np.arange(cohort.binding.q_len) + cohort.binding.offset
        floats = {name: x.to(self.dtype) for name, x in cohort.floats.items()}
        self.viewed = self._can_view() and not (others and self._live() < _LITTLE)
        self.expressions = Expressions(program, cohort.binding, floats, (queries, self._positions()))
        self.flash = self.softmax and self.expressions.plain_score
        self.jobs = tuple(replace(s, jobs=tuple(self._moved(j) for j in s.jobs)) for s in schedules)

    def _can_view(self) -> bool:
        """Whether jobs may read the cache itself: no page, and nothing to convert."""
        call = self.call
        which = pick(self.cohort.entries, call.q.shape[0])
        plain = all(x.dtype == self.dtype and x.stride(-1) == 1 for x in (call.k, call.v))
        same = call.k.shape[-1] == call.v.shape[-1]
        return call.block_table is None and plain and same and not self.gone and not isinstance(which, Tensor)

    def _positions(self) -> Ints:
        if self.viewed:
            return cast("Ints", _Positions(self.cohort.start))
        return np.concatenate([np.arange(0), *(np.arange(a, b) for a, b in self.ranges)])

    def _moved(self, job: Job) -> Job:
        """The job in positions of the keys as ``keys`` gives them."""
        if job.k_runs is not None:
            runs = tuple((self._place(a), self._place(a) + b - a) for a, b in job.k_runs)
            return replace(job, k_start=runs[0][0], k_runs=runs)
        start = self._place(job.k_start)
        return job if start == job.k_start else replace(job, k_start=start)

    def _place(self, position: int) -> int:
        if self.viewed:
            return position - self.cohort.start
        ends, shifts = self._shifts
        return position + shifts[bisect_right(ends, position)]

    @functools.cached_property
    def _shifts(self) -> tuple[list[int], list[int]]:
        """Where the ranges end, and how much further in the cache as ``keys`` gives it the positions of each lie.
        There may be as many ranges as tiles: each place is looked up, and not counted up to."""
        before = itertools.accumulate((b - a for a, b in self.ranges), initial=0)
        return [b for _, b in self.ranges], [n - a for n, (a, _) in zip(before, self.ranges, strict=False)]

    def _check_pages(self, table: Tensor) -> None:
        size, known, rows = self.call.block_size, self.call.k.shape[0], table.numpy()
        for a, b in self._in_cache():
            pages = rows[list(self.cohort.entries), a // size : -(-b // size)]
            if pages.size and not 0 <= pages.min() <= pages.max() < known:
                check_kept_pages(self.cohort)  # a tile that was planned has keys, too, that no query keeps
                return

    def _in_cache(self) -> list[tuple[int, int]]:
        start = self.cohort.start
        return [(max(a - start, 0), b - start) for a, b in self.ranges]

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
            found = self._from_pages(cache)
        found = (
            torch.nn.functional.pad(found.to(self.dtype), (0, 0, self.gone, 0)) if self.gone else found.to(self.dtype)
        )
        return found if found.stride(-1) == 1 else found.contiguous()

    def _live(self) -> int:
        """Bytes of the keys that are read."""
        tokens = len(self.cohort.entries) * sum(b - a for a, b in self.ranges)
        return tokens * self.call.kv_heads * self.call.k.shape[3] * 4

    def _whole_pages(self) -> list[tuple[int, int]]:
        """The ranges as whole pages, which are copied at once, unless that is much more than the keys in them."""
        size, start = self.call.block_size, self.cohort.start
        pages = [(a // size * size + start, -(-b // size) * size + start) for a, b in self._in_cache()]
        whole = union(pages)
        whole[:1] = [(a - self.gone, b) for a, b in whole[:1]]
        exact = sum(b - a for a, b in self.ranges)
        return whole if sum(b - a for a, b in whole) <= 2 * (exact + size) else self.ranges

    def _from_pages(self, cache: Tensor) -> Tensor:
        """The keys of the ranges, (entries, Hkv, N, D)."""
        if cache.shape[0] == 0:
            entries, tokens = len(self.cohort.entries), sum(b - a for a, b in self.ranges)
            return cache.new_zeros((entries, cache.shape[2], tokens, cache.shape[3]))
        pages, slots = self._slots
        if slots is not None:
            return cache[pages, slots].transpose(1, 2)
        return cache.index_select(0, pages.flatten()).view(len(pages), -1, *cache.shape[2:]).transpose(1, 2)

    @functools.cached_property
    def _slots(self) -> tuple[Tensor, Tensor | None]:
        """Where the keys of the ranges lie: the pages of each entry, which are read whole; or the page of each key, and
        its slot there."""
        size, ranges, table = self.call.block_size, self._in_cache(), self.call.block_table
        assert table is not None
        table = take(table, 0, pick(self.cohort.entries, self.call.q.shape[0]))
        if all(a % size == 0 and b % size == 0 for a, b in ranges):
            slots, pages = None, _joined([table[:, a // size : b // size] for a, b in ranges], dim=1)
        else:
            at = torch.cat([torch.arange(a, b) for a, b in ranges])
            slots, pages = at % size, table[:, at // size]
        return pages.long().clamp(0, self.call.k.shape[0] - 1), slots  # pages none of whose keys is kept may be any

    def work(self) -> Any:
        """What is done with the keys: equal for parts that may be joined; None: this one may not be."""
        program = self.cohort.program
        alone = (
            self.viewed or not self.flash or program.normalizer.sink is not None or not self.expressions.plain_output
        )
        if alone or any(job.mask is not None and job.mask.key is None for s in self.jobs for job in s.jobs):
            return None
        jobs = tuple(
            (s.heads, s.covered, *((replace(j, mask=None), j.fresh, j.mask and j.mask.key) for j in s.jobs))
            for s in self.jobs
        )
        return (self.cohort.binding.q_len, sum(b - a for a, b in self.ranges), jobs)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Output (entries, Hq, rows, Dv) in the dtype of ``q`` and log-sum-exp; with care where needed."""
        query = dense(q.to(self.dtype))
        out, lse = self._attend(query, k, v, careful=False)
        if not finite(out):
            out, lse = self._attend(query, k, v, careful=True)
        out, lse = add_sink(out, lse, self.expressions.sink(self.dtype))
        if not self.softmax:
            lse = torch.zeros_like(lse)
        out = out if self.expressions.plain_output else self.expressions.output(out)
        return out.to(q.dtype), lse

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, careful: bool) -> tuple[Tensor, Tensor]:
        width, flash = v.shape[3], self.flash and not careful
        if flash:
            q, k, v = same_width(q, k, v)

        def make(one: Schedule) -> Kernel:
            if flash:
                return FlashKernel(self.call.scale)
            return GeneralKernel(self.call.scale, self.expressions, one.heads, one.batches, {}, careful)

        everyone = tuple(range(len(q)))  # the entries of parts that joined this one, too
        jobs = tuple(s if s.batches == everyone else replace(s, batches=everyone) for s in self.jobs)
        out, lse = attend(jobs, make, q, k, v, not self.softmax)
        return out[..., :width], lse


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=dim)


def _key_ranges(job: Job) -> list[tuple[int, int]]:
    if job.k_runs is not None:
        return list(job.k_runs)
    return [(job.k_start, job.k_start + (job.count - 1) * job.k_step + job.k_len)]

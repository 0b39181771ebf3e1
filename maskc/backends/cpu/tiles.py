"""Jobs from the tile plan: what is taken where key intervals do not describe the mask well."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from maskc.backends.cpu.intervals import interval_jobs
from maskc.backends.cpu.jobs import Allowance, Bools, Job, Mask, Schedule, batch_equal, order_jobs
from maskc.tiles.tiling import FULL

if TYPE_CHECKING:
    from maskc.tiles.plan import TilePlan
    from maskc.tiles.tiling import Group, Runs

__all__ = ["schedule", "tile_jobs"]

# Costs beside the pairs computed, in pairs: of one call, of a query's result merged into an earlier one, of
# copying a key into place. Measured with four heads of 64.
_CALL, _MERGE, _COPY = 8192, 24, 16
_KEPT_PAIRS = 1 << 25  # of the masks of rows of tiles that are kept: a byte each


def schedule(plan: TilePlan) -> tuple[tuple[Schedule, ...], tuple[Schedule, ...]]:
    """The jobs of every group of the plan for the forward and for the backward pass.

    The mask is cut by key intervals or by tiles, whichever costs less.
    """
    known: dict[Runs, list[tuple[tuple[Job, ...], bool]]] = {}  # groups with the same runs share one mask
    passes: tuple[list[Schedule], list[Schedule]] = ([], [])
    for group in plan.groups:
        if group.runs not in known:
            forward, backward = _group_jobs(plan, group)
            known[group.runs] = [order_jobs(forward, plan.binding.q_len), (tuple(backward), False)]
        for one, jobs in zip(passes, known[group.runs], strict=True):
            one.append(Schedule(group.heads, group.batches, *jobs))
    return tuple(passes[0]), tuple(passes[1])


def _group_jobs(plan: TilePlan, group: Group) -> tuple[list[Job], list[Job]]:
    if plan.binding.q_len == 0 or plan.binding.k_len == 0 or len(group.runs.start) == 0:
        return [], []
    intervals = plan.intervals(group)
    if intervals:
        lo, hi = (np.stack(bounds).astype(np.int64) for bounds in zip(*intervals, strict=True))
        forward, backward = (batch_equal(interval_jobs(lo, hi, backward=way)) for way in (False, True))
        if _cost(forward) <= _tile_cost(plan, group):
            return forward, backward
    by_tiles = batch_equal(tile_jobs(plan, group))
    return by_tiles, by_tiles


def _cost(jobs: list[Job]) -> int:
    rows = sum(j.count * j.q_len for j in jobs)
    return sum(j.pairs + _CALL for j in jobs) + _MERGE * rows


def _tile_cost(plan: TilePlan, group: Group) -> int:
    tiles = int((group.runs.end - group.runs.start).astype(np.int64).sum())
    rows = int(np.count_nonzero(np.diff(group.runs.offsets)))
    copied = tiles * plan.k_tile if len(group.runs.start) > rows else 0
    return tiles * plan.q_tile * plan.k_tile + _COPY * copied + rows * _CALL + _MERGE * plan.binding.q_len


def tile_jobs(plan: TilePlan, group: Group) -> Iterator[Job]:
    """One job for each row of tiles, over all its runs; rows that keep the same keys whole are one job."""
    runs, kept = group.runs, Allowance(_KEPT_PAIRS)
    waiting: Job | None = None
    for row in range(len(runs.offsets) - 1):
        a, b = int(runs.offsets[row]), int(runs.offsets[row + 1])
        if a == b:
            continue
        job = _row_job(plan, group, row, slice(a, b), kept)
        if waiting is not None and _continues(waiting, job):
            waiting = Job(waiting.q_start, waiting.q_len + job.q_len, job.k_start, job.k_len, k_runs=job.k_runs)
            continue
        if waiting is not None:
            yield waiting
        waiting = job
    if waiting is not None:
        yield waiting


def _continues(job: Job, following: Job) -> bool:
    return (
        job.mask is None
        and following.mask is None
        and job.q_start + job.q_len == following.q_start
        and (job.k_start, job.k_len, job.k_runs) == (following.k_start, following.k_len, following.k_runs)
    )


def _row_job(plan: TilePlan, group: Group, row: int, which: slice, kept: Allowance) -> Job:
    runs = group.runs
    first = row * plan.q_tile
    rows = min(plan.q_tile, plan.binding.q_len - first)
    ranges = _ranges(plan, group, which)
    keys = sum(b - a for a, b in ranges)
    mask = None
    if bool((runs.kind[which] != FULL).any()):
        mask = Mask(lambda: _row_mask(plan, group, row, which)[:rows, :keys], rows * keys, allowance=kept)
    return Job(first, rows, ranges[0][0], keys, mask=mask, k_runs=tuple(ranges) if len(ranges) > 1 else None)


def _ranges(plan: TilePlan, group: Group, which: slice) -> list[tuple[int, int]]:
    """The keys of some runs of a row, runs that touch taken together."""
    ranges: list[tuple[int, int]] = []
    for start, end in zip(group.runs.start[which].tolist(), group.runs.end[which].tolist(), strict=True):
        a, b = start * plan.k_tile, min(end * plan.k_tile, plan.binding.k_len)
        if ranges and ranges[-1][1] == a:
            ranges[-1] = (ranges[-1][0], b)
        else:
            ranges.append((a, b))
    return ranges


def _row_mask(plan: TilePlan, group: Group, row: int, which: slice) -> Bools:
    """The mask of a row of tiles over all its runs, (q_tile, tiles * k_tile)."""
    runs = group.runs
    cols = np.concatenate(
        [np.arange(s, e) for s, e in zip(runs.start[which].tolist(), runs.end[which].tolist(), strict=True)]
    )
    lengths = (runs.end[which] - runs.start[which]).astype(np.int64)
    partial = np.repeat(runs.kind[which] != FULL, lengths)
    kept = np.ones((len(cols), plan.q_tile, plan.k_tile), dtype=np.bool_)
    chosen = cols[partial]
    kept[partial] = plan.tile_mask(group, np.full(len(chosen), row), chosen)
    whole: Bools = kept.transpose(1, 0, 2).reshape(plan.q_tile, -1)
    return whole

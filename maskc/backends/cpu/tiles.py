"""Jobs from the tile plan: what is taken where key intervals do not describe the mask well."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from maskc.backends.cpu.intervals import interval_jobs, merge_clauses
from maskc.backends.cpu.jobs import Bools, Job, Mask, Schedule, batch_equal, order_jobs
from maskc.tiles.plan import FULL

if TYPE_CHECKING:
    from maskc.tiles.plan import Group, TilePlan

__all__ = ["schedule", "tile_jobs"]

# Costs beside the pairs computed, in pairs: of one call, of a query's result merged into an earlier one, of
# copying a key into place. Measured with four heads of 64.
_CALL, _MERGE, _COPY = 8192, 24, 16


def schedule(plan: TilePlan) -> tuple[Schedule, ...]:
    """The jobs of every group of the plan, the cheaper of the two ways to cut the mask for each."""
    out = []
    for i, group in enumerate(plan.groups):
        jobs = _group_jobs(plan, i, group)
        ordered, covered = order_jobs(batch_equal(jobs), plan.binding.q_len)
        out.append(Schedule(group.heads, group.batches, ordered, covered))
    return tuple(out)


def _group_jobs(plan: TilePlan, index: int, group: Group) -> list[Job]:
    if plan.binding.q_len == 0 or plan.binding.k_len == 0 or len(group.runs.start) == 0:
        return []
    if not group.intervals:
        return list(tile_jobs(plan, index))
    by_rows = batch_equal(interval_jobs(*merge_clauses(list(group.intervals), plan.binding.k_len)))
    if _cost(by_rows) <= _tile_cost(plan, group):
        return by_rows
    return list(tile_jobs(plan, index))


def _cost(jobs: list[Job]) -> int:
    rows = sum(j.count * j.q_len for j in jobs)
    return sum(j.pairs + _CALL for j in jobs) + _MERGE * rows


def _tile_cost(plan: TilePlan, group: Group) -> int:
    tiles = int((group.runs.end - group.runs.start).astype(np.int64).sum())
    rows = int(np.count_nonzero(np.diff(group.runs.offsets)))
    copied = tiles * plan.k_tile if len(group.runs.start) > rows else 0
    return tiles * plan.q_tile * plan.k_tile + _COPY * copied + rows * _CALL + _MERGE * plan.binding.q_len


def tile_jobs(plan: TilePlan, index: int) -> Iterator[Job]:
    """One job for each row of tiles, over all its runs; rows that keep the same keys whole are one job."""
    runs = plan.groups[index].runs
    waiting: Job | None = None
    for row in range(len(runs.offsets) - 1):
        a, b = int(runs.offsets[row]), int(runs.offsets[row + 1])
        if a == b:
            continue
        job = _row_job(plan, index, row, slice(a, b))
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


def _row_job(plan: TilePlan, index: int, row: int, which: slice) -> Job:
    runs, k_len, size = plan.groups[index].runs, plan.binding.k_len, plan.k_tile
    first = row * plan.q_tile
    rows = min(plan.q_tile, plan.binding.q_len - first)
    ranges: list[tuple[int, int]] = []
    for start, end in zip(runs.start[which].tolist(), runs.end[which].tolist(), strict=True):
        if ranges and ranges[-1][1] == start * size:
            ranges[-1] = (ranges[-1][0], min(end * size, k_len))
        else:
            ranges.append((start * size, min(end * size, k_len)))
    keys = sum(b - a for a, b in ranges)
    mask = None
    if bool((runs.kind[which] != FULL).any()):
        mask = Mask(lambda: _row_mask(plan, index, row, which)[:rows, :keys], rows * keys)
    return Job(first, rows, ranges[0][0], keys, mask=mask, k_runs=tuple(ranges) if len(ranges) > 1 else None)


def _row_mask(plan: TilePlan, index: int, row: int, which: slice) -> Bools:
    """The mask of a row of tiles over all its runs, (q_tile, tiles * k_tile)."""
    runs = plan.groups[index].runs
    cols = np.concatenate(
        [np.arange(s, e) for s, e in zip(runs.start[which].tolist(), runs.end[which].tolist(), strict=True)]
    )
    lengths = (runs.end[which] - runs.start[which]).astype(np.int64)
    partial = np.repeat(runs.kind[which] != FULL, lengths)
    kept = np.ones((len(cols), plan.q_tile, plan.k_tile), dtype=np.bool_)
    chosen = cols[partial]
    kept[partial] = plan.tile_mask(index, np.full(len(chosen), row), chosen)
    return kept.transpose(1, 0, 2).reshape(plan.q_tile, -1)

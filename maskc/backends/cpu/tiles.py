"""Jobs from the tile plan: what is taken where key intervals do not describe the mask well."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from maskc.backends.cpu.intervals import interval_jobs, merge_clauses
from maskc.backends.cpu.jobs import Allowance, Bools, Ints, Job, Mask, Schedule, batch_equal, order_jobs
from maskc.tiles.plan import FULL

if TYPE_CHECKING:
    from maskc.tiles.plan import Group, TilePlan

__all__ = ["find_intervals", "schedule", "tile_jobs"]

# Costs beside the pairs computed, in pairs: of one call, of a query's result merged into an earlier one, of
# copying a key into place. Measured with four heads of 64.
_CALL, _MERGE, _COPY = 8192, 24, 16
_CLAUSES = 4  # intervals a query that are looked for
_KEPT_PAIRS = 1 << 25  # of the masks of rows of tiles that are kept: a byte each
_LOOK = 1 << 26  # pairs that are looked at to find them


def schedule(plan: TilePlan) -> tuple[tuple[Schedule, ...], tuple[Schedule, ...]]:
    """The jobs of every group of the plan for the forward and for the backward pass.

    The mask is cut by key intervals or by tiles, whichever costs less.
    """
    known: dict[tuple[int, int], list[tuple[tuple[Job, ...], bool]]] = {}
    passes: tuple[list[Schedule], list[Schedule]] = ([], [])
    for group in plan.groups:
        key = (id(group.runs), id(group.intervals))  # the same for groups that share one mask
        if key not in known:
            known[key] = [order_jobs(jobs, plan.binding.q_len) for jobs in _group_jobs(plan, group)]
        for one, jobs in zip(passes, known[key], strict=True):
            one.append(Schedule(group.heads, group.batches, *jobs))
    return tuple(passes[0]), tuple(passes[1])


def _group_jobs(plan: TilePlan, group: Group) -> tuple[list[Job], list[Job]]:
    if plan.binding.q_len == 0 or plan.binding.k_len == 0 or len(group.runs.start) == 0:
        return [], []
    clauses: Sequence[tuple[Any, Any]] = group.intervals or find_intervals(plan, group)
    if clauses:
        lo, hi = merge_clauses(clauses, plan.binding.k_len)
        forward, backward = (batch_equal(interval_jobs(lo, hi, backward=way)) for way in (False, True))
        if _cost(forward) <= _tile_cost(plan, group):
            return forward, backward
    by_tiles = batch_equal(tile_jobs(plan, group))
    return by_tiles, by_tiles


def find_intervals(plan: TilePlan, group: Group) -> list[tuple[Ints, Ints]]:
    """The key intervals of every query, read off the tiles; empty where there are many, or many pairs to look at."""
    spans = [_full_spans(plan, group), *_partial_spans(plan, group)]
    row, start, end = (np.concatenate(x) for x in zip(*spans, strict=True))
    if int((group.runs.kind != FULL) @ (group.runs.end - group.runs.start)) and len(spans) == 1:
        return []
    order = np.lexsort((start, row))
    row, start, end = row[order], start[order], end[order]
    apart = np.ones(len(row), dtype=np.bool_)
    apart[1:] = (row[1:] != row[:-1]) | (start[1:] > end[:-1])  # spans that touch are one
    last = np.append(np.flatnonzero(apart)[1:] - 1, len(row) - 1)
    row, start, end = row[apart], start[apart], end[last]
    number = np.arange(len(row)) - np.searchsorted(row, row)
    most = int(number.max(initial=-1)) + 1
    if most > _CLAUSES:
        return []
    lo, hi = np.zeros((2, most, plan.binding.q_len), dtype=np.int64)
    lo[number, row], hi[number, row] = start, end
    return list(zip(lo, hi, strict=True))


def _full_spans(plan: TilePlan, group: Group) -> tuple[Ints, Ints, Ints]:
    """Query, first key and last key (excluded) of what full runs keep."""
    runs, q_len = group.runs, plan.binding.q_len
    full = runs.kind == FULL
    tile_rows = np.repeat(np.arange(len(runs.offsets) - 1), np.diff(runs.offsets))[full]
    rows = (tile_rows[:, None] * plan.q_tile + np.arange(plan.q_tile)).ravel()
    start = np.repeat(runs.start[full].astype(np.int64) * plan.k_tile, plan.q_tile)
    end = np.repeat(runs.end[full].astype(np.int64) * plan.k_tile, plan.q_tile).clip(max=plan.binding.k_len)
    there = rows < q_len
    return rows[there], start[there], end[there]


def _partial_spans(plan: TilePlan, group: Group) -> list[tuple[Ints, Ints, Ints]]:
    """The same of partial tiles; nothing where they are too many, or too frayed."""
    rows, cols = _partial_tiles(group)
    size, found = plan.q_tile * plan.k_tile, []
    if len(rows) * size > _LOOK:
        return []
    step = max(1, (1 << 20) // size)
    for a in range(0, len(rows), step):
        r, c = rows[a : a + step], cols[a : a + step]
        kept = np.pad(plan.tile_mask(group, r, c).astype(np.int8), ((0, 0), (0, 0), (1, 1)))
        edges = np.diff(kept, axis=2)
        tile, i, j = np.nonzero(edges == 1)
        if len(tile) > _CLAUSES * len(r) * plan.q_tile:
            return []
        found.append(
            (r[tile] * plan.q_tile + i, c[tile] * plan.k_tile + j, c[tile] * plan.k_tile + np.nonzero(edges == -1)[2])
        )
    return found


def _partial_tiles(group: Group) -> tuple[Ints, Ints]:
    """Row and column of every partial tile."""
    runs = group.runs
    tile_rows = np.repeat(np.arange(len(runs.offsets) - 1), np.diff(runs.offsets))
    lengths = np.where(runs.kind == FULL, 0, runs.end - runs.start).astype(np.int64)
    within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(tile_rows, lengths), np.repeat(runs.start.astype(np.int64), lengths) + within


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

"""What a plan costs, and what the mask implies for those who run it: numbers people can act on."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskc.tiles.advice import advice
from maskc.tiles.budget import Watch, evaluations_of
from maskc.tiles.cost import ROUGH, CostModel, dense_cost, plan_cost
from maskc.tiles.figures import Balance, GroupStatistics, Statistics
from maskc.tiles.liveness import Liveness, Seen, Survey, last_of
from maskc.tiles.reach import reach
from maskc.tiles.rowsets import row_sets
from maskc.tiles.runs import row_of_runs
from maskc.tiles.schedule import schedule, tiles_by_row
from maskc.tiles.subdivide import tile_mask
from maskc.tiles.tiling import FULL, PARTIAL, Group, Runs

if TYPE_CHECKING:
    from maskc.tiles.tiling import Tiling

__all__ = ["statistics", "tile_counts"]

Array = npt.NDArray[Any]
_EXACT_PAIRS = 1 << 26  # pairs of partial tiles that are counted one by one; beyond, tiles are sampled
_SAMPLED, _LEAST_SAMPLED = 256, 4  # tiles, and how many where evaluating one takes long
_MOST_ITEMS = 1 << 18  # rows of all heads that are scheduled to find the imbalance
WORKERS = 132  # streaming multiprocessors of an H100 or H200


def statistics(
    plan: Tiling,
    head_dim: int = 128,
    advise: bool = True,
    *,
    value_dim: int | None = None,
    workers: int = WORKERS,
    model: CostModel = ROUGH,
    watch: Watch | None = None,
) -> Statistics:
    """The statistics of a plan. Counting useful pairs may evaluate some partial tiles.

    Args:
        plan: the plan.
        head_dim, value_dim: dimensions of queries and keys, and of values (by default the same), for the FLOPs.
        advise: whether to plan alternatives, and to say which are better.
        workers: how many rows are computed at once, for the balance.
        model: what tiles cost.
        watch: called with the number of groups of heads that are counted, and of all groups and the advice.
    """
    value_dim = head_dim if value_dim is None else value_dim
    groups, known, live, furthest = _groups(plan, watch)
    b, cost = plan.binding, plan_cost(plan, model)
    useful = sum(g.copies * g.useful_pairs for g in groups)
    executed = sum(g.copies * g.executed_pairs for g in groups)
    found = Statistics(
        name=plan.program.name,
        q_len=b.q_len,
        k_len=b.k_len,
        heads=b.heads,
        batch=b.batch,
        q_tile=plan.q_tile,
        k_tile=plan.k_tile,
        layout=plan.q_order.name,
        useful_pairs=useful,
        useful_exact=not any(g.sampled for g in groups),
        sampled=sum(g.sampled for g in known),
        executed_pairs=executed,
        dense_pairs=plan.rows * plan.cols * _area(plan) * sum(g.copies for g in groups),
        waste=executed / useful if useful else float("inf"),
        full=sum(g.copies * g.full for g in groups),
        partial=sum(g.copies * g.partial for g in groups),
        empty=sum(g.copies * g.empty for g in groups),
        runs=sum(g.runs for g in known),
        nbytes=plan.nbytes,
        head_dim=head_dim,
        value_dim=value_dim,
        # Forward: scores and outputs. Backward: scores again, and the gradients of the weights, of q, k and v.
        flops_forward=2 * executed * (head_dim + value_dim),
        flops_backward=2 * executed * (3 * head_dim + 2 * value_dim),
        speedup=_speedup(dense_cost(plan, model), cost),
        imbalance=max((g.imbalance for g in groups), default=1.0),
        balance=_balance(plan, workers, model),
        liveness=live,
        reach=reach(plan) if b.q_len and groups else None,
        masks=len(known),
        groups=tuple(groups),
    )
    return dataclasses.replace(found, advice=tuple(advice(plan, found, furthest, model))) if advise else found


def _groups(
    plan: Tiling, watch: Watch | None
) -> tuple[list[GroupStatistics], list[GroupStatistics], Liveness | None, Array]:
    """The figures of every group, and of every mask: groups that hold the same runs have the same mask. And the
    liveness of all together, with the last key that each query sees."""
    known: dict[int, GroupStatistics] = {}
    groups: list[GroupStatistics] = []
    survey = Survey(plan, plan.groups) if plan.binding.q_len and plan.groups else None
    shared: dict[Any, Any] = {}
    runs, seen = None, None
    for g in plan.groups:
        if watch is not None:
            watch(len(groups), len(plan.groups) + 1)
        if runs is not g.runs or seen is None:
            sets = row_sets(plan.program, plan.binding, g.heads[0], g.batches[0], shared)
            counts, ranges = sets.counts_and_ranges() if sets is not None and sets.all_ranges else (None, None)
            if id(g.runs) not in known:
                counts = sets.counts() if sets is not None and counts is None else counts
                known[id(g.runs)] = _group(plan, g, counts)
            if survey is not None:
                runs, seen = g.runs, Seen(*last_of(plan, g, ranges))
        found = known[id(g.runs)]
        live = survey.add(seen).most if survey is not None and seen is not None else 0
        groups.append(dataclasses.replace(found, heads=g.heads, batches=g.batches, live_keys=live))
    if watch is not None:
        watch(len(groups), len(plan.groups) + 1)
    if survey is None:
        return groups, list(known.values()), None, np.zeros(0, np.int64)
    return groups, list(known.values()), survey.together(), survey.furthest()


def _speedup(dense: float, cost: float) -> float:
    """Infinite where only the plan costs nothing, as under a model in which rows are free."""
    if not dense:
        return 1.0
    return dense / cost if cost else float("inf")


def _area(plan: Tiling) -> int:
    """Pairs of a tile; a kernel takes no more rows than there are."""
    return min(plan.q_tile, max(1, plan.binding.q_len)) * plan.k_tile


def _group(plan: Tiling, group: Group, counts: Array | None) -> GroupStatistics:
    """``counts``: how many keys each query keeps, None where only the tiles tell."""
    full, partial = tile_counts(group.runs)
    each = tiles_by_row(group.runs)
    blind = first = None
    if counts is not None:
        useful, sampled = int(counts.sum()), 0
        at = np.flatnonzero(counts == 0)
        blind, first = int(at.size), plan.binding.offset + int(at[0]) if at.size else None
    else:
        useful, sampled = _from_tiles(plan, group)
    return GroupStatistics(
        heads=group.heads,
        batches=group.batches,
        useful_pairs=useful,
        sampled=sampled,
        executed_pairs=(full + partial) * _area(plan),
        full=full,
        partial=partial,
        empty=plan.rows * plan.cols - full - partial,
        runs=group.runs.start.size,
        longest_row=int(each.max(initial=0)),
        imbalance=float(each.max() / each.mean()) if each.any() else 1.0,
        blind=blind,
        first_blind=first,
    )


def _balance(plan: Tiling, workers: int, model: CostModel) -> Balance | None:
    """Of the group that is balanced worst, its heads and batch entries together."""
    copies = sum(len(g.heads) * len(g.batches) for g in plan.groups)
    if not plan.rows or plan.rows * copies > _MOST_ITEMS:
        return None
    found = [schedule(plan, g, workers=workers, model=model) for g in plan.groups]
    worst = max(found, key=lambda s: s.in_order, default=None)
    if worst is None:
        return None
    return Balance(workers, worst.in_order, worst.heaviest_first, worst.imbalance, worst.split_rows)


def tile_counts(runs: Runs) -> tuple[int, int]:
    """Number of full and of partial tiles."""
    length = (runs.end - runs.start).astype(np.int64)
    return int(length[runs.kind == FULL].sum()), int(length[runs.kind == PARTIAL].sum())


def _from_tiles(plan: Tiling, group: Group) -> tuple[int, int]:
    """Full tiles by their area, partial ones by evaluation: all of them, or as many as are returned."""
    full, (_, partial) = _full_pairs(plan, group.runs), tile_counts(group.runs)
    each = evaluations_of(plan.program, plan.binding, outright=True)
    if partial * plan.q_tile * plan.k_tile * each <= _EXACT_PAIRS:
        return full + _count(plan, group, np.arange(partial)), 0
    size = min(max(_LEAST_SAMPLED, _SAMPLED // each), partial)
    chosen = np.random.default_rng(0).choice(partial, size, replace=False)
    return full + round(_count(plan, group, chosen) * partial / size), size


def _full_pairs(plan: Tiling, runs: Runs) -> int:
    full, b = runs.kind == FULL, plan.binding
    start, end = runs.start[full].astype(np.int64), runs.end[full].astype(np.int64)
    keys = np.minimum(end * plan.k_tile, b.k_len) - start * plan.k_tile
    first = row_of_runs(runs)[full] * plan.q_tile
    queries = np.minimum(first + plan.q_tile, b.q_len) - first
    return int((keys * queries).sum())


def _partial_tiles(runs: Runs, number: Array) -> tuple[Array, Array]:
    """Row and column of partial tiles by their number, counted row by row. The others are not listed: of a dilation
    they are half of all tiles, in one run a row."""
    some = np.flatnonzero(runs.kind == PARTIAL)
    last = np.cumsum((runs.end - runs.start)[some].astype(np.int64))
    at = np.searchsorted(last, number, side="right")
    return row_of_runs(runs)[some[at]], runs.end[some[at]] + number - last[at]


def _count(plan: Tiling, group: Group, number: Array) -> int:
    """The pairs that some partial tiles keep."""
    rows, cols = _partial_tiles(group.runs, number)
    step = max(1, (1 << 20) // (plan.q_tile * plan.k_tile))
    kept = (tile_mask(plan, group, rows[i : i + step], cols[i : i + step]).sum() for i in range(0, rows.size, step))
    return int(sum(kept))

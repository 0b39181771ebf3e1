"""What a plan costs, and what the mask implies for those who run it: numbers people can act on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskc.tiles.plan import FULL, PARTIAL, Group, Runs
from maskc.tiles.runs import concatenated_ranges, row_of_runs

if TYPE_CHECKING:
    from maskc.tiles.plan import TilePlan

__all__ = ["Statistics", "layers_to_reach", "live_keys", "statistics", "tile_counts", "useful_pairs"]

Array = npt.NDArray[Any]
_EXACT_PAIRS = 1 << 26  # pairs of partial tiles that are counted one by one; beyond, tiles are sampled
_SAMPLED = 256  # tiles
_MOST_LAYERS = 4096


@dataclass(frozen=True)
class Statistics:
    """Of all heads and batch entries together, unless said otherwise.

    Attributes:
        useful_pairs: (query, key) pairs that the mask keeps. ``useful_exact``: whether that was counted, or
            estimated from a sample of the partial tiles.
        executed_pairs: pairs of the tiles that are computed; ``dense_pairs``: of all tiles.
        waste: executed over useful pairs (infinite if nothing is kept).
        full, partial, empty: number of tiles of each kind.
        runs, nbytes: number of runs, and the size of the plan in bytes.
        flops_forward, flops_backward: floating-point operations for a head dimension of ``head_dim``.
        speedup: dense over executed pairs: what skipping empty tiles gains at most.
        imbalance: tiles of the longest row over the mean of all rows.
        live_keys: the most keys that any later query can still see, once the queries before have been computed:
            the size of KV cache that the mask implies, rounded up to tiles; None for cross-attention.
        reach: layers until the last query can know of the first key, at least; None if it never does, or
            where queries and keys are two sequences.
        groups: number of distinct masks among heads and batch entries.
        advice: sentences.
    """

    name: str
    q_len: int
    k_len: int
    heads: int
    batch: int
    q_tile: int
    k_tile: int
    layout: str
    useful_pairs: int
    useful_exact: bool
    executed_pairs: int
    dense_pairs: int
    waste: float
    full: int
    partial: int
    empty: int
    runs: int
    nbytes: int
    head_dim: int
    flops_forward: int
    flops_backward: int
    speedup: float
    imbalance: float
    live_keys: int | None
    reach: int | None
    groups: int
    advice: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON; infinities as None."""
        found = dataclasses.asdict(self)
        return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in found.items()}

    def __str__(self) -> str:
        about = "" if self.useful_exact else "about "
        lines = [
            f"{self.name}: {self.q_len:,} queries x {self.k_len:,} keys, heads {self.heads}, batch {self.batch}, "
            f"tiles {self.q_tile} x {self.k_tile}, layout {self.layout}",
            f"  tiles     {self.full:,} full, {self.partial:,} partial, {self.empty:,} empty; "
            f"{self.runs:,} runs, {self.nbytes / 1024:,.0f} KiB, {self.groups} distinct masks",
            f"  pairs     {about}{self.useful_pairs:,} useful, {self.executed_pairs:,} executed: "
            f"waste {self.waste:.2f}",
            f"  work      {self.flops_forward:.3g} FLOPs forward, {self.flops_backward:.3g} backward "
            f"(head dimension {self.head_dim}); at most {self.speedup:.1f} times faster than dense",
            f"  balance   the longest row has {self.imbalance:.2f} times the mean",
        ]
        if self.live_keys is not None:
            lines.append(f"  KV cache  at most {self.live_keys:,} keys are still to be seen at any time")
            reach = "never" if self.reach is None else f"after {self.reach} layers at the earliest"
            lines.append(f"  reach     the last query learns of the first key {reach}")
        return "\n".join([*lines, *(f"  advice    {a}" for a in self.advice)])


def statistics(plan: TilePlan, head_dim: int = 128, advise: bool = True) -> Statistics:
    """The statistics of a plan. Counting useful pairs may evaluate some partial tiles."""
    full = partial = runs = useful = 0
    exact = True
    for g in plan.groups:
        copies = len(g.heads) * len(g.batches)
        f, p = tile_counts(g.runs)
        pairs, sure = useful_pairs(plan, g)
        full, partial, runs = full + copies * f, partial + copies * p, runs + g.runs.start.size
        useful, exact = useful + copies * pairs, exact and sure
    b = plan.binding
    area = min(plan.q_tile, max(1, b.q_len)) * plan.k_tile  # a kernel takes no more rows than there are
    copies = max(1, b.heads) * max(1, b.batch)
    every = plan.rows * plan.cols * copies
    executed = (full + partial) * area
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
        useful_exact=exact,
        executed_pairs=executed,
        dense_pairs=every * area,
        waste=executed / useful if useful else float("inf"),
        full=full,
        partial=partial,
        empty=every - full - partial,
        runs=runs,
        nbytes=plan.nbytes,
        head_dim=head_dim,
        flops_forward=4 * executed * head_dim,
        flops_backward=10 * executed * head_dim,
        speedup=every * area / executed if executed else float("inf"),
        imbalance=max((_imbalance(g.runs) for g in plan.groups), default=1.0),
        live_keys=None if b.cross else max((live_keys(plan, g) for g in plan.groups), default=0),
        reach=_reach(plan),
        groups=len({id(g.runs) for g in plan.groups}),
    )
    if not advise:
        return found
    from maskc.tiles.advice import advice

    return dataclasses.replace(found, advice=tuple(advice(plan, found)))


def tile_counts(runs: Runs) -> tuple[int, int]:
    """Number of full and of partial tiles."""
    length = (runs.end - runs.start).astype(np.int64)
    return int(length[runs.kind == FULL].sum()), int(length[runs.kind == PARTIAL].sum())


def tiles_by_row(runs: Runs) -> Array:
    """Number of tiles that each row computes, int64."""
    total = np.concatenate([[0], np.cumsum((runs.end - runs.start).astype(np.int64))])
    found: Array = total[runs.offsets[1:]] - total[runs.offsets[:-1]]
    return found


def _imbalance(runs: Runs) -> float:
    each = tiles_by_row(runs)
    return float(each.max() / each.mean()) if each.size and each.any() else 1.0


def useful_pairs(plan: TilePlan, group: Group) -> tuple[int, bool]:
    """How many pairs a group's mask keeps, and whether that is exact or estimated from a sample of tiles."""
    full, rows, cols = _full_pairs(plan, group.runs), *_partial_tiles(group.runs)
    if rows.size * plan.q_tile * plan.k_tile <= _EXACT_PAIRS:
        return full + _count(plan, group, rows, cols), True
    if plan.q_order.index is None and plan.k_order.index is None:
        from maskc.tiles.planner import count_by_rows

        pairs = count_by_rows(plan, group)
        if pairs is not None:
            return pairs, True
    chosen = np.random.default_rng(0).choice(rows.size, _SAMPLED, replace=False)
    kept = _count(plan, group, rows[chosen], cols[chosen])
    return full + round(kept * rows.size / _SAMPLED), False


def _full_pairs(plan: TilePlan, runs: Runs) -> int:
    full = runs.kind == FULL
    b = plan.binding
    keys = (
        np.minimum(runs.end[full].astype(np.int64) * plan.k_tile, b.k_len)
        - runs.start[full].astype(np.int64) * plan.k_tile
    )
    first = row_of_runs(runs)[full] * plan.q_tile
    queries = np.minimum(first + plan.q_tile, b.q_len) - first
    return int((keys * queries).sum())


def _partial_tiles(runs: Runs) -> tuple[Array, Array]:
    """Row and column of every partial tile."""
    some = runs.kind == PARTIAL
    length = (runs.end - runs.start)[some].astype(np.int64)
    return np.repeat(row_of_runs(runs)[some], length), concatenated_ranges(runs.start[some], length)


def _count(plan: TilePlan, group: Group, rows: Array, cols: Array) -> int:
    step = max(1, (1 << 20) // (plan.q_tile * plan.k_tile))
    kept = (plan.tile_mask(group, rows[i : i + step], cols[i : i + step]).sum() for i in range(0, rows.size, step))
    return int(sum(kept))


def live_keys(plan: TilePlan, group: Group) -> int:
    """The most keys, over all rows of query tiles, that are there already and that this or a later row sees."""
    runs, rows = group.runs, plan.rows
    if not runs.start.size or plan.q_order.index is not None:
        return plan.binding.k_len if runs.start.size else 0
    last = np.full(plan.cols, -1, np.int64)
    row = row_of_runs(runs)
    # Rows come in order, so that the last assignment to a tile is that of the last row that sees it.
    for first in range(0, row.size, 1 << 16):
        part = slice(first, first + (1 << 16))
        _raise_ranges(last, runs.start[part], runs.end[part], row[part])
    here = (
        plan.binding.offset + np.minimum((np.arange(rows) + 1) * plan.q_tile, plan.binding.q_len) - 1
    ) // plan.k_tile
    change = np.zeros(rows + 1, np.int64)
    first_row = np.searchsorted(here, np.arange(plan.cols))
    seen = (last >= 0) & (last >= first_row)
    np.add.at(change, first_row[seen], 1)
    np.add.at(change, last[seen] + 1, -1)
    return min(plan.binding.k_len, int(change.cumsum().max()) * plan.k_tile)


def _raise_ranges(target: Array, start: Array, end: Array, value: Array) -> None:
    """``target[start:end] = max(target, value)`` for many ranges, by doubling widths."""
    start, end = start.astype(np.int64), end.astype(np.int64)
    level = np.frexp((end - start).astype(np.float64))[1] - 1
    waiting: Array | None = None
    for each in range(int(level.max(initial=0)), -1, -1):
        layer = np.full(target.size, -1, np.int64)
        if waiting is not None:
            half = 1 << each
            np.maximum(layer, waiting, out=layer)
            np.maximum(layer[half:], waiting[: target.size - half], out=layer[half:])
        here = level == each
        np.maximum.at(layer, start[here], value[here])
        np.maximum.at(layer, end[here] - (1 << each), value[here])
        waiting = layer
    if waiting is not None:
        np.maximum(target, waiting, out=target)


def layers_to_reach(runs: Runs, cols: int) -> int | None:
    """Layers until the last row of tiles can know of the first column; None if it never does.

    A breadth-first walk on the graph of tiles; each row of tiles is followed once. A tile passes on all that
    any of its pairs could, so that there may be more layers in truth, but not fewer.
    """
    rows = runs.offsets.size - 1
    reached = np.zeros(cols, np.bool_)
    followed = np.zeros(rows, np.bool_)
    now = np.array([rows - 1])
    for layer in range(1, _MOST_LAYERS + 1):
        followed[now] = True
        which = concatenated_ranges(runs.offsets[now], runs.offsets[now + 1] - runs.offsets[now])
        change = np.zeros(cols + 1, np.int64)
        np.add.at(change, runs.start[which], 1)
        np.add.at(change, runs.end[which], -1)
        reached |= change.cumsum()[:-1] > 0
        if reached[0]:
            return layer
        now = np.flatnonzero(~followed & reached)
        if not now.size:
            return None
    return None


def _reach(plan: TilePlan) -> int | None:
    if plan.binding.cross or plan.binding.q_len != plan.binding.k_len or plan.q_tile != plan.k_tile or not plan.rows:
        return None
    if plan.q_order.index is not None:
        return None
    found = [layers_to_reach(g.runs, plan.cols) for g in plan.groups]
    known = [n for n in found if n is not None]
    return min(known) if known else None

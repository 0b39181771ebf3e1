"""Where a plan shows that an assertion fails: a pair that is kept, a query that keeps no key, a key that none keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from maskc.tiles.rowsets import row_sets
from maskc.tiles.runs import concatenated_ranges, row_of_runs
from maskc.tiles.subdivide import tile_mask
from maskc.tiles.tiling import FULL
from maskc.tiles.transpose import transpose_runs

if TYPE_CHECKING:
    import numpy.typing as npt

    from maskc.tiles.budget import Budget
    from maskc.tiles.rowsets import KeyRanges, RowSets
    from maskc.tiles.tiling import Group, Runs, Tiling

    Bools = npt.NDArray[np.bool_]
    Ints = npt.NDArray[np.int64]

__all__ = ["Place", "counterexample", "nearest_pair"]

#: Query and key of a counterexample; None where the assertion speaks of all of them.
Place = tuple[int | None, int | None]
#: Tiles that are evaluated together: few enough that their values stay in the cache.
_TILES_AT_ONCE = 2
_LOOKED_AT = "pairs that have to be looked at one by one"
#: What counting the keys of a query costs, in units of a budget: for each rule, and for each overlap of two orders.
_RULE, _OVERLAP = 2, 16


def counterexample(kind: str, plan: Tiling, group: Group, budget: Budget) -> Place | None:
    """The first place where an assertion of a kind ("all", "some_key", "some_query") fails in a group of a plan: for
    "all" the plan is that of what is kept and not claimed, else that of what is kept. Raises MaskcError E801."""
    find = {"all": _kept_pair, "some_key": _blind_query, "some_query": _unseen_key}[kind]
    return find(plan, group, budget)


def _kept_pair(plan: Tiling, group: Group, budget: Budget) -> Place | None:
    """The first pair that is kept."""
    runs, rows = group.runs, np.flatnonzero(np.diff(group.runs.offsets))
    if not rows.size:
        return None
    row, which = int(rows[0]), slice(runs.offsets[rows[0]], runs.offsets[rows[0] + 1])
    cols = concatenated_ranges(runs.start[which], runs.end[which] - runs.start[which])
    best = (plan.q_tile, 0)
    for part in np.array_split(cols, -(-cols.size // _TILES_AT_ONCE)):
        if best[0] == 0:  # What follows are later keys, for no earlier query.
            break
        budget.evaluate(part.size * plan.q_tile * plan.k_tile, _LOOKED_AT)
        tile, q, k = np.nonzero(tile_mask(plan, group, np.full(part.size, row), part))
        first = q.min(initial=plan.q_tile)
        key = part[tile[q == first]] * plan.k_tile + k[q == first]
        best = min(best, (int(first), int(key.min(initial=plan.binding.k_len))))
    return plan.binding.offset + row * plan.q_tile + best[0], best[1]


def nearest_pair(plan: Tiling, group: Group, budget: Budget) -> tuple[int, int] | None:
    """The query and the key of the kept pair whose larger position is the smallest, then whose query is. Raises
    MaskcError E801."""
    rows, cols, least = _nearest_tiles(plan, group)
    best: tuple[int, int, int] | None = None
    for part in np.array_split(np.arange(rows.size), max(1, -(-rows.size // _TILES_AT_ONCE))):
        if not part.size or (best is not None and best[0] < least[part[0]]):
            break
        budget.evaluate(part.size * plan.q_tile * plan.k_tile, _LOOKED_AT)
        tile, q, k = np.nonzero(tile_mask(plan, group, rows[part], cols[part]))
        q = q + plan.binding.offset + rows[part][tile] * plan.q_tile
        k = k + cols[part][tile] * plan.k_tile
        larger = np.maximum(q, k)
        i = np.lexsort((k, q, larger))[0]
        found = int(larger[i]), int(q[i]), int(k[i])
        best = found if best is None else min(best, found)
    return None if best is None else best[1:]


def _nearest_tiles(plan: Tiling, group: Group) -> tuple[Ints, Ints, Ints]:
    """The tiles that may hold the nearest pair, by row and column, and what the larger position is in each at least,
    the smallest first. As each holds a pair, none is farther than the nearest one's end."""
    runs, offset = group.runs, plan.binding.offset
    row = row_of_runs(runs).astype(np.int64)
    start, end = runs.start.astype(np.int64), runs.end.astype(np.int64)
    first = np.maximum(row * plan.q_tile + offset, start * plan.k_tile)
    limit = min(first.tolist(), default=0) + max(plan.q_tile, plan.k_tile)
    near = first < limit
    row, start, end = row[near], start[near], np.minimum(end[near], -(-limit // plan.k_tile))
    rows, cols = np.repeat(row, end - start), concatenated_ranges(start, end - start)
    least = np.maximum(rows * plan.q_tile + offset, cols * plan.k_tile)
    order = np.lexsort((cols, rows, least))
    return rows[order], cols[order], least[order]


def _blind_query(plan: Tiling, group: Group, budget: Budget) -> Place | None:
    """The first query that keeps no key."""
    sets = _sets(plan, group, budget)
    seen = _met(plan, group, group.runs, budget) if sets is None else sets.counts() > 0
    blind = np.flatnonzero(~seen)
    return (plan.binding.offset + int(blind[0]), None) if blind.size else None


def _unseen_key(plan: Tiling, group: Group, budget: Budget) -> Place | None:
    """The first key that no query keeps."""
    sets = _sets(plan, group, budget)
    if sets is not None and sets.all_ranges:
        seen = np.zeros(plan.binding.k_len, np.bool_)
        for ranges in sets.ranges():
            seen |= _covered(ranges, plan.binding.k_len)
    else:
        seen = _met(plan, group, transpose_runs(group.runs, plan.cols), budget, by_columns=True)
    unseen = np.flatnonzero(~seen)
    return (None, int(unseen[0])) if unseen.size else None


def _sets(plan: Tiling, group: Group, budget: Budget) -> RowSets | None:
    """The keys of each query as ranges, where the mask is such; none if that costs more than there is left."""
    sets = row_sets(plan.program, plan.binding, group.heads[0], group.batches[0])
    if sets is None:
        return None
    special = sum(not rule.is_interval for rule in sets.rules)
    cost = plan.binding.q_len * (_RULE * len(sets.rules) + _OVERLAP * (2**special - 1))
    if not budget.affords_beside(cost):
        return None
    budget.spend(cost, "keys of every query that are counted")
    return sets


def _covered(ranges: KeyRanges, k_len: int) -> Bools:
    """Which keys are in the range of some query."""
    size = k_len if ranges.order is None else ranges.order.size
    some = ranges.end > ranges.start
    change = np.bincount(ranges.start[some], minlength=size + 1) - np.bincount(ranges.end[some], minlength=size + 1)
    inside = np.cumsum(change)[:size] > 0
    seen = np.zeros(k_len, np.bool_)
    seen[np.flatnonzero(inside) if ranges.order is None else ranges.order[inside]] = True
    return seen


def _met(plan: Tiling, group: Group, runs: Runs, budget: Budget, by_columns: bool = False) -> Bools:
    """Which queries (or, with runs by columns, which keys) are in a kept pair: by tiles, each line's first ones first.

    A line of tiles is done when a full tile, or the partial ones looked at so far, meet all of it.
    """
    tile, length = (plan.k_tile, plan.binding.k_len) if by_columns else (plan.q_tile, plan.binding.q_len)
    line = row_of_runs(runs)
    met = np.zeros((runs.offsets.size - 1, tile), np.bool_)
    met.reshape(-1)[length:] = True
    met[line[runs.kind == FULL]] = True
    run, at = runs.offsets[:-1].astype(np.int64), np.zeros(len(met), np.int64)
    pending = np.arange(len(met))
    while True:
        pending = pending[(run[pending] < runs.offsets[pending + 1]) & ~met[pending].all(axis=1)]
        if not pending.size:
            whole: Bools = met.reshape(-1)[:length]
            return whole
        other = runs.start[run[pending]] + at[pending]
        for part in np.array_split(np.arange(pending.size), -(-pending.size // _TILES_AT_ONCE)):
            budget.evaluate(part.size * plan.q_tile * plan.k_tile, _LOOKED_AT)
            rows, cols = (other[part], pending[part]) if by_columns else (pending[part], other[part])
            met[pending[part]] |= tile_mask(plan, group, rows, cols).any(axis=1 if by_columns else 2)
        at[pending] += 1
        over = pending[other + 1 >= runs.end[run[pending]]]
        run[over] += 1
        at[over] = 0

"""An order of the rows in which no worker waits for long: heaviest first, long rows split along the keys."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskc.tiles.cost import ROUGH, CostModel, row_costs
from maskc.tiles.tiling import Runs

if TYPE_CHECKING:
    from maskc.tiles.tiling import Group, Tiling

__all__ = ["Schedule", "schedule", "schedule_runs", "tiles_by_row"]

Array = npt.NDArray[Any]
#: A row is split into parts of at least this share of what a worker does in all.
_SHARE = 0.25


@dataclass(frozen=True, eq=False)
class Schedule:
    """Work items in the order in which workers should take them, heaviest first.

    ``row[i]``: the tile row; the item does its executed tiles number ``first[i]`` to ``last[i]`` (excluded),
    counted along the row. A row with more than one item is split along the keys: its parts are to be combined.
    Imbalances are the time until all is done over the mean load, if each of ``workers`` takes the next item when
    it is free: ``in_order``: whole rows in the order of the queries; ``heaviest_first``: whole rows, sorted;
    ``imbalance``: the items of this schedule.
    """

    row: Array
    first: Array
    last: Array
    cost: Array
    workers: int
    in_order: float
    heaviest_first: float
    imbalance: float

    @property
    def split_rows(self) -> int:
        """Number of rows that are split along the keys."""
        return int((np.bincount(self.row) > 1).sum()) if self.row.size else 0


def tiles_by_row(runs: Runs) -> Array:
    """Number of tiles that each row computes, int64."""
    total = np.concatenate([[0], np.cumsum((runs.end - runs.start).astype(np.int64))])
    found: Array = total[runs.offsets[1:]] - total[runs.offsets[:-1]]
    return found


def schedule(
    plan: Tiling, group: Group | None = None, *, workers: int, split: bool = True, model: CostModel = ROUGH
) -> Schedule:
    """The rows of a group (the first by default) as work items, heaviest first; with ``split``, rows above a fair
    share are split. The group's heads and batch entries all run the same items."""
    group = plan.groups[0] if group is None else group
    copies = len(group.heads) * len(group.batches)
    size = (plan.q_tile, plan.k_tile)
    return schedule_runs(group.runs, *size, workers=workers, split=split, copies=copies, model=model)


def schedule_runs(
    runs: Runs,
    q_tile: int,
    k_tile: int,
    *,
    workers: int,
    split: bool = True,
    copies: int = 1,
    model: CostModel = ROUGH,
) -> Schedule:
    """The schedule of runs of tiles, all of them ``copies`` times; ``workers``: how many compute at once.

    Raises ValueError if ``workers`` is not positive.
    """
    if workers < 1:
        raise ValueError(f"workers must be positive, not {workers}")
    cost, tiles = row_costs(runs, q_tile, k_tile, model), tiles_by_row(runs)
    parts = np.ones_like(tiles)
    if split and cost.size:
        fair = max(cost.sum() * copies / workers * _SHARE, float(cost.mean()))
        parts = np.maximum(1, np.minimum(np.ceil(cost / fair), tiles)).astype(np.int64)
    row = np.repeat(np.arange(tiles.size), parts)
    index = np.arange(row.size) - np.repeat(np.cumsum(parts) - parts, parts)
    first, last = tiles[row] * index // parts[row], tiles[row] * (index + 1) // parts[row]
    # Every part loads the queries and writes an output of its own.
    fixed = model.row + model.query * q_tile
    each = (cost - fixed)[row] * (last - first) / np.maximum(tiles[row], 1) + fixed
    order = np.argsort(-each, kind="stable")
    whole = np.sort(cost)[::-1]
    return Schedule(
        row=row[order],
        first=first[order],
        last=last[order],
        cost=each[order],
        workers=workers,
        in_order=_imbalance(np.tile(cost, copies), workers),
        heaviest_first=_imbalance(np.repeat(whole, copies), workers),
        imbalance=_imbalance(np.repeat(each[order], copies), workers),
    )


def _imbalance(cost: Array, workers: int) -> float:
    """The busiest worker over the mean, if each takes the next item when it is free."""
    total = float(cost.sum())
    if total <= 0:
        return 1.0
    heap = [0.0] * workers
    for each in cost.tolist():
        heapq.heapreplace(heap, heap[0] + each)
    return max(heap) * workers / total

"""Tile sizes by exact executed work, and an order of the rows in which no worker waits for long."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskc.ir.binding import Binding
from maskc.ir.program import Program
from maskc.tiles.plan import PARTIAL, Group
from maskc.tiles.runs import row_of_runs

if TYPE_CHECKING:
    from maskc.tiles.plan import TilePlan

__all__ = ["CostModel", "Schedule", "choose_tiles", "plan_cost", "schedule"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class CostModel:
    """What a kernel spends, in units of one pair of a full tile. The defaults are rough; measure to replace them.

    Attributes:
        partial: on a pair of a partial tile, whose mask is evaluated.
        edge: a tile of q x k costs ``1 + edge / q + edge / k`` times its pairs: small tiles load more for what
            they compute.
        run: on starting a run of tiles.
        row: on starting a row: loading the queries, writing the output.
    """

    partial: float = 1.25
    edge: float = 24.0
    run: float = 500.0
    row: float = 20_000.0


@dataclass(frozen=True, eq=False)
class Schedule:
    """Work items in the order in which workers should take them, heaviest first.

    ``row[i]``: the tile row; the item does its executed tiles number ``first[i]`` to ``last[i]`` (excluded),
    counted along the row. A row with more than one item is split along the keys: its parts are to be combined.
    ``imbalance``: the busiest of ``workers`` over the mean, if each takes the next item when it is free.
    """

    row: Array
    first: Array
    last: Array
    cost: Array
    workers: int
    imbalance: float

    @property
    def split_rows(self) -> int:
        """Number of rows that are split along the keys."""
        return int((np.bincount(self.row) > 1).sum()) if self.row.size else 0


def plan_cost(plan: TilePlan, model: CostModel = CostModel()) -> float:
    """What all heads and batch entries cost under the model."""
    return sum(float(_row_costs(plan, g, model).sum()) * len(g.heads) * len(g.batches) for g in plan.groups)


def _row_costs(plan: TilePlan, group: Group, model: CostModel) -> Array:
    runs = group.runs
    area = plan.q_tile * plan.k_tile * (1 + model.edge / plan.q_tile + model.edge / plan.k_tile)
    each = (runs.end - runs.start) * np.where(runs.kind == PARTIAL, model.partial, 1.0) * area + model.run
    return np.bincount(row_of_runs(runs), weights=each, minlength=plan.rows) + model.row


def choose_tiles(
    program: Program,
    binding: Binding,
    sizes: Sequence[tuple[int, int]] = ((128, 128), (128, 64), (64, 128), (64, 64), (64, 32), (32, 32)),
    model: CostModel = CostModel(),
    layout: str = "none",
) -> TilePlan:
    """The cheapest plan among tile sizes, by exact executed work under the cost model. Raises as ``make_plan``."""
    from maskc.tiles.planner import make_plan

    plans = (make_plan(program, binding, q_tile=q, k_tile=k, layout=layout) for q, k in sizes)
    return min(plans, key=lambda plan: plan_cost(plan, model))


def schedule(
    plan: TilePlan, group: Group | None = None, *, workers: int, split: bool = True, model: CostModel = CostModel()
) -> Schedule:
    """The rows of a group as work items, heaviest first; with ``split``, rows above a fair share are split.

    The group's heads and batch entries all run the same items.
    """
    group = plan.groups[0] if group is None else group
    runs = group.runs
    cost = _row_costs(plan, group, model)
    total = np.concatenate([[0], np.cumsum((runs.end - runs.start).astype(np.int64))])
    tiles = total[runs.offsets[1:]] - total[runs.offsets[:-1]]
    copies = len(group.heads) * len(group.batches)
    fair = max(cost.sum() * copies / max(1, workers) / 4, float(cost.mean()) if cost.size else 1.0)
    parts = np.maximum(1, np.minimum(np.ceil(cost / fair), tiles)).astype(np.int64) if split else np.ones_like(tiles)
    row = np.repeat(np.arange(plan.rows), parts)
    index = np.arange(row.size) - np.repeat(np.cumsum(parts) - parts, parts)
    first, last = tiles[row] * index // parts[row], tiles[row] * (index + 1) // parts[row]
    each = cost[row] / parts[row]
    order = np.argsort(-each, kind="stable")
    loads = _loads(np.tile(each[order], copies) if copies == 1 else np.repeat(each[order], copies), workers)
    imbalance = float(loads.max() / loads.mean()) if loads.any() else 1.0
    return Schedule(row[order], first[order], last[order], each[order], workers, imbalance)


def _loads(cost: Array, workers: int) -> Array:
    """What each worker does if it takes the next item when it is free."""
    heap = [0.0] * workers
    for each in cost.tolist():
        heapq.heapreplace(heap, heap[0] + each)
    return np.array(heap)

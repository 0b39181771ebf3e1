"""What tiles cost: the model by which plans are compared, and how its constants are measured.

The cost of a plan is linear in six counts, in units of one (query, key) pair of a full tile:

    pairs of full tiles + partial * pairs of partial tiles + edge * sum over tiles of (queries + keys)
    + run * runs + row * rows + query * queries

``edge`` stands for what a tile loads, ``partial`` for evaluating the mask, ``run`` for starting a loop over tiles,
``row`` for starting a row of tiles, ``query`` for loading a query and writing its output. Counts are exact; only the
constants are a matter of the machine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.arguments import expect
from maskc.tiles.runs import row_of_runs
from maskc.tiles.tiling import PARTIAL, Runs, Tiling
from maskc.tiles.values import fail, to_numpy

__all__ = [
    "ROUGH",
    "CostModel",
    "dense_cost",
    "features",
    "fit",
    "plan_cost",
    "row_costs",
]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class CostModel:
    """The constants, in units of one pair of a full tile. The defaults are rough; ``fit`` replaces them.

    Attributes:
        partial: a pair of a partial tile, whose mask is evaluated.
        edge: a query or a key of a tile: small tiles load more for what they compute.
        run: starting a run of tiles.
        row: starting a row of tiles.
        query: loading a query, writing its output.
        seconds: what one unit takes, where that was measured; else None.
    """

    partial: float = 1.25
    edge: float = 24.0
    run: float = 500.0
    row: float = 5_000.0
    query: float = 150.0
    seconds: float | None = None

    @property
    def weights(self) -> tuple[float, ...]:
        """The factors of what ``features`` counts."""
        return (1.0, self.partial, self.edge, self.run, self.row, self.query)


#: The model where none is given.
ROUGH = CostModel()


def row_costs(runs: Runs, q_tile: int, k_tile: int, model: CostModel = ROUGH) -> Array:
    """What each row costs, float64 (rows,)."""
    factor = np.where(runs.kind == PARTIAL, model.partial, 1.0)
    tile = factor * (q_tile * k_tile) + model.edge * (q_tile + k_tile)
    each = (runs.end - runs.start) * tile + model.run
    starting = model.row + model.query * q_tile
    return np.bincount(row_of_runs(runs), weights=each, minlength=runs.offsets.size - 1) + starting


def features(plan: Tiling) -> Array:
    """What the cost is linear in, of all heads and batch entries: pairs of full and of partial tiles, edges, runs,
    rows, queries; float64 (6,)."""
    found = np.zeros(6)
    for g in plan.groups:
        length = (g.runs.end - g.runs.start).astype(np.int64)
        partial = int(length[g.runs.kind == PARTIAL].sum())
        tiles, area = int(length.sum()), plan.q_tile * plan.k_tile
        edges = tiles * (plan.q_tile + plan.k_tile)
        one = [(tiles - partial) * area, partial * area, edges, length.size, plan.rows, plan.rows * plan.q_tile]
        found += np.array(one, np.float64) * (len(g.heads) * len(g.batches))
    return found


def plan_cost(plan: Tiling, model: CostModel = ROUGH) -> float:
    """What all heads and batch entries cost under the model."""
    return float(features(plan) @ np.array(model.weights))


def dense_cost(plan: Tiling, model: CostModel = ROUGH) -> float:
    """What computing every tile would cost, none of them masked, at the same tile sizes."""
    tiles, area = plan.rows * plan.cols, plan.q_tile * plan.k_tile
    runs = plan.rows if plan.cols else 0
    one = [tiles * area, 0, tiles * (plan.q_tile + plan.k_tile), runs, plan.rows, plan.rows * plan.q_tile]
    copies = sum(len(g.heads) * len(g.batches) for g in plan.groups)
    return float(np.array(one, np.float64) @ np.array(model.weights)) * copies


def fit(plans: Sequence[Tiling], seconds: Sequence[float], model: CostModel = ROUGH) -> CostModel:
    """The constants under which the plans take the seconds that were measured, by least squares of the relative
    error. None comes out negative: what seems to be is nothing. What the measurements do not tell stays as in
    ``model``, relative to a pair.

    Measure masks that differ in what the model tells apart: dense, causal and windowed ones, at a few tile sizes.
    Raises MaskcError: E503 to E505 unless there is one finite time above 0 for each plan. Raises ValueError if nothing
    can be learned of the cost of a pair.
    """
    times = _times(plans, seconds)
    counts = np.stack([features(p) for p in plans]) / times[:, None]
    told = _told(counts)
    rest, nothing = [c for c in range(counts.shape[1]) if c not in told], list[int]()
    while told:
        found = np.linalg.lstsq(_design(counts, told, rest, model), np.ones(len(plans)), rcond=None)[0]
        if (found >= 0).all():
            break
        nothing += [c for c, x in zip(told, found, strict=True) if x < 0 and c != 0]
        told = [c for c in told if c not in nothing] if (found[1:] < 0).any() else []
    if not told or found[0] <= 0:
        raise ValueError("the measurements do not tell what a pair costs: measure longer sequences, and denser masks")
    names = ("pair", "partial", "edge", "run", "row", "query")
    changes = {names[c]: float(x / found[0]) for c, x in zip(told[1:], found[1:], strict=True)}
    changes |= dict.fromkeys((names[c] for c in nothing), 0.0)
    return dataclasses.replace(model, seconds=float(found[0]), **changes)


def _times(plans: Sequence[Tiling], seconds: Sequence[float]) -> Array:
    """The seconds, one for each plan."""
    expect("plans", plans, Sequence, "a sequence of plans")
    for plan in plans:
        expect("each of plans", plan, Tiling, "a plan")
    found = to_numpy("seconds", seconds)
    if found.dtype.kind not in "iuf":
        raise fail("E503", "seconds: expected numbers")
    times = found.astype(np.float64)
    if not len(plans) or times.shape != (len(plans),):
        raise fail(
            "E505", f"seconds: expected one for each plan, ({len(plans)},) and at least one, found {times.shape}"
        )
    if not (np.isfinite(times) & (times > 0)).all():
        raise fail("E504", "seconds: what computing a plan takes is finite, and more than 0")
    return times


def _told(counts: Array) -> list[int]:
    """The columns that the measurements tell apart from those before, the cost of a pair first."""
    told: list[int] = []
    scale = np.maximum(np.abs(counts).max(axis=0), 1e-300)
    for c in range(counts.shape[1]):
        if np.linalg.matrix_rank(counts[:, [*told, c]] / scale[[*told, c]], tol=1e-6) == len(told) + 1:
            told.append(c)
    return told if told[:1] == [0] else []


def _design(counts: Array, told: list[int], rest: list[int], model: CostModel) -> Array:
    """The columns that are told; ``rest`` count with the pairs, at the model's ratio."""
    pair = counts[:, 0] + sum((counts[:, c] * model.weights[c] for c in rest), start=np.zeros(len(counts)))
    return np.column_stack([pair, *(counts[:, c] for c in told[1:])])

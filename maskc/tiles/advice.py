"""What would make a plan cheaper, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from maskc.diagnostics import MaskcError

if TYPE_CHECKING:
    from maskc.tiles.plan import TilePlan
    from maskc.tiles.statistics import Statistics

__all__ = ["advice"]

_WORTH = 1.3  # times faster, or it is not mentioned
_BUDGET = 20_000_000  # evaluations that trying something else may cost


def advice(plan: TilePlan, found: Statistics) -> Iterator[str]:
    """Sentences, each with the figure it rests on."""
    if not found.useful_pairs:
        yield "the mask keeps nothing: every output is zero"
        return
    if found.waste > _WORTH:
        yield from _other_plans(plan, found)
    if found.imbalance > 4:
        yield (
            f"the longest row of tiles is {found.imbalance:.1f} times the mean: split it along the keys "
            "(maskc.tiles.schedule does) or it decides how long the whole takes"
        )
    equal = _equal_runs(plan)
    if equal:
        yield f"{equal} of the {found.groups} distinct masks need the same tiles: their groups can share one plan"


def _other_plans(plan: TilePlan, found: Statistics) -> Iterator[str]:
    sizes = [size for size in (64, 32) if size < min(plan.q_tile, plan.k_tile)]
    gains = [(_gain(plan, found, size, size, plan.q_order.name), size) for size in sizes]
    gain, size = max(gains, default=(0.0, 0))
    if gain > _WORTH:
        yield f"tiles of {size} x {size} would execute {gain:.1f} times fewer pairs"
    if plan.q_order.name == "none":
        from maskc.tiles.layout import best_layout

        better = best_layout(plan, _BUDGET)
        if better is not None and better[1] > _WORTH:
            yield f"the layout {better[0]!r} would execute {better[1]:.1f} times fewer pairs: give layout='auto'"


def _gain(plan: TilePlan, found: Statistics, q_tile: int, k_tile: int, layout: str) -> float:
    from maskc.tiles.planner import make_plan
    from maskc.tiles.statistics import tile_counts

    try:
        other = make_plan(plan.program, plan.binding, q_tile=q_tile, k_tile=k_tile, layout=layout, budget=_BUDGET)
    except MaskcError:
        return 0.0
    tiles = sum(sum(tile_counts(g.runs)) * len(g.heads) * len(g.batches) for g in other.groups)
    return found.executed_pairs / (tiles * q_tile * k_tile) if tiles else 0.0


def _equal_runs(plan: TilePlan) -> int:
    """How many distinct masks have runs that another one has, too."""
    distinct = {id(g.runs): g.runs for g in plan.groups}.values()
    seen = [tuple(a.tobytes() for a in (r.offsets, r.start, r.end, r.kind)) for r in distinct]
    return sum(seen.count(s) > 1 for s in seen)

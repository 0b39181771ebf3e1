"""Grouped heads in one tile: the query heads that share a key head and a mask, as rows of the forward kernel.

A tile of ``Q_TILE`` rows then holds ``Q_TILE // pack`` queries of ``pack`` heads. It loads as many key tiles for each
of its rows as a tile of one head, and what heads of a group load one after another stays in the L2 cache anyway; what
packing saves is work: tiles of fewer queries cover a mask more closely. That is much for a narrow window, and next to
nothing where most tiles are full, for which rows of tiles would only be more to plan and to keep.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from maskc.backends.triton.tiles import PARTIAL_WORK
from maskc.diagnostics import MaskcError
from maskc.tiles.tiling import PARTIAL

if TYPE_CHECKING:
    from maskc.tiles.plan import TilePlan

__all__ = ["forward_pack", "shares_masks", "work"]

_LEAST_QUERIES = 16
_GAIN = 0.95  # of the work of heads apart: packed they must take less


def shares_masks(plan: TilePlan, group: int) -> bool:
    """Whether the query heads of every group of ``group`` that share a key head also share their masks."""
    return all(len(g.heads) == group * len({h // group for h in g.heads}) for g in plan.groups)


def work(plan: TilePlan) -> tuple[float, float]:
    """What the live tiles cost, in pairs of a full tile, over all heads and batch entries: all, and partial ones."""
    whole = partial = 0.0
    for g in plan.groups:
        tiles, some = g.runs.end - g.runs.start, g.runs.kind == PARTIAL
        times = len(g.heads) * len(g.batches) * plan.q_tile * plan.k_tile
        whole += times * int(tiles[~some].sum())
        partial += times * PARTIAL_WORK * int(tiles[some].sum())
    return whole + partial, partial


def forward_pack(plan: TilePlan, group: int, packed: Callable[[int], TilePlan]) -> int:
    """How many heads share a tile of the forward kernel: a power of 2, or 1 where that would not pay.

    ``plan``: with heads apart; ``group``: query heads that share a key head; ``packed``: the plan with so many
    queries a tile. Full tiles stay full in it, so it is asked for only where the partial ones leave something to gain.
    """
    pack = min(group & -group, max(1, plan.q_tile // _LEAST_QUERIES))
    apart, partial = work(plan)
    if pack == 1 or apart - partial >= _GAIN * apart or not shares_masks(plan, group):
        return 1
    try:
        together, _ = work(packed(plan.q_tile // pack))
    except MaskcError:  # too costly to plan
        return 1
    return pack if together <= _GAIN * apart else 1

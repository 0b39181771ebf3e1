"""From a program and a binding to the tiles that have to be computed, without ever looking at all pairs.

``make_plan`` goes this way (in ``planner``), and each step hands on only what it cannot prove:

1. ``binding`` checks lengths, arguments and inputs; ``groups`` finds the heads and batch entries that share a mask.
2. ``analysis``, once a pattern: the mask in normal form, and in row form (``rowform``), clauses ``lo(q) <= k < hi(q)``.
3. ``rowwise`` solves the clauses on stretches of queries, and ``overlay`` puts them together, by rows of tiles.
4. ``subdivide`` asks ``classify`` about boxes of tiles, by interval arithmetic (``ranges``, ``fields``, ``periods``),
   and halves those that are mixed; single tiles that are left are evaluated. ``budget`` counts what all this costs.
5. ``runs`` makes the rectangles of tiles (``grid``) into the runs of a ``tiling``, which is all data.

``layouts`` plans in other orders of the tokens. Above the way lies what is asked of tiles when they are there: their
``intervals``, ``transpose``, ``cost``, ``schedule``, ``advice``, ``statistics`` (``rules`` and ``rowsets`` count keys).
``plan`` is on top: the class that users hold, which hands all this on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskc.tiles.plan import TilePlan, make_plan

__all__ = ["TilePlan", "make_plan"]


def __getattr__(name: str) -> Any:
    # Lazily: reading and checking a pattern needs no NumPy.
    if name == "make_plan":
        from maskc.tiles.plan import make_plan

        return make_plan
    if name == "TilePlan":
        from maskc.tiles.plan import TilePlan

        return TilePlan
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

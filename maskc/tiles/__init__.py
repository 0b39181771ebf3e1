"""From a program and a binding to the tiles that have to be computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskc.tiles.plan import TilePlan
    from maskc.tiles.planner import make_plan

__all__ = ["TilePlan", "make_plan"]


def __getattr__(name: str) -> Any:
    # Lazily: reading and checking a pattern needs no NumPy.
    if name == "make_plan":
        from maskc.tiles.planner import make_plan

        return make_plan
    if name == "TilePlan":
        from maskc.tiles.plan import TilePlan

        return TilePlan
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

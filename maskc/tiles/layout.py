"""Token orders that make tiles dense."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maskc.tiles.plan import TilePlan

__all__ = ["best_layout"]


def best_layout(plan: TilePlan, budget: int) -> tuple[str, float] | None:
    return None

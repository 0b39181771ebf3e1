"""What planning may cost, what it has cost so far, and what it is going to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from maskc.diagnostics import Diagnostic, MaskcError

__all__ = ["BOX_COST", "BUDGET", "PROBES", "Budget", "Watch"]

#: Called now and then with the evaluations that are done and those that there are likely to be in all.
Watch = Callable[[int, int], None]
#: What planning may cost by default, in evaluations of the mask (a box counts as a few points).
BUDGET = 1_000_000_000
BOX_COST = 16  # what a box costs, in points
PROBES = 8  # points of a tile that are evaluated before all are


@dataclass(eq=False)
class Budget:
    """Evaluations that planning may spend; ``spend`` raises E801 before it goes beyond.

    ``before``: what was spent before this budget, for ``watch``.
    """

    limit: int
    watch: Watch | None = None
    before: int = 0
    spent: int = 0
    _began: int = 0
    _later: int = 0

    def begin(self, later: int) -> None:
        """A mask is planned next, and then so many more, which are taken to cost as much."""
        self._began, self._later = self.spent, later

    def spend(self, cost: int, what: str, tiles: int = 0, points: int = 0) -> None:
        """``tiles`` are still to be decided when this is spent, and ``points`` to be evaluated."""
        whole = self.spent + cost + tiles * (2 * BOX_COST + PROBES) + points
        if self.spent + cost > self.limit:
            raise MaskcError(_too_much(whole, self.limit, what))
        self.spent += cost
        if self.watch is not None:
            self.watch(self.before + self.spent, self.before + whole + self._later * (whole - self._began))


def _too_much(whole: int, limit: int, what: str) -> Diagnostic:
    message = f"planning this mask would take about {whole:.1g} evaluations of it ({what}); the limit is {limit:.1g}"
    hint = (
        "the mask varies within nearly every tile, so that tiles save nothing: shorten the sequence, make the "
        "tiles coarser, say what the irregular part depends on with coarser coordinates (such as q // 64), or "
        "raise the limit with make_plan(..., budget=...)"
    )
    return Diagnostic("E801", message, hint=hint)

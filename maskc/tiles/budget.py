"""What planning may cost, what it has cost so far, and what it is going to."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from maskc.diagnostics import Diagnostic, MaskcError
from maskc.ir.alternatives import most_cases
from maskc.ir.schedule import schedule

if TYPE_CHECKING:
    from maskc.ir.binding import Binding
    from maskc.ir.program import Program

__all__ = [
    "BOX_COST",
    "BUDGET",
    "INTERVALS",
    "INTERVAL_COST",
    "LISTED_COST",
    "OPERATIONS",
    "ORDINARY",
    "OWN_MASKS",
    "PROBES",
    "PROOF",
    "RANGES_AT_ONCE",
    "Budget",
    "Outdone",
    "Watch",
    "evaluations_of",
    "operations_of",
    "proof_budget",
    "within_memory",
]

#: Called now and then with the evaluations that are done and those that there are likely to be in all.
Watch = Callable[[int, int], None]
#: What planning may cost by default, in evaluations of the mask (a box counts as a few points): some ten seconds.
BUDGET = 400_000_000
BOX_COST = 8  # what a box costs, in points; and in units of other work, beside them
INTERVAL_COST = 16  # what an interval of keys costs, in units of other work
LISTED_COST = 8  # and one that a list holds, which needs no solving
PROBES = 8  # points of a tile that are evaluated before all are
#: What was too much where masks are many, and not one of them irregular.
OWN_MASKS = "heads and batch entries with masks of their own"
#: And where the plan is what would be large.
INTERVALS = "intervals of keys"
#: Operations on numbers that an evaluation stands for in a budget: those that masks mostly have. One of more counts as
#: several, so that the budget bounds the time whatever the mask: at 1 to 3 ns an operation.
OPERATIONS = 16
#: What all proofs of a call may cost together, in operations on numbers: at about a nanosecond each, some ten seconds.
#: Somebody waits for a proof; and what can be proved at all is mostly proved in milliseconds.
PROOF = 12_000_000_000
#: Operations that a point takes beside those of the mask, and those that a unit of other work takes.
_BESIDE, _PLAIN = 8, 16
#: Evaluations that one of a mask counts as, at most, where the mask is one that is written by hand.
ORDINARY = 8
#: Ranges and verdicts that are held at once, for all nodes, boxes and values of indices: each takes some 50 bytes.
RANGES_AT_ONCE = 1 << 22
#: What a node takes in units of other work, beside what is computed there for each box: some ten microseconds.
_NODE = 1 << 10
#: And where points are so few that they are evaluated outright.
_OUTRIGHT = 512


@dataclass(frozen=True)
class Measure:
    """What a budget counts in. ``each``: what an evaluation of a program's mask counts as; ``plain``: what a unit of
    other work does; ``refusal``: says what a whole was too much for a limit, what takes it, and ``each``."""

    each: Callable[[Program, Binding], int]
    plain: int
    refusal: Callable[[int, int, str, int], Diagnostic]


def evaluations_of(program: Program, binding: Binding, outright: bool = False) -> int:
    """What one evaluation of a program's mask counts as: 1, or more where it is large or has many cases.

    ``outright``: where a bounded number of points is evaluated without any planning, the mask as it is.
    """
    return max(1, _work(program, binding) // _OUTRIGHT if outright else operations_of(program, binding) // OPERATIONS)


def operations_of(program: Program, binding: Binding) -> int:
    """About how many operations on numbers one evaluation of a program's mask takes."""
    return _BESIDE + _work(program, binding)


def _work(program: Program, binding: Binding) -> int:
    return schedule(program.mask).work(most_cases(program.mask, program, binding))


def _too_much(whole: int, limit: int, what: str, each: int) -> Diagnostic:
    message = f"planning this mask would take about {whole:.1g} evaluations of it ({what}); the limit is {limit:.1g}"
    remedy = {
        OWN_MASKS: "give fewer heads or batch entries at once, or ",
        INTERVALS: "a row of tiles has very many stretches of keys, all of which the plan would hold: shorten the "
        "sequence, make the tiles coarser, or ",
    }
    hint = remedy.get(
        what,
        "the mask varies within nearly every tile, so that tiles save nothing: shorten the sequence, make the "
        "tiles coarser, say what the irregular part depends on with coarser coordinates (such as q // 64), or ",
    )
    hint += "raise the limit: budget=... of make_plan and maskc.compile(..., budget=...), --budget of maskc plan"
    if each > 1:
        message = (
            f"planning this mask would take about {whole:.1g} evaluations ({what}; one of this mask counts as {each:,} "
            f"by the work that it is); the limit is {limit:.1g}"
        )
    return Diagnostic("E801", message, hint=hint)


def _too_hard(whole: int, limit: int, what: str, each: int) -> Diagnostic:
    message = f"this proof would take about {whole:.1g} operations ({what}); the limit is {limit:.1g}"
    hint = (
        "what the mask keeps beyond the claim cannot be told here without looking at pair after pair: shorten the "
        "sequence, give fewer heads or batch entries, prove a simpler claim, or say what the irregular part depends on "
        "with coarser coordinates (such as q // 64)"
    )
    return Diagnostic("E801", message, hint=hint)


_PLANNING, _PROVING = Measure(evaluations_of, 1, _too_much), Measure(operations_of, _PLAIN, _too_hard)


class Outdone(Exception):
    """A plan is given up: it has at least ``tiles`` that are computed, which is more than another one has in all."""

    def __init__(self, tiles: int) -> None:
        super().__init__(tiles)
        self.tiles = tiles


@dataclass(eq=False)
class Budget:
    """What planning may spend, in evaluations of the mask or as ``measure`` says; ``spend`` and ``evaluate`` raise E801
    before they go beyond.

    ``before``: what was spent before this budget, for ``watch``; ``each``: what an evaluation of the mask counts as;
    ``nodes``: how many operators and operands it has.
    ``most``: how many tiles to compute, over all heads and batch entries, are too many for the plan to be of use.
    """

    limit: int
    watch: Watch | None = None
    before: int = 0
    spent: int = 0
    each: int = 1
    measure: Measure = _PLANNING
    most: float = math.inf
    nodes: int = 0
    _began: int = 0
    _later: int = 0
    _copies: int = 1
    _tiles: int = 0

    def begin(self, later: int, copies: int = 1, tiles: int = 0) -> None:
        """A mask is planned next, and then so many more, which are taken to cost as much. ``copies`` heads and batch
        entries have it; those before it have ``tiles`` to compute."""
        self._began, self._later = self.spent, later
        self._copies, self._tiles = copies, tiles

    def found(self, tiles: int) -> None:
        """The mask has so many tiles to compute, at least, and is not done. Raises Outdone where that is too many."""
        if (least := self._tiles + self._copies * tiles) >= self.most:
            raise Outdone(least)

    def spend(self, cost: int, what: str, tiles: int = 0, points: int = 0, more: int = 0) -> None:
        """Work beside evaluations of the mask. ``tiles`` are still to be decided when this is spent, ``points`` to be
        evaluated, and ``more`` of the same work to be done, by what was done."""
        self._spend(cost * self.measure.plain, what, tiles, points, more * self.measure.plain)

    def _spend(self, cost: int, what: str, tiles: int = 0, points: int = 0, more: int = 0) -> None:
        whole = self.spent + cost + tiles * (2 * self._box + PROBES * self.each) + points * self.each + more
        if self.spent + cost > self.limit:
            raise MaskcError(self.measure.refusal(whole, self.limit, what, self.each))
        self.spent += cost
        if self.watch is not None:
            self.watch(self.before + self.spent, self.before + whole + self._later * (whole - self._began))

    def evaluate(self, points: int, what: str, tiles: int = 0, later: int = 0) -> None:
        """The mask is evaluated at ``points``; as ``spend``."""
        self._spend(points * self.each, what, tiles, later)

    def ask(self, boxes: int, what: str, tiles: int = 0) -> None:
        """What the mask is on ``boxes`` is asked; as ``spend``."""
        self._spend(boxes * self._box, what, tiles)

    def foresee(self, boxes: int, what: str, points: int) -> None:
        """So many ``boxes`` will be asked about, and ``points`` evaluated: raises E801 where that is too much."""
        if self.spent + boxes * self._box + points * self.each > self.limit:
            self._spend(boxes * self._box + points * self.each, what)

    @property
    def _box(self) -> int:
        """Of a mask with very many nodes few boxes are asked about at once, since a range is held for each node: then
        going through the nodes takes longer than what is computed there."""
        going = self.nodes * self.nodes // (RANGES_AT_ONCE // _NODE)
        return BOX_COST * (self.each + self.measure.plain) + going * self.measure.plain

    def examine(self, points: int) -> None:
        """The mask is evaluated at ``points`` whose number is bounded, which costs something only where the mask is a
        large one."""
        self._spend(points * max(0, self.each - ORDINARY), "pairs that have to be looked at one by one")

    def affords(self, points: int) -> bool:
        """Whether the mask may still be evaluated so often."""
        return self.spent + points * self.each <= self.limit

    def affords_boxes(self, boxes: int, more: int = 0) -> bool:
        """Whether so many boxes may still be asked about, and so much spent beside."""
        return self.spent + boxes * self._box + more <= self.limit

    def affords_beside(self, cost: int) -> bool:
        """Whether so much other work may still be done."""
        return self.spent + cost * self.measure.plain <= self.limit


@contextlib.contextmanager
def within_memory(what: str) -> Iterator[None]:
    """Raises MaskcError E801 where memory does not suffice for ``what``."""
    try:
        yield
    except MemoryError:
        hint = "shorten the sequence, or make the mask simpler"
        raise MaskcError(Diagnostic("E801", f"{what} would take more memory than there is", hint=hint)) from None


def proof_budget(limit: int | None = None) -> Budget:
    """For a proof, in operations on numbers: ``limit``, by default all that the proofs of a call may cost."""
    return Budget(PROOF if limit is None else limit, measure=_PROVING)

"""Prove a program's assertions for a binding, by planning: in milliseconds for a million tokens.

That a claim holds at every kept pair means that the mask "kept, and not claimed" keeps nothing, and whether it does is
what the planner finds out exactly. A counterexample is a pair that it does keep.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from maskc.arguments import shown
from maskc.diagnostics import Diagnostic, MaskcError, Source
from maskc.ir.ops import apply
from maskc.ir.text import Labels, labels_of, print_node, print_program
from maskc.tiles import make_plan
from maskc.tiles.budget import Budget, budget_of
from maskc.tiles.plan import FULL
from maskc.tiles.rowsets import row_sets
from maskc.tiles.runs import concatenated_ranges, row_of_runs
from maskc.tiles.values import fail

if TYPE_CHECKING:
    import numpy.typing as npt

    from maskc.ir.binding import Binding
    from maskc.ir.program import Assertion, Program
    from maskc.tiles.plan import Group, Runs, TilePlan
    from maskc.tiles.rowsets import KeyRanges

    Bools = npt.NDArray[np.bool_]

__all__ = ["Proof", "check", "prove", "with_claims"]

_TILES_AT_ONCE = 64
#: What a program is called while its own text is read again: a name that nothing in it has.
_PRINTED = "p"
#: Characters of a claim that are shown: all of what a person writes, and not all of what may be written.
_MOST_CLAIM = 1000
#: Query and key of a counterexample; None where the assertion speaks of all of them.
Place = tuple[int | None, int | None]


def with_claims(program: Program, claims: tuple[str, ...], source: Source | None = None) -> Program:
    """``program`` with claims as its only assertions, each written as after ``assert``.

    ``source``: the text that the program was lowered from, whose definitions and ``let`` names claims may use. Without
    it, or where it is the text of another program, claims speak of the program's parameters and spaces only. Raises as
    ``parse`` does, and E503 where one is more than a claim.
    """
    from maskc.lower import lower_claims

    for claim in claims:
        if not isinstance(claim, str):
            raise fail("E503", f"claims are strings, as 'k <= q', not {shown(claim)}")
    bare = program.replace(assertions=())
    if source is not None:
        found = lower_claims(source, program.name, claims)
        if found.replace(assertions=()) == bare:
            return found
    found = lower_claims(Source(print_program(bare, name=_PRINTED, docs=False)), _PRINTED, claims)
    return program.replace(assertions=found.assertions)


@dataclass(frozen=True)
class Proof:
    """An assertion, and where it fails first: ``batch``, ``head``, ``query`` and ``key``, in this order.

    ``holds``: it fails nowhere. Query or key is None where the assertion speaks of all of them, batch and head
    where it holds. Queries are absolute positions. ``labels``: the names of the values of enumerations.
    """

    assertion: Assertion
    holds: bool
    batch: int | None = None
    head: int | None = None
    query: int | None = None
    key: int | None = None
    labels: Labels = field(default_factory=dict, compare=False, repr=False)

    @property
    def claim(self) -> str:
        """What is asserted, in the core language; a very long claim ends in "..."."""
        if self.assertion.claim is None:
            return "some k" if self.assertion.kind == "some_key" else "some q"
        return print_node(self.assertion.claim, labels=self.labels, most=_MOST_CLAIM)

    def __str__(self) -> str:
        if self.holds:
            return f"{self.claim} holds"
        where = f"in batch entry {self.batch}, head {self.head}"
        if self.assertion.kind == "some_key":
            return f"{where}, query {self.query} keeps no key"
        if self.assertion.kind == "some_query":
            return f"{where}, no query keeps key {self.key}"
        return f"{where}, query {self.query} keeps key {self.key}, but not {self.claim}"


def check(program: Program, binding: Binding) -> None:
    """Raises E513 with the first counterexample of every assertion that does not hold, E801 where planning costs
    too much."""
    problems = []
    for number, assertion in enumerate(program.assertions, 1):
        proof = prove(program, binding, assertion)
        if not proof.holds:
            message = f"assertion {number} of {program.name!r} does not hold: {proof}"
            problems.append(Diagnostic("E513", message, hint="change the mask or the assertion"))
    if problems:
        raise MaskcError(problems)


def prove(program: Program, binding: Binding, assertion: Assertion) -> Proof:
    """Whether the assertion holds of the program's mask under the binding; exact. Raises E801.

    "some q" is asked of the queries that are present: with fewer queries than keys it speaks of them only.
    """
    wrong = program.replace(assertions=())
    if assertion.claim is not None:
        wrong = wrong.replace(mask=apply("and", program.mask, apply("not", assertion.claim)))
    find = {"all": _kept_pair, "some_key": _blind_query, "some_query": _unseen_key}[assertion.kind]
    plan, budget = make_plan(wrong, binding), budget_of(wrong, binding)
    for group in sorted(plan.groups, key=lambda g: (min(g.batches), min(g.heads))):
        place = find(plan, group, budget)
        if place is not None:
            first = min(group.batches), min(group.heads)
            return Proof(assertion, False, *first, *place, labels=labels_of(program))
    return Proof(assertion, True, labels=labels_of(program))


def _kept_pair(plan: TilePlan, group: Group, budget: Budget) -> Place | None:
    """The first pair that is kept."""
    runs, rows = group.runs, np.flatnonzero(np.diff(group.runs.offsets))
    if not rows.size:
        return None
    row, which = int(rows[0]), slice(runs.offsets[rows[0]], runs.offsets[rows[0] + 1])
    cols = concatenated_ranges(runs.start[which], runs.end[which] - runs.start[which])
    best = (plan.q_tile, 0)
    for part in np.array_split(cols, -(-cols.size // _TILES_AT_ONCE)):
        budget.examine(part.size * plan.q_tile * plan.k_tile)
        tile, q, k = np.nonzero(plan.tile_mask(group, np.full(part.size, row), part))
        first = q.min(initial=plan.q_tile)
        key = part[tile[q == first]] * plan.k_tile + k[q == first]
        best = min(best, (int(first), int(key.min(initial=plan.binding.k_len))))
    return plan.binding.offset + row * plan.q_tile + best[0], best[1]


def _blind_query(plan: TilePlan, group: Group, budget: Budget) -> Place | None:
    """The first query that keeps no key."""
    sets = row_sets(plan.program, plan.binding, group.heads[0], group.batches[0])
    seen = _met(plan, group, group.runs, budget) if sets is None else sets.counts() > 0
    blind = np.flatnonzero(~seen)
    return (plan.binding.offset + int(blind[0]), None) if blind.size else None


def _unseen_key(plan: TilePlan, group: Group, budget: Budget) -> Place | None:
    """The first key that no query keeps."""
    sets = row_sets(plan.program, plan.binding, group.heads[0], group.batches[0])
    if sets is not None and sets.all_ranges:
        seen = np.zeros(plan.binding.k_len, np.bool_)
        for ranges in sets.ranges():
            seen |= _covered(ranges, plan.binding.k_len)
    else:
        columns = plan.transposed().groups[plan.groups.index(group)].runs
        seen = _met(plan, group, columns, budget, by_columns=True)
    unseen = np.flatnonzero(~seen)
    return (None, int(unseen[0])) if unseen.size else None


def _covered(ranges: KeyRanges, k_len: int) -> Bools:
    """Which keys are in the range of some query."""
    size = k_len if ranges.order is None else ranges.order.size
    some = ranges.end > ranges.start
    change = np.bincount(ranges.start[some], minlength=size + 1) - np.bincount(ranges.end[some], minlength=size + 1)
    inside = np.cumsum(change)[:size] > 0
    seen = np.zeros(k_len, np.bool_)
    seen[np.flatnonzero(inside) if ranges.order is None else ranges.order[inside]] = True
    return seen


def _met(plan: TilePlan, group: Group, runs: Runs, budget: Budget, by_columns: bool = False) -> Bools:
    """Which queries (or, with runs by columns, which keys) are in a kept pair: by tiles, each line's first ones first.

    A line of tiles is done when a full tile, or the partial ones looked at so far, meet all of it.
    """
    tile, length = (plan.k_tile, plan.binding.k_len) if by_columns else (plan.q_tile, plan.binding.q_len)
    line = row_of_runs(runs)
    met = np.zeros((runs.offsets.size - 1, tile), np.bool_)
    met.reshape(-1)[length:] = True
    met[line[runs.kind == FULL]] = True
    run, at = runs.offsets[:-1].astype(np.int64), np.zeros(len(met), np.int64)
    while True:
        pending = np.flatnonzero((run < runs.offsets[1:]) & ~met.all(axis=1))
        if not pending.size:
            whole: Bools = met.reshape(-1)[:length]
            return whole
        other = runs.start[run[pending]] + at[pending]
        for part in np.array_split(np.arange(pending.size), -(-pending.size // _TILES_AT_ONCE)):
            budget.examine(part.size * plan.q_tile * plan.k_tile)
            rows, cols = (other[part], pending[part]) if by_columns else (pending[part], other[part])
            met[pending[part]] |= plan.tile_mask(group, rows, cols).any(axis=1 if by_columns else 2)
        at[pending] += 1
        over = pending[other + 1 >= runs.end[run[pending]]]
        run[over] += 1
        at[over] = 0

"""Prove a program's assertions for a binding, by planning: in milliseconds for a million tokens.

That a claim holds at every kept pair means that the mask "kept, and not claimed" keeps nothing, and whether it does is
what the planner finds out exactly, one distinct mask of heads and batch entries after another. A counterexample is a
pair that it does keep.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from maskc.arguments import shown
from maskc.counterexamples import counterexample
from maskc.diagnostics import Diagnostic, MaskcError, Source
from maskc.ir.ops import apply
from maskc.ir.text import Labels, labels_of, print_node, print_program
from maskc.tiles.budget import Budget, operations_of, proof_budget
from maskc.tiles.planner import plans_by_mask
from maskc.tiles.values import fail

if TYPE_CHECKING:
    from collections.abc import Iterator

    from maskc.ir.binding import Binding
    from maskc.ir.program import Assertion, Program

__all__ = ["Proof", "check", "prove", "prove_all", "with_claims"]

#: What a program is called while its own text is read again: a name that nothing in it has.
_PRINTED = "p"
#: Characters of a claim that are shown: all of what a person writes, and not all of what may be written.
_MOST_CLAIM = 1000


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
    """Raises E513 with the first counterexample of every assertion that does not hold, and E801 for every one that
    takes too much work, all of them together."""
    problems: list[Diagnostic] = []
    for number, proof in enumerate(prove_all(program, binding), 1):
        if isinstance(proof, MaskcError):
            problems.extend(proof.diagnostics)
        elif not proof.holds:
            message = f"assertion {number} of {program.name!r} does not hold: {proof}"
            problems.append(Diagnostic("E513", message, hint="change the mask or the assertion"))
    if problems:
        raise MaskcError(problems)


def prove_all(program: Program, binding: Binding) -> Iterator[Proof | MaskcError]:
    """What becomes of every assertion of the program in turn: its proof, or the E801 that ``prove`` raises.

    Together they cost no more than one alone may. Each may take an equal share of what is left, so that what takes too
    much work hides nothing that takes little.
    """
    left = proof_budget().limit
    for others, assertion in zip(reversed(range(len(program.assertions))), program.assertions, strict=True):
        budget = proof_budget(left // (1 + others))
        try:
            yield prove(program, binding, assertion, budget)
        except MaskcError as error:
            yield error
        left -= budget.spent


def prove(program: Program, binding: Binding, assertion: Assertion, budget: Budget | None = None) -> Proof:
    """Whether the assertion holds of the program's mask under the binding, of every head and batch entry that it has;
    exact. Heads and batch entries that share a mask are looked at once, and those of later ones not where an earlier
    one has a counterexample.

    "some q" is asked of the queries that are present: with fewer queries than keys it speaks of them only.
    ``budget``: what it may cost; by default all that the proofs of a call may. Raises E801, which says in
    how many masks the assertion was found to hold before.
    """
    budget = proof_budget() if budget is None else budget
    wrong = program.replace(assertions=())
    if assertion.claim is not None:
        wrong = wrong.replace(mask=apply("and", program.mask, apply("not", assertion.claim)))
    labels, each, before = labels_of(program), operations_of(wrong, binding), 0
    try:
        for plan in plans_by_mask(wrong, binding, budget):
            budget.each = each  # The mask is looked at as it is written, and planned in normal form.
            place = counterexample(assertion.kind, plan, plan.groups[0], budget)
            if place is not None:
                first = plan.groups[0].batches[0], plan.groups[0].heads[0]
                return Proof(assertion, False, *first, *place, labels=labels)
            before += 1
    except MaskcError as error:
        claim = Proof(assertion, False, labels=labels).claim
        raise MaskcError([_refused(d, claim, before) for d in error.diagnostics]) from None
    return Proof(assertion, True, labels=labels)


def _refused(d: Diagnostic, claim: str, before: int) -> Diagnostic:
    """E801 with what it is about, and how far the proof came."""
    masks = f"{before:,} mask{'' if before == 1 else 's'}"
    found = f"; it was proved of {masks} of heads and batch entries before" if before else ""
    return replace(d, message=f"{claim}: {d.message}{found}")

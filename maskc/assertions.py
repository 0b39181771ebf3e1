"""Check a program's assertions by looking at every pair of a binding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from maskc.diagnostics import Diagnostic, MaskcError
from maskc.ir.evaluate import evaluate
from maskc.ir.nodes import Lookup, Node, Symbol, postorder
from maskc.ir.text import print_node

if TYPE_CHECKING:
    import numpy.typing as npt

    from maskc.ir.binding import Binding
    from maskc.ir.program import Assertion, Program

    Mask = npt.NDArray[np.bool_]

__all__ = ["check", "counterexample"]

_PAIRS_AT_ONCE = 1 << 20


def check(program: Program, binding: Binding) -> None:
    """Raises E513 with the first counterexample of every assertion that does not hold.

    "some q" is asked of the queries that are present: with fewer queries than keys it speaks of them only.
    """
    problems = []
    for number, assertion in enumerate(program.assertions, 1):
        found = counterexample(program, binding, assertion)
        if found is not None:
            message = f"assertion {number} of {program.name!r} does not hold: {_words(assertion, *found)}"
            problems.append(Diagnostic("E513", message, hint="change the mask or the assertion"))
    if problems:
        raise MaskcError(problems)


def counterexample(
    program: Program, binding: Binding, assertion: Assertion
) -> tuple[int, int, int | None, int | None] | None:
    """The first (batch entry, head, query, key) at which the assertion fails, in this order; None if it holds.

    Query or key is None where the assertion speaks of all of them. Queries are absolute positions.
    """
    roots = [program.mask] if assertion.claim is None else [program.mask, assertion.claim]
    heads, batches = _distinct(binding, roots)
    for b in range(batches):
        for h in range(heads):
            place = _find(program, binding, assertion, h, b)
            if place is not None:
                return (b, h, *place)
    return None


def _find(
    program: Program, binding: Binding, assertion: Assertion, h: int, b: int
) -> tuple[int | None, int | None] | None:
    covered = np.zeros(binding.k_len, np.bool_)
    for q in _rows(binding):
        kept = _at(program, binding, program.mask, q, h, b)
        if assertion.kind == "some_query":
            covered |= kept.any(axis=0)
            continue
        if assertion.kind == "some_key":
            empty = np.flatnonzero(~kept.any(axis=1))
            if empty.size:
                return int(q[empty[0], 0]), None
            continue
        assert assertion.claim is not None
        wrong = np.argwhere(kept & ~_at(program, binding, assertion.claim, q, h, b))
        if wrong.size:
            return int(q[wrong[0, 0], 0]), int(wrong[0, 1])
    if assertion.kind == "some_query" and not covered.all():
        return None, int(np.flatnonzero(~covered)[0])
    return None


def _rows(binding: Binding) -> Iterator[npt.NDArray[np.int64]]:
    step = max(1, _PAIRS_AT_ONCE // max(1, binding.k_len))
    for lo in range(0, binding.q_len, step):
        yield binding.offset + np.arange(lo, min(lo + step, binding.q_len), dtype=np.int64)[:, None]


def _at(program: Program, binding: Binding, node: Node, q: npt.NDArray[np.int64], h: int, b: int) -> Mask:
    k = np.arange(binding.k_len, dtype=np.int64)[None]
    value = evaluate(node, binding, q=q, k=k, h=h, b=b, params=program.params)
    return np.broadcast_to(value, (len(q), binding.k_len))


def _distinct(binding: Binding, roots: list[Node]) -> tuple[int, int]:
    """How many heads and batch entries have to be looked at: one, where the expressions do not speak of them."""
    nodes = list(postorder(roots))
    batched = any(isinstance(n, Lookup) and n.name in binding.batched for n in nodes)
    heads = binding.heads if Symbol("h") in nodes else 1
    return heads, binding.batch if batched or Symbol("b") in nodes else 1


def _words(assertion: Assertion, b: int, h: int, q: int | None, k: int | None) -> str:
    where = f"in batch entry {b}, head {h}"
    if assertion.kind == "some_key":
        return f"{where}, query {q} keeps no key"
    if assertion.kind == "some_query":
        return f"{where}, no query keeps key {k}"
    assert assertion.claim is not None
    return f"{where}, query {q} keeps key {k}, but not {print_node(assertion.claim)}"

"""How many cases ``any`` looks at: bounded, so that a mask that a stranger wrote ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from maskc.ir.evaluate import evaluate
from maskc.ir.interval import Interval, intervals, ranges_under
from maskc.ir.nodes import Const, Exists, Lookup, Node, Param, Symbol, postorder
from maskc.ir.schedule import free_indices
from maskc.ir.size import MAX_ALTERNATIVES, too_many

if TYPE_CHECKING:
    from maskc.ir.binding import Binding
    from maskc.ir.program import Program

__all__ = ["alternatives", "check_alternatives", "constant_cases", "most_cases", "written_out"]


def alternatives(node: Node, count: Callable[[Node], int | float]) -> int | float:
    """How many there are once every ``any`` is written out, those within others multiplied. ``count``: the cases of
    one, from its count; 0 to leave it as it is."""
    made: dict[Node, int | float] = {}
    for n in postorder([node]):
        made[n] = sum(made[c] for c in n.children)
        cases = max(0, count(n.count)) if isinstance(n, Exists) else 0
        if isinstance(n, Exists) and cases:
            made[n] = cases * max(1, made[n.body])
    return made[node]


def written_out(node: Node, count: Callable[[Node], int | float]) -> int | float:
    """How many operators and operands there are at most once every ``any`` is written out: in each of its cases those
    that speak of its index, while all others are shared. ``count``: as for ``alternatives``."""
    free, made = free_indices([node]), dict[Node, int | float]()
    for n in postorder([node]):
        cases = max(0, count(n.count)) if isinstance(n, Exists) else 0
        if isinstance(n, Exists) and cases:
            made[n] = cases * sum(made[x] for x in postorder([n.body]) if n.index in free[x])
        else:
            made[n] = 1
    return sum(made[n] for n in made if not free[n])


def constant_cases(count: Node) -> int:
    """The cases of an ``any`` whose count is a constant."""
    return int(count.value) if isinstance(count, Const) else 0


def check_alternatives(program: Program, binding: Binding) -> None:
    """Raises MaskcError E508 if some expression looks at more cases than there may be, under a binding."""
    roots = [r for r in program.roots() if any(isinstance(n, Exists) for n in postorder([r]))]
    for root in roots:
        if alternatives(root, _counts(root, program, binding)) > MAX_ALTERNATIVES:
            raise too_many()


def most_cases(root: Node, program: Program, binding: Binding) -> Callable[[Node], int]:
    """The cases of an ``any`` below ``root`` from its count, at most, under a binding that was checked."""
    most = _counts(root, program, binding)
    return lambda count: int(min(max(most(count), 0), MAX_ALTERNATIVES))


def _counts(root: Node, program: Program, binding: Binding) -> Callable[[Node], int | float]:
    counts = list(dict.fromkeys(n.count for n in postorder([root]) if isinstance(n, Exists)))
    if all(isinstance(n, Const) for n in counts):
        return constant_cases
    bounds = intervals([root], ranges_under(program, binding))
    return {n: _most(n, bounds[n], program, binding) for n in counts}.__getitem__


def _most(count: Node, bounds: Interval, program: Program, binding: Binding) -> int | float:
    """The most cases that a count gives under a binding, as far as that is known."""
    if bounds[1] <= MAX_ALTERNATIVES:
        return bounds[1]
    # Of floats little is known, but a count speaks of few things, so that it can be computed.
    names = {n.name for n in postorder([count]) if isinstance(n, (Symbol, Lookup, Param))}
    if names & {p.name for p in program.params} - set(binding.tables) - set(binding.args):
        return 0  # what is not given is not evaluated under this binding
    if names & {"q", "k", "s", "o"} or free_indices([count])[count]:
        return bounds[1]
    import numpy as np

    zero, h = np.zeros((), np.int64), np.arange(max(1, binding.heads))[:, None]
    b = np.arange(binding.batch if names & binding.batched else 1)
    return int(np.max(evaluate(count, binding, q=zero, k=zero, h=h, b=b, params=program.params), initial=0))

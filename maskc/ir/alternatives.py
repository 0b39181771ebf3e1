"""How many cases ``any`` looks at: bounded, so that a mask that a stranger wrote ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from maskc.diagnostics import Diagnostic, MaskcError
from maskc.ir.interval import intervals, ranges_under
from maskc.ir.nodes import Const, Exists, Node, postorder

if TYPE_CHECKING:
    from maskc.ir.binding import Binding
    from maskc.ir.program import Program

__all__ = ["MAX_ALTERNATIVES", "alternatives", "check_alternatives", "constant_cases", "too_many"]

MAX_ALTERNATIVES = 4096


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


def constant_cases(count: Node) -> int:
    """The cases of an ``any`` whose count is a constant."""
    return int(count.value) if isinstance(count, Const) else 0


def check_alternatives(program: Program, binding: Binding) -> None:
    """Raises MaskcError E508 if some expression looks at more cases than there may be, under a binding."""
    roots = [r for r in program.roots() if any(isinstance(n, Exists) for n in postorder([r]))]
    if not roots:
        return
    bounds = intervals(roots, ranges_under(program, binding))

    def most(count: Node) -> int | float:
        return bounds[count][1] if math.isfinite(bounds[count][1]) else 0  # of a table that is not read here

    if any(alternatives(root, most) > MAX_ALTERNATIVES for root in roots):
        raise too_many()


def too_many() -> MaskcError:
    """E508."""
    hint = "use a table or an input of the chosen keys, or fewer alternatives"
    return MaskcError(Diagnostic("E508", f"`any` has more than {MAX_ALTERNATIVES} alternatives in all", hint=hint))

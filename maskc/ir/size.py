"""How large a program may be, so that every stage ends soon: a mask that a stranger wrote is no exception."""

from __future__ import annotations

from maskc.diagnostics import Diagnostic, MaskcError
from maskc.ir.nodes import postorder
from maskc.ir.program import Program

__all__ = [
    "FEWER",
    "MAX_ALTERNATIVES",
    "MAX_NODES",
    "MAX_NODE_DEPTH",
    "MAX_PRINTED",
    "MAX_WRITTEN",
    "TOO_DEEP",
    "check_depth",
    "size_problem",
    "too_many",
]

#: Nodes of a program as written, each once. The largest of the examples have 160; some analyses take time by the
#: square of the number.
MAX_NODES = 2048
#: Nodes within one another. The deepest of the examples are 21 deep; a `match` is as deep as it has cases, and one
#: with a case for each layer of the deepest models, 126, must do. Stages that recurse take up to five frames of
#: Python's stack a node, of the 1000 that there are.
MAX_NODE_DEPTH = 150

#: Characters, about, of a program's text: twice as many as are read.
MAX_PRINTED = 1 << 17

#: Cases that an ``any`` looks at, those within others multiplied.
MAX_ALTERNATIVES = 4096
#: Operators and operands of every ``any`` written out, together: bringing as many to their normal form takes seconds.
MAX_WRITTEN = 16384
#: What to do where there are more.
FEWER = "use a table or an input of the chosen keys, or fewer alternatives"
TOO_DEEP = "use a table or an input in place of a long chain of operators or cases"


def size_problem(program: Program) -> Diagnostic | None:
    """E103 or E901, without a place, if a program as written is larger than it may be."""
    roots = program.roots()
    if max(r.depth for r in roots) > MAX_NODE_DEPTH:
        return _too_deep(program)
    count = sum(1 for _ in postorder(roots))
    if count > MAX_NODES:
        message = f"{program.name!r} has {count} operators and operands; there may be {MAX_NODES}"
        return Diagnostic("E901", message, hint="use a table or an input in place of repetition")
    return None


def check_depth(program: Program) -> None:
    """Raises MaskcError E103 if a program that was rewritten is deeper than the stages that recurse can stand."""
    if max(r.depth for r in program.roots()) > MAX_NODE_DEPTH:
        raise MaskcError(_too_deep(program))


def _too_deep(program: Program) -> Diagnostic:
    message = f"operators of {program.name!r} stand more than {MAX_NODE_DEPTH} deep within one another"
    return Diagnostic("E103", message, hint=TOO_DEEP)


def too_many(written: bool = False) -> MaskcError:
    """E508: of alternatives, or of what is ``written`` out of them."""
    what = f"more than {MAX_ALTERNATIVES} alternatives in all"
    if written:
        what = f"alternatives of more than {MAX_WRITTEN} operators and operands in all"
    return MaskcError(Diagnostic("E508", f"`any` has {what}", hint=FEWER))

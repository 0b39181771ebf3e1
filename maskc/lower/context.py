"""What lowering keeps in hand: errors, the calls being expanded, and the bounds on the work."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn, Protocol

from maskc.diagnostics import Diagnostic, MaskcError, Note, Span
from maskc.ir.nodes import Node
from maskc.ir.size import MAX_NODE_DEPTH, TOO_DEEP
from maskc.lower.scope import Pair, Scope
from maskc.lower.values import POISON, Frame, Poison, Value, Valued
from maskc.syntax import tree as t

__all__ = [
    "MAX_AXES",
    "MAX_DEPTH",
    "MAX_LABELS",
    "MAX_PARAMETERS",
    "MAX_SEGMENTS",
    "MAX_STATEMENTS",
    "MAX_STEPS",
    "Context",
    "Lowering",
]

#: Expressions evaluated at most, counting every expansion of a definition, and the operands of long `&` and `|`.
MAX_STEPS = 200_000
#: Expressions and calls within one another at most; each takes a few frames of Python's stack.
MAX_DEPTH = 110
#: What a file declares at most. Patterns have a few of each; the numbers keep reading them, and what is quadratic in
#: them later, far below a second: parameters of a pattern or a definition, values of an enumeration, statements of
#: a pattern.
MAX_PARAMETERS = 256
MAX_LABELS = 1024
MAX_STATEMENTS = 1000
#: Axes of a grid at most, and segments and axes of a space. What a coordinate is takes a term for every axis or segment
#: beside it, so that many cost their square; grids have three or four axes, and long sequences some dozens of parts.
MAX_AXES, MAX_SEGMENTS = 32, 256
#: Conditions at most on which a value is defined: a few segments and grids, combined.
MAX_CONDITIONS = 64
#: Errors and warnings that anybody reads; and how often they are found before no more is looked for: a fault in a
#: definition is found again wherever the definition is expanded.
MAX_ERRORS = 20
MAX_WARNINGS = 100
MAX_FOUND = 200


@dataclass
class Context:
    """``statement`` is the kind of statement being lowered; ``used`` the names that were looked at."""

    errors: list[Diagnostic] = field(default_factory=list)
    warnings: list[Diagnostic] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    statement: str = "attend"
    steps: int = 0
    depth: int = 0
    found: int = 0

    def error(self, code: str, message: str, span: Span, hint: str | None = None, *notes: Note) -> Poison:
        """Report an error; inside an expansion the call that the user wrote comes first."""
        self._report(self.errors, Diagnostic(code, message, span, hint, notes))
        self.found += 1
        if len(self.errors) >= MAX_ERRORS or self.found >= MAX_FOUND:
            raise MaskcError(self.errors)
        return POISON

    def reserved(self, name: str, what: str, span: Span) -> None:
        """Report that a word of the core cannot be given another meaning."""
        self.error("E206", f"`{name}` is a word of the core and {what}", span, "choose another name")

    def stop(self, code: str, message: str, span: Span, hint: str) -> NoReturn:
        """Report an error after which nothing is worth reading."""
        self.error(code, message, span, hint)
        raise MaskcError(self.errors)

    def at_most(self, most: int, count: int, what: str, span: Span, hint: str) -> None:
        """Raises MaskcError E901 if there are more than ``most`` of something."""
        if count > most:
            self.stop("E901", f"{count} {what} are too many: there may be {most}", span, hint)

    def warn(
        self, code: str, message: str, span: Span, hint: str | None = None, *notes: Note, within: bool = False
    ) -> None:
        # What a definition does with its arguments is not the caller's concern, but for what is wrong ``within`` any.
        if (within or not self.frames) and len(self.warnings) < MAX_WARNINGS:
            self._report(self.warnings, Diagnostic(code, message, span, hint, notes, "warning"))

    def _report(self, into: list[Diagnostic], d: Diagnostic) -> None:
        if self.frames and d.span is not None:
            note = Note(f"in the definition of `{self.frames[-1].name}`", d.span)
            d = Diagnostic(d.code, d.message, self.frames[0].span, d.hint, (note, *d.notes), d.severity)
        # Of a call, what is wrong at several places of its definition is said once.
        if all((d.code, d.message, d.span) != (other.code, other.message, other.span) for other in into):
            into.append(d)

    def enter(self, span: Span) -> None:
        """Count an evaluation that begins within those that have begun; raises MaskcError E103 or E901 if the
        program grows beyond bounds. What follows must end with ``leave``."""
        self.count(span)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            message = f"expressions and calls stand more than {MAX_DEPTH} deep within one another"
            self.stop("E103", message, span, "make the definitions flatter")

    def leave(self, span: Span, found: Valued | None = None) -> None:
        """The evaluation that began last has ended, with a value that must not be too large either. Raises as
        ``enter`` does."""
        self.depth -= 1
        if isinstance(found, Value):
            self.weigh(span, found.node)
            if found.defined is not None:
                self.weigh(span, found.defined)
                conditions = len(found.defined.children)
                hint = "apply fewer coordinates of segments at once"
                self.at_most(MAX_CONDITIONS, conditions, "conditions on where this is defined", span, hint)

    def weigh(self, span: Span, node: Node) -> None:
        """Count the operands of a node, and see how deep it is. Raises as ``enter`` does."""
        self.count(span, len(node.children) // 8)
        if node.depth > MAX_NODE_DEPTH:
            message = f"operators stand more than {MAX_NODE_DEPTH} deep within one another once names are expanded"
            self.stop("E103", message, span, TOO_DEEP)

    def count(self, span: Span, steps: int = 1) -> None:
        """Count work done; raises MaskcError E901 if there is more of it than there may be."""
        self.steps += steps
        if self.steps > MAX_STEPS:
            message = f"the program has more than {MAX_STEPS} expressions once its definitions are expanded"
            self.stop("E901", message, span, "use a table or an input in place of repetition")


class Lowering(Protocol):
    """What lowers the expressions within one: calls, comparisons and matches are lowered with it. See ``Expressions``,
    the only one, which stands above them."""

    ctx: Context

    def value(self, e: t.Expr, scope: Scope, pair: Pair, here: Node | None = None) -> Valued:
        """The expression's value with ``q`` and ``k`` standing for ``pair``; within a coordinate, ``here`` is the
        position that coordinates are read at."""

    def plain(self, e: t.Expr, scope: Scope, pair: Pair, what: str = "this") -> Value | Poison:
        """The expression as a value, or POISON if it was reported to be none."""

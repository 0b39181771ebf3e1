"""What lowering keeps in hand: errors, the calls being expanded, and the bounds on the work."""

from __future__ import annotations

from dataclasses import dataclass, field

from maskc.diagnostics import Diagnostic, MaskcError, Note, Span
from maskc.lower.values import POISON, Frame, Poison

__all__ = ["MAX_AXES", "MAX_DEPTH", "MAX_SEGMENTS", "MAX_STEPS", "Context"]

#: Expressions evaluated at most, counting every expansion of a definition.
MAX_STEPS = 200_000
#: Expressions and calls within one another at most; each takes a few frames of Python's stack.
MAX_DEPTH = 110
#: Axes of a grid and segments of a space at most. What a coordinate is takes a term for every axis or segment beside
#: it, so that many of them cost their square; grids have three or four axes, and long sequences some dozens of parts.
MAX_AXES, MAX_SEGMENTS = 32, 256
MAX_ERRORS = 20


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

    def error(self, code: str, message: str, span: Span, hint: str | None = None, *notes: Note) -> Poison:
        """Report an error; inside an expansion the call that the user wrote comes first."""
        self._report(self.errors, Diagnostic(code, message, span, hint, notes))
        if len(self.errors) >= MAX_ERRORS:
            raise MaskcError(self.errors)
        return POISON

    def warn(self, code: str, message: str, span: Span, hint: str | None = None, *notes: Note) -> None:
        if not self.frames:  # What a definition does with its arguments is not the caller's concern.
            self._report(self.warnings, Diagnostic(code, message, span, hint, notes, "warning"))

    def _report(self, into: list[Diagnostic], d: Diagnostic) -> None:
        if self.frames and d.span is not None:
            note = Note(f"in the definition of `{self.frames[-1].name}`", d.span)
            d = Diagnostic(d.code, d.message, self.frames[0].span, d.hint, (note, *d.notes), d.severity)
        if d not in into:
            into.append(d)

    def step(self, span: Span) -> None:
        """Count one evaluation; raises MaskcError if the program grows beyond bounds."""
        self.steps += 1
        if self.steps > MAX_STEPS:
            message = f"the program has more than {MAX_STEPS} expressions once its definitions are expanded"
            self.error("E901", message, span, "use a table or an input in place of repetition")
            raise MaskcError(self.errors)
        if self.depth > MAX_DEPTH:
            message = f"expressions and calls stand more than {MAX_DEPTH} deep within one another"
            self.error("E103", message, span, "make the definitions flatter")
            raise MaskcError(self.errors)

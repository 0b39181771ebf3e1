"""What `maskc check` looks for: every error of a pattern file, and what is worth a warning."""

from __future__ import annotations

from maskc.diagnostics import Diagnostic, Source
from maskc.ir.nodes import Const
from maskc.ir.program import Program
from maskc.lower import Lowered, lower_source
from maskc.passes import normalise

__all__ = ["check_source"]


def check_source(source: Source) -> Lowered:
    """The programs of a source with all warnings. Raises MaskcError with all errors at once.

    Beside what lowering reports, a mask that comes out constant though it was not written so.
    """
    lowered = lower_source(source)
    constant = tuple(d for p in lowered.programs if (d := _constant(p)) is not None)
    return Lowered(lowered.programs, (*lowered.warnings, *constant), lowered.steps)


def _constant(program: Program) -> Diagnostic | None:
    if isinstance(program.mask, Const):  # `attend all` says what it means.
        return None
    mask = normalise(program).mask
    if not isinstance(mask, Const):
        return None
    what = "every pair" if mask.value else "no pair at all"
    message = f"the mask of `{program.name}` keeps {what}, whatever the query and the key"
    hint = "write `all`" if mask.value else "no query sees anything: check the comparisons"
    return Diagnostic("W403", message, None, f"if that is meant, {hint}" if mask.value else hint, (), "warning")

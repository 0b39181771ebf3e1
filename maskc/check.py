"""What `maskc check` looks for: every error of a pattern file, and what is worth a warning."""

from __future__ import annotations

from maskc.diagnostics import Diagnostic, Source, Span
from maskc.ir.nodes import Const
from maskc.ir.program import Program
from maskc.lower import Lowered, lower_source
from maskc.passes import normalise
from maskc.syntax import tree as t
from maskc.syntax.parse import parse

__all__ = ["check_source"]


def check_source(source: Source) -> Lowered:
    """The programs of a source with all warnings. Raises MaskcError with all errors at once.

    Beside what lowering reports, a mask that comes out constant though it was not written so.
    """
    lowered = lower_source(source)
    constant = tuple(d for p in lowered.programs if (d := _constant(p, source)) is not None)
    return Lowered(lowered.programs, (*lowered.warnings, *constant), lowered.steps)


def _constant(program: Program, source: Source) -> Diagnostic | None:
    if isinstance(program.mask, Const):  # `attend all` says what it means.
        return None
    mask = normalise(program).mask
    if not isinstance(mask, Const):
        return None
    what = "every pair" if mask.value else "no pair at all"
    item = _written(program, source)
    whose = f"the mask of `{program.name}`" if isinstance(item, t.Pattern) else "this mask"
    message = f"{whose} keeps {what}, whatever the query and the key"
    hint = "write `all`" if mask.value else "no query sees anything: check the comparisons"
    return Diagnostic("W403", message, _place(item), f"if that is meant, {hint}" if mask.value else hint, (), "warning")


def _written(program: Program, source: Source) -> t.Definition | t.Pattern | t.Expr | None:
    """The pattern, or the bare mask, that the program was made of."""
    items = [i for i in parse(source).items if not isinstance(i, t.Definition)]
    named = [i for i in items if isinstance(i, t.Pattern) and i.name.id == program.name]
    return next(iter([*named, *(i for i in items if not isinstance(i, t.Pattern))]), None)


def _place(item: t.Definition | t.Pattern | t.Expr | None) -> Span | None:
    """Where the mask is written."""
    if isinstance(item, t.Pattern):
        return next((s.value.span for s in item.statements if s.kind == "attend" and s.value), item.name.span)
    return None if item is None else item.span

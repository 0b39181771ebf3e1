"""From the syntax tree to programs. Every error that a user can make in a pattern ends here."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from maskc.diagnostics import Diagnostic, MaskcError, Source
from maskc.ir.program import LANGUAGE_VERSION, Program
from maskc.lower.context import Context
from maskc.lower.names import check_definitions, collect_globals
from maskc.lower.patterns import lower_expression, lower_pattern
from maskc.lower.scope import Globals
from maskc.syntax import tree as t
from maskc.syntax.parse import parse, read_source

__all__ = ["Lowered", "lower_file", "lower_source", "lower_text", "prelude_files"]

_PRELUDE = Path(__file__).parent.parent / "prelude"


@dataclass(frozen=True)
class Lowered:
    """The programs of a text in order, and what is worth a warning. ``steps``: how much work it was."""

    programs: tuple[Program, ...]
    warnings: tuple[Diagnostic, ...]
    steps: int = 0


def prelude_files() -> tuple[Path, ...]:
    """The pattern files that every program may use the definitions of."""
    return tuple(sorted(_PRELUDE.glob("*.mask")))


@functools.lru_cache(maxsize=1)
def _prelude() -> Globals:
    """All prelude files as one, so that definitions may use each other across files."""
    items: list[t.Definition | t.Pattern | t.Expr] = []
    for path in prelude_files():
        source = Source(path.read_text(encoding="utf-8"), f"<prelude>/{path.name}")
        items.extend(parse(source).items)
    ctx = Context()
    whole = t.File(items[0].span, None, tuple(items), ())
    found = collect_globals(ctx, whole, None)
    check_definitions(ctx, found)
    if ctx.errors:
        raise MaskcError(ctx.errors)
    return found


def lower_file(path: str | Path) -> tuple[Program, ...]:
    """The programs of a pattern file. Raises MaskcError with everything that is wrong with it."""
    return lower_source(read_source(path)).programs


def lower_text(text: str, name: str = "<text>") -> tuple[Program, ...]:
    """The programs of a text. ``name`` stands for it in messages. Raises MaskcError."""
    return lower_source(Source(text, name)).programs


def lower_source(source: Source) -> Lowered:
    """The programs of a source, and its warnings. Raises MaskcError with all errors at once."""
    file = parse(source)
    ctx = Context()
    _check_version(ctx, file)
    found = collect_globals(ctx, file, _prelude())
    check_definitions(ctx, found)
    programs: list[Program] = []
    bare = [i for i in file.items if not isinstance(i, (t.Definition, t.Pattern))]
    for extra in bare[1:]:
        hint = "give each mask a name: `pattern name { attend ... }`"
        ctx.error("E205", "a file holds one bare mask", extra.span, hint)
    for item in file.items:
        if isinstance(item, t.Pattern) and found.patterns.get(item.name.id) is item:
            made = lower_pattern(ctx, item, found)
        elif bare and item is bare[0]:
            made = lower_expression(ctx, bare[0], found, "mask")
        else:
            continue
        if made is not None:
            programs.append(made)
    if not programs and not ctx.errors:
        hint = "add a `pattern`, or a mask expression on a line of its own"
        ctx.error("E004", f"{source.name} has definitions only", file.items[-1].span, hint)
    if ctx.errors:
        raise MaskcError(ctx.errors)
    return Lowered(tuple(programs), tuple(ctx.warnings), ctx.steps)


def _check_version(ctx: Context, file: t.File) -> None:
    if file.version is not None and file.version.value != LANGUAGE_VERSION:
        message = f"version {file.version.text} of the language is not known"
        ctx.error("E005", message, file.version.span, f"this maskc reads version {LANGUAGE_VERSION}: update maskc")
        raise MaskcError(ctx.errors)

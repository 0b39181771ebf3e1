"""From the syntax tree to programs. Every error that a user can make in a pattern ends here."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maskc.diagnostics import Diagnostic, MaskcError, Source, Span
from maskc.ir.program import LANGUAGE_VERSION, Program
from maskc.lower.context import Context
from maskc.lower.names import check_definitions, collect_globals
from maskc.lower.patterns import lower_expression, lower_pattern
from maskc.lower.scope import Globals
from maskc.syntax import tree as t
from maskc.syntax.parse import parse, read_source

__all__ = ["Lowered", "lower_claims", "lower_file", "lower_source", "lower_text", "prelude_files", "words"]

#: The name of a program that is written as a bare mask.
_BARE = "mask"
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


def words() -> frozenset[str]:
    """What of the prelude is a mask as a single word, such as ``causal``."""
    return frozenset(name for name, each in _prelude().definitions.items() if not each.formals)


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
            made = lower_expression(ctx, bare[0], found, _BARE)
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


def lower_claims(source: Source, name: str, claims: Sequence[str]) -> Program:
    """The program ``name`` of a source with ``claims`` as its only assertions. Each is written as after ``assert`` at
    the end of the pattern, and may use whatever the pattern and its file define.

    The file and the claims are bounded together, as a file that asserts them is. Raises MaskcError with all errors at
    once, those of a claim by their place in it; E503 for a claim that is more than one, E205 where the source holds no
    such program.
    """
    asserted = [_claim(claim, "<claim>" if len(claims) == 1 else f"<claim {i}>") for i, claim in enumerate(claims, 1)]
    file, ctx = parse(source), Context()
    found = collect_globals(ctx, file, _prelude())
    check_definitions(ctx, found)
    pattern = _pattern_called(file, name)
    if pattern is None:
        raise MaskcError(Diagnostic("E205", f"{source.name} holds no pattern called {name!r}"))
    kept = [s for s in pattern.statements if s.kind != "assert"]
    made = lower_pattern(ctx, pattern._replace(statements=(*kept, *asserted)), found)
    if made is None or ctx.errors:
        raise MaskcError(ctx.errors)
    return made


def _pattern_called(file: t.File, name: str) -> t.Pattern | None:
    """The pattern of that name; of a file that is a bare mask, a pattern of just that mask."""
    for item in file.items:
        if isinstance(item, t.Pattern) and item.name.id == name:
            return item
    bare = [i for i in file.items if not isinstance(i, (t.Definition, t.Pattern))]
    if name != _BARE or len(bare) != 1:
        return None
    at = bare[0].span
    return t.Pattern(at, t.Name(at, name), (), (), None, (t.Statement(at, "attend", None, bare[0]),), "")


def _claim(text: str, name: str) -> t.Statement:
    """A claim as an ``assert``. Raises MaskcError: what ``parse`` finds, and E503."""
    source = Source(text, name)
    whole = Span(source, 0, len(text))
    some = re.fullmatch(r"\s*some\s+([A-Za-z_][A-Za-z0-9_]*)\s*", text)
    if some is not None:
        return t.Statement(whole, "assert", t.Name(Span(source, *some.span(1)), some[1]), None)
    file = parse(source)
    only = file.items[0] if len(file.items) == 1 else None
    if file.version is not None or only is None or isinstance(only, (t.Definition, t.Pattern)):
        hint = "give one mask, as in `k <= q`, or `some k`; several claims are given one by one"
        raise MaskcError(Diagnostic("E503", "claims: each is one claim, as it would stand after `assert`", whole, hint))
    return t.Statement(whole, "assert", None, only)


def _check_version(ctx: Context, file: t.File) -> None:
    if file.version is not None and file.version.value != LANGUAGE_VERSION:
        message = f"version {file.version.text} of the language is not known"
        ctx.error("E005", message, file.version.span, f"this maskc reads version {LANGUAGE_VERSION}: update maskc")
        raise MaskcError(ctx.errors)

"""Patterns from text and from files."""

from __future__ import annotations

import os

from maskc.diagnostics import Diagnostic, MaskcError, Source
from maskc.pattern import Pattern

__all__ = ["is_path", "load", "parse"]


def parse(text: str, name: str | None = None) -> Pattern:
    """The pattern in ``text``: a file's contents, or a single mask expression.

    Args:
        text: the program.
        name: which pattern is meant, where there are several.

    Raises MaskcError with everything that is wrong in the text (E0.. to E3..), and E205 where
    several patterns are there and ``name`` says none, or where none is called ``name``.
    """
    from maskc.arguments import expect

    expect("text", text, str, "a string")
    if is_path(text) and not any(c.isspace() for c in text):
        message = f"{text[:80]} is a path, and no text in the language"
        raise MaskcError(Diagnostic("E101", message, hint="a file is read by maskc.load"))
    return _pick(Source(text), name, "the text")


def load(path: str | os.PathLike[str], name: str | None = None) -> Pattern:
    """The pattern in the file at ``path``. As ``parse``; also E001 to E003 for a file that cannot be read."""
    from maskc.arguments import expect
    from maskc.syntax.parse import read_source

    expect("path", path, (str, os.PathLike), "a path")
    where = os.fsdecode(path)
    if "\0" in where:
        remedy = "give the path of a pattern file, usually ending in `.mask`"
        raise MaskcError(Diagnostic("E003", f"cannot read {where!r}: no path holds a zero byte", hint=remedy))
    hint = None if is_path(where) else "give the path of a pattern file; a text is read by maskc.parse"
    return _pick(read_source(where, hint), name, where)


def is_path(source: str) -> bool:
    """Whether a string is taken for a path: one line that ends in ``.mask``."""
    return source.endswith(".mask") and "\n" not in source


def _pick(source: Source, name: str | None, where: str) -> Pattern:
    from maskc.lower import lower_source

    programs = lower_source(source).programs
    names = [p.name for p in programs]
    listed = ", ".join(names) or "none"
    if name is None:
        if len(programs) == 1:
            return Pattern(programs[0], source=source)
        hint = f"say which one is meant: name={names[0]!r}" if names else "declare one: pattern p() { attend ... }"
        raise MaskcError(Diagnostic("E205", f"{where} holds {len(names)} patterns: {listed}", hint=hint))
    if name in names:
        return Pattern(programs[names.index(name)], source=source)
    raise MaskcError(Diagnostic("E205", f"{where} holds no pattern called {name!r}", hint=f"there are: {listed}"))

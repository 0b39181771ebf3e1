"""Errors as data: a code, a place in the source, what is wrong, and what to write instead."""

from __future__ import annotations

import bisect
import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Diagnostic", "MaskcError", "Note", "Source", "Span", "fail", "in_line", "plain", "render"]


@dataclass(frozen=True)
class Source:
    """A text and the name it goes by (a file's path, or ``<text>``)."""

    text: str
    name: str = "<text>"

    def locate(self, offset: int) -> tuple[int, int]:
        """Line and column, both from 1, of a character offset."""
        offset = min(offset, len(self.text))
        line = bisect.bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1

    def line(self, number: int) -> str:
        """The text of a line, numbered from 1."""
        if not 0 < number <= len(self._starts):
            return ""
        start = self._starts[number - 1]
        end = self.text.find("\n", start)
        return self.text[start:] if end < 0 else self.text[start:end]

    @functools.cached_property
    def _starts(self) -> list[int]:
        """Where lines start: found once, since a report may name thousands of places."""
        return [0, *(m.end() for m in re.finditer("\n", self.text))]


@dataclass(frozen=True)
class Span:
    """Characters ``start`` to ``end`` (excluded) of a source."""

    source: Source
    start: int
    end: int


@dataclass(frozen=True)
class Note:
    """A second place that helps to understand: where the name was defined, where it was called."""

    message: str
    span: Span | None = None


@dataclass(frozen=True)
class Diagnostic:
    """One thing that is wrong. ``code`` is a key of ``maskc.errors.ERRORS``."""

    code: str
    message: str
    span: Span | None = None
    hint: str | None = None
    notes: tuple[Note, ...] = ()
    severity: Literal["error", "warning"] = "error"


class MaskcError(Exception):
    """Raised with all that is wrong at once. ``str()`` is the rendered report."""

    def __init__(self, diagnostics: Diagnostic | Iterable[Diagnostic]) -> None:
        if isinstance(diagnostics, Diagnostic):
            diagnostics = (diagnostics,)
        self.diagnostics: tuple[Diagnostic, ...] = tuple(diagnostics)
        super().__init__(self.diagnostics)

    def __str__(self) -> str:
        return render(self.diagnostics)

    @property
    def codes(self) -> tuple[str, ...]:
        return tuple(d.code for d in self.diagnostics)


def fail(code: str, message: str, hint: str | None = None) -> MaskcError:
    """The exception for one thing that is wrong, and that has no place in a text."""
    return MaskcError(Diagnostic(code, message, hint=hint))


def plain(text: str) -> str:
    """Without control characters other than line ends: whatever a pattern contains, the terminal only prints."""
    return "\n".join(line if line.isprintable() else _printable(line) for line in text.split("\n"))


def in_line(text: str) -> str:
    """As ``plain``, without line ends too: for the name of a file, or whatever else stands within a line."""
    return text if text.isprintable() else _printable(text)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def render(diagnostics: Sequence[Diagnostic]) -> str:
    """The report as plain text: place, message, source line with carets, hint, notes.

    Nothing in it can steer a terminal, whatever a text, a value or a file is called.
    """
    return "\n\n".join(_render_one(d) for d in diagnostics)


def _render_one(d: Diagnostic) -> str:
    head = f"{d.severity}[{d.code}]: {_said(d.message)}"
    parts = [f"{_place(d.span)}: {head}" if d.span else head]
    if d.span:
        parts.append(_excerpt(d.span))
    if d.hint:
        parts.append(f"  help: {_said(d.hint)}")
    for note in d.notes:
        parts.append(f"  note: {_said(note.message)}" + (f" ({_place(note.span)})" if note.span else ""))
        if note.span:
            parts.append(_excerpt(note.span))
    return "\n".join(parts)


def _place(span: Span) -> str:
    line, column = span.source.locate(span.start)
    return f"{in_line(span.source.name)}:{line}:{column}"


#: Characters of a message or a hint that are shown: a pattern may have an enumeration of thousands of values.
_LONGEST = 1000


def _said(text: str) -> str:
    return in_line(text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "...")


_WIDTH = 160  # longest stretch of a source line that is shown


def _excerpt(span: Span) -> str:
    line, column = span.source.locate(span.start)
    text = span.source.line(line)
    length = max(1, min(span.end - span.start, len(text) - column + 1))
    first = max(0, column - 1 - _WIDTH // 2) if len(text) > _WIDTH else 0
    shown = text[first : first + _WIDTH]
    length = min(length, max(1, first + _WIDTH - column + 1))
    # A tab stays one column wide, and control characters never reach the terminal.
    shown = "".join(c if c.isprintable() else " " for c in shown)
    margin = " " * len(str(line))
    return f" {line} | {shown}\n {margin} | {' ' * (column - 1 - first)}{'^' * length}"

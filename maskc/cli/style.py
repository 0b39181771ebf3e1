"""Messages on the terminal: coloured where it is one, and never with what a pattern could smuggle in."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

from maskc import knobs
from maskc.diagnostics import Diagnostic, MaskcError, in_line, plain, render

__all__ = ["colored", "exit_code", "in_line", "note", "plain", "report", "styled", "use_utf8_where_possible"]

_BOLD_RED, _BOLD_YELLOW, _CYAN, _BLUE, _OFF = "\x1b[1;31m", "\x1b[1;33m", "\x1b[36m", "\x1b[34m", "\x1b[0m"
_SEVERITY = re.compile(r"(error|warning)\[[EW]\d+\]")
#: Errors of the command or its arguments, and not of a pattern.
_USAGE = ("E003", "E50", "E51", "E70")


def colored(stream: TextIO) -> bool:
    """Whether to write colours: to a terminal that knows them, unless NO_COLOR is set."""
    return stream.isatty() and not knobs.NO_COLOR.value() and knobs.TERM.value() != "dumb"


def use_utf8_where_possible() -> None:
    """Never fail on a character that the terminal cannot show."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


def report(diagnostics: Sequence[Diagnostic], stream: TextIO | None = None) -> None:
    """Write diagnostics as text, to standard error by default."""
    stream = stream or sys.stderr
    if diagnostics:
        stream.write(styled(render(diagnostics), colored(stream)) + "\n")


def note(texts: Iterable[str]) -> None:
    """Write what was made up, or left out, to standard error."""
    for text in texts:
        sys.stderr.write(f"note: {plain(text)}\n")


def styled(text: str, color: bool) -> str:
    """A rendered report with its severities, carets, hints and notes in colour, if ``color``."""
    text = plain(text)
    return "\n".join(_style_line(line) for line in text.split("\n")) if color else text


def _style_line(line: str) -> str:
    if line.startswith("  help:"):
        return f"{_CYAN}{line}{_OFF}"
    if line.startswith("  note:"):
        return f"{_BLUE}{line}{_OFF}"
    margin, bar, rest = line.partition(" | ")
    if bar and not margin.strip() and not rest.strip("^ "):
        return f"{margin}{bar}{_BOLD_RED}{rest}{_OFF}"
    found = None if bar and margin.strip().isdigit() else _SEVERITY.search(line)
    if found is None:
        return line
    color = _BOLD_RED if found[1] == "error" else _BOLD_YELLOW
    return f"{line[: found.start()]}{color}{found[0]}{_OFF}{line[found.end() :]}"


def exit_code(error: MaskcError) -> int:
    """2 if only files, arguments or the installation are wrong, 1 if a pattern is."""
    return 2 if all(code.startswith(_USAGE) for code in error.codes) else 1

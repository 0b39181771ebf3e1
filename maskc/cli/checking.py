"""Everything that is wrong with pattern files. Imports neither typer nor NumPy, so that it takes little time."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from maskc.cli.style import exit_code, report
from maskc.diagnostics import Diagnostic, MaskcError, Note, Source, Span

__all__ = ["check", "check_files", "is_plain", "is_text", "read_once", "refuse", "run_plain", "source_of"]

_FLAGS = ("--json", "--strict")
_TEXT = re.compile(r"[\s()&|~<>={}]")
_FILE_OR_TEXT = "give the path of a pattern file, usually ending in `.mask`, or a mask in quotes: 'causal & sinks(4)'"


def is_plain(words: Sequence[str]) -> bool:
    """Whether the words are flags and files only, so that no typer is needed to read them."""
    return any(not w.startswith("-") or w == "-" for w in words) and all(
        w in _FLAGS or not w.startswith("-") or w == "-" for w in words
    )


def run_plain(words: Sequence[str]) -> int:
    """The command without typer; the exit code."""
    try:
        return check_files([w for w in words if w not in _FLAGS], "--json" in words, "--strict" in words)
    except MaskcError as error:
        return refuse(error, "--json" in words)


def refuse(error: MaskcError, as_json: bool) -> int:
    """Say why a command does nothing, as text on standard error or as JSON on standard output; the exit code."""
    if as_json:
        _write({"diagnostics": [_plain(d) for d in error.diagnostics]})
    else:
        report(error.diagnostics)
    return exit_code(error)


def source_of(file: str, hint: str | None = None, *, may_be_text: bool = True) -> Source:
    """The text of a file, of standard input for ``-``, or ``file`` itself where it is a mask and no path.

    ``hint``: what to give where there is no such file; by default a pattern file. ``may_be_text``: False for what
    reads or writes files only. Raises MaskcError (E001 to E003)."""
    from maskc.syntax.parse import read_source

    if may_be_text and is_text(file):
        return Source(file)
    if file != "-":
        return read_source(file, hint or (_FILE_OR_TEXT if may_be_text and not file.endswith(".mask") else None))
    # By way of the file descriptor's name, so that the bounds and checks are those of any file.
    source = read_source("/dev/stdin")
    return Source(source.text, "<stdin>")


def is_text(file: str) -> bool:
    """Whether an argument is a mask written out, and no file: with blanks, brackets or operators in it, as a call or
    a combination has them, or a word that is a mask. What ends in `.mask`, or is there, is a file."""
    readable = all(c.isprintable() or c in "\n\t" for c in file)
    if not readable or file.endswith(".mask") or os.path.exists(file):
        return False
    return bool(_TEXT.search(file)) or (file.isidentifier() and _is_word(file))


def _is_word(text: str) -> bool:
    from maskc.lower import words

    return text in words()


def read_once(files: Sequence[str]) -> None:
    """Raises E503 where standard input is among ``files`` twice: the second time there would be nothing in it."""
    if files.count("-") > 1:
        hint = "give files for all but one"
        raise MaskcError(Diagnostic("E503", "standard input can be read once only", hint=hint))


def check(file: str) -> tuple[tuple[Diagnostic, ...], int]:
    """All errors and warnings of a file, and the exit code that they call for."""
    from maskc.check import check_source

    try:
        return check_source(source_of(file)).warnings, 0
    except MaskcError as error:
        return error.diagnostics, exit_code(error)


def check_files(files: Sequence[str], as_json: bool, strict: bool) -> int:
    """Print what is wrong with the files, as text or as JSON; the exit code."""
    read_once(files)
    results = [(file, *check(file)) for file in files]
    if as_json:
        listed = [{"file": f, "ok": code == 0, "diagnostics": [_plain(d) for d in found]} for f, found, code in results]
        _write({"files": listed})
    else:
        _print(results)
    if strict and any(found for _, found, _ in results):
        return max(1, *(code for _, _, code in results))
    return max(code for _, _, code in results)


def _print(results: Sequence[tuple[str, tuple[Diagnostic, ...], int]]) -> None:
    found = [d for _, diagnostics, _ in results for d in diagnostics]
    report(found)
    errors = sum(d.severity == "error" for d in found)
    if errors == 0:
        note = f", {_count(len(found), 'warning')}" if found else ""
        sys.stdout.write(f"{_count(len(results), 'file')} checked{note}\n")
        return
    codes = sorted({d.code for d in found if d.severity == "error"})
    sys.stderr.write(f"\n{_count(errors, 'error')}; for more: maskc explain {codes[0]}\n")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _write(data: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"maskc": 1, **data}, indent=2) + "\n")


def _plain(d: Diagnostic) -> dict[str, Any]:
    notes = [_note(n) for n in d.notes]
    return {
        "code": d.code,
        "severity": d.severity,
        "message": d.message,
        "hint": d.hint,
        **_where(d.span),
        "notes": notes,
    }


def _note(note: Note) -> dict[str, Any]:
    return {"message": note.message, **_where(note.span)}


def _where(span: Span | None) -> dict[str, Any]:
    if span is None:
        return {"place": None}
    line, column = span.source.locate(span.start)
    end_line, end_column = span.source.locate(span.end)
    return {
        "place": {
            "file": span.source.name,
            "line": line,
            "column": column,
            "end_line": end_line,
            "end_column": end_column,
        }
    }

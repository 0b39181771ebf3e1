"""``maskc fmt``: rewrite pattern files in the one canonical layout."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Annotated

import typer

from maskc.cli.checking import source_of
from maskc.cli.style import plain, report
from maskc.diagnostics import MaskcError


def command(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Pattern files; - for standard input.")],
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit with 1 if a file would change.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Write nothing; print what would change.")] = False,
) -> None:
    """Format pattern files in place (standard input to standard output)."""
    changed, failed = 0, False
    for file in files:
        try:
            changed += _format(file, check, diff)
        except MaskcError as error:
            report(error.diagnostics)
            failed = True
    raise typer.Exit(1 if failed or (changed and (check or diff)) else 0)


def _format(file: str, check: bool, diff: bool) -> bool:
    """Format one file; whether it changes. Raises MaskcError."""
    from maskc.syntax.format import format_text

    source = source_of(file)
    formatted = format_text(source.text)
    changed = formatted != source.text
    if diff:
        lines = difflib.unified_diff(
            source.text.splitlines(keepends=True), formatted.splitlines(keepends=True), file, f"{file} (formatted)"
        )
        sys.stdout.write(plain("".join(lines)))
    elif check and changed:
        typer.echo(f"{file} would change", err=True)
    if file == "-" and not (check or diff):
        sys.stdout.write(formatted)
    elif changed and not (check or diff):
        Path(file).write_text(formatted, encoding="utf-8", newline="\n")
        typer.echo(f"{file} formatted", err=True)
    return changed

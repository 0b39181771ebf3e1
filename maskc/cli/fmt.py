"""``maskc fmt``: rewrite pattern files in the one canonical layout."""

from __future__ import annotations

import difflib
import sys
from typing import Annotated

import typer

from maskc.cli.checking import source_of
from maskc.cli.files import replace_file
from maskc.cli.style import exit_code, plain, report
from maskc.diagnostics import MaskcError


def command(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Pattern files; - for standard input.")],
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit with 1 if a file would change.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Write nothing; print what would change.")] = False,
) -> None:
    """Format pattern files in place (standard input to standard output)."""
    changed, code = 0, 0
    for file in files:
        try:
            changed += _format(file, check, diff)
        except MaskcError as error:
            report(error.diagnostics)
            code = max(code, exit_code(error))
    raise typer.Exit(max(code, 1 if changed and (check or diff) else 0))


def _format(file: str, check: bool, diff: bool) -> bool:
    """Format one file; whether it changes. Raises MaskcError."""
    from maskc.syntax.format import format_text

    source = source_of(file)
    formatted = format_text(source.text, source.name)
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
        replace_file(file, formatted)
        typer.echo(f"{file} formatted", err=True)
    return changed

"""``maskc fmt``: rewrite pattern files in the one canonical layout."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from typing import Annotated

import typer

from maskc.cli.checking import read_once, source_of
from maskc.cli.files import replace_file
from maskc.cli.style import exit_code, in_line, plain, report
from maskc.diagnostics import MaskcError

#: Lines of a file whose changes are looked for one by one: that may take time by the cube of their number.
_MOST_LINES = 2000


def command(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Pattern files; - for standard input.")],
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit with 1 if a file would change.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Write nothing; print what would change.")] = False,
) -> None:
    """Format pattern files in place (standard input to standard output)."""
    read_once(files)
    changed, code = 0, 0
    for file in files:
        try:
            changed += _format(file, check, diff)
        except MaskcError as error:
            report(error.diagnostics)
            code = max(code, exit_code(error))
    raise typer.Exit(max(code, 1 if changed and (check or diff) else 0))


def _differences(before: str, after: str, name: str) -> Iterable[str]:
    """What changes, as a unified diff; of very many lines as one change, which takes no comparing."""
    old, new = (text.splitlines(keepends=True) for text in (before, after))
    heads = name, f"{name} (formatted)"
    if old == new:
        return ()
    if max(len(old), len(new)) <= _MOST_LINES:
        return difflib.unified_diff(old, new, *heads)
    place = f"--- {heads[0]}\n+++ {heads[1]}\n@@ -1,{len(old)} +1,{len(new)} @@\n"
    return [place, *(f"-{line}" for line in old), *(f"+{line}" for line in new)]


def _format(file: str, check: bool, diff: bool) -> bool:
    """Format one file; whether it changes. Raises MaskcError."""
    from maskc.syntax.format import format_text

    source = source_of(file, may_be_text=False)
    formatted = format_text(source.text, source.name)
    changed = formatted != source.text
    if diff:
        sys.stdout.write(plain("".join(_differences(source.text, formatted, in_line(file)))))
    elif check and changed:
        typer.echo(f"{in_line(file)} would change", err=True)
    if file == "-" and not (check or diff):
        sys.stdout.write(formatted)
    elif changed and not (check or diff):
        replace_file(file, formatted)
        typer.echo(f"{in_line(file)} formatted", err=True)
    return changed

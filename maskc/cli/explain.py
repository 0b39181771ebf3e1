"""``maskc explain``: what an error code means."""

from __future__ import annotations

import json
import sys
import textwrap
from typing import Annotated

import typer

from maskc.cli.options import Json
from maskc.cli.style import colored, styled
from maskc.diagnostics import Diagnostic, MaskcError, render
from maskc.errors import ERRORS, ErrorRow


def command(
    codes: Annotated[
        list[str] | None, typer.Argument(metavar="CODE", help="Codes; without any, all are listed.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what an error code means, with an example."""
    rows = [_row(code) for code in codes] if codes else list(ERRORS.values())
    if as_json:
        fields = [{"code": r.code, "title": r.title, "explanation": r.explanation, "example": r.example} for r in rows]
        typer.echo(json.dumps({"maskc": 1, "codes": fields}, indent=2))
    elif codes:
        typer.echo("\n\n".join(explain(row, colored(sys.stdout)) for row in rows))
    else:
        typer.echo("\n".join(f"{row.code}  {row.title}" for row in rows))


def _row(code: str) -> ErrorRow:
    row = ERRORS.get(code.upper())
    if row is None:
        raise MaskcError(Diagnostic("E504", f"there is no code {code!r}", hint="`maskc explain` lists them all"))
    return row


def explain(row: ErrorRow, color: bool = False) -> str:
    """Title, explanation, example, and what maskc says of the example."""
    parts = [f"{row.code}: {row.title}", textwrap.fill(row.explanation, 88)]
    parts.append("For example:\n\n" + textwrap.indent(row.example.rstrip("\n"), "    "))
    parts.append("maskc says:\n\n" + textwrap.indent(styled(said(row), color), "    "))
    return "\n\n".join(parts)


def said(row: ErrorRow) -> str:
    """The rendered errors or warnings of a row's example."""
    from maskc.check import check_source
    from maskc.diagnostics import Source

    if row.is_call:
        return row.report
    try:
        return render(check_source(Source(row.example, "example.mask")).warnings)
    except MaskcError as error:
        return str(error)

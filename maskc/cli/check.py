"""``maskc check``, when its words need typer; the work is done in ``maskc.cli.checking``."""

from __future__ import annotations

from typing import Annotated

import typer

from maskc.cli.checking import check_files


def command(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE", help="Pattern files, or masks in quotes; - for standard input.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if there are warnings, too.")] = False,
) -> None:
    """Say everything that is wrong with pattern files."""
    raise typer.Exit(check_files(files, as_json, strict))

"""``maskc import``: the pattern that a model's configuration means."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def command(
    config: Annotated[str, typer.Argument(metavar="CONFIG.json", help="A model's config.json; - for standard input.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to this file.", show_default="standard output")
    ] = None,
) -> None:
    """Write the pattern file that the configuration of a published model means, or the pattern that it holds."""
    from maskc.cli.checking import source_of
    from maskc.cli.files import write_file
    from maskc.cli.style import in_line, note
    from maskc.interop.configs import parse_config, text_from_config
    from maskc.interop.stored import stored_text

    source = source_of(config, "give the path of a model's config.json", may_be_text=False)
    values = parse_config(source.text)
    held = stored_text(values)
    text, notes = held if held is not None else (text_from_config(values), ())
    note(notes)
    if output is None:
        sys.stdout.write(text)
    else:
        write_file(output, text, "give another file: --output FILE")
        typer.echo(f"{in_line(str(output))} written", err=True)

"""``maskc spec``: a pattern and its arguments as data."""

from __future__ import annotations

import json

import typer

from maskc.cli import options as o


def command(file: o.File, name: o.Name = None, arg: o.Args = []) -> None:  # noqa: B006
    """Print a pattern with its arguments as a JSON spec, which programs can store and load."""
    from maskc.cli.values import parse_values
    from maskc.pattern import Pattern

    program = o.program_of(file, name)
    typer.echo(json.dumps(Pattern(program).with_args(**parse_values([program], arg)).spec(), indent=2))

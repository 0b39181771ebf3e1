"""``maskc diff``: whether two patterns mean the same, or the smallest pair that shows that they do not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from maskc.cli import options as o
from maskc.cli.style import plain
from maskc.setting import MAX_HEADS, MAX_LAYERS

if TYPE_CHECKING:
    from maskc.cli.compare import Difference
    from maskc.ir.program import Program


def command(
    first: Annotated[str, typer.Argument(metavar="A", help="A pattern file.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    name_a: Annotated[str | None, typer.Option("--name-a", help="Which pattern of A.")] = None,
    name_b: Annotated[str | None, typer.Option("--name-b", help="Which pattern of B.")] = None,
    heads: Annotated[int, typer.Option("--heads", min=1, max=MAX_HEADS, help="Number of query heads.")] = 4,
    layers: Annotated[int, typer.Option("--layers", min=1, max=MAX_LAYERS, help="Number of layers looked at.")] = 8,
    size: o.Sizes = [],  # noqa: B006
    arg: o.Args = [],  # noqa: B006
    up_to: Annotated[
        int, typer.Option("--up-to", min=1, max=o.MAX_COMPARED, help="Longest sequence looked at.")
    ] = 4200,
    seed: o.Seed = 0,
    as_json: o.Json = False,
) -> None:
    """Compare two patterns. Exit code 0 if no difference is found, 1 if there is one."""
    from maskc.cli.compare import compare

    a, b = o.program_of(first, name_a), o.program_of(second, name_b)
    found = compare(a, b, heads=heads, layers=layers, sizes=size, args=arg, up_to=up_to, seed=seed)
    if as_json:
        typer.echo(json.dumps({"maskc": 1, **found.data()}))
    else:
        typer.echo(plain(found.sentence))
        if found.where is not None:
            _pictures((a, b), found.where)
    raise typer.Exit(0 if found.same else 1)


def _pictures(programs: tuple[Program, Program], where: Difference) -> None:
    from maskc.cli.show import picture, print_text

    for program in programs:
        binding = where.setting.bind(program)
        print_text(picture(program, binding, where.head, share=2))

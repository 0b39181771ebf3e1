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
    first: Annotated[str, typer.Argument(metavar="A", help="A pattern file, or a mask: causal, or in quotes.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    name_a: Annotated[str | None, typer.Option("--name-a", help="Which pattern of A.")] = None,
    name_b: Annotated[str | None, typer.Option("--name-b", help="Which pattern of B.")] = None,
    q: Annotated[
        int | None,
        typer.Option(
            "--q",
            parser=o.tokens,
            metavar="N",
            help="Number of queries: 64k is 65,536 and 1M is 1,048,576.",
            show_default="many lengths, or as --k or --arg says",
        ),
    ] = None,
    k: o.Keys = None,
    heads: Annotated[int, typer.Option("--heads", min=1, max=MAX_HEADS, help="Number of query heads.")] = 4,
    layers: Annotated[int, typer.Option("--layers", min=1, max=MAX_LAYERS, help="Number of layers looked at.")] = 8,
    size: o.Sizes = [],  # noqa: B006
    arg: o.Args = [],  # noqa: B006
    up_to: Annotated[
        int | None,
        typer.Option(
            "--up-to",
            parser=o.some_tokens,
            metavar="N",
            help="Longest sequence looked at, as --q.",
            show_default=f"{o.LONGEST:,}",
        ),
    ] = None,
    seed: o.Seed = 0,
    as_json: o.Json = False,
) -> None:
    """Compare two patterns, at many lengths or at those given. Exit code 0 if no difference is found, 1 if there is
    one.

    Of long sequences what only one of the two keeps is planned, so that a million tokens take milliseconds. Masks that
    are too irregular for that are refused with an error, E801, and exit code 1, too.
    """
    from maskc.cli.compare import compare

    a, b = o.programs_of((first, name_a, "--name-a"), (second, name_b, "--name-b"))
    found = compare(a, b, q=q, k=k, heads=heads, layers=layers, sizes=size, args=arg, up_to=up_to, seed=seed)
    if as_json:
        typer.echo(json.dumps({"maskc": 1, **found.data()}))
    else:
        typer.echo(plain(found.sentence))
        if found.where is not None:
            _explain((first, second), (a, b), found.where)
    raise typer.Exit(0 if found.same else 1)


def _explain(files: tuple[str, str], programs: tuple[Program, Program], where: Difference) -> None:
    """Which clauses decide about the pair, and where else the two differ."""
    from maskc.cli import pictures
    from maskc.cli.show import panel_text, print_text
    from maskc.cli.why import examined, sentence_of

    names = files if files[0] != files[1] else tuple(p.name for p in programs)
    for name, file, program in zip(names, files, programs, strict=True):
        whole = examined(file, program, where.setting.bind(program), where.head, where.query, where.key)
        typer.echo(plain(f"{name}: {sentence_of(where.query, where.key, whole)}"))
    typer.echo()
    print_text(panel_text(pictures.Subject(programs, where.setting, [where.head])))

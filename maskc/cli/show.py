"""``maskc show``: the picture of a mask."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskc.cli import options as o
from maskc.cli.style import colored, plain
from maskc.diagnostics import Diagnostic, MaskcError

if TYPE_CHECKING:
    from rich.text import Text

    from maskc.ir.binding import Binding
    from maskc.ir.program import Program
    from maskc.picture.terminal import Canvas

__all__ = ["canvas", "command", "picture", "print_text"]

_NAMES = {0: "empty", 1: "partial", 2: "full"}


def command(
    file: o.File,
    name: o.Name = None,
    q: o.Queries = None,
    k: o.Keys = None,
    head: Annotated[str, typer.Option("--head", help="The query head: a number, several as 0,2, or all.")] = "0",
    heads: o.Heads = None,
    layer: o.Layer = 0,
    size: o.Sizes = [],  # noqa: B006
    arg: o.Args = [],  # noqa: B006
    png: Annotated[str | None, typer.Option("--png", metavar="OUT", help="Write a PNG file instead.")] = None,
    seed: o.Seed = 0,
    as_json: o.Json = False,
) -> None:
    """Draw which keys each query keeps. What the pattern needs and is not given is made up, and said so."""
    from maskc.cli.values import setting

    program = o.program_of(file, name)
    given = setting([program], q=q, k=k, head=_highest(head), heads=heads, layer=layer, sizes=size, args=arg, seed=seed)
    binding = given.bind(program)
    chosen = _heads(head, binding.heads)
    for note in given.made_up:
        typer.echo(f"note: {plain(note)}", err=True)
    if png is not None:
        _png(program, binding, chosen, png)
    elif as_json:
        typer.echo(json.dumps(_data(program, binding, chosen)))
    else:
        for each in chosen:
            print_text(picture(program, binding, each))


def _highest(head: str) -> int:
    return 0 if head == "all" else max(_numbers(head))


def _heads(head: str, heads: int) -> list[int]:
    return list(range(heads)) if head == "all" else _numbers(head)


def _numbers(head: str) -> list[int]:
    parts = head.split(",")
    if not all(p.strip().isdecimal() and len(p) < 10 for p in parts):
        raise MaskcError(Diagnostic("E503", f"--head {head}: expected a number, several as 0,2, or all"))
    return [int(p) for p in parts]


def canvas(share: int = 1) -> Canvas:
    """What standard output can show; ``share``: how many pictures are to fit below one another."""
    import shutil

    from maskc.picture.terminal import Canvas

    stream = sys.stdout
    columns, lines = shutil.get_terminal_size() if stream.isatty() else (80, 40)
    unicode = (stream.encoding or "ascii").lower().startswith("utf")
    return Canvas(columns, max(12, (lines - 3) // share), colored(stream), unicode)


def picture(program: Program, binding: Binding, head: int, share: int = 1) -> Text:
    """Title, cells and legend for one head."""
    from maskc.picture.cells import survey
    from maskc.picture.terminal import draw, legend

    surface = canvas(share)
    cells = survey(program, binding, head=head, rows=surface.rows, columns=surface.columns)
    text = draw(cells, surface)
    title = _title(program, binding, head)
    return title_and(title, text).append("\n").append_text(legend(cells, surface))


def title_and(title: str, text: Text) -> Text:
    """A picture below its title."""
    from rich.text import Text

    whole = Text(plain(title) + "\n", no_wrap=True, overflow="ignore")
    return whole.append_text(text)


def _title(program: Program, binding: Binding, head: int) -> str:
    lengths = f"{binding.q_len} queries x {binding.k_len} keys"
    return f"{program.name}: {lengths}, layer {binding.layer}, head {head} of {binding.heads}"


def print_text(text: Text) -> None:
    """Print styled text to standard output."""
    from rich.console import Console

    color = colored(sys.stdout)
    console = Console(no_color=not color, force_terminal=color, markup=False, highlight=False, emoji=False)
    console.print(text, soft_wrap=True)


def _data(program: Program, binding: Binding, heads: Sequence[int]) -> dict[str, Any]:
    from maskc.picture.cells import survey

    panels = []
    for head in heads:
        cells = survey(program, binding, head=head, rows=64, columns=64)
        rows = [[_NAMES[int(kind)] for kind in row] for row in cells.kind]
        panels.append({"head": head, "q_step": cells.q_step, "k_step": cells.k_step, "kept": cells.kept, "cells": rows})
    place = {"q_len": binding.q_len, "k_len": binding.k_len, "layer": binding.layer}
    return {"maskc": 1, "pattern": program.name, **place, "heads": panels}


def _png(program: Program, binding: Binding, heads: Sequence[int], path: str) -> None:
    from maskc.picture.cells import survey
    from maskc.picture.png import save_png

    panels = []
    for head in heads[:16]:
        cells = survey(program, binding, head=head, rows=256, columns=256)
        kept = "" if cells.kept is None else f", {100 * cells.kept:.3g} % kept"
        panels.append((f"head {head}{kept}", cells))
    save_png(panels, path, title=f"{program.name}, layer {binding.layer}")
    typer.echo(f"{path} written" + (f" (the first 16 of {len(heads)} heads)" if len(heads) > 16 else ""))

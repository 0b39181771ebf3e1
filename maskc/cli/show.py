"""``maskc show``: the picture of a mask."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskc.cli import options as o
from maskc.cli import pictures
from maskc.cli.progress import progress
from maskc.cli.style import colored, note, plain
from maskc.diagnostics import Diagnostic, MaskcError
from maskc.setting import MAX_HEADS, MAX_LAYERS

if TYPE_CHECKING:
    from rich.text import Text

    from maskc.ir.binding import Binding
    from maskc.ir.program import Program
    from maskc.picture.terminal import Canvas

__all__ = ["canvas", "command", "panel_text", "picture", "print_text"]

_NAMES = {0: "empty", 1: "partial", 2: "full"}


def command(
    file: o.File,
    name: o.Name = None,
    q: o.Queries = None,
    k: o.Keys = None,
    head: Annotated[str, typer.Option("--head", help="The query head: a number, several as 0,2, or all.")] = "0",
    heads: o.EnoughHeads = None,
    layer: o.Layer = 0,
    size: o.Sizes = [],  # noqa: B006
    arg: o.Args = [],  # noqa: B006
    png: Annotated[str | None, typer.Option("--png", metavar="OUT", help="Write a PNG file instead.")] = None,
    svg: Annotated[str | None, typer.Option("--svg", metavar="OUT", help="Write an SVG file instead.")] = None,
    html: Annotated[
        str | None, typer.Option("--html", metavar="OUT", help="Write a page to zoom and ask in, instead.")
    ] = None,
    diff: Annotated[
        str | None, typer.Option("--diff", metavar="OTHER", help="Show where another file differs.")
    ] = None,
    diff_name: Annotated[
        str | None, typer.Option("--diff-name", help="Which pattern of --diff, if that holds several.")
    ] = None,
    token: Annotated[
        str | None, typer.Option("--token", metavar="Q", help="Show what one query sees: a position, or y,x in a grid.")
    ] = None,
    score: Annotated[bool, typer.Option("--score", help="Show the score expression as a heat map.")] = False,
    reach: Annotated[
        bool, typer.Option("--reach", help="Show after how many of --layers a query knows a key.")
    ] = False,
    layers: Annotated[
        int | None,
        typer.Option("--layers", min=1, max=MAX_LAYERS, help="So many layers, beside one another; those of --reach."),
    ] = None,
    layout: Annotated[
        str, typer.Option("--layout", help="An order of the tokens that --html shows, too: auto.")
    ] = "none",
    theme: Annotated[str, typer.Option("--theme", help="Colours of files: auto, light or dark.")] = "auto",
    seed: o.Seed = 0,
    as_json: o.Json = False,
) -> None:
    """Draw which keys each query keeps. What the pattern needs and is not given is made up, and said so."""
    from maskc.cli.values import setting
    from maskc.tiles.binding import check_limits

    if theme not in pictures.THEMES:
        raise MaskcError(Diagnostic("E503", f"--theme {theme}: expected auto, light or dark"))
    what = [n for n, given in (("--diff", diff), ("--token", token), ("--score", score), ("--reach", reach)) if given]
    files = [n for n, path in (("--html", html), ("--svg", svg), ("--png", png)) if path is not None]
    _refuse_together(what, files, as_json)
    _refuse_idle(
        layer=layer > 0 and layers is not None,
        layers=layers is not None and not (reach or html) and bool(what or as_json),
        layout=layout != "none" and not html,
        theme=theme != "auto" and not files,
        diff_name=diff_name is not None and diff is None,
    )
    if diff is None:
        programs = [o.program_of(file, name)]
    else:
        programs = [*o.programs_of((file, name, "--name"), (diff, diff_name, "--diff-name"))]
    program = programs[0]
    check_limits(layers=layers or 1)
    last = max(layer, (layers or 1) - 1)
    given = setting(programs, q=q, k=k, head=_highest(head), heads=heads, layer=last, sizes=size, args=arg, seed=seed)
    given = dataclasses.replace(given, layer=layer)
    binding = given.bind(program)
    chosen = _heads(head, binding.heads)
    subject = pictures.Subject(programs, given, chosen, layers or 1, token, score, reach, layout)
    note([*given.made_up, *o.of_batch(binding)])
    with progress("drawing") as watch:
        if html is not None:
            pictures.write_html(subject, html, theme, (file, diff))
        for path, ending in ((svg, ".svg"), (png, ".png")):
            if path is not None:
                pictures.write_picture(subject, path, ending, theme)
        if html or svg or png:
            return
        shown = _shown(subject, as_json, watch)
    if isinstance(shown, str):
        typer.echo(shown)
    else:
        print_text(shown)


def _shown(subject: pictures.Subject, as_json: bool, watch: Callable[[int, int], None] | None) -> Text | str:
    """What is printed where no file is written."""
    program, heads = subject.programs[0], subject.heads
    binding = subject.binding(program)
    if as_json:
        return json.dumps(_data(program, binding, heads))
    if not subject.is_plain or subject.panels > 1:
        return panel_text(subject)
    return picture(program, binding, heads[0], watch=watch)


def _refuse_together(what: Sequence[str], files: Sequence[str], as_json: bool) -> None:
    """Raises E503 for options of which a picture shows one only: whoever gives two believes that both are drawn."""
    for first, second in itertools.pairwise(what):
        raise MaskcError(Diagnostic("E503", f"{first} and {second} are two pictures", hint="draw one after the other"))
    for option in (*what, *files) if as_json else ():
        hint = f"leave out --json or {option}"
        raise MaskcError(Diagnostic("E503", f"--json is of the plain picture, without {option}", hint=hint))
    for option in what if "--html" in files else ():
        if option in ("--token", "--reach"):
            hint = "the page shows what a query sees under the cursor" if option == "--token" else "give --svg or --png"
            raise MaskcError(Diagnostic("E503", f"{option} is not for --html", hint=hint))


def _refuse_idle(*, layer: bool, layers: bool, layout: bool, theme: bool, diff_name: bool) -> None:
    """Raises E503 for options that the picture has no use for: whoever gives one believes that it is drawn."""
    if layer:
        hint = "--layers N is of the first N layers, --layer N of that one: leave one of them out"
        raise MaskcError(Diagnostic("E503", "--layer is one layer, and --layers several", hint=hint))
    if layers:
        message = "--layers is for pictures of one mask, --reach and --html"
        raise MaskcError(Diagnostic("E503", message, hint="--layer N draws another layer"))
    if layout:
        hint = "give --html OUT, or see what it saves with `maskc plan FILE --layout auto`"
        raise MaskcError(Diagnostic("E503", "--layout is for --html", hint=hint))
    if theme:
        raise MaskcError(Diagnostic("E503", "--theme is for --svg, --png and --html", hint="leave it out"))
    if diff_name:
        raise MaskcError(Diagnostic("E503", "--diff-name is for --diff", hint="--name chooses a pattern of FILE"))


def panel_text(subject: pictures.Subject) -> Text:
    """Panels in the terminal; the heads and layers of one mask as a contact sheet."""
    from maskc.picture.text import draw_panels

    surface = canvas()
    room = min((surface.width - 8) // 2, surface.rows)
    if subject.panels > 1:
        room = max(8, min(room, (surface.width - 8 * 3) // 2 // 3))
    return title_and(pictures.title_of(subject), draw_panels(pictures.panels_of(subject, cells=room), surface))


def _highest(head: str) -> int:
    return 0 if head == "all" else max(_numbers(head))


def _heads(head: str, heads: int) -> list[int]:
    return list(range(heads)) if head == "all" else _numbers(head)


def _numbers(head: str) -> list[int]:
    parts = head.split(",")
    if not all(p.strip().isdecimal() and len(p) < 10 for p in parts):
        raise MaskcError(Diagnostic("E503", f"--head {head}: expected a number, several as 0,2, or all"))
    if len(parts) > MAX_HEADS:
        raise MaskcError(Diagnostic("E504", f"--head names {len(parts)} heads: there may be {MAX_HEADS} at most"))
    return [int(p) for p in parts]


def canvas(share: int = 1) -> Canvas:
    """What standard output can show; ``share``: how many pictures are to fit below one another."""
    import shutil

    from maskc.picture.terminal import Canvas

    stream = sys.stdout
    columns, lines = shutil.get_terminal_size() if stream.isatty() else (80, 40)
    unicode = (stream.encoding or "ascii").lower().startswith("utf")
    return Canvas(columns, max(12, (lines - 3) // share), colored(stream), unicode)


def picture(
    program: Program, binding: Binding, head: int, share: int = 1, watch: Callable[[int, int], None] | None = None
) -> Text:
    """Title, cells and legend for one head."""
    from maskc.picture.cells import survey
    from maskc.picture.terminal import draw, legend

    surface = canvas(share)
    cells = survey(program, binding, head=head, rows=surface.rows, columns=surface.columns, watch=watch)
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

"""The options that several commands share, and what becomes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from maskc.diagnostics import Diagnostic, MaskcError
from maskc.setting import MAX_HEADS, MAX_LAYERS, MAX_LENGTH

if TYPE_CHECKING:
    from maskc.diagnostics import Source
    from maskc.ir.program import Program

__all__ = [
    "Args",
    "File",
    "Head",
    "Heads",
    "Json",
    "Keys",
    "Layer",
    "Name",
    "Queries",
    "Seed",
    "Sizes",
    "program_of",
    "read",
]

File = Annotated[str, typer.Argument(metavar="FILE", help="A pattern file, or a mask in quotes; - for standard input.")]
Name = Annotated[str | None, typer.Option("--name", help="Which pattern, if the file holds several.")]
#: Seeds at most: those that NumPy and torch take, of whatever version.
MAX_SEED = 2**32 - 1
#: Head dimensions, batch entries and workers at most: many times what any model or chip has, and few enough to count.
MAX_DIM = 1 << 16
#: The longest sequence that ``diff`` looks at, pair by pair: a mask of 2**32 pairs takes minutes.
MAX_COMPARED = 1 << 16

Queries = Annotated[
    int | None, typer.Option("--q", min=0, max=MAX_LENGTH, help="Number of queries.", show_default="256, or --k")
]
Keys = Annotated[
    int | None, typer.Option("--k", min=0, max=MAX_LENGTH, help="Number of keys.", show_default="as many as queries")
]
Layer = Annotated[int, typer.Option("--layer", min=0, max=MAX_LAYERS - 1, help="The layer.")]
Head = Annotated[int, typer.Option("--head", min=0, max=MAX_HEADS - 1, help="The query head.")]
Heads = Annotated[
    int | None,
    typer.Option("--heads", min=1, max=MAX_HEADS, help="Number of query heads.", show_default="enough for --head"),
]
Sizes = Annotated[
    list[str], typer.Option("--size", metavar="AXIS=N", help="Extent of a grid axis or segment; may be repeated.")
]
Args = Annotated[
    list[str],
    typer.Option(
        "--arg",
        "--input",
        metavar="NAME=VALUE",
        help="Value of a parameter or input: a number, a name, JSON, or @FILE (.npy or .json); may be repeated.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=MAX_SEED, help="Seed of whatever is drawn at random.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def program_of(file: str, name: str | None = None) -> Program:
    """The pattern ``name`` of a file, or its only one; warnings are not shown. Raises MaskcError, with E205
    if it is not clear which pattern is meant."""
    return read(file, name)[0]


def read(file: str, name: str | None = None) -> tuple[Program, Source]:
    """As ``program_of``, with the text that was read."""
    from maskc.cli.checking import source_of
    from maskc.lower import lower_source

    source = source_of(file)
    programs = lower_source(source).programs
    found = [p for p in programs if name is None or p.name == name]
    if len(found) == 1:
        return found[0], source
    names = ", ".join(p.name for p in programs)
    if name is not None:
        raise MaskcError(Diagnostic("E205", f"{file} has no pattern called {name!r}", hint=f"it has: {names}"))
    message = f"{file} holds {len(programs)} patterns: {names}"
    raise MaskcError(Diagnostic("E205", message, hint=f"choose one: --name {programs[0].name}"))

"""The options that several commands share, and what becomes of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from maskc.arguments import shown
from maskc.diagnostics import Diagnostic, MaskcError
from maskc.setting import MAX_HEADS, MAX_LAYERS, MAX_LENGTH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maskc.diagnostics import Source
    from maskc.ir.binding import Binding
    from maskc.ir.program import Program

__all__ = [
    "Args",
    "Batch",
    "EnoughHeads",
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
    "chosen",
    "of_batch",
    "program_of",
    "programs_of",
    "read",
    "some_tokens",
    "tokens",
]

File = Annotated[
    str, typer.Argument(metavar="FILE", help="A pattern file, or a mask: causal, or in quotes; - for standard input.")
]
Name = Annotated[str | None, typer.Option("--name", help="Which pattern, if the file holds several.")]
#: Seeds at most: those that NumPy and torch take, of whatever version.
MAX_SEED = 2**32 - 1
#: Head dimensions, batch entries and workers at most: many times what any model or chip has, and few enough to count.
MAX_DIM = 1 << 16
#: The longest sequence that ``diff`` looks at where nobody says another.
LONGEST = 1 << 20

_SUFFIXES = {"": 1, "k": 1 << 10, "m": 1 << 20}
_NUMBER = re.compile(r"(\d+(?:_\d+)*|\d{1,3}(?:,\d{3})+)([km]?)", re.IGNORECASE)
_POWER = re.compile(r"([1-9])e(\d)", re.IGNORECASE)


def tokens(text: str, least: int = 0) -> int:
    """How many tokens a text says: 65536, 65_536, 65,536, 64k or 1e6. Raises BadParameter."""
    found = None
    if number := _NUMBER.fullmatch(text.strip()):
        digits = number[1].replace("_", "").replace(",", "")
        found = int(digits) * _SUFFIXES[number[2].lower()] if len(digits) < 18 else None
    elif power := _POWER.fullmatch(text.strip()):
        found = int(power[1]) * 10 ** int(power[2])
    if found is None:
        raise typer.BadParameter(f"{shown(text)} is no number of tokens, such as 65536, 65_536, 64k or 1M.")
    if not least <= found <= MAX_LENGTH:
        raise typer.BadParameter(f"{shown(text)} is not in the range {least}<=x<={MAX_LENGTH}.")
    return found


def some_tokens(text: str) -> int:
    """As ``tokens``, and one at least."""
    return tokens(text, 1)


_TOKENS = "64k is 65,536 and 1M is 1,048,576."
Queries = Annotated[
    int | None,
    typer.Option(
        "--q",
        parser=tokens,
        metavar="N",
        help=f"Number of queries: {_TOKENS}",
        show_default="256, or as --k or --arg says",
    ),
]
Keys = Annotated[
    int | None,
    typer.Option(
        "--k",
        parser=tokens,
        metavar="N",
        help="Number of keys, as --q.",
        show_default="as --arg says, or as many as queries",
    ),
]
Batch = Annotated[
    int | None,
    typer.Option("--batch", min=1, max=MAX_DIM, help="Batch entries.", show_default="as --arg says, or 1"),
]
Layer = Annotated[int, typer.Option("--layer", min=0, max=MAX_LAYERS - 1, help="The layer.")]
Head = Annotated[int, typer.Option("--head", min=0, max=MAX_HEADS - 1, help="The query head.")]
#: Of a command that looks at one head, or some, by ``--head``.
EnoughHeads = Annotated[
    int | None,
    typer.Option("--heads", min=1, max=MAX_HEADS, help="Number of query heads.", show_default="enough for --head"),
]
Heads = Annotated[
    int | None,
    typer.Option("--heads", min=1, max=MAX_HEADS, help="Number of query heads.", show_default="1, or as --arg says"),
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
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for errors too.")]


def of_batch(binding: Binding) -> list[str]:
    """What is to be said of a mask of which one batch entry is looked at, and there are more."""
    return [f"this is batch entry 0 of {binding.batch}"] if binding.batch > 1 else []


def program_of(file: str, name: str | None = None, option: str = "--name") -> Program:
    """The pattern ``name`` of a file, or its only one; warnings are not shown. ``option``: by which the name is given.
    Raises MaskcError, with E205 if it is not clear which pattern is meant."""
    return read(file, name, option)[0]


def programs_of(first: tuple[str, str | None, str], second: tuple[str, str | None, str]) -> tuple[Program, Program]:
    """Two programs that are compared, each as ``program_of`` takes it."""
    from maskc.cli.checking import read_once

    read_once((first[0], second[0]))
    return program_of(*first), program_of(*second)


def read(file: str, name: str | None = None, option: str = "--name") -> tuple[Program, Source]:
    """As ``program_of``, with the text that was read."""
    from maskc.cli.checking import source_of
    from maskc.lower import lower_source

    source = source_of(file)
    programs = lower_source(source).programs
    return programs[chosen(file, [p.name for p in programs], name, option)], source


def chosen(file: str, names: Sequence[str], name: str | None, option: str = "--name") -> int:
    """Which of a file's patterns is meant. Raises E205 where that is not clear."""
    found = [i for i, n in enumerate(names) if name in (None, n)]
    if len(found) == 1:
        return found[0]
    if name is not None:
        hint = f"it has: {', '.join(names)}"
        raise MaskcError(Diagnostic("E205", f"{file} has no pattern called {name!r}", hint=hint))
    message = f"{file} holds {len(names)} patterns: {', '.join(names)}"
    raise MaskcError(Diagnostic("E205", message, hint=f"choose one: {option} {names[0]}"))

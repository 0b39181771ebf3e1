"""``maskc ir``: a pattern as a stage of the compiler sees it."""

from __future__ import annotations

import dataclasses
import enum
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from maskc.cli import options as o
from maskc.cli.style import plain


class Stage(str, enum.Enum):
    """Stages that can be looked at."""

    tree = "tree"
    typed = "typed"
    normal = "normal"


def command(
    file: o.File,
    name: o.Name = None,
    stage: Annotated[
        Stage, typer.Option("--stage", help="tree: as parsed; typed: all definitions expanded; normal: simplified.")
    ] = Stage.normal,
) -> None:
    """Print a pattern as a stage of the compiler sees it."""
    if stage is Stage.tree:
        sys.stdout.write(plain(_tree(file, name)) + "\n")
        return
    from maskc.ir.text import print_program
    from maskc.passes import normalise

    program = o.program_of(file, name)
    sys.stdout.write(plain(print_program(normalise(program) if stage is Stage.normal else program)).rstrip() + "\n")


def _tree(file: str, name: str | None) -> str:
    """What a file holds; of its patterns only the one called ``name``, if there is a name."""
    from maskc.cli.checking import source_of
    from maskc.syntax import tree as t
    from maskc.syntax.parse import parse

    items = parse(source_of(file)).items
    patterns = [item for item in items if isinstance(item, t.Pattern)]
    if name is not None:
        only = patterns[o.chosen(file, [p.name.id for p in patterns], name)]
        items = tuple(item for item in items if item is only or not isinstance(item, t.Pattern))
    lines: list[str] = []
    for item in items:
        _write(item, "", 0, lines)
    return "\n".join(lines)


def _write(value: object, label: str, depth: int, lines: list[str]) -> None:
    """One line a node: its class, and what it holds that is no node."""
    indent = "  " * depth + (f"{label}: " if label else "")
    fields = _fields(value)
    if fields is not None:
        nested = {n: v for n, v in fields.items() if isinstance(v, tuple) or _fields(v) is not None}
        words = " ".join(f"{n}={v!r}" for n, v in fields.items() if n not in nested and v not in (None, ""))
        lines.append(f"{indent}{type(value).__name__} {words}".rstrip())
        for name, inner in nested.items():
            _write(inner, name, depth + 1, lines)
    elif isinstance(value, tuple):
        for each in value:
            _write(each, label, depth, lines)
    else:
        lines.append(f"{indent}{value!r}")


def _fields(value: object) -> dict[str, object] | None:
    """What a node of the syntax tree holds, but its place; None if ``value`` is no node."""
    if dataclasses.is_dataclass(value):
        names: Sequence[str] = [f.name for f in dataclasses.fields(value)]
    else:
        names = getattr(value, "_fields", ())
    return {n: getattr(value, n) for n in names if n != "span"} if names else None

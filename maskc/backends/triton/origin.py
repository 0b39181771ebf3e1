"""The pattern that a file was written from, as its first lines say it."""

from __future__ import annotations

from collections.abc import Mapping

from maskc.backends.triton.spelling import ascii_text, literal
from maskc.ir.program import Parameter, Program
from maskc.ir.text import print_program

__all__ = ["origin_of"]


def origin_of(program: Program, args: Mapping[str, bool | int | float]) -> str:
    """The pattern, and the values of its scalar parameters that the file has for good: comments of printable ASCII."""
    lines = print_program(program, docs=False).rstrip().split("\n")
    given = [f"{p.name} = {_value(p, args[p.name])}" for p in program.params if p.is_scalar and p.name in args]
    lines += [f"with {', '.join(given)}"] if given else []
    plain = ascii_text("\n".join(lines), lines=True).split("\n")
    return "".join(f"# {line}".rstrip() + "\n" for line in plain)


def _value(p: Parameter, value: bool | int | float) -> str:
    return p.labels[int(value)] if p.labels else literal(value)

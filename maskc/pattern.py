"""A pattern with its arguments: what is loaded, compiled, stored, compared and sent around."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from maskc.diagnostics import Diagnostic, MaskcError, Source
from maskc.ir.program import Parameter, Program

if TYPE_CHECKING:
    from maskc.specform import Spec

__all__ = ["Pattern"]

#: A static argument as a pattern holds it: an enumeration by its label, a table as nested tuples.
Value = Any
#: Arguments that are wrong, of which there may be any number in a spec, until no more are looked at.
_MAX_PROBLEMS = 20


@dataclass(frozen=True, eq=False, repr=False)
class Pattern:
    """A program and its static arguments. Immutable; may be pickled; equal where the meaning is spelled alike.

    Attributes:
        program: what the pattern means.
        args: the static arguments that were given, by name. Scalars are Python values, enumerations
            labels, tables nested tuples. What is not given keeps its default, or is given when compiling.
        source: the text that it was read from, whose definitions claims may use; None of a spec or a program. It is
            no part of what the pattern means.
    """

    program: Program
    args: Mapping[str, Value] = field(default_factory=dict)
    source: Source | None = None

    @property
    def name(self) -> str:
        """The name of the pattern."""
        return self.program.name

    @property
    def text(self) -> str:
        """The program as canonical text in the language, which parses back to the same program."""
        from maskc.ir.text import print_program

        return print_program(self.program)

    @property
    def hash(self) -> str:
        """64 hexadecimal digits that depend on the meaning: neither on formatting nor on names of patterns."""
        from maskc.passes.canonical import program_hash

        effective = {p.name: _shown(p, p.default.value) for p in self.program.params if p.default is not None}
        args = json.dumps({**effective, **self.args}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(f"{program_hash(self.program)}\n{args}".encode()).hexdigest()

    def with_args(self, /, **values: Any) -> Pattern:
        """The same pattern with these arguments too; they replace earlier ones.

        Values may be Python numbers, labels, lists, NumPy arrays or torch tensors. Raises E303, E502,
        E503, E504. Inputs, which arrive with each call, are refused (E502); shapes that depend on
        the number of heads are checked when compiling.
        """
        return Pattern(self.program, {**self.args, **checked_args(self.program, values)}, self.source)

    def spec(self) -> Spec:
        """A JSON-safe dict from which ``maskc.from_spec`` makes this pattern again."""
        from maskc.specform import written

        return written(self.text, self.args)

    def __eq__(self, other: object) -> bool:
        return self.hash == other.hash if isinstance(other, Pattern) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.hash)

    def __str__(self) -> str:
        return self.text

    def _repr_svg_(self) -> str | None:
        from maskc.picture.notebook import pattern_svg

        return pattern_svg(self.program, self.args)

    def _repr_html_(self) -> str:
        from maskc.picture.notebook import pattern_html

        return pattern_html(self.program, self.args)

    def __repr__(self) -> str:
        args = ", ".join(f"{name}={_short(value)}" for name, value in self.args.items())
        return f"<pattern {self.program.name}({args})>"


def checked_args(program: Program, values: Mapping[str, Any]) -> dict[str, Value]:
    """Static arguments in the form that a pattern holds them. Raises E303, E502, E503, E504 and E505."""
    from maskc.tiles.values import no_such_name, scalar_value, table_value

    problems: list[Diagnostic] = []
    checked: dict[str, Value] = {}
    params = {p.name: p for p in program.params}
    for name, value in values.items():
        if len(problems) >= _MAX_PROBLEMS:
            break
        p = params.get(name)
        try:
            if p is None:
                hint = no_such_name(name, list(params), (program.q_space, program.k_space))
                problems.append(Diagnostic("E502", f"{program.name!r} takes no argument called {name!r}", hint=hint))
            elif p.when == "call":
                hint = "give it to the op with each call, or to compile as the default for calls"
                problems.append(Diagnostic("E502", f"{name!r} is an input of {program.name!r}, no argument", hint=hint))
            elif p.is_scalar:
                checked[name] = _shown(p, scalar_value(p, value))
            else:
                checked[name] = _frozen(table_value(p, value).tolist())
        except MaskcError as error:
            problems.extend(error.diagnostics)
    if problems:
        raise MaskcError(problems)
    return checked


def _shown(p: Parameter, value: bool | int | float) -> Value:
    return p.labels[int(value)] if p.labels else value


def _frozen(value: Any) -> Value:
    return tuple(_frozen(x) for x in value) if isinstance(value, list) else value


def _short(value: Value) -> str:
    shape = []
    while isinstance(value, tuple):
        shape.append(len(value))
        value = value[0] if value else None
    return f"<table {' x '.join(map(str, shape))}>" if shape else repr(value)

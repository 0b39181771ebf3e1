"""The pattern that a model's configuration holds, as a pattern file. Needs neither torch nor Transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from maskc.interop.fields import malformed
from maskc.ir.nodes import Const
from maskc.ir.program import Parameter
from maskc.pattern import Pattern
from maskc.spec import from_spec

__all__ = ["FIELD", "SIDES", "stored_text"]

#: The field of a config, or of its text's part, that carries a pattern: a spec, or one for each side.
FIELD = "attention_pattern"
#: What models with an encoder and a decoder may have a pattern for.
SIDES = ("encoder", "decoder")


def stored_text(config: Mapping[str, Any]) -> tuple[str, tuple[str, ...]] | None:
    """The pattern file of the pattern in ``config``, and what a file cannot say of it; None if it holds none.

    Scalar arguments become the parameters' defaults. Raises as ``from_spec`` does.
    """
    part = config.get("text_config")
    held = config.get(FIELD) or (part.get(FIELD) if isinstance(part, Mapping) else None)
    if held is None:
        return None
    if not isinstance(held, Mapping):
        raise malformed(f"{FIELD!r} is no object", "it is a spec: maskc.Pattern.spec() writes one")
    sides = {side: held[side] for side in SIDES if held.get(side) is not None} or {"": held}
    texts, notes = [], list[str]()
    for side, spec in sides.items():
        text, more = _file(spec, side)
        texts.append(text)
        notes += more
    return "\n".join(texts), tuple(notes)


def _file(spec: Any, side: str) -> tuple[str, list[str]]:
    """The text for one side, which it is named after where there are two."""
    from maskc.ir.text import print_program

    if not isinstance(spec, Mapping):
        raise malformed(f"{FIELD!r} is no object", "it is a spec: maskc.Pattern.spec() writes one")
    pattern = from_spec({name: value for name, value in spec.items() if name != "sizes"})
    params = tuple(_with_default(p, pattern) for p in pattern.program.params)
    program = pattern.program.replace(params=params, name=side or pattern.name)
    whose = f" of {side!r}" if side else ""
    notes = [
        f"the table {name!r}{whose} is an argument, which no file holds: give it with --arg"
        for name in pattern.args
        if not next(p for p in params if p.name == name).is_scalar
    ]
    sizes = spec.get("sizes")
    if isinstance(sizes, Mapping) and sizes:
        given = " ".join(f"--size {name}={value}" for name, value in sizes.items())
        notes.append(f"the extents{whose} are no part of a file: give {given}")
    return print_program(program), notes


def _with_default(p: Parameter, pattern: Pattern) -> Parameter:
    if not p.is_scalar or p.name not in pattern.args:
        return p
    value = pattern.args[p.name]
    return dataclasses.replace(p, default=Const(p.labels.index(value) if p.labels else value))

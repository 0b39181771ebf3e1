"""The pattern that a model's configuration holds, as a pattern file. Needs neither torch nor Transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from maskc.interop.fields import malformed
from maskc.ir.nodes import Const
from maskc.ir.program import Parameter
from maskc.pattern import Pattern
from maskc.spec import from_spec, read_spec
from maskc.tiles.values import fail

__all__ = ["FIELD", "SIDES", "Stored", "spec_of", "stored_text"]

#: The field of a config, or of its text's part, that carries a pattern: a spec, or one for each side.
FIELD = "attention_pattern"
#: What models with an encoder and a decoder may have a pattern for.
SIDES = ("encoder", "decoder")


@dataclass(frozen=True)
class Stored:
    """What a config's field holds: a pattern, and extents of its segments and axes."""

    pattern: Pattern
    sizes: Mapping[str, int] = field(default_factory=dict)


def spec_of(spec: Any) -> Stored:
    """The pattern and the extents of a spec as a config holds it. Raises as ``from_spec`` does, and for its sizes."""
    if not isinstance(spec, Mapping):
        return Stored(from_spec(spec))
    pattern = read_spec(spec, beside=("sizes",))
    if "sizes" not in spec:
        return Stored(pattern)
    from maskc.tiles.extents import check_extents

    return Stored(pattern, check_extents(pattern.program, _sizes(spec["sizes"])))


def _sizes(sizes: Any) -> Mapping[str, int]:
    good = isinstance(sizes, Mapping) and all(
        isinstance(name, str) and len(name) < 256 and isinstance(value, int) and 0 <= value < 1 << 31
        for name, value in sizes.items()
    )
    if not good:
        hint = 'write {"x": 32}: extents of segments and axes, below 2147483648'
        raise fail("E601", "malformed spec: sizes must be an object of names and integers", hint)
    return dict(sizes)


def stored_text(config: Mapping[str, Any]) -> tuple[str, tuple[str, ...]] | None:
    """The pattern file of the pattern in ``config``, and what a file cannot say of it; None if it holds none.

    Scalar arguments become the parameters' defaults. Raises as ``spec_of`` does, and E604.
    """
    part = config.get("text_config")
    held = config.get(FIELD)
    if held is None and isinstance(part, Mapping):
        held = part.get(FIELD)
    if held is None:
        return None
    if not isinstance(held, Mapping):
        raise malformed(f"{FIELD!r} is no object", "it is a spec: maskc.Pattern.spec() writes one")
    sided = bool(held) and set(held) <= set(SIDES)
    sides = {side: held[side] for side in SIDES if held.get(side) is not None} if sided else {"": held}
    if not sides:
        return None  # of neither side: what the config itself means
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
    stored = spec_of(spec)
    pattern = stored.pattern
    params = tuple(_with_default(p, pattern) for p in pattern.program.params)
    program = pattern.program.replace(params=params, name=side or pattern.name)
    whose = f" of {side!r}" if side else ""
    notes = [
        f"the table {name!r}{whose} is an argument, which no file holds: give it with --arg"
        for name in pattern.args
        if not next(p for p in params if p.name == name).is_scalar
    ]
    if stored.sizes:
        given = " ".join(f"--size {name}={value}" for name, value in stored.sizes.items())
        notes.append(f"the extents{whose} are no part of a file: give {given}")
    return print_program(program), notes


def _with_default(p: Parameter, pattern: Pattern) -> Parameter:
    if not p.is_scalar or p.name not in pattern.args:
        return p
    value = pattern.args[p.name]
    return dataclasses.replace(p, default=Const(p.labels.index(value) if p.labels else value))

"""What tells an op from those that compute something else, in any process, and what to make it of again."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from maskc.diagnostics import MaskcError
from maskc.ir.program import Program
from maskc.ir.text import print_program
from maskc.pattern import Pattern
from maskc.reading import parse

__all__ = ["content_of", "recipe_of", "said_by"]


def recipe_of(pattern: Pattern, options: Mapping[str, Any], inputs: Sequence[str]) -> str:
    """JSON text, the same for equal patterns and options, which ``said_by`` reads again; nothing where the program is
    too long to be read again.

    ``inputs``: names of the inputs that were given when compiling. A graph hands over every input, so that their
    values are no part of it.
    """
    try:
        text = _text(pattern.program)
    except MaskcError:
        return ""
    said = {"pattern": text, "args": pattern.args, "options": dict(options), "inputs": list(inputs)}
    return json.dumps(said, sort_keys=True, default=_plain)


def content_of(name: str, recipe: str) -> str:
    """A word that is the same for equal recipes; nothing of none. ``name``: the pattern's."""
    if not recipe:
        return ""
    return f"{name if name.isidentifier() else 'pattern'}-{hashlib.sha256(recipe.encode()).hexdigest()[:32]}"


def said_by(content: str, recipe: str) -> tuple[Pattern, dict[str, Any]]:
    """The pattern and the options of a recipe. Raises RuntimeError where ``content`` is that of another one, and as
    ``maskc.parse``."""
    name = content.rpartition("-")[0]
    if content_of(name, recipe) != content:
        raise RuntimeError(f"the graph was edited or damaged: what it says of the maskc op {content} is of another one")
    said = json.loads(recipe)
    return Pattern(parse(said["pattern"]).program.replace(name=name)).with_args(**said["args"]), said["options"]


def _plain(value: Any) -> Any:
    """A number of NumPy's as one of Python's."""
    return value.item() if hasattr(value, "item") else repr(value)


@functools.lru_cache(maxsize=64)
def _text(program: Program) -> str:
    return print_program(program, name="p", docs=False)

"""What tells an op from those that compute something else, in any process."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from maskc.diagnostics import MaskcError
from maskc.ir.program import Program
from maskc.ir.text import print_program
from maskc.pattern import Pattern

__all__ = ["content_of"]


def content_of(pattern: Pattern, options: Sequence[Any], inputs: Sequence[str]) -> str:
    """A word that is the same for equal patterns and options; nothing where the program is too long to be read again.

    ``inputs``: names of the inputs that were given when compiling. A graph hands over every input, so that their
    values are no part of it.
    """
    try:
        text = _text(pattern.program)
    except MaskcError:
        return ""
    said = json.dumps([text, pattern.args, *options, list(inputs)], sort_keys=True, default=repr)
    name = pattern.program.name if pattern.program.name.isidentifier() else "pattern"
    return f"{name}-{hashlib.sha256(said.encode()).hexdigest()[:32]}"


@functools.lru_cache(maxsize=64)
def _text(program: Program) -> str:
    return print_program(program, name="p", docs=False)

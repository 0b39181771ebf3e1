"""The text and the hash that all spellings of a meaning share, as far as the passes can tell."""

from __future__ import annotations

import hashlib

from maskc.ir.program import LANGUAGE_VERSION, Program
from maskc.ir.text import print_program
from maskc.passes import normalise

__all__ = ["canonical_text", "program_hash"]


def canonical_text(program: Program) -> str:
    """The normal form as text, without the pattern's name and its documentation."""
    return f"maskc {LANGUAGE_VERSION}\n" + print_program(normalise(program), name="p", docs=False)


def program_hash(program: Program) -> str:
    """64 hexadecimal digits: SHA-256 of the canonical text. The signature counts, with its defaults."""
    return hashlib.sha256(canonical_text(program).encode()).hexdigest()

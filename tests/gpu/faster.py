"""Triton's interpreter without what it does for nothing, which takes half its time. What it computes stays the same."""

from __future__ import annotations

import dataclasses
from typing import Any

__all__ = ["hurry"]


def hurry() -> None:
    """Make the interpreter of this process faster, as far as its version is known."""
    from triton.runtime import interpreter

    given: Any = interpreter
    # Whether an integer overflows is computed at every sum, and looked at in its debugging mode only.
    builder = given.interpreter_builder
    if not getattr(builder.options, "debug", True):
        builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)
    # Every call of a function by a kernel puts the interpreter's operations in the place of the language's once more.
    if hasattr(given, "_LangPatchScope"):
        patch, language = given._patch_lang, (given.tl, given.tl.core)

        def patch_once(fn: Any) -> Any:
            seen = [x for x in language if any(value is x for value in fn.__globals__.values())]
            if all(not given.tl.core.is_builtin(x.load) for x in (given.tl, *seen)):
                return given._LangPatchScope()
            return patch(fn)

        given._patch_lang = patch_once

"""Specs: a pattern with its arguments as JSON, as it is stored in a model's config and sent around.

    {"maskc": 1, "pattern": "pattern mistral(window: int = 4096) {...}", "args": {"window": 1024}, "hash": "..."}

Reading a spec runs nothing: its text is parsed as any pattern is, and everything is bounded. The hash is of the text
and the arguments as they are stored, so that every release accepts what an earlier one wrote; what a pattern *means* is
compared by ``Pattern.hash``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from maskc.arguments import expect
from maskc.diagnostics import Diagnostic, MaskcError
from maskc.pattern import Pattern
from maskc.reading import parse
from maskc.specform import MAX_JSON, SPEC_VERSION, Spec, checked_spec, listed, stored_hash, written

__all__ = ["MAX_JSON", "SPEC_VERSION", "Spec", "from_spec", "read_spec", "to_spec"]


def to_spec(pattern: Pattern) -> Spec:
    """The pattern as a JSON-safe dict. Raises E601 where an argument is a float that JSON cannot hold, and where the
    text is too long to be read again."""
    expect("pattern", pattern, Pattern, "a maskc.Pattern")
    return written(pattern.text, pattern.args)


def from_spec(spec: Mapping[str, Any] | str) -> Pattern:
    """The pattern that a spec, as a mapping or as JSON text, describes.

    Raises E601 where it is malformed or too large, E602 for a version this release does not know,
    E603 where the pattern and the arguments do not have the stated hash, E303 and E502 to E505 for
    arguments, and what ``maskc.parse`` raises for the text.
    """
    return read_spec(spec)


def read_spec(spec: Mapping[str, Any] | str, beside: Sequence[str] = ()) -> Pattern:
    """``from_spec`` of an object that may have the keys ``beside`` too, which somebody else reads."""
    checked = checked_spec(spec, beside)
    pattern = parse(checked["pattern"]).with_args(**checked["args"])
    stated, args = checked["hash"], {name: listed(value) for name, value in pattern.args.items()}
    found = stored_hash(checked["pattern"], args)
    if stated is not None and stated != found:
        raise MaskcError(
            Diagnostic(
                "E603",
                f"the spec says hash {stated[:12]}..., but its pattern and arguments have {found[:12]}...",
                hint='the spec was edited or damaged: get it again, or, if the change is meant, remove "hash"',
            )
        )
    return pattern

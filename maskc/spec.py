"""Specs: a pattern with its arguments as JSON, as it is stored in a model's config and sent around.

    {"maskc": 1, "pattern": "pattern mistral(window: int = 4096) {...}", "args": {"window": 1024}, "hash": "..."}

Reading a spec runs nothing: its text is parsed as any pattern is, and everything is bounded. The hash is of the text
and the arguments as they are stored, so that every release accepts what an earlier one wrote; what a pattern *means* is
compared by ``Pattern.hash``.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from maskc.arguments import expect
from maskc.diagnostics import Diagnostic, MaskcError
from maskc.pattern import Pattern
from maskc.syntax.tokens import MAX_TEXT

__all__ = ["MAX_JSON", "SPEC_VERSION", "Spec", "from_spec", "read_spec", "to_spec"]

#: The version of the form; the value under "maskc".
SPEC_VERSION = 1
#: Characters of a spec given as text.
MAX_JSON = 1 << 26

_MAX_NAME = 1 << 8  # characters of a key, a name or a label
_MAX_VALUES = 1 << 22  # elements of all tables together
_MAX_CHARACTERS = 1 << 26  # of a table's labels: NumPy gives each the room of the longest, 4 bytes a character
_MAX_DEPTH = 8  # dimensions of a table
_MAX_VERSION = 1 << 32  # what is shown of another version: Python writes no number of thousands of digits
_KEYS = ("maskc", "pattern", "args", "hash")


class Spec(TypedDict):
    """A spec: all JSON types. ``hash`` may be missing when a spec is read."""

    maskc: int
    pattern: str
    args: dict[str, Any]
    hash: str


def to_spec(pattern: Pattern) -> Spec:
    """The pattern as a JSON-safe dict. Raises E601 where an argument is a float that JSON cannot hold, and where the
    text is too long to be read again."""
    expect("pattern", pattern, Pattern, "a maskc.Pattern")
    for name, value in pattern.args.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise _malformed(f"the argument {name!r} is {value}, which JSON cannot hold", "give a finite number")
    text, args = pattern.text, {name: _listed(value) for name, value in pattern.args.items()}
    _check_text(text)
    return {"maskc": SPEC_VERSION, "pattern": text, "args": args, "hash": _stored_hash(text, args)}


def from_spec(spec: Mapping[str, Any] | str) -> Pattern:
    """The pattern that a spec, as a mapping or as JSON text, describes.

    Raises E601 where it is malformed or too large, E602 for a version this release does not know,
    E603 where the pattern and the arguments do not have the stated hash, E303 and E502 to E505 for
    arguments, and what ``maskc.parse`` raises for the text.
    """
    return read_spec(spec)


def read_spec(spec: Mapping[str, Any] | str, beside: Sequence[str] = ()) -> Pattern:
    """``from_spec`` of an object that may have the keys ``beside`` too, which somebody else reads."""
    from maskc.compiler import parse

    checked = _checked(_decoded(spec) if isinstance(spec, str) else spec, (*_KEYS, *beside))
    pattern = parse(checked["pattern"]).with_args(**checked["args"])
    stated, args = checked["hash"], {name: _listed(value) for name, value in pattern.args.items()}
    found = _stored_hash(checked["pattern"], args)
    if stated is not None and stated != found:
        raise MaskcError(
            Diagnostic(
                "E603",
                f"the spec says hash {stated[:12]}..., but its pattern and arguments have {found[:12]}...",
                hint='the spec was edited or damaged: get it again, or, if the change is meant, remove "hash"',
            )
        )
    return pattern


def _stored_hash(text: str, args: Mapping[str, Any]) -> str:
    """64 hexadecimal digits. Space around the text does not count: YAML adds and drops the last newline."""
    stored = json.dumps([SPEC_VERSION, text.strip(), args], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(stored.encode()).hexdigest()


def _decoded(text: str) -> Mapping[str, Any]:
    if len(text) > MAX_JSON:
        raise _malformed(f"{len(text)} characters are too many", f"a spec has at most {MAX_JSON}")
    try:
        return json.loads(text, parse_constant=_no_constant)  # type: ignore[no-any-return]
    except (ValueError, RecursionError) as error:
        reason = str(error) or "nested too deeply"
        hint = "a spec is a JSON object: maskc.parse(text).spec() makes one of a pattern's text"
        raise _malformed(f"not JSON: {reason}", hint) from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _checked(spec: object, keys: Sequence[str]) -> dict[str, Any]:
    if not isinstance(spec, Mapping):
        raise _malformed(f"expected an object, found {_kind(spec)}", 'write {"maskc": 1, "pattern": "..."}')
    version = spec.get("maskc")
    if version is None:
        raise _malformed('the key "maskc", the version, is missing', f'add "maskc": {SPEC_VERSION}')
    if isinstance(version, bool) or not isinstance(version, int | float) or version != SPEC_VERSION:
        shown = f"this release of maskc reads version {SPEC_VERSION}"
        found = version if isinstance(version, int | float) and abs(version) < _MAX_VERSION else _kind(version)
        raise MaskcError(Diagnostic("E602", f"the spec is of version {found}; {shown}", hint="upgrade maskc"))
    unknown = [key for key in spec if key not in keys]
    if unknown:
        named = ", ".join(_short(key) for key in unknown[:5])
        raise _malformed(f"unknown keys: {named}", f"the keys are {', '.join(keys)}")
    return {"pattern": _text(spec), "args": _args(spec), "hash": _hash(spec)}


def _text(spec: Mapping[str, Any]) -> str:
    text = spec.get("pattern")
    if not isinstance(text, str):
        raise _malformed(f'"pattern" must be a string, found {_kind(text)}', "it holds the text of the pattern")
    _check_text(text)
    return text


def _check_text(text: str) -> None:
    if len(text) > MAX_TEXT:
        raise _malformed(f'"pattern" has {len(text)} characters', f"at most {MAX_TEXT} are read")


def _hash(spec: Mapping[str, Any]) -> str | None:
    stated = spec.get("hash")
    if stated is not None and not isinstance(stated, str):
        raise _malformed(f'"hash" must be a string, found {_kind(stated)}', "remove it to skip the comparison")
    if stated is not None and not re.fullmatch("[0-9a-f]{64}", stated):
        raise _malformed('"hash" must be 64 hexadecimal digits', "remove it to skip the comparison")
    return stated


def _args(spec: Mapping[str, Any]) -> dict[str, Any]:
    args = spec.get("args", {})
    if not isinstance(args, Mapping):
        raise _malformed(f'"args" must be an object, found {_kind(args)}', 'write {"name": value}')
    budget = _MAX_VALUES
    for name, value in args.items():
        if not isinstance(name, str) or len(name) > _MAX_NAME:
            what = f"a string of at most {_MAX_NAME} characters"
            raise _malformed(f"the argument {_short(name)} must have {what} as its name", 'write {"name": value}')
        count, longest = _extent(name, value, budget)
        if count * longest > _MAX_CHARACTERS:
            raise _malformed(f"the argument {name!r} is too large", "give its labels as their numbers, 0, 1, ...")
        budget -= count
    return dict(args)


def _extent(name: str, value: object, budget: int, depth: int = 0) -> tuple[int, int]:
    """How many values there are, checking that all are numbers, Booleans or labels; and how long the longest label."""
    if isinstance(value, str) and len(value) <= _MAX_NAME:
        return 1, len(value)
    if isinstance(value, bool | int | float):
        return 1, 0
    if not isinstance(value, list | tuple):
        raise _malformed(
            f"the argument {name!r} holds {_kind(value)}", "use numbers, Booleans, labels and lists of them"
        )
    if depth == _MAX_DEPTH or len(value) > budget:
        raise _malformed(
            f"the argument {name!r} is too large", f"{_MAX_DEPTH} dimensions, {_MAX_VALUES} values at most"
        )
    total, longest = 0, 0
    for item in value:
        count, length = _extent(name, item, budget - total, depth + 1)
        total, longest = total + count, max(longest, length)
        if total > budget:
            raise _malformed(f"the argument {name!r} is too large", f"all tables hold {_MAX_VALUES} values at most")
    return max(total, 1), longest


def _listed(value: Any) -> Any:
    return [_listed(x) for x in value] if isinstance(value, tuple) else value


def _kind(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _short(value: object) -> str:
    """For a message: on one line, and not much of it."""
    return repr(value[:12]) + ("..." if len(value) > 12 else "") if isinstance(value, str) else _kind(value)


def _malformed(message: str, hint: str) -> MaskcError:
    return MaskcError(Diagnostic("E601", f"malformed spec: {message}", hint=hint))

"""The form of specs: what is written of a pattern's text and arguments, and what is accepted. Everything is bounded.

See ``maskc.spec``, which makes patterns of them.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from maskc.diagnostics import Diagnostic, MaskcError
from maskc.syntax.tokens import MAX_TEXT

__all__ = ["MAX_JSON", "SPEC_VERSION", "Spec", "checked_spec", "listed", "stored_hash", "written"]

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


def written(text: str, given: Mapping[str, Any]) -> Spec:
    """The spec of a text and arguments. Raises E601 where an argument is a float that JSON cannot hold, and where the
    text is too long to be read again."""
    for name, value in given.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise _malformed(f"the argument {name!r} is {value}, which JSON cannot hold", "give a finite number")
    args = {name: listed(value) for name, value in given.items()}
    _check_text(text)
    return {"maskc": SPEC_VERSION, "pattern": text, "args": args, "hash": stored_hash(text, args)}


def checked_spec(spec: Mapping[str, Any] | str, beside: Sequence[str] = ()) -> dict[str, Any]:
    """The text, the arguments and the hash (or None) of a spec, as a mapping or as JSON text; ``beside``: keys that it
    may have too. Raises E601 and E602."""
    return _checked(_decoded(spec) if isinstance(spec, str) else spec, (*_KEYS, *beside))


def stored_hash(text: str, args: Mapping[str, Any]) -> str:
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


def listed(value: Any) -> Any:
    """An argument as JSON has it: tables as lists."""
    return [listed(x) for x in value] if isinstance(value, tuple) else value


def _kind(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _short(value: object) -> str:
    """For a message: on one line, and not much of it."""
    return repr(value[:12]) + ("..." if len(value) > 12 else "") if isinstance(value, str) else _kind(value)


def _malformed(message: str, hint: str) -> MaskcError:
    return MaskcError(Diagnostic("E601", f"malformed spec: {message}", hint=hint))

"""Arguments of public functions: what has the type that it is to have, or an error that names the argument."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import Any

from maskc.diagnostics import fail

__all__ = ["by_name", "expect", "finite", "integer", "mapping_of", "shown"]

_LONGEST = 40  # characters of a value that a message shows; a longer one is named by its type
_BITS = 128  # of an integer that a message writes out: Python refuses to write those of thousands of digits


def shown(value: object) -> str:
    """A value as a message shows it: itself if it is short, else what it is."""
    if isinstance(value, int) and value.bit_length() > _BITS:
        return f"{'-' if value < 0 else ''}2**{value.bit_length() - 1} or more"
    if value is None or isinstance(value, bool | int | float | complex | str):
        text = repr(value)
        if len(text) <= _LONGEST:
            return text
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIO' or name == 'ndarray' else 'a'} {name}"


def expect(name: str, value: object, kind: type | tuple[type, ...], what: str) -> None:
    """Raises TypeError unless ``value`` is a ``kind``: ``what`` says what it must be, as "a maskc.Program"."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {what}, not {shown(value)}")


def mapping_of(name: str, value: Any) -> dict[str, Any]:
    """A mapping from names, as a dict; None is an empty one. Raises E503."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise fail(
            "E503", f"{name} must be a mapping from names to values, not {shown(value)}", f'{name}={{"...": ...}}'
        )
    for key in value:
        if not isinstance(key, str):
            raise fail("E503", f"{name}: the names are strings, not {shown(key)}")
    return dict(value)


def by_name(name: str, mapping: Any, more: Mapping[str, Any]) -> dict[str, Any]:
    """What is given by name: in the argument ``name``, a mapping, and by keyword. Raises E503, also for what is given
    twice."""
    found = mapping_of(name, mapping)
    for each in more:
        if each in found:
            raise fail("E503", f"{each!r} is given twice, in {name} and by keyword", "leave out one of the two")
    return {**found, **more}


def integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    """``value`` as an int. Raises E503 where it is none, and E504 where it is not between ``least`` and ``most``."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise fail("E503", f"{name} must be an integer, not {shown(value)}")
    if number < least:
        raise fail("E504", f"{name} must be at least {least}, not {shown(number)}")
    if most is not None and number > most:
        raise fail("E504", f"{name} must be at most {most}, not {shown(number)}")
    return number


def finite(name: str, value: float) -> float:
    """``value``. Raises E504 where it is a NaN or infinite."""
    if not math.isfinite(value):
        raise fail("E504", f"{name} must be finite, not {value}")
    return value

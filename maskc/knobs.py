"""The environment variables that maskc looks at: all of them, and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

__all__ = [
    "AUTOTUNE",
    "AUTOTUNE_SECONDS",
    "CACHE_DIR",
    "CHECK",
    "DUMP",
    "KNOBS",
    "NO_COLOR",
    "STAGES",
    "TERM",
    "TRITON_INTERPRET",
    "TRITON_PRECISION",
    "Knob",
]

_T = TypeVar("_T")

#: The stages that ``MASKC_DUMP`` may name.
STAGES = ("typed", "normal", "plan", "kernel")


@dataclass(frozen=True)
class Knob(Generic[_T]):
    """One environment variable.

    Attributes:
        name: the variable.
        default: its value as text when it is not set (or empty).
        read: from text to value; raises ValueError on a text that it does not understand.
        doc: one sentence.
    """

    name: str
    default: str
    read: Callable[[str], _T]
    doc: str

    def value(self) -> _T:
        """The value now. Raises ValueError, naming the variable, if its text makes no sense."""
        text = os.environ.get(self.name) or self.default
        try:
            return self.read(text)
        except ValueError as error:
            raise ValueError(f"environment variable {self.name}={text!r}: {error}") from None


def _switch(text: str) -> bool:
    on = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if text.lower() not in on:
        raise ValueError("expected 1 or 0")
    return on[text.lower()]


def _precision(text: str) -> str:
    if text not in ("ieee", "tf32"):
        raise ValueError("expected ieee or tf32")
    return text


def _autotune(text: str) -> str:
    if text not in ("off", "cached", "on"):
        raise ValueError("expected off, cached or on")
    return text


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 86400:
        raise ValueError("expected seconds, from 0 to 86400")
    return value


def _directory(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # No home is known, as in a container that runs under a number that has no name.
        return Path(text)


def _stages(text: str) -> frozenset[str]:
    names = frozenset(name.strip() for name in text.split(",") if name.strip())
    unknown = sorted(names - set(STAGES))
    if unknown:
        raise ValueError(f"no stage is called {', '.join(unknown)}; the stages are {', '.join(STAGES)}")
    return names


DUMP = Knob("MASKC_DUMP", "", _stages, "Stages to print to standard error while compiling, separated by commas.")
CHECK = Knob("MASKC_CHECK", "0", _switch, "Compare every call of a compiled op with the reference.")
CACHE_DIR = Knob("MASKC_CACHE_DIR", "~/.cache/maskc", _directory, "Where compiled kernels are kept.")
AUTOTUNE = Knob(
    "MASKC_AUTOTUNE",
    "cached",
    _autotune,
    "Tiles, warps and stages of Triton kernels: off takes the defaults, cached what `maskc tune` or an earlier run "
    "has measured, on measures what is new.",
)
AUTOTUNE_SECONDS = Knob(
    "MASKC_AUTOTUNE_SECONDS", "10", _seconds, "The most seconds that measuring one kernel takes, about."
)
TRITON_PRECISION = Knob(
    "MASKC_TRITON_PRECISION", "ieee", _precision, "Products of float32 in Triton kernels: ieee, or tf32 (faster)."
)
TRITON_INTERPRET = Knob(
    "TRITON_INTERPRET",
    "0",
    _switch,
    "Triton's own switch: kernels run on the CPU, slowly. Set it before Python starts.",
)
NO_COLOR = Knob("NO_COLOR", "", bool, "Print no colours, whatever the value is.")

TERM = Knob("TERM", "", str, "The kind of terminal; `dumb` gets no colours.")

KNOBS: tuple[Knob[Any], ...] = (
    DUMP,
    CHECK,
    CACHE_DIR,
    AUTOTUNE,
    AUTOTUNE_SECONDS,
    TRITON_PRECISION,
    TRITON_INTERPRET,
    NO_COLOR,
    TERM,
)

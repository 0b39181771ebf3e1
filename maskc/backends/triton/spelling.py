"""How Triton writes the operators of the ``OPS`` table: one row each, and the small functions that some need."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable

__all__ = ["HELPERS", "SPELLING", "ascii_text", "literal", "single"]


def _infix(symbol: str) -> Callable[..., str]:
    return lambda *operands: "(" + f" {symbol} ".join(operands) + ")"


def _call(name: str) -> Callable[..., str]:
    return lambda *operands: f"{name}({', '.join(operands)})"


def _nested(name: str, more: str = "") -> Callable[..., str]:
    def spell(first: str, *rest: str) -> str:
        for operand in rest:
            first = f"{name}({first}, {operand}{more})"
        return first

    return spell


_NAN = ", tl.PropagateNan.ALL"

#: Text of an operator applied to operands that are atoms or bracketed. The integer operators ``floordiv`` and
#: ``mod`` have a row for operands that may be negative; ``hash`` and ``pow`` are written by the emitter.
SPELLING: dict[str, Callable[..., str]] = {
    "or": _infix("|"),
    "and": _infix("&"),
    "not": lambda a: f"(~{a})",
    "lt": _infix("<"),
    "le": _infix("<="),
    "eq": _infix("=="),
    "ne": _infix("!="),
    "add": _infix("+"),
    "sub": _infix("-"),
    "mul": _infix("*"),
    "floordiv": _infix("//"),
    "mod": _infix("%"),
    "div": _infix("/"),
    "neg": lambda a: f"(-{a})",
    "min": _nested("tl.minimum"),
    "max": _nested("tl.maximum"),
    # By default Triton's give the other number where one is NaN.
    "min of floats": _nested("tl.minimum", _NAN),
    "max of floats": _nested("tl.maximum", _NAN),
    "abs": _call("tl.abs"),
    "select": _call("tl.where"),
    "exp": _call("tl.exp"),
    "exp2": _call("tl.exp2"),
    "log": _call("tl.log"),
    "log2": _call("tl.log2"),
    "sqrt": _call("tl.sqrt"),
    "sin": _call("tl.sin"),
    "cos": _call("tl.cos"),
    "tanh": _call("tanh"),
    "sigmoid": _call("tl.sigmoid"),
}


def ascii_text(text: str, *, lines: bool = False) -> str:
    """What a pattern says, where source code and file names quote it: printable ASCII, and ``?`` for all else.

    ``lines``: line ends stay.
    """
    return "".join(c if " " <= c <= "~" or (lines and c == "\n") else "?" for c in text)


def literal(value: bool | int | float) -> str:
    """A constant as Triton reads it."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return f'float("{value}")'
    return repr(value) if not isinstance(value, (int, float)) or value >= 0 else f"({value!r})"


def literal_in_64_bits(value: bool | int | float) -> str:
    """A constant with all its bits: Triton rounds a number that a tensor is compared with to 32 bits."""
    if not isinstance(value, float) or not _LEAST <= abs(value) <= _MOST or ctypes.c_float(value).value == value:
        return literal(value)
    return f"tl.full((), {literal(value)}, tl.float64)"


#: Between these 32 bits of float hold a number with all their precision.
_LEAST, _MOST = 2.0**-126, (2 - 2.0**-23) * 2.0**127


def single(value: bool | int | float) -> bool | int | float:
    """A constant as 32 bits of float hold it: Triton takes one beyond their range for 64 bits, and so all that meets
    it."""
    if not isinstance(value, float) or _LEAST <= abs(value) <= _MOST:
        return value
    return math.copysign(math.inf if abs(value) > _MOST else 0.0, value) if value == value else value


#: Functions that a kernel's file starts with where the kernel calls them.
HELPERS: dict[str, str] = {
    "load": '''@triton.jit
def load(pointers, there, MASKED: tl.constexpr, OTHER: tl.constexpr = 0.0):
    """A tile, with ``OTHER`` for what is not there; ``MASKED`` says whether anything may be missing."""
    if MASKED:
        tile = tl.load(pointers, mask=there, other=OTHER)
    else:
        tile = tl.load(pointers)
    return tile
''',
    "store": '''@triton.jit
def store(pointers, tile, there, MASKED: tl.constexpr):
    """Write a tile in the dtype that it is kept in; ``MASKED`` says whether some of it may have no place."""
    tile = tl.cast(tile, pointers.dtype.element_ty)
    if MASKED:
        tl.store(pointers, tile, mask=there)
    else:
        tl.store(pointers, tile)
''',
    "spread": '''@triton.jit
def spread(N: tl.constexpr, STRIDE: tl.constexpr, AT_ONCE: tl.constexpr):
    """0, STRIDE, 2 * STRIDE, ...: how far N tokens are from the first one. ``AT_ONCE`` of them are loaded at once, and
    the others lie constants away: written as such a sum, all of them take one address."""
    if AT_ONCE >= N:
        places = tl.arange(0, N) * STRIDE
    else:
        times = tl.arange(0, N // AT_ONCE) * (AT_ONCE * STRIDE)
        places = tl.reshape(times[:, None] + (tl.arange(0, AT_ONCE) * STRIDE)[None, :], (N,))
        # The largest power of 2, up to 16, that divides all of them: it does not pass through a reshape by itself.
        places = tl.multiple_of(places, (STRIDE | 16) & -(STRIDE | 16))
    return places
''',
    "visible": '''@triton.jit
def visible(tile, keep, AXIS: tl.constexpr, TRANSPOSED: tl.constexpr):
    """``tile`` with 0 for the tokens that no pair of ``keep`` needs: not even their NaN reaches a product."""
    needed = tl.max(keep.to(tl.int32), axis=AXIS) > 0
    if TRANSPOSED:
        tile = tl.where(needed[None, :], tile, 0.0)
    else:
        tile = tl.where(needed[:, None], tile, 0.0)
    return tile
''',
    "floordiv": '''@triton.jit
def floordiv(a, b):
    """The quotient, floored: Triton's own rounds toward 0."""
    rest = a % b
    return a // b - ((rest != 0) & ((rest < 0) != (b < 0))).to(tl.int32)
''',
    "mod": '''@triton.jit
def mod(a, b):
    """The remainder of the floored quotient, which has the sign of the divisor: Triton's own has the dividend's."""
    rest = a % b
    return tl.where((rest != 0) & ((rest < 0) != (b < 0)), rest + b, rest)
''',
    "mix": '''@triton.jit
def mix(state, x):
    """One more integer into a hash: a bijective mixing of 32 bits."""
    state = state ^ tl.cast(x, tl.uint32)
    state = (state ^ (state >> 16)) * tl.cast(0x7FEB352D, tl.uint32)
    state = (state ^ (state >> 15)) * tl.cast(0x5BD1E995, tl.uint32)
    return state ^ (state >> 16)
''',
    "whole": '''@triton.jit
def whole(x):
    """The largest integer that is not above, at most 2**30 from 0; 0 of NaN."""
    x = tl.minimum(tl.maximum(tl.where(x == x, x, 0.0), -1073741824.0), 1073741824.0)
    return tl.cast(tl.floor(x), tl.int32)
''',
    "tanh": '''@triton.jit
def tanh(x):
    """The hyperbolic tangent; by its series near 0, where the quotient of exponentials is not accurate."""
    e = tl.exp(-2.0 * tl.abs(x))
    y = (1.0 - e) / (1.0 + e)
    square = x * x
    series = x * (1.0 - square * (1.0 / 3.0 - square * (2.0 / 15.0)))
    return tl.where(tl.abs(x) < 0.1, series, tl.where(x < 0.0, -y, y))
''',
}

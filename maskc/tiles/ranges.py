"""Interval and congruence arithmetic over many boxes of (query, key) at once.

A ``Range`` says what values an integer or float expression takes in each box: bounds, a congruence, whether the
bounds are attained, and whether everything between them (that obeys the congruence) is. A box is a product, so two
expressions of different variables vary independently; ``uses`` keeps track of that. What is linear in q and k stays
symbolic, so that ``q - k`` is one variable and not the difference of two.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.ir.interval import MAX_INT
from maskc.ir.ops import OPS
from maskc.tiles.boxes import NO_VARIABLES, Boxes, Range

__all__ = ["apply_op", "constant", "equal", "less", "linear", "without_nan"]

Array = npt.NDArray[Any]
#: No integer of a program is beyond this (E507), so that bounds need not be; and no sum of two leaves int64.
_HUGE = MAX_INT - 1


def constant(value: Any) -> Range:
    """The same value in every box; ``value`` may have leading axes."""
    integral = np.asarray(value).dtype.kind in "iu"
    return Range(
        value, value, 0, value if integral else 0, True, True, NO_VARIABLES, (0, 0, value) if integral else None
    )


def linear(boxes: Boxes, a: int, b: int, c: Any) -> Range:
    """``a*q + b*k + c``."""
    if not a and not b:
        return constant(c)
    q_low, q_high = (boxes.q0, boxes.q1) if a >= 0 else (boxes.q1, boxes.q0)
    k_low, k_high = (boxes.k0, boxes.k1) if b >= 0 else (boxes.k1, boxes.k0)
    lo, hi = c, c
    if a:
        lo, hi = lo + a * q_low, hi + a * q_high
    if b:
        lo, hi = lo + b * k_low, hi + b * k_high
    steps = abs(a) * boxes.q_step, abs(b) * boxes.k_step
    modulus = math.gcd(*steps)
    dense = not (a and b) or steps[0] == steps[1]
    uses = frozenset(n for n, x in (("q", a), ("k", b)) if x)
    return Range(lo, hi, modulus, lo % modulus if modulus > 1 else 0, True, dense, uses, (a, b, c))


def _apart(*ranges: Range) -> bool:
    """Whether no variable is shared: then all combinations of the operands' values occur."""
    return sum(len(r.uses) for r in ranges) == len(frozenset().union(*(r.uses for r in ranges)))


def _uses(*ranges: Range) -> frozenset[str]:
    return frozenset().union(*(r.uses for r in ranges))


def _is_scalar(r: Range) -> bool:
    return r.modulus == 0 and np.ndim(r.lo) == 0


def _guard(lo: Any, hi: Any) -> tuple[Any, Any]:
    """Bounds that cannot overflow when added."""
    return np.maximum(lo, -_HUGE), np.minimum(hi, _HUGE)


def add(boxes: Boxes, x: Range, y: Range) -> Range:
    if x.form and y.form:
        a, b, c = (u + v for u, v in zip(x.form, y.form, strict=True))
        return linear(boxes, a, b, c)
    if x.modulus == 0 and y.modulus == 0:
        return constant(x.lo + y.lo)
    apart = _apart(x, y)
    modulus = math.gcd(x.modulus, y.modulus)
    same_step = x.modulus == y.modulus or 0 in (x.modulus, y.modulus)
    with np.errstate(invalid="ignore"):  # inf - inf
        lo, hi = x.lo + y.lo, x.hi + y.hi
    exact = apart & x.exact & y.exact & _numbers(lo, hi)
    lo, hi = _guard(lo, hi) if np.asarray(lo).dtype.kind == "i" else without_nan(lo, hi)
    return Range(
        lo,
        hi,
        modulus,
        (x.residue + y.residue) % modulus if modulus > 1 else 0,
        exact,
        apart & same_step & x.dense & y.dense,
        _uses(x, y),
    )


def scale(boxes: Boxes, x: Range, factor: Any) -> Range:
    if np.asarray(x.lo).dtype.kind == "f":
        lo, hi = (x.lo * factor, x.hi * factor) if factor >= 0 else (x.hi * factor, x.lo * factor)
        return Range(*without_nan(lo, hi), exact=x.exact & _numbers(lo, hi), uses=x.uses)
    factor = int(factor)
    if factor == 0 or x.modulus == 0:
        return constant(x.lo * factor if factor else 0)
    if x.form:
        a, b, c = x.form
        return linear(boxes, a * factor, b * factor, c * factor)
    low, high = (x.lo, x.hi) if factor > 0 else (x.hi, x.lo)
    lo, hi = _product(low, factor), _product(high, factor)
    modulus = x.modulus * abs(factor)
    residue = (x.residue * factor) % modulus if modulus > 1 else 0
    return Range(lo, hi, modulus, residue, x.exact, x.dense, x.uses)


def _product(a: Any, b: Any) -> Any:
    """a * b, or the bound of the same sign that all integers have, where that is beyond it or would overflow."""
    big = np.abs(np.asarray(a, np.float64) * np.asarray(b, np.float64)) > _HUGE
    if not np.any(big):
        return np.clip(a * b, -_HUGE, _HUGE)
    a, b, big = np.broadcast_arrays(a, b, big)
    sign = np.sign(a) * np.sign(b)
    return np.where(big, sign * _HUGE, np.clip(np.where(big, 0, a) * np.where(big, 0, b), -_HUGE, _HUGE))


def sub(boxes: Boxes, x: Range, y: Range) -> Range:
    return add(boxes, x, scale(boxes, y, -1))


def mul(boxes: Boxes, x: Range, y: Range) -> Range:
    if _is_scalar(y):
        return scale(boxes, x, y.lo)
    if _is_scalar(x):
        return scale(boxes, y, x.lo)
    if x is y and np.asarray(x.lo).dtype.kind == "i":
        size = absolute(boxes, x)
        lo, hi = _product(size.lo, size.lo), _product(size.hi, size.hi)
        return Range(lo, hi, exact=size.exact, uses=x.uses)
    times = np.multiply if np.asarray(x.lo).dtype.kind == "f" else _product
    lo, hi = _corners(times, x, y)
    exact = _apart(x, y) & x.exact & y.exact & _numbers(lo, hi)
    return Range(*without_nan(lo, hi), exact=exact, uses=_uses(x, y))


def _corners(f: Callable[[Any, Any], Any], x: Range, y: Range) -> tuple[Any, Any]:
    with np.errstate(all="ignore"):
        values = [f(a, b) for a in (x.lo, x.hi) for b in (y.lo, y.hi)]
    return functools.reduce(np.minimum, values), functools.reduce(np.maximum, values)


def without_nan(lo: Any, hi: Any) -> tuple[Any, Any]:
    """Bounds, with no bounds where one of them is not a number."""
    if np.asarray(lo).dtype.kind != "f":
        return lo, hi
    bad = np.isnan(lo) | np.isnan(hi)
    return np.where(bad, -np.inf, lo), np.where(bad, np.inf, hi)


def _numbers(lo: Any, hi: Any) -> Any:
    """Whether both bounds are numbers: what stands in for others is not attained."""
    return np.asarray(lo).dtype.kind != "f" or ~(np.isnan(lo) | np.isnan(hi))


def _unbounded(x: Range) -> Any:
    """Where nothing is known of a float, so that it may be NaN: what may be NaN has no bound on either side."""
    if np.asarray(x.lo).dtype.kind != "f":
        return np.False_
    return np.isinf(x.lo) & np.isinf(x.hi) & (np.asarray(x.lo) < x.hi)


def _open(bad: Any, x: Range) -> Range:
    """``x``, without bounds where its value may be NaN."""
    if not np.any(bad):
        return x
    lo, hi, sure = np.where(bad, -np.inf, x.lo), np.where(bad, np.inf, x.hi), np.logical_not(bad)
    return replace(x, lo=lo, hi=hi, exact=x.exact & sure, dense=x.dense & sure)


def floordiv(boxes: Boxes, x: Range, y: Range) -> Range:
    if not _is_scalar(y):
        return _general_quotient(x, y)
    divisor = int(y.lo)
    if divisor == 0:
        return constant(0)
    if divisor < 0:
        x, divisor = scale(boxes, x, -1), -divisor
    if divisor == 1:
        return x
    if x.modulus == 0:
        return constant(x.lo // divisor)
    if x.modulus % divisor == 0:
        modulus, residue, dense = x.modulus // divisor, x.residue // divisor, x.dense
    else:
        modulus, residue, dense = min(x.modulus, 1), 0, x.dense & (x.modulus <= divisor)
    return Range(x.lo // divisor, x.hi // divisor, modulus, residue, x.exact, dense, x.uses)


def _general_quotient(x: Range, y: Range) -> Range:
    crosses = (y.lo <= 0) & (y.hi >= 0)
    safe = Range(np.where(crosses, 1, y.lo), np.where(crosses, 1, y.hi))
    lo, hi = _corners(np.floor_divide, x, safe)
    most = np.maximum(np.abs(x.lo), np.abs(x.hi)) + 1
    zero = (y.lo == 0) & (y.hi == 0)
    lo = np.where(zero, 0, np.where(crosses, -most, lo))
    hi = np.where(zero, 0, np.where(crosses, most, hi))
    return Range(lo, hi, exact=_apart(x, y) & x.exact & y.exact & (np.logical_not(crosses) | zero), uses=_uses(x, y))


def mod(boxes: Boxes, x: Range, y: Range) -> Range:
    if not _is_scalar(y):
        return _general_remainder(x, y)
    divisor = int(y.lo)
    if divisor == 0:
        return constant(0)
    if divisor < 0:
        return scale(boxes, mod(boxes, scale(boxes, x, -1), constant(-divisor)), -1)
    if x.modulus == 0:
        return constant(x.lo % divisor)
    if x.modulus % divisor == 0:
        value = x.residue % divisor
        return Range(value, value, divisor, value, True, True, x.uses)
    quotient = x.lo // divisor
    within = quotient == x.hi // divisor
    if np.all(within & (quotient == 0)):
        return x
    common = math.gcd(x.modulus, divisor)
    residue = x.residue % common if common > 1 else 0
    lo = np.where(within, x.lo - quotient * divisor, residue)
    hi = np.where(within, x.hi - quotient * divisor, divisor - common + residue)
    steady = x.dense & (common == x.modulus)
    full = steady & (x.hi - x.lo >= divisor - common)
    dense = np.where(within, steady | (x.dense & (np.asarray(x.lo) == x.hi)), full)
    return Range(lo, hi, common, residue, np.where(within, x.exact, steady), dense, x.uses)


def _general_remainder(x: Range, y: Range) -> Range:
    inside = (x.lo >= 0) & (x.hi < y.lo)
    lo = np.where(inside, x.lo, np.where(y.lo >= 0, 0, y.lo + 1))
    hi = np.where(inside, x.hi, np.where(y.hi <= 0, 0, y.hi - 1))
    lo, hi = np.minimum(lo, np.where(inside, lo, 0)), np.maximum(hi, np.where(inside, hi, 0))
    known = (x.lo == x.hi) & (y.lo == y.hi)
    if np.any(known):
        value = OPS["mod"].meaning(np, np.asarray(x.lo), np.asarray(y.lo))
        lo, hi = np.where(known, value, lo), np.where(known, value, hi)
    exact = np.where(known, True, inside & x.exact)
    return Range(
        lo, hi, exact=exact, dense=np.where(known, True, inside & x.dense & (x.modulus <= 1)), uses=_uses(x, y)
    )


def absolute(boxes: Boxes, x: Range) -> Range:
    if np.all(np.asarray(x.lo) >= 0):
        return x
    crosses = (x.lo < 0) & (x.hi > 0)
    low, high = np.minimum(np.abs(x.lo), np.abs(x.hi)), np.maximum(np.abs(x.lo), np.abs(x.hi))
    if np.asarray(x.lo).dtype.kind == "f":
        found = Range(np.where(crosses, 0.0, low), high, exact=x.exact & np.logical_not(crosses), uses=x.uses)
        return _open(_unbounded(x), found)
    steady = x.dense & (x.modulus <= 1)
    return Range(np.where(crosses, 0, low), high, 1, 0, x.exact & (steady | np.logical_not(crosses)), steady, x.uses)


def extremum(which: Callable[[Any, Any], Any], x: Range, y: Range) -> Range:
    """The smaller or the greater of two; NaN if one of them is."""
    bad = _unbounded(x) | _unbounded(y)
    first, second = (x, y) if which is np.minimum else (y, x)
    if np.all(first.hi <= second.lo) and not np.any(bad):
        return x
    if np.all(second.hi <= first.lo) and not np.any(bad):
        return y
    apart = _apart(x, y)
    steady = apart & x.dense & y.dense & (x.modulus <= 1) & (y.modulus <= 1)
    lo, hi = which(x.lo, y.lo), which(x.hi, y.hi)
    return _open(bad, Range(lo, hi, exact=apart & x.exact & y.exact, dense=steady, uses=_uses(x, y)))


def choice(is_true: Any, is_false: Any, x: Range, y: Range, uses: frozenset[str]) -> Range:
    """``x`` where the condition holds all over the box, ``y`` where it nowhere does, else the hull."""
    if np.all(is_true):
        return x
    if np.all(is_false):
        return y
    lo = np.where(is_true, x.lo, np.where(is_false, y.lo, np.minimum(x.lo, y.lo)))
    hi = np.where(is_true, x.hi, np.where(is_false, y.hi, np.maximum(x.hi, y.hi)))
    exact = np.where(is_true, x.exact, np.where(is_false, y.exact, False))
    dense = np.where(is_true, _no_steps(x), np.where(is_false, _no_steps(y), False))
    return Range(lo, hi, exact=exact, dense=dense, uses=uses | _uses(x, y))


def _no_steps(x: Range) -> Any:
    return x.dense & ((x.modulus <= 1) | (np.asarray(x.lo) == x.hi))


def hashed(args: list[Range]) -> Range:
    known = functools.reduce(np.logical_and, [np.asarray(a.lo) == a.hi for a in args])
    lo: Any = 0
    hi: Any = (1 << 31) - 1
    if np.any(known):
        value = OPS["hash"].meaning(np, *(np.asarray(a.lo) for a in args))
        lo, hi = np.where(known, value, lo), np.where(known, value, hi)
    return Range(lo, hi, exact=known, dense=known, uses=_uses(*args))


_RISING = ("exp", "exp2", "log", "log2", "sqrt", "tanh", "sigmoid")


def floating(op: str, x: Range) -> Range:
    """A function of one float: from the ends if it rises, with room for rounding; else what is always true."""
    meaning = OPS[op].meaning
    with np.errstate(all="ignore"):
        lo, hi = meaning(np, np.asarray(x.lo)), meaning(np, np.asarray(x.hi))
        if op in _RISING:
            slack = 1e-12 * (np.abs(lo) + np.abs(hi)) + 1e-300
            wide = (lo - slack, hi + slack)
        else:
            wide = (np.full_like(lo, -1.0), np.full_like(hi, 1.0))
    known = np.asarray(x.lo) == x.hi
    lo, hi = without_nan(np.where(known, lo, wide[0]), np.where(known, hi, wide[1]))
    # Of an infinite number a sine or a cosine is NaN.
    bad = _unbounded(x) if op in _RISING else ~(np.isfinite(x.lo) & np.isfinite(x.hi))
    return _open(bad, Range(lo, hi, exact=known & np.isfinite(lo), uses=x.uses))


def _float_quotient(x: Range, y: Range) -> Range:
    lo, hi = _corners(np.divide, x, y)
    crosses = (y.lo <= 0) & (y.hi >= 0) & ~((np.asarray(x.lo) == x.hi) & (np.asarray(y.lo) == y.hi))
    return Range(*without_nan(np.where(crosses, np.nan, lo), hi), uses=_uses(x, y))


def _power(x: Range, y: Range) -> Range:
    lo, hi = _corners(np.power, x, y)
    known = (np.asarray(x.lo) == x.hi) & (np.asarray(y.lo) == y.hi)
    slack = np.where(known, 0.0, 1e-12 * (np.abs(lo) + np.abs(hi)) + 1e-300)
    lo, hi = np.where(known | (x.lo > 0), lo - slack, np.nan), hi + slack
    return Range(*without_nan(lo, hi), uses=_uses(x, y))


def apply_op(boxes: Boxes, op: str, args: list[Range]) -> Range:
    """An operator of ``OPS`` that gives a number, but "select"."""
    simple: dict[str, Callable[[Boxes, Range, Range], Range]] = {
        "add": add, "sub": sub, "mul": mul, "floordiv": floordiv, "mod": mod,
    }  # fmt: skip
    if op in simple:
        return simple[op](boxes, *args)
    if op in ("min", "max"):
        return functools.reduce(functools.partial(extremum, np.minimum if op == "min" else np.maximum), args)
    if op == "neg":
        return scale(boxes, args[0], -1)
    if op == "abs":
        return absolute(boxes, args[0])
    if op == "hash":
        return hashed(args)
    if op == "float":
        x = args[0]
        return Range(np.asarray(x.lo, np.float64), np.asarray(x.hi, np.float64), exact=x.exact, uses=x.uses)
    if op == "floor":
        return _floored(args[0])
    if op == "div":
        return _float_quotient(*args)
    return _power(*args) if op == "pow" else floating(op, args[0])


def _floored(x: Range) -> Range:
    lo, hi = (OPS["floor"].meaning(np, np.asarray(end)) for end in (x.lo, x.hi))
    # What may be infinite may be NaN, which becomes 0.
    finite = np.isfinite(x.lo) & np.isfinite(x.hi)
    lo, hi = np.where(finite, lo, np.minimum(lo, 0)), np.where(finite, hi, np.maximum(hi, 0))
    return Range(lo, hi, exact=x.exact & finite, uses=x.uses)


def less(boxes: Boxes, x: Range, y: Range, or_equal: bool) -> tuple[Any, Any, Any]:
    """``x < y`` (or ``<=``): whether it can hold in each box, whether it can fail, and whether that is exact."""
    if np.asarray(x.lo).dtype.kind == "f" or np.asarray(y.lo).dtype.kind == "f":
        exact, surely = _apart(x, y) & x.exact & y.exact, x.hi <= y.lo if or_equal else x.hi < y.lo
        if np.any(surely & (bad := _unbounded(x) | _unbounded(y))):  # -inf is at most what may be NaN, or is not
            exact, surely = exact & ~(surely & bad), surely & ~bad
        never = x.lo > y.hi if or_equal else x.lo >= y.hi
        return np.logical_not(never), np.logical_not(surely), exact
    d = sub(boxes, x, y)
    bound = 0 if or_equal else -1
    return np.asarray(d.lo) <= bound, np.asarray(d.hi) > bound, d.exact


def equal(boxes: Boxes, x: Range, y: Range) -> tuple[Any, Any, Any, Any]:
    """``x == y``: whether it can hold, whether it can fail, and whether each of the two is exact."""
    if np.asarray(x.lo).dtype.kind == "f" or np.asarray(y.lo).dtype.kind == "f":
        same = (np.asarray(x.lo) == x.hi) & (np.asarray(y.lo) == y.hi) & (np.asarray(x.lo) == y.lo)
        can = (x.lo <= y.hi) & (np.asarray(y.lo) <= x.hi)
        return can, ~(same & np.isfinite(x.lo)), False, False
    d = sub(boxes, x, y)
    lo, hi = np.asarray(d.lo), np.asarray(d.hi)
    can = (lo <= 0) & (hi >= 0)
    if d.modulus > 1:
        can = can & (np.asarray(d.residue) == 0)
    fails = (lo != 0) | (hi != 0)
    return can, fails, d.dense, d.exact

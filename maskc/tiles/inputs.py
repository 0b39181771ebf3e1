"""The values of inputs, and what was found out about them: kept while they live, extended where they grow.

A caller's array or tensor may change between two calls, and nothing that it carries tells that for sure: NumPy counts
no versions, and torch's counter misses writes through ``.data``, through NumPy and by kernels. So the values
themselves are compared, bit by bit, with those of earlier calls. That is one pass over memory, no dearer than the copy
that a binding needs anyway. Equal values are the same object from then on, which cannot be written to; whatever is
found out about that object (the least and greatest values of its blocks, the starts of its documents) can therefore
not be stale. Values that begin with those of an earlier call, as the labels of a decode step do, start from what was
found out about those, and read only what is new.

Everything is kept by weak references: it goes with the last binding or plan that holds the array.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from maskc.forks import new_lock

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

__all__ = ["content_key", "extremes", "intern", "row_classes", "structure"]

T = TypeVar("T")
_MOST = 256  # arrays that are known at once
_SMALL = 64  # values that tell most arrays apart
_PIECE = 1 << 15  # values compared at once
_LEAST = 4096  # smaller arrays are not worth remembering


class _Known:
    """One array, by a weak reference, and what was found out about it.

    ``inherited`` is what was found out about the values that the array begins with.
    """

    def __init__(self, array: Array, serial: int) -> None:
        self.array = weakref.ref(array)
        self.serial = serial
        self.found: dict[Hashable, Any] = {}
        self.inherited: dict[Hashable, Any] = {}


class _Registry:
    """The arrays that are known, by identity, the one used last at the end."""

    def __init__(self) -> None:
        self.lock = new_lock()
        self.known: dict[int, _Known] = {}
        self.serials = itertools.count()

    def of(self, array: Array) -> _Known | None:
        known = self.known.get(id(array))
        return known if known is not None and known.array() is array else None

    def add(self, array: Array) -> _Known:
        known = self.known[id(array)] = _Known(array, next(self.serials))
        weakref.finalize(array, self._forget, id(array), known)
        for key in list(self.known)[:-_MOST]:  # a list: arrays of other threads go at any time
            self.known.pop(key, None)
        return known

    def _forget(self, key: int, known: _Known) -> None:
        if self.known.get(key) is known:
            self.known.pop(key, None)


_REGISTRY = _Registry()


def intern(array: Array, dtype: npt.DTypeLike) -> Array:
    """An array of the same values, of a dtype, that no one can write to: that of an earlier call if there is one.

    Small arrays are only copied.
    """
    if array.size < _LEAST or array.ndim == 0:
        return array.astype(dtype)
    if array.dtype != dtype:
        array = array.astype(dtype)
    with _REGISTRY.lock:
        longest: tuple[_Known, Array] | None = None
        for known in list(_REGISTRY.known.values())[::-1]:
            other = known.array()
            if other is None or not _begins(array, other):
                continue
            if other.shape == array.shape:
                _REGISTRY.known[id(other)] = _REGISTRY.known.pop(id(other))
                return other
            if longest is None or other.size > longest[1].size:
                longest = known, other
        array = array.copy("C")
        array.flags.writeable = False
        new = _REGISTRY.add(array)
        if longest is not None:
            new.inherited = {**longest[0].inherited, **longest[0].found}
        return array


def _begins(array: Array, other: Array) -> bool:
    """Whether ``array`` is ``other``, or goes on along the last axis where that ends; bit by bit."""
    n = other.shape[-1]
    if array.dtype != other.dtype or array.ndim != other.ndim or array.shape[:-1] != other.shape[:-1]:
        return False
    if array.shape[-1] < n or not n:
        return False
    some = slice(0, n, max(1, n // _SMALL))
    if not _same_bits(array[..., some], other[..., some]):
        return False
    # Piece by piece, so that what is compared stays within the cache.
    return all(_same_bits(array[..., i : min(i + _PIECE, n)], other[..., i : i + _PIECE]) for i in range(0, n, _PIECE))


def _same_bits(a: Array, b: Array) -> bool:
    if a.dtype.kind == "f":  # NaN equals itself here, and -0.0 is not 0.0
        a, b = np.ascontiguousarray(a).view(f"u{a.itemsize}"), np.ascontiguousarray(b).view(f"u{b.itemsize}")
    return bool((a == b).all())


def content_key(array: Array) -> bytes | None:
    """A name of an array's values while it lives; None if the array is not one that is known.

    Equal names mean equal values; equal values of two arrays may have two names.
    """
    known = _REGISTRY.of(array)
    return None if known is None else b"%d" % known.serial


def structure(
    array: Array, key: Hashable, make: Callable[[], T], extend: Callable[[T], T | None] | None = None
) -> T | None:
    """What ``make`` finds out about an array: once, if the array is known.

    Args:
        array: an array of a binding, whole.
        key: what is found out.
        make: finds it out from nothing; it must not hold the array.
        extend: finds it out from what is known of the values that the array begins with; None: it cannot.

    Returns None if the array is not a known one: nothing can be kept then.
    """
    known = _REGISTRY.of(array)
    if known is None:
        return None
    with _REGISTRY.lock:
        if key not in known.found:
            before = known.inherited.pop(key, None)
            found = extend(before) if before is not None and extend is not None else None
            known.found[key] = make() if found is None else found
        return known.found[key]  # type: ignore[no-any-return]


def extremes(array: Array) -> tuple[int, int]:
    """The least and the greatest of an array of integers that is not empty."""

    def of(values: Array) -> tuple[int, int, int]:
        return array.shape[-1] if array.ndim else 1, int(values.min()), int(values.max())

    def extended(before: tuple[int, int, int]) -> tuple[int, int, int]:
        size, least, most = of(array[..., before[0] :])
        return size, min(least, before[1]), max(most, before[2])

    found = structure(array, "extremes", lambda: of(array), extended)
    return (of(array) if found is None else found)[1:]


def row_classes(array: Array) -> list[int]:
    """For every entry along the first axis, the first entry that has the same values."""

    def of(values: Array, within: list[int] | None = None) -> list[int]:
        rows = [values[i].tobytes() for i in range(values.shape[0])]
        keys = rows if within is None else list(zip(within, rows, strict=True))
        first: dict[object, int] = {}
        return [first.setdefault(key, i) for i, key in enumerate(keys)]

    def extended(before: tuple[int, list[int]]) -> tuple[int, list[int]]:
        return array.shape[-1], of(array[..., before[0] :], before[1])

    found = structure(array, "rows", lambda: (array.shape[-1], of(array)), extended)
    return of(array) if found is None else found[1]

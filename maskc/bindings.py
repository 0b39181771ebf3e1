"""The bindings of an op's calls: the same object for equal lengths and equal inputs, so that plans are found again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskc.ir.binding import Binding

__all__ = ["Bindings"]

_KEPT = 16


class Bindings:
    """The bindings that calls made last, by what they were made from. Inputs are compared by their contents, so that
    one that was changed in place is a different one. Safe with other threads about."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, Binding] = OrderedDict()

    def find(
        self,
        head: object,
        inputs: Mapping[str, Any],
        make: Callable[[], Binding],
        first: Callable[[Binding], None] = lambda binding: None,
    ) -> Binding:
        """The binding kept for ``head`` and the tables of ``inputs`` that it holds, else what ``make`` gives.

        ``first``: called with a binding that was not kept, before it is. The tables are looked at as ``make`` leaves
        them, which knows their shapes and checks them.
        """
        if not inputs:
            key = _digest(head, {})
            return self._recall(key) or self._keep(key, make(), first)
        made = make()
        key = _digest(head, {name: table for name, table in made.tables.items() if name in inputs})
        return self._recall(key) or self._keep(key, made, first)

    def _recall(self, key: bytes) -> Binding | None:
        # Taken out and put back, which is safe with other threads about; the one used last is at the end.
        known = self._kept.pop(key, None)
        if known is not None:
            self._kept[key] = known
        return known

    def _keep(self, key: bytes, binding: Binding, first: Callable[[Binding], None]) -> Binding:
        first(binding)
        self._kept[key] = binding
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return binding


def _digest(head: object, arrays: Mapping[str, Any]) -> bytes:
    from maskc.tiles.inputs import content_key

    state = hashlib.blake2b(repr(head).encode(), digest_size=16)
    for name, array in sorted(arrays.items()):
        state.update(repr((name, str(array.dtype), array.shape)).encode())
        # Equal long arrays are one object with a key; others are read.
        key = content_key(array)
        whole = array if array.flags.c_contiguous else array.copy("C")
        state.update(key if key is not None else memoryview(whole).cast("B") if array.size else b"")
    return state.digest()

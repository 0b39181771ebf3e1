"""The bindings of an op's calls: the same object for equal lengths and equal inputs, so that plans are found again."""

from __future__ import annotations

import hashlib
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from maskc.ir.binding import Binding

__all__ = ["Bindings"]

_KEPT = 16


class Bindings:
    """The bindings that calls made last, by what they were made from. Safe with other threads about.

    Inputs are compared by their contents, so that one that was changed in place is a different one. Only tensors on a
    device, which would have to be waited for, are taken for what they were while they are the same objects, and
    torch's count of their changes stands where it stood.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, Binding] = OrderedDict()
        self._seen: OrderedDict[Hashable, tuple[list[weakref.ref[torch.Tensor]], Binding]] = OrderedDict()

    def find(
        self,
        head: Hashable,
        inputs: Mapping[str, Any],
        make: Callable[[], Binding],
        first: Callable[[Binding], None] = lambda binding: None,
    ) -> Binding:
        """The binding kept for ``head`` and the tables of ``inputs`` that it holds, else what ``make`` gives.

        ``first``: called with a binding that was not kept, before it is. The tables are looked at as ``make`` leaves
        them, which knows their shapes and checks them.
        """
        if not inputs:
            return self._recall(head) or self._keep(head, make(), first)
        seen = _identity(head, inputs)
        before = None if seen is None else self._seen.get(seen)
        if before is not None and all(r() is x for r, x in zip(before[0], inputs.values(), strict=True)):
            return before[1]
        made = make()
        key = _digest(head, {name: table for name, table in made.tables.items() if name in inputs})
        found = self._recall(key) or self._keep(key, made, first)
        if seen is not None:
            self._seen[seen] = [weakref.ref(x) for x in inputs.values()], found
            while len(self._seen) > _KEPT:
                self._seen.popitem(last=False)
        return found

    def _recall(self, key: Hashable) -> Binding | None:
        # Taken out and put back, which is safe with other threads about; the one used last is at the end.
        known = self._kept.pop(key, None)
        if known is not None:
            self._kept[key] = known
        return known

    def _keep(self, key: Hashable, binding: Binding, first: Callable[[Binding], None]) -> Binding:
        first(binding)
        self._kept[key] = binding
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return binding


def _identity(head: Hashable, inputs: Mapping[str, Any]) -> Hashable | None:
    """What tells these very tensors, unchanged, from others while they live; None where that cannot be told."""
    for x in inputs.values():
        if not isinstance(x, torch.Tensor) or x.device.type == "cpu" or x.is_inference():
            return None
    return head, tuple((name, id(x), x._version) for name, x in inputs.items())


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

"""The bindings that an op keeps, where inputs lie on a device: they are not read again unless they changed."""

from __future__ import annotations

import numpy as np
import torch

from maskc.bindings import Bindings
from maskc.ir.binding import Binding


def test_inputs_on_a_device_are_read_once_until_they_change() -> None:
    bindings, read = Bindings(), list[int]()

    def find(head: str, x: torch.Tensor, values: int) -> Binding:
        def make() -> Binding:
            read.append(values)
            return Binding(4, 4, tables={"doc": np.full(4, values)})

        return bindings.find((head,), {"doc": x}, make)

    doc = torch.zeros(4, dtype=torch.int32, device="meta")  # a device whose elements nobody can look at
    first = find("a", doc, 1)
    assert find("a", doc, 2) is first
    assert find("b", doc, 1) is not first
    assert read == [1, 1]
    doc.add_(1)
    changed = find("a", doc, 3)
    assert changed is not first
    assert find("a", doc, 4) is changed
    other = doc.clone()
    assert find("a", other, 1) is first  # equal contents, whichever tensor they came in
    assert read == [1, 1, 3, 1]


def test_inputs_on_the_cpu_are_compared_by_their_contents() -> None:
    bindings, numbers = Bindings(), np.zeros(4, np.int64)
    doc = torch.from_numpy(numbers)  # changed behind torch's back

    def find() -> Binding:
        return bindings.find(("a",), {"doc": doc}, lambda: Binding(4, 4, tables={"doc": numbers.copy()}))

    first = find()
    assert find() is first
    numbers[1] = 1
    assert find() is not first

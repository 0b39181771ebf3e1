"""Tables on their way to a kernel: integers of 32 bits, and none beyond."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import maskc

pytest.importorskip("triton")

from maskc.backends.triton.launch import table_arguments

PROGRAM = maskc.parse("pattern p(w: int[head]) { attend k - q < w[h] }").program


@pytest.mark.parametrize("value", [-(1 << 31), (1 << 31) - 1])
def test_all_integers_of_32_bits_fit(value: int) -> None:
    binding = maskc.make_binding(PROGRAM, 4, 4, heads=2, w=[0, value])
    found = table_arguments(PROGRAM, binding, {}, ("w",), torch.device("cpu"))
    (table,) = (x for x in found.values() if isinstance(x, torch.Tensor))
    assert table.dtype == torch.int32
    assert np.array_equal(table.numpy(), [0, value])


@pytest.mark.parametrize("value", [-(1 << 31) - 1, 1 << 31])
def test_others_do_not(value: int) -> None:
    binding = maskc.make_binding(PROGRAM, 4, 4, heads=2, w=[0, value])
    with pytest.raises(maskc.MaskcError, match="'w' holds integers beyond 32 bits"):
        table_arguments(PROGRAM, binding, {}, ("w",), torch.device("cpu"))

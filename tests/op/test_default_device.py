"""Calls where tensors that name no device would be made on another one than those that they are given."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import maskc

TEXTS = [
    "causal",
    "hash(q, k) % 3 == 0",
    "sliding_window(4) & h % 2 == 0 | k < 2",
    "pattern p(slope: float[head]) {\n attend causal\n score s + slope[h] * (k - q)\n"
    " normalize softmax(sink = slope[h])\n output o * slope[h]\n}",
]


def results(text: str, **options: Any) -> list[torch.Tensor]:
    torch.manual_seed(0)
    leaves = [torch.randn(2, 2, 40, 8, device="cpu").requires_grad_() for _ in range(3)]
    slope = torch.tensor([0.1, -0.2], device="cpu", requires_grad=True)
    floats = {"slope": slope} if "slope" in text else {}
    op = maskc.compile(text, heads=2, **options)
    out, lse = op(*leaves, **floats, return_lse=True)
    with torch.no_grad():
        last = op.decode(leaves[0][:, :, -1:], *leaves[1:], [40, 7], **floats)
    loss = out.square().sum() + lse.sin().nan_to_num().sum()
    return [out, lse, last, *torch.autograd.grad(loss, [*leaves, *floats.values()])]


@pytest.mark.parametrize("options", [{}, {"check": True, "layout": "auto"}, {"backend": "reference"}], ids=str)
@pytest.mark.parametrize("text", TEXTS)
def test_the_default_device_changes_nothing(text: str, options: dict[str, Any]) -> None:
    wanted = results(text, **options)
    with torch.device("meta"):
        found = results(text, **options)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0.0, atol=0.0)


def test_what_an_op_remembers_is_no_tensor_of_that_device() -> None:
    op, x = maskc.compile("hash(q, k) % 3 == 0", heads=1), torch.randn(1, 1, 40, 8)
    with torch.device("meta"):
        op(x, x, x)
    wanted = maskc.compile("hash(q, k) % 3 == 0", heads=1, backend="reference")(x, x, x)
    torch.testing.assert_close(op(x, x, x), wanted)

"""Ops that compute in another order of the tokens: the same results, in the tokens' own order."""

from __future__ import annotations

import copy

import pytest
import torch

import maskc
from maskc.diagnostics import MaskcError

DILATED = "causal & (q - k) % 8 == 0"


def tensors(n: int, k_len: int | None = None, grad: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    lengths = (n, k_len or n, k_len or n)
    made = [torch.randn(2, 2, length, 16, generator=generator, dtype=torch.float64) for length in lengths]
    return tuple(x.requires_grad_(grad) for x in made)  # type: ignore[return-value]


@pytest.mark.parametrize("layout", ["auto", "residues", "residues:8"])
def test_results_and_gradients_are_the_same(layout: str) -> None:
    q, k, v = tensors(700, grad=True)
    given = torch.randn(q.shape, dtype=torch.float64)
    op, plain = maskc.compile(DILATED, heads=2, layout=layout), maskc.compile(DILATED, heads=2, backend="reference")
    assert op.plan(700, 700).q_order.name == "residues:8"
    out, lse = op(q, k, v, return_lse=True)
    wanted, wanted_lse = plain(q, k, v, return_lse=True)
    torch.testing.assert_close(out, wanted)
    torch.testing.assert_close(lse, wanted_lse)
    found = torch.autograd.grad(out, (q, k, v), given)
    for one, other in zip(found, torch.autograd.grad(wanted, (q, k, v), given), strict=True):
        torch.testing.assert_close(one, other)


def test_sorted_by_an_input() -> None:
    doc = torch.arange(600) % 5
    op = maskc.compile("pattern p(doc: int[token]) { attend causal & same(doc) }", heads=2, layout="auto")
    q, k, v = tensors(600)
    assert op.plan(600, 600, doc=doc).q_order.name == "sorted:doc"
    torch.testing.assert_close(op(q, k, v, doc=doc), maskc.compile(op.pattern, heads=2)(q, k, v, doc=doc))


def test_decoding_gathers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    op = maskc.compile(DILATED, heads=2, layout="residues:8")
    q, k, v = tensors(1, 900)
    wanted = maskc.compile(DILATED, heads=2)(q, k, v)
    monkeypatch.setattr(torch.Tensor, "index_select", None)
    torch.testing.assert_close(op(q, k, v), wanted)


def test_it_is_kept_shown_and_handed_on() -> None:
    op = maskc.compile(DILATED, heads=2, layout="auto")
    assert "layout='auto'" in repr(op) and copy.deepcopy(op).layout == "auto"
    assert "layout" not in repr(maskc.compile(DILATED, heads=2))
    assert op.plan(700, 700, layout="none").q_order.index is None
    module = maskc.nn.Attention(32, 2, DILATED, layout="auto")
    assert module.op.layout == "auto"


def test_a_traced_call_computes_in_it_too() -> None:
    op = maskc.compile(DILATED, heads=2, layout="auto")
    q, k, v = tensors(300)
    torch.testing.assert_close(torch.compile(op, fullgraph=True, backend="aot_eager")(q, k, v), op(q, k, v))


def test_unknown_orders_and_backends_without_any_are_refused() -> None:
    with pytest.raises(MaskcError) as error:
        maskc.compile(DILATED, heads=2, layout="zigzag")
    assert error.value.diagnostics[0].code == "E502"
    with pytest.raises(MaskcError) as error:
        maskc.compile(DILATED, heads=2, layout="residues", backend="flex")
    assert error.value.diagnostics[0].code == "E702"
    maskc.compile(DILATED, heads=2, layout="auto", backend="flex")  # "auto" leaves the choice to the backend.

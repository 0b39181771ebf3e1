"""Gradients by products: every way of cutting a job into batches of matrices gives the reference's."""

from __future__ import annotations

import pytest
import torch

from maskc.backends.cpu import intervals, kernels, products
from tests.cpu.calls import assert_same, case, use

TEXTS = [
    "sliding_window(20)",
    "-9 < q - k < 9 | k < 5",
    "causal & same(token // 33)",
    "k >= q - 3",
    "causal & k % 3 != 1",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("heads", [(1, 1), (4, 2)])
def test_small_strips_and_tiles(text: str, heads: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_strip_keys", lambda job: 8)
    monkeypatch.setattr(products, "_PAIRS", 1 << 10)
    monkeypatch.setattr(products, "_ROWS", 16)
    monkeypatch.setattr(intervals, "_band_keys", lambda width: 16)
    assert_same(case(text, 150, heads=heads[0], kv_heads=heads[1], batch=2, value_dim=8))


@pytest.mark.parametrize("text", [*TEXTS, "causal"])
def test_torch_kernel(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_LARGE", 1)
    assert_same(case(text, 150, 170), with_lse=False)


@pytest.mark.parametrize("text", TEXTS)
def test_tiles(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "tiles")
    monkeypatch.setattr(products, "_strip_keys", lambda job: 8)
    assert_same(case(text, 90))


def test_a_single_head_is_cut_for_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's kernel computes a block of a head on one core: with fewer of them than threads it is not called."""
    monkeypatch.setattr(kernels, "_LARGE", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    called: list[int] = []
    monkeypatch.setattr(kernels, "add_gradients", lambda *_: called.append(1))
    for heads in (1, 2):
        one = case("causal", 40, heads=heads, kv_heads=heads, batch=1)
        torch.autograd.grad(one.run()[0].sum(), one.q)
    assert len(called) == 1

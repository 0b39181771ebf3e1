"""Exports to Splash attention, run by JAX itself: its kernels, interpreted, and its own reading of masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import maskc
from maskc.diagnostics import MaskcError
from maskc.exports.splash import splash_kernel
from maskc.ir.evaluate import dense
from maskc.tiles.plan import TilePlan
from tests.exports.test_exports import bound

Array = np.ndarray[Any, Any]
DOC = np.repeat(np.arange(5), [70, 101, 213, 64, 64])
#: Text, queries, keys, and inputs.
CASES: dict[str, tuple[str, int, int, dict[str, Any]]] = {
    "causal": ("causal", 512, 512, {}),
    "all": ("all", 256, 384, {}),
    "sinks and window": ("causal & (sinks(4) | sliding_window(130))", 512, 512, {}),
    "documents": ("pattern p(doc: int[token]) { attend same(doc) }", 512, 512, {"doc": DOC}),
    "few queries": ("sliding_window(300)", 256, 640, {}),
    "hash": ("hash(q, k) % 3 == 0 | self", 384, 384, {}),
    "by head": ("pattern p(w: int[head]) { attend sliding_window(w[h]) }", 512, 512, {"w": [100, 3, 256, 700]}),
}


def attention(mask: Array, q: Array, k: Array, v: Array, weight: Array) -> list[Array]:
    """Attention of (heads, queries, dim) in float64, and the gradients of q, k and v of its weighted sum."""
    x, y, z = (torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in (q, k, v))
    group = len(q) // len(k)
    keys, values = (t.repeat_interleave(group, 0) for t in (y, z))
    score = (x @ keys.mT).masked_fill(~torch.tensor(mask), -torch.inf)
    out = score.softmax(-1) @ values
    (out * torch.tensor(weight)).sum().backward()
    return [out.detach().numpy(), *(t.grad.numpy() for t in (x, y, z) if t.grad is not None)]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_its_kernels_compute_the_mask(name: str) -> None:
    jax = pytest.importorskip("jax")
    text, n, m, inputs = CASES[name]
    program, binding = bound(text, n, m, heads=4, **inputs)
    kernel = splash_kernel(maskc.export(text, "splash", n, m, heads=4, inputs=inputs), interpret=True)
    rng = np.random.default_rng(7)
    q, k, v, weight = (rng.standard_normal((h, x, 64)).astype(np.float32) for h, x in ((4, n), (2, m), (2, m), (4, n)))
    q /= 8

    def weighed(*tensors: Any) -> Any:
        return (kernel(*tensors) * weight).sum()

    found = [kernel(q, k, v), *jax.grad(weighed, argnums=(0, 1, 2))(q, k, v)]
    wanted = attention(np.stack([dense(program, binding, h) for h in range(4)]), q, k, v, weight)
    for x, y in zip(found, wanted, strict=True):
        np.testing.assert_allclose(np.asarray(x), y, atol=3e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_its_own_reading_of_the_mask_is_the_same(name: str) -> None:
    """What ``make_splash_mha`` makes of the written out mask, pair by pair: the same blocks in the same order."""
    pytest.importorskip("jax")
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask_info as info

    text, n, m, inputs = CASES[name]
    program, binding = bound(text, n, m, heads=4, **inputs)
    whole = masks.MultiHeadMask([masks.NumpyMask(dense(program, binding, h)) for h in range(4)])
    found = maskc.export(text, "splash", n, m, heads=4, inputs=inputs).arrays
    for part, process in (("", info.process_mask), ("dkv_", info.process_mask_dkv)):
        own = process(whole, (128, 128))[0]
        blocks = found.get("partial_mask_blocks")
        ours = visits(*(found.get(f"{part}{name}") for name in FIELDS), blocks, by_key=bool(part))
        turned = own.partial_mask_blocks.swapaxes(1, 2) if part and blocks is not None else own.partial_mask_blocks
        theirs = visits(*(getattr(own, name) for name in FIELDS), turned, by_key=bool(part))
        assert ours == (theirs if len(ours) == 4 else theirs[:1])
        if part == "" and blocks is not None:
            np.testing.assert_array_equal(blocks, own.partial_mask_blocks)  # each once, as they are met


FIELDS = "block_mask", "data_next", "mask_next"


def visits(kind: Array, data: Array, number: Any, masks: Any, by_key: bool) -> list[list[list[Any]]]:
    """Of each head and row of blocks, or column of them, what is visited in order: which block, and its mask."""
    found = []
    for h in range(len(kind)):
        arrays = [kind[h], data[h], kind[h] if number is None else number[h]]
        rows = [x.T for x in arrays] if by_key else arrays
        found.append(
            [
                [(int(at), masks[i].tobytes() if one == 1 else None) for one, at, i in zip(*row, strict=True) if one]
                for row in zip(*rows, strict=True)
            ]
        )
    return found


def test_what_is_loaded_while_nothing_is_done_comes_next() -> None:
    found = maskc.export("causal", "splash", 512).arrays
    assert found["block_mask"].tolist() == [[[1, 0, 0, 0], [2, 1, 0, 0], [2, 2, 1, 0], [2, 2, 2, 1]]]
    assert found["data_next"].tolist() == [[[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 2, 0], [0, 1, 2, 3]]]
    assert found["dkv_data_next"].swapaxes(1, 2).tolist() == [[[0, 1, 2, 3], [1, 2, 3, 2], [2, 3, 3, 3], [3, 0, 0, 0]]]
    assert found["partial_mask_blocks"].shape == (1, 128, 128)


@pytest.mark.parametrize(
    ("text", "more", "why"),
    [
        ("k < q", {}, "query 0 keeps none"),
        ("q % 300 != 299 & hash(q, k) % 2 == 0", {}, "query 299 keeps none"),
        ("causal", {"q_tile": 100}, "512 queries are none of 100: pad, or give --q-tile"),
        ("causal", {"k_len": 600}, "600 keys are none of 128: pad, or give --q-tile and --k-tile"),
        ("pattern p(n: int[batch]) { attend causal | k < n[b] }", {"n": [3, 4]}, "theirs differ: export them one by"),
    ],
)
def test_refusals_say_why(text: str, more: dict[str, Any], why: str) -> None:
    with pytest.raises(MaskcError, match="E704") as caught:
        maskc.export(text, "splash", 512, **more)
    assert why in str(caught.value)


def test_larger_blocks_are_asked_for_where_there_are_too_many() -> None:
    with pytest.raises(MaskcError, match="8192 rows of 8192 blocks, too many for a TPU: give larger --q-tile"):
        maskc.export("causal", "splash", 1 << 20)
    assert maskc.export("sliding_window(1024)", "splash", 1 << 20).arrays["data_next"].shape == (1, 8192, 9)


def test_too_many_pairs_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a mask that cannot be solved for the key: 2^30 of them took half a minute, and gigabytes."""
    monkeypatch.setattr(TilePlan, "tile_mask", lambda *_: pytest.fail("a tile was looked at"))
    with pytest.raises(MaskcError, match="its edges are too long, and cannot be solved for the key"):
        maskc.export("hash(q, k) % 2 == 0 | self", "splash", 1 << 15)


def test_a_kernel_wants_an_export_of_its_own() -> None:
    with pytest.raises(MaskcError, match="expected an export to 'splash', found one to 'magi'"):
        splash_kernel(maskc.export("causal", "magi", 512))

"""Calls on the device "meta": shapes, dtypes and every error that needs no values, whatever the backend."""

from __future__ import annotations

import pytest
import torch

import maskc
from maskc import MaskcError

DOCS = "pattern p(doc: int[token], gain: float[head]) { attend same(doc) & causal; score s * gain[h] }"


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


@pytest.mark.parametrize("dim", [8, 16])
@pytest.mark.parametrize("backend", ["auto", "cpu", "flex", "reference"])
def test_shapes(backend: str, dim: int) -> None:
    op = maskc.compile("causal", heads=4, backend=backend)
    q, k, v = meta(2, 4, 7, dim, dtype=torch.bfloat16), *(meta(2, 2, 9, d, dtype=torch.bfloat16) for d in (dim, 5))
    out, lse = op(q, k, v, return_lse=True)
    assert (out.shape, out.dtype, out.device.type) == ((2, 4, 7, 5), torch.bfloat16, "meta")
    assert (lse.shape, lse.dtype) == ((2, 4, 7), torch.float32)
    plain = maskc.compile("causal", heads=4, backend="cpu")
    assert op(q, k, v).stride() == plain(*(torch.zeros(x.shape) for x in (q, k, v))).stride()


def test_gradients_have_shapes() -> None:
    op = maskc.compile(DOCS, heads=4)
    q, k, v = (meta(1, 4, 6, 8).requires_grad_() for _ in range(3))
    gain = meta(4).requires_grad_()
    op(q, k, v, doc=meta(6, dtype=torch.int64), gain=gain).sum().backward()
    assert q.grad is not None
    assert gain.grad is not None
    assert (q.grad.shape, gain.grad.shape) == (q.shape, gain.shape)


def test_a_module() -> None:
    module = maskc.nn.Attention(16, 4, "causal", device="meta")
    assert module(meta(1, 3, 16)).shape == (1, 3, 16)


@pytest.mark.parametrize(
    ("inputs", "code", "words"),
    [
        ({}, "E501", "needs the input 'doc'"),
        ({"doc": meta(5, dtype=torch.int64)}, "E505", "expected the shape (6,)"),
        ({"doc": meta(6)}, "E511", "expected elements of that type"),
        ({"doc": [0] * 5 + [0.5]}, "E503", "expected integers"),
        ({"doc": [0] * 6, "gain": torch.ones(4)}, "E512", "gain is on cpu"),
        ({"doc": [0] * 6, "dok": 1}, "E502", "did you mean 'doc'?"),
        ({"doc": [0] * 6, "sizes": {"x": 1}}, "E502", "no segment or axis"),
    ],
)
def test_what_is_checked_without_values(inputs: dict[str, object], code: str, words: str) -> None:
    op = maskc.compile(DOCS, heads=4)
    q, k, v = (meta(1, 4, 6, 8) for _ in range(3))
    with pytest.raises(MaskcError) as error:
        op(q, k, v, **{"gain": meta(4), **inputs})  # type: ignore[call-overload]
    assert error.value.codes == (code,)
    assert words in str(error.value)


def test_tables_need_values() -> None:
    text = "pattern p(w: int[head]) { attend sliding_window(w[h]) }"
    with pytest.raises(MaskcError, match="w is on meta, where a tensor holds no values") as error:
        maskc.compile(text, heads=4, w=meta(4, dtype=torch.int64))
    assert error.value.codes == ("E512",)


@pytest.mark.parametrize("where", ["cpu", "meta"])
def test_decoding(where: str) -> None:
    op = maskc.compile("causal", heads=4)
    lengths = torch.tensor([9, 3]).to(where)
    q, k, v = meta(2, 4, 1, 8), meta(2, 2, 9, 8), meta(2, 2, 9, 5)
    out, lse = op.decode(q, k, v, lengths, start=torch.zeros(2, dtype=torch.int64), return_lse=True)
    assert (out.shape, lse.shape, out.device.type) == ((2, 4, 1, 5), (2, 4, 1), "meta")
    pages, table = meta(6, 4, 2, 8), meta(2, 3, dtype=torch.int32)
    assert op.decode(q, pages, pages, lengths, table).shape == (2, 4, 1, 8)
    with pytest.raises(MaskcError, match="one element a batch entry"):
        op.decode(q, k, v, lengths[:1])
    with pytest.raises(MaskcError, match="compiled for 4"):
        op.decode(meta(2, 8, 1, 8), k, v, lengths)


def test_backends_are_not_asked_to_compute_there() -> None:
    from maskc.backends import Request, choose

    program = maskc.parse("causal").program
    with pytest.raises(MaskcError, match="FlexAttention does not run on meta"):
        choose("flex", program, Request(device="meta", head_dim=16))

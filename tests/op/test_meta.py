"""Calls on the device "meta" and of fake tensors: shapes, dtypes and every error that needs no values, whatever the
backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv

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


def test_a_fake_module() -> None:
    with FakeTensorMode():
        one, other = (maskc.nn.Attention(16, 4, "causal") for _ in range(2))
        other.load_state_dict(one.state_dict())
        assert other(torch.zeros(1, 3, 16)).shape == (1, 3, 16)


DOC, GAIN = torch.arange(6) // 4, torch.tensor([1.0, 2.0, 0.5, 1.5])


def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """What ``DOCS`` says of DOC and GAIN, written out."""
    kept = (DOC[:, None] == DOC) & torch.ones(6, 6, dtype=torch.bool).tril()
    scores = q @ k.mT * q.shape[-1] ** -0.5 * GAIN[:, None, None]
    return scores.masked_fill(~kept, -torch.inf).softmax(-1) @ v


@pytest.mark.parametrize("shapes", [None, "symbols"])
def test_fake_tensors_have_shapes_and_leave_nothing_behind(shapes: str | None) -> None:
    op = maskc.compile(DOCS, heads=4)
    q, k, v = (torch.randn(1, 4, 6, 8) for _ in range(3))
    with FakeTensorMode(shape_env=ShapeEnv() if shapes else None) as mode:
        fake_q, fake_k, fake_v, gain = (mode.from_tensor(x).requires_grad_() for x in (q, k, v, GAIN))
        given: list[Any] = [mode.from_tensor(DOC), DOC.tolist(), np.arange(6) // 4]
        for doc in given[:1] if shapes else given:
            out, lse = op(fake_q, fake_k, fake_v, doc=doc, gain=gain, return_lse=True)
            assert (out.shape, out.dtype, out.device) == (fake_q.shape, q.dtype, q.device)
            assert (lse.shape, lse.dtype) == (fake_q.shape[:3], torch.float32)
            grads = torch.autograd.grad(out.sum() + lse.sum(), (fake_q, gain))
            assert [x.shape for x in grads] == [fake_q.shape, gain.shape]
    torch.testing.assert_close(op(q, k, v, doc=DOC, gain=GAIN), dense(q, k, v))


@pytest.mark.parametrize("shapes", [None, "symbols"])
def test_decoding_of_fake_tensors(shapes: str | None) -> None:
    op = maskc.compile(DOCS, heads=4)
    with FakeTensorMode(shape_env=ShapeEnv() if shapes else None) as mode:
        q, k, v = (mode.from_tensor(torch.zeros(2, 4, n, 8)) for n in (1, 6, 6))
        lengths, doc, gain = (mode.from_tensor(x) for x in (torch.tensor([6, 3]), DOC, GAIN))
        for ends, docs in ((lengths, doc), (lengths, DOC.tolist()), ([6, 3], doc))[: 1 if shapes else 3]:
            out, lse = op.decode(q, k, v, ends, doc=docs, gain=gain, return_lse=True)
            assert (out.shape, out.device.type, lse.dtype) == (q.shape, "cpu", torch.float32)
        with pytest.raises(MaskcError, match="takes no input called"):
            op.decode(q, k, v, lengths, dok=doc, gain=gain)


@pytest.mark.parametrize("name", ["doc", "lengths"])
def test_a_fake_tensor_among_others_is_named(name: str) -> None:
    op = maskc.compile(DOCS, heads=4)
    q, k, v = (torch.zeros(1, 4, 6, 8) for _ in range(3))
    fake = FakeTensorMode().from_tensor(DOC)
    calls = {
        "doc": lambda: op(q, k, v, doc=fake, gain=GAIN),
        "lengths": lambda: op.decode(q[:, :, :1], k, v, fake[:1], doc=DOC, gain=GAIN),
    }
    with pytest.raises(MaskcError, match=f"{name} is a fake tensor, which holds no values") as error:
        calls[name]()
    assert error.value.codes == ("E512",)


@pytest.mark.parametrize("mode", ["fake", "symbolic"])
def test_graphs_that_are_made_of_fake_tensors(mode: str) -> None:
    op = maskc.compile(DOCS, heads=4)

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, doc: torch.Tensor) -> Any:
        return op(q, k, v, doc=doc, gain=GAIN * torch.ones(4))

    given = (*(torch.randn(2, 4, 6, 8) for _ in range(3)), DOC)
    graph = make_fx(attend, tracing_mode=mode, _allow_non_fake_inputs=True)(*given)
    torch.testing.assert_close(graph(*given), dense(*given[:3]))


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_transforms_of_tensors_without_values(device: str, backend: str) -> None:
    op = maskc.compile(DOCS, heads=4, backend=backend)
    q, k, v = torch.empty(3, 1, 4, 6, 8), torch.empty(1, 4, 6, 8), torch.empty(1, 4, 6, 5)
    doc, gain = torch.zeros(6, dtype=torch.int64), torch.empty(4)
    q, k, v, doc, gain = (x.to(device) for x in (q, k, v, doc, gain))
    with FakeTensorMode() as mode:
        q, k, v = (mode.from_tensor(x) for x in (q, k, v))
        inputs = {"doc": mode.from_tensor(doc), "gain": mode.from_tensor(gain)}
        out, lse = torch.func.vmap(lambda x: op(x, k, v, return_lse=True, **inputs))(q)
        assert (out.shape, lse.shape, out.device.type) == ((3, 1, 4, 6, 5), (3, 1, 4, 6), device)

        def loss(x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
            return op(x, k, v, doc=inputs["doc"], gain=gain).sum()

        gradients = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)), in_dims=(0, None))(q, inputs["gain"])
        assert [g.shape for g in gradients] == [q.shape, (3, 4)]
        with pytest.raises(RuntimeError, match="no forward-mode derivative"):
            torch.func.jvp(lambda x: op(x, k, v, **inputs), (q[0],), (q[0],))
        with pytest.raises(MaskcError, match=r"doc: the mask reads this input, and torch\.func\.vmap hides"):
            torch.func.vmap(lambda doc: op(q[0], k, v, doc=doc, gain=inputs["gain"]))(torch.stack([inputs["doc"]] * 3))


def test_a_graph_of_gradients_is_of_its_sizes() -> None:
    op = maskc.compile("pattern p over grid(y, x) { attend same(y) }", heads=2)
    q, k, v = (torch.randn(1, 2, 12, 8) for _ in range(3))

    def gradient(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.func.grad(lambda x: op(x, k, v, sizes={"y": 3}).square().sum())(q)

    graph = make_fx(gradient, tracing_mode="fake")(q, k, v)
    same = torch.arange(12) // 4 == (torch.arange(12) // 4)[:, None]
    x = q.clone().requires_grad_()
    torch.nn.functional.scaled_dot_product_attention(x, k, v, attn_mask=same).square().sum().backward()
    torch.testing.assert_close(graph(q, k, v), x.grad)

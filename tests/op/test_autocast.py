"""``torch.autocast``, ``inference_mode`` and checkpointing: what torch's own attention does there."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch.utils import checkpoint

import maskc
from maskc import MaskcError
from maskc.nn import Attention

Tensor = torch.Tensor
SCORED = "pattern p(t: float[head]) { attend causal; score s * t[h] }"


def tensors(n: int = 16, keys: int | None = None, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n)
    lengths = (n, *[n if keys is None else keys] * 2)
    return [torch.randn(2, 4, x, 8, generator=generator, dtype=dtype).requires_grad_() for x in lengths]


def region(enabled: bool = True) -> Any:
    return torch.autocast("cpu", torch.bfloat16, enabled=enabled)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_autocast_converts_what_is_attended_with_and_nothing_inside(backend: str) -> None:
    op, x, t = maskc.compile(SCORED, heads=4, backend=backend), tensors(), torch.rand(4, requires_grad=True)
    with region():
        out, lse = op(*x, t=t, return_lse=True)
    low = [one.bfloat16() for one in x]
    wanted, wanted_lse = op(*low, t=t, return_lse=True)
    assert (out.dtype, lse.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(out, wanted)
    assert torch.equal(lse, wanted_lse)
    found, other = (torch.autograd.grad(y.float().sin().sum(), (*x, t)) for y in (out, wanted))
    torch.testing.assert_close(found, other)


def test_gradients_inside_the_region_keep_their_precision() -> None:
    op, x, t = maskc.compile(SCORED, heads=4, backend="cpu"), tensors(), torch.rand(4, requires_grad=True)
    wanted = torch.autograd.grad(op(*x, t=t).sin().sum(), (*x, t))
    loss = op(*x, t=t).sin().sum()
    with region():
        torch.testing.assert_close(torch.autograd.grad(loss, (*x, t)), wanted)


def test_autocast_of_unlike_dtypes() -> None:
    op, (q, k, v) = maskc.compile("causal", heads=4), tensors()
    with region():
        assert op(q.bfloat16(), k, v).dtype == torch.bfloat16
        assert op(*tensors(dtype=torch.float64)).dtype == torch.float64
        with region(enabled=False):
            assert op(q, k, v).dtype == torch.float32
            with pytest.raises(MaskcError, match=r"q is torch\.bfloat16, but k is torch\.float32"):
                op(q.bfloat16(), k, v)
        with pytest.raises(MaskcError, match="q must be a torch tensor"):
            op(None, k, v)  # type: ignore[call-overload]


def test_autocast_converts_no_cache() -> None:
    op, x = maskc.compile(SCORED, heads=4), [one.detach() for one in tensors(1, keys=16)]
    wanted = op.decode(*x, [16, 7], t=torch.ones(4))
    with region():
        assert torch.equal(op.decode(*x, [16, 7], t=torch.ones(4)), wanted)
        with pytest.raises(MaskcError, match=r"q is torch\.bfloat16, but k_cache is torch\.float32"):
            op.decode(x[0].bfloat16(), *x[1:], [16, 7], t=torch.ones(4))


def test_autocast_of_modules_in_a_graph_and_outside() -> None:
    module, x = Attention(32, 4, "causal"), torch.randn(2, 16, 32, requires_grad=True)
    op, given = maskc.compile(SCORED, heads=4), [*tensors(), torch.rand(4)]
    torch._dynamo.reset()
    graph = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    other = torch.compile(lambda *x: op(*x[:3], t=x[3]), fullgraph=True, backend="aot_eager", dynamic=True)
    with region():
        found, wanted = graph(x), module(x)
        torch.testing.assert_close(other(*given), op(*given[:3], t=given[3]))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, wanted)
    one, two = (torch.autograd.grad(y.float().sum(), x)[0] for y in (found, wanted))
    torch.testing.assert_close(one, two, atol=0.1, rtol=0.1)  # products of bfloat16, in another order
    torch.testing.assert_close(graph(x), module(x))  # outside of the region the graph is another one
    assert graph(x).dtype == torch.float32


def test_inference_mode() -> None:
    op = maskc.compile("pattern p(doc: int[token]) { attend same(doc) & causal }", heads=4)
    x, zeros = tensors(), torch.zeros(16, dtype=torch.int64)
    whole = op(*x, doc=zeros)
    with torch.inference_mode():
        doc = torch.arange(16) // 4
        assert not torch.allclose(op(*x, doc=doc), whole)
        doc[:] = 0  # changed in place, where torch counts no changes
        torch.testing.assert_close(op(*x, doc=doc), whole)
        torch._dynamo.reset()
        graph = torch.compile(lambda *x, doc: op(*x, doc=doc), fullgraph=True, backend="aot_eager", dynamic=True)
        torch.testing.assert_close(graph(*x, doc=doc), whole)
        q, k, v = tensors(1, keys=16)
        assert op.decode(q, k, v, [16, 3], doc=doc).shape == q.shape
    op(*x, doc=zeros).sum().backward()  # a plan that was made there serves here
    assert x[0].grad is not None


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(reentrant: bool) -> None:
    module, x = Attention(32, 4, "sliding_window(5)"), torch.randn(2, 16, 32, requires_grad=True)
    module(x).sin().sum().backward()
    wanted = [x.grad, *(p.grad for p in module.parameters())]
    x.grad = None
    module.zero_grad()
    checkpoint.checkpoint(module, x, use_reentrant=reentrant).sin().sum().backward()
    torch.testing.assert_close([x.grad, *(p.grad for p in module.parameters())], wanted)


def test_checkpointing_in_a_graph() -> None:
    module = Attention(32, 4, "causal")
    torch._dynamo.reset()
    work = functools.partial(checkpoint.checkpoint, module, use_reentrant=False)
    again = torch.compile(lambda x: work(x), fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (16, 24):
        x = torch.randn(2, n, 32, requires_grad=True)
        one, other = (torch.autograd.grad(run(x).sin().sum(), x) for run in (again, module))
        torch.testing.assert_close(one, other)


def test_a_checkpoint_that_keeps_attention_computes_it_once() -> None:
    module, x, seen = Attention(32, 4, "causal"), torch.randn(2, 16, 32, requires_grad=True), []

    def policy(_: Any, op: Any, *__: Any, **___: Any) -> Any:
        seen.append(op)
        keep = op is torch.ops.maskc.attention.default
        return checkpoint.CheckpointPolicy.MUST_SAVE if keep else checkpoint.CheckpointPolicy.PREFER_RECOMPUTE

    contexts = functools.partial(checkpoint.create_selective_checkpoint_contexts, policy)
    out = checkpoint.checkpoint(module, x, use_reentrant=False, context_fn=contexts)
    torch.testing.assert_close(*(torch.autograd.grad(y.sin().sum(), x) for y in (out, module(x))))
    assert torch.ops.maskc.attention.default in seen

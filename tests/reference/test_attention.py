"""Dense attention against torch's own, with the mask and the scores written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import maskc

F = torch.nn.functional


def tensors(
    batch=1, heads=2, kv_heads=1, q_len=9, k_len=9, dim=32, value_dim=None, dtype=torch.float64, grad=True, seed=0
):
    g = torch.Generator().manual_seed(seed)
    shapes = [(batch, heads, q_len, dim), (batch, kv_heads, k_len, dim), (batch, kv_heads, k_len, value_dim or dim)]
    return [torch.randn(s, generator=g, dtype=dtype).requires_grad_(grad) for s in shapes]


def reference(text, heads=2, **options):
    return maskc.compile(text, heads=heads, backend="reference", **options)


def window_mask(q_len, k_len, window, sinks):
    q = torch.arange(k_len - q_len, k_len)[:, None]
    k = torch.arange(k_len)[None]
    return (q - k < window) & (k <= q) | (k < sinks) & (k <= q)


@settings(max_examples=15, deadline=None)
@given(
    batch=st.integers(1, 2),
    kv_heads=st.sampled_from([1, 2]),
    group=st.sampled_from([1, 3]),
    lengths=st.tuples(st.integers(1, 40), st.integers(0, 30)),
    dim=st.sampled_from([32, 64, 256]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    window=st.integers(1, 20),
)
def test_output_and_gradients_equal_torch(batch, kv_heads, group, lengths, dim, dtype, window):
    q_len, k_len = lengths[0], sum(lengths)
    heads = kv_heads * group
    ours = tensors(batch, heads, kv_heads, q_len, k_len, dim, 2 * dim, dtype)
    theirs = [t.detach().clone().requires_grad_() for t in ours]
    out = reference(f"causal & (window({window - 1}) | sinks(2))", heads)(*ours)
    mask = window_mask(q_len, k_len, window, 2)
    wanted = F.scaled_dot_product_attention(*theirs, attn_mask=mask, enable_gqa=True)
    near = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-11}
    torch.testing.assert_close(out, wanted, **near)
    cotangent = torch.randn(out.shape, dtype=dtype)
    found, expected = (torch.autograd.grad(o, t, cotangent) for o, t in ((out, ours), (wanted, theirs)))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **near)


def test_log_sum_exp_is_that_of_the_kept_scores_and_the_sink():
    q, k, v = tensors(q_len=5, k_len=7)
    sink = torch.tensor([0.5, -1.0], dtype=torch.float64)
    op = reference("pattern p(logit: float[head]) { attend causal; normalize softmax(sink = logit[h]) }")
    out, lse = op(q, k, v, return_lse=True, scale=0.3, logit=sink)
    k2, v2 = k.expand(-1, 2, -1, -1), v.expand(-1, 2, -1, -1)
    scores = (q @ k2.mT * 0.3).masked_fill(~window_mask(5, 7, 9, 0), -math.inf)
    scores = torch.cat([scores, sink.view(1, 2, 1, 1).expand(1, 2, 5, 1)], -1)
    torch.testing.assert_close(lse, scores.logsumexp(-1))
    torch.testing.assert_close(out, scores.softmax(-1)[..., :-1] @ v2)


@pytest.mark.parametrize(("kind", "function"), [("sigmoid", torch.sigmoid), ("relu", torch.relu)])
def test_other_normalisers(kind, function):
    q, k, v = tensors(kv_heads=2)
    op = reference(f"pattern p() {{ attend causal; normalize {kind} }}")
    weight = function(q @ k.mT * 32**-0.5) * window_mask(9, 9, 9, 0)
    torch.testing.assert_close(op(q, k, v), weight @ v)
    with pytest.raises(maskc.MaskcError, match="no log-sum-exp") as error:
        op(q, k, v, return_lse=True)
    assert error.value.codes == ("E702",)


def test_scores_and_output_expressions():
    q, k, v = tensors(kv_heads=2)
    text = """pattern p(slope: float[head], gate: float[q, head], cap: float = 2.0) {
        attend causal
        score cap * tanh(s / cap)
        score s + slope[h] * (k - q)
        output o * gate[q, h]
    }"""
    slope, gate = torch.tensor([0.5, 0.1], dtype=torch.float64), torch.randn(9, 2, dtype=torch.float64)
    out = reference(text, cap=3.0)(q, k, v, slope=slope, gate=gate)
    place = torch.arange(9)
    scores = 3 * torch.tanh(q @ k.mT * 32**-0.5 / 3) + slope.view(2, 1, 1) * (place[None] - place[:, None])
    wanted = scores.masked_fill(~window_mask(9, 9, 9, 0), -math.inf).softmax(-1) @ v
    torch.testing.assert_close(out, wanted * gate.T[None, :, :, None])


@pytest.mark.parametrize("batched", [False, True])
def test_gradients_of_float_inputs_by_finite_differences(batched):
    text = """pattern p(bias: float[head, 5], sink: float[head], gate: float[q]) {
        attend causal
        score s + bias[h, q - k]
        normalize softmax(sink = sink[h])
        output o * sigmoid(gate[q])
    }"""
    op = reference(text)
    q, k, v = tensors(batch=2, q_len=3, k_len=5, dim=3)
    floats = [
        torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((2, 5), (2,), (2, 3) if batched else (3,))
    ]

    def call(q, k, v, bias, sink, gate):
        return op(q, k, v, bias=bias, sink=sink, gate=gate, return_lse=True)

    assert torch.autograd.gradcheck(call, (q, k, v, *floats))


def test_a_query_without_keys_gives_zero_and_no_gradient():
    q, k, v = tensors()
    out, lse = reference("q >= 3 & causal")(q, k, v, return_lse=True)
    assert (out[:, :, :3] == 0).all()
    assert (lse[:, :, :3] == -math.inf).all()
    assert lse[:, :, 3:].isfinite().all()
    out.square().sum().backward()
    assert (q.grad[:, :, :3] == 0).all()
    assert all(t.grad.isfinite().all() for t in (q, k, v))


def test_no_keys_at_all():
    q, k, v = tensors(k_len=0, q_len=3)
    out, lse = reference("pattern p() over text -> image { attend all }")(q, k, v, return_lse=True)
    assert (out == 0).all()
    assert (lse == -math.inf).all()


@pytest.mark.parametrize("score", ["", "score s + 0.5 * (k - q)"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_masked_has_no_influence(score, bad):
    op = reference(f"pattern p() {{ attend causal & q < 7\n{score}\n}}")
    clean = tensors(kv_heads=2, dtype=torch.float32)
    dirty = [t.detach().clone() for t in clean]
    dirty[0][:, :, 7:] = bad  # queries that keep nothing
    dirty[1][:, :, 7:] = bad  # keys that no query keeps
    dirty[2][:, :, 7:] = bad
    dirty = [t.requires_grad_() for t in dirty]
    wanted, found = op(*clean), op(*dirty)
    torch.testing.assert_close(found, wanted)
    for a, b in zip(torch.autograd.grad(found.sum(), dirty), torch.autograd.grad(wanted.sum(), clean), strict=True):
        torch.testing.assert_close(a, b)


def test_a_nan_reaches_the_queries_that_keep_its_key_and_no_other():
    q, k, v = tensors(kv_heads=2, grad=False)
    k[:, :, 4] = math.nan
    out = reference("causal")(q, k, v)
    assert out[:, :, :4].isfinite().all()
    assert out[:, :, 4:].isnan().all()


def test_a_nan_made_by_a_score_stays_in_its_pairs():
    op = reference("pattern p(x: float[q]) { attend causal; score s + sqrt(x[q]) }")
    q, k, v = tensors(kv_heads=2)
    x = torch.ones(9, dtype=torch.float64)
    x[4] = -1.0
    out = op(q, k, v, x=x)
    assert (~out.isfinite()).any(-1)[0, 0].nonzero().flatten().tolist() == [4]
    for g in torch.autograd.grad(out.sum(), (k, v)):
        assert g[:, :, 5:].isfinite().all()


def test_chunks_of_rows_change_nothing(monkeypatch):
    from maskc.reference import attention

    op = reference("pattern p(bias: float[q]) { attend causal; score s + bias[q] }")
    bias = torch.randn(2, 9, dtype=torch.float64, requires_grad=True)
    given = tensors(batch=2)

    def run():
        out, lse = op(*given, bias=bias, return_lse=True)
        return [out, lse, *torch.autograd.grad((out * out).sum() + lse.sum(), (*given, bias))]

    whole = run()
    chunks = []
    original = attention.row_chunks
    monkeypatch.setattr(attention, "row_chunks", lambda b, *_: chunks.extend(original(b, 2 * 2 * 9 * 4)) or chunks[-3:])
    for a, b in zip(run(), whole, strict=True):
        torch.testing.assert_close(a, b)
    assert [len(c) for c in chunks] == [4, 4, 1]


def test_some_queries_alone():
    from maskc.reference.attention import attention

    op = maskc.compile("causal & (sliding_window(3) | sinks(1))", heads=4)
    q, k, v = tensors(batch=2, heads=4, kv_heads=2, q_len=9, k_len=11, seed=5)
    rows = [0, 3, 4, 8]
    binding = op.bind(9, 11, batch=2)
    out, lse = attention(op.program, binding, q, k, v, scale=32**-0.5, rows=rows)
    assert lse is not None
    grad = torch.randn(2, 4, 9, 32, dtype=torch.float64)
    grad[:, :, [1, 2, 5, 6, 7]] = 0
    key, value = (x.repeat_interleave(2, dim=1) for x in (k, v))
    mask = window_mask(9, 11, 3, 1)
    wanted = F.scaled_dot_product_attention(q, key, value, attn_mask=mask)
    scores = (q @ key.transpose(2, 3) / math.sqrt(32)).masked_fill(~mask, -torch.inf)
    torch.testing.assert_close(out, wanted[:, :, rows])
    torch.testing.assert_close(lse, scores.logsumexp(-1)[:, :, rows])
    found = torch.autograd.grad(out, (q, k, v), grad[:, :, rows])
    for x, y in zip(found, torch.autograd.grad(wanted, (q, k, v), grad), strict=True):
        torch.testing.assert_close(x, y)


def test_half_precision_computes_in_float32():
    q, k, v = tensors(dtype=torch.bfloat16, kv_heads=2, grad=False)
    out, lse = reference("causal")(q, k, v, return_lse=True)
    assert (out.dtype, lse.dtype) == (torch.bfloat16, torch.float32)
    wanted = reference("causal")(q.float(), k.float(), v.float())
    assert torch.equal(out, wanted.bfloat16())


def test_heads_and_batch_entries_have_masks_of_their_own():
    from maskc.reference.mask import kept_pairs

    pattern = maskc.parse("pattern p(w: int[head], doc: int[token]) { attend same(doc) & sliding_window(w[h]) }")
    doc = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]])
    binding = maskc.make_binding(pattern.program, 3, 4, heads=2, w=[1, 9], doc=doc)
    mask = kept_pairs(pattern.program, binding, range(3), torch.device("cpu"))
    for b in range(2):
        for h, w in enumerate((1, 9)):
            for i in range(3):
                keys = [k for k in range(4) if doc[b, k] == doc[b, i + 1] and 0 <= i + 1 - k < w]
                assert mask[b, h, i].nonzero().flatten().tolist() == keys
    dense = maskc.dense_mask(pattern, 3, 4, heads=2, w=[1, 9], doc=doc)
    assert (dense == mask.numpy()).all()
    assert (maskc.dense_mask(pattern, 3, 4, heads=2, head=1, w=[1, 9], doc=doc) == dense[:, 1]).all()


def test_scores_of_minus_infinity_count_as_nothing():
    op = reference("pattern p(bias: float[k]) { attend causal; score s + bias[k] }")
    q, k, v = tensors(kv_heads=2)
    bias = torch.zeros(9, dtype=torch.float64)
    bias[:3] = -math.inf
    out, lse = op(q, k, v, bias=bias, return_lse=True)
    assert (out[:, :, :3] == 0).all()
    assert (lse[:, :, :3] == -math.inf).all()
    torch.testing.assert_close(out, reference("causal & k >= 3")(q, k, v))
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.sum(), (q, k, v)))

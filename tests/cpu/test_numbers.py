"""Precision, shapes at the edge, and numbers that are not finite."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import maskc
from maskc.backends import Request
from maskc.backends.cpu import kernels, supports
from maskc.ir.evaluate import dense
from maskc.reference.attention import attention as reference
from tests.cpu.calls import Case, assert_same, case, use

MASKS = ["sliding_window(20) | sinks(4)", "causal", "hash(q, k) % 4 == 0"]


def converted(one: Case, dtype: torch.dtype) -> Case:
    floats = {n: x.detach().to(dtype).requires_grad_() for n, x in one.floats.items()}
    q, k, v = (x.detach().to(dtype).requires_grad_() for x in (one.q, one.k, one.v))
    return Case(one.entry, q, k, v, floats, one.scale)


def gradients(results: tuple[torch.Tensor, ...], one: Case, grad: torch.Tensor) -> list[torch.Tensor]:
    return [*torch.autograd.grad(results[0], one.leaves, grad.to(results[0].dtype))]


def dense_in(one: Case) -> torch.Tensor:
    """Plain dense attention, computed in the dtype of the tensors."""
    mask = dense(one.entry.program, one.entry.binding)
    k, v = (x.repeat_interleave(2, dim=1) for x in (one.k, one.v))
    score = (one.q @ k.transpose(2, 3) * one.scale).masked_fill(~torch.from_numpy(mask), -torch.inf)
    return torch.softmax(score, dim=-1) @ v


@pytest.mark.parametrize("way", ["rows", "tiles"])
@pytest.mark.parametrize("text", MASKS[:2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_errors_stay_near_those_of_the_dense_computation(
    text: str, dtype: torch.dtype, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, way)
    factor = 10.0 if dtype == torch.float32 else 1.1
    low = converted(case(text, 130, dim=32), dtype)
    exact = converted(low, torch.float64)
    grad = torch.randn(exact.q.shape, dtype=torch.float64).to(dtype).double()
    right = exact.reference()[0]
    wanted = [right, *gradients((right,), exact, grad)]
    ours, theirs = low.run()[0], dense_in(low)
    for a, b, w in zip(
        [ours, *gradients((ours,), low, grad)], [theirs, *gradients((theirs,), low, grad)], wanted, strict=True
    ):
        assert a.dtype == dtype
        allowed = factor * (b.double() - w).abs().max() + torch.finfo(dtype).eps * w.abs().max() * 0.5
        assert (a.double() - w).abs().max() <= allowed


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_gradient_of_a_slope_is_no_rounding_error(dtype: torch.dtype) -> None:
    """Where far keys weigh most, distances multiply whatever is inexact about an output of 16 bits."""
    text = "pattern p(slope: float[head]) { attend causal\n score s + slope[h] * (k - q) }"
    low = converted(case(text, 160, heads=2, kv_heads=1, floats={"slope": (2,)}), dtype)
    low.floats["slope"].data = torch.tensor([-0.4, 0.02], dtype=dtype)
    exact = converted(low, torch.float64)
    grad = torch.randn(exact.q.shape, dtype=torch.float64).to(dtype).double()
    found, wanted = gradients(low.run(), low, grad)[-1], gradients((exact.reference()[0],), exact, grad)[-1]
    torch.testing.assert_close(found.double(), wanted, rtol=torch.finfo(dtype).eps, atol=0.0)


@pytest.mark.parametrize(("dim", "value_dim"), [(16, 16), (64, 16), (16, 64), (256, 256), (24, 40)])
@pytest.mark.parametrize("text", MASKS)
def test_head_dimensions(text: str, dim: int, value_dim: int) -> None:
    assert_same(case(text, 50, dim=dim, value_dim=value_dim))


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 5)])
def test_no_queries(n: int, m: int) -> None:
    q, k = torch.randn(1, 2, n, 16, requires_grad=True), torch.randn(1, 2, m, 16, requires_grad=True)
    out, lse = maskc.compile("causal", heads=2, backend="cpu")(q, k, k, return_lse=True)
    assert out.shape == (1, 2, n, 16) and lse.shape == (1, 2, n)
    out.sum().backward()
    assert k.grad is not None and not k.grad.any()


def test_no_keys() -> None:
    q, k = torch.randn(1, 2, 3, 16, requires_grad=True), torch.randn(1, 2, 0, 16)
    op = maskc.compile("pattern p() over here -> there { attend true }", heads=2, backend="cpu")
    out, lse = op(q, k, k, return_lse=True)
    assert not out.any() and bool((lse == -torch.inf).all())


def test_empty_rows_give_zero_and_no_gradient() -> None:
    one = case("causal & q > 40")
    out, lse = one.run()
    assert not out[:, :, :41].any() and bool((lse[:, :, :41] == -torch.inf).all())
    (grad,) = torch.autograd.grad(out.sum(), one.q)
    assert not grad[:, :, :41].any() and bool(grad.isfinite().all())


def test_tensors_that_are_not_contiguous() -> None:
    one = case("sliding_window(20)", 60)
    out, _ = one.run()
    q, k, v = (x.detach().transpose(1, 2).contiguous().transpose(1, 2) for x in (one.q, one.k, one.v))
    wide = torch.stack([v, -v], dim=-1)[..., 0]
    found, _ = Case(one.entry, q, k, wide, {}).run()
    torch.testing.assert_close(found, out)
    expanded = Case(one.entry, q, k[:, :, :1].expand_as(k), v, {})
    torch.testing.assert_close(expanded.run()[0], expanded.reference()[0])


def test_gradients_only_where_they_are_wanted() -> None:
    one = case("causal", 40)
    out, _ = Case(one.entry, one.q, one.k.detach(), one.v.detach(), {}).run()
    out.sum().backward()
    assert one.q.grad is not None
    assert not Case(one.entry, one.q.detach(), one.k.detach(), one.v.detach(), {}).run()[0].requires_grad


BAD = [np.nan, np.inf, -np.inf]


@pytest.mark.parametrize("way", ["rows", "tiles"])
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("text", ["sliding_window(20) & k != 33", "causal & k != 33", "(q + k) % 3 == 0 & k != 33"])
@pytest.mark.parametrize("score", ["s", "s + 0.1 * (q - k)"])
def test_a_key_that_no_query_sees_has_no_influence(
    text: str, score: str, bad: float, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, way)
    one = case(f"pattern p() {{\n attend {text}\n score {score}\n}}")
    out, lse = one.run()
    grad = torch.randn_like(out)
    grads = torch.autograd.grad(out, one.leaves, grad)
    for x in (one.k, one.v):
        x.data[:, :, 33] = bad
    again, lse_again = one.run()
    torch.testing.assert_close(again, out)
    torch.testing.assert_close(lse_again, lse)
    for a, b in zip(torch.autograd.grad(again, one.leaves, grad), grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("text", ["all", "causal", "same(token // 5)"])
@pytest.mark.parametrize("n", [1, 5, 11])
def test_a_nan_among_few_keys_is_not_lost(text: str, n: int) -> None:
    """Torch's kernel takes the largest of fewer scores than fill a register to be minus infinity where all are NaN."""
    op = maskc.compile(text, heads=2, backend="cpu")
    q, k, v = (torch.randn(1, 2, n, 8) for _ in range(3))
    q[0, 1, -1] = torch.nan
    out, lse = op(q, k, v, return_lse=True)
    assert bool(out[0, 1, -1].isnan().all()) and bool(lse[0, 1, -1].isnan())
    assert int(out.isnan().sum()) == 8
    out = op.decode(q[:, :, -1:], k, v, [n])
    assert out.isnan().all(dim=-1).flatten().tolist() == [False, True]


def test_scores_of_minus_infinity_weigh_nothing() -> None:
    """Of some keys, in jobs of their own, and of all: beside scores so large that products overflow."""
    op = maskc.compile("sliding_window(4) | sinks(2)", heads=1, backend="cpu")
    q, k, v = torch.ones(1, 1, 40, 8), torch.randn(1, 1, 40, 8), torch.randn(1, 1, 40, 8)
    k[:, :, :2] = -torch.finfo(torch.float32).max
    wanted = maskc.compile("sliding_window(4) & k >= 2", heads=1, backend="cpu")(q, k, v, return_lse=True)
    for found, expected in zip(op(q, k, v, return_lse=True), wanted, strict=True):
        torch.testing.assert_close(found, expected)
    assert wanted[1][0, 0, :2].tolist() == [-torch.inf, -torch.inf]


@pytest.mark.parametrize("text", ["causal & k < 40", "sliding_window(9) & k < 40 & h < 3", "q % 3 == 0 & k < 40"])
def test_padding_that_nobody_sees_costs_no_care(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = case(text, 64)
    out, lse = one.run()
    grad = torch.randn_like(out)
    grads = torch.autograd.grad(out, one.leaves, grad)
    one.k.data[:, :, 40:], one.v.data[1, :, 50:] = np.nan, np.inf
    monkeypatch.setattr(kernels, "_product", lambda *_: pytest.fail("computed with care"))
    again, lse_again = one.run()
    assert torch.equal(again, out) and torch.equal(lse_again, lse)
    for a, b in zip(torch.autograd.grad(again, one.leaves, grad), grads, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("which", ["q", "k", "v"])
def test_what_is_seen_is_passed_on(which: str, bad: float) -> None:
    one = case("sliding_window(8)", 60)
    getattr(one, which).data[0, 0, 30, 3] = bad
    out, lse = one.run()
    wanted, wanted_lse = one.reference()
    torch.testing.assert_close(out, wanted, equal_nan=True)
    torch.testing.assert_close(lse, wanted_lse, equal_nan=True)
    assert not out.isfinite().all()
    grad = torch.randn_like(out)
    found = torch.autograd.grad(out, one.leaves, grad)
    for a, b in zip(found, torch.autograd.grad(wanted, one.leaves, grad), strict=True):
        # Outside of what the bad number reaches the gradients are the same.
        same = b.isfinite()
        torch.testing.assert_close(a[same], b[same])


def test_expressions_that_are_not_finite_where_nothing_is_kept() -> None:
    text = "pattern p(t: float[head]) {\n attend k < q\n score s + t[h] * log(q - k) + sqrt(q - k)\n}"
    assert_same(case(text, floats={"t": (4,)}))


def test_large_scores_do_not_overflow() -> None:
    one = case("sliding_window(20) | sinks(4)", dtype=torch.float32)
    one.q.data.mul_(300)
    torch.testing.assert_close(one.run()[0], one.reference()[0], rtol=1e-4, atol=1e-4)


def test_results_are_the_same_every_time() -> None:
    one = case("pattern p(bias: float[head, 60]) {\n attend sliding_window(60)\n score s + bias[h, q - k]\n}", 300,
               dtype=torch.float32, floats={"bias": (4, 60)})  # fmt: skip
    first, second = (torch.autograd.grad(one.run()[0].sum(), one.leaves) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_what_is_refused() -> None:
    program = maskc.parse("causal").program
    assert supports(program, Request()) is None
    gpu = supports(program, Request(device="cuda"))
    assert gpu is not None and "CPU" in gpu.remedy
    eight = supports(program, Request(device="cpu", dtype="float8_e4m3fn"))
    assert eight is not None and "float32" in eight.remedy


def test_through_the_front_door() -> None:
    text = (
        "pattern p(doc: int[token], slope: float[head]) {\n attend causal & same(doc)\n score s + slope[h] * (q - k)\n}"
    )
    op = maskc.compile(text, heads=4, backend="cpu")
    q, k, v = torch.randn(3, 2, 4, 90, 16)
    slope, doc = torch.randn(4), torch.arange(90) // 25
    for documents in (doc, doc // 2, torch.stack([doc, doc % 2])):
        out = op(q, k, v, doc=documents, slope=slope)
        binding = op.bind(90, 90, batch=2, doc=documents)
        wanted, _ = reference(op.program, binding, q, k, v, scale=0.25, floats={"slope": slope})
        torch.testing.assert_close(out, wanted)
    doc[40:] += 7  # changed in place: the plan made for it before must not be used
    torch.testing.assert_close(
        op(q, k, v, doc=doc, slope=slope),
        reference(op.program, op.bind(90, 90, batch=2, doc=doc), q, k, v, scale=0.25, floats={"slope": slope})[0],
    )


def test_a_sink_of_minus_infinity_where_no_key_is_kept_gets_no_gradient() -> None:
    text = "pattern p(sink: float[head]) { attend q % 5 > 0 & causal; normalize softmax(sink = sink[h]) }"
    one = case(text, 40, floats={"sink": (4,)})
    one.floats["sink"].data[1] = -torch.inf
    assert_same(one)


def test_shared_heads_where_torch_takes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    op = maskc.compile("causal", heads=4, backend="cpu")
    q, k, v = (torch.randn(1, h, 2100, 8, requires_grad=True) for h in (4, 2, 2))  # so many go through torch's backward

    def results() -> tuple[torch.Tensor, ...]:
        out, lse = op(q, k, v, return_lse=True)
        return out, lse, *torch.autograd.grad(out.sin().sum(), (q, k, v))

    wanted = results()
    monkeypatch.setattr("maskc.backends.cpu.flash._shares_heads", lambda: False)
    for one, other in zip(results(), wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("text", "factor"),
    [
        ("score min(s, 1e300)", 1.0),
        ("score max(s, -1e39) * 0.5", 0.5),
        ("score s + 1e-300 * (q - k)", 1.0),
        ("score s - exp(-1e300)", 1.0),
        ("score min(s, exp(1e39))", 1.0),
    ],
)
def test_numbers_that_32_bits_do_not_hold_are_infinite(text: str, factor: float, backend: str) -> None:
    q, k, v = (torch.randn(1, 2, 9, 16) for _ in range(3))
    op = maskc.compile(f"pattern p {{ attend causal\n {text} }}", heads=2, backend=backend)
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.25 * factor)
    with torch.no_grad():
        torch.testing.assert_close(op(q, k, v), wanted)


@pytest.mark.parametrize("text", ["all", "causal", "causal & same(token // 3)"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("keys", [1, 3, 7, 9, 17])
def test_queries_that_are_not_finite_show_over_few_keys(text: str, dtype: torch.dtype, keys: int) -> None:
    """Of fewer keys than fill a register, torch's kernel gives 0 for them."""
    generator = torch.Generator().manual_seed(keys)
    q, k, v = (torch.randn(2, 2, keys, 16, generator=generator, dtype=dtype) for _ in range(3))
    q[0, 0, 0], q[1, 1, -1] = torch.nan, torch.inf
    ours, theirs = (maskc.compile(text, heads=2, backend=name) for name in ("cpu", "reference"))
    for run in (lambda op: op(q, k, v, return_lse=True), lambda op: op.decode(q, k, v, [keys] * 2, return_lse=True)):
        (out, lse), (wanted, wanted_lse) = run(ours), run(theirs)
        assert wanted[0, 0, 0].isnan().all()
        torch.testing.assert_close(out, wanted, equal_nan=True)
        torch.testing.assert_close(lse, wanted_lse, equal_nan=True)

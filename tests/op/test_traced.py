"""Calls inside a graph are refused as calls outside are, and compute the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import maskc
from maskc import MaskcError
from maskc.backends.cpu.entry import Entry

SIGMOID = "pattern p { attend causal; normalize sigmoid }"
GRID = "pattern p over grid(y, x) { attend same(y) }"
BIAS = "pattern p(bias: float[head]) { attend causal; score s + bias[h] }"


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()


def tensors(n: int = 16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    return [torch.randn(1, 4, n, 16, generator=generator) for _ in range(3)]


def traced(work: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    compiled: Callable[..., Any] = torch.compile(work, fullgraph=True, backend="eager", **options)
    return compiled


@pytest.mark.parametrize("kind", ["sigmoid", "relu"])
def test_there_is_no_log_sum_exp_of_what_has_none(kind: str) -> None:
    op = maskc.compile(SIGMOID.replace("sigmoid", kind), heads=4)
    with pytest.raises(MaskcError, match="has no log-sum-exp") as error:
        traced(lambda *x: op(*x, return_lse=True))(*tensors())
    assert error.value.codes == ("E702",)
    q, k, v = tensors()
    torch.testing.assert_close(traced(lambda *x: op(*x))(q, k, v), op(q, k, v))


def test_dropout() -> None:
    op = maskc.compile("causal", heads=4)
    with pytest.raises(MaskcError, match="dropout is not computed") as error:
        traced(lambda *x: op(*x, dropout=0.1))(*tensors())
    assert error.value.codes == ("E702",)


def test_a_scale_that_would_lose_its_gradient() -> None:
    op = maskc.compile("causal", heads=4)
    scale = torch.tensor(0.5, requires_grad=True)
    q, k, v = tensors()
    with pytest.raises(MaskcError, match="scale requires a gradient"):
        traced(lambda *x: op(*x[:3], scale=x[3]))(q, k, v, scale)
    with pytest.raises(MaskcError, match="scale requires a gradient"):
        traced(lambda *x: op.decode(*x[:3], [16], scale=x[3]))(q[:, :, :1], k, v, scale)
    with torch.no_grad():  # one that loses none breaks the graph, and is read
        found = torch.compile(lambda *x: op(*x[:3], scale=x[3]), backend="eager")(q, k, v, scale)
    torch.testing.assert_close(found, op(q, k, v, scale=0.5))


def test_sizes_that_follow_from_a_length_that_is_not_known() -> None:
    op = maskc.compile(GRID, heads=4)
    for more in ({}, {"y": 4}):
        run = traced(lambda q, k, v, more=more: op(q, k, v, sizes={"x": q.shape[2] // 4, **more}), dynamic=True)
        for n in (16, 32):
            torch.testing.assert_close(run(*tensors(n)), op(*tensors(n), sizes={"x": n // 4}))


def test_numbers_for_a_float_input_are_floats() -> None:
    op = maskc.compile(BIAS, heads=4)
    q, k, v = tensors()
    torch.testing.assert_close(traced(lambda *x: op(*x, bias=[0, 1, 2, 3]))(q, k, v), op(q, k, v, bias=[0, 1, 2, 3]))


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"sizes": [1]}, "E503"),
        ({"sizes": {"x": 1.5}}, "E503"),
        ({"sizes": {"x": None}}, "E503"),
        ({"inputs": {"a|b": 1}}, "E502"),
        ({"inputs": {"doc": None}}, "E503"),
        ({"scale": "0.5"}, "E503"),
        ({"scale": True}, "E503"),
        ({"scale": torch.tensor(True)}, "E503"),
    ],
)
def test_what_cannot_be_handed_to_an_operator(options: dict[str, Any], code: str) -> None:
    op = maskc.compile(GRID, heads=4)
    with pytest.raises(MaskcError) as error:
        torch.compile(lambda *x: op(*x, **options), backend="eager")(*tensors())
    assert error.value.codes == (code,)


def test_a_scale_that_is_not_finite_is_refused_when_the_graph_runs() -> None:
    op = maskc.compile("causal", heads=4)
    q, k, v = tensors()
    for scale in (math.inf, torch.tensor(math.nan)):
        for call in (lambda s: op(q, k, v, scale=s), lambda s: op.decode(q[:, :, :1], k, v, [16], scale=s)):
            with pytest.raises(MaskcError, match="scale must be finite") as error:
                torch.compile(call, backend="eager")(scale)
            assert error.value.codes == ("E504",)


def test_inputs_without_values() -> None:
    op = maskc.compile(BIAS, heads=4)
    bias = torch.ones(4, device="meta")
    with pytest.raises(MaskcError, match="bias is on meta"):
        torch.compile(lambda *x: op(*x, bias=bias), backend="eager")(*tensors())


@pytest.mark.parametrize("lengths", [None, "ab", {0: 16}])
def test_lengths(lengths: Any) -> None:
    op = maskc.compile("causal", heads=4)
    q, k, v = tensors()
    with pytest.raises(MaskcError, match="lengths: expected integers") as error:
        torch.compile(lambda *x: op.decode(*x, lengths), backend="eager")(q[:, :, :1], k, v)
    assert error.value.codes == ("E503",)


def test_check_mode_compares_in_a_graph_too(monkeypatch: pytest.MonkeyPatch) -> None:
    op = maskc.compile(BIAS, heads=4, check=True)
    q, k, v = (x.requires_grad_() for x in tensors())
    run = traced(lambda *x: op(*x, bias=torch.ones(4)))
    wanted = maskc.compile(BIAS, heads=4)(q, k, v, bias=torch.ones(4))
    found = run(q, k, v)
    torch.testing.assert_close(found, wanted)
    one, other = (torch.autograd.grad(x.sum(), (q, k, v)) for x in (found, wanted))
    torch.testing.assert_close(one, other)
    right = Entry.forward

    def wrong(self: Entry, *given: Any) -> Any:
        out, lse, plain = right(self, *given)
        return out + 1, lse, plain

    monkeypatch.setattr(Entry, "forward", wrong)
    with pytest.raises(RuntimeError, match="check mode: the output"):
        run(q, k, v)


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("way", ["called", "traced", "mapped"])
def test_check_mode_compares_gradients(monkeypatch: pytest.MonkeyPatch, way: str, place: int) -> None:
    op, x = maskc.compile("sliding_window(5)", heads=4, check=True), tensors()

    def gradients(run: Callable[..., torch.Tensor]) -> Any:
        if way == "mapped":
            apart = [one[:, None] for one in x]
            return torch.func.vmap(torch.func.grad(lambda *y: op(*y).square().sum(), (0, 1, 2)))(*apart)
        leaves = [one.clone().requires_grad_() for one in x]
        return torch.autograd.grad(run(*leaves).square().sum(), leaves)

    gradients(traced(op) if way == "traced" else op)
    right = Entry.backward

    def wrong(self: Entry, *given: Any) -> Any:
        found = [*right(self, *given)]
        return *found[:place], found[place] * 1.01, *found[place + 1 :]

    monkeypatch.setattr(Entry, "backward", wrong)
    with pytest.raises(RuntimeError, match=f"check mode: the gradient of {'qkv'[place]} of 'mask'"):
        gradients(traced(op) if way == "traced" else op)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("text", ["q == k", "k == 3"])
def test_check_mode_allows_what_rounding_leaves_of_gradients_that_are_0(text: str, dtype: torch.dtype) -> None:
    """A query that sees one key gives it all its weight, whatever their product is."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 50, 8, dtype=dtype, requires_grad=True) for _ in range(3))
    maskc.compile(text, heads=2, check=True)(q, k, v).square().sum().backward()


def slopes(mask: str, dtype: torch.dtype) -> None:
    """A call in check mode with learned slopes, and its backward pass."""
    text = f"pattern p(slope: float[head]) {{ attend {mask}; score s + slope[h] * (k - q) }}"
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 400, 16, dtype=dtype, requires_grad=True) for _ in range(3))
    slope = torch.rand(2, dtype=dtype, requires_grad=True)
    maskc.compile(text, heads=2, check=True)(q, k, v, slope=slope).sum().backward()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_check_mode_allows_what_rounding_leaves_of_long_sums(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What rounding leaves of each pair counts as often as the slope is multiplied there: by up to 399."""
    slopes("k < 1", dtype)
    slopes("causal", dtype)
    right = Entry.backward

    def wrong(self: Entry, *given: Any) -> Any:
        *found, floats = right(self, *given)
        return *found, [x * 1.01 for x in floats]

    monkeypatch.setattr(Entry, "backward", wrong)
    with pytest.raises(RuntimeError, match="check mode: the gradient of slope of"):
        slopes("causal", dtype)


def test_check_mode_compares_gradients_of_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    op = maskc.compile(BIAS, heads=4, check=True)
    right = Entry.backward
    bias = torch.ones(4, requires_grad=True)
    op(*tensors(), bias=bias).square().sum().backward()  # 0 but for rounding: all scores of a head are moved alike

    def wrong(self: Entry, *given: Any) -> Any:
        *found, floats = right(self, *given)
        return *found, [x + 1 for x in floats]

    monkeypatch.setattr(Entry, "backward", wrong)
    with pytest.raises(RuntimeError, match="check mode: the gradient of bias of"):
        op(*tensors(), bias=bias).square().sum().backward()


def test_transforms_that_would_lose_a_derivative() -> None:
    """Tangents, and gradients of decoding, would be 0 without a word."""
    op = maskc.compile("causal", heads=4)
    q, k, v = tensors()

    def attend(x: torch.Tensor) -> torch.Tensor:
        return op(x, k, v).sum()

    def decode(x: torch.Tensor) -> torch.Tensor:
        return op.decode(x[:, :, -1:], k, v, [16]).sum()

    def each(work: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x: torch.func.vmap(work)(x[None]).sum()

    for work in (attend, decode, each(attend)):
        for what, words in (
            (lambda x, f=work: torch.func.jvp(f, (x,), (x,)), "no forward-mode derivative"),
            (torch.func.grad(work), "compile the function that is differentiated"),
        ):
            torch._dynamo.reset()
            with pytest.raises(RuntimeError, match=words):
                traced(what)(q)
    with pytest.raises(MaskcError, match="decoding computes no gradients"):
        traced(decode)(q.clone().requires_grad_())
    # What the transform does not see is as it was.
    gain = torch.func.grad(lambda w: w * attend(q))
    torch.testing.assert_close(traced(gain)(torch.ones(())), attend(q))

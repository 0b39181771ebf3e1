"""FlexAttention with our plans, against its own and against the reference."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask, create_mask, flex_attention

import maskc
from maskc.backends import flex
from maskc.diagnostics import MaskcError
from maskc.ir.evaluate import dense
from maskc.lower import lower_text
from maskc.tiles import make_plan
from maskc.tiles.binding import make_binding
from maskc.tiles.runs import to_dense

RNG = np.random.default_rng(0)
N = 300
CASES = {
    "causal": ("causal", {}),
    "window": ("window(40, 3) & ~self", {}),
    "floored": ("(q - 150) // 7 == (k - 150) // 7 | (k - q) % 13 == 5", {}),
    "hash": ("hash(q, k) % 5 == 0 | hash(q - k, 3) % 7 == 1", {}),
    "heads": ("match h % 2 { 0: causal; else: chunk(50) }", {"heads": 4}),
    "random": ("random(3, among = size(token // 20)) on token // 20", {}),
    "grid": ("pattern p over text ++ grid(y, x) { attend neighborhood(y, 5) & neighborhood(x, 3) | k in text }",
             {"sizes": {"text": 12, "y": 16, "x": 18}}),
    "documents": ("pattern p(doc: int[token], w: int[head]) { attend same(doc) & window(w[h]) }",
                  {"doc": np.sort(RNG.integers(0, 6, (2, N))), "w": [9, 200], "heads": 2, "batch": 2}),
    "queries": ("pattern p(on: bool[q], see: bool[q, k]) { attend on[q] & see[q, k] }".replace("on", "live"),
                {"live": RNG.random(N) < 0.8, "see": RNG.random((N, N)) < 0.3}),
    "products": ("pattern p(a: int[token], c: int[token]) { attend a[q] * c[k] <= a[k] * c[q] | a[q] * c[k] % 7 < 2 }",
                 {"a": RNG.integers(-(10**6), 10**6, N), "c": RNG.integers(0, 10**6, N)}),
    "far": ("pattern p(a: int[token]) { attend a[q] * 2 <= a[k] + k * 2147483647 }", {"a": RNG.integers(0, 2**40, N)}),
}  # fmt: skip


def _bound(text: str, q_len: int = N, **more: object):  # type: ignore[no-untyped-def]
    program = lower_text(text)[-1]
    return program, make_binding(program, q_len, N, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CASES)
def test_mask_mod(name: str) -> None:
    text, more = CASES[name]
    program, binding = _bound(text, **more)
    mod = flex.mask_mod(program, binding)
    got = create_mask(mod, binding.batch, binding.heads, binding.q_len, binding.k_len, device="cpu")
    for b in range(binding.batch):
        for h in range(binding.heads):
            np.testing.assert_array_equal(got[b, h].numpy(), dense(program, binding, h, b))


def test_mask_mod_with_fewer_queries() -> None:
    program, binding = _bound("sliding_window(30)", 70)
    got = create_mask(flex.mask_mod(program, binding), None, None, 70, N, device="cpu")
    np.testing.assert_array_equal(got[0, 0].numpy(), dense(program, binding))


@pytest.mark.parametrize("name", ["causal", "window", "heads", "grid", "documents"])
def test_block_mask_is_flex_attentions(name: str) -> None:
    text, more = CASES[name]
    program, binding = _bound(text, **more)
    ours = flex.block_mask(program, binding)
    mod = flex.mask_mod(program, binding)
    theirs = create_block_mask(mod, binding.batch, binding.heads, N, N, device="cpu")
    for b in range(binding.batch):
        for h in range(binding.heads):
            mine = flex.from_block_mask(ours, program, binding)
            other = flex.from_block_mask(theirs, program, binding)
            np.testing.assert_array_equal(mine.kinds(mine.group_of(h, b)), other.kinds(other.group_of(h, b)))
    assert ours.q_indices is not None


def test_round_trip() -> None:
    program, binding = _bound("causal & (sinks(4) | sliding_window(60))")
    plan = make_plan(program, binding, q_tile=128, k_tile=64)
    back = flex.from_block_mask(flex.to_block_mask(plan, flex.mask_mod(program, binding)), program, binding)
    assert (back.q_tile, back.k_tile) == (128, 64)
    np.testing.assert_array_equal(to_dense(back.groups[0].runs, back.cols), to_dense(plan.groups[0].runs, plan.cols))
    small = flex.block_mask(program, binding, q_tile=128, k_tile=64)
    theirs = create_block_mask(flex.mask_mod(program, binding), 1, 1, N, N, device="cpu", BLOCK_SIZE=(128, 64))
    assert (small.to_dense() == theirs.to_dense()).all()
    program, binding = _bound("causal", 100)
    with pytest.raises(MaskcError, match="100"):
        flex.from_block_mask(flex.block_mask(program, binding), program, make_binding(program, N, N))


@pytest.mark.filterwarnings("ignore:.*flex_attention called without torch.compile.*")
def test_a_table_by_layer_and_head_in_one_layer_after_another() -> None:
    """FlexAttention traces again where a number has changed, and then has no values of tensors to index by."""
    text, far = "pattern p(far: bool[layer, head]) { attend causal & (far[layer, h] | self) }", RNG.random((3, 2)) < 0.5
    program = lower_text(text)[0]
    q = torch.randn(1, 2, 16, 16)
    for layer in range(3):
        binding = make_binding(program, 16, 16, heads=2, layer=layer, far=far)
        out = flex_attention(q, q, q, block_mask=flex.block_mask(program, binding))
        reference = maskc.compile(text, heads=2, layer=layer, far=far, backend="reference")
        torch.testing.assert_close(out, reference(q, q, q))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("pattern p(t: int[3, head]) { attend k <= t[1, h] + t[7, 0] }", {"t": [[1, 2], [3, 4], [5, 1]]}),
        ("pattern p(doc: int[token]) { attend doc[2] == doc[k] | doc[0] < doc[3] }",
         {"doc": np.arange(16).reshape(2, 8) % 5}),
        ("pattern p(n: int[4]) { attend n[1] < 3 }", {"n": [0, 1, 2, 3]}),
        ("pattern p(n: int, t: int[n]) { attend k <= t[q] }", {"n": 0, "t": np.zeros(0, np.int64)}),
    ],
)  # fmt: skip
def test_look_ups_at_constants_and_in_empty_tables(text: str, values: dict[str, object]) -> None:
    program = lower_text(text)[0]
    binding = make_binding(program, 8, 8, heads=2, batch=2, **values)  # type: ignore[arg-type]
    got = create_mask(flex.mask_mod(program, binding), 2, 2, 8, 8, device="cpu")
    for b in range(2):
        for h in range(2):
            np.testing.assert_array_equal(got[b, h].numpy(), dense(program, binding, h, b))


def test_dense_index_tensors_are_bounded() -> None:
    program = lower_text("causal")[0]
    binding = make_binding(program, 1 << 21, 1 << 21)
    with pytest.raises(MaskcError) as e:
        flex.block_mask(program, binding)
    assert e.value.codes == ("E801",)


@pytest.mark.parametrize(
    ("text", "wanted"), [("s + exp(1e39)", np.inf), ("min(s, 1e300)", 2.0), ("s * exp(-1e39)", 0.0)]
)
def test_numbers_beyond_the_floats(text: str, wanted: float) -> None:
    program, binding = _bound(f"pattern p {{ attend causal; score {text} }}")
    mod = flex.score_mod(program, binding, {})
    assert mod is not None
    zero = torch.zeros((), dtype=torch.int64)
    assert mod(torch.tensor(2.0), zero, zero, zero, zero) == wanted


TEXT = """pattern p(slope: float[head], gate: float[q, head], bias: float[head, 9]) {
    attend sliding_window(50)
    score 20.0 * tanh(s / 20) + slope[h] * (k - q)
    score s + bias[h, q - k]
    output o * gate[q, h]
}"""


@pytest.mark.filterwarnings("ignore:.*flex_attention called without torch.compile.*")
@pytest.mark.parametrize(
    ("rest", "inputs"),
    [("score 0.5", {}), ("output 0.5", {}), ("output gate[q, h]", {"gate": torch.rand(40, 2)})],
)
def test_scores_and_outputs_that_read_none(
    monkeypatch: pytest.MonkeyPatch, rest: str, inputs: dict[str, torch.Tensor]
) -> None:
    """A number stands for the score of every pair, a number for each query for all of its output."""
    monkeypatch.setattr(flex, "_compiled", lambda: flex_attention)
    params = "gate: float[q, head]" if inputs else ""
    q, k, v = (torch.randn(1, 2, 40, 16) for _ in range(3))
    text = f"pattern p({params}) {{ attend causal\n {rest} }}"
    with torch.no_grad():
        got, expected = (
            maskc.compile(text, heads=2, backend=name)(q, k, v, **inputs) for name in ("flex", "reference")
        )
    torch.testing.assert_close(got, expected)


def _run(eager: bool, monkeypatch: pytest.MonkeyPatch, q_len: int = N) -> None:
    if eager:
        monkeypatch.setattr(flex, "_compiled", lambda: flex_attention)
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, q_len, 32), torch.randn(2, 2, N, 32), torch.randn(2, 2, N, 32)
    inputs = {"slope": torch.rand(4), "gate": torch.rand(q_len, 4), "bias": torch.randn(4, 9)}
    ops = [maskc.compile(TEXT, heads=4, backend=name) for name in ("flex", "reference")]
    with torch.no_grad():
        got, expected = (op(q, k, v, **inputs) for op in ops)
    torch.testing.assert_close(got, expected, atol=2e-6, rtol=2e-5)


@pytest.mark.filterwarnings("ignore:.*flex_attention called without torch.compile.*")
@pytest.mark.parametrize("q_len", [N, 130])
def test_attention_eager(monkeypatch: pytest.MonkeyPatch, q_len: int) -> None:
    _run(True, monkeypatch, q_len)


@pytest.mark.slow
def test_attention_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    _run(False, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("score", ["0.5", "bias[q]"])
def test_scores_that_make_nothing_of_the_product_compiled(score: str) -> None:
    """For which the kernel for CPUs forgets the mask."""
    q, k, v = (torch.randn(1, 2, 130, 16) for _ in range(3))
    inputs = {"bias": torch.randn(130)} if "bias" in score else {}
    text = f"pattern p({'bias: float[q]' if inputs else ''}) {{ attend causal\n score {score} }}"
    with torch.no_grad():
        got, expected = (
            maskc.compile(text, heads=2, backend=name)(q, k, v, **inputs) for name in ("flex", "reference")
        )
    torch.testing.assert_close(got, expected, atol=2e-6, rtol=2e-5)


def test_what_is_given_for_a_score_is_checked() -> None:
    program, binding = _bound("pattern p(bias: float[head, 9]) { attend causal; score s + bias[h, q - k] }", heads=2)
    for floats, said in (({}, "needs the input 'bias'"), ({"bias": torch.zeros(2, 5)}, r"expected the shape \(2, 9\)")):
        with pytest.raises(MaskcError, match=said):
            flex.score_mod(program, binding, floats)
    with pytest.raises(TypeError, match="bias must be a tensor"):
        flex.score_mod(program, binding, {"bias": [[0.0] * 9] * 2})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="program must be"):
        flex.mask_mod(maskc.parse("causal"), binding)  # type: ignore[arg-type]


def test_a_kernel_for_every_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch is told nothing else it compiles 8, and then goes on by computing all pairs."""
    eager = torch.compile(flex._flex_attention, dynamic=False, fullgraph=True, backend="eager")
    monkeypatch.setattr(flex, "_compiled", lambda: eager)
    op, reference = (maskc.compile("sliding_window(30)", heads=1, backend=name) for name in ("flex", "reference"))
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*called without torch.compile")
        for n in range(40, 50):
            q = torch.randn(1, 1, n, 16)
            torch.testing.assert_close(op(q, q, q), reference(q, q, q))
    monkeypatch.setattr(flex, "MAX_KERNELS", 10)
    torch.testing.assert_close(op(q, q, q), reference(q, q, q))
    with pytest.raises(MaskcError, match="10 others were compiled") as e:
        op(*(torch.randn(1, 1, 50, 16) for _ in range(3)))
    assert e.value.codes == ("E702",)
    torch._dynamo.reset()


def test_refusals() -> None:
    q = torch.randn(1, 1, 64, 16)
    with pytest.raises(MaskcError, match="normaliser relu"):
        maskc.compile("pattern p { attend all\n normalize relu }", heads=1, backend="flex")
    op = maskc.compile("causal", heads=1, backend="flex")
    with pytest.raises(MaskcError, match="no log-sum-exp"):
        op(q, q, q, return_lse=True)
    with pytest.raises(MaskcError, match="no backward pass"):
        op(q.requires_grad_(), q, q)


def test_what_is_empty_is_computed_without_its_kernels() -> None:
    """They divide by the number of blocks: on CPUs that ends the process."""
    cross = "pattern p over decoder -> encoder { attend all }"
    for text, q_len, k_len in (("causal", 0, 16), (cross, 4, 0), (cross, 0, 0)):
        op = maskc.compile(text, heads=4, backend="flex")
        q, k, v = torch.ones(1, 4, q_len, 16), torch.ones(1, 2, k_len, 16), torch.ones(1, 2, k_len, 16)
        assert torch.equal(op(q, k, v), torch.zeros(1, 4, q_len, 16))


@pytest.mark.parametrize("score", ["s", "s + slope[h] * (k - q)"])
def test_parameters_are_no_obstacle_where_no_gradient_is_wanted(score: str) -> None:
    """What a refusal advises: FlexAttention itself asks the tensors, and would refuse them on CPUs."""
    op = maskc.compile(f"pattern p(slope: float[head]) {{ attend causal; score {score} }}", heads=2, backend="flex")
    q, slope = torch.randn(1, 2, 64, 16, requires_grad=True), torch.ones(2, requires_grad=True)
    with pytest.raises(MaskcError, match="no_grad") as refused:
        op(q, q, q, slope=slope)
    assert refused.value.codes == ("E702",)
    with torch.no_grad():
        out = op(q, q, q, slope=slope)
    reference = maskc.compile(op.pattern, heads=2, backend="reference")
    torch.testing.assert_close(out, reference(q, q, q, slope=slope).detach())


@pytest.mark.parametrize("logit", [-torch.inf, 0.0])
def test_a_sink_beside_a_query_that_keeps_nothing(logit: float) -> None:
    """Of two queries, the second of which keeps nothing: what FlexAttention gives of them on a GPU."""
    out = torch.tensor([[1.0, 2.0], [0.0, 0.0]], requires_grad=True)
    lse, sink = torch.tensor([0.5, -torch.inf], requires_grad=True), torch.full((2,), logit, requires_grad=True)
    found, joined = flex._with_sink(out, lse, sink)
    share = 1 / (1 + np.exp(logit - 0.5))
    torch.testing.assert_close(found, torch.tensor([[share, 2 * share], [0.0, 0.0]], dtype=torch.float32))
    torch.testing.assert_close(joined, torch.tensor([np.logaddexp(0.5, logit), logit], dtype=torch.float32))
    for grad in torch.autograd.grad(found.sum() + joined[0], (out, lse, sink)):
        assert grad.isfinite().all()

"""Score changes and sinks against the models' own: ALiBi, T5's biases, Gemma 2's cap, gpt-oss's sinks.

Biases that differ by a constant within a row are the same to a softmax; they are compared up to it.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch", reason="needs torch")
transformers = pytest.importorskip("transformers", reason="needs the extra `oracles`")

from maskc.ir.evaluate import evaluate  # noqa: E402
from maskc.tiles.binding import make_binding  # noqa: E402

from .patterns import model, visible  # noqa: E402

pytestmark = pytest.mark.oracle
Float = npt.NDArray[np.float64]


def scores(name: str, n: int, s: Any = 0.0, *, heads: int = 1, h: int = 0, batch: int = 1, **values: Any) -> Float:
    """(n, n) scores of the model's pattern, where the scaled dot products are ``s``."""
    program = model(name)
    binding = make_binding(program, n, n, heads=heads, layer=0, batch=batch, sizes={}, **values)
    q, k = np.arange(n)[:, None], np.arange(n)[None]
    changed = evaluate(
        program.score, binding, q=q, k=k, h=h, b=0, s=np.broadcast_to(np.asarray(s, float), (n, n)),
        params=program.params,
    )  # fmt: skip
    return np.broadcast_to(changed, (n, n))


def assert_same_for_softmax(ours: Float, theirs: Any, atol: float) -> None:
    """Where keys are visible (on and below the diagonal), rows differ by a constant."""
    below = np.tril(np.ones(ours.shape, bool))
    difference = np.where(below, ours - theirs, 0.0)
    first = np.where(below, difference[:, :1], 0.0)
    np.testing.assert_allclose(difference, first, atol=atol)


@pytest.mark.parametrize("heads", [1, 4, 8, 6, 12, 112])
def test_alibi_of_bloom(heads: int) -> None:
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    n = 9
    theirs = build_alibi_tensor(torch.ones(1, n, dtype=torch.long), heads, torch.float32).view(heads, 1, n).numpy()
    for h in range(heads):
        assert_same_for_softmax(scores("bloom", n, heads=heads, h=h), theirs[h], 1e-5)


@pytest.mark.parametrize("heads", [1, 4, 8, 6, 12, 24])
@pytest.mark.parametrize("bias_max", [8, 16])
def test_alibi_of_mpt(heads: int, bias_max: int) -> None:
    from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

    n = 9
    theirs = build_mpt_alibi_tensor(heads, n, bias_max).view(heads, 1, n).numpy()
    for h in range(heads):
        ours = scores("mpt", n, heads=heads, h=h, bias_max=float(bias_max))
        assert_same_for_softmax(ours, theirs[h], 1e-5)


@pytest.mark.parametrize("heads", [4, 71])
def test_alibi_of_falcon_rw(heads: int) -> None:
    """Its code rounds slopes and products to bfloat16: 8 bits are compared."""
    from transformers.models.falcon.modeling_falcon import build_alibi_tensor

    n, head_dim = 9, 64
    theirs = build_alibi_tensor(torch.ones(1, n, dtype=torch.long), heads, torch.float32).view(heads, 1, n).numpy()
    for h in range(heads):
        ours = scores("falcon_rw", n, heads=heads, h=h, head_dim=head_dim)
        assert_same_for_softmax(ours, theirs[h] / np.sqrt(head_dim), atol=n * 2.0**-8 / 8)


def t5_bias(decoder: bool, n: int, buckets: int, far: int) -> tuple[Any, Float]:
    """The learned biases (heads, buckets) of a random T5 layer, and what it makes of them, (heads, n, n)."""
    from transformers.models.t5.modeling_t5 import T5Attention

    config = transformers.T5Config(
        d_model=32, d_kv=8, num_heads=4, is_decoder=decoder, relative_attention_num_buckets=buckets,
        relative_attention_max_distance=far,
    )  # fmt: skip
    torch.manual_seed(0)
    layer = T5Attention(config, has_relative_attention_bias=True, layer_idx=0)
    with torch.no_grad():
        # A different number in every bucket, so that no two can be mistaken.
        layer.relative_attention_bias.weight.copy_(torch.arange(buckets * 4).view(buckets, 4).float())
        bias = layer.compute_bias(n, n)[0]
    return layer.relative_attention_bias.weight.detach().T.numpy(), bias.numpy()


@pytest.mark.parametrize(("buckets", "far"), [(32, 128), (8, 20), (16, 64)])
@pytest.mark.parametrize("decoder", [True, False], ids=["decoder", "encoder"])
def test_bias_of_t5(decoder: bool, buckets: int, far: int) -> None:
    n = 150
    learned, theirs = t5_bias(decoder, n, buckets, far)
    values: dict[str, Any] = {} if decoder else {"length": np.array([n])}
    name = "t5_decoder" if decoder else "t5_encoder"
    for h in (0, 3):
        ours = scores(name, n, heads=4, h=h, bias=learned, buckets=buckets, far=far, **values)
        kept = np.tril(np.ones((n, n), bool)) if decoder else np.ones((n, n), bool)
        np.testing.assert_array_equal(ours[kept], theirs[h][kept])


def attention(keep: Any, s: Float, v: Float, sink: float | None = None) -> Float:
    """Textbook attention of one head: (n, n) scores, (n, d) values; ``sink`` is one more logit without a value."""
    logits = np.where(keep, s, -np.inf)
    top = logits.max(1, keepdims=True) if sink is None else np.maximum(logits.max(1, keepdims=True), sink)
    weights = np.exp(logits - top)
    total = weights.sum(1, keepdims=True) + (0.0 if sink is None else np.exp(sink - top))
    return (weights / total) @ v


def tensors(n: int, heads: int, d: int) -> tuple[Any, Any, Any]:
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(1, heads, n, d, generator=generator, dtype=torch.float64) for _ in range(3))
    return 4 * q, 4 * k, v


def additive(keep: Any) -> Any:
    kept = torch.from_numpy(keep)[None, None]
    return torch.zeros(kept.shape, dtype=torch.float64).masked_fill(~kept, -1e30)


def test_softcap_of_gemma2() -> None:
    from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward

    n, heads, d = 12, 2, 8
    q, k, v = tensors(n, heads, d)
    keep = visible(model("gemma2"), n, heads=heads, layer=0, window=5)
    module = SimpleNamespace(num_key_value_groups=1, training=False, head_dim=d)
    theirs, _ = eager_attention_forward(module, q, k, v, additive(keep), scaling=0.5, softcap=50.0)
    for h in range(heads):
        s = (0.5 * q[0, h] @ k[0, h].T).numpy()
        assert np.abs(s).max() > 25.0, "too small for the cap to be felt"
        ours = attention(keep, scores("gemma2", n, s, heads=heads, h=h), v[0, h].numpy())
        np.testing.assert_allclose(ours, theirs[0, :, h].numpy(), atol=1e-6)


def test_sinks_of_gpt_oss() -> None:
    from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward

    n, heads, d = 12, 4, 8
    q, k, v = tensors(n, heads, d)
    sinks = torch.tensor([-3.0, 0.0, 2.0, 30.0], dtype=torch.float64)
    program = model("gpt_oss")
    keep = visible(program, n, heads=heads, layer=0, window=5, sink_logit=sinks.numpy())
    module = SimpleNamespace(num_key_value_groups=1, training=False, sinks=sinks)
    theirs, _ = eager_attention_forward(module, q, k, v, additive(keep), scaling=0.2)
    assert program.normalizer.sink is not None
    binding = make_binding(program, n, n, heads=heads, layer=0, batch=1, sizes={}, window=5, sink_logit=sinks.numpy())
    for h in range(heads):
        s = (0.2 * q[0, h] @ k[0, h].T).numpy()
        sink = evaluate(
            program.normalizer.sink, binding, q=np.arange(n)[:, None], k=np.zeros((1, 1), int), h=h,
            params=program.params,
        )  # fmt: skip
        ours = attention(keep, s, v[0, h].numpy(), float(np.ravel(sink)[0]))
        np.testing.assert_allclose(ours, theirs[0, :, h].numpy(), atol=1e-12)

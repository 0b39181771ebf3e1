"""Tiny models of Transformers run with our ops for their attention, and with their own: the same hidden states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
transformers = pytest.importorskip("transformers", reason="needs the extra `oracles`")

from interop.models import perturbed  # noqa: E402

import maskc  # noqa: E402

from .patterns import MODELS, model, with_clause  # noqa: E402
from .recorder import tiny_model, tokens  # noqa: E402

pytestmark = pytest.mark.oracle
NAME, W, N = "maskc_op", 7, 26
_SPREAD = 0.3  # of weights
_EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "mistral": ("MistralConfig", {"num_hidden_layers": 2, "sliding_window": W}, {"window": W}),
    # A small cap, so that it is felt.
    "gemma2": (
        "Gemma2Config",
        {"num_hidden_layers": 3, "sliding_window": W, "attn_logit_softcapping": 0.05},
        {"window": W, "cap": 0.05},
    ),
    "gemma3": ("Gemma3TextConfig", {"num_hidden_layers": 6, "sliding_window": W}, {"window": W}),
    "gpt_oss": ("GptOssConfig", {"num_hidden_layers": 3, "sliding_window": W, **_EXPERTS}, {"window": W}),
    "llama4": (
        "Llama4TextConfig",
        {"num_hidden_layers": 4, "attention_chunk_size": W, "intermediate_size_mlp": 32, **_EXPERTS},
        {"chunk_size": W},
    ),
    "modernbert": ("ModernBertConfig", {"num_hidden_layers": 4, "local_attention": 8}, {"local_attention": 8}),
}


def use(make_op: Callable[[Any, int], Any], inputs: Callable[[Any], dict[str, Any]]) -> None:
    """Let every attention module call the op of its layer, with its inputs."""
    ops: dict[int, Any] = {}

    def attend(module: Any, q: Any, k: Any, v: Any, _mask: Any, scaling: float, **extra: Any) -> tuple[Any, None]:
        layer = int(module.layer_idx)
        if layer not in ops:
            ops[layer] = make_op(q.shape[1], layer)
        return ops[layer](q, k, v, scale=scaling, **inputs(module)).transpose(1, 2), None

    transformers.AttentionInterface.register(NAME, attend)


def sinks(module: Any) -> dict[str, Any]:
    return {"sink_logit": module.sinks} if hasattr(module, "sinks") else {}


def hidden(kind: str, implementation: str, **call: Any) -> Any:
    config, changes, _ = KINDS[kind]
    net = perturbed(tiny_model(getattr(transformers, config), implementation, **changes), _SPREAD)
    with torch.no_grad():
        return net(input_ids=tokens(2, N), **call).last_hidden_state


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states(kind: str, backend: str) -> None:
    arguments = KINDS[kind][2]
    use(
        lambda heads, layer: maskc.compile(model(kind), heads=heads, layer=layer, backend=backend, **arguments),
        sinks,
    )
    theirs = hidden(kind, "eager")
    torch.testing.assert_close(hidden(kind, NAME), theirs, atol=2e-4, rtol=2e-4)
    # The comparison is worth something: without the pattern the result is another one.
    use(lambda heads, layer: maskc.compile("all", heads=heads, backend="reference"), lambda module: {})
    assert (hidden(kind, NAME) - theirs).abs().max() > 1e-2


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "llama4"])
def test_hidden_states_with_left_padding(kind: str) -> None:
    mask = torch.ones(2, N, dtype=torch.long)
    mask[0, :9] = 0
    real = mask.bool()
    program = with_clause(kind, "real: bool[token]", "real[k]")
    arguments = KINDS[kind][2]
    use(
        lambda heads, layer: maskc.compile(program, heads=heads, layer=layer, backend="reference", **arguments),
        lambda module: {**sinks(module), "real": real},
    )
    ours, theirs = hidden(kind, NAME, attention_mask=mask), hidden(kind, "eager", attention_mask=mask)
    torch.testing.assert_close(ours[real], theirs[real], atol=2e-4, rtol=2e-4)


def test_hidden_states_of_t5() -> None:
    """Its layers share the first one's biases, by buckets of distances."""
    config = transformers.T5Config(d_model=32, d_kv=8, d_ff=32, num_heads=4, num_layers=2, vocab_size=64)
    lengths = torch.tensor([17, N])
    real = torch.arange(N)[None] < lengths[:, None]

    def run(implementation: str) -> Any:
        torch.manual_seed(0)
        net = transformers.T5EncoderModel._from_config(config, attn_implementation=implementation).eval()
        net = perturbed(net, _SPREAD)
        bias = net.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.T.contiguous()
        use(
            lambda heads, layer: maskc.compile(MODELS / "t5_encoder.mask", heads=heads, backend="reference"),
            lambda module: {"bias": bias, "length": lengths},
        )
        with torch.no_grad():
            return net(input_ids=tokens(2, N), attention_mask=real.long()).last_hidden_state

    ours, theirs = run(NAME), run("eager")
    torch.testing.assert_close(ours[real], theirs[real], atol=2e-4, rtol=2e-4)

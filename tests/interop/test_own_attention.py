"""Patterns read off configs of models that attend by their own code, compared with what that code does.

BLOOM, MPT, Falcon and GPT-Neo give their attention a mask. Longformer, LED and BigBird never build one: theirs is read
off the weights of the attention module, as tests/oracles does. BigBird's blocks are drawn at random in training, by
another generator than ours, so that only the rest can be compared; none of the three decodes with a cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from maskc.interop.configs import pattern_from_config

torch = pytest.importorskip("torch", reason="needs torch")
transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")

from oracles.patterns import visible  # noqa: E402
from oracles.recorder import NAME, TINY, recording, tiny_model, tokens  # noqa: E402
from oracles.test_own_attention import bigbird_weights, hooked, reading, rows_of  # noqa: E402

pytestmark = pytest.mark.oracle

CAUSAL: dict[str, tuple[str, int, dict[str, Any]]] = {
    "bloom": ("BloomConfig", 2, {"n_layer": 2, "n_head": 4}),
    "mpt": ("MptConfig", 2, {"n_layers": 2, "n_heads": 4, "d_model": 32, "max_seq_len": 64}),
    "falcon": ("FalconConfig", 2, {"num_hidden_layers": 2, "head_dim": None}),
    "falcon, alibi": ("FalconConfig", 2, {"num_hidden_layers": 2, "head_dim": None, "alibi": True}),
    "gpt_neo": (
        "GPTNeoConfig",
        4,
        {"num_layers": 4, "num_heads": 4, "attention_types": [[["global", "local"], 2]], "window_size": 5},
    ),
}


def keeps(mask: Any) -> Any:
    """MPT's masks hold what is dropped; those of others are added, and drop where they are as low as can be."""
    return (~mask if mask.dtype == torch.bool else mask > -1e30).numpy()


@pytest.mark.parametrize("kind", CAUSAL)
@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize(("past", "new"), [(0, 1), (0, 7), (0, 24), (9, 1), (6, 5)])
def test_decoders(kind: str, padding: int, past: int, new: int) -> None:
    n, (name, layers, changes) = past + new, CAUSAL[kind]
    net = tiny_model(getattr(transformers, name), "eager", **changes)
    program = pattern_from_config(net.config).program
    real = np.arange(n) >= min(padding, n - 1)
    mask, ids = torch.from_numpy(real.astype(np.int64))[None], tokens(1, n)
    cache = transformers.DynamicCache(config=net.config) if past else None
    if past:
        with torch.no_grad():
            net(input_ids=ids[:, :past], attention_mask=mask[:, :past], past_key_values=cache)
    call: dict[str, Any] = {"input_ids": ids[:, past:], "attention_mask": mask, "use_cache": bool(past)}
    seen = hooked(
        net, "SelfAttention" if kind == "gpt_neo" else "Attention", lambda: net(**call, past_key_values=cache)
    )
    assert len(seen) == layers
    for layer, given in enumerate(seen):
        theirs = keeps(given["attention_mask"][0, 0, :, :n])
        if kind == "gpt_neo":  # its layers hold their windows as buffers
            theirs = theirs & given["module"].bias[0, 0, past:n, :n].numpy()
        ours = visible(program, new, n, heads=4, layer=layer) & real
        np.testing.assert_array_equal(ours[real[past:]], theirs[real[past:]], f"layer {layer}")


def longformer_module(config: Any, layer: int) -> tuple[Any, str]:
    from transformers.models.led.modeling_led import LEDEncoderSelfAttention
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

    if config.model_type == "led":
        return LEDEncoderSelfAttention(config, layer).eval(), "led_encoder"
    return LongformerSelfAttention(config, layer).eval(), "longformer"


@pytest.mark.parametrize("kind", ["Longformer", "LED"])
@pytest.mark.parametrize("seen", [[], [0, 7]], ids=["local", "global too"])
@pytest.mark.parametrize(("n", "padding"), [(16, 0), (24, 5), (32, 0), (32, 5)])
def test_windows_on_both_sides(kind: str, seen: list[int], n: int, padding: int) -> None:
    """Every layer has a window of its own; 0 stands for local attention, -10000 for padding, 10000 for global."""
    heads = 2
    sizes = {"Longformer": {"hidden_size": heads * n, "num_attention_heads": heads, "num_hidden_layers": 2}}
    sizes["LED"] = {"d_model": heads * n, "encoder_attention_heads": heads, "encoder_layers": 2}
    config = getattr(transformers, f"{kind}Config")(attention_window=[4, 8], **sizes[kind])
    kinds = torch.zeros(1, n)
    kinds[0, seen] = 10000.0
    kinds[0, n - padding :] = -10000.0
    call = {"is_index_masked": kinds < 0, "is_index_global_attn": kinds > 0, "is_global_attn": bool(seen)}
    for layer in range(2):
        module, name = longformer_module(config, layer)
        hidden = reading(module, heads, n, "query", "key", "value", "query_global", "key_global", "value_global")
        with torch.no_grad():
            output = module(hidden, kinds, **call)[0]
        program = pattern_from_config(config, name).program
        ours = visible(program, n, heads=heads, layer=layer, is_global=(kinds[0] > 0).numpy())
        ours = (ours & (np.arange(n) < n - padding))[: n - padding]
        for theirs in rows_of(output, heads, n):
            np.testing.assert_array_equal(ours, theirs[: n - padding] > 0, f"layer {layer}")


def test_the_decoder_of_led() -> None:
    n = 12
    config = transformers.LEDConfig(
        d_model=32, encoder_layers=1, decoder_layers=2, attention_window=4, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=32, decoder_ffn_dim=32, vocab_size=64,
    )  # fmt: skip
    net = transformers.LEDModel(config).eval()
    call = {"input_ids": tokens(1, 8), "decoder_input_ids": tokens(1, n), "use_cache": False}
    seen = [s for s in hooked(net.decoder, "LEDDecoderAttention", lambda: net(**call)) if "key_value_states" not in s]
    assert len(seen) == 2
    ours = visible(pattern_from_config(config, "led_decoder").program, n, heads=4)
    for given in seen:
        np.testing.assert_array_equal(ours, keeps(given["attention_mask"][0, 0]))


@pytest.mark.parametrize("blocks", [9, 13])
def test_bigbird_without_random_blocks(blocks: int) -> None:
    config = transformers.BigBirdConfig(block_size=4, num_random_blocks=3)
    ours = visible(pattern_from_config(config).program, 4 * blocks, random_blocks=0)
    for theirs in bigbird_weights(False, blocks, 2, 0, 3):
        np.testing.assert_array_equal(ours, theirs > 0)


@pytest.mark.parametrize("family", ["gemma", "gemma2"])
@pytest.mark.parametrize("n", [9, 26])
def test_paligemma(family: str, n: int) -> None:
    """The first one, and the second, whose text model has windows in every other layer; with padding on the left."""
    tiny_model(transformers.GemmaConfig, num_hidden_layers=1)  # registers the recorder
    sizes = {**TINY, "num_hidden_layers": 4, **({"sliding_window": 6} if family == "gemma2" else {})}
    text = (transformers.Gemma2Config if family == "gemma2" else transformers.GemmaConfig)(**sizes)
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.PaliGemmaConfig(
        text_config=text.to_dict(), vision_config={**vision, "image_size": 8, "patch_size": 4}, image_token_id=63,
        projection_dim=32, hidden_size=32,
    )  # fmt: skip
    net = transformers.AutoModel.from_config(config, attn_implementation=NAME).eval()
    prefix, padding = np.array([min(18, n - 2), 4]), 3
    real = np.ones((2, n), bool)
    real[0, :padding] = False
    prompt = np.arange(n)[None] < prefix[:, None]
    call = {"attention_mask": torch.from_numpy(real).long(), "token_type_ids": torch.from_numpy(~prompt).long()}
    with recording() as calls:
        net(input_ids=tokens(2, n), **call, use_cache=False)
    program = pattern_from_config(config).program
    assert [c.layer for c in calls] == [0, 1, 2, 3]
    for call_ in calls:
        for b in range(2):
            ours = visible(program, n, layer=call_.layer, batch=2, b=b, prefix_length=prefix) & real[b]
            np.testing.assert_array_equal(ours[real[b]], call_.mask[b, 0][real[b]], f"layer {call_.layer}, row {b}")

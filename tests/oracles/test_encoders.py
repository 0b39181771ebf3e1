"""Encoders and models with prefixes or pictures: BERT, ModernBERT, T5, PaliGemma, Gemma 3 with images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")
transformers = pytest.importorskip("transformers", reason="needs the extra `oracles`")

from .patterns import expression, model, visible, with_clause  # noqa: E402
from .recorder import NAME, TINY, recording, tiny_model, tokens  # noqa: E402

pytestmark = pytest.mark.oracle
N = 22


def right_padded(lengths: list[int]) -> Any:
    return (torch.arange(N)[None] < torch.tensor(lengths)[:, None]).long()


@pytest.mark.parametrize("width", [2, 8, 14])
@pytest.mark.parametrize("length", [1, 4, 5, 22])
def test_modernbert(width: int, length: int) -> None:
    net = tiny_model(transformers.ModernBertConfig, num_hidden_layers=4, local_attention=width)
    with recording() as calls:
        net(input_ids=tokens(1, length))
    assert [c.layer for c in calls] == [0, 1, 2, 3]
    for call in calls:
        ours = visible(model("modernbert"), length, layer=call.layer, local_attention=width)
        np.testing.assert_array_equal(ours, call.mask[0, 0])


@pytest.mark.parametrize("period", [2, 3])
def test_modernbert_with_padding(period: int) -> None:
    net = tiny_model(
        transformers.ModernBertConfig, num_hidden_layers=5, local_attention=8, global_attn_every_n_layers=period
    )
    real = right_padded([13, N])
    with recording() as calls:
        net(input_ids=tokens(2, N), attention_mask=real)
    program = with_clause("modernbert", "length: int[batch]", "padding(length[b])")
    values = {"local_attention": 8, "period": period, "length": np.array([13, N])}
    assert len(calls) == 5
    for call in calls:
        for b, length in enumerate([13, N]):
            ours = visible(program, N, layer=call.layer, batch=2, b=b, **values)
            np.testing.assert_array_equal(ours[:length], call.mask[b, 0, :length])


def test_bert() -> None:
    lengths = np.array([9, N, 1])
    net = tiny_model(transformers.BertConfig, num_hidden_layers=2)
    with recording() as calls:
        net(input_ids=tokens(3, N), attention_mask=right_padded(lengths.tolist()))
    assert len(calls) == 2
    for call in calls:
        for b, length in enumerate(lengths):
            ours = visible(model("bert"), N, batch=3, b=b, length=lengths)
            np.testing.assert_array_equal(ours[:length], call.mask[b, 0, :length])


def test_t5() -> None:
    """The encoder, the decoder and the attention between them."""
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_heads": 4, "num_layers": 2, "decoder_start_token_id": 0}
    net = tiny_model(transformers.T5Config, **sizes)
    lengths = np.array([9, N])
    with recording() as calls:
        net(input_ids=tokens(2, N), attention_mask=right_padded(lengths.tolist()), decoder_input_ids=tokens(2, 6))
    bias = np.zeros((4, 32))
    between = expression("pattern p(length: int[batch]) over answer -> text { attend padding(length[b]) }")
    seen = []
    for call in calls:
        queries, keys = call.mask.shape[2:]
        seen.append((queries, keys))
        for b in range(2):
            if queries == N:
                ours = visible(model("t5_encoder"), N, heads=4, batch=2, b=b, length=lengths, bias=bias)
            elif keys == N:
                ours = visible(between, 6, N, batch=2, b=b, length=lengths, sizes={"answer": 6, "text": N})
            else:
                ours = visible(model("t5_decoder"), 6, heads=4, bias=bias)
            rows = slice(lengths[b] if queries == N else None)
            np.testing.assert_array_equal(ours[rows], call.mask[b, 0, rows])
    assert seen == [(N, N)] * 2 + [(6, 6), (6, N)] * 2


def vision_language(config_class: Any, text: Any, **changes: Any) -> Any:
    vision = transformers.SiglipVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4, image_size=8, patch_size=4
    )
    config = config_class(text_config=text, vision_config=vision, **changes)
    return transformers.AutoModel.from_config(config, attn_implementation=NAME).eval()


@pytest.mark.parametrize("padding", [0, 3])
def test_paligemma(padding: int) -> None:
    tiny_model(transformers.GemmaConfig, num_hidden_layers=1)  # registers the recorder
    text = transformers.GemmaConfig(**TINY, num_hidden_layers=2)
    net = vision_language(transformers.PaliGemmaConfig, text, image_token_id=63, projection_dim=32, hidden_size=32)
    prefix = np.array([10 + padding, 5])
    # 0 for picture and prompt, 1 for the answer.
    kinds = (torch.arange(N)[None] >= torch.from_numpy(prefix)[:, None]).long()
    real = torch.ones(2, N, dtype=torch.long)
    real[0, :padding] = 0
    with recording() as calls:
        net(input_ids=tokens(2, N), attention_mask=real, token_type_ids=kinds, use_cache=False)
    program = with_clause("paligemma", "real: bool[token]", "real[k]")
    assert len(calls) == 2
    for call in calls:
        for b in range(2):
            ours = visible(program, N, batch=2, b=b, prefix_length=prefix, real=real.bool().numpy())
            rows = real[b].bool().numpy()
            np.testing.assert_array_equal(ours[rows], call.mask[b, 0, rows])


def test_gemma3_with_pictures() -> None:
    """The masks of create_masks_for_vision_model, for each kind of layer; two pictures side by side stay apart."""
    from transformers.models.gemma3.modeling_gemma3 import create_masks_for_vision_model

    tiny_model(transformers.GemmaConfig, num_hidden_layers=1)  # registers the recorder
    config = transformers.Gemma3TextConfig(**TINY, num_hidden_layers=6, sliding_window=7, attn_implementation=NAME)
    image = np.array([-1, -1, 0, 0, 0, 0, 1, 1, 1, -1, -1, -1, *[2] * 10, -1])
    n = len(image)
    with recording():
        masks = create_masks_for_vision_model(
            config,
            inputs_embeds=torch.zeros(1, n, 32),
            attention_mask=torch.ones(1, n, dtype=torch.long),
            past_key_values=None,
            position_ids=torch.arange(n)[None],
            block_sequence_ids=torch.from_numpy(image)[None],
        )
    for layer in range(6):
        theirs = masks[config.layer_types[layer]][0, 0].numpy()
        ours = visible(model("gemma3_vision"), n, layer=layer, window=7, image=image)
        np.testing.assert_array_equal(ours, theirs, f"layer {layer}")

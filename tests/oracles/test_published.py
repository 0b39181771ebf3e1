"""The defaults of the pattern files are those of the published configurations, and hold at real lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")
transformers = pytest.importorskip("transformers", reason="needs the extra `oracles`")

from maskc.ir.evaluate import dense  # noqa: E402
from maskc.tiles.binding import make_binding  # noqa: E402

from .patterns import Mask, model  # noqa: E402

pytestmark = pytest.mark.oracle

#: Pattern, its parameter, the configuration class and its attribute: where the class's defaults are those of
#: the model that it is named after.
DEFAULTS = [
    ("mistral", "window", "MistralConfig", "sliding_window"),
    ("gemma2", "window", "Gemma2Config", "sliding_window"),
    ("gemma2", "cap", "Gemma2Config", "attn_logit_softcapping"),
    ("gpt_oss", "window", "GptOssConfig", "sliding_window"),
    ("llama4", "chunk_size", "Llama4TextConfig", "attention_chunk_size"),
    ("llama4", "period", "Llama4TextConfig", "no_rope_layer_interval"),
    ("llama4_packed", "chunk_size", "Llama4TextConfig", "attention_chunk_size"),
    ("cohere2", "window", "Cohere2Config", "sliding_window"),
    ("olmo3", "window", "Olmo3Config", "sliding_window"),
    ("exaone4", "window", "Exaone4Config", "sliding_window"),
    ("exaone4", "period", "Exaone4Config", "sliding_window_pattern"),
    ("smollm3", "period", "SmolLM3Config", "no_rope_layer_interval"),
    ("smollm3", "use_sliding_window", "SmolLM3Config", "use_sliding_window"),
    ("qwen2", "use_sliding_window", "Qwen2Config", "use_sliding_window"),
    ("qwen2", "max_window_layers", "Qwen2Config", "max_window_layers"),
    ("gpt_neo", "window", "GPTNeoConfig", "window_size"),
    ("modernbert", "local_attention", "ModernBertConfig", "local_attention"),
    ("longformer", "attention_window", "LongformerConfig", "attention_window"),
    ("bigbird", "block", "BigBirdConfig", "block_size"),
    ("bigbird", "random_blocks", "BigBirdConfig", "num_random_blocks"),
    ("swin", "window_size", "SwinConfig", "window_size"),
    ("dinat", "kernel_size", "DinatConfig", "kernel_size"),
    ("t5_encoder", "buckets", "T5Config", "relative_attention_num_buckets"),
    ("t5_decoder", "far", "T5Config", "relative_attention_max_distance"),
]


@pytest.mark.parametrize(("name", "parameter", "config", "attribute"), DEFAULTS)
def test_default(name: str, parameter: str, config: str, attribute: str) -> None:
    default = model(name).parameter(parameter).default
    assert default is not None
    assert default.value == getattr(getattr(transformers, config)(), attribute)


def test_defaults_of_mpt() -> None:
    default = model("mpt").parameter("bias_max").default
    assert default is not None
    assert default.value == transformers.MptConfig().attn_config.alibi_bias_max


def test_dilations_of_dinat() -> None:
    """The header's words about DiNAT-Mini."""
    assert transformers.DinatConfig().dilations[0][:2] == [1, 8]
    assert "1 and 8 alternately" in " ".join(model("dinat").doc.split())


#: Pattern, configuration class, and changes that turn its defaults into the published model.
MODELS: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("mistral", "MistralConfig", {}, {}),
    ("phi3", "Phi3Config", {"sliding_window": 2047}, {}),
    ("gemma2", "Gemma2Config", {}, {}),
    ("gemma3", "Gemma3TextConfig", {"sliding_window": 1024}, {}),
    ("gpt_oss", "GptOssConfig", {}, {"sink_logit": np.zeros(2)}),
    ("llama4", "Llama4TextConfig", {}, {}),
    ("cohere2", "Cohere2Config", {}, {}),
    ("olmo3", "Olmo3Config", {}, {}),
    ("exaone4", "Exaone4Config", {}, {}),
]


@pytest.mark.parametrize(("name", "config", "changes", "inputs"), MODELS, ids=lambda x: x if isinstance(x, str) else "")
@pytest.mark.parametrize("offset", [0, 2045, 8190, 16381])
def test_eight_queries_of_a_long_sequence(
    name: str, config: str, changes: dict[str, Any], inputs: dict[str, Any], offset: int
) -> None:
    """Rows at ``offset`` of 16389, in the first layers, with nothing made small."""
    from transformers.masking_utils import (
        causal_mask_function,
        chunked_causal_mask_function,
        sdpa_mask,
        sliding_window_causal_mask_function,
    )

    n, rows = 16389, 8
    made = getattr(transformers, config)(num_hidden_layers=6, **changes)
    binding: Any = None
    for layer, kind in enumerate(getattr(made, "layer_types", ["sliding_attention"] * 2)):
        function = {
            "full_attention": lambda: causal_mask_function,
            "sliding_attention": lambda: sliding_window_causal_mask_function(made.sliding_window),
            "chunked_attention": lambda: chunked_causal_mask_function(made.attention_chunk_size, torch.zeros(1).long()),
        }[kind]()
        theirs: Mask = sdpa_mask(
            batch_size=1, q_length=rows, kv_length=n, q_offset=offset, mask_function=function,
            allow_is_causal_skip=False,
        )[0, 0].numpy()  # fmt: skip
        program = model(name)
        binding = make_binding(program, n, n, heads=2, layer=layer, **inputs)
        ours = dense(program, binding, 0, 0, (offset, offset + rows), (0, n))
        np.testing.assert_array_equal(ours, theirs, f"layer {layer}: {kind}")

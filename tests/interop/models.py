"""Tiny random decoders of every kind that leaves attention to the implementation."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import transformers

W, N, LAYERS = 7, 26, 4
TINY: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 64,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_SLIDING = {"sliding_window": W}
_SWITCHED = {**_SLIDING, "use_sliding_window": True}
_EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "mistral": ("MistralConfig", _SLIDING),
    "mixtral": ("MixtralConfig", {**_SLIDING, **_EXPERTS}),
    "qwen2": ("Qwen2Config", {**_SWITCHED, "max_window_layers": 2}),
    "qwen3": ("Qwen3Config", {**_SWITCHED, "max_window_layers": 2}),
    "gemma": ("GemmaConfig", {}),
    # A small cap, so that it is felt.
    "gemma2": ("Gemma2Config", {**_SLIDING, "attn_logit_softcapping": 0.05}),
    "gemma3": ("Gemma3TextConfig", {**_SLIDING, "sliding_window_pattern": 3}),
    "gemma4": (
        "Gemma4TextConfig",
        {**_SLIDING, "global_head_dim": 8, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 64},
    ),
    "gpt_oss": ("GptOssConfig", {**_SLIDING, **_EXPERTS}),
    "llama4": ("Llama4TextConfig", {"attention_chunk_size": W, "intermediate_size_mlp": 32, **_EXPERTS}),
    "phi3": ("Phi3Config", _SLIDING),
    "starcoder2": ("Starcoder2Config", _SLIDING),
    "cohere2": ("Cohere2Config", _SLIDING),
    "olmo3": ("Olmo3Config", _SLIDING),
    "exaone4": ("Exaone4Config", _SLIDING),
    "smollm3": ("SmolLM3Config", _SWITCHED),
}


def config_of(kind: str, layers: int = LAYERS, **changes: Any) -> Any:
    """A fresh config of this kind."""
    name, own = KINDS[kind]
    return getattr(transformers, name)(**{**TINY, "num_hidden_layers": layers, **own, **changes})


def perturbed(net: Any, spread: float = 0.15) -> Any:
    """Sinks start at whatever memory held, and attention of fresh weights is close to uniform: make both speak."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("sinks"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
            elif parameter.ndim > 1:
                parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
    return net


def model_of(config: Any, implementation: str = "maskc") -> Any:
    """A random model with a head for tokens, in evaluation mode; the same weights for the same config."""
    from copy import deepcopy

    from maskc.interop.transformers import register

    register()
    torch.manual_seed(0)
    auto = transformers.AutoModelForCausalLM
    return perturbed(auto.from_config(deepcopy(config), attn_implementation=implementation)).eval()


@cache
def pair(kind: str) -> tuple[Any, Any]:
    """The model by eager attention and by ours; nobody changes them."""
    return model_of(config_of(kind), "eager"), model_of(config_of(kind))


def tokens(batch: int = 2, length: int = N) -> torch.Tensor:
    """Token ids that are no special token."""
    return ((torch.arange(batch * length) * 7) % 50 + 5).view(batch, length)


def left_padded(padding: int = 9, length: int = N) -> torch.Tensor:
    """A mask of two rows, the first with padding on its left."""
    mask = torch.ones(2, length, dtype=torch.long)
    mask[0, :padding] = 0
    return mask

"""Decoding with Transformers' models by maskc beside eager attention: ``python benchmarks/decoding.py``.

CPU time a token of greedy decoding with one thread, of both in turn, for random models: the same keys in the cache,
the same logits. What maskc adds is bookkeeping in Python, the same for any size of the model.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from copy import deepcopy
from typing import Any

import torch
import transformers

from maskc.interop.transformers import register, set_pattern

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4},
    "50M": {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8},
}
#: Name: class of the config, what is changed in it, and a pattern for maskc (None: the model's own mask).
MODELS: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "llama": ("LlamaConfig", {}, None),
    "gemma3": ("Gemma3TextConfig", {"sliding_window": 64, "sliding_window_pattern": 2, "head_dim": 64}, None),
    "gpt_oss": ("GptOssConfig", {"sliding_window": 64, "num_local_experts": 2, "num_experts_per_tok": 1}, None),
    "llama, window and sinks": ("LlamaConfig", {}, "sliding_window(64) | sinks(4)"),
}


def model(name: str, size: str, implementation: str) -> Any:
    """A random model; the same weights for every implementation."""
    kind, changes, pattern = MODELS[name]
    tokens = {"vocab_size": 8192 if size != "tiny" else 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    sizes = {**SIZES[size], "num_key_value_heads": 2, "max_position_embeddings": 4096}
    config = getattr(transformers, kind)(**{**tokens, **sizes, **changes})
    torch.manual_seed(0)
    net = transformers.AutoModelForCausalLM.from_config(deepcopy(config), attn_implementation=implementation).eval()
    if pattern is not None and implementation == "maskc":
        set_pattern(net, pattern)
    return net


class Decoding:
    """One model with a cache that holds ``context`` tokens."""

    def __init__(self, net: Any, context: int) -> None:
        self.net, self.cache = net, transformers.DynamicCache()
        self.ids = torch.arange(context)[None] % 50 + 5
        net(input_ids=self.ids, past_key_values=self.cache)

    def step(self) -> float:
        """CPU seconds of one more token."""
        start = time.process_time()
        self.net(input_ids=self.ids[:, :1], past_key_values=self.cache)
        return time.process_time() - start


@torch.no_grad()
def measure(name: str, size: str, context: int, count: int) -> None:
    """A line of the table: medians over ``count`` tokens, taken in turn."""
    runs = [Decoding(model(name, size, implementation), context) for implementation in ("eager", "maskc")]
    for run in runs:
        run.step()
    times = [[run.step() for run in runs] for _ in range(count)]
    eager, ours = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(b / a for a, b in times)
    layers = SIZES[size]["num_hidden_layers"]
    cells = [
        name,
        size,
        f"{context:,}",
        f"{eager:.2f}",
        f"{ours:.2f}",
        f"{ratio:.2f}",
        f"{(ours - eager) / layers:.2f}",
    ]
    print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=64, help="tokens a line")
    parser.add_argument("--size", choices=SIZES, help="one size only")
    given = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    register()
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}"
    print(f"{versions}; CPU ms a token, one thread\n")
    print("| model | size | keys | eager | maskc | ratio | more a layer |\n|---|---|---|---|---|---|---|")
    for size in [given.size] if given.size else SIZES:
        for name in MODELS:
            for context in (128, 1024):
                measure(name, size, context, given.tokens)


if __name__ == "__main__":
    main()

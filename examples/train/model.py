"""A small language model over bytes, and the two kinds of attention that it may have."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import maskc
from maskc.nn import Attention
from maskc.parallel import Partition

#: Documents packed into a row stay apart; three layers see a window, the fourth sees everything before; every head
#: has a learned sink, which takes attention that no key deserves.
PATTERN = """
pattern trained(doc: int[token], sink_logit: float[head], window: int(1..) = 128) {
    attend same(doc) & match (layer + 1) % 4 { 0: causal; else: sliding_window(window) }
    normalize softmax(sink = sink_logit[h])
}
"""


class DenseAttention(Attention):
    """The same module by the textbook: a dense mask, all scores, a softmax with one more column for the sink."""

    def forward(self, x: torch.Tensor, context: torch.Tensor | None = None, **inputs: Any) -> torch.Tensor:
        batch, length, _ = x.shape
        split = (batch, length, self.num_heads, self.head_dim)
        q, k, v = (p(x).view(split).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        doc = inputs["doc"].numpy()
        mask = maskc.dense_mask(self.pattern, length, length, head=0, layer=self.op.layer, doc=doc)[:, None]
        scores = q @ k.transpose(-1, -2) * self.head_dim**-0.5
        scores = scores.masked_fill(~torch.from_numpy(mask), -torch.inf)
        sink = self.learned["sink_logit"].view(1, -1, 1, 1).expand(batch, -1, length, 1)
        weights = torch.cat([scores, sink], -1).softmax(-1)[..., :-1]
        return self.out_proj((weights @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a feed-forward layer, each after a norm and with a residual."""

    def __init__(self, attention: type[Attention], dim: int, heads: int, layer: int, window: int) -> None:
        super().__init__()
        arguments = {"window": window}
        self.attention = attention(dim, heads, PATTERN, layer=layer, learned=["sink_logit"], arguments=arguments)
        self.norms = nn.ModuleList([nn.RMSNorm(dim), nn.RMSNorm(dim)])
        self.forward_layer = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: torch.Tensor, **inputs: Any) -> torch.Tensor:
        x = x + self.attention(self.norms[0](x), **inputs)
        return x + self.forward_layer(self.norms[1](x))


class LanguageModel(nn.Module):
    """Bytes (B, N) to logits of the next byte (B, N, 256). ``doc`` and ``position`` say what is packed where.

    With a ``division`` of the sequence among processes, bytes and positions are those of this one's tokens.
    """

    def __init__(
        self, attention: type[Attention], *, dim: int, heads: int, layers: int, length: int, window: int
    ) -> None:
        super().__init__()
        self.bytes = nn.Embedding(256, dim)
        self.positions = nn.Embedding(length, dim)
        self.blocks = nn.ModuleList([Block(attention, dim, heads, layer, window) for layer in range(layers)])
        self.norm = nn.RMSNorm(dim)
        self.head = nn.Linear(dim, 256)

    def forward(
        self, tokens: torch.Tensor, doc: torch.Tensor, position: torch.Tensor, division: Partition | None = None
    ) -> torch.Tensor:
        x = self.bytes(tokens) + self.positions(position)
        shared = {} if division is None else {"division": division}
        for block in self.blocks:
            x = block(x, doc=doc, **shared)
        return self.head(self.norm(x))


IMPLEMENTATIONS: dict[str, type[Attention]] = {"eager, dense mask": DenseAttention, "maskc": Attention}

"""Rows of tiles in shares under Triton's interpreter: what ``tests.gpu.interpreted`` calls of it."""

from __future__ import annotations

from typing import Any

import torch

from maskc.backends.triton import shares as shares_module
from maskc.backends.triton.configs import Config
from maskc.backends.triton.entry import Entry
from maskc.lower import lower_text
from maskc.tiles.binding import bind

__all__ = ["SHARED", "differences"]

#: Pattern, queries, keys, heads, key heads, float inputs; and which kernels cut rows.
SHARED: dict[str, tuple[str, int, int, int, int, dict[str, tuple[int, ...]], set[str]]] = {
    "sinks": ("causal & (k < 3 | q - k < 9)", 150, 150, 2, 1, {}, {"dkv"}),
    "global tokens": ("window(9, 9) | k < 5 | q < 5", 150, 150, 2, 2, {}, {"forward", "dq", "dkv"}),
    "two edges": ("window(40, 40) & (k < q - 3 | q < k) | k < 2 | q < 2", 120, 120, 1, 1, {}, {"forward", "dq", "dkv"}),
    "few queries": ("causal", 20, 150, 2, 1, {}, {"forward", "dq"}),
    "by head": ("causal & (k < 3 | q - k < 9 + 20 * h)", 150, 150, 2, 1, {}, {"dkv"}),
    "empty rows": ("q % 5 > 0 & (window(9, 9) | q < 3)", 130, 140, 2, 2, {}, {"forward", "dq"}),
    "grouped": ("window(6, 6) | q < 7", 140, 140, 4, 1, {}, {"forward", "dq"}),
    "sigmoid": ("pattern p { attend window(9, 9) | k < 5 | q < 5\n normalize sigmoid }", 150, 150, 1, 1, {}, {"dkv"}),
    "learned sink": (
        "pattern p(sink: float[head]) { attend window(9, 9) | q < 5\n normalize softmax(sink = sink[h]) }",
        150,
        150,
        2,
        2,
        {"sink": (2,)},
        {"forward", "dq"},
    ),
}


def differences(name: str) -> dict[str, Any]:
    """The largest differences between results with rows in shares and without, and which kernels had any."""
    text, queries, keys, heads, kv_heads, shapes, _ = SHARED[name]
    batch = 2 if name == "by head" else 1
    generator = torch.Generator().manual_seed(2)
    floats = {n: torch.randn(shape, generator=generator) for n, shape in shapes.items()}
    program = lower_text(text)[0]
    binding = bind(program, queries, keys, heads=heads, layer=0, batch=batch, sizes={}, values=floats)
    q, k, v, grad = (
        torch.randn(batch, h, n, d, generator=generator)
        for h, n, d in ((heads, queries, 32), (kv_heads, keys, 32), (kv_heads, keys, 16), (heads, queries, 16))
    )
    configs = {stage: Config(16, 16, 4, 1) for stage in ("forward", "dq", "dkv")}
    results, cut = [], set[str]()
    shares_module._LEAST = 2
    for workers in (None, 80 * batch):
        entry = Entry(program, binding, tuple(floats), configs=configs, splits=0, workers=workers)
        given = (q, k, v, list(floats.values()))
        out, lse, _ = entry.forward(*given, 0.2)
        dq, dk, dv, more = entry.backward(*given, out, lse, grad, lse * 0.1, 0.2)
        results.append([out, lse, dq, dk, dv, *more])
        cut |= {key[2] for key, ready in entry._memory.items() if key[0] == "launch" and ready.joint is not None}
    return {
        "cut": sorted(cut),
        "differences": [float((a - b).nan_to_num(0.0).abs().max()) for a, b in zip(*results, strict=True)],
        "empty": bool(torch.equal(results[0][1].isneginf(), results[1][1].isneginf())),
    }

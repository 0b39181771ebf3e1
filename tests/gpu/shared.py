"""Rows of tiles in shares under Triton's interpreter: what ``tests.gpu.interpreted`` calls of it."""

from __future__ import annotations

from typing import Any

import torch

from maskc.backends.triton import shares as shares_module
from maskc.backends.triton.configs import Config
from maskc.backends.triton.entry import Entry
from maskc.lower import lower_text
from maskc.reference.attention import attention
from maskc.tiles.binding import bind
from tests.gpu.interpreted import _difference

__all__ = ["SHARED", "differences"]

#: Pattern, queries, keys, heads, key heads, float inputs; and which kernels cut rows.
SHARED: dict[str, tuple[str, int, int, int, int, dict[str, tuple[int, ...]], set[str]]] = {
    "sinks": ("causal & (k < 3 | q - k < 9)", 150, 150, 2, 1, {}, {"dkv"}),
    "global tokens": ("window(9, 9) | k < 5 | q < 5", 150, 150, 2, 2, {}, {"forward", "dq", "dkv"}),
    "two edges": ("window(40, 40) & (k < q - 3 | q < k) | k < 2 | q < 2", 120, 120, 1, 1, {}, {"forward", "dq", "dkv"}),
    "few queries with a gap": ("k < q + 10 | k > q + 50", 20, 200, 2, 1, {}, {"forward", "dq"}),
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
    """The largest differences of results with rows in shares from the reference in float64, relative to the largest
    element, and which kernels had any."""
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
    leaves = [x.double().requires_grad_() for x in (q, k, v, *floats.values())]
    tables = dict(zip(floats, leaves[3:], strict=True))
    exact, exact_lse = attention(program, binding, *leaves[:3], scale=0.2, floats=tables)
    live = torch.zeros(q.shape[:3], dtype=torch.bool) if exact_lse is None else exact_lse > -torch.inf
    grad_lse = torch.randn(q.shape[:3], generator=generator) * live
    loss = (exact * grad.double()).sum()
    if exact_lse is not None:
        loss = loss + (torch.where(live, exact_lse, 0.0) * grad_lse).sum()
    wanted = [exact, *torch.autograd.grad(loss, leaves)]
    configs = {stage: Config(16, 16, 4, 1) for stage in ("forward", "dq", "dkv")}
    shares_module._LEAST = 2
    entry = Entry(program, binding, tuple(floats), configs=configs, splits=0, workers=80 * batch)
    given = (q, k, v, list(floats.values()))
    out, lse, _ = entry.forward(*given, 0.2)
    dq, dk, dv, more = entry.backward(*given, out, lse, grad, None if exact_lse is None else grad_lse, 0.2)
    found = [out, dq, dk, dv, *more]
    if exact_lse is not None:
        found, wanted = [*found, lse], [*wanted, exact_lse]
    ready = [(key[2], x) for key, x in entry._memory.items() if key[0] == "launch"]
    return {
        "cut": sorted(stage for stage, x in ready if x.joint is not None),
        "differences": [_difference(a, b) for a, b in zip(found, wanted, strict=True)],
    }

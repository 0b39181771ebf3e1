"""Calls with nothing in them: no batch entry, no query, no key."""

from __future__ import annotations

from typing import Any

import torch

import maskc

Tensor = torch.Tensor
HEADS = 4
#: Batch entries, queries and keys.
SHAPES = [(0, 4, 4), (0, 0, 0), (1, 0, 4), (2, 4, 0), (2, 0, 0)]
CAUSAL = "causal"
SINK = (
    "pattern p(bias: float[head, 9], sink: float[head]) over left -> right "
    "{ attend window(4, 4); score s + bias[h, q - k + 4]; normalize softmax(sink = sink[h]) }"
)
OUTPUT = (
    "pattern p(gate: float[q, head], a: int[q], c: int[k]) over left -> right "
    "{ attend a[q] <= c[k]; output o * gate[q, h] }"
)
TEXTS = {"causal": CAUSAL, "sink": SINK, "output": OUTPUT}


def possible(name: str, shape: tuple[int, int, int]) -> bool:
    """One sequence has no more queries than keys."""
    return name != "causal" or shape[1] <= shape[2]


def call(backend: str, name: str, shape: tuple[int, int, int], traced: bool = False) -> None:
    """Forward and backward: results have their shapes, queries without keys give 0, and gradients are finite."""
    batch, rows, keys = shape
    op = maskc.compile(TEXTS[name], heads=HEADS, backend=backend)
    q = torch.randn(batch, HEADS, rows, 16, requires_grad=True)
    k, v = (torch.randn(batch, 2, keys, 16, requires_grad=True) for _ in range(2))
    inputs = _inputs(name, rows, keys)

    def run(q: Tensor, k: Tensor, v: Tensor, inputs: dict[str, Tensor]) -> Any:
        return op(q, k, v, return_lse=True, **inputs)

    work = torch.compile(run, backend="aot_eager", fullgraph=True) if traced else run
    out, lse = work(q, k, v, inputs)
    assert out.shape == (batch, HEADS, rows, 16)
    assert lse.shape == (batch, HEADS, rows)
    if not keys:
        assert not out.any()
        alone = inputs["sink"][:, None] if name == "sink" else torch.tensor(-torch.inf)
        assert torch.allclose(lse, alone.expand(lse.shape))
    leaves = [q, k, v, *(x for x in inputs.values() if x.requires_grad)]
    loss = out.sum() + torch.where(lse > -torch.inf, lse, 0.0).sum()
    for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves, allow_unused=True), strict=True):
        assert gradient is None or (gradient.shape == leaf.shape and gradient.isfinite().all())
    with torch.no_grad():
        assert work(q, k, v, inputs)[0].shape == out.shape


def decode(backend: str, paged: bool, traced: bool = False) -> None:
    """Decoding with no entry, no query, and entries that hold no key, in a cache that has room and in one without."""
    op = maskc.compile(CAUSAL, heads=HEADS, backend=backend)

    def run(*tensors: Tensor | None) -> Any:
        return op.decode(*tensors, return_lse=True)

    work = torch.compile(run, backend="aot_eager", fullgraph=True) if traced else run
    for batch, rows, room, lengths in [(0, 1, 8, []), (2, 0, 8, [8, 4]), (2, 1, 0, [0, 0]), (2, 2, 8, [0, 1])]:
        q = torch.randn(batch, HEADS, rows, 16)
        shape = (room // 4, 4, 2) if paged else (batch, 2, room)
        k, v = torch.randn(*shape, 16), torch.randn(*shape, 8)
        table = torch.zeros(batch, room // 4, dtype=torch.int32) if paged else None
        out, lse = work(q, k, v, torch.tensor(lengths, dtype=torch.int64), table)
        assert (out.shape, lse.shape) == ((batch, HEADS, rows, 8), (batch, HEADS, rows))
        assert not out.isnan().any()
        for entry, length in enumerate(lengths):
            assert length or (not out[entry].any() and (lse[entry] == -torch.inf).all())


def _inputs(name: str, rows: int, keys: int) -> dict[str, Tensor]:
    if name == "sink":
        return {n: torch.randn(shape, requires_grad=True) for n, shape in (("bias", (HEADS, 9)), ("sink", (HEADS,)))}
    if name == "output":
        gate = torch.randn(rows, HEADS, requires_grad=True)
        return {"gate": gate, "a": torch.arange(rows), "c": torch.arange(keys)}
    return {}

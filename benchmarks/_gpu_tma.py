"""Dense attention with tiles loaded by TMA descriptors, beside the same with pointers: is it faster?"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import triton
import triton.language as tl

__all__ = ["loads", "median"]

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def forward_by_tma(q_desc, k_desc, v_desc, o_desc, n, scale, D: tl.constexpr, Q: tl.constexpr, K: tl.constexpr):
    rows = n // Q
    start = tl.program_id(0) // rows * n
    at = start + tl.program_id(0) % rows * Q
    query = q_desc.load([at, 0])
    acc = tl.zeros((Q, D), tl.float32)
    top = tl.full((Q,), -3.0e38, tl.float32)
    total = tl.zeros((Q,), tl.float32)
    unit = scale * LOG2E
    for i in tl.range(0, n // K):
        score = tl.dot(query, k_desc.load([start + i * K, 0]).T)
        new_top = tl.maximum(top, tl.max(score, 1) * unit)
        weight = tl.exp2(score * unit - new_top[:, None])
        rescale = tl.exp2(top - new_top)
        total = total * rescale + tl.sum(weight, 1)
        value = v_desc.load([start + i * K, 0])
        acc = tl.dot(tl.cast(weight, value.dtype), value, acc * rescale[:, None])
        top = new_top
    o_desc.store([at, 0], (acc / total[:, None]).to(query.dtype))


@triton.jit
def forward_by_pointers(q_ptr, k_ptr, v_ptr, o_ptr, n, scale, D: tl.constexpr, Q: tl.constexpr, K: tl.constexpr):
    rows = n // Q
    start = tl.cast(tl.program_id(0) // rows, tl.int64) * n * D
    d = tl.arange(0, D)
    q_at = start + (tl.program_id(0) % rows * Q + tl.arange(0, Q))[:, None] * D + d[None, :]
    query = tl.load(q_ptr + q_at)
    k_in = tl.arange(0, K)
    acc = tl.zeros((Q, D), tl.float32)
    top = tl.full((Q,), -3.0e38, tl.float32)
    total = tl.zeros((Q,), tl.float32)
    unit = scale * LOG2E
    for i in tl.range(0, n // K):
        shift = start + tl.cast(i * K, tl.int64) * D
        score = tl.dot(query, tl.load(k_ptr + shift + (k_in[None, :] * D + d[:, None])))
        new_top = tl.maximum(top, tl.max(score, 1) * unit)
        weight = tl.exp2(score * unit - new_top[:, None])
        rescale = tl.exp2(top - new_top)
        total = total * rescale + tl.sum(weight, 1)
        value = tl.load(v_ptr + shift + (k_in[:, None] * D + d[None, :]))
        acc = tl.dot(tl.cast(weight, value.dtype), value, acc * rescale[:, None])
        top = new_top
    tl.store(o_ptr + q_at, (acc / total[:, None]).to(query.dtype))


def median(call: Callable[[], Any], runs: int = 9) -> float:
    """Milliseconds that ``call`` takes on the device, each time with a cold cache."""
    flush = torch.empty(32 << 20, dtype=torch.int32, device="cuda")
    times = []
    for _ in range(runs + 2):
        for _ in range(4):
            flush.zero_()
        new: Any = torch.cuda.Event
        first, last = new(enable_timing=True), new(enable_timing=True)
        first.record()
        call()
        last.record()
        last.synchronize()
        times.append(first.elapsed_time(last))
    return sorted(times[2:])[runs // 2]


def _descriptor(x: torch.Tensor, height: int) -> Any:
    """Of tiles of ``height`` rows of a matrix."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor(x, list(x.shape), [x.shape[1], 1], [height, x.shape[1]])


def loads() -> Iterator[str]:
    """Dense attention, 16 heads of 8192 tokens, by TMA and by pointers in the same tiles."""
    n, heads = 8192, 16
    for dim in (128, 64):
        q, k, v = (torch.randn(heads * n, dim, device="cuda", dtype=torch.bfloat16) for _ in range(3))
        out, other = torch.empty_like(q), torch.empty_like(q)
        for tile in ((64, 64, 4, 3), (128, 64, 8, 3), (128, 128, 8, 3), (128, 64, 4, 2)):
            rows, cols, warps, stages = tile
            options = {"D": dim, "Q": rows, "K": cols, "num_warps": warps, "num_stages": stages}
            grid = (heads * n // rows,)

            tall, wide = (functools.partial(_descriptor, height=height) for height in (rows, cols))
            scale = dim**-0.5
            by_tma = functools.partial(forward_by_tma[grid], tall(q), wide(k), wide(v), tall(out), n, scale, **options)
            by_pointers = functools.partial(forward_by_pointers[grid], q, k, v, other, n, scale, **options)
            tma, pointers = median(by_tma), median(by_pointers)
            assert (out.float() - other.float()).abs().max() < 1e-2
            yield f"loads | D {dim}, {' '.join(map(str, tile))} | TMA {tma:.3f}, pointers {pointers:.3f}"

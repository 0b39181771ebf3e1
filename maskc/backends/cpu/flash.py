"""Torch's flash kernel for CPU, forward and backward, also where query heads share key heads.

That of older versions, torch 2.6 among them, takes it for granted that there are as many key heads as query heads, and
reads beyond the keys where there are fewer. Which one this is is tried out once; there, keys are copied for each head.
"""

from __future__ import annotations

import functools

import torch

__all__ = ["flash", "flash_backward"]

Tensor = torch.Tensor


def flash(q: Tensor, k: Tensor, v: Tensor, causal: bool, mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """Output (n, H, Nq, D) and log-sum-exp (n, H, Nq) for q (n, H, Nq, D) and k, v (n, Hkv, Nk, D), Hkv a divisor of H.

    ``causal``: triangles from the first query and key. ``mask``: added to scores, (n, H, Nq, Nk).
    """
    if k.shape[1] != q.shape[1] and not _shares_heads():
        k, v = _for_each_head(k, q.shape[1]), _for_each_head(v, q.shape[1])
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, causal, attn_mask=mask, scale=scale
    )
    return out, lse


def flash_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, from the gradient of the output, and what ``flash`` gave."""
    heads, kv_heads = q.shape[1], k.shape[1]
    alone = kv_heads != heads and not _shares_heads()
    if alone:
        k, v = _for_each_head(k, heads), _for_each_head(v, heads)
    by_q, by_k, by_v = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad, q, k, v, out, lse, 0.0, causal, scale=scale
    )
    if alone:
        by_k, by_v = (x.unflatten(1, (kv_heads, heads // kv_heads)).sum(dim=2) for x in (by_k, by_v))
    return by_q, by_k, by_v


def _for_each_head(x: Tensor, heads: int) -> Tensor:
    return x.repeat_interleave(heads // x.shape[1], dim=1)


@functools.lru_cache(maxsize=1)
def _shares_heads() -> bool:
    """Whether the kernel takes fewer key heads than query heads.

    Tried on the first of two key heads in memory, so that a kernel that takes the second one, too, reads what is there.
    """
    q, both = torch.zeros(1, 2, 1, 4), torch.arange(2.0)[None, :, None, None].expand(1, 2, 1, 4).contiguous()
    one = both[:, :1]
    try:
        with torch.no_grad():
            out = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, one, one, 0.0, False)[0]
    except RuntimeError:
        return False
    return not bool(out.any())

"""Dense attention under a program: what every backend's result is compared with.

Scores of all pairs are computed, in chunks of query rows so that memory stays bounded; autograd
differentiates, computing each chunk a second time. A pair that is not kept has no influence
whatever: not even a NaN or an infinity in its key, value or query reaches a result or a gradient.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.checkpoint import checkpoint

from maskc.ir.evaluate import evaluate
from maskc.ir.nodes import Symbol
from maskc.reference.mask import indices, kept_pairs, pairs_at_once, points, row_chunks

if TYPE_CHECKING:
    from maskc.ir.binding import Binding
    from maskc.ir.nodes import Node
    from maskc.ir.program import Program

__all__ = ["attention"]

Tensor = torch.Tensor


def attention(
    program: Program,
    binding: Binding,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    floats: Mapping[str, Tensor] | None = None,
    rows: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Output and log-sum-exp.

    Args:
        program: as lowered.
        binding: lengths, arguments and inputs; ``binding.batched`` speaks of ``floats`` too.
        q: (B, Hq, Nq, D). Query head ``h`` meets key head ``h // (Hq // Hkv)``.
        k: (B, Hkv, Nk, D).
        v: (B, Hkv, Nk, Dv).
        scale: factor of the dot products.
        floats: float inputs, which receive gradients; they go before those of ``binding``.
        rows: the queries to compute, counted from the first one present; all by default.

    Returns:
        For these queries: the output (B, Hq, Nq, Dv) in the dtype of ``q``, and the log-sum-exp (B, Hq, Nq) of the
        modified scores, in natural base, the sink's term included; None where the normaliser has
        none (sigmoid, relu). Computed in float32, or in float64 if ``q`` is. A query that keeps no
        key gets 0, before the output expression, and minus infinity (with a sink: its logit).
    """
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    group = q.shape[1] // k.shape[1]
    key, value = (x.to(dtype).repeat_interleave(group, dim=1) for x in (k, v))
    clean = bool(q.isfinite().all() and key.isfinite().all() and value.isfinite().all())
    chunk = functools.partial(_rows, program, binding, dict(floats or {}), scale, clean)
    # With non-finite values pairs are listed one by one, a whole vector each.
    pairs = pairs_at_once(program)
    chunks = list(row_chunks(binding, pairs if clean else max(1, pairs // 32), rows))
    again = torch.is_grad_enabled() and len(chunks) > 1
    outs: list[Tensor] = []
    lses: list[Tensor | None] = []
    for some in chunks:
        query = q.index_select(2, indices(some, q.device)).to(dtype)
        given = (some, query, key, value)
        out, lse = checkpoint(chunk, *given, use_reentrant=False) if again else chunk(*given)
        outs.append(out.to(q.dtype))
        lses.append(lse)
    if not chunks:
        return _without_rows(program, q, key, value, (floats or {}).values())
    joined = [x for x in lses if x is not None]
    return torch.cat(outs, dim=2), torch.cat(joined, dim=2) if joined else None


def _without_rows(
    program: Program, q: Tensor, k: Tensor, v: Tensor, floats: Iterable[Tensor]
) -> tuple[Tensor, Tensor | None]:
    """The results for no queries: they hold nothing, but have gradients, of 0, as those of any other call."""
    none = sum((x.sum() for x in (q, k, v, *floats) if x.is_floating_point()), q.new_zeros(())) * 0
    out = q.new_zeros((*q.shape[:3], v.shape[3])) + none.to(q.dtype)
    if program.normalizer.kind != "softmax":
        return out, None
    return out, q.new_zeros(q.shape[:3], dtype=k.dtype) + none.to(k.dtype)


def _rows(
    program: Program,
    binding: Binding,
    floats: dict[str, Tensor],
    scale: float,
    clean: bool,
    rows: Sequence[int],
    q: Tensor,
    k: Tensor,
    v: Tensor,
) -> tuple[Tensor, Tensor | None]:
    """Attention of the queries ``rows``: of ``q`` (B, H, rows, D), over all keys."""
    kept = kept_pairs(program, binding, rows, q.device)
    at = points(binding, rows, q.device)
    value: Any = functools.partial(
        evaluate, binding=binding, params=program.params, tables=floats, xp=torch, float_dtype=q.dtype
    )
    score = _scores(program.score, value, at, kept, q, k, scale, clean)
    # What a query alone decides is asked for at key 0, of which it does not speak.
    alone: dict[str, Any] = {**at, "k": torch.zeros_like(at["k"][..., :1])}
    sink = program.normalizer.sink
    weight, lse = _weights(program.normalizer.kind, score, None if sink is None else value(sink, **alone))
    # A NaN that is kept makes the whole row one, but goes to no value that the row leaves out.
    out = _weighted_sum(weight.masked_fill(~kept, 0.0), v, kept, clean)
    if program.output is not Symbol("o"):
        out = value(program.output, **alone, o=out).expand(out.shape)
    return out, lse


def _scores(
    node: Node, value: Any, at: dict[str, Tensor], kept: Tensor, q: Tensor, k: Tensor, scale: float, clean: bool
) -> Tensor:
    """The modified scores (B, H, rows, keys), minus infinity where the pair is not kept."""
    if clean and node is Symbol("s"):
        return (q @ k.transpose(2, 3) * scale).masked_fill(~kept, -torch.inf)
    # Only kept pairs are listed, so that no other is ever evaluated, forward or backward.
    b, h, i, j = pairs = kept.nonzero(as_tuple=True)
    s = (q @ k.transpose(2, 3))[pairs] if clean else (q[b, h, i] * k[b, h, j]).sum(-1)
    s = s * scale
    if node is not Symbol("s"):
        s = value(node, b=b, h=h, q=at["q"].flatten()[i], k=j, s=s).expand(s.shape)
    return torch.full(kept.shape, -torch.inf, dtype=q.dtype, device=q.device).index_put(pairs, s)


def _weights(kind: str, score: Tensor, sink: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Weights (B, H, rows, keys), and the log-sum-exp (B, H, rows) of a softmax."""
    if kind == "sigmoid":
        return torch.sigmoid(score), None
    if kind == "relu":
        return torch.relu(score), None
    top = (
        score.detach().amax(dim=-1, keepdim=True)
        if score.shape[-1]
        else score.new_full((*score.shape[:3], 1), -torch.inf)
    )
    if sink is not None:
        top = torch.maximum(top, sink.detach())
    top = torch.where(top == -torch.inf, 0.0, top)  # an empty row: exp(-inf - 0) is 0, without a NaN
    weight = torch.exp(score - top)
    total = weight.sum(dim=-1, keepdim=True)
    if sink is not None:
        total = total + torch.exp(sink - top)
    empty = total == 0
    safe = torch.where(empty, 1.0, total)
    lse = torch.where(empty, -torch.inf, top + torch.log(safe))
    return weight / safe, lse.squeeze(-1)


def _weighted_sum(weight: Tensor, v: Tensor, kept: Tensor, clean: bool) -> Tensor:
    """``weight @ v`` (B, H, rows, Dv), in which a pair that is not kept has no part."""
    if clean:
        return weight @ v
    b, h, i, j = pairs = kept.nonzero(as_tuple=True)
    out = weight.new_zeros((*weight.shape[:3], v.shape[-1]))
    return out.index_put((b, h, i), weight[pairs][:, None] * v[b, h, j], accumulate=True)

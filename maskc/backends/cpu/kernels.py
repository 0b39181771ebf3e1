"""What computes a block: the flash kernel of torch, or matrix products with the program's expressions between.

Both give a block's output normalised over its own keys with its log-sum-exp, so that blocks can be
merged, and both compute exact partial gradients from the log-sum-exp over all keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from maskc.backends.cpu.blocks import Block, Given, Gradients, split
from maskc.backends.cpu.expressions import Expressions, Points
from maskc.backends.cpu.flash import flash, flash_backward
from maskc.backends.cpu.jobs import CAUSAL, Job
from maskc.backends.cpu.products import LOG2_E, add_gradients

__all__ = ["FlashKernel", "GeneralKernel", "Kernel", "careful_flash"]

Tensor = torch.Tensor
_CACHE_PAIRS = 1 << 18  # pairs whose scores are held at once: they stay in the cache of two cores
_LARGE = 2048  # queries of blocks whose gradients torch's kernel computes
_BYTES = 1 << 22  # of the tensors that a call makes


class Kernel(Protocol):
    """Attention of blocks; tensors of ``forward`` have the leading dimension of ``Block`` in front."""

    def blocks_at_once(self, job: Job, q: Tensor) -> int:
        """How many blocks of a job to hand over in one call."""

    def forward(self, block: Block, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Output (leading, H, q_len, Dv) and log-sum-exp (leading, H, q_len)."""

    def add_gradients(self, job: Job, given: Given, into: Gradients) -> None:
        """Add a job's part of the gradients."""


@dataclass(frozen=True)
class FlashKernel:
    """``torch``'s fused attention for CPU, and products for the gradients. Plain scores and softmax only; in
    ``forward`` the values' dimension is that of the keys."""

    scale: float

    def blocks_at_once(self, job: Job, q: Tensor) -> int:
        return max(1, _BYTES // (q.shape[1] * q.shape[3] * q.element_size() * job.q_len))

    def forward(self, block: Block, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        mask = block.job.mask
        empty = None if mask is None or mask is CAUSAL else mask.empty_rows()
        nothing = None if empty is None else block.of_mask(empty)[:, None]
        return careful_flash(q, k, v, mask is CAUSAL, _additive(block, q), nothing, self.scale)

    def add_gradients(self, job: Job, given: Given, into: Gradients) -> None:
        plain = job.mask is None or job.mask is CAUSAL
        lanes = job.count * given.q.shape[0] * given.q.shape[1]
        if given.out is None or not plain or job.q_len < _LARGE or lanes < torch.get_num_threads():
            add_gradients(job, given, into, self.scale)
            return
        # Torch's kernel, which has nothing to leave out here. It is parallel over blocks and heads alone.
        for block in split(job, given.q.shape[0], 1):
            q, grad, out, lse = (block.queries(x) for x in (given.q, given.grad, given.out, given.lse / LOG2_E))
            k, v = block.keys(given.k), block.keys(given.v)
            part = flash_backward(grad, q, k, v, out, lse[..., 0], job.mask is CAUSAL, self.scale)
            block.add_to_queries(into.q, part[0])
            block.add_to_keys(into.k, part[1])
            block.add_to_keys(into.v, part[2])


def careful_flash(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, mask: Tensor | None, nothing: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """``flash``, but NaN for what torch's kernel may have lost, and log-sum-exp minus infinity for queries that keep no
    key: ``nothing``, (n, H or 1, Nq)."""
    out, lse = flash(q, k, v, causal, mask, scale)
    # Where no score is above minus infinity, or fewer than fill a register are all NaN, torch gives output 0
    # and a log-sum-exp that says nothing.
    unsure = (lse == 0.0) | (lse == -torch.inf)
    if nothing is not None:
        lse, unsure = lse.masked_fill(nothing, -torch.inf), unsure & ~nothing
    if bool(unsure.any()) and not _scores_are_finite(q, k, scale):
        out = out.masked_fill(unsure[..., None], torch.nan)  # so that it is computed again, with care
    return out, lse


def _scores_are_finite(q: Tensor, k: Tensor, scale: float) -> bool:
    """Whether all surely are: no product of the largest elements is too large, and none of these a NaN."""
    q_least, q_most, k_least, k_most = (float(x) for y in (q, k) for x in torch.aminmax(y))
    largest = max(abs(q_least), abs(q_most)) * max(abs(k_least), abs(k_most))
    return largest * q.shape[3] * max(1.0, abs(scale)) < torch.finfo(q.dtype).max


def _additive(block: Block, q: Tensor) -> Tensor | None:
    mask = block.job.mask
    if mask is None or mask is CAUSAL:
        return None
    added = block.of_mask(mask.additive(q.dtype))[:, None]
    return added.expand(q.shape[0], q.shape[1], *added.shape[2:])


@dataclass(frozen=True, eq=False)
class GeneralKernel:
    """Any score, any normaliser. ``careful``: q, k or v holds NaN or infinity, or an expression is not
    finite somewhere, and a pair that is not kept must not pass it on."""

    scale: float
    expressions: Expressions
    heads: tuple[int, ...]
    batches: tuple[int, ...]
    gradients: Mapping[str, Tensor]
    careful: bool = False

    def blocks_at_once(self, job: Job, q: Tensor) -> int:
        return max(1, _CACHE_PAIRS // (q.shape[1] * job.q_len * job.k_len))

    def forward(self, block: Block, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        out = q.new_empty((*q.shape[:3], v.shape[3]))
        lse = q.new_empty(q.shape[:3])
        for rows, keys, kept, points in self._strips(block, q):
            score = self._score(q[:, :, rows], k[:, :, keys], kept, points)
            weight, lse[:, :, rows] = _weigh(self.expressions.kind, score)
            out[:, :, rows] = _product(weight, v[:, :, keys], kept if self.careful else None)
        return out, lse

    def add_gradients(self, job: Job, given: Given, into: Gradients) -> None:
        for block in split(job, given.q.shape[0], self.blocks_at_once(job, given.q)):
            q, grad, lse, delta = (block.queries(x) for x in (given.q, given.grad, given.lse, given.delta))
            part = self._backward(block, Given(q, block.keys(given.k), block.keys(given.v), grad, lse, delta))
            block.add_to_queries(into.q, part.q)
            block.add_to_keys(into.k, part.k)
            block.add_to_keys(into.v, part.v)

    def _backward(self, block: Block, given: Given) -> Gradients:
        q, k, v = given.q, given.k, given.v
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for rows, keys, kept, points in self._strips(block, q):
            grad = given.grad[:, :, rows]
            dot = _dot(q[:, :, rows], k[:, :, keys], self.scale)
            hold = kept if self.careful else None
            score = self.expressions.score(dot, points, hold)
            score = score if kept is None else score.masked_fill(~kept, -torch.inf)
            weight, slope = _weights_again(self.expressions.kind, score, given.lse[:, :, rows] / LOG2_E)
            by_weight = _dot(grad, v[:, :, keys], 1.0)
            inner = by_weight - given.delta[:, :, rows] if self.expressions.kind == "softmax" else by_weight
            by_score = inner * slope
            if kept is not None:
                by_score = by_score.masked_fill(~kept, 0.0)
            by_dot = self.expressions.pull_score(by_score, dot, points, hold, self.gradients)
            if kept is not None and self.careful:
                by_dot = by_dot.masked_fill(~kept, 0.0)
            grad_q[:, :, rows] = _product(by_dot, k[:, :, keys], hold).mul_(self.scale)
            grad_k[:, :, keys] += _product_over_rows(by_dot, q[:, :, rows], k.shape[1], hold).mul_(self.scale)
            grad_v[:, :, keys] += _product_over_rows(weight, grad, k.shape[1], hold)
        return Gradients(grad_q, grad_k, grad_v)

    def _score(self, q: Tensor, k: Tensor, kept: Tensor | None, points: Points) -> Tensor:
        score = self.expressions.score(_dot(q, k, self.scale), points, kept if self.careful else None)
        return score if kept is None else score.masked_fill(~kept, -torch.inf)

    def _strips(self, block: Block, q: Tensor) -> Iterator[tuple[slice, slice, Tensor | None, Points]]:
        """Ranges of a block's rows whose scores fit into the cache, the keys that they may keep, the
        mask (leading or 1, 1, rows, keys), and the points."""
        job = block.job
        step = max(8, _CACHE_PAIRS // (q.shape[0] * q.shape[1] * job.k_len))
        queries, keys = self.expressions.positions(block)
        batches = self.batches if block.batch is None else (self.batches[block.batch],)
        for a in range(0, job.q_len, step):
            b = min(a + step, job.q_len)
            end = min(b, job.k_len) if job.mask is CAUSAL else job.k_len
            points = Points(queries[:, a:b], keys[:, :end], self.heads, batches)
            yield slice(a, b), slice(0, end), _kept(block, a, b, end), points


def _kept(block: Block, a: int, b: int, end: int) -> Tensor | None:
    mask = block.job.mask
    if mask is None:
        return None
    if mask is CAUSAL:
        return (torch.arange(end)[None, :] <= torch.arange(a, b)[:, None])[None, None]
    return block.of_mask(mask.kept())[:, None, a:b]


def _dot(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """Scaled products (leading, H, rows, keys) of (leading, H, rows, D) and (leading, Hkv, keys, D)."""
    n, heads, rows, _ = q.shape
    kv_heads = k.shape[1]
    folded = (q * scale if scale != 1.0 else q).reshape(n, kv_heads, heads // kv_heads * rows, -1)
    return (folded @ k.transpose(2, 3)).view(n, heads, rows, -1)


def _weigh(kind: str, score: Tensor) -> tuple[Tensor, Tensor]:
    """Weights, for a softmax normalised over these keys, and the log-sum-exp."""
    if kind == "sigmoid":
        return torch.sigmoid(score), score.new_zeros(())
    if kind == "relu":
        return torch.relu(score), score.new_zeros(())
    top = score.amax(dim=-1, keepdim=True)
    top = top.masked_fill(top == -torch.inf, 0.0)
    weight = (score - top).exp_()
    total = weight.sum(dim=-1, keepdim=True)
    weight = weight.div_(total.masked_fill(total == 0, 1.0))
    return weight, (top + total.log()).squeeze(-1)


def _weights_again(kind: str, score: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    """Weights over all keys, and the derivative of each by its own score (of a softmax: of its numerator)."""
    if kind == "sigmoid":
        weight = torch.sigmoid(score)
        return weight, weight * (1 - weight)
    if kind == "relu":
        return torch.relu(score), (score > 0).to(score.dtype)
    weight = (score - lse).exp_()
    return weight, weight


def _product(weight: Tensor, x: Tensor, kept: Tensor | None) -> Tensor:
    """``weight @ x`` (leading, H, rows, D); ``kept`` given: pairs not kept have no part, whatever ``x`` holds."""
    n, heads, rows, keys = weight.shape
    kv_heads = x.shape[1]
    if kept is not None:
        finite = x.isfinite().all(dim=-1)
        bad = (~finite).any(dim=0).any(dim=0).nonzero().flatten().tolist()
        out = _product(weight.masked_fill(~kept, 0.0), x.masked_fill(~finite[..., None], 0.0), None)
        x = x.repeat_interleave(heads // kv_heads, dim=1)
        wrong = (~finite).repeat_interleave(heads // kv_heads, dim=1)
        for j in bad:
            part = weight[..., j, None] * x[:, :, None, j]
            out += torch.where(kept[..., j, None] & wrong[:, :, None, j, None], part, 0.0)
        return out
    return (weight.reshape(n, kv_heads, -1, keys) @ x).view(n, heads, rows, -1)


def _product_over_rows(weight: Tensor, x: Tensor, kv_heads: int, kept: Tensor | None) -> Tensor:
    """``weight.T @ x`` (leading, Hkv, keys, D), summed over the query heads that share a key head."""
    n, heads, rows, keys = weight.shape
    if kept is not None:
        turned = _product(weight.transpose(2, 3), x, kept.transpose(2, 3))
        return turned.view(n, kv_heads, heads // kv_heads, keys, -1).sum(dim=2)
    folded = x.reshape(n, kv_heads, heads // kv_heads * rows, -1)
    return weight.reshape(n, kv_heads, -1, keys).transpose(2, 3) @ folded

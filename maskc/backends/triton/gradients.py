"""The kernels of dQ, and of dK and dV, and what is left to torch between them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch

from maskc.backends.triton.backward import ScoreLookups, clears_empty_rows, score_lookups
from maskc.backends.triton.launch import steady, strides
from maskc.backends.triton.pulling import pull_pairs
from maskc.backends.triton.ready import ReadyStage, like, start_together
from maskc.backends.triton.spec import KernelSpec

if TYPE_CHECKING:
    from maskc.backends.triton.configs import Config
    from maskc.backends.triton.pull import Values
    from maskc.backends.triton.staged import Staged

__all__ = ["kernel_gradients"]

Tensor = torch.Tensor


class _BackwardPass(NamedTuple):
    """The tensors of a backward pass."""

    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor
    lse: Tensor
    level: Tensor
    delta: Tensor
    grad: Tensor
    grad_lse: Tensor | None
    dq: Tensor
    dk: Tensor
    dv: Tensor

    def named(self) -> dict[str, Tensor]:
        """Those that kernels take besides q, k and v, by their names there."""
        names = {"do": self.grad, "out": self.out, "lse": self.lse, "level": self.level, "delta": self.delta}
        names |= {"lse_grad": self.delta if self.grad_lse is None else self.grad_lse}
        names |= {"dq": self.dq, "dk": self.dk, "dv": self.dv}
        return {f"{name}_ptr": x for name, x in names.items()}


def kernel_gradients(
    entry: Staged,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    grad: Tensor,
    grad_lse: Tensor | None,
    tables: Mapping[str, Tensor],
    value: Values,
    sums: dict[str, Tensor],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, and delta (B, H, Nq): see ``backward``, the module. ``sums``: by name, what float inputs
    with a gradient get; look-ups of the score are added. ``value``: of what is left to torch."""
    if not (q.numel() and k.numel() and v.numel()):
        delta = torch.zeros_like(lse) if grad_lse is None else -grad_lse
        return torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v), delta
    dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
    level, delta = torch.empty_like(lse), torch.empty_like(lse)  # by the kernel of dQ, which runs first
    wanted = frozenset(sums)
    found, clears = entry._remembered(("lookups", wanted), lambda: _lookups(entry, wanted))
    grad_lse = None if grad_lse is None else grad_lse.float().contiguous()
    empty, sink = None, entry.program.normalizer.sink
    if clears:
        empty = _empty_rows(q, grad, lse, None if sink is None else value.of(sink))
        q, grad = q.masked_fill(empty, 0.0), grad.masked_fill(empty, 0.0)
        lse = lse.masked_fill(empty[..., 0], -torch.inf)
    of = _BackwardPass(q, k, v, out, lse, level, delta, grad, grad_lse, dq, dk, dv)
    whole = bool(any(found))  # sums over rows and columns are not cut
    kind = (wanted, grad_lse is None, *like((q, k, v, out, grad, *tables.values())))
    tensors = entry._tensors(q, k, v, tables) | of.named()
    stages, totals = [], []
    for stage, lookups, extent in (("dq", found.rows, q.shape[2]), ("dkv", found.columns, k.shape[2])):
        buffers = [torch.zeros((*q.shape[:2], extent), device=q.device) for _ in lookups]
        given = {**tensors, **{f"table_{i}_ptr": x for i, x in enumerate(buffers)}}
        make = functools.partial(_gradient_stage, entry, stage, of, tables, wanted, whole)
        stages.append((entry._stage(stage, kind, given, scale, make), given))
        totals += [
            (node, total[..., None] if stage == "dq" else total[:, :, None])
            for node, total in zip(lookups, buffers, strict=True)
        ]
    start_together(stages, scale)
    for node, total in totals:
        value.pull(node, total, sums)
    if found.pairs:
        more = {"do_ptr": grad, "level_ptr": level, "delta_ptr": delta, **strides("do", grad)}
        pull_pairs(entry, found.pairs, (q, k, v), tables, value, sums, scale, more)
    if empty is not None and grad_lse is not None and sink is not None:
        # Of a query that keeps no key the log-sum-exp is the sink's logit, which has that gradient.
        delta = torch.where(empty[..., 0], -grad_lse, delta)
    return dq, dk, dv, delta


def _lookups(entry: Staged, wanted: frozenset[str]) -> tuple[ScoreLookups, bool]:
    """What gets gradients by ``wanted`` inputs, and whether rows that keep nothing are cleared."""
    spec = KernelSpec(entry.text_program, entry.binding.batched, None, wanted)
    return score_lookups(spec), clears_empty_rows(spec) and not entry.every_query_keeps_a_key


def _empty_rows(q: Tensor, grad: Tensor, lse: Tensor, logit: Tensor | None) -> Tensor:
    """Which queries keep no key, (B, H, Nq, 1). Beside a sink (its ``logit``) the log-sum-exp tells that only nearly:
    there, those to whose keys next to no weight is left, and which hold what is no number or infinite, in q or in the
    gradient. Finite ones are no harm where they keep nothing, and may keep something."""
    empty = (lse == -torch.inf)[..., None]
    if logit is None:
        return empty
    near = (lse[..., None] - logit).abs() <= 1e-6 * logit.abs().clamp(min=1.0)
    return empty | (near & logit.isfinite() & ~(_is_finite(q) & _is_finite(grad)))


def _is_finite(x: Tensor) -> Tensor:
    """Whether all numbers of a token are, (B, H, N, 1)."""
    low, high = x.aminmax(dim=-1, keepdim=True)
    return low.isfinite() & high.isfinite()


def _gradient_stage(
    entry: Staged,
    stage: str,
    of: _BackwardPass,
    tables: Mapping[str, Tensor],
    wanted: frozenset[str],
    whole: bool,
    chosen: Config,
) -> ReadyStage:
    """The kernel of dQ, or that of dK and dV, ready for tensors like these. ``wanted``: float inputs with a gradient;
    ``whole``: no row is cut."""
    by_keys, (q, k, v) = stage == "dkv", of[:3]
    batch, heads = q.shape[0], (k if by_keys else q).shape[1]
    width, group = max(q.shape[3], v.shape[3]), q.shape[1] // heads
    plan, form = entry._device_plan(stage, chosen, q.device, width, group=group, whole=whole)
    kernel = entry.kernel(stage, form._replace(steady=steady(q, k, v, of.out, of.grad)), wanted)
    values = {**entry._values(plan, kernel, q, k, v, tables), "LSE_GRAD": of.grad_lse is not None}
    for name, x in (("do", of.grad), ("o", of.out), ("dq", of.dq), ("dk", of.dk), ("dv", of.dv)):
        values |= strides(name, x)
    shared = {n: x for n, x in values.items() if n not in entry._tensors(q, k, v, tables)}
    careful = plan.partial and not by_keys
    kernels = entry._prepared(kernel, (plan.rows, heads, batch), shared, chosen, q.device, careful)
    widths: dict[str, int | None] = {"dk": k.shape[3], "dv": v.shape[3]} if by_keys else {"dq": q.shape[3]}
    return ReadyStage(kernels, plan.joint, batch * heads, chosen.k_tile if by_keys else chosen.q_tile, widths)

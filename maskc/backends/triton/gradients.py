"""The kernels of dQ, and of dK and dV, made ready."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch

from maskc.backends.triton.launch import steady, strides
from maskc.backends.triton.ready import ReadyStage

if TYPE_CHECKING:
    from maskc.backends.triton.configs import Config
    from maskc.backends.triton.entry import Entry

__all__ = ["BackwardPass", "gradient_stage"]

Tensor = torch.Tensor


class BackwardPass(NamedTuple):
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


def gradient_stage(
    entry: Entry,
    stage: str,
    of: BackwardPass,
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

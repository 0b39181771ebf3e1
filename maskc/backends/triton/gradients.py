"""Starting the kernels of dQ, and of dK and dV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from maskc.backends.triton.launch import steady, strides
from maskc.backends.triton.shares import share_buffers

if TYPE_CHECKING:
    from maskc.backends.triton.configs import Config
    from maskc.backends.triton.entry import Arguments, Entry

__all__ = ["BackwardPass", "start_gradients"]

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


def start_gradients(
    entry: Entry,
    stage: str,
    of: BackwardPass,
    tables: Mapping[str, Tensor],
    scale: float,
    wanted: frozenset[str],
    buffers: Sequence[Tensor],
    whole: bool,
    chosen: Config,
) -> None:
    """Start the kernel of dQ, or that of dK and dV. ``wanted``: float inputs with a gradient; ``buffers``: where sums
    over rows or columns go; ``whole``: no row is cut."""
    by_keys, (q, k, v) = stage == "dkv", of[:3]
    heads = (k if by_keys else q).shape[1]
    width, group = max(q.shape[3], v.shape[3]), q.shape[1] // heads
    plan, form = entry._device_plan(stage, chosen, q.device, width, group=group, whole=whole)
    widths = {"dk": k.shape[3], "dv": v.shape[3]} if by_keys else {"dq": q.shape[3]}
    tile = chosen.k_tile if by_keys else chosen.q_tile
    shares = share_buffers(plan.joint, q.shape[0] * heads, tile, q.device, **widths)
    tables_of = {f"table_{i}_ptr": x for i, x in enumerate(buffers)}

    def arguments() -> Arguments:
        kernel = entry.kernel(stage, form._replace(steady=steady(q, k, v, of.out, of.grad)), wanted)
        values = {**entry._values(plan, kernel, q, k, v, tables), "LSE_GRAD": of.grad_lse is not None}
        for name, x in (("do", of.grad), ("o", of.out), ("dq", of.dq), ("dk", of.dk), ("dv", of.dv)):
            values |= strides(name, x)
        return kernel, (plan.rows, heads, q.shape[0]), values

    what, careful = (stage, wanted, of.grad_lse is None), plan.partial and not by_keys
    entry._start(what, chosen, q, k, v, tables, scale, {**of.named(), **tables_of, **shares}, arguments, careful)
    if plan.joint is not None:
        for name in widths:
            entry._join(plan.joint, chosen, shares[f"share_{name}_ptr"], of.named()[f"{name}_ptr"])

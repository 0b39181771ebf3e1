"""Attention of one program under one binding by Triton kernels: which kernels, with what, and what is left to torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from maskc.backends.triton.decode import Decoder, decodes, entry_decoder
from maskc.backends.triton.gradients import kernel_gradients
from maskc.backends.triton.launch import heads_inside, on_device, steady, strides
from maskc.backends.triton.packing import forward_pack
from maskc.backends.triton.pull import Values
from maskc.backends.triton.ready import ReadyStage, like
from maskc.backends.triton.spec import read_tables
from maskc.backends.triton.staged import Staged, compile_ahead

if TYPE_CHECKING:
    from maskc.backends.triton.configs import Config
    from maskc.tiles.plan import TilePlan

__all__ = ["Entry"]

Tensor = torch.Tensor


@dataclass(frozen=True, eq=False)
class Entry(Staged):
    """What operators call: see ``maskc.backends.entries.Entry``."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, floats: Sequence[Tensor], scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Output (B, H, Nq, Dv) in the dtype of ``q``, log-sum-exp (B, H, Nq) in float32 (0 where there is no
        softmax), and the output before the output expression (without elements if there is none)."""
        tables = dict(zip(self.names, floats, strict=True))
        if scale <= 0:
            # The kernels take the largest score of a row before they scale it.
            q, scale = q * scale, 1.0
        if decodes(self) and q.numel() and k.numel():
            return self._decode(q, k, v, tables, scale)
        out = heads_inside(q, v.shape[3])
        plain = q.new_empty(0) if self.plain_output else heads_inside(q, v.shape[3])
        written = out.numel() and self.program.normalizer.kind == "softmax"
        lse = (torch.empty if written else torch.zeros)(q.shape[:3], dtype=torch.float32, device=q.device)
        if out.numel():
            tensors = self._tensors(q, k, v, tables) | {"out_ptr": out, "plain_ptr": plain, "lse_ptr": lse}

            def make(chosen: Config) -> ReadyStage:
                return self._forward_stage(chosen, q, k, v, out, tables)

            self._stage("forward", like((q, k, v, *floats)), tensors, scale, make).start(tensors, scale)
        return out, lse, plain

    def _forward_stage(
        self, chosen: Config, q: Tensor, k: Tensor, v: Tensor, out: Tensor, tables: Mapping[str, Tensor]
    ) -> ReadyStage:
        """The forward kernel with a configuration, ready for tensors like these."""
        batch, heads, rows, _ = q.shape
        pack = self._forward_pack(chosen, heads // k.shape[1])
        width, whole = max(q.shape[3], v.shape[3]), not self.plain_output
        plan, form = self._device_plan("forward", chosen, q.device, width, pack=pack, whole=whole)
        kernel = self.kernel("forward", form._replace(steady=steady(q, k, v, out)))
        values = {**self._values(plan, kernel, q, k, v, tables), **strides("o", out)}
        values |= {"PACK": pack, "RAGGED_Q": rows % (chosen.q_tile // pack) != 0}
        shared = {n: x for n, x in values.items() if n not in self._tensors(q, k, v, tables)}
        kernels = self._prepared(kernel, (plan.rows, heads // pack, batch), shared, chosen, q.device, plan.partial)
        widths = {"out": v.shape[3], "lse": None}
        softmax = self.program.normalizer.kind == "softmax"
        return ReadyStage(kernels, plan.joint, batch * heads // pack, chosen.q_tile, widths, pack, softmax)

    def _forward_pack(self, chosen: Config, group: int) -> int:
        """Query heads in one tile of the forward kernel."""

        def make() -> int:
            def plan(q_tile: int) -> TilePlan:
                return self.plan(q_tile, chosen.k_tile, self.layout)

            return forward_pack(plan(chosen.q_tile), group, plan) if group > 1 else 1

        return self._remembered(("pack", chosen.q_tile, chosen.k_tile, group), make)

    def _decode(
        self, q: Tensor, k: Tensor, v: Tensor, tables: Mapping[str, Tensor], scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        out = heads_inside(q, v.shape[3])
        plain = q.new_empty(0) if self.plain_output else heads_inside(q, v.shape[3])
        softmax = self.program.normalizer.kind == "softmax"
        lse = (torch.empty if softmax else torch.zeros)(q.shape[:3], dtype=torch.float32, device=q.device)
        tensors = self._tensors(q, k, v, tables) | {"out_ptr": out, "plain_ptr": plain, "whole_ptr": lse}
        kind = like((q, k, v, *tables.values()))

        def ready(chosen: Config) -> Decoder:
            key = ("launch", chosen, "decode", kind)
            return self._remembered(key, lambda: entry_decoder(self, chosen, tensors, tables))

        def start(chosen: Config) -> None:
            ready(chosen).start(tensors, float(scale))

        def ahead(configs: Sequence[Config]) -> None:
            compile_ahead(lambda chosen: ready(chosen).jobs(tensors, scale), configs)

        start(self._config("decode", q, k, v, start, ahead))
        return out, lse, plain

    def backward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        floats: Sequence[Tensor],
        out: Tensor,
        lse: Tensor,
        grad: Tensor,
        grad_lse: Tensor | None,
        scale: float,
        wanted: Sequence[bool] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Gradients of q, k, v and ``floats``. ``out``: before the output expression. ``wanted``: which of ``floats``
        need theirs, by default all; the others get 0. Deterministic."""
        tables = dict(zip(self.names, floats, strict=True))
        some = [name for i, name in enumerate(self.names) if wanted is None or wanted[i]]
        sums = {name: torch.zeros(tables[name].shape, dtype=torch.float32, device=q.device) for name in some}
        value = self._outside(tables, q.device)
        if not self.plain_output:
            value.pull(self.program.output, grad.float(), sums, out.float())
            grad = value.pull_out(self.program.output, grad.float(), out.float()).to(q.dtype)
        lse = lse.contiguous()
        factor = 1.0
        if scale <= 0:
            q, scale, factor = q * scale, 1.0, scale
        given = (q, k, v, out, lse, grad, grad_lse)
        dq, dk, dv, delta = kernel_gradients(self, *given, tables, value, sums, scale)
        dq = dq * factor if factor != 1.0 else dq
        sink = self.program.normalizer.sink
        if sink is not None and sums:
            share = (value.of(sink) - lse[..., None]).exp()
            share = torch.where(lse[..., None] == -torch.inf, 0.0, share)
            value.pull(sink, -share * delta[..., None], sums)
        return dq, dk, dv, [sums[n].to(x.dtype) if n in sums else torch.zeros_like(x) for n, x in tables.items()]

    def _outside(self, tables: Mapping[str, Tensor], device: torch.device) -> Values:
        """What is left to torch. Tables of the binding are copied to the device once."""

        def make() -> dict[str, Tensor]:
            read = read_tables(*(root for root in self.program.roots() if root is not self.program.mask))
            known = self.binding.tables
            return {n: on_device(np.array(known[n]), device) for n in read if n not in tables and n in known}

        fixed = self._remembered(("outside", device), make)
        return Values(self.program, self.binding, {**fixed, **tables}, device)

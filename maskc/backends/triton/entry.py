"""Attention of one program under one binding by Triton kernels: which kernels, with what, and what is left to torch."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch

from maskc.backends.triton.ahead import compile_together
from maskc.backends.triton.decode import Decoder, decodes, entry_decoder
from maskc.backends.triton.expressions import table_name
from maskc.backends.triton.gradients import kernel_gradients
from maskc.backends.triton.launch import (
    DevicePlan,
    Job,
    Prepared,
    at_once,
    grid_of,
    heads_inside,
    on_device,
    pad,
    steady,
    strides,
    table_arguments,
    target_of,
    used_here,
)
from maskc.backends.triton.masks import every_query_keeps_a_key
from maskc.backends.triton.packing import forward_pack
from maskc.backends.triton.plans import device_plan, workers_of
from maskc.backends.triton.pull import Values
from maskc.backends.triton.ready import ReadyStage, like
from maskc.backends.triton.spec import Form, Kernel, KernelSpec, read_tables, specialised
from maskc.backends.triton.stages import kernel_of
from maskc.backends.triton.tune import Ahead, Choice, choose
from maskc.ir.program import OUTPUT
from maskc.tiles.budget import BUDGET

if TYPE_CHECKING:
    from maskc.backends.triton.configs import Config
    from maskc.backends.triton.ready import Like
    from maskc.ir.binding import Binding
    from maskc.ir.program import Program
    from maskc.tiles.plan import TilePlan

__all__ = ["Entry"]

Tensor = torch.Tensor
_T = TypeVar("_T")
_ROWS_EACH = 1024  # that an instance looks at for a NaN


@dataclass(frozen=True, eq=False)
class Entry:
    """A program, a binding and the names of its float inputs: all that a call needs but tensors.

    ``precision``: of products in float32, "ieee" or "tf32". ``configs``: configurations that replace the
    defaults, by stage. ``splits``: program instances that share the keys of a row when decoding; None: as many as
    keep the device busy, and none where there are many queries. ``layout``: the order of the tokens, as
    ``make_plan`` takes it, for kernels of many queries; tensors stay in the tokens' own. ``autotune``:
    "off", "cached" or "on", where ``configs`` has no row; ``budget``: seconds that measuring one kernel may take.
    ``workers``: program instances that run at once, by which long rows are cut; None: what the device has.
    ``planning``: what a plan may cost, as ``make_plan`` takes its budget.
    """

    program: Program
    binding: Binding
    names: tuple[str, ...]
    precision: str = "ieee"
    configs: Mapping[str, Config] = field(default_factory=dict)
    splits: int | None = None
    layout: str = "none"
    autotune: str = "off"
    budget: float = 10.0
    workers: int | None = None
    planning: int = BUDGET
    _memory: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def plain_output(self) -> bool:
        """Whether the program has no output expression."""
        return self.program.output is OUTPUT

    @functools.cached_property
    def text_program(self) -> Program:
        """What kernels are written from."""
        return specialised(self.program, self.binding.args)

    @functools.cached_property
    def every_query_keeps_a_key(self) -> bool:
        """Whether the planner proves it, so that the backward pass has no empty rows to care for."""
        return every_query_keeps_a_key(self.program, self.binding)

    def plan(self, q_tile: int, k_tile: int, layout: str = "none") -> TilePlan:
        """The tiles of the mask, in tiles of the given size."""
        from maskc.tiles import make_plan

        def make() -> TilePlan:
            program, binding, budget = self.program, self.binding, self.planning
            return make_plan(program, binding, q_tile=q_tile, k_tile=k_tile, layout=layout, budget=budget)

        return self._remembered(("tiles", q_tile, k_tile, layout), make)

    def kernel(self, stage: str, form: Form, grad_tables: frozenset[str] = frozenset()) -> Kernel:
        """The kernel of a stage for plans of a form."""

        spec = KernelSpec(self.text_program, self.binding.batched, grad_tables=grad_tables, **form._asdict())
        return self._remembered((stage, form, grad_tables), lambda: kernel_of(stage, spec))

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

    def _tensors(self, q: Tensor, k: Tensor, v: Tensor, tables: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors that all kernels read, by the names of arguments."""
        named = {table_name(n, self.program.params): x.contiguous() for n, x in tables.items() if x.numel()}
        return {"q_ptr": q, "k_ptr": k, "v_ptr": v, **named}

    def _stage(
        self,
        stage: str,
        kind: Like,
        tensors: Mapping[str, Tensor],
        scale: float,
        make: Callable[[Config], ReadyStage],
    ) -> ReadyStage:
        """A stage, which is made ready once for tensors of a kind. ``make``: it, with a configuration."""
        ready = self._memory.get(("ready", stage, kind))
        if ready is None:

            def made(chosen: Config) -> ReadyStage:
                return self._remembered(("launch", chosen, stage, kind), lambda: make(chosen))

            def start(chosen: Config) -> None:
                made(chosen).start(dict(tensors), scale)

            def ahead(configs: Sequence[Config]) -> None:
                _compile_ahead(lambda chosen: made(chosen).jobs(dict(tensors), scale), configs)

            q, k, v = (tensors[f"{name}_ptr"] for name in "qkv")
            ready = self._memory["ready", stage, kind] = made(self._config(stage, q, k, v, start, ahead))
        return ready

    def _prepared(
        self,
        kernel: Kernel,
        extents: tuple[int, int, int],
        shared: Mapping[str, Any],
        chosen: Config,
        device: torch.device,
        careful: bool,
    ) -> tuple[Prepared, ...]:
        """A kernel with the arguments that calls share. ``extents``: rows of tiles, heads and batch entries that it has
        instances for. ``careful``: start it again for rows with a NaN."""
        (grid, flat), programs = grid_of(*extents), math.prod(extents)
        shared = {**shared, "programs": programs, "FLAT": flat}
        first = Prepared(kernel, grid, {**shared, "CAREFUL": False}, chosen, device)
        few = min(programs, max(workers_of(device, chosen) or 2, -(-programs // _ROWS_EACH)))
        again = Prepared(kernel, (few, 1, 1), {**shared, "CAREFUL": True}, chosen, device)
        return (first, again) if careful else (first,)

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
            _compile_ahead(lambda chosen: ready(chosen).jobs(tensors, scale), configs)

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

    def _values(
        self,
        plan: DevicePlan,
        kernel: Kernel,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        tables: Mapping[str, Tensor],
    ) -> dict[str, Any]:
        """The arguments that all kernels have, but the scale."""
        b = self.binding
        static = tuple(n for n in kernel.tables if n not in tables)
        fixed = self._remembered(
            ("tables", static, q.device), lambda: table_arguments(self.program, b, {}, static, q.device)
        )
        kept = {**plan.arguments, **fixed}
        used_here(kept, plan.streams, q.device)
        moving = tuple(n for n in kernel.tables if n in tables)
        d, dv = q.shape[3], v.shape[3]
        return {
            **kept,
            **table_arguments(self.program, b, tables, moving, q.device),
            **{f"size_{name}": value for name, value in b.sizes.items()},
            **{key: value for name, x in (("q", q), ("k", k), ("v", v)) for key, value in strides(name, x).items()},
            **{"q_ptr": q, "k_ptr": k, "v_ptr": v, "q_len": b.q_len, "k_len": b.k_len, "offset": b.offset},
            **{"heads": q.shape[1], "group": q.shape[1] // k.shape[1], "layer": b.layer},
            **{"D": d, "D_PAD": pad(d), "DV": dv, "DV_PAD": pad(dv), "PRECISION": self.precision},
            **{"Q_TILE": plan.config.q_tile, "K_TILE": plan.config.k_tile},
            "AT_ONCE": at_once(plan.config, q.element_size(), target_of(q.device)),
            **{"RAGGED_Q": b.q_len % plan.config.q_tile != 0, "RAGGED_K": b.k_len % plan.config.k_tile != 0},
        }

    def _config(
        self, stage: str, q: Tensor, k: Tensor, v: Tensor, start: Callable[[Config], None], ahead: Ahead | None = None
    ) -> Config:
        """The configuration of a stage; ``start`` launches its kernel with one, ``ahead`` compiles it with some."""
        if stage in self.configs:
            return self.configs[stage]
        key = ("choice", stage, q.shape[:2], k.shape[1], q.shape[3], v.shape[3], q.dtype, q.device)
        return self._remembered(key, lambda: self._chosen(stage, q, k, v, start, ahead)).config

    def _chosen(
        self, stage: str, q: Tensor, k: Tensor, v: Tensor, start: Callable[[Config], None], ahead: Ahead | None
    ) -> Choice:
        found = choose(self, stage, q, k, v, start, ahead=ahead)
        lost = {trial.config for trial in found.trials} - {found.config}
        for key in [key for key in self._memory if key[0] in ("device", "launch") and key[1] in lost]:
            del self._memory[key]
        return found

    @property
    def choices(self) -> tuple[Choice, ...]:
        """Which configurations were chosen so far, and how."""
        return tuple(value for key, value in self._memory.items() if key[0] == "choice")

    def _forward_pack(self, chosen: Config, group: int) -> int:
        """Query heads in one tile of the forward kernel."""

        def make() -> int:
            def plan(q_tile: int) -> TilePlan:
                return self.plan(q_tile, chosen.k_tile, self.layout)

            return forward_pack(plan(chosen.q_tile), group, plan) if group > 1 else 1

        return self._remembered(("pack", chosen.q_tile, chosen.k_tile, group), make)

    def _device_plan(
        self,
        stage: str,
        chosen: Config,
        device: torch.device,
        width: int,
        *,
        pack: int = 1,
        group: int = 1,
        whole: bool = True,
    ) -> tuple[DevicePlan, Form]:
        """The plan on the device for "forward", "dq" or "dkv", and what it asks of a kernel's text.

        ``width``: the larger dimension of a head. ``pack``: heads that share a tile of the configuration. ``group``:
        heads that an instance does one after another. ``whole``: no row is cut into shares.
        """

        def make() -> tuple[DevicePlan, Form]:
            return device_plan(self, stage, chosen, device, width, pack=pack, group=group, whole=whole)

        return self._remembered(("device", chosen, device, stage, width, pack, whole), make)

    def _remembered(self, key: Any, make: Callable[[], _T]) -> _T:
        if key not in self._memory:
            self._memory[key] = make()
        return cast("_T", self._memory[key])


def _compile_ahead(jobs_of: Callable[[Config], list[Job]], configs: Sequence[Config]) -> None:
    """Compile what kernels with these configurations take, but for what cannot be made ready."""
    jobs: list[Job] = []
    for each in configs:
        with contextlib.suppress(Exception):  # which is raised where it is started
            jobs += jobs_of(each)
    compile_together(jobs)

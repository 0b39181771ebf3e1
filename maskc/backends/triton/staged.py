"""Stages of kernels made ready for tensors: which configuration, on which plan, with what arguments."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from maskc.backends.triton.ahead import compile_together
from maskc.backends.triton.expressions import table_name
from maskc.backends.triton.launch import (
    DevicePlan,
    Job,
    Prepared,
    at_once,
    grid_of,
    pad,
    strides,
    table_arguments,
    target_of,
    used_here,
)
from maskc.backends.triton.plans import device_plan, workers_of
from maskc.backends.triton.problem import Problem
from maskc.backends.triton.ready import ReadyStage
from maskc.backends.triton.spec import Form, Kernel
from maskc.backends.triton.tune import Ahead, Choice, choose

if TYPE_CHECKING:
    from maskc.backends.triton.configs import Config
    from maskc.backends.triton.ready import Like

__all__ = ["Staged", "compile_ahead"]

Tensor = torch.Tensor
_ROWS_EACH = 1024  # that an instance looks at for a NaN


@dataclass(frozen=True, eq=False)
class Staged(Problem):
    """A problem whose stages are made ready once for tensors of a kind, and remembered."""

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
                compile_ahead(lambda chosen: made(chosen).jobs(dict(tensors), scale), configs)

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


def compile_ahead(jobs_of: Callable[[Config], list[Job]], configs: Sequence[Config]) -> None:
    """Compile what kernels with these configurations take, but for what cannot be made ready."""
    jobs: list[Job] = []
    for each in configs:
        with contextlib.suppress(Exception):  # which is raised where it is started
            jobs += jobs_of(each)
    compile_together(jobs)

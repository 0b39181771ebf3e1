"""A stage of attention, ready for tensors like those of a call: its kernels, and what they need beside the tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from maskc.backends.triton.ahead import compile_together
from maskc.backends.triton.join import prepared_join
from maskc.backends.triton.launch import Job, Prepared, addresses_of
from maskc.backends.triton.shares import Joint, share_buffers

__all__ = ["Like", "ReadyStage", "like", "start_together"]

Tensor = torch.Tensor
#: What kernels are made for of the tensors of a call: shapes, strides, dtypes and a device.
Like = tuple[Any, ...]


def like(tensors: Sequence[Tensor]) -> Like:
    """What has to be equal of the tensors of two calls for the same kernels to be started."""
    return tensors[0].device, *[(x.shape, x.stride(), x.dtype) for x in tensors]


@dataclass(frozen=True, eq=False)
class ReadyStage:
    """Kernels that are started one after another, and the joining of the shares of long rows.

    Attributes:
        kernels: with the same tensors.
        joint: where rows belong that are cut into shares; None: none is cut.
        programs: heads, or packs of heads, of all batch entries. tile: rows of a tile.
        widths: of what shares leave, by the names of the tensors that it is joined in; None: one number a row.
        pack: heads that share a tile. averages: shares are averaged by their log-sum-exps, and not added up.
    """

    kernels: tuple[Prepared, ...]
    joint: Joint | None
    programs: int
    tile: int
    widths: Mapping[str, int | None]
    pack: int = 1
    averages: bool = False
    _joins: dict[str, Prepared] = field(default_factory=dict, repr=False)

    def start(self, tensors: dict[str, Tensor], scale: float) -> None:
        """Start all on the current stream. ``tensors``: those that a call brings, by the names of arguments; those
        that are needed beside them are added."""
        start_together([(self, tensors)], scale)

    def complete(self, tensors: dict[str, Tensor]) -> None:
        """Add what kernels need beside the tensors that a call brings."""
        device = tensors["q_ptr"].device
        tensors["poisoned"] = torch.empty(self._instances, dtype=torch.int32, device=device)
        if self.joint is not None:
            tensors |= share_buffers(self.joint, self.programs, self.tile, device, **self.widths)

    def jobs(self, tensors: dict[str, Tensor], scale: float) -> list[Job]:
        """All kernels, to be compiled for such tensors; to these it adds what ``complete`` does."""
        self.complete(tensors)
        return [kernel.job(tensors, {"scale": scale}) for kernel in self.kernels]

    @property
    def _instances(self) -> int:
        x, y, z = self.kernels[0].grid
        return x * y * z

    def join(self, joint: Joint, tensors: Mapping[str, Tensor]) -> None:
        """Join what the shares of rows left, in a fixed order, in the tensors (B, H, N, width) that it belongs to."""
        more = {"part_lse_ptr": tensors["share_lse_ptr"], "lse_ptr": tensors["lse_ptr"]} if self.averages else {}
        for name, width in self.widths.items():
            if width is None:
                continue
            part, into = tensors[f"share_{name}_ptr"], tensors[f"{name}_ptr"]
            if name not in self._joins:
                self._joins[name] = prepared_join(joint, part, into, self.pack, self.averages)
            self._joins[name].start({"part_ptr": part, "into_ptr": into, **more}, {})


def start_together(stages: Sequence[tuple[ReadyStage, dict[str, Tensor]]], scale: float) -> None:
    """Start stages one after another, with the tensors of each: see ``ReadyStage.start``. What has to be compiled
    first is compiled side by side."""
    floats = {"scale": scale}
    for stage, tensors in stages:
        stage.complete(tensors)
    places = [addresses_of(tensors) for _, tensors in stages]
    each = [(kernel, x, at) for (stage, x), at in zip(stages, places, strict=True) for kernel in stage.kernels]
    jobs = [kernel.job(tensors, floats) for kernel, tensors, at in each if at[1] not in kernel.codes]
    if len(jobs) > 1:
        compile_together(jobs)
    for (stage, tensors), at in zip(stages, places, strict=True):
        for kernel in stage.kernels:
            kernel.start_at(at, tensors, floats)
        if stage.joint is not None:
            stage.join(stage.joint, tensors)

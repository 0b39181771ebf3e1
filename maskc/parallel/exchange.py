"""Keys and values on their way between ranks, and their gradients on the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

from maskc.parallel.needs import Needs
from maskc.parallel.partitions import positions
from maskc.parallel.spans import Kept

__all__ = ["Routes", "exchange", "routes_of"]

Tensor = torch.Tensor


@dataclass(frozen=True, eq=False)
class Routes:
    """What a rank sends and receives.

    Attributes:
        sent: for each rank, which of this rank's tokens it needs, as this rank holds them.
        received: for each rank, where this one keeps what it gets from it.
        own: which of its own tokens a rank needs itself. own_at: where it keeps them.
        length: how many keys it keeps.
    """

    sent: tuple[Tensor, ...]
    received: tuple[Tensor, ...]
    own: Tensor
    own_at: Tensor
    length: int

    def to(self, device: torch.device) -> Routes:
        """The same on a device."""
        sent, received = (tuple(x.to(device) for x in xs) for xs in (self.sent, self.received))
        return Routes(sent, received, self.own.to(device), self.own_at.to(device), self.length)


def routes_of(needs: Needs, rank: int, keeps: Kept) -> Routes:
    """The routes of a rank that keeps ``keeps``, on the CPU."""
    division = needs.division
    holder, place = np.empty(division.length, np.int32), np.empty(division.length, np.int64)
    for other in range(division.ranks):
        index = division.index(other)
        holder[index], place[index] = other, np.arange(index.size)
    everybody = range(division.ranks)
    mine = needs.of_others(rank)
    sent = [place[wants[holder[wants] == rank]] for wants in map(needs.of_others, everybody)]
    received = [keeps.at(mine[holder[mine] == other]) for other in everybody]
    seen = positions(needs.keys[rank])
    own = seen[holder[seen] == rank]
    leaving, arriving, (own_here, own_at) = (
        tuple(torch.from_numpy(x) for x in xs) for xs in (sent, received, (place[own], keeps.at(own)))
    )
    return Routes(leaving, arriving, own_here, own_at, keeps.length)


def exchange(k: Tensor, v: Tensor, routes: Routes, group: Any) -> tuple[Tensor, Tensor]:
    """The keys and values that this rank keeps: (B, Hkv, length, D) and (B, Hkv, length, Dv), zero where its queries
    see none.

    ``k``, ``v``: what it holds. Every rank of ``group`` takes part, in the backward pass too.
    """
    apply: Any = _Exchange.apply
    found: tuple[Tensor, Tensor] = apply(k, v, routes, group)
    return found


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, k: Tensor, v: Tensor, routes: Routes, group: Any) -> tuple[Tensor, Tensor]:
        ctx.routes, ctx.group, ctx.held = routes, group, k.shape[2]
        there = _traded((k, v), routes.sent, [len(x) for x in routes.received], group)
        found = []
        for x, parts in zip((k, v), there, strict=True):
            keeps = x.new_zeros((*x.shape[:2], routes.length, x.shape[3]))
            keeps.index_copy_(2, routes.own_at, x.index_select(2, routes.own))
            for at, part in zip(routes.received, parts, strict=True):
                keeps.index_copy_(2, at, part)
            found.append(keeps)
        return found[0], found[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        routes = ctx.routes
        there = _traded(grads, routes.received, [len(x) for x in routes.sent], ctx.group)
        found = []
        for x, parts in zip(grads, there, strict=True):
            # Several ranks add to a key's gradient: in their order, so that the sum is always the same one.
            wide = torch.promote_types(x.dtype, torch.float32)
            sums = x.new_zeros((*x.shape[:2], ctx.held, x.shape[3]), dtype=wide)
            sums.index_copy_(2, routes.own, x.index_select(2, routes.own_at).to(wide))
            for at, part in zip(routes.sent, parts, strict=True):
                sums.index_add_(2, at, part.to(wide))
            found.append(sums.to(x.dtype))
        return found[0], found[1], None, None


def _traded(
    tensors: Sequence[Tensor], index: Sequence[Tensor], arriving: Sequence[int], group: Any
) -> list[list[Tensor]]:
    """For each of ``tensors`` (B, H, tokens, D) what every rank sends of its own: (B, H, so many, D).

    ``index``: for each rank, which tokens it is sent. ``arriving``: how many come from each.
    """
    if dist.get_world_size(group) == 1:
        return [[x[:, :, :0]] for x in tensors]
    leaving = torch.cat([_rows(x, torch.cat(list(index))) for x in tensors], dim=1)
    arrived = leaving.new_empty((sum(arriving), leaving.shape[1]))
    # As bytes, which every backend moves, whatever the dtype.
    sizes = list(arriving), [len(x) for x in index]
    dist.all_to_all_single(arrived.view(torch.uint8), leaving.view(torch.uint8), sizes[0], sizes[1], group=group)
    widths = [x.shape[0] * x.shape[1] * x.shape[3] for x in tensors]
    found = []
    for x, rows in zip(tensors, torch.split(arrived, widths, dim=1), strict=True):
        whole = rows.reshape(len(rows), x.shape[0], x.shape[1], x.shape[3]).permute(1, 2, 0, 3)
        found.append(list(torch.split(whole, list(arriving), dim=2)))
    return found


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """Tokens of ``x`` (B, H, N, D) as rows (tokens, B * H * D)."""
    return x.index_select(2, index).permute(2, 0, 1, 3).reshape(len(index), x.shape[0] * x.shape[1] * x.shape[3])

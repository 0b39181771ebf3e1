"""Keys and values on their way between ranks, and their gradients on the way back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


def exchange(k: Tensor, v: Tensor, routes: Routes, group: Any, parts: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
    """The keys and values that this rank keeps, by ``parts`` groups of as many heads, one after the other: (B, Hkv /
    parts, length, D) and (B, Hkv / parts, length, Dv), zero where its queries see none.

    ``k``, ``v``: what it holds. All groups are sent at once, and each is waited for when it is asked for: what is
    computed with one hides the way of the next. In the backward pass the gradients of each are sent when they are
    known, and waited for when all are. Every rank of ``group`` takes part, there too.
    """
    trip, depart, arrive = _Trip(routes, group, parts), _Depart.apply, _Arrive.apply
    # Each group hands it on to the next, so that backward passes go through them in the opposite order in every rank.
    order: Tensor = depart(k, v, trip)  # type: ignore[no-untyped-call]
    for part in range(parts):
        keys, values, order = arrive(order, trip, part)  # type: ignore[no-untyped-call]
        yield keys, values


class _Trip:
    """Keys and values of one call on their way, by groups of heads, and their gradients on the way back.

    Attributes:
        own: of each group, keys and values that this rank holds. there: what is sent of them.
        sums: of each group, the gradients of ``own`` as far as they are known. back: what is sent of others'.
    """

    def __init__(self, routes: Routes, group: Any, parts: int) -> None:
        self.routes, self.group, self.parts = routes, group, parts
        self.own: dict[int, tuple[Tensor, Tensor]] = {}
        self.there: dict[int, _Shipment] = {}
        self.sums: dict[int, list[Tensor]] = {}
        self.back: dict[int, _Shipment] = {}


class _Depart(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, k: Tensor, v: Tensor, trip: _Trip) -> Tensor:
        ctx.trip, routes = trip, trip.routes
        trip.own = dict(enumerate(zip(k.chunk(trip.parts, dim=1), v.chunk(trip.parts, dim=1), strict=True)))
        arriving = [len(x) for x in routes.received]
        trip.there = {part: _Shipment(own, routes.sent, arriving, trip.group) for part, own in trip.own.items()}
        return k.new_empty(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, order: Tensor) -> tuple[Tensor | None, ...]:
        trip, found = ctx.trip, []
        for part in range(trip.parts):
            sums = trip.sums.pop(part)
            for x, parts in zip(sums, trip.back.pop(part).arrived(), strict=True):
                # Several ranks add to a key's gradient: in their order, so that the sum is always the same one.
                for at, each in zip(trip.routes.sent, parts, strict=True):
                    x.index_add_(2, at, each.to(x.dtype))
            found.append([x.to(order.dtype) for x in sums])
        k, v = (x[0] if len(x) == 1 else torch.cat(x, dim=1) for x in zip(*found, strict=True))
        return k, v, None


class _Arrive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, order: Tensor, trip: _Trip, part: int) -> tuple[Tensor, ...]:
        ctx.trip, ctx.part, routes, own = trip, part, trip.routes, trip.own.pop(part)
        ctx.held, found = own[0].shape[2], []
        for x, parts in zip(own, trip.there.pop(part).arrived(), strict=True):
            keeps = x.new_zeros((*x.shape[:2], routes.length, x.shape[3]))
            keeps.index_copy_(2, routes.own_at, x.index_select(2, routes.own))
            for at, each in zip(routes.received, parts, strict=True):
                keeps.index_copy_(2, at, each)
            found.append(keeps)
        return found[0], found[1], order.new_empty(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        trip, part, routes, sums = ctx.trip, ctx.part, ctx.trip.routes, []
        trip.back[part] = _Shipment(grads[:2], routes.received, [len(x) for x in routes.sent], trip.group)
        for x in grads[:2]:
            wide = torch.promote_types(x.dtype, torch.float32)
            own = x.new_zeros((*x.shape[:2], ctx.held, x.shape[3]), dtype=wide)
            sums.append(own.index_copy_(2, routes.own, x.index_select(2, routes.own_at).to(wide)))
        trip.sums[part] = sums
        return grads[2], None, None


class _Shipment:
    """Tokens of tensors (B, H, tokens, D) on their way between ranks.

    ``index``: for each rank, which tokens it is sent. ``arriving``: how many come from each.
    """

    def __init__(self, tensors: Sequence[Tensor], index: Sequence[Tensor], arriving: list[int], group: Any) -> None:
        self._arriving, self._shapes = arriving, [(x.shape[0], x.shape[1], x.shape[3]) for x in tensors]
        self._leaving = torch.cat([_rows(x, torch.cat(list(index))) for x in tensors], dim=1)
        self._arrived = self._leaving.new_empty((sum(arriving), self._leaving.shape[1]))
        self._work = None
        if dist.get_world_size(group) > 1:
            # As bytes, which every backend moves, whatever the dtype.
            here, there = self._arrived.view(torch.uint8), self._leaving.view(torch.uint8)
            sizes = arriving, [len(x) for x in index]
            self._work = dist.all_to_all_single(here, there, *sizes, group=group, async_op=True)

    def arrived(self) -> list[list[Tensor]]:
        """For each of the tensors what every rank sends of its own, when it is there: (B, H, so many, D)."""
        if self._work is not None:
            self._work.wait()
        found = []
        widths = [batch * heads * dim for batch, heads, dim in self._shapes]
        for (batch, heads, dim), rows in zip(self._shapes, torch.split(self._arrived, widths, dim=1), strict=True):
            whole = rows.reshape(len(rows), batch, heads, dim).permute(1, 2, 0, 3)
            found.append(list(torch.split(whole, self._arriving, dim=2)))
        return found


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """Tokens of ``x`` (B, H, N, D) as rows (tokens, B * H * D)."""
    return x.index_select(2, index).permute(2, 0, 1, 3).reshape(len(index), x.shape[0] * x.shape[1] * x.shape[3])

"""Rows of tiles that take longer than all others: a few queries that see every key, the first keys that every query
sees, or few rows at all. They are cut into shares, each a program instance of its own, so that no multiprocessor works
alone at the end; what the shares leave is joined in a fixed order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from maskc.backends.triton.tiles import PARTIAL_WORK, KernelPlan, Tiles, work_order

__all__ = ["Joint", "Shares", "share_buffers", "shared_rows"]

Array = npt.NDArray[Any]
Tensor = torch.Tensor
_LEAST = 16  # tiles that a share is worth
_LONG = 0.8  # of what a worker does in all: shorter rows are left whole
_SHARE = 0.25  # of that, about: what a share is
_MOST = 64  # shares of a row


@dataclass(frozen=True, eq=False)
class Shares:
    """Which rows of tiles are cut, and into how many shares each; share ``f`` of the row ``rows[i]`` is number
    ``i * count + f``. A plan's rows are then items: rows that are left whole first, then the shares.

    Attributes:
        rows: the rows that are cut. count: shares of each.
        row_of: (items,): the row of tiles. share_of: (items,): the number of the share, -1 for whole rows.
    """

    rows: Array
    count: int
    row_of: Array
    share_of: Array


def shared_rows(plan: KernelPlan, workers: int, group: int = 1) -> tuple[KernelPlan, Shares | None]:
    """The plan with its longest rows cut, if they would keep others waiting.

    ``workers``: program instances that run at once. ``group``: heads that a program instance does one after another.
    """
    masks = plan.row_order.size // plan.rows if plan.rows else 0
    work = _work(plan).reshape(masks, plan.rows)
    copies = np.bincount(plan.plan_of, minlength=masks)
    fair = float(work.sum(axis=1) @ copies) / workers
    longest = group * work.max(axis=0, initial=0.0)
    rows = np.flatnonzero(longest > max(_LONG * fair, 2 * _LEAST))
    if not rows.size:
        return plan, None
    count = int(min(_MOST, np.ceil(longest.max() / max(_SHARE * fair, _LEAST))))
    whole = np.setdiff1d(np.arange(plan.rows), rows)
    row_of = np.concatenate([whole, np.repeat(rows, count)]).astype(np.int32)
    share_of = np.concatenate([np.full(whole.size, -1), np.arange(rows.size * count)]).astype(np.int32)
    shares = Shares(rows, count, row_of, share_of)
    return _cut(plan, shares, masks), shares


def _work(plan: KernelPlan) -> Array:
    found: Array = (plan.full.last - plan.full.first) + PARTIAL_WORK * (plan.part.last - plan.part.first)
    return found


def _cut(plan: KernelPlan, shares: Shares, masks: int) -> KernelPlan:
    places = (np.arange(masks)[:, None] * plan.rows + shares.row_of).ravel()
    number = np.tile(np.maximum(shares.share_of, 0) % shares.count, masks).astype(np.int64)
    parts = np.tile(np.where(shares.share_of < 0, 1, shares.count), masks)

    def cut(kind: Tiles) -> Tiles:
        start, length = kind.first[places].astype(np.int64), (kind.last - kind.first)[places]
        first, last = (start + length * (number + i) // parts for i in range(2))
        skips = None if kind.skips is None else kind.skips[places]
        return Tiles(first.astype(np.int32), last.astype(np.int32), kind.tiles, skips)

    found = replace(plan, full=cut(plan.full), part=cut(plan.part), rows=shares.row_of.size)
    return replace(found, row_order=work_order(_work(found).reshape(masks, -1), plan.by_keys))


def share_buffers(
    joint: Joint | None, programs: int, tile: int, device: torch.device, **widths: int | None
) -> dict[str, Tensor]:
    """Where shares leave their parts, float32, by the names of arguments. ``widths``: of what; None: one number."""
    if joint is None:
        return {}
    shape = joint.rows.numel() * joint.count, programs, tile
    return {
        f"share_{name}_ptr": torch.empty(shape if width is None else (*shape, width), device=device)
        for name, width in widths.items()
    }


@dataclass(frozen=True, eq=False)
class Joint:
    """The rows of tiles that are cut into ``count`` shares each, int32, on a device."""

    count: int
    rows: Tensor

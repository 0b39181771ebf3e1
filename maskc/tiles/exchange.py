"""Plans as tensors and as hashes."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from maskc.tiles.plan import Order, _Plan

__all__ = ["digest", "to_device"]

_ARRAYS = ("offsets", "start", "end", "kind")


def digest(plan: _Plan) -> str:
    """A hash of the mask, of what it is applied to, and of the runs and orders."""
    b = plan.binding
    known = (
        plan.program.mask.digest,
        (b.q_len, b.k_len, b.offset, b.cross, b.heads, b.layer, b.batch, sorted(b.batched)),
        (sorted(b.sizes.items()), sorted(b.args.items())),
        (plan.q_tile, plan.k_tile, plan.q_order.name, plan.k_order.name),
        [(g.heads, g.batches) for g in plan.groups],
    )
    found = hashlib.sha256(repr(known).encode())
    arrays = [np.asarray(b.tables[name]) for name in sorted(b.tables)]
    arrays += [getattr(g.runs, name) for g in plan.groups for name in _ARRAYS]
    arrays += [o.index for o in (plan.q_order, plan.k_order) if o.index is not None]
    for array in arrays:
        found.update(repr((array.dtype.str, array.shape)).encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def to_device(plan: _Plan, device: Any) -> dict[str, Any]:
    """See ``TilePlan.to``."""
    import torch

    def tensor(array: Any) -> Any:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    def index(order: Order) -> Any:
        return None if order.index is None else tensor(order.index)

    groups = [
        {"heads": g.heads, "batches": g.batches, **{n: tensor(getattr(g.runs, n)) for n in _ARRAYS}}
        for g in plan.groups
    ]
    return {"groups": groups, "q_index": index(plan.q_order), "k_index": index(plan.k_order)}

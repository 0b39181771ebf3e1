"""Keys that no query keeps, such as padding and the free part of a cache, whatever numbers they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from maskc.backends.cpu.jobs import Bools
    from maskc.tiles.plan import TilePlan
    from maskc.tiles.tiling import Group

__all__ = ["without_unseen"]

Tensor = torch.Tensor


def without_unseen(plan: TilePlan, q_heads: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor] | None:
    """Laid-out k and v (B, Hkv, Nk, D) with 0 in place of the keys that hold a NaN or an infinity and that no query
    keeps; None where there is no such key, or the plan does not tell."""
    bad = ~(k.isfinite().all(dim=-1) & v.isfinite().all(dim=-1))
    if not bool(bad.any()):
        return None
    seen = torch.zeros_like(bad)
    for group in plan.groups:
        kept = _kept_keys(plan, group)
        if kept is None:
            return None
        kv_heads = sorted({h * k.shape[1] // q_heads for h in group.heads})
        for b in group.batches:
            seen[b, kv_heads] |= torch.from_numpy(kept)
    unseen = (bad & ~seen)[..., None]
    if not bool(unseen.any()):
        return None
    return k.masked_fill(unseen, 0.0), v.masked_fill(unseen, 0.0)


def _kept_keys(plan: TilePlan, group: Group) -> Bools | None:
    """Which keys some query keeps, (Nk,)."""
    intervals = plan.intervals(group) if group.runs.start.size else ()
    if intervals is None:
        return None
    count = np.zeros(plan.binding.k_len + 1, dtype=np.int64)
    for lo, hi in intervals:
        some = hi > lo
        np.add.at(count, lo[some], 1)
        np.add.at(count, hi[some], -1)
    kept: Bools = np.cumsum(count)[:-1] > 0
    return kept

"""Which rank takes which chunks: as many for each, so that the one with most work has little more than the mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["balanced", "contiguous"]

Array = npt.NDArray[Any]


def contiguous(chunks: int, ranks: int) -> Array:
    """The rank of each of ``chunks``, a multiple of ``ranks``: neighbours stay together. int64 (chunks,)."""
    return np.repeat(np.arange(ranks), chunks // ranks)


def balanced(cost: Array, size: Array, ranks: int) -> Array:
    """The rank of each chunk, as many chunks and tokens for each rank as can be: heaviest first to whoever has least,
    then exchanges of two chunks for as long as that unburdens the rank with most.

    ``cost``: float64 (chunks,), a multiple of ``ranks``. ``size``: tokens of each chunk, int64; two sizes at most.
    """
    large = size > size.min()
    each, more = divmod(int(large.sum()), ranks)
    most_large = each + (np.arange(ranks) < more)
    room = np.stack([cost.size // ranks - most_large, most_large])  # for small chunks and for large ones
    owner, load = np.zeros(cost.size, np.int64), np.zeros(ranks)
    for chunk in np.argsort(-cost, kind="stable").tolist():
        free = room[int(large[chunk])]
        rank = int(np.where(free > 0, load, np.inf).argmin())
        owner[chunk] = rank
        free[rank] -= 1
        load[rank] += cost[chunk]
    return _exchanged(cost, large, owner, load)


def _exchanged(cost: Array, large: Array, owner: Array, load: Array) -> Array:
    for _ in range(2 * cost.size):  # each exchange lessens the greatest load, or the number of ranks that have it
        worst = int(load.argmax())
        mine, others = np.flatnonzero(owner == worst), np.flatnonzero(owner != worst)
        if not others.size:
            break
        moved = cost[mine][:, None] - cost[others][None, :]
        after = np.maximum(load[worst] - moved, load[owner[others]][None, :] + moved)
        after[large[mine][:, None] != large[others][None, :]] = np.inf
        i, j = np.unravel_index(int(after.argmin()), after.shape)
        if after[i, j] >= load[worst] * (1 - 1e-9):
            break
        give, take = int(mine[i]), int(others[j])
        load[worst] -= moved[i, j]
        load[owner[take]] += moved[i, j]
        owner[give], owner[take] = owner[take], worst
    return owner

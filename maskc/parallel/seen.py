"""Which keys chunks of queries see, by blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskc.tiles.cost import row_costs
from maskc.tiles.runs import row_of_runs

if TYPE_CHECKING:
    from maskc.tiles.plan import TilePlan

__all__ = ["Seen", "costs_of"]

Array = npt.NDArray[Any]
_BLOCKS = 4096  # that are told apart at most


class Seen:
    """What is seen of a plan's keys, by any head of any batch entry, from each of the chunks that ``bounds`` cuts the
    queries into: (chunks + 1,), rising, from 0 to the number of queries."""

    def __init__(self, plan: TilePlan, bounds: Array) -> None:
        length = plan.binding.k_len
        step = -(-plan.cols // _BLOCKS)
        #: Where blocks of keys begin, and the last one ends: (blocks + 1,).
        self.blocks = np.minimum(np.arange(-(-plan.cols // step) + 1) * (plan.k_tile * step), length)
        self._seen = _seen(plan, bounds, step, self.blocks.size - 1)
        self._bounds = bounds

    def ranges(self, chunks: Array) -> tuple[tuple[int, int], ...]:
        """The keys that these chunks see, as ranges (start, end)."""
        seen = np.concatenate([[False], self._seen[chunks].any(axis=0), [False]])
        ends = np.flatnonzero(seen[1:] != seen[:-1])
        return tuple((int(self.blocks[a]), int(self.blocks[b])) for a, b in ends.reshape(-1, 2))

    def received(self, chunks: Array) -> int:
        """How many keys these chunks see that are not their own tokens."""
        seen = self._seen[chunks].any(axis=0)
        first, last = self._bounds[chunks][:, None], self._bounds[chunks + 1][:, None]
        start, end = self.blocks[:-1][seen], self.blocks[1:][seen]
        own = (np.minimum(last, end) - np.maximum(first, start)).clip(0).sum()
        return int((end - start).sum() - own)


def costs_of(plan: TilePlan, bounds: Array) -> Array:
    """What the queries of each of the chunks that ``bounds`` cuts a plan into cost, in pairs of a full tile, of all
    heads and batch entries: float64 (chunks,)."""
    cost = np.zeros(plan.rows)
    for g in plan.groups:
        cost += row_costs(g.runs, plan.q_tile, plan.k_tile) * (len(g.heads) * len(g.batches))
    return np.diff(np.interp(bounds, _edges_of(plan), np.append(0.0, np.cumsum(cost))))


def _edges_of(plan: TilePlan) -> Array:
    """Where the rows of tiles begin, and the last one ends: (rows + 1,)."""
    return np.minimum(np.arange(plan.rows + 1) * plan.q_tile, plan.binding.q_len)


def _seen(plan: TilePlan, bounds: Array, step: int, blocks: int) -> npt.NDArray[np.bool_]:
    """Whether a chunk sees a key of a block of ``step`` tiles: (chunks, blocks)."""
    edges, chunks = _edges_of(plan), bounds.size - 1
    first = np.searchsorted(bounds, edges[:-1], "right") - 1
    last = np.searchsorted(bounds, edges[1:] - 1, "right") - 1
    change = np.zeros(chunks * (blocks + 1), np.int32)
    one = np.int32(1)
    for runs in {id(g.runs): g.runs for g in plan.groups}.values():
        row, start, end = row_of_runs(runs), runs.start // step, -(-runs.end // step)
        for beside in range(int((last - first).max(initial=0)) + 1):  # a row of tiles may lie in several chunks
            here = first[row] + beside <= last[row]
            at = (first[row[here]] + beside) * (blocks + 1)
            # In place, and by a number of its own dtype: several times faster than whatever counts all of ``change``.
            np.add.at(change, at + start[here], one)
            np.add.at(change, at + end[here], -one)
    depth = change.reshape(chunks, blocks + 1)
    return np.asarray(np.cumsum(depth, axis=1, out=depth)[:, :blocks] > 0)

"""FlashInfer: a block-sparse matrix in compressed rows, with the mask of every block where some is not whole.

What the arrays mean is taken from the docstring of ``flashinfer.BlockSparseAttentionWrapper.plan`` and from
``scipy.sparse.bsr_matrix``, to which that refers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskc.exports.magi import one_mask
from maskc.exports.stretches import Unfit, same_mask
from maskc.tiles.runs import concatenated_ranges, row_of_runs
from maskc.tiles.tiling import PARTIAL

if TYPE_CHECKING:
    from maskc.tiles.plan import TilePlan

__all__ = ["flashinfer"]

Array = npt.NDArray[Any]
_MOST_PAIRS = 1 << 30  # in the blocks whose masks are written out, a byte each
_AT_ONCE = 1 << 24


def flashinfer(plan: TilePlan, kv_heads: int) -> tuple[dict[str, Array], dict[str, Any]]:
    """Arrays, and options of the call. Raises Unfit."""
    b, (rows, cols) = plan.binding, (plan.q_tile, plan.k_tile)
    groups = one_mask(plan, "FlashInfer") or list(plan.groups)  # where there are no batch entries, any of them
    if not all(same_mask(plan, g, groups[0]) for g in groups):
        raise Unfit("FlashInfer has one matrix a call, and batch entries differ: export them one by one")
    if b.k_len % cols:
        raise Unfit(
            f"FlashInfer has whole blocks of keys, and {b.k_len} keys are none of {cols}: pad, or give --k-tile"
        )
    runs = groups[0].runs
    width = (runs.end - runs.start).astype(np.int64)
    indices = concatenated_ranges(runs.start.astype(np.int64), width)
    row = np.repeat(row_of_runs(runs).astype(np.int64), width)
    kind = np.repeat(runs.kind, width)
    indptr = np.searchsorted(row, np.arange(plan.rows + 1))
    arrays: dict[str, Array] = {"indptr": indptr.astype(np.int32), "indices": indices.astype(np.int32)}
    if (kind == PARTIAL).any():
        if indices.size * rows * cols > _MOST_PAIRS:
            raise Unfit(
                f"FlashInfer wants a mask of every pair in {indices.size} blocks, more than is written out here"
            )
        mask = np.ones((indices.size, rows, cols), np.bool_)
        # In the last row of blocks there may be fewer queries, and nothing is kept for those that are not there.
        partial = np.flatnonzero((kind == PARTIAL) | (row == b.q_len // rows))
        step = max(1, _AT_ONCE // (rows * cols))
        for a in range(0, partial.size, step):
            some = partial[a : a + step]
            mask[some] = plan.tile_mask(groups[0], row[some], indices[some])
        arrays["mask"] = mask
    return arrays, {"M": b.q_len, "N": b.k_len, "R": rows, "C": cols}

"""What a picture shows: for every rectangle of pairs, whether none, some or all are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from maskc.tiles.tiling import EMPTY, FULL, PARTIAL

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from maskc.ir.binding import Binding
    from maskc.ir.program import Program
    from maskc.tiles.budget import Watch

__all__ = ["Cells", "survey"]

#: Up to so many pairs every pair is evaluated; beyond, the planner is asked.
EVALUATED = 4096 * 4096
_AT_ONCE = 1 << 21


@dataclass(frozen=True, eq=False)
class Cells:
    """A grid of rectangles over (query, key).

    Attributes:
        kind: uint8 (rows, columns); EMPTY, PARTIAL or FULL. Exact for every rectangle.
        density: float64 (rows, columns); share of the pairs kept, NaN where it was not counted.
        q_step, k_step: queries and keys a cell covers (fewer at the end).
        q_len, k_len: number of queries and of keys.
        q_start: absolute position of the first query.
    """

    kind: npt.NDArray[np.uint8]
    density: npt.NDArray[np.float64]
    q_step: int
    k_step: int
    q_len: int
    k_len: int
    q_start: int = 0

    @property
    def kept(self) -> float | None:
        """Share of all pairs that are kept; None if not every cell was counted, or there is no pair."""
        import numpy as np

        if np.isnan(self.density).any() or not self.density.size:
            return None
        areas = np.outer(_extents(self.q_len, self.q_step), _extents(self.k_len, self.k_step))
        return float((self.density * areas).sum() / areas.sum())


def survey(
    program: Program,
    binding: Binding,
    *,
    head: int = 0,
    batch: int = 0,
    rows: int,
    columns: int,
    watch: Watch | None = None,
) -> Cells:
    """The mask of one head and batch entry in at most ``rows`` by ``columns`` cells, each as wide as high.

    Every pair is evaluated up to 4096 by 4096 (fewer of a very large mask); longer sequences are surveyed by the tile
    planner, which tells the kinds as exactly, but not the density of partial cells. ``watch``: as ``make_plan``
    takes it. Raises MaskcError if the planner refuses.
    """
    from maskc.tiles.budget import evaluations_of

    step = _round_up(max(-(-binding.q_len // max(rows, 1)), -(-binding.k_len // max(columns, 1)), 1))
    if binding.q_len * binding.k_len * evaluations_of(program, binding, outright=True) <= EVALUATED:
        density = _count(program, binding, head, batch, step)
    else:
        density = _plan(program, binding, head, batch, step, watch)
    return _cells(density, binding, step)


def _round_up(step: int) -> int:
    """A little more than ``step``, and a multiple of tiles: of 8, or of a power of two near its sixteenth."""
    unit = 8 if step <= 1024 else 1 << step.bit_length() - 5
    return step if step <= 16 else -(-step // unit) * unit


def _extents(length: int, step: int) -> npt.NDArray[np.int64]:
    import numpy as np

    starts = np.arange(0, length, step, dtype=np.int64)
    return np.minimum(starts + step, length) - starts


def _cells(density: npt.NDArray[np.float64], binding: Binding, step: int) -> Cells:
    import numpy as np

    kind = np.full(density.shape, PARTIAL, dtype=np.uint8)
    kind[density == 0.0] = EMPTY
    kind[density == 1.0] = FULL
    return Cells(kind, density, step, step, binding.q_len, binding.k_len, binding.offset)


def _count(program: Program, binding: Binding, head: int, batch: int, step: int) -> npt.NDArray[np.float64]:
    import numpy as np

    from maskc.ir.evaluate import dense

    heights, widths = _extents(binding.q_len, step), _extents(binding.k_len, step)
    counts = np.zeros((len(heights), len(widths)), dtype=np.int64)
    if not counts.size:
        return counts.astype(np.float64)
    starts = np.arange(0, binding.k_len, step)
    band = max(1, _AT_ONCE // (max(binding.k_len, 1) * step))  # cell rows evaluated together
    for first in range(0, len(heights), band):
        lo = binding.offset + first * step
        hi = min(lo + band * step, binding.offset + binding.q_len)
        kept = dense(program, binding, head, batch, (lo, hi), (0, binding.k_len))
        columns = np.add.reduceat(kept, starts, axis=1, dtype=np.int64)
        counts[first : first + band] = np.add.reduceat(columns, np.arange(0, hi - lo, step), axis=0)
    return counts / np.outer(heights, widths)


def _plan(
    program: Program, binding: Binding, head: int, batch: int, step: int, watch: Watch | None
) -> npt.NDArray[np.float64]:
    import numpy as np

    from maskc.tiles.planner import make_tiling
    from maskc.tiles.runs import to_dense

    side = fold(step, max(binding.q_len, binding.k_len))
    plan = make_tiling(program, binding, q_tile=step // side, k_tile=step // side, watch=watch)
    of_kind = np.zeros(3)
    of_kind[PARTIAL], of_kind[FULL] = np.nan, 1.0
    found: npt.NDArray[np.float64] = of_kind[folded(to_dense(plan.group_of(head, batch).runs, plan.cols), side, side)]
    return found


def fold(step: int, length: int) -> int:
    """Into how many tiles a cell's side is cut: tiles of more than 1024 cost much where they have to be evaluated, and
    more than 4096 of them to a side take much memory."""
    most = max(1024, length // 4096)
    return next(n for n in range(1, step + 1) if step % n == 0 and step // n <= most)


def folded(kinds: npt.NDArray[np.uint8], high: int, wide: int) -> npt.NDArray[np.uint8]:
    """Kinds of rectangles of tiles: full or empty where all of them are."""
    import numpy as np

    rows, columns = np.arange(0, kinds.shape[0], high), np.arange(0, kinds.shape[1], wide)
    if not kinds.size:
        return kinds
    least = np.minimum.reduceat(np.minimum.reduceat(kinds, rows, axis=0), columns, axis=1)
    most = np.maximum.reduceat(np.maximum.reduceat(kinds, rows, axis=0), columns, axis=1)
    return np.where(least == most, least, PARTIAL).astype(np.uint8)

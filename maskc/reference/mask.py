"""The dense mask of some rows of a program, by evaluating it at every pair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from maskc.ir.evaluate import evaluate
from maskc.ir.schedule import schedule

if TYPE_CHECKING:
    from maskc.ir.binding import Binding
    from maskc.ir.program import Program

__all__ = ["indices", "kept_pairs", "pairs_at_once", "points", "row_chunks"]

#: Pairs, counted over all heads and batch entries, that are evaluated at once: bounds the memory in use.
PAIRS_AT_ONCE = 1 << 22
_VALUES = 16  # of a pair, for which that number is meant


def pairs_at_once(program: Program) -> int:
    """``PAIRS_AT_ONCE``, or fewer where the program needs many values of each pair."""
    live = max(schedule(program.mask).live, schedule(program.score).live)
    return max(1, PAIRS_AT_ONCE // max(1, live // _VALUES))


def row_chunks(
    binding: Binding, pairs: int = PAIRS_AT_ONCE, rows: Sequence[int] | None = None
) -> Iterator[Sequence[int]]:
    """Query rows, counted from the first query present, of a bounded number of pairs each; ``rows``: all by default."""
    rows = range(binding.q_len) if rows is None else rows
    step = max(1, pairs // max(1, binding.batch * binding.heads * binding.k_len))
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def indices(rows: Sequence[int], device: torch.device) -> torch.Tensor:
    """``rows`` as a tensor."""
    if isinstance(rows, range):  # torch would count it number by number.
        return torch.arange(rows.start, rows.stop, rows.step, device=device)
    return torch.tensor(rows, dtype=torch.int64, device=device)


def points(binding: Binding, rows: Sequence[int], device: torch.device) -> dict[str, torch.Tensor]:
    """The symbols b, h, q and k as tensors that broadcast to (batch, heads, rows, keys)."""

    def axis(values: Sequence[int], dim: int) -> torch.Tensor:
        shape = [1, 1, 1, 1]
        shape[dim] = len(values)
        return indices(values, device).view(shape)

    return {
        "b": axis(range(binding.batch), 0),
        "h": axis(range(binding.heads), 1),
        "q": axis(rows, 2) + binding.offset,
        "k": axis(range(binding.k_len), 3),
    }


def kept_pairs(program: Program, binding: Binding, rows: Sequence[int], device: torch.device) -> torch.Tensor:
    """The mask of some query rows, (batch, heads, rows, keys)."""
    shape = (binding.batch, binding.heads, len(rows), binding.k_len)
    at: dict[str, Any] = points(binding, rows, device)
    # Floats in masks are compared in full precision, whatever the dtype of the attention.
    kept = evaluate(program.mask, binding, **at, params=program.params, xp=torch, float_dtype=torch.float64)
    return torch.as_tensor(kept, device=device).expand(shape)

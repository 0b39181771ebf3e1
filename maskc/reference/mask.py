"""The dense mask of some rows of a program, by evaluating it at every pair."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from maskc.ir.evaluate import evaluate
from maskc.ir.schedule import schedule

if TYPE_CHECKING:
    from maskc.ir.binding import Binding
    from maskc.ir.program import Program

__all__ = ["kept_pairs", "pairs_at_once", "points", "row_chunks"]

#: Pairs, counted over all heads and batch entries, that are evaluated at once: bounds the memory in use.
PAIRS_AT_ONCE = 1 << 22
_VALUES = 16  # of a pair, for which that number is meant


def pairs_at_once(program: Program) -> int:
    """``PAIRS_AT_ONCE``, or fewer where the program needs many values of each pair."""
    live = max(schedule(program.mask).live, schedule(program.score).live)
    return max(1, PAIRS_AT_ONCE // max(1, live // _VALUES))


def row_chunks(binding: Binding, pairs: int = PAIRS_AT_ONCE) -> Iterator[range]:
    """Ranges of query rows, counted from the first query present, of a bounded number of pairs each."""
    step = max(1, pairs // max(1, binding.batch * binding.heads * binding.k_len))
    for start in range(0, binding.q_len, step):
        yield range(start, min(start + step, binding.q_len))


def points(binding: Binding, rows: range, device: torch.device) -> dict[str, torch.Tensor]:
    """The symbols b, h, q and k as tensors that broadcast to (batch, heads, rows, keys)."""

    def axis(start: int, stop: int, dim: int) -> torch.Tensor:
        shape = [1, 1, 1, 1]
        shape[dim] = stop - start
        return torch.arange(start, stop, device=device).view(shape)

    return {
        "b": axis(0, binding.batch, 0),
        "h": axis(0, binding.heads, 1),
        "q": axis(binding.offset + rows.start, binding.offset + rows.stop, 2),
        "k": axis(0, binding.k_len, 3),
    }


def kept_pairs(program: Program, binding: Binding, rows: range, device: torch.device) -> torch.Tensor:
    """The mask of some query rows, (batch, heads, rows, keys)."""
    shape = (binding.batch, binding.heads, len(rows), binding.k_len)
    at: dict[str, Any] = points(binding, rows, device)
    # Floats in masks are compared in full precision, whatever the dtype of the attention.
    kept = evaluate(program.mask, binding, **at, params=program.params, xp=torch, float_dtype=torch.float64)
    return torch.as_tensor(kept, device=device).expand(shape)

"""Which tokens of a sequence each rank holds."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from maskc.arguments import integer
from maskc.diagnostics import fail

__all__ = ["EXCHANGE", "Chunk", "Partition", "positions"]

Array = npt.NDArray[Any]

#: What receiving one key costs, in pairs that a query head computes in that time. Of 128 dimensions in 16 bits, four
#: query heads to a key head, a key and its value are 128 bytes for each of them: 200 pairs of 512 operations at
#: 450 GB/s and 400 TFLOP/s, as within a machine of eight GPUs; 2,000 at 50 GB/s, as between machines. Not measured.
EXCHANGE = 512.0


class Chunk(NamedTuple):
    """Neighbouring tokens of one rank: ``start`` to ``end`` (excluded)."""

    start: int
    end: int


@dataclass(frozen=True, eq=False)
class Partition:
    """Which tokens each rank holds. It serves any number of ops, whatever their masks.

    Attributes:
        length: number of tokens.
        chunks: of each rank, in the order of the sequence.
        work: float64 (ranks,): what each rank computes, in pairs of a full tile, of all heads and batch entries of the
            ops that the sequence was divided for.
        received: int64 (ranks,): how many keys each rank gets from others, for the op that has it get most.
        method: how chunks were given to ranks.
        exchange: what receiving a key is taken to cost, in pairs that a query head computes in that time.

    Raises E504 where chunks are not, of all ranks, every token once.
    """

    length: int
    chunks: tuple[tuple[Chunk, ...], ...]
    work: Array
    received: Array
    method: str
    exchange: float = EXCHANGE
    #: What is found out about masks over sequences that are so divided.
    memory: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        chunks = sorted(c for chunks in self.chunks for c in chunks)
        if not all(a < b for a, b in chunks) or [*(a for a, _ in chunks), self.length] != [0, *(b for _, b in chunks)]:
            raise fail("E504", f"the chunks of a partition are to be all of 0 to {self.length}, each token once")

    def __reduce__(self) -> tuple[Any, ...]:
        # Without what is remembered: it tells arrays apart by numbers that are those of this process.
        return Partition, (self.length, self.chunks, self.work, self.received, self.method, self.exchange)

    @property
    def ranks(self) -> int:
        """Number of ranks."""
        return len(self.chunks)

    @functools.cached_property
    def tokens(self) -> Array:
        """Number of tokens of each rank, int64 (ranks,)."""
        return np.array([sum(c.end - c.start for c in chunks) for chunks in self.chunks], np.int64)

    @property
    def imbalance(self) -> float:
        """The work of the rank that has most, over the mean."""
        mean = float(self.work.mean())
        return float(self.work.max()) / mean if mean else 1.0

    def index(self, rank: int) -> Array:
        """The positions of the tokens of a rank, as it holds them, int64."""
        return positions(self.chunks[self._rank(rank)])

    def shard(self, whole: Any, rank: int, dim: int = -2) -> Any:
        """What a rank holds of ``whole``, a torch tensor or NumPy array with all tokens along ``dim``. Raises E505."""
        if whole.shape[dim] != self.length:
            raise fail("E505", f"there are {whole.shape[dim]} tokens along dimension {dim}, and not {self.length}")
        parts = [_slice(whole, *c, dim) for c in self.chunks[self._rank(rank)] or (Chunk(0, 0),)]
        return parts[0] if len(parts) == 1 else _joined(parts, dim)

    def join(self, shards: Sequence[Any], dim: int = -2) -> Any:
        """The whole again from what the ranks hold, in their order, as after gathering. Raises E505."""
        found = [x.shape[dim] for x in shards]
        if found != self.tokens.tolist():
            raise fail("E505", f"shards of {found} tokens along dimension {dim}; expected {self.tokens.tolist()}")
        parts: dict[int, Any] = {}
        for shard, chunks in zip(shards, self.chunks, strict=True):
            at = 0
            for c in chunks:
                parts[c.start] = _slice(shard, at, at + c.end - c.start, dim)
                at += c.end - c.start
        return _joined([parts[start] for start in sorted(parts)], dim)

    @functools.cached_property
    def digest(self) -> str:
        """Equal for equal partitions, in every process."""
        return hashlib.sha256(repr((self.length, self.chunks)).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON takes it."""
        return {
            "length": self.length,
            "ranks": self.ranks,
            "method": self.method,
            "exchange": self.exchange,
            "imbalance": round(self.imbalance, 6),
            "tokens": self.tokens.tolist(),
            "work": self.work.tolist(),
            "received": self.received.tolist(),
            "chunks": [[list(c) for c in chunks] for chunks in self.chunks],
        }

    def __str__(self) -> str:
        few, many = (min(self.tokens), max(self.tokens))
        counts = sorted({len(chunks) for chunks in self.chunks})
        parts = " or ".join(map(str, counts)) + (" chunk" if counts == [1] else " chunks")
        held = f"{few:,}" if few == many else f"{few:,} to {many:,}"
        most = int(self.received.max())
        share = f"{100 * most / self.length:.3g} % of all"
        return (
            f"{self.ranks} ranks of {held} tokens in {parts} ({self.method}); the busiest computes "
            f"{self.imbalance:.2f} times the mean, and none receives more than {most:,} keys ({share})"
        )

    def _rank(self, rank: int) -> int:
        return integer("rank", rank, 0, self.ranks - 1)


def positions(ranges: Iterable[tuple[int, int]]) -> Array:
    """All positions of ranges (start, end), int64."""
    parts = [np.arange(start, end, dtype=np.int64) for start, end in ranges]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _slice(x: Any, start: int, end: int, dim: int) -> Any:
    at: list[slice] = [slice(None)] * x.ndim
    at[dim] = slice(start, end)
    return x[tuple(at)]


def _joined(parts: Sequence[Any], dim: int) -> Any:
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts, axis=dim)
    import torch

    return torch.cat(list(parts), dim=dim)

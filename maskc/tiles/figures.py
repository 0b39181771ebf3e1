"""The statistics of a plan as data, and as sentences for people."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from maskc.tiles.liveness import Liveness
from maskc.tiles.reach import Reach
from maskc.tiles.report import cache_text, ratio_text, reach_text, size_text

__all__ = ["Advice", "Balance", "GroupStatistics", "Statistics", "pairs_text", "speedup_text", "summary"]


@dataclass(frozen=True)
class Advice:
    """One thing to do. ``kind``: "empty", "blind", "ahead", "tiles", "layout", "stride", "share", "balance" or
    "cache"; or "untried", for what is not known to be worth it. ``gain``: how many times faster or smaller it gets,
    None where that is not the point."""

    kind: str
    text: str
    gain: float | None = None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class GroupStatistics:
    """Of one head and one batch entry of a group.

    Attributes:
        heads, batches: the group's.
        useful_pairs: (query, key) pairs that the mask keeps.
        sampled: 0 if they were counted; else the number of partial tiles from which they were estimated.
        executed_pairs: pairs of the tiles that are computed.
        full, partial, empty: number of tiles of each kind.
        runs: number of runs.
        longest_row: tiles of the longest row; ``imbalance``: that over the mean of all rows.
        blind: queries that keep no key, None if that is not known; ``first_blind``: the first of them (absolute).
        live_keys: the most keys that are live at once (the KV cache of these heads alone), or a bound on that:
            exact where ``Statistics.liveness`` is.
    """

    heads: tuple[int, ...]
    batches: tuple[int, ...]
    useful_pairs: int
    sampled: int
    executed_pairs: int
    full: int
    partial: int
    empty: int
    runs: int
    longest_row: int
    imbalance: float
    blind: int | None
    first_blind: int | None
    live_keys: int = 0

    @property
    def copies(self) -> int:
        """Heads times batch entries."""
        return len(self.heads) * len(self.batches)

    @property
    def waste(self) -> float:
        """Executed over useful pairs; infinite if nothing is kept."""
        return self.executed_pairs / self.useful_pairs if self.useful_pairs else float("inf")


@dataclass(frozen=True)
class Balance:
    """How well the rows of all heads spread over workers: the time until all is done over the mean load, with
    rows in the order of the queries; heaviest first; and with long rows split along the keys, too."""

    workers: int
    in_order: float
    heaviest_first: float
    split: float
    split_rows: int


@dataclass(frozen=True)
class Statistics:
    """Of all heads and batch entries together, unless said otherwise.

    Attributes:
        name, q_len, k_len, heads, batch, q_tile, k_tile, layout: what was planned.
        useful_pairs: (query, key) pairs that the mask keeps. ``useful_exact``: whether that was counted, or
            estimated for some group from ``sampled`` partial tiles.
        executed_pairs: pairs of the tiles that are computed; ``dense_pairs``: of all tiles.
        waste: executed over useful pairs (infinite if nothing is kept, and None in JSON).
        full, partial, empty: number of tiles of each kind.
        runs, nbytes: number of runs, and the size of the plan in bytes.
        head_dim, value_dim: for the FLOPs.
        flops_forward, flops_backward: floating-point operations of the matrix products.
        speedup: over computing every tile, as the cost model predicts it; 1 if there is no tile.
        imbalance: tiles of the longest row over the mean of all rows, of the worst group.
        balance: over how many workers rows are spread, and how evenly; None if there are too many rows to try.
        liveness: which keys are live, the KV cache that the mask needs; None if there are no queries.
        reach: how far information travels with each layer; None for cross-attention, fewer queries than keys, and
            plans with a layout that cannot be followed.
        masks: number of distinct masks among heads and batch entries.
        groups: each group by itself.
        advice: what to do about it.
    """

    name: str
    q_len: int
    k_len: int
    heads: int
    batch: int
    q_tile: int
    k_tile: int
    layout: str
    useful_pairs: int
    useful_exact: bool
    sampled: int
    executed_pairs: int
    dense_pairs: int
    waste: float
    full: int
    partial: int
    empty: int
    runs: int
    nbytes: int
    head_dim: int
    value_dim: int
    flops_forward: int
    flops_backward: int
    speedup: float
    imbalance: float
    balance: Balance | None
    liveness: Liveness | None
    reach: Reach | None
    masks: int
    groups: tuple[GroupStatistics, ...]
    advice: tuple[Advice, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON: infinities as None, tuples as lists, and each group with its waste."""
        found = _plain(dataclasses.asdict(self))
        for group, g in zip(found["groups"], self.groups, strict=True):
            group["waste"] = _plain(g.waste)
        if self.reach is not None:
            found["reach"]["complete"] = self.reach.complete
        return dict(found)

    def __str__(self) -> str:
        return "\n".join(summary(self))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(v) for name, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def summary(s: Statistics) -> list[str]:
    """The statistics as lines of text."""
    lines = [
        f"{s.name}: {s.q_len:,} queries x {s.k_len:,} keys, heads {s.heads}, batch {s.batch}, "
        f"tiles {s.q_tile} x {s.k_tile}, layout {s.layout}",
        f"  tiles     {s.full:,} full, {s.partial:,} partial, {s.empty:,} empty; "
        f"{s.runs:,} runs, {size_text(s.nbytes)}, {s.masks} distinct masks",
        f"  pairs     {pairs_text(s)}",
        f"  work      {s.flops_forward:.3g} FLOPs forward, {s.flops_backward:.3g} backward "
        f"(head dimension {s.head_dim}); {speedup_text(s)}",
        f"  balance   the longest row has {s.imbalance:.2f} times the mean",
    ]
    if s.liveness is not None:
        lines.append(f"  KV cache  {cache_text(s.liveness)}")
    if s.reach is not None:
        lines.append(f"  reach     {reach_text(s.reach)}")
    return [*lines, *(f"  advice    {a}" for a in s.advice)]


def pairs_text(s: Statistics) -> str:
    """The useful pairs, and whether they are an estimate; the executed ones; and the waste, where there is any pair to
    speak of."""
    about = "" if s.useful_exact else "about "
    how = "" if s.useful_exact else f" (estimated from {s.sampled:,} tiles)"
    waste = f": waste {s.waste:.2f}" if math.isfinite(s.waste) else ""
    return f"{about}{s.useful_pairs:,}{how} useful, {s.executed_pairs:,} executed{waste}"


def speedup_text(s: Statistics) -> str:
    """The speed-up over dense, and what says so."""
    return f"{ratio_text(s.speedup, 1)} times over dense, by the cost model"

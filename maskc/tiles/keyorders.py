"""Orders of the keys in which those that a rule keeps for a query are one range: by position, or by label."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["KeyOrder"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class KeyOrder:
    """Keys sorted by their labels, and ranges of them. ``before[k]``: how many kept keys are below ``k``;
    ``key``: rank of the labels times ``width`` plus the position, sorted.

    ``stretches``, where the kept keys of every rank are one stretch of the kept keys: for each rank its first key's
    place among the kept keys, how many it has, and its first key's place in the order.
    """

    order: Array | None
    before: Array | None = None
    values: tuple[Array, ...] = ()
    key: Array | None = None
    width: int = 0
    stretches: tuple[Array, Array, Array] | None = None

    @staticmethod
    def of(k_len: int, keep: Array | None, labels: list[Array]) -> KeyOrder:
        if not labels:
            if keep is None:
                return KeyOrder(None)
            return KeyOrder(np.flatnonzero(keep), np.concatenate([[0], np.cumsum(keep, dtype=np.int64)]))
        kept = np.arange(k_len) if keep is None else np.flatnonzero(keep)
        values, rank = [], np.zeros(kept.size, np.int64)
        for label in labels:
            distinct, inverse = _ranked(label[kept])
            values.append(distinct)
            rank = rank * distinct.size + inverse
        # Keys rise already: a stable sort by rank is enough, and fast where there are few ranks.
        small = int(rank.max(initial=0)) < 1 << 16
        order = np.argsort(rank.astype(np.uint16) if small else rank, kind="stable")
        ranks = math.prod(x.size for x in values)
        stretches = _stretches(rank, order, ranks) if ranks <= 4 * k_len else None
        if stretches is not None:
            before = None if keep is None else np.concatenate([[0], np.cumsum(keep, dtype=np.int64)])
            return KeyOrder(kept[order], before, tuple(values), None, k_len + 1, stretches)
        key = rank * (k_len + 1) + kept
        return KeyOrder(kept[order], None, tuple(values), key[order], k_len + 1)

    def range(self, labels: tuple[Array, ...], lo: Array, hi: Array) -> tuple[Array, Array]:
        if self.before is not None:
            lo, hi = self.before[lo], self.before[hi]
        if not self.values:
            return lo, hi
        rank, known = np.zeros(lo.size, np.int64), np.ones(lo.size, np.bool_)
        for distinct, label in zip(self.values, labels, strict=True):
            at, there = _among(distinct, label)
            known &= there
            rank = rank * distinct.size + at
        if self.stretches is not None:
            first, count, place = (x[rank] if x.size else 0 for x in self.stretches)
            start, end = (place + np.clip(x - first, 0, count) for x in (lo, hi))
            return np.where(known, start, 0), np.where(known, end, 0)
        assert self.key is not None
        start = np.searchsorted(self.key, rank * self.width + lo)
        end = np.searchsorted(self.key, rank * self.width + hi)
        return np.where(known, start, 0), np.where(known, end, 0)


def _stretches(rank: Array, order: Array, ranks: int) -> tuple[Array, Array, Array] | None:
    """See ``KeyOrder``; None where the keys of some rank are in several stretches."""
    count = np.bincount(rank, minlength=ranks)
    place = np.cumsum(count) - count
    some = np.flatnonzero(count)
    first = np.zeros(ranks, np.int64)
    first[some] = order[place[some]]
    apart = order[place[some] + count[some] - 1] - first[some] + 1 > count[some]
    return None if apart.any() else (first, count, place)


def _among(distinct: Array, label: Array) -> tuple[Array, Array]:
    """The place of each label among distinct ones in order, and whether it is there; labels mostly come in runs."""
    new = np.append(True, label[1:] != label[:-1])[: label.size]
    runs = np.flatnonzero(new)
    if 8 * runs.size < label.size:
        length = np.diff(runs, append=label.size)
        at, there = _found(distinct, label[runs])
        return np.repeat(at, length), np.repeat(there, length)
    return _found(distinct, label)


def _found(distinct: Array, label: Array) -> tuple[Array, Array]:
    at = np.minimum(np.searchsorted(distinct, label), max(distinct.size - 1, 0))
    return at, distinct[at] == label if distinct.size else np.zeros(label.size, np.bool_)


def _ranked(label: Array) -> tuple[Array, Array]:
    """The distinct labels in order, and the rank of each label among them."""
    low = int(label.min()) if label.size else 0
    span = int(label.max()) - low + 1 if label.size else 0
    if span > 4 * label.size:
        distinct, inverse = np.unique(label, return_inverse=True)
        return distinct, inverse.reshape(-1)
    there = np.bincount(label - low, minlength=span) > 0
    return np.flatnonzero(there) + low, (np.cumsum(there) - 1)[label - low]

"""Which key tiles a clause can keep anything of, whatever its interval: conditions on the key, and scattered labels.

A condition on the key alone (``mark[k]``) passes some tiles whole, some in part and some not at all: one list of runs
of key tiles for all rows. Labels that are equal at the query and the key (``same(doc)``) give every row of tiles a list
of its own: the key tiles that share a label with it. Both are exact, and found without looking at pairs of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.tiles.runs import concatenated_ranges

__all__ = ["Columns", "columns_of_keys", "columns_of_labels"]

Array = npt.NDArray[Any]
_BAND = 1 << 19  # tiles that labels are compared for at once
#: Comparisons of tiles that labels may cost; beyond, they are not compared.
_MOST_WORK = 1 << 33


@dataclass(frozen=True, eq=False)
class Columns:
    """Runs of key tiles, disjoint and in order, those of row ``r`` from ``offsets[r]`` on. ``whole``: all pairs of the
    run's tiles pass; else each of its tiles has one that does and one that does not.

    ``apart``: the key alone decides, so that there is one list for all rows, and any query meets such keys.
    """

    cols: int
    offsets: Array
    start: Array
    end: Array
    whole: Array
    apart: bool

    @staticmethod
    def every(cols: int) -> Columns:
        """Nothing is restricted."""
        return columns_of_keys(np.ones(cols, np.bool_), 1)

    def rows(self, first: int, last: int) -> Columns:
        """Those of some rows, counted from the first of them."""
        if self.apart:
            return self
        offsets = self.offsets[first : last + 1]
        part = slice(int(offsets[0]), int(offsets[-1]))
        return Columns(self.cols, offsets - offsets[0], self.start[part], self.end[part], self.whole[part], False)

    def meet(self, row: Array, start: Array, end: Array) -> tuple[Array, Array, Array, Array]:
        """The parts of runs of tiles of some rows that pass: which run each is of, start, end, whether whole."""
        wide = self.cols + 1
        list_of = np.zeros_like(row) if self.apart else row
        owner = np.repeat(np.arange(self.offsets.size - 1), np.diff(self.offsets)) * wide
        first = np.searchsorted(owner + self.end, list_of * wide + start, side="right")
        last = np.searchsorted(owner + self.start, list_of * wide + end, side="left")
        count = np.maximum(last - first, 0)
        run, of = concatenated_ranges(first, count), np.repeat(np.arange(row.size), count)
        if not run.size:
            run = run[:0].astype(np.int64)
        return of, np.maximum(self.start[run], start[of]), np.minimum(self.end[run], end[of]), self.whole[run]


def columns_of_keys(passes: Array, tile: int) -> Columns:
    """The runs of a condition on the key, (k_len,) bool."""
    starts = np.arange(0, passes.size, tile)
    some, every = np.logical_or.reduceat(passes, starts), np.logical_and.reduceat(passes, starts)
    kind = (some.astype(np.uint8) + every)[None, :]
    return _encoded([kind], starts.size, True)


def columns_of_labels(q_label: Array, k_label: Array, starts: Array, tile: int) -> Columns | None:
    """The runs of ``q_label == k_label``: labels of the queries that are present, of which stretches begin at
    ``starts``, and of the keys. Rows are those stretches.

    None if that would take too long: where there are very many tiles.
    """
    q_rank, k_rank = _ranks(q_label, k_label)
    q, k = _Side.of(q_rank, starts), _Side.of(k_rank, np.arange(0, k_rank.size, tile))
    labels = int(max(q_rank.max(), k_rank.max())) + 1
    by_label = np.lexsort((k.tile, k.label))
    k_tiles, count = k.tile[by_label], np.bincount(k.label, minlength=labels)
    first = np.cumsum(count) - count
    often = np.flatnonzero(count > max(1, k.tiles // 16))
    often = often[np.argsort(-count[often], kind="stable")]
    rare = np.where(count[q.label] <= max(1, k.tiles // 16), count[q.label], 0)
    if q.tiles * k.tiles * (1 + often.size // 64) + int(rare.sum()) > _MOST_WORK:
        return None
    q_bits, k_bits = q.bits(often, labels), k.bits(often, labels)
    band = max(1, _BAND // k.tiles)
    kinds = []
    for r in range(0, q.tiles, band):
        rows = slice(r, min(r + band, q.tiles))
        shared = _share(q_bits[:, rows], k_bits)
        entries = slice(int(q.offsets[r]), int(q.offsets[rows.stop]))
        at, many = q.label[entries], rare[entries]
        shared[np.repeat(q.tile[entries] - r, many), k_tiles[concatenated_ranges(first[at], many)]] = True
        only = (q.only[rows, None] >= 0) & (q.only[rows, None] == k.only)
        kinds.append(shared.astype(np.uint8) + only)
    return _encoded(kinds, k.tiles, False)


def _ranks(q_label: Array, k_label: Array) -> tuple[Array, Array]:
    """Labels as small numbers."""
    every = np.concatenate([q_label, k_label])
    low, span = int(every.min()), int(every.max()) - int(every.min())
    ranks: Array = every - low if span < 4 * every.size else np.unique(every, return_inverse=True)[1].reshape(-1)
    return ranks[: q_label.size], ranks[q_label.size :]


@dataclass(frozen=True, eq=False)
class _Side:
    """The labels of each tile, each once: tile ``t`` has entries ``offsets[t]`` to ``offsets[t + 1]``.
    ``only``: the label of a tile that has but one, else -1."""

    tiles: int
    tile: Array
    label: Array
    offsets: Array
    only: Array

    @staticmethod
    def of(rank: Array, starts: Array) -> _Side:
        tiles, labels = starts.size, int(rank.max()) + 1
        key = np.repeat(np.arange(tiles), np.diff(starts, append=rank.size)) * labels + rank
        changes = np.append(True, key[1:] != key[:-1])  # few are left of labels that come in runs
        key = np.sort(key[changes])
        tile, label = np.divmod(key[np.append(True, key[1:] != key[:-1])], labels)
        offsets = np.searchsorted(tile, np.arange(tiles + 1))
        only = np.where(np.diff(offsets) == 1, label[offsets[:-1]], -1)
        return _Side(tiles, tile, label, offsets, only)

    def bits(self, which: Array, labels: int) -> Array:
        """Which of some labels each tile has, 64 labels a word: (words, tiles)."""
        place = np.full(labels, -1)
        place[which] = np.arange(which.size)
        there = place[self.label] >= 0
        at, tile = place[self.label[there]], self.tile[there]
        words = np.zeros((-(-which.size // 64), self.tiles), np.uint64)
        # Every (tile, label) comes once, so that adding is setting.
        np.add.at(words, (at // 64, tile), np.uint64(1) << (at % 64).astype(np.uint64))
        return words


def _share(q_bits: Array, k_bits: Array) -> Array:
    """Whether tiles share a label, (q tiles, k tiles): word by word, as long as there are tiles that may."""
    shared = np.zeros((q_bits.shape[1], k_bits.shape[1]), np.bool_)
    left: tuple[Array, ...] | None = None
    for q, k in zip(q_bits, k_bits, strict=True):
        if left is None:
            shared |= (q[:, None] & k) != 0
            if 2 * np.count_nonzero(shared) > shared.size:
                left = np.nonzero(~shared)
        elif left[0].size:
            found = (q[left[0]] & k[left[1]]) != 0
            shared[left[0][found], left[1][found]] = True
            left = left[0][~found], left[1][~found]
    return shared


def _encoded(kinds: list[Array], cols: int, apart: bool) -> Columns:
    """Bands of rows of tiles, each (rows, cols) of 0 (nothing passes), 1 (some) or 2 (all), as runs."""
    parts, counts = [], [np.zeros(1, np.int64)]
    for kind in kinds:
        edge = np.ones((kind.shape[0], cols), np.bool_)
        edge[:, 1:] = kind[:, 1:] != kind[:, :-1]
        at = np.flatnonzero(edge)
        end = np.append(at[1:], kind.size)
        keep = kind.ravel()[at] > 0
        at, end = at[keep], end[keep]
        parts.append((at % cols, (end - 1) % cols + 1, kind.ravel()[at] == 2))
        counts.append(np.bincount(at // cols, minlength=kind.shape[0]))
    start, end, whole = (np.concatenate(x) for x in zip(*parts, strict=True))
    return Columns(cols, np.cumsum(np.concatenate(counts)), start, end, whole, apart)

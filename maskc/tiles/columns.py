"""Which key tiles a clause can keep anything of, whatever its interval: conditions on the key, and scattered labels.

A condition on the key alone (``mark[k]``) passes some tiles whole, some in part and some not at all: one list of runs
of key tiles for all rows. Labels that are equal at the query and the key (``same(doc)``) give every row of tiles a list
of its own: the key tiles that share a label with it. Both are exact, and found without looking at pairs of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from maskc.tiles.budget import Budget
from maskc.tiles.runs import concatenated_ranges

__all__ = [
    "Columns",
    "Compared",
    "PairColumns",
    "columns_of_keys",
    "joint_labels",
    "runs_of_kinds",
    "shared_labels",
]

Array = npt.NDArray[Any]
_BAND = 64  # rows of tiles that are compared with key tiles at once
#: What comparing labels costs, in nanoseconds: a pair of tiles, whatever they hold; a word of bits of both; a key tile
#: of a label that few have. And how many of these are a unit of a budget.
_PAIR, _WORD, _RARE, _UNIT = 8, 2, 24, 48
_SEVERAL, _NONE = -1, -2  # labels


@dataclass(frozen=True, eq=False)
class Columns:
    """Runs of key tiles, disjoint and in order, those of row ``r`` from ``offsets[r]`` on. ``whole``: all pairs of the
    run's tiles pass; else each of its tiles has one that does and one that does not. ``most``: how many keys of a tile
    pass at most.

    ``apart``: the key alone decides, so that there is one list for all rows, and any query meets such keys.
    """

    cols: int
    offsets: Array
    start: Array
    end: Array
    whole: Array
    most: Array
    apart: bool

    @staticmethod
    def every(cols: int, tile: int) -> Columns:
        """Nothing is restricted."""
        ends, start = np.array([0, 1]), np.zeros(1, np.int64)
        return Columns(cols, ends, start, start + cols, np.ones(1, np.bool_), start + tile, True)

    @property
    def runs(self) -> int:
        """How many runs a row has, on average."""
        return self.start.size // max(1, self.offsets.size - 1)

    def rows(self, first: int, last: int) -> Columns:
        """Those of some rows, counted from the first of them."""
        if self.apart:
            return self
        offsets = self.offsets[first : last + 1]
        part = slice(int(offsets[0]), int(offsets[-1]))
        return Columns(
            self.cols, offsets - offsets[0], self.start[part], self.end[part], self.whole[part], self.most[part], False
        )

    def meet(self, row: Array, start: Array, end: Array) -> tuple[Array, Array, Array, Array, Array]:
        """The parts of runs of tiles of some rows that pass: which run each is of, start, end, whether whole, and how
        many keys at most."""
        wide = self.cols + 1
        list_of = np.zeros_like(row) if self.apart else row
        owner = np.repeat(np.arange(self.offsets.size - 1), np.diff(self.offsets)) * wide
        first = np.searchsorted(owner + self.end, list_of * wide + start, side="right")
        last = np.searchsorted(owner + self.start, list_of * wide + end, side="left")
        count = np.maximum(last - first, 0)
        run, of = concatenated_ranges(first, count), np.repeat(np.arange(row.size), count)
        if not run.size:
            run = run[:0].astype(np.int64)
        start, end = np.maximum(self.start[run], start[of]), np.minimum(self.end[run], end[of])
        return of, start, end, self.whole[run], self.most[run]


def columns_of_keys(passes: Array, tile: int) -> Columns:
    """The runs of a condition on the key, (k_len,) bool."""
    starts = np.arange(0, passes.size, tile)
    number = np.add.reduceat(passes, starts, dtype=np.int64)
    every = number == np.diff(starts, append=passes.size)
    count, start, end, whole = runs_of_kinds(((number > 0).astype(np.uint8) + every)[None, :])
    most = (
        np.maximum.reduceat(np.append(number, 0), np.stack([start, end], axis=1).ravel())[::2] if start.size else start
    )
    return Columns(starts.size, np.append(0, count), start, end, whole, most, True)


def joint_labels(q_labels: list[Array], k_labels: list[Array]) -> tuple[Array, Array]:
    """One label of each query and of each key that is equal where all of theirs are."""
    joint = np.concatenate([q_labels[0], k_labels[0]])
    for q, k in zip(q_labels[1:], k_labels[1:], strict=True):
        one, other = (np.unique(x, return_inverse=True)[1].reshape(-1) for x in (joint, np.concatenate([q, k])))
        joint = one * (int(other.max()) + 1) + other
    return joint[: q_labels[0].size], joint[q_labels[0].size :]


def shared_labels(
    q_label: Array,
    k_label: Array,
    starts: Array,
    tile: int,
    reach: tuple[Array, Array] | None = None,
    budget: Budget | None = None,
    admitted: tuple[Array | bool, Array | bool] = (True, True),
    free: Array | None = None,
    unequal: bool = False,
) -> PairColumns | None:
    """What there is to find the runs of ``q_label == k_label``, or of ``!=`` if ``unequal``: labels of the queries that
    are present, of which stretches begin at ``starts``, and of the keys. Rows are those stretches. Queries and keys
    that are not ``admitted`` pass with none; keys that are ``free`` pass with every query.

    ``reach``: the first key tile that is asked about in each row, and the one after the last; by default, all are.
    None if ``budget`` does not suffice: where there are very many tiles.
    """
    q_rank, k_rank, out = _ranks(q_label, k_label, *admitted)
    k_starts = np.arange(0, k_rank.size, tile)
    k_rank, k_free = _without_free(k_rank, k_starts, free)
    q, k = _Side.of(q_rank, starts, out), _Side.of(k_rank, k_starts, out)
    join = _Join.of(q, k, k_free, out + 2, unequal)
    # Rows with a label that all key tiles have, and others beside it, are all alike.
    several = q.sole == _SEVERAL if unequal else (q.sole == _SEVERAL) | ~q.every
    alike = ((join.q_bits & np.bitwise_and.reduce(join.k_bits, axis=1)[:, None]) != 0).any(axis=0) & several
    alike &= not (k_free == 2).any()
    lo, hi = (np.zeros(q.tiles, np.int64), np.full(q.tiles, k.tiles)) if reach is None else reach
    return PairColumns(join, alike, lo, hi, tile).within(budget, "labels that tiles share")


class Compared(Protocol):
    """Tiles of queries and of keys."""

    @property
    def k_count(self) -> int:
        """How many key tiles there are."""

    @property
    def runs_of_row(self) -> int:
        """How many runs a row has, or more, on average."""

    def work(self, rows: Array, tiles: int) -> int:
        """What comparing some rows with so many tiles costs, in nanoseconds."""

    def kinds(self, rows: Array, first: int, last: int) -> Array:
        """0, 1 or 2 for rows and the key tiles ``first`` to ``last`` (excluded): no pair passes, some do, all do."""


@dataclass(frozen=True, eq=False)
class PairColumns:
    """The columns of a condition on labels, or numbers, of the query and the key, found for some rows at a time: over
    all rows they may be millions. ``alike``: rows that pass in part with every key tile; ``lo`` and ``hi``: as
    ``reach``; ``tile``: keys a tile."""

    tiles: Compared
    alike: Array
    lo: Array
    hi: Array
    tile: int

    def work(self) -> int:
        """What finding all takes, in nanoseconds."""
        rows, bands = self._bands(0, self.lo.size)
        return self.tiles.work(rows, sum(r.size * (b - a) for r, a, b in bands))

    def within(self, budget: Budget | None, what: str) -> PairColumns | None:
        """These, if the budget suffices."""
        if budget is not None:
            cost = self.work() // _UNIT
            if not budget.affords_beside(cost):
                return None
            budget.spend(cost, what)
        return self

    @property
    def runs(self) -> int:
        """How many runs a row has, or more, on average."""
        return self.tiles.runs_of_row

    def rows(self, first: int, last: int) -> Columns:
        """Those of some rows, counted from the first of them."""
        k_tiles = self.tiles.k_count
        rows, bands = self._bands(first, last)
        parts = [runs_of_kinds(self.tiles.kinds(r, a, b)) for r, a, b in bands]
        count = self.alike[first:last].astype(np.int64)
        rows = rows - first
        count[rows] = np.concatenate([p[0] for p in parts]) if parts else 0
        offsets = np.append(0, np.cumsum(count))
        start, whole = np.zeros(offsets[-1], np.int64), np.zeros(offsets[-1], np.bool_)
        end = np.full(offsets[-1], k_tiles)
        if parts:
            at = concatenated_ranges(offsets[rows], count[rows])
            start[at] = np.concatenate([p[1] + a for p, (_, a, _) in zip(parts, bands, strict=True)])
            end[at] = np.concatenate([p[2] + a for p, (_, a, _) in zip(parts, bands, strict=True)])
            whole[at] = np.concatenate([p[3] for p in parts])
        return Columns(k_tiles, offsets, start, end, whole, np.full_like(start, self.tile), False)

    def _bands(self, first: int, last: int) -> tuple[Array, list[tuple[Array, int, int]]]:
        """The rows that have to be looked at, and bands of them with the key tiles that each reaches."""
        lo, hi = self.lo, self.hi
        rows = first + np.flatnonzero(~self.alike[first:last] & (hi[first:last] > lo[first:last]))
        bands = [rows[i : i + _BAND] for i in range(0, rows.size, _BAND)]
        return rows, [(r, int(lo[r].min()), int(hi[r].max())) for r in bands]


@dataclass(frozen=True, eq=False)
class _Join:
    """Tiles of queries and of keys, and which labels they have: those that are often met as bits, 64 a word, the
    others by the list of their key tiles (``k_tiles`` from ``first`` on, ``rare`` of them for each entry of ``q``).
    ``runs``: those of the key tiles of each label of each tile of queries, in all; ``k_free``: as ``_without_free``;
    ``unequal``: whether pairs pass whose labels are not equal."""

    q: _Side
    k: _Side
    q_bits: Array
    k_bits: Array
    k_tiles: Array
    first: Array
    rare: Array
    runs: int
    k_free: Array
    unequal: bool

    @staticmethod
    def of(q: _Side, k: _Side, k_free: Array, labels: int, unequal: bool) -> _Join:
        count = np.bincount(k.label, minlength=labels)
        limit = max(1, k.tiles // 16)
        often = np.flatnonzero(count > limit)
        often = often[np.argsort(-count[often], kind="stable")]
        rare = np.where(count[q.label] <= limit, count[q.label], 0)
        by_label = np.argsort(k.label, kind="stable")
        k_tiles, label = k.tile[by_label], k.label[by_label]
        starts = np.append(True, (label[1:] != label[:-1]) | (k_tiles[1:] != k_tiles[:-1] + 1))
        runs = int(np.bincount(label[starts], minlength=labels)[q.label].sum())
        first = np.cumsum(count) - count
        return _Join(q, k, q.bits(often, labels), k.bits(often, labels), k_tiles, first, rare, runs, k_free, unequal)

    @property
    def k_count(self) -> int:
        return self.k.tiles

    @property
    def runs_of_row(self) -> int:
        free = np.count_nonzero(np.diff(self.k_free))
        found = min(self.runs // max(1, self.q.tiles) + free, self.k.tiles // 2)
        return int(found) * (1 + self.unequal) + 1  # those between are runs, too, where labels are not to be equal

    def work(self, rows: Array, tiles: int) -> int:
        entries = concatenated_ranges(self.q.offsets[rows], np.diff(self.q.offsets)[rows])
        return int(tiles * (_PAIR + _WORD * self.q_bits.shape[0]) + _RARE * self.rare[entries].sum())

    def kinds(self, rows: Array, first: int, last: int) -> Array:
        shared = _share(self.q_bits[:, rows], self.k_bits[:, first:last])
        length = np.diff(self.q.offsets)[rows]
        entries = concatenated_ranges(self.q.offsets[rows], length)
        many = self.rare[entries]
        row = np.repeat(np.repeat(np.arange(rows.size), length), many)
        col = self.k_tiles[concatenated_ranges(self.first[self.q.label[entries]], many)] - first
        inside = (col >= 0) & (col < last - first)
        shared[row[inside], col[inside]] = True
        own, other, free = self.q.sole[rows, None], self.k.sole[first:last], self.k_free[first:last]
        one, every = (own >= 0) & (own == other), self.q.every[rows, None] & self.k.every[first:last]
        some, whole = shared, one & every
        if self.unequal:
            some, whole = (own != _NONE) & (other != _NONE) & ~one, ~shared & every
        found: Array = (some | (free > 0)).astype(np.uint8) + (whole | (free == 2))
        return found


def _ranks(
    q_label: Array, k_label: Array, q_admitted: Array | bool, k_admitted: Array | bool
) -> tuple[Array, Array, int]:
    """Labels as small numbers: one for all keys that no query has the label of, and two, the last ones, for queries and
    for keys that are not admitted; with the first of these."""
    every = np.concatenate([q_label, k_label])
    low, span = int(every.min()), int(every.max()) - int(every.min())
    ranks: Array = every - low if span < 4 * every.size else np.unique(every, return_inverse=True)[1].reshape(-1)
    q, k = ranks[: q_label.size], ranks[q_label.size :]
    other = int(ranks.max()) + 1
    q = np.where(q_admitted, q, other + 1)
    wanted = np.zeros(other + 2, np.bool_)
    wanted[q] = True
    return q, np.where(k_admitted, np.where(wanted[k], k, other), other + 2), other + 1


def _without_free(rank: Array, starts: Array, free: Array | None) -> tuple[Array, Array]:
    """The keys' labels without those of free keys, each of which gets one that its tile has anyway; and whether no key
    of each tile is free (0), some are (1) or all are (2)."""
    if free is None:
        return rank, np.zeros(starts.size, np.uint8)
    size = np.diff(starts, append=rank.size)
    number = np.add.reduceat(free, starts, dtype=np.int64)
    first = np.minimum.reduceat(np.where(free, rank.size - 1, np.arange(rank.size)), starts)
    kind = (number > 0).astype(np.uint8) + (number == size)
    return np.where(free, np.repeat(rank[first], size), rank), kind


@dataclass(frozen=True, eq=False)
class _Side:
    """The labels of each tile, each once: tile ``t`` has entries ``offsets[t]`` to ``offsets[t + 1]``.
    ``sole``: the label of a tile that has but one of what is admitted, else how many; ``every``: all is admitted."""

    tiles: int
    tile: Array
    label: Array
    offsets: Array
    sole: Array
    every: Array

    @staticmethod
    def of(rank: Array, starts: Array, out: int) -> _Side:
        """``out``: labels from this on are of what is not admitted."""
        tiles, labels = starts.size, int(rank.max()) + 1
        key = np.repeat(np.arange(tiles), np.diff(starts, append=rank.size)) * labels + rank
        changes = np.append(True, key[1:] != key[:-1])  # few are left of labels that come in runs
        key = np.sort(key[changes])
        tile, label = np.divmod(key[np.append(True, key[1:] != key[:-1])], labels)
        offsets = np.searchsorted(tile, np.arange(tiles + 1))
        number = np.bincount(tile[label < out], minlength=tiles)
        sole = np.where(number == 1, label[offsets[:-1]], np.where(number > 1, _SEVERAL, _NONE))
        return _Side(tiles, tile, label, offsets, sole, number == np.diff(offsets))

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


def runs_of_kinds(kind: Array) -> tuple[Array, Array, Array, Array]:
    """Rows of tiles, (rows, cols) of 0 (nothing passes), 1 (some) or 2 (all), as runs: how many each row has, start,
    end, whether whole."""
    rows, cols = kind.shape
    edge = np.ones((rows, cols), np.bool_)
    edge[:, 1:] = kind[:, 1:] != kind[:, :-1]
    at = np.flatnonzero(edge)
    end = np.append(at[1:], kind.size)
    keep = kind.ravel()[at] > 0
    at, end = at[keep], end[keep]
    return np.bincount(at // cols, minlength=rows), at % cols, (end - 1) % cols + 1, kind.ravel()[at] == 2

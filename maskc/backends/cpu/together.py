"""Entries of unlike lengths in one call of torch's kernel, behind a mask that leaves out what fills up shorter ones.

A computation of its own costs an entry as much as some hundred keys. So entries share one wherever that adds few
keys: neighbours in a cache that can be read as it is, as one view of it; others, whose keys are copied anyway, side by
side in the copy. Keys that no query keeps are behind the mask. If such a key is not finite, which a view may meet, the
result is not either, or its log-sum-exp; it is dropped then, and its entries are computed without such keys.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from maskc.backends.cpu.blocks import pick, take
from maskc.backends.cpu.entry import dense, finite, same_width
from maskc.backends.cpu.jobs import Bools, Ints
from maskc.backends.cpu.kernels import careful_flash
from maskc.backends.decoding import Cohort, DecodeCall, check_kept_pages
from maskc.ir.nodes import Symbol

__all__ = ["Group", "Live", "can_share", "copies", "union", "views"]

Tensor = torch.Tensor
Ranges = list[tuple[int, int]]
_CALL = 1 << 20  # bytes of keys and values that are read in the time that a computation of its own takes
_COPYING = 2  # times as long, at least, as reading
_COPY = 1 << 22  # bytes of keys that are copied at once: memory that is new for every call costs more than the copy


def can_share(call: DecodeCall, bounds: Sequence[tuple[Ints, Ints]]) -> bool:
    """Whether softmaxes of the products themselves are asked for, which is what torch's kernel computes, and masks are
    little beside keys."""
    program, heads = call.program, max((lo.shape[1] for lo, _ in bounds), default=1)
    if 8 * heads * call.q.shape[2] > call.kv_heads * (call.k.shape[3] + call.v.shape[3]):
        return False
    plain = program.score is Symbol("s") and program.output is Symbol("o")
    return plain and program.normalizer.kind == "softmax" and program.normalizer.sink is None


class Live:
    """Which keys of its cache each batch entry keeps: ``lo <= key < hi`` of any clause, (clauses, B, heads or 1, Nq).

    Queries that an entry does not have keep none, nor does an entry that is not there.
    """

    def __init__(self, call: DecodeCall, cohorts: Sequence[Cohort], bounds: Sequence[tuple[Ints, Ints]]) -> None:
        batch, _, rows, _ = call.q.shape
        clauses = max((lo.shape[0] for lo, _ in bounds), default=0)
        heads = max((lo.shape[1] for lo, _ in bounds), default=1)
        self.lo, self.hi = np.zeros((2, clauses, batch, heads, rows), np.int64)
        self.cohorts: dict[int, Cohort] = {}
        for cohort, (lo, hi) in zip(cohorts, bounds, strict=True):
            for entry in cohort.entries:
                self.cohorts[entry] = cohort
                self.lo[:, entry, :, rows - cohort.rows :] = lo - cohort.start
                self.hi[:, entry, :, rows - cohort.rows :] = hi - cohort.start
        live = self.hi > self.lo
        first = np.where(live, self.lo, call.capacity).min(axis=(2, 3), initial=call.capacity)
        last = np.where(live, self.hi, 0).max(axis=(2, 3), initial=0)
        #: For each entry and clause the first key and the end, where some query keeps one.
        self.spans = [
            sorted((a, b) for a, b in zip(*both, strict=True) if b > a)
            for both in zip(first.T.tolist(), last.T.tolist(), strict=True)
        ]

    def kept(self, entries: slice | list[int], keys: Ints) -> Bools:
        """The mask of some entries, (entries, heads or 1, Nq, keys), at ``keys`` (entries or 1, keys)."""
        at, found = keys[:, None, None], np.zeros((), np.bool_)
        for lo, hi in zip(self.lo[:, entries, ..., None], self.hi[:, entries, ..., None], strict=True):
            found = found | ((lo <= at) & (at < hi))
        return np.asarray(found)


@dataclass(frozen=True)
class Group:
    """Entries that are computed together; ``keys``: of each entry, (entries or 1, keys), -1 for what fills up."""

    call: DecodeCall
    live: Live
    entries: tuple[int, ...]
    keys: Ints
    pages: npt.NDArray[np.int64] | None = None
    copied: bool = False

    def put(self, out: Tensor, lse: Tensor) -> bool:
        """Write results (B, Hq, Nq, ...) to their places; False: something is not finite, and nothing was written."""
        call = self.call
        which = pick(self.entries, len(call.q))
        at = slice(None) if which is None else which
        kept = torch.from_numpy(self.live.kept(list(self.entries), self.keys))
        precise = torch.float64 if call.q.dtype == torch.float64 else torch.float32
        q = dense(take(call.q, 0, which).to(precise))
        k, v = (self._keys(x, kept).to(precise) for x in (call.k, call.v))
        width = v.shape[3]
        q, k, v = same_width(q, k, v)
        part, part_lse = _attend(q, k, v, kept, call.scale)
        if not finite(part) or bool(part_lse.isnan().any()):
            return False
        out[at], lse[at] = part[..., :width].to(out.dtype), part_lse
        return True

    def _keys(self, cache: Tensor, kept: Tensor) -> Tensor:
        """(entries, Hkv, keys, D): a view, or a copy with 0 for what no query keeps, whatever lies there."""
        if not self.copied:
            a, b = int(self.keys[0, 0]), int(self.keys[0, -1]) + 1
            return cache[self.entries[0] : self.entries[-1] + 1, :, a:b]
        entries, keys = self.keys.shape
        if self.pages is not None:
            found = cache.index_select(0, torch.from_numpy(self.pages.ravel())).flatten(0, 1)
        else:
            rows = torch.tensor(self.entries)[:, None]
            found = cache.transpose(1, 2)[rows, torch.from_numpy(self.keys).clamp(min=0)].flatten(0, 1)
        unseen = (~kept.flatten(1, 2).any(dim=1)).flatten().nonzero()[:, 0]
        return found.index_fill_(0, unseen, 0).view(entries, keys, *found.shape[1:]).transpose(1, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor, kept: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of queries that keep ``kept``, (entries, heads or 1, Nq, keys)."""
    if bool(kept.all()):
        return careful_flash(q, k, v, False, None, None, scale)
    added = torch.zeros(kept.shape, dtype=q.dtype).masked_fill_(~kept, -torch.inf)
    return careful_flash(q, k, v, False, added.expand(-1, q.shape[1], -1, -1), ~kept.any(dim=-1), scale)


def _can_view(call: DecodeCall) -> bool:
    """Whether the cache can be read as it is: no page, and nothing to convert."""
    precise = torch.float64 if call.q.dtype == torch.float64 else torch.float32
    plain = all(x.dtype == precise and x.stride(-1) == 1 for x in (call.k, call.v))
    return plain and call.block_table is None and call.k.shape[3] == call.v.shape[3]


def _bytes(call: DecodeCall) -> int:
    """Of a key and its value, in the precision of the computation."""
    return call.kv_heads * (call.k.shape[3] + call.v.shape[3]) * (8 if call.q.dtype == torch.float64 else 4)


@dataclass(frozen=True)
class _Run:
    """Neighbours in a cache, seen from the key ``first`` to ``last`` (excluded).

    ``keys``: that they keep, in all. ``saved``: bytes that are read in the time their own computations would take.
    """

    entries: range
    first: int
    last: int
    keys: int
    saved: int

    def with_next(self, other: _Run) -> _Run:
        entries = range(self.entries.start, other.entries.stop)
        first, last = min(self.first, other.first), max(self.last, other.last)
        return _Run(entries, first, last, self.keys + other.keys, self.saved + other.saved)

    def pays(self, key: int) -> bool:
        """Whether a view, of so many bytes a key, costs no more than it saves."""
        return (len(self.entries) * (self.last - self.first) - self.keys) * key + _CALL <= self.saved


def views(call: DecodeCall, live: Live) -> Iterator[Group]:
    """Neighbours, as long as what fills up the shorter ones costs less than the calls that are saved."""
    if not _can_view(call) or len(set(live.cohorts.values())) == 1:
        return
    key, run = _bytes(call), None
    for entry in sorted(live.cohorts):
        spans = union(live.spans[entry])
        if not spans:
            continue
        keys = sum(b - a for a, b in spans)
        copied = 0 if len(spans) == 1 else _COPYING * keys * key  # what lies apart would be brought together
        own = _Run(range(entry, entry + 1), spans[0][0], spans[-1][1], keys, _CALL + copied)
        both = None if run is None else run.with_next(own)
        if both is not None and both.pays(key):
            run = both
            continue
        if run is not None and run.pays(key):
            yield Group(call, live, tuple(run.entries), np.arange(run.first, run.last)[None])
        run = own
    if run is not None and run.pays(key):
        yield Group(call, live, tuple(run.entries), np.arange(run.first, run.last)[None])


def copies(call: DecodeCall, live: Live, entries: Collection[int]) -> Iterator[Group]:
    """Entries with about as many keys, up to as many as are copied at once.

    Raises E504 where a page that holds a key that is kept is none of the cache.
    """
    if _can_view(call) and len(set(live.cohorts.values())) == 1:
        return
    size, key = max(1, call.block_size), _bytes(call)
    # More keys in a row are rather read where they lie.
    alone = _CALL // (2 * _COPYING) // key if _can_view(call) else 0
    ranges, counts = {}, {}
    for entry in entries:
        spans = live.spans[entry]
        exact, whole = sum(b - a for a, b in spans), union([(a // size, -(-b // size)) for a, b in spans])
        count = size * sum(b - a for a, b in whole)
        # Whole pages are copied at once, unless that is much more than the keys in them.
        if spans and count <= 2 * (exact + size) and (not alone or len(spans) > 1 or count <= alone):
            ranges[entry], counts[entry] = whole, count
    run: list[int] = []
    padded = 0
    for entry in [*sorted(counts, key=lambda e: -counts[e]), -1]:
        if run and entry >= 0:
            more = counts[run[0]] - counts[entry]
            if (padded + more) * key * _COPYING <= _CALL and (len(run) + 1) * counts[run[0]] * key <= 2 * _COPY:
                run, padded = [*run, entry], padded + more
                continue
        if len(run) > 1:
            yield _copy(call, live, sorted(run), ranges)
        run, padded = [entry], 0


def _copy(call: DecodeCall, live: Live, entries: list[int], ranges: dict[int, Ranges]) -> Group:
    found = [np.concatenate([np.arange(a, b) for a, b in ranges[e]]) for e in entries]
    keys = np.full((len(entries), max(len(x) for x in found)), -1)
    for row, x in zip(keys, found, strict=True):
        row[: len(x)] = x
    if call.block_table is None:
        return Group(call, live, tuple(entries), keys, copied=True)
    pages = np.take_along_axis(call.block_table.numpy()[entries], keys.clip(min=0), axis=1).astype(np.int64)
    there = (pages >= 0) & (pages < call.k.shape[0])
    if not there.all():  # what fills up is the first page again
        for entry in {e for e, row in zip(entries, there, strict=True) if not row.all()}:
            check_kept_pages(live.cohorts[entry].only((entry,)))
    size = call.block_size
    at = np.where(keys[..., None] < 0, -1, keys[..., None] * size + np.arange(size)).reshape(len(entries), -1)
    return Group(call, live, tuple(entries), at, pages.clip(0, max(0, call.k.shape[0] - 1)), True)


def union(ranges: Ranges) -> Ranges:
    """Disjoint ranges that do not touch, in order."""
    found: Ranges = []
    for a, b in sorted(ranges):
        if found and a <= found[-1][1]:
            found[-1] = (found[-1][0], max(b, found[-1][1]))
        else:
            found.append((a, b))
    return found

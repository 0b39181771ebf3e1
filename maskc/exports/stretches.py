"""A mask as stretches: of keys that each query keeps, or of queries that keep each key.

Both are exact, and found from the plan of the mask: no pair is looked at but those of partial tiles, and those only
where the mask cannot be solved for the key.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskc.tiles.runs import concatenated_ranges, row_of_runs
from maskc.tiles.tiling import FULL, PARTIAL

if TYPE_CHECKING:
    from maskc.tiles.plan import TilePlan
    from maskc.tiles.tiling import Group

__all__ = [
    "Spans",
    "Unfit",
    "groups_by_member",
    "keys_of_queries",
    "partial_tiles",
    "queries_of_keys",
    "same_mask",
    "tiles_at_once",
]

Array = npt.NDArray[Any]
#: ``first`` and ``last`` (excluded) of each stretch, (stretches, tokens), int32: disjoint, ascending, and
#: ``first == last`` for those that a token has not, which come last.
Spans = tuple[Array, Array]
_ROWS = 1 << 16  # queries that are looked at together
_LOOK = 1 << 28  # pairs of partial tiles that are looked at
_AT_ONCE = 1 << 22  # of them, together


class Unfit(Exception):
    """The mask is nothing that can be exported so; the message says why, and of which token."""


def groups_by_member(plan: TilePlan) -> dict[tuple[int, int], Group]:
    """The group of each head and batch entry."""
    return {(h, i): g for g in plan.groups for h in g.heads for i in g.batches}


def same_mask(plan: TilePlan, one: Group, other: Group) -> bool:
    """Whether two groups keep the same pairs: plans tell masks apart by what they are made from, and windows that are
    wider than the sequence make the same of unlike numbers. False where too many pairs would have to be looked at."""
    if one.runs is other.runs:
        return True
    known, others = plan.intervals(one), plan.intervals(other)
    if known is not None and others is not None:
        return len(known) == len(others) and _equal(itertools.chain(*known), itertools.chain(*others))
    runs: list[list[Array]] = [[r.offsets, r.start, r.end, r.kind] for r in (one.runs, other.runs)]
    if known is not others or not _equal(*runs):
        return False
    rows, cols = partial_tiles(one)
    step = tiles_at_once(plan)
    parts = (slice(a, a + step) for a in range(0, rows.size, step))
    return rows.size * plan.q_tile * plan.k_tile <= _LOOK and all(
        _equal(*([plan.tile_mask(g, rows[part], cols[part])] for g in (one, other))) for part in parts
    )


def _equal(some: Iterable[Array], others: Iterable[Array]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(some, others, strict=True))


def keys_of_queries(plan: TilePlan, group: Group, most: int) -> Spans:
    """The stretches of keys that each query keeps, at most ``most``. Raises Unfit."""
    known = plan.intervals(group)
    if known is None:
        return _spans(_toggles_in_tiles(plan, group, most, by_key=False), plan.binding.q_len, most, by_key=False)
    if not known:
        nothing = np.zeros((0, plan.binding.q_len), np.int32)
        return nothing, nothing
    first, last = (np.stack([x[i] for x in known]) for i in (0, 1))
    count = (last > first).sum(0)
    _check(count, most, by_key=False)
    first, last = _packed(first, last)
    some = int(count.max(initial=0))
    return first[:some], last[:some]


def queries_of_keys(plan: TilePlan, group: Group, most: int) -> Spans:
    """The stretches of queries that keep each key, at most ``most``. Raises Unfit."""
    known = plan.intervals(group)
    k_len = plan.binding.k_len
    if known is None:
        toggles = _toggles_in_tiles(plan, group, most, by_key=True)
    elif len(known) == 1 and all(bool((x[1:] >= x[:-1]).all()) for x in known[0]):
        # Where both ends only advance, a key is kept from the query on that reaches it up to the one that leaves it.
        last, first = (np.cumsum(np.bincount(x, minlength=k_len)[:k_len], dtype=np.int32) for x in known[0])
        return first[None], last[None]
    else:
        toggles = _toggles_between_rows(known, plan.binding.q_len, k_len, most)
    return _spans(toggles, k_len, most, by_key=True)


Toggles = tuple[Array, Array]


def _toggles_between_rows(known: Any, q_len: int, k_len: int, most: int) -> Toggles:
    """Key, and query from which on it is kept where it was not, or no longer. A key is looked at only where that
    changes: two queries differ by what lies between the sorted ends of both their intervals, in pairs."""
    ends = [x for interval in known for x in interval]
    keys, queries, found = [], [], 0
    for a in range(0, q_len + 1, _ROWS):
        z = min(a + _ROWS, q_len + 1)
        points = np.zeros((2 * len(ends), z - a), np.int64)
        for i, x in enumerate(ends):
            points[i, : min(z, q_len) - a] = x[a : min(z, q_len)]  # the row itself; behind the last one nothing is kept
            points[len(ends) + i, max(0, 1 - a) :] = x[max(a - 1, 0) : z - 1]  # and the row before
        points.sort(axis=0)
        start, length = points[::2], points[1::2] - points[::2]
        keys.append(concatenated_ranges(start.T.ravel(), length.T.ravel()))
        queries.append(np.repeat(np.repeat(np.arange(a, z), len(start)), length.T.ravel()))
        found += int(length.sum())
        if found > 2 * (most + 1) * k_len:
            key = int(np.bincount(np.concatenate(keys), minlength=k_len).argmax())
            raise Unfit(_too_many(key, f"more than {most}", by_key=True))
    return np.concatenate(keys), np.concatenate(queries)


def _toggles_in_tiles(plan: TilePlan, group: Group, most: int, by_key: bool) -> Toggles:
    """The same from the tiles; with ``by_key`` False, query and key. Raises Unfit where too many pairs are to be looked
    at, or where a token has more than ``most`` stretches before all of them are."""
    runs, (q_len, k_len) = group.runs, (plan.binding.q_len, plan.binding.k_len)
    row = row_of_runs(runs)
    rows, cols = partial_tiles(group)
    if rows.size * plan.q_tile * plan.k_tile > _LOOK:
        raise Unfit("its edges are too long, and cannot be solved for the key")
    found: list[Toggles] = []
    step = tiles_at_once(plan)
    count = np.zeros(k_len if by_key else q_len, np.int64)
    for a in range(0, rows.size, step):
        r, c = rows[a : a + step], cols[a : a + step]
        kept = plan.tile_mask(group, r, c)
        token, along = (c * plan.k_tile, r * plan.q_tile) if by_key else (r * plan.q_tile, c * plan.k_tile)
        kept = kept.transpose(0, 2, 1) if by_key else kept
        before, behind = (np.zeros_like(kept[:, :, :1]) for _ in range(2))
        tile, i, j = np.nonzero(np.diff(np.concatenate([before, kept, behind], 2).astype(np.int8), axis=2))
        found.append((token[tile] + i, along[tile] + j))
        if a + step < rows.size:  # What changes within a tile is an end of a stretch, whatever the other tiles hold.
            within = (j > 0) & (j < kept.shape[2])
            count += np.bincount(found[-1][0][within], minlength=count.size)[: count.size]
            if (count > 2 * most).any():
                raise Unfit(_too_many(int(np.argmax(count)), f"more than {most}", by_key))
    full = np.flatnonzero(runs.kind == FULL)
    tiles = (runs.end - runs.start)[full].astype(np.int64)
    if by_key:
        owner = np.repeat(row[full].astype(np.int64), tiles)
        which = concatenated_ranges(runs.start[full].astype(np.int64), tiles)
        token, first, last = which * plan.k_tile, owner * plan.q_tile, (owner + 1) * plan.q_tile
        width, ends = plan.k_tile, (k_len, q_len)
    else:
        token, first = row[full].astype(np.int64) * plan.q_tile, runs.start[full].astype(np.int64) * plan.k_tile
        last, width, ends = runs.end[full].astype(np.int64) * plan.k_tile, plan.q_tile, (q_len, k_len)
    size = np.minimum(token + width, ends[0]) - token
    if int(size.sum()) > _LOOK:
        raise Unfit("it is too large, and cannot be solved for the key")
    every = concatenated_ranges(token, size)
    found += [(every, np.repeat(np.minimum(x, ends[1]), size)) for x in (first, last)]
    token, along = (np.concatenate(x) for x in zip(*found, strict=True)) if found else (row[:0], row[:0])
    # Where one stretch ends and the next one starts, nothing changes.
    order = np.lexsort((along, token))
    token, along = token[order], along[order]
    twice = np.flatnonzero((token[1:] == token[:-1]) & (along[1:] == along[:-1]))
    alone = np.ones(token.size, np.bool_)
    alone[twice], alone[twice + 1] = False, False
    return token[alone], along[alone]


def _spans(toggles: Toggles, tokens: int, most: int, by_key: bool) -> Spans:
    """From where something changes to stretches."""
    token, along = toggles
    order = np.argsort(token, kind="stable")  # along a token they ascend already
    token, along = token[order], along[order]
    count = np.bincount(token, minlength=tokens)
    _check(count // 2, most, by_key)
    found = np.zeros((int(count.max(initial=0)) // 2, 2, tokens), np.int32)
    number = np.arange(token.size) - (np.cumsum(count) - count)[token]
    found[number // 2, number % 2, token] = along
    return found[:, 0], found[:, 1]


def _check(count: Array, most: int, by_key: bool) -> None:
    if (count > most).any():
        token = int(np.argmax(count > most))
        raise Unfit(_too_many(token, str(int(count[token])), by_key))


def _too_many(token: int, count: str, by_key: bool) -> str:
    if by_key:
        return f"key {token} is kept by {count} stretches of queries"
    return f"query {token} keeps {count} stretches of keys"


def partial_tiles(group: Group) -> tuple[Array, Array]:
    """Their rows and columns."""
    runs, row = group.runs, row_of_runs(group.runs).astype(np.int64)
    part = np.flatnonzero(runs.kind == PARTIAL)
    start, width = (x[part].astype(np.int64) for x in (runs.start, runs.end - runs.start))
    return np.repeat(row[part], width), concatenated_ranges(start, width)


def tiles_at_once(plan: TilePlan) -> int:
    return max(1, _AT_ONCE // (plan.q_tile * plan.k_tile))


def _packed(first: Array, last: Array) -> Spans:
    """Empty stretches behind the others."""
    order = np.argsort(last <= first, axis=0, kind="stable")
    return np.take_along_axis(first, order, 0), np.take_along_axis(last, order, 0)

"""The key intervals of every query: as the plan gives them, solved from the mask, or read off the tiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from maskc.diagnostics import MaskcError
from maskc.ir.evaluate import evaluate
from maskc.ir.nodes import Node, Symbol, postorder
from maskc.passes.rows import Clause, rows
from maskc.passes.specialise import bind
from maskc.tiles.plan import FULL

if TYPE_CHECKING:
    from maskc.backends.cpu.jobs import Ints
    from maskc.tiles.plan import Group, TilePlan

__all__ = ["key_intervals"]

_CLAUSES = 4  # intervals a query that are read off
_SOLVED = 8  # clauses that are solved for
_LOOK = 1 << 26  # pairs that are looked at to read them off

Intervals = Sequence[tuple[Any, Any]]


def key_intervals(plan: TilePlan, group: Group) -> Intervals:
    """First and last key (excluded) of a few intervals whose union every laid-out query keeps, perhaps
    overlapping, as arrays over the queries; empty where they are not known or too many."""
    return group.intervals or _solved(plan, group) or _read_off(plan, group)


def _solved(plan: TilePlan, group: Group) -> Intervals:
    """From the mask itself, where it can be solved for the key."""
    if plan.q_order.index is not None or plan.k_order.index is not None:
        return []
    binding, head = plan.binding, group.heads[0]
    sizes = {**binding.sizes, "q": binding.q_len, "k": binding.k_len}
    try:
        bound = bind(
            plan.program,
            args=binding.args,
            layer=binding.layer,
            heads=binding.heads,
            head=head,
            sizes=sizes,
            tables=binding.tables,
        )
    except MaskcError:  # too many alternatives to write out
        return []
    clauses = rows(bound.mask)
    if len(clauses) > _SOLVED or any(Symbol("k") in postorder([c.residual]) for c in clauses):
        return []
    return [_bounds(plan, group, c) for c in clauses]


def _bounds(plan: TilePlan, group: Group, clause: Clause) -> tuple[Ints, Ints]:
    binding = plan.binding
    q = np.arange(binding.q_len) + binding.offset

    def value(node: Node | None, default: int) -> Any:
        if node is None:
            return np.full(len(q), default)
        params = plan.program.params
        found = evaluate(
            node, binding, q=q, k=np.zeros(1, np.int64), h=group.heads[0], b=group.batches[0], params=params
        )
        return np.broadcast_to(found, q.shape)

    lo, hi = value(clause.lo, 0), value(clause.hi, binding.k_len)
    return lo, np.where(value(clause.residual, 1), hi, 0)


def _read_off(plan: TilePlan, group: Group) -> list[tuple[Ints, Ints]]:
    """The key intervals of every query, read off the tiles; empty where there are many, or many pairs to look at."""
    spans = [_full_spans(plan, group), *_partial_spans(plan, group)]
    row, start, end = (np.concatenate(x) for x in zip(*spans, strict=True))
    if int((group.runs.kind != FULL) @ (group.runs.end - group.runs.start)) and len(spans) == 1:
        return []
    order = np.lexsort((start, row))
    row, start, end = row[order], start[order], end[order]
    apart = np.ones(len(row), dtype=np.bool_)
    apart[1:] = (row[1:] != row[:-1]) | (start[1:] > end[:-1])  # spans that touch are one
    last = np.append(np.flatnonzero(apart)[1:] - 1, len(row) - 1)
    row, start, end = row[apart], start[apart], end[last]
    number = np.arange(len(row)) - np.searchsorted(row, row)
    most = int(number.max(initial=-1)) + 1
    if most > _CLAUSES:
        return []
    lo, hi = np.zeros((2, most, plan.binding.q_len), dtype=np.int64)
    lo[number, row], hi[number, row] = start, end
    return list(zip(lo, hi, strict=True))


def _full_spans(plan: TilePlan, group: Group) -> tuple[Ints, Ints, Ints]:
    """Query, first key and last key (excluded) of what full runs keep."""
    runs, q_len = group.runs, plan.binding.q_len
    full = runs.kind == FULL
    tile_rows = np.repeat(np.arange(len(runs.offsets) - 1), np.diff(runs.offsets))[full]
    rows = (tile_rows[:, None] * plan.q_tile + np.arange(plan.q_tile)).ravel()
    start = np.repeat(runs.start[full].astype(np.int64) * plan.k_tile, plan.q_tile)
    end = np.repeat(runs.end[full].astype(np.int64) * plan.k_tile, plan.q_tile).clip(max=plan.binding.k_len)
    there = rows < q_len
    return rows[there], start[there], end[there]


def _partial_spans(plan: TilePlan, group: Group) -> list[tuple[Ints, Ints, Ints]]:
    """The same of partial tiles; nothing where they are too many, or too frayed."""
    rows, cols = _partial_tiles(group)
    size, found = plan.q_tile * plan.k_tile, []
    if len(rows) * size > _LOOK:
        return []
    step = max(1, (1 << 20) // size)
    for a in range(0, len(rows), step):
        r, c = rows[a : a + step], cols[a : a + step]
        kept = np.pad(plan.tile_mask(group, r, c).astype(np.int8), ((0, 0), (0, 0), (1, 1)))
        edges = np.diff(kept, axis=2)
        tile, i, j = np.nonzero(edges == 1)
        if len(tile) > _CLAUSES * len(r) * plan.q_tile:
            return []
        found.append(
            (r[tile] * plan.q_tile + i, c[tile] * plan.k_tile + j, c[tile] * plan.k_tile + np.nonzero(edges == -1)[2])
        )
    return found


def _partial_tiles(group: Group) -> tuple[Ints, Ints]:
    """Row and column of every partial tile."""
    runs = group.runs
    tile_rows = np.repeat(np.arange(len(runs.offsets) - 1), np.diff(runs.offsets))
    lengths = np.where(runs.kind == FULL, 0, runs.end - runs.start).astype(np.int64)
    within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(tile_rows, lengths), np.repeat(runs.start.astype(np.int64), lengths) + within

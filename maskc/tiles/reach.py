"""How far information travels with each layer.

In one layer a query hears of the keys it keeps, and of itself by the residual connection; in the next one also of
what those had heard of. ``reach`` says after how many layers a query has heard of everything that it ever will.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from maskc.ir.evaluate import dense
from maskc.tiles.budget import evaluations_of
from maskc.tiles.rowsets import KeyRanges, RowSets, merged_intervals, row_sets
from maskc.tiles.runs import row_of_runs

if TYPE_CHECKING:
    import networkx as nx

    from maskc.tiles.tiling import Tiling

__all__ = ["Reach", "reach", "tile_graph"]

Array = npt.NDArray[Any]
_R = TypeVar("_R")
_DENSE = 256  # tokens, up to which matrices are used
_EVALUATIONS = 1 << 24  # of an ordinary mask, of all layers and heads, that such matrices may take
_NODES = 256  # of the graph of tiles
_WORK = 1 << 28  # positions that a walk from one query may look at
_MOST_RANGES = 1 << 25  # of all queries together
_STEPS = 20_000  # layers that such a walk may take


@dataclass(frozen=True)
class Reach:
    """How many layers it takes until more layers bring no query anything new.

    Attributes:
        layers: that number.
        queries: "all", or "last": then it is known for the last query only.
        level: "tokens", where the figures are exact, or "tiles": information is taken to spread within a tile of
            ``unit`` tokens at once, so that it seems to travel faster and perhaps further than it does.
        unit: tokens a node.
        reached: how many keys the last query hears of in the end (at tile level: their nodes' tokens).
        keys: how many keys there are up to the last query.
    """

    layers: int
    queries: str
    level: str
    unit: int
    reached: int
    keys: int

    @property
    def complete(self) -> bool:
        """Whether the last query hears of every key in the end."""
        return self.reached == self.keys


def reach(*plans: Tiling) -> Reach | None:
    """The reach of a stack of layers with these plans, from the lowest layer up and then again from the first, all
    heads together, in the first batch entry. None for cross-attention, for fewer queries than keys, and for none.
    Layers that are given the same plan, as an object, are looked at once."""
    first = plans[0].binding
    if any(p.binding.cross or p.binding.q_len != p.binding.k_len for p in plans) or not first.q_len:
        return None
    if any(p.binding.k_len != first.k_len for p in plans):
        raise ValueError("the layers have unlike lengths")
    if first.k_len <= _DENSE and sum(_of_each(plans, _evaluations, once=True)) <= _EVALUATIONS:
        return _by_matrices(_of_each(plans, _dense), "tokens", 1, first.k_len)
    found = _by_ranges(plans, first.k_len)
    if found is not None:
        return found
    return _by_tiles(plans)


def _of_each(plans: Sequence[Tiling], of: Callable[[Tiling], _R], once: bool = False) -> list[_R]:
    """``of`` every plan, which is asked once for each object. ``once``: what it gives is listed once, too."""
    known: dict[int, _R] = {}
    for plan in plans:
        if id(plan) not in known:
            known[id(plan)] = of(plan)
    return list(known.values()) if once else [known[id(plan)] for plan in plans]


# Any relation that holds every query itself may be composed and compared.


def _fewest(cycle: Sequence[_R], compose: Callable[[_R, _R], _R], equal: Callable[[_R, _R], bool]) -> tuple[int, _R]:
    """The fewest layers after which the composition stays the same, and that composition.

    By squaring: what takes a million layers takes twenty steps. ``compose(later, earlier)``.
    """
    whole = functools.reduce(lambda below, layer: compose(layer, below), cycle)
    powers = [whole]
    while True:
        square = compose(powers[-1], powers[-1])
        if equal(square, powers[-1]):
            break
        powers.append(square)
    closure, below, cycles = powers[-1], None, 0
    for i in range(len(powers) - 1, -1, -1):
        tried = powers[i] if below is None else compose(powers[i], below)
        if not equal(tried, closure):
            below, cycles = tried, cycles + (1 << i)
    layers = cycles * len(cycle)
    for layer in cycle:
        below = layer if below is None else compose(layer, below)
        layers += 1
        if equal(below, closure):
            break
    return layers, closure


def _heads(plan: Tiling) -> set[int]:
    """One head of each mask, in the first batch entry."""
    return {g.heads[0] for g in plan.groups if 0 in g.batches}


def _evaluations(plan: Tiling) -> int:
    each = evaluations_of(plan.program, plan.binding, outright=True)
    return len(_heads(plan)) * plan.binding.k_len**2 * each


def _dense(plan: Tiling) -> Array:
    kept = functools.reduce(np.logical_or, (dense(plan.program, plan.binding, h, 0) for h in _heads(plan)))
    found: Array = kept | np.eye(plan.binding.k_len, dtype=np.bool_)
    return found


def _by_matrices(cycle: list[Array], level: str, unit: int, keys: int) -> Reach:
    def compose(later: Array, earlier: Array) -> Array:
        found: Array = later.astype(np.float32) @ earlier.astype(np.float32) > 0
        return found

    layers, closure = _fewest(cycle, compose, lambda a, b: bool((a == b).all()))
    if (functools.reduce(np.logical_or, cycle) == np.eye(len(cycle[0]), dtype=np.bool_)).all():
        layers = 0
    places = np.flatnonzero(closure[-1])
    reached = int((np.minimum((places + 1) * unit, keys) - places * unit).sum())
    return Reach(layers, "all", level, unit, reached, keys)


def _sets(plan: Tiling) -> list[RowSets] | None:
    """The rules of all distinct heads, in the first batch entry, if all are ranges."""
    found = []
    shared: dict[Any, Any] = {}
    for group in plan.groups:
        if 0 in group.batches:
            sets = row_sets(plan.program, plan.binding, group.heads[0], 0, shared)
            if sets is None or not sets.all_ranges:
                return None
            found.append(sets)
    return found


def _by_ranges(plans: Sequence[Tiling], keys: int) -> Reach | None:
    """Token by token, where every layer's keys are ranges and not too many; else None."""
    unlike, left = {id(p): p for p in plans}, _MOST_RANGES // keys
    sets: dict[int, list[RowSets]] = {}
    for name, plan in unlike.items():
        # Finding the rules of a layer takes milliseconds: one rule for each layer that is left is the least.
        layer = None if left < len(unlike) - len(sets) else _sets(plan)
        if layer is None:
            return None
        left -= sum(len(s.rules) for s in layer)
        sets[name] = layer
    if left < 0:
        return None
    ranges = _of_each(plans, lambda plan: [r for s in sets[id(plan)] for r in s.ranges()])
    found = None
    if all(r.order is None for layer in ranges for r in layer):
        found = _by_intervals(ranges, keys)
    return _by_walk(ranges[0], keys) if found is None and len(plans) == 1 else found


def _by_intervals(layers: list[list[KeyRanges]], keys: int) -> Reach | None:
    """If every query sees one interval that holds itself, and the intervals move on with the queries."""
    known: dict[int, tuple[Array, Array]] = {}
    for ranges in layers:
        if id(ranges) in known:
            continue
        # Some of the queries tell at once where the answer is no.
        if _moving(ranges, np.linspace(0, keys - 1, min(keys, 4096)).astype(np.int64)) is None:
            return None
        moving = _moving(ranges, np.arange(keys, dtype=np.int64))
        if moving is None:
            return None
        known[id(ranges)] = moving
    cycle = [known[id(ranges)] for ranges in layers]
    count, closure = _fewest(
        cycle, _compose_intervals, lambda a, b: bool((a[0] == b[0]).all() and (a[1] == b[1]).all())
    )
    if all((high - low == 1).all() for low, high in cycle):
        count = 0
    return Reach(count, "all", "tokens", 1, int(closure[1][-1] - closure[0][-1]), keys)


def _moving(ranges: list[KeyRanges], q: Array) -> tuple[Array, Array] | None:
    """The bounds of the one interval of each of some queries, if they rise."""
    lo, hi = merged_intervals([(q, q + 1), *((r.start[q], r.end[q]) for r in ranges)], q.size)
    low, high = lo[:, 0], np.where(hi == np.iinfo(np.int64).max, 0, hi).max(axis=1)
    joined = ((hi - lo).sum(axis=1) == high - low).all()
    rises = (low[1:] >= low[:-1]).all() and (high[1:] >= high[:-1]).all()
    return (low, high) if joined and rises else None


def _compose_intervals(later: tuple[Array, Array], earlier: tuple[Array, Array]) -> tuple[Array, Array]:
    # Bounds rise with the query, so that those of the first and of the last key seen are the outermost.
    return earlier[0][later[0]], earlier[1][later[1] - 1]


def _by_walk(ranges: list[KeyRanges], keys: int) -> Reach | None:
    """A breadth-first walk from the last query, each key followed once; None if it takes too long."""
    known = np.zeros(keys, np.bool_)
    known[-1] = True
    now, layers, work = np.array([keys - 1]), 0, 0
    while layers < _STEPS:
        fresh = []
        for r in ranges:
            at, cost = _span(r, now)
            work += cost
            at = at[~known[at]]
            known[at] = True
            fresh.append(at)
        now = np.concatenate(fresh) if fresh else now[:0]
        if not now.size:
            return Reach(layers, "last", "tokens", 1, int(known.sum()), keys)
        layers += 1
        if work > _WORK:
            break
    return None


def _span(ranges: KeyRanges, queries: Array) -> tuple[Array, int]:
    """The keys that some queries see, and how many positions were looked at to find them."""
    start, end = ranges.start[queries], ranges.end[queries]
    some = end > start
    if not some.any():
        return queries[:0], queries.size
    start, end = start[some], end[some]
    first, width = int(start.min()), int(end.max() - start.min())
    change = np.bincount(start - first, minlength=width + 1) - np.bincount(end - first, minlength=width + 1)
    at = np.flatnonzero(np.cumsum(change)[:width] > 0) + first
    return at if ranges.order is None else ranges.order[at], width + queries.size


def _nodes(plans: Sequence[Tiling], most: int) -> int:
    """Tokens a node: a multiple of all tile sizes."""
    step = math.lcm(*(t for p in plans for t in (p.q_tile, p.k_tile)))
    return -(-plans[0].binding.k_len // (most * step)) * step


def _coarse(plan: Tiling, unit: int) -> Array:
    """Which nodes of ``unit`` queries see a key of which nodes; bool."""
    count = -(-plan.binding.k_len // unit)
    change = np.zeros((count, count + 1), np.int64)
    for runs in {id(g.runs): g.runs for g in plan.groups if 0 in g.batches}.values():
        node = row_of_runs(runs) * plan.q_tile // unit
        np.add.at(change, (node, runs.start.astype(np.int64) * plan.k_tile // unit), 1)
        np.add.at(change, (node, (runs.end.astype(np.int64) * plan.k_tile - 1) // unit + 1), -1)
    found: Array = (np.cumsum(change, axis=1)[:, :-1] > 0) | np.eye(count, dtype=np.bool_)
    return found


def _by_tiles(plans: Sequence[Tiling]) -> Reach | None:
    if any(p.q_order.index is not None or p.k_order.index is not None for p in plans):
        return None
    unit = _nodes(plans, _NODES)
    return _by_matrices(_of_each(plans, lambda p: _coarse(p, unit)), "tiles", unit, plans[0].binding.k_len)


def tile_graph(plan: Tiling, nodes: int = 128) -> nx.DiGraph:
    """The tiles as a graph for networkx: node ``i`` stands for ``unit`` tokens from ``i * unit`` on (the graph's
    attribute "unit"; at most ``nodes`` nodes), and an edge leads from queries to keys that some of them see.
    For a plan of as many queries as keys without a layout; raises ValueError for others."""
    import networkx as nx

    if plan.binding.q_len != plan.binding.k_len or plan.q_order.index is not None:
        raise ValueError("only plans of as many queries as keys, in their own order, are a graph of one sequence")
    unit = _nodes([plan], nodes)
    graph = nx.from_numpy_array(_coarse(plan, unit), create_using=nx.DiGraph)
    graph.graph["unit"] = unit
    return graph

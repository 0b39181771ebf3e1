"""Tile kinds by subdivision: boxes of tiles are asked about, and only mixed ones are halved.

What is left undecided at single tiles is settled by evaluating points: first a few that are likely to differ, then,
unless it is known of all parts of a tile, all of them. So a kind is never guessed, and no tile called PARTIAL is in
truth full or empty.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.diagnostics import MaskcError
from maskc.tiles.budget import BOX_COST, PROBES, Budget
from maskc.tiles.classify import Classifier
from maskc.tiles.grid import Grid, Rectangles
from maskc.tiles.tiling import EMPTY, FULL, PARTIAL, Group, Tiling

__all__ = ["BOXES", "evaluate_tiles", "is_affordable", "subdivide", "tile_mask"]

Array = npt.NDArray[Any]
_CHUNK = 1 << 14  # boxes asked about at once
_POINTS = 1 << 15  # points evaluated at once: their values stay in the cache, in memory that is used again


def subdivide(c: Classifier, grid: Grid, start: Rectangles | None, budget: Budget) -> Rectangles:
    """The rectangles of FULL and PARTIAL tiles within ``start`` (by default, everywhere)."""
    stack = [_coarse(grid) if start is None else start]
    total = stack[0].area
    _foresee(c, grid, stack[0], budget)
    done, leaves = _Heap(grid), _Heap(grid)
    decided = 0
    while stack:
        boxes = stack.pop()
        if boxes.size > _CHUNK:
            stack.append(boxes.pick(slice(_CHUNK, None)))
            boxes = boxes.pick(slice(0, _CHUNK))
        if not boxes.size:
            continue
        budget.ask(boxes.size, BOXES, total - decided)
        found = c.classify(grid.boxes(boxes))
        uniform = found.hit & found.miss
        undecided = found.some & found.gap & ~uniform
        single = (boxes.r1 - boxes.r0 == 1) & (boxes.c1 - boxes.c0 == 1)
        done.add(boxes.pick(found.some & ~found.gap).of(FULL))
        done.add(boxes.pick(uniform).of(PARTIAL))
        leaves.add(boxes.pick(undecided & single).of(EMPTY))
        rest = boxes.pick(undecided & ~single)
        decided += boxes.area - rest.area
        if rest.size:
            stack.append(_halved(rest))
        if leaves.size > _LEAVES or not stack:
            done.add(settle(c, grid, leaves.take(), budget, total - decided))
    return done.take()


#: Tiles, drawn at random, that tell what all take; and the logarithm of how seldom what they tell may be too much: one
#: time in 10^9.
_DRAWN, _SELDOM = 1 << 13, math.log(3e9)


def _surely(taken: Array, most: int) -> float:
    """What all tiles take at least on average, by those drawn, none of which may take more than ``most``: by the
    empirical Bernstein inequality, which is the closer the more alike they are."""
    error = math.sqrt(2 * float(taken.var()) * _SELDOM / taken.size) + 3 * most * _SELDOM / taken.size
    return max(0.0, float(taken.mean()) - error)


def is_affordable(c: Classifier, grid: Grid, budget: Budget) -> bool:
    """Whether the budget is likely to allow ``subdivide`` everywhere, by a sample that takes little of it."""
    start = _coarse(grid)
    asked, open_, r, col = _drawn(c, grid, start)
    r, col = r[open_], col[open_]
    some = _spread(r.size)
    trial = Budget(budget.limit // _MARGIN, each=budget.each, nodes=budget.nodes, measure=budget.measure)
    try:
        settle(c, grid, Rectangles(r[some], r[some] + 1, col[some], col[some] + 1), trial)
    except MaskcError:
        return False
    each = start.area / _DRAWN  # tiles that one of those drawn stands for
    return budget.affords_boxes(int(asked.sum() * each), int(trial.spent * r.size / max(1, some.size) * each))


def _foresee(c: Classifier, grid: Grid, start: Rectangles, budget: Budget) -> None:
    """Raises E801 where asking about boxes will surely go beyond the budget: else it would be found out after all that
    the budget allows. The sample takes little of that and is not counted, so that nothing is refused for it."""
    tiles = start.area
    if budget.affords_boxes(2 * tiles, PROBES * tiles * budget.each) or not budget.affords_boxes(_MARGIN * _DRAWN):
        return
    asked, open_, *_ = _drawn(c, grid, start)
    boxes, points = _surely(asked, 2), PROBES * _surely(open_, 1)
    budget.foresee(int(boxes * tiles), BOXES, int(points * tiles))


def _drawn(c: Classifier, grid: Grid, start: Rectangles) -> tuple[Array, Array, Array, Array]:
    """Tiles of ``start``, drawn at random: how many boxes are asked about for each, shared by the tiles that they have
    (two a tile at most), and whether it is left undecided then; their rows and columns."""
    last = np.cumsum((start.r1 - start.r0) * (start.c1 - start.c0))
    tile = np.random.default_rng(0).integers(last[-1], size=_DRAWN)
    of = np.searchsorted(last, tile, side="right")
    down, right = np.divmod(last[of] - 1 - tile, start.c1[of] - start.c0[of])
    r, col, boxes = start.r0[of] + down, start.c0[of] + right, start.pick(of)
    asked, left, these = np.zeros(_DRAWN), np.zeros(_DRAWN, np.bool_), np.arange(_DRAWN)
    while boxes.size:
        area = (boxes.r1 - boxes.r0) * (boxes.c1 - boxes.c0)
        asked[these] += 1 / area
        found = c.classify(grid.boxes(boxes))
        open_ = found.some & found.gap & ~(found.hit & found.miss)
        left[these] = open_ & (area == 1)
        open_ &= area > 1
        these, boxes = these[open_], boxes.pick(open_)
        r_mid, c_mid = _middle(boxes)
        low, first = r[these] < r_mid, col[these] < c_mid
        boxes = Rectangles(
            np.where(low, boxes.r0, r_mid),
            np.where(low, r_mid, boxes.r1),
            np.where(first, boxes.c0, c_mid),
            np.where(first, c_mid, boxes.c1),
        )
    return asked, left, r, col


_MARGIN = 64  # times what a sample costs that there has to be
BOXES = "boxes that are neither full nor empty"
_LEAVES = 1 << 17  # undecided tiles that are settled together


class _Heap:
    """Rectangles, compact, of which neighbours in a row are joined when there are many."""

    def __init__(self, grid: Grid) -> None:
        self.grid, self.parts, self.size, self.joined = grid, list[Rectangles](), 0, 1 << 18

    def add(self, r: Rectangles) -> None:
        if not r.size:
            return
        self.parts.append(r.compact())
        self.size += r.size
        if self.size > 2 * self.joined:
            self.parts = [_joined(Rectangles.join(self.parts), self.grid)]
            self.size = self.parts[0].size
            self.joined = max(self.joined, self.size)

    def take(self) -> Rectangles:
        found = Rectangles.join(self.parts)
        self.parts, self.size = [], 0
        return found


def _joined(r: Rectangles, grid: Grid) -> Rectangles:
    """The same tiles, those of one row and kind that touch in one rectangle."""
    low = r.r1 - r.r0 == 1
    row = r.pick(low)
    order = np.argsort(row.r0.astype(np.int64) * (grid.cols + 1) + row.c0, kind="stable")
    row = row.pick(order)
    first = np.ones(row.size, np.bool_)
    first[1:] = (row.r0[1:] != row.r0[:-1]) | (row.c0[1:] != row.c1[:-1]) | (row.kind[1:] != row.kind[:-1])
    at = np.flatnonzero(first)
    last = np.append(at[1:], row.size) - 1 if at.size else at
    runs = Rectangles(row.r0[at], row.r1[at], row.c0[at], row.c1[last], row.kind[at])
    return Rectangles.join([r.pick(~low), runs])


def _coarse(grid: Grid) -> Rectangles:
    """The whole grid in some hundreds of boxes: fewer steps than from one."""
    r = np.unique(np.linspace(0, grid.rows, min(16, grid.rows) + 1).astype(np.int64))
    k = np.unique(np.linspace(0, grid.cols, min(16, grid.cols) + 1).astype(np.int64))
    rows, cols = np.meshgrid(np.arange(r.size - 1), np.arange(k.size - 1), indexing="ij")
    i, j = rows.ravel(), cols.ravel()
    return Rectangles(r[i], r[i + 1], k[j], k[j + 1])


def _middle(x: Rectangles) -> tuple[Array, Array]:
    """Where the sides of rectangles are halved: those with more than one tile that are not much the shorter ones; the
    end of a side that is not."""
    tall = (x.r1 - x.r0 > 1) & (2 * (x.r1 - x.r0) > x.c1 - x.c0)
    wide = (x.c1 - x.c0 > 1) & (2 * (x.c1 - x.c0) > x.r1 - x.r0)
    return np.where(tall, (x.r0 + x.r1) // 2, x.r1), np.where(wide, (x.c0 + x.c1) // 2, x.c1)


def _halved(x: Rectangles) -> Rectangles:
    """Each side halved where it is halved at all."""
    upper, left = _middle(x)
    tall, wide = upper < x.r1, left < x.c1
    both = tall & wide
    parts = [
        Rectangles(x.r0, upper, x.c0, left),
        Rectangles(upper, x.r1, x.c0, left).pick(tall),
        Rectangles(x.r0, upper, left, x.c1).pick(wide),
        Rectangles(upper, x.r1, left, x.c1).pick(both),
    ]
    return Rectangles(*(np.concatenate([getattr(p, n) for p in parts]) for n in ("r0", "r1", "c0", "c1")))


def settle(c: Classifier, grid: Grid, tiles: Rectangles, budget: Budget, rest: int = 0) -> Rectangles:
    """The kinds of single tiles, by evaluation. ``rest``: tiles that are not decided then."""
    if not tiles.size:
        return tiles
    grid = replace(grid, q_tile=min(grid.q_tile, grid.q_len), k_tile=min(grid.k_tile, grid.k_len))
    r, col = (x.astype(np.int64) for x in (tiles.r0, tiles.c0))
    kind = np.full(tiles.size, PARTIAL, np.uint8)
    left = np.arange(tiles.size)
    left = left[~_probe(c, grid, r[left], col[left], *_few(grid), budget, rest)]
    known, found, unknown = _by_parts(c, grid, r[left], col[left], budget, rest)
    kind[left[known]] = found[known]
    left = left[~known]
    for u, v in _outline(grid):
        left = left[~_probe(c, grid, r[left], col[left], u, v, budget, rest)]
    points = grid.q_tile * grid.k_tile
    if unknown * points + _PARTS**2 * _PART < points / 2:
        step = _CHUNK // _PARTS**2
        for first in range(0, left.size, step):
            these = left[first : first + step]
            kind[these] = _within_parts(c, grid, r[these], col[these], budget, rest)
    else:
        kind[left] = _by_points(c, grid, r[left], col[left], budget, rest)
    return Rectangles(r, r + 1, col, col + 1, kind)


def _by_points(c: Classifier, grid: Grid, r: Array, col: Array, budget: Budget, rest: int) -> Array:
    """The kinds of tiles, by evaluation at all their points."""
    size = grid.q_tile * grid.k_tile
    batch = max(1, _POINTS // size)
    what = "tiles that have to be evaluated point by point"
    kind = np.full(r.size, PARTIAL, np.uint8)
    if not budget.affords(r.size * size):
        budget.evaluate(r.size * size, what, rest)
    for first in range(0, r.size, batch):
        these = slice(first, first + batch)
        count = r[these].size
        budget.evaluate(count * size, what, rest, (r.size - first - count) * size)
        kept, inside = evaluate_tiles(c, grid, r[these], col[these])
        any_kept, all_kept = (kept & inside).any(axis=(1, 2)), (kept | ~inside).all(axis=(1, 2))
        kind[these] = np.where(all_kept, FULL, np.where(any_kept, PARTIAL, EMPTY))
    return kind


def _within_parts(c: Classifier, grid: Grid, r: Array, col: Array, budget: Budget, rest: int) -> Array:
    """The kinds of tiles, by evaluation at the points of those parts of which it is not known."""
    some, gap, fine, rows, cols = _asked_parts(c, grid, r, col, _PARTS, budget, rest)
    open_ = some & gap
    kind = _by_points(c, fine, rows[open_], cols[open_], budget, rest)
    some[open_], gap[open_] = kind != EMPTY, kind != FULL
    return np.where(~some.any(axis=1), EMPTY, np.where(gap.any(axis=1), PARTIAL, FULL)).astype(np.uint8)


_SAMPLE = 64  # tiles that tell whether asking about parts of tiles is worth it
_PARTS = 8  # a side: the smallest parts that are asked about
_PART = 2 * BOX_COST  # what asking about a part costs, in points


def _by_parts(c: Classifier, grid: Grid, r: Array, col: Array, budget: Budget, rest: int) -> tuple[Array, Array, float]:
    """Which tiles are known by what their parts are, and their kinds: where a mask speaks of blocks that are smaller
    than a tile, such as a table by blocks, a part lies within one. Parts of which a sample of tiles knows little are
    asked about no further; then also how much of these tiles is in parts that are not known, of the smallest ones."""
    known, kind, unknown = np.zeros(r.size, np.bool_), np.full(r.size, PARTIAL, np.uint8), 1.0
    sample = _spread(r.size)
    for parts in (2, 4, _PARTS):
        dear = parts**2 * _PART > grid.q_tile * grid.k_tile
        if grid.q_tile % parts or grid.k_tile % parts or dear or not r.size:
            break
        some, gap, *_ = _asked_parts(c, grid, r[sample], col[sample], parts, budget, rest)
        tried, _ = _of_parts(some, gap)
        if 2 * np.count_nonzero(tried) >= sample.size:
            for first in range(0, r.size, _CHUNK // parts**2):
                s = slice(first, first + _CHUNK // parts**2)
                some, gap, *_ = _asked_parts(c, grid, r[s], col[s], parts, budget, rest)
                known[s], kind[s] = _of_parts(some, gap)
            break
        unknown = np.count_nonzero(some & gap) / some.size if parts == _PARTS else 1.0
    return known, kind, unknown


def _spread(size: int) -> Array:
    """At most ``_SAMPLE`` of so many places, from the first to the last."""
    found: Array = np.unique(np.linspace(0, size - 1, min(size, _SAMPLE)).astype(np.int64))
    return found


def _asked_parts(
    c: Classifier, grid: Grid, r: Array, col: Array, parts: int, budget: Budget, rest: int
) -> tuple[Array, Array, Grid, Array, Array]:
    """Whether ``parts`` times ``parts`` parts of each tile may have a kept pair, and whether a dropped one; the parts
    as tiles of a grid, with their rows and columns there. Parts beyond the ends have neither."""
    fine = replace(grid, q_tile=grid.q_tile // parts, k_tile=grid.k_tile // parts)
    u, v = (x.ravel() for x in np.indices((parts, parts)))
    rows, cols = r[:, None] * parts + u, col[:, None] * parts + v
    inside = (rows < fine.rows) & (cols < fine.cols)
    r0, c0 = rows[inside], cols[inside]
    budget.ask(r0.size, "parts of tiles that are neither full nor empty nor known to be mixed", rest)
    found = c.classify(fine.boxes(Rectangles(r0, r0 + 1, c0, c0 + 1)))
    some, gap = np.zeros(inside.shape, np.bool_), np.zeros(inside.shape, np.bool_)
    some[inside], gap[inside] = found.some, found.gap
    return some, gap, fine, rows, cols


def _of_parts(some: Array, gap: Array) -> tuple[Array, Array]:
    """Which tiles are known by what their parts are, and their kinds."""
    kept, dropped = (some & ~gap).any(axis=1), (gap & ~some).any(axis=1)  # parts that are full; that are empty
    empty, full = ~some.any(axis=1), ~gap.any(axis=1)
    kind = np.where(empty, EMPTY, np.where(full, FULL, PARTIAL)).astype(np.uint8)
    return np.asarray(empty | full | (kept & dropped)), kind


def _few(grid: Grid) -> tuple[Array, Array]:
    """A few points of a tile: the corners, and some inside."""
    u, v = np.array([0, 8, 0, 8, 4, 3, 5, 2]), np.array([0, 8, 8, 0, 4, 4, 3, 7])
    return (grid.q_tile - 1) * u // 8, (grid.k_tile - 1) * v // 8


def _outline(grid: Grid) -> Iterator[tuple[Array, Array]]:
    """The border and the diagonals of a tile: where intervals end, and one point of every difference ``q - k``. In
    stages, each spread over all: most tiles that are mixed are found to be with a few."""
    q, k = np.arange(grid.q_tile), np.arange(grid.k_tile)
    along = np.arange(max(grid.q_tile, grid.k_tile))
    u, v = along * grid.q_tile // along.size, along * grid.k_tile // along.size
    last_q, last_k = np.full(k.size, grid.q_tile - 1), np.full(q.size, grid.k_tile - 1)
    rows, cols = np.concatenate([0 * k, last_q, q, q, u, u]), np.concatenate([k, k, 0 * q, last_k, v, v[::-1]])
    order = np.random.default_rng(0).permutation(rows.size)
    for stage in np.split(order, [x for x in _STAGES if x < order.size]):
        yield rows[stage], cols[stage]


_STAGES = (16, 64, 256)  # points of an outline that are evaluated before more are


def _probe(c: Classifier, grid: Grid, r: Array, col: Array, u: Array, v: Array, budget: Budget, rest: int) -> Array:
    """Whether both a kept and a dropped pair are among some points ``(u, v)`` of each tile."""
    q0, k0 = r * grid.q_tile, col * grid.k_tile
    mixed = np.zeros(r.size, np.bool_)
    step = max(1, _POINTS // u.size)
    for first in range(0, r.size, step):
        s = slice(first, first + step)
        later = max(0, r.size - s.stop) * u.size
        spent = q0[s].size * u.size
        budget.evaluate(spent, "tiles that are neither full nor empty nor known to be mixed", rest, later)
        q, k = np.minimum(q0[s] + u[:, None], grid.q_len - 1), np.minimum(k0[s] + v[:, None], grid.k_len - 1)
        kept = c.points(q + grid.offset, k)
        mixed[s] = kept.any(axis=0) & ~kept.all(axis=0)
    return mixed


def evaluate_tiles(
    c: Classifier, grid: Grid, r: Array, col: Array, order: tuple[Array | None, Array | None] = (None, None)
) -> tuple[Array, Array]:
    """The mask on whole tiles, (n, q_tile, k_tile), and which of those points exist. ``order``: which query and
    which key each laid-out position holds."""
    q = (r * grid.q_tile)[:, None, None] + np.arange(grid.q_tile)[None, :, None]
    k = (col * grid.k_tile)[:, None, None] + np.arange(grid.k_tile)[None, None, :]
    inside = (q < grid.q_len) & (k < grid.k_len)
    q, k = np.minimum(q, grid.q_len - 1), np.minimum(k, grid.k_len - 1)
    q, k = (x if i is None else i[x].astype(np.int64) for x, i in zip((q, k), order, strict=True))
    return c.points(q + grid.offset, k), inside


def tile_mask(
    plan: Tiling, group: Group, rows: npt.NDArray[np.integer[Any]], cols: npt.NDArray[np.integer[Any]]
) -> npt.NDArray[np.bool_]:
    """See ``TilePlan.tile_mask``."""
    b = plan.binding
    grid = Grid(b.q_len, b.k_len, plan.q_tile, plan.k_tile, b.offset)
    c = Classifier(plan.program.mask, b, plan.program.params, group.heads[0], group.batches[0])
    order = (plan.q_order.index, plan.k_order.index)
    kept, inside = evaluate_tiles(c, grid, np.asarray(rows, np.int64), np.asarray(cols, np.int64), order)
    return kept & inside

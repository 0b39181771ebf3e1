"""Tiles that are blocks of a grid: orders that make every tile a product of axis ranges, and their exact kinds.

Where a mask says something about each axis by itself (neighbourhoods, halos, windows that shift), what it does on a
pair of blocks follows from small tables, one an axis: some pair is kept if some pair is on every axis, all are if all
are on every axis.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.ir.evaluate import evaluate
from maskc.ir.nodes import TRUE, Apply, Const, Node, Symbol, postorder
from maskc.ir.ops import conjunction
from maskc.ir.rewrite import substitute
from maskc.tiles.classify import Classifier
from maskc.tiles.plan import FULL, PARTIAL
from maskc.tiles.runs import concatenated_ranges
from maskc.tiles.subdivide import Rectangles

__all__ = ["BlockOrder", "Relations", "best_orders", "block_tiles", "relations"]

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Relations:
    """A mask over a grid as one Boolean matrix an axis (queries by keys), all of which must hold."""

    extents: Shape
    by_axis: tuple[Array, ...]


def relations(c: Classifier, extents: Shape) -> Relations | None:
    """The mask as a conjunction of relations on single axes of a row-major grid; None if it is not one."""
    mask = c.mask
    parts: tuple[Node, ...] = mask.args if isinstance(mask, Apply) and mask.op == "and" else (mask,)
    strides = [int(np.prod(extents[i + 1 :])) for i in range(len(extents))]
    groups: dict[int, list[Node]] = {}
    for part in parts:
        axes = {a for name in "qk" if (a := _axis(part, Symbol(name), extents, strides)) is not None}
        if len(axes) != 1 or -1 in axes:
            return None
        groups.setdefault(axes.pop(), []).append(part)
    found = []
    for axis, (extent, stride) in enumerate(zip(extents, strides, strict=True)):
        place = np.arange(extent, dtype=np.int64) * stride
        node = conjunction(groups.get(axis, [TRUE]))
        kept = evaluate(node, c.binding, q=place[:, None], k=place[None, :], h=c.head, b=c.batch, params=c.params)
        found.append(np.broadcast_to(kept, (extent, extent)))
    return Relations(extents, tuple(found))


def _axis(part: Node, symbol: Symbol, extents: Shape, strides: Sequence[int]) -> int | None:
    """The axis whose coordinate is all that ``part`` says of the position; -1 if there is more, None if nothing."""
    digits: dict[Node, int] = {}
    for node in postorder([part]):
        axis = _coordinate(node, symbol, extents, strides)
        if axis is not None:
            digits[node] = axis
    left = substitute(part, dict.fromkeys(digits, Const(0)))
    if any(n is symbol for n in postorder([left])):
        return -1
    used = _outermost(part, digits)
    return None if not used else used.pop() if len(used) == 1 else -1


def _outermost(part: Node, digits: dict[Node, int]) -> set[int]:
    """The axes of the coordinates that occur in ``part``, but not those within another coordinate."""
    found: set[int] = set()
    stack = [part]
    while stack:
        node = stack.pop()
        if node in digits:
            found.add(digits[node])
        else:
            stack.extend(node.children)
    return found


def _coordinate(node: Node, symbol: Symbol, extents: Shape, strides: Sequence[int]) -> int | None:
    """The axis if the node is ``position // stride % extent`` (the first axis needs no remainder)."""
    modulus, stride, inner = 0, 1, node
    if isinstance(inner, Apply) and inner.op == "mod" and isinstance(inner.args[1], Const):
        modulus, inner = int(inner.args[1].value), inner.args[0]
    while isinstance(inner, Apply) and inner.op == "floordiv" and isinstance(inner.args[1], Const):
        stride, inner = stride * int(inner.args[1].value), inner.args[0]
    if inner is not symbol:
        return None
    for axis, (extent, s) in enumerate(zip(extents, strides, strict=True)):
        if s == stride and (modulus == extent or (axis == 0 and modulus == 0)):
            return axis
    return None


@dataclass(frozen=True)
class _Region:
    """A part of the grid, cut into blocks: where it starts, how many blocks there are, and their shape."""

    start: Shape
    count: Shape
    block: Shape

    @property
    def tiles(self) -> int:
        return int(np.prod(self.count))

    def axis(self, i: int) -> tuple[int, int, int]:
        return self.start[i], self.count[i], self.block[i]


@dataclass(frozen=True)
class BlockOrder:
    """A grid in blocks of one size: blocks of ``shape``, and of other shapes where that does not fit."""

    shape: Shape
    regions: tuple[_Region, ...]

    def index(self, extents: Shape) -> npt.NDArray[np.int32]:
        """Position to token."""
        tokens = np.arange(int(np.prod(extents)), dtype=np.int32).reshape(extents)
        n = len(extents)
        parts = []
        for r in self.regions:
            cut = tokens[tuple(slice(s, s + c * b) for s, c, b in zip(r.start, r.count, r.block, strict=True))]
            split = cut.reshape([x for pair in zip(r.count, r.block, strict=True) for x in pair])
            parts.append(split.transpose(*range(0, 2 * n, 2), *range(1, 2 * n, 2)).ravel())
        return np.concatenate(parts)


def _shapes(tile: int, extents: Shape) -> Iterator[Shape]:
    """All ways to write ``tile`` as a product of extents that fit."""
    if len(extents) == 1:
        if tile <= extents[0]:
            yield (tile,)
        return
    for first in range(1, min(tile, extents[0]) + 1):
        if tile % first == 0:
            for rest in _shapes(tile // first, extents[1:]):
                yield (first, *rest)


@functools.lru_cache(maxsize=1024)
def _cover(extents: Shape, tile: int, shape: Shape, start: Shape) -> tuple[_Region, ...] | None:
    """The grid cut into blocks of ``shape``, and what is left at the borders into blocks of other shapes."""
    whole = tuple(e - e % b for e, b in zip(extents, shape, strict=True))
    regions = [_Region(start, tuple(w // b for w, b in zip(whole, shape, strict=True)), shape)]
    for i, (e, w) in enumerate(zip(extents, whole, strict=True)):
        if e == w:
            continue
        part = (*whole[:i], e - w, *extents[i + 1 :])
        origin = (*start[:i], start[i] + w, *start[i + 1 :])
        found = _best_cover(part, tile, origin)
        if found is None:
            return None
        regions.extend(found)
    return tuple(regions)


@functools.lru_cache(maxsize=1024)
def _best_cover(extents: Shape, tile: int, start: Shape) -> tuple[_Region, ...] | None:
    """Of what is left at a border: one shape for all of it, as round as can be."""
    fits = [s for s in _shapes(tile, extents) if all(e % b == 0 for e, b in zip(extents, s, strict=True))]
    if not fits:
        return None
    shape = min(fits, key=sum)
    return _cover(extents, tile, shape, start)


class _Tables:
    """For an axis, what the relation does between ranges of queries and ranges of keys."""

    def __init__(self, r: Relations) -> None:
        self.r = r
        self.known: dict[Any, tuple[Array, Array]] = {}

    def of(self, axis: int, q: tuple[int, int, int], k: tuple[int, int, int]) -> tuple[Array, Array]:
        """Whether some and whether all pairs are kept, (query blocks, key blocks)."""
        key = (axis, q, k)
        if key not in self.known:
            m = self.r.by_axis[axis][q[0] : q[0] + q[1] * q[2], k[0] : k[0] + k[1] * k[2]]
            cells = m.reshape(q[1], q[2], k[1], k[2])
            self.known[key] = np.asarray(cells.any(axis=(1, 3))), np.asarray(cells.all(axis=(1, 3)))
        return self.known[key]

    def count(self, q: BlockOrder, k: BlockOrder) -> int:
        """Tiles that are not empty."""
        axes = range(len(self.r.extents))
        return sum(
            int(np.prod([int(self.of(i, a.axis(i), b.axis(i))[0].sum()) for i in axes]))
            for a in q.regions
            for b in k.regions
        )


def best_orders(r: Relations, q_tile: int, k_tile: int) -> tuple[BlockOrder, BlockOrder] | None:
    """The blocks of queries and of keys with the fewest tiles to compute; None if no blocks fit the grid."""
    tables, origin = _Tables(r), (0,) * len(r.extents)

    def orders(tile: int) -> list[BlockOrder]:
        covers = ((s, _cover(r.extents, tile, s, origin)) for s in _shapes(tile, r.extents))
        return [BlockOrder(s, regions) for s, regions in covers if regions is not None]

    pairs = itertools.product(orders(q_tile), orders(k_tile))
    return min(pairs, key=lambda p: (tables.count(*p), sum(p[0].shape) + sum(p[1].shape)), default=None)


def block_tiles(r: Relations, q: BlockOrder, k: BlockOrder) -> Rectangles:
    """The FULL and PARTIAL tiles in the blocks' order, by row."""
    tables, parts, row = _Tables(r), list[Rectangles](), 0
    for a in q.regions:
        col = 0
        for b in k.regions:
            parts.append(_pairs(tables, a, b, row, col))
            col += b.tiles
        row += a.tiles
    return Rectangles.join(parts)


def _pairs(tables: _Tables, a: _Region, b: _Region, row: int, col: int) -> Rectangles:
    """Tiles of one region of queries and one of keys: the product over the axes, outermost first."""
    r, c, every = np.zeros(1, np.int64), np.zeros(1, np.int64), np.ones(1, np.bool_)
    for i in range(len(a.count)):
        some, full = tables.of(i, a.axis(i), b.axis(i))
        qs, ks = np.nonzero(some)
        first = np.searchsorted(qs, np.arange(a.count[i] + 1))
        # Each row so far meets every block of queries on this axis, and each of those its blocks of keys.
        old = np.repeat(np.arange(r.size), qs.size)
        pick = np.tile(np.arange(qs.size), r.size)
        if i:
            order = _by_row(r, first, a.count[i])
            old, pick = old[order], pick[order]
        r = r[old] * a.count[i] + qs[pick]
        c = c[old] * b.count[i] + ks[pick]
        every = every[old] & full[qs, ks][pick]
    kind = np.where(every, FULL, PARTIAL).astype(np.uint8)
    return Rectangles(r + row, r + row + 1, c + col, c + col + 1, kind)


def _by_row(r: Array, first: Array, count: int) -> Array:
    """The order in which pairs of (row so far, pair on the axis) come out sorted by row, and then by column."""
    starts = np.flatnonzero(np.append(True, r[1:] != r[:-1]))
    sizes = np.diff(np.append(starts, r.size))
    width = int(first[-1])
    # For each row so far, each block of queries on the axis, each column so far: that block's keys.
    row = np.repeat(np.arange(starts.size), count)
    block = np.tile(np.arange(count), starts.size)
    member = concatenated_ranges(starts[row], sizes[row])
    block = np.repeat(block, sizes[row])
    length = np.diff(first)[block]
    return np.repeat(member * width, length) + concatenated_ranges(first[:-1][block], length)

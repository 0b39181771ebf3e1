"""Orders by blocks of digits, and the tiles of a mask in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.ir.binding import Binding
from maskc.ir.evaluate import evaluate
from maskc.ir.nodes import Const, Node, Type
from maskc.ir.program import Space
from maskc.ir.rewrite import rebuild
from maskc.tiles.budget import Budget
from maskc.tiles.classify import Classifier
from maskc.tiles.grid import Grid, Rectangles
from maskc.tiles.layouts.digits import Axes, Part, Shape, balanced, cut
from maskc.tiles.layouts.kinds import dense_rectangles, digit_rectangles, kinds_between
from maskc.tiles.layouts.separate import separate
from maskc.tiles.layouts.tables import Tables, Unsuited
from maskc.tiles.tiling import Stretch

__all__ = ["Blocks", "Spec", "arrange", "block_tiles", "segments_of", "settled"]

Array = npt.NDArray[Any]
#: Tiles of the two sides, multiplied, that may be looked at one by one.
_MOST_PAIRS = 1 << 26
_PAIRS_AT_COST = 2  # of them cost as much as an evaluation of the mask


@dataclass(frozen=True)
class Spec:
    """Blocks of ``q_shape`` queries and ``k_shape`` keys along the axes of a grid, within residue classes of ``moduli``
    (1: none); a block starts at ``shift``. It applies to all segments of that rank."""

    q_shape: Shape
    k_shape: Shape
    moduli: Shape
    shift: Shape

    @property
    def name(self) -> str:
        rank = len(self.moduli)
        text = "x".join(map(str, self.q_shape))
        if self.k_shape != self.q_shape:
            text += "," + "x".join(map(str, self.k_shape))
        if self.moduli != (1,) * rank:
            text += "%" + "x".join(map(str, self.moduli))
        if self.shift != (0,) * rank:
            text += "@" + "x".join(map(str, self.shift))
        return text


@dataclass(frozen=True, eq=False)
class Side:
    """The queries or the keys in an order by blocks of ``tile`` tokens: the digits of each segment, the tiles, and
    where tokens are."""

    axes: tuple[Axes, ...]
    parts: tuple[Part, ...]
    stretches: tuple[Stretch, ...]
    tile: int


@dataclass(frozen=True, eq=False)
class Blocks:
    """An order by blocks of both sides."""

    q: Side
    k: Side


def segments_of(space: Space, binding: Binding, length: int) -> list[Shape]:
    """The extents of every segment of a sequence of ``length`` positions."""
    if not space.segments:
        return [(length,)]
    return [tuple(binding.size(e.name) for e in s.extents) for s in space.segments]


def arrange(spaces: tuple[Space, Space], binding: Binding, grid: Grid, spec: Spec) -> Blocks:
    """The order of both sides by blocks."""
    q_end = binding.offset + binding.q_len
    q = _side(segments_of(spaces[0], binding, q_end), (binding.offset, q_end), spec, spec.q_shape)
    k = _side(segments_of(spaces[1], binding, grid.k_len), (0, grid.k_len), spec, spec.k_shape)
    return Blocks(q, k)


def _side(segments: list[Shape], present: tuple[int, int], spec: Spec, shape: Shape) -> Side:
    tile = math.prod(shape)
    axes, domains, shapes, shifts, start = [], [], [], [], 0
    for extents in segments:
        size = math.prod(extents)
        ours = len(extents) == len(spec.moduli)
        each = Axes(start, extents, spec.moduli if ours else (1,) * len(extents))
        first, last = max(0, present[0] - start), min(size, present[1] - start)
        axes.append(each)
        domains.append(each.boxes(first, last) if last > first else [])
        shapes.append(_by_digit(each, shape if ours else balanced(extents, tile), 1))
        shifts.append(_by_digit(each, spec.shift if ours else (0,) * len(extents), 0))
        start += size
    parts, stretches = cut(axes, domains, shapes, shifts, tile)
    return Side(tuple(axes), tuple(parts), stretches, tile)


def _by_digit(axes: Axes, values: Shape, of_class: int) -> Shape:
    """Values by axis as values by digit."""
    return tuple(
        of_class if is_class else values[axis]
        for (_, _, axis), is_class in zip(axes.digits, axes.is_class, strict=True)
    )


def settled(c: Classifier) -> Node:
    """The mask of a classifier with all that depends on neither query nor key as constants."""

    def fix(node: Node) -> Node:
        if isinstance(node, Const) or node.type is Type.FLOAT or c.uses_of(node) or c.free_of(node):
            return node
        zero = np.zeros((), np.int64)
        value = evaluate(node, c.binding, q=zero, k=zero, h=c.head, b=c.batch, params=c.params)
        return Const(bool(value) if node.type is Type.BOOL else int(value))

    return rebuild(c.mask, fix)


def tables_of(c: Classifier, q: Axes, k: Axes, mask: Node) -> Tables:
    """The mask between two segments by digits. Raises Unsuited."""
    found = separate(mask, q, k)
    if found is None:
        raise Unsuited
    return Tables(c, found, q, k)


def block_tiles(c: Classifier, blocks: Blocks, grid: Grid, budget: Budget) -> Rectangles | None:
    """The FULL and PARTIAL tiles in an order by blocks; None if the mask does not fall apart into digits,
    or tiles are not blocks. Raises MaskcError E801."""
    if (blocks.q.tile, blocks.k.tile) != (grid.q_tile, grid.k_tile):
        return None
    mask = settled(c)
    try:
        tables = {
            (i, j): tables_of(c, q, k, mask)
            for i, q in enumerate(blocks.q.axes)
            for j, k in enumerate(blocks.k.axes)
            if any(p.segment == i for p in blocks.q.parts) and any(p.segment == j for p in blocks.k.parts)
        }
        return _Assembly(tables, blocks, grid, budget).tiles()
    except Unsuited:
        return None


@dataclass(frozen=True, eq=False)
class _Assembly:
    """The tiles between all parts of the two sides. ``tables``: by segments."""

    tables: dict[tuple[int, int], Tables]
    blocks: Blocks
    grid: Grid
    budget: Budget

    def tiles(self) -> Rectangles:
        """The FULL and PARTIAL tiles. Raises Unsuited."""
        found = []
        for q in self.blocks.q.parts:
            for k in self.blocks.k.parts:
                if q.counts is not None and k.counts is not None:
                    found += self._between(q, k)
        rows, cols = self.grid.rows, self.grid.cols
        first_row, first_col = (_first_border(s.parts, n) for s, n in ((self.blocks.q, rows), (self.blocks.k, cols)))
        found.append(self._border((first_row, rows), (0, cols)))
        found.append(self._border((0, first_row), (first_col, cols)))
        return Rectangles.join(found)

    def _between(self, q: Part, k: Part) -> list[Rectangles]:
        """The tiles between two boxes that are cut into blocks."""
        between = self.tables[q.segment, k.segment]
        rectangles = digit_rectangles(between, q, k)
        if rectangles is not None:
            return [rectangles]
        if q.tile.size * k.tile.size > _MOST_PAIRS:
            raise Unsuited
        self._spend(q, k)
        first = int(k.tile[0])
        return [dense_rectangles(bits, int(q.tile[rows.start]), first) for rows, bits in kinds_between(between, q, k)]

    def _border(self, rows: tuple[int, int], cols: tuple[int, int]) -> Rectangles:
        """The tiles of some rows and columns, each put together from the pieces of all segments that it holds."""
        if rows[0] == rows[1] or cols[0] == cols[1]:
            return Rectangles.join([])
        if (rows[1] - rows[0]) * (cols[1] - cols[0]) > _MOST_PAIRS:
            raise Unsuited
        bits = np.zeros((rows[1] - rows[0], cols[1] - cols[0]), np.uint8)
        for q in self.blocks.q.parts:
            q_part = _within(q, rows)
            for k in self.blocks.k.parts:
                k_part = _within(k, cols)
                if not q_part.tile.size or not k_part.tile.size:
                    continue
                self._spend(q_part, k_part)
                for some, found in kinds_between(self.tables[q.segment, k.segment], q_part, k_part):
                    r, found = _by_tile(q_part.tile[some], found, 0)
                    col, found = _by_tile(k_part.tile, found, 1)
                    bits[np.ix_(r - rows[0], col - cols[0])] |= found
        return dense_rectangles(bits, rows[0], cols[0])

    def _spend(self, q: Part, k: Part) -> None:
        self.budget.spend(q.tile.size * k.tile.size // _PAIRS_AT_COST, "pairs of tiles that are no whole blocks")


def _first_border(parts: Sequence[Part], tiles: int) -> int:
    """The first tile that is not a block."""
    return min((int(p.tile[0]) for p in parts if p.counts is None), default=tiles)


def _within(part: Part, tiles: tuple[int, int]) -> Part:
    keep = (part.tile >= tiles[0]) & (part.tile < tiles[1])
    return Part(part.segment, part.tile[keep], part.low[keep], part.high[keep])


def _by_tile(tile: Array, bits: Array, axis: int) -> tuple[Array, Array]:
    """Bits of pieces put together by tile, along an axis."""
    at = np.flatnonzero(np.append(True, tile[1:] != tile[:-1]))
    return tile[at], np.bitwise_or.reduceat(bits, at, axis=axis)

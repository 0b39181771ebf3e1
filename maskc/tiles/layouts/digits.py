"""Positions as mixed-radix digits, and the cutting of boxes of digits into tiles.

A segment of a sequence is a row-major grid (plain tokens: of rank 1); an axis may be split once more by a modulus,
``y = m * i + c``. A token order lists boxes of digits one after another, each cut into blocks of one tile: within a
box the blocks are in order, within a block the tokens are. What is left over at the borders follows at the end, so
that every tile but the last is full.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from maskc.tiles.tiling import Stretch

__all__ = ["Axes", "Box", "Part", "Shape", "balanced", "cut", "decompose", "factorizations", "index_of"]

Int64 = npt.NDArray[np.int64]
Shape = tuple[int, ...]
#: First and last (excluded) value of every digit.
Box = tuple[tuple[int, int], ...]
#: Boxes that are cut on, at most: what is left then is laid out as it comes.
_MOST_BOXES = 4


@dataclass(frozen=True)
class Axes:
    """The digits of one segment's positions, from the most significant: position = start + sum(digit * stride).

    ``extents`` are those of the axes; ``moduli`` (1: none) splits each into ``i`` and ``c``, neighbours in the list of
    digits.
    """

    start: int
    extents: Shape
    moduli: Shape

    @functools.cached_property
    def axis_strides(self) -> Shape:
        return tuple(math.prod(self.extents[j + 1 :]) for j in range(len(self.extents)))

    @functools.cached_property
    def digits(self) -> tuple[tuple[int, int, int], ...]:
        """(stride, extent, axis) of every digit."""
        out = []
        for axis, (n, m, s) in enumerate(zip(self.extents, self.moduli, self.axis_strides, strict=True)):
            out += [(m * s, -(-n // m), axis), (s, m, axis)] if m > 1 else [(s, n, axis)]
        return tuple(out)

    @functools.cached_property
    def is_class(self) -> tuple[bool, ...]:
        """Which digits are residue classes: they are the outermost of an order."""
        return tuple(flag for m in self.moduli for flag in ((False, True) if m > 1 else (False,)))

    @property
    def length(self) -> int:
        return math.prod(self.extents)

    def boxes(self, first: int, last: int) -> list[Box]:
        """The boxes of digits that positions ``first`` to ``last`` (excluded, from the segment's start) are."""
        out: list[Box] = []
        for box in decompose(first, last, self.extents):
            parts = [decompose(a, b, (-(-n // m), m)) if m > 1 else [((a, b),)]
                     for (a, b), n, m in zip(box, self.extents, self.moduli, strict=True)]  # fmt: skip
            out += [tuple(itertools.chain(*choice)) for choice in itertools.product(*parts)]
        return out


def decompose(first: int, last: int, extents: Sequence[int]) -> list[Box]:
    """The boxes of digits that the numbers ``first`` to ``last`` (excluded) are, at most ``2 * rank - 1``; in order."""
    if last <= first:
        return []
    if len(extents) == 1:
        return [((first, last),)]
    inner = math.prod(extents[1:])
    (a, low), (b, high) = divmod(first, inner), divmod(last, inner)
    if a == b:
        return [((a, a + 1), *rest) for rest in decompose(low, high, extents[1:])]
    out: list[Box] = []
    if low:
        out += [((a, a + 1), *rest) for rest in decompose(low, inner, extents[1:])]
        a += 1
    if b > a:
        out.append(((a, b), *((0, n) for n in extents[1:])))
    return out + [((b, b + 1), *rest) for rest in decompose(0, high, extents[1:])]


@functools.lru_cache(maxsize=256)
def factorizations(number: int, rank: int) -> tuple[Shape, ...]:
    """All ways to write a number as an ordered product of ``rank`` factors."""
    if rank == 1:
        return ((number,),)
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    return tuple((d, *rest) for d in divisors for rest in factorizations(number // d, rank - 1))


@functools.lru_cache(maxsize=256)
def balanced(extents: Shape, tile: int) -> Shape:
    """The roundest shape of ``tile`` positions within ``extents``, or in one line if none is."""
    fits = [s for s in factorizations(tile, len(extents)) if all(n <= e for n, e in zip(s, extents, strict=True))]
    return min(fits, key=lambda s: (sum(s), s), default=(*(1,) * (len(extents) - 1), tile))


@dataclass(frozen=True, eq=False)
class Part:
    """Tiles ``tile`` of an order as boxes of the digits of one segment: ``low <= digit < high``, (n, digits).

    ``counts``: if the part is a box cut into blocks, the number of blocks along every digit; its tiles are then
    consecutive, in the order of the digits ``nesting`` (the outermost first).
    """

    segment: int
    tile: Int64
    low: Int64
    high: Int64
    counts: Shape | None = None
    nesting: Shape = ()


@dataclass(frozen=True)
class _Region:
    segment: int
    box: Box
    shape: Shape


def cut(
    segments: Sequence[Axes], domains: Sequence[list[Box]], shapes: Sequence[Shape], shifts: Sequence[Shape], tile: int
) -> tuple[list[Part], tuple[Stretch, ...]]:
    """The tiles of an order, and where its tokens are.

    Args:
        segments: the segments of the sequence, with their digits.
        domains: the boxes of digits of each segment that are present.
        shapes: extents of a block along every digit of each segment; their product is ``tile``.
        shifts: a position along every digit at which a block starts.
        tile: tokens a tile.
    """
    parts: list[Part] = []
    stretches: list[Stretch] = []
    rest: list[tuple[int, Box]] = []
    at = 0
    for s, (axes, domain) in enumerate(zip(segments, domains, strict=True)):
        regions, left = _regions(s, domain, shapes[s], shifts[s], tile)
        rest += left
        for region in regions:
            part, stretch = _laid(axes, region, at // tile)
            parts.append(part)
            stretches.append(stretch)
            at += stretch.size
    for s, box in rest:
        part, stretch = _left_over(segments[s], s, box, at, tile)
        parts.append(part)
        stretches.append(stretch)
        at += stretch.size
    return parts, tuple(stretches)


def _regions(
    segment: int, domain: list[Box], shape: Shape, shift: Shape, tile: int
) -> tuple[list[_Region], list[tuple[int, Box]]]:
    regions: list[_Region] = []
    left: list[tuple[int, Box]] = []
    queue: list[tuple[Box, Shape | None]] = [(box, shift) for box in domain]
    done = 0
    while queue:
        box, phase = queue.pop(max(range(len(queue)), key=lambda i: _volume(queue[i][0])))
        extents = tuple(b - a for a, b in box)
        found = None
        if done < _MOST_BOXES and math.prod(extents) >= tile:
            # The blocks asked for where they fit; what they leave at the borders in blocks that fit there.
            found = shape if phase is not None else _best_shape(extents, tile, shape)
        main = _main(box, found, phase) if found else None
        if main is None or found is None:
            if phase is not None and math.prod(extents) >= tile:
                queue.append((box, None))
            else:
                left.append((segment, box))
            continue
        done += 1
        regions.append(_Region(segment, main, found))
        queue += [(b, None) for b in _around(box, main)]
    return regions, left


def _volume(box: Box) -> int:
    return math.prod(b - a for a, b in box)


def _main(box: Box, shape: Shape, phase: Shape | None) -> Box | None:
    """The largest part of the box that whole blocks fill, which start at ``phase``."""
    out = []
    for j, ((a, b), n) in enumerate(zip(box, shape, strict=True)):
        first = a if phase is None else a + (phase[j] - a) % n
        last = first + max(0, b - first) // n * n
        if last <= first:
            return None
        out.append((first, last))
    return tuple(out)


def _around(box: Box, main: Box) -> Iterator[Box]:
    """The box without ``main``, in boxes."""
    for j in range(len(box)):
        for a, b in ((box[j][0], main[j][0]), (main[j][1], box[j][1])):
            if b > a:
                yield (*main[:j], (a, b), *box[j + 1 :])


@functools.lru_cache(maxsize=4096)
def _best_shape(extents: Shape, tile: int, wanted: Shape) -> Shape | None:
    """The shape of a block that covers much of a box and is much like the one wanted."""

    def merit(shape: Shape) -> float:
        covered = math.prod(e // n * n / e for e, n in zip(extents, shape, strict=True))
        return covered - 0.02 * sum(math.log2(n / w) ** 2 for n, w in zip(shape, wanted, strict=True))

    fits = [s for s in factorizations(tile, len(extents)) if all(n <= e for n, e in zip(s, extents, strict=True))]
    return max(fits, key=merit, default=None)


def _nesting(axes: Axes) -> Shape:
    """The digits in the order of blocks: residue classes first."""
    return tuple(sorted(range(len(axes.digits)), key=lambda j: (not axes.is_class[j], j)))


def _base(axes: Axes, box: Box) -> int:
    return axes.start + sum(a * d[0] for (a, _), d in zip(box, axes.digits, strict=True))


def _laid(axes: Axes, region: _Region, first_tile: int) -> tuple[Part, Stretch]:
    counts = tuple((b - a) // n for (a, b), n in zip(region.box, region.shape, strict=True))
    rank, nesting = len(counts), _nesting(axes)
    strides = tuple(d[0] for d in axes.digits)
    block = np.indices([counts[j] for j in nesting]).reshape(rank, -1)
    low = np.empty((block.shape[1], rank), np.int64)
    for place, j in enumerate(nesting):
        low[:, j] = region.box[j][0] + block[place] * region.shape[j]
    tiles = first_tile + np.arange(block.shape[1], dtype=np.int64)
    part = Part(region.segment, tiles, low, low + np.array(region.shape), counts, nesting)
    extents = tuple(counts[j] for j in nesting) + region.shape
    steps = tuple(region.shape[j] * strides[j] for j in nesting) + strides
    return part, Stretch(first_tile * math.prod(region.shape), _base(axes, region.box), extents, steps)


def _left_over(axes: Axes, segment: int, box: Box, at: int, tile: int) -> tuple[Part, Stretch]:
    """A box from laid-out position ``at`` on, cut at the tiles' borders."""
    nesting = _nesting(axes)
    extents = tuple(box[j][1] - box[j][0] for j in nesting)
    stretch = Stretch(at, _base(axes, box), extents, tuple(axes.digits[j][0] for j in nesting))
    tiles, pieces = [], []
    for t in range(at // tile, -(-(at + stretch.size) // tile)):
        found = decompose(max(0, t * tile - at), min(stretch.size, (t + 1) * tile - at), extents)
        tiles += [t] * len(found)
        pieces += found
    bounds = np.array(pieces, np.int64)[:, np.argsort(nesting), :]
    corner = np.array([a for a, _ in box], np.int64)
    return Part(segment, np.array(tiles, np.int64), corner + bounds[..., 0], corner + bounds[..., 1]), stretch


def index_of(stretches: Sequence[Stretch], length: int, offset: int) -> npt.NDArray[np.int32]:
    """The position (from ``offset``) of the token in every place of an order of ``length`` tokens."""
    out = np.empty(length, np.int32)
    for s in stretches:
        place = np.zeros(1, np.int32)
        for n, stride in zip(reversed(s.extents), reversed(s.strides), strict=True):
            step = np.int32(stride if n > 1 else 0)  # That of a single one goes nowhere, and may lie beyond 32 bits.
            place = (np.arange(n, dtype=np.int32)[:, None] * step + place).ravel()
        np.add(place, np.int32(s.base - offset), out=out[s.first : s.first + s.size])
    return out

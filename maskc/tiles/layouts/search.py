"""Which blocks of digits a mask suggests: the moduli it speaks of, where its windows start, the shapes that fit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.ir.nodes import Apply, Const, Node, Symbol, postorder
from maskc.ir.program import Space
from maskc.passes.linear import linear
from maskc.tiles.classify import Classifier
from maskc.tiles.grid import Grid
from maskc.tiles.layouts.digits import Axes, Shape, balanced, factorizations
from maskc.tiles.layouts.orders import Spec, segments_of, settled, tables_of
from maskc.tiles.layouts.separate import digit, separate
from maskc.tiles.layouts.tables import Tables, Unsuited

__all__ = ["block_specs", "residue_specs"]

Array = npt.NDArray[Any]
_MOST_MODULI = 4  # that are tried, for plain tokens
_MOST_BLOCKS = 1 << 14  # pairs of blocks of a digit that are looked at to compare shapes
_MOST_SHAPES = 1 << 21
#: Shapes that are planned in full, of those that are nearly as good as the best with borders apart.
_FINALISTS, _NEARLY = 3, 1.05


def residue_specs(c: Classifier, spaces: tuple[Space, Space], grid: Grid) -> Iterator[Spec]:
    """Residue classes: of the moduli that the mask takes of tokens, or of the axes of a grid."""
    pair = _largest(c, spaces, grid)
    if pair is None:
        room = min(grid.q_len, grid.k_len) // 2
        found = {m for m in _moduli(c.mask, {Symbol("q"), Symbol("k")}) if 1 < m <= room}
        for m in sorted(found)[:_MOST_MODULI]:
            yield Spec((grid.q_tile,), (grid.k_tile,), (m,), (0,))
        return
    mask = settled(c)
    moduli = _by_axis(mask, *pair, _moduli)
    chosen = tuple(
        max((m for m in ms if 1 < m <= n // 2), default=1) for ms, n in zip(moduli, pair[1].extents, strict=True)
    )
    if max(chosen) > 1:
        yield from _shaped(c, mask, pair, grid, chosen, (0,) * len(chosen))


def block_specs(c: Classifier, spaces: tuple[Space, Space], grid: Grid) -> Iterator[Spec]:
    """Blocks of the largest grid: of the shapes with the fewest tiles, from 0 on and from where windows start."""
    pair = _largest(c, spaces, grid)
    if pair is None:
        return
    mask = settled(c)
    none = (1,) * len(pair[1].extents)
    plain = _shaped(c, mask, pair, grid, none, (0,) * len(none))
    yield from plain
    shift = tuple(max(s, default=0) for s in _by_axis(mask, *pair, _starts))
    if max(shift) > 0:
        yield from _shaped(c, mask, pair, grid, none, shift)
        yield replace(plain[0], shift=shift)


def _largest(c: Classifier, spaces: tuple[Space, Space], grid: Grid) -> tuple[Axes, Axes] | None:
    """The largest grid among the keys, and the largest of the queries' of the same rank; None if there are none."""
    found: list[Axes] = []
    for space, length in zip(reversed(spaces), (grid.k_len, grid.offset + grid.q_len), strict=True):
        start, best = 0, None
        for extents in segments_of(space, c.binding, length):
            rank_fits = len(extents) > 1 and (not found or len(extents) == len(found[0].extents))
            if rank_fits and (best is None or math.prod(extents) > best.length):
                best = Axes(start, extents, (1,) * len(extents))
            start += math.prod(extents)
        if best is None or not best.length:
            return None
        found.append(best)
    return found[1], found[0]


def _moduli(node: Node, symbols: set[Symbol]) -> set[int]:
    """Moduli of expressions that speak of the symbols."""
    found = set()
    for n in postorder([node]):
        if not (isinstance(n, Apply) and n.op == "mod" and isinstance(n.args[1], Const)):
            continue
        if any(s in symbols for s in postorder([n.args[0]])):
            found.add(abs(int(n.args[1].value)))
    return found


def _starts(node: Node, symbols: set[Symbol]) -> set[int]:
    """Where the first block starts that ``(digit + n) // width`` tells from the one that 0 is in."""
    found = set()
    for n in postorder([node]):
        if isinstance(n, Apply) and n.op == "floordiv" and isinstance(n.args[1], Const) and n.args[1].value > 1:
            form = linear(n.args[0])
            if len(form.terms) == 1 and form.terms[0][1] == 1 and form.terms[0][0] in symbols:
                found.add(-form.constant % int(n.args[1].value))
    return found


def _widths(node: Node, symbols: set[Symbol]) -> set[int]:
    """Widths of the blocks ``digit // width``."""
    found = set()
    for n in postorder([node]):
        if isinstance(n, Apply) and n.op == "floordiv" and n.args[0] in symbols and isinstance(n.args[1], Const):
            found.add(max(1, int(n.args[1].value)))
    return found


def _by_axis(mask: Node, q: Axes, k: Axes, find: Any) -> list[set[int]]:
    """What ``find`` finds of every axis."""
    found = separate(mask, q, k)
    out: list[set[int]] = [set() for _ in k.extents]
    if found is not None:
        for group in found.groups:
            for j in {*group.q, *group.k}:
                for atom in group.atoms:
                    out[j] |= find(atom, {digit("q", j), digit("k", j)})
    return out


def _shaped(c: Classifier, mask: Node, pair: tuple[Axes, Axes], grid: Grid, moduli: Shape, shift: Shape) -> list[Spec]:
    """The few shapes with the fewest tiles to compute; the roundest one where that is not easily told."""
    q, k = (replace(axes, moduli=moduli) for axes in pair)
    try:
        shapes = _fewest(tables_of(c, q, k, mask), q, k, grid, shift)
    except Unsuited:
        shapes = []
    if not shapes:
        widths = tuple(max(w, default=1) for w in _by_axis(mask, *pair, _widths))
        shapes = [(_roundest(q, widths, grid.q_tile), _roundest(k, widths, grid.k_tile))]
    return [Spec(*s, moduli, shift) for s in shapes]


def _roundest(axes: Axes, widths: Shape, tile: int) -> Shape:
    """The roundest shape of ``tile`` positions; of whole blocks of ``widths``, which the mask tells apart, if they fit
    and there are no residue classes."""
    room = tuple(-(-n // m) for n, m in zip(axes.extents, axes.moduli, strict=True))
    whole = math.prod(widths)
    if tile % whole or max(axes.moduli) > 1 or any(w > n for w, n in zip(widths, room, strict=True)):
        return balanced(room, tile)
    times = balanced(tuple(n // w for n, w in zip(room, widths, strict=True)), tile // whole)
    return tuple(w * n for w, n in zip(widths, times, strict=True))


def _fewest(tables: Tables, q: Axes, k: Axes, grid: Grid, shift: Shape) -> list[tuple[Shape, Shape]]:
    """The shapes of blocks between which the fewest pairs are not empty, borders apart; none if that is hard to say."""
    rank = len(q.digits)
    places = [(t.group.q or t.group.k, t.group.k or t.group.q) for t in tables.tables]
    if any(a != b or len(a) > 1 for a, b in places) or len({*places}) < len(places):
        return []
    options = [_options(q, k, j, grid) for j in range(rank)]
    if math.prod(len(o) for o in options) > _MOST_SHAPES:
        return []
    starts = [0 if q.is_class[j] else shift[q.digits[j][2]] for j in range(rank)]
    total = _totals(tables, options, q, k, starts)
    q_size: Array = np.ones((), np.int64)
    k_size: Array = np.ones((), np.int64)
    round_: Array = np.zeros((), np.int64)
    for o in options:
        a, b = np.array(o, np.int64).T
        q_size, k_size = np.multiply.outer(q_size, a), np.multiply.outer(k_size, b)
        round_ = np.add.outer(round_, a + b)
    at = np.flatnonzero((q_size == grid.q_tile) & (k_size == grid.k_tile))
    at = at[np.lexsort((round_.ravel()[at], total.ravel()[at]))]
    counts = total.ravel()[at]
    # Shapes with equal counts are mostly the same shape along other axes.
    distinct = np.append(True, counts[1:] != counts[:-1])[: at.size]
    at = at[distinct & (counts <= _NEARLY * counts[:1].sum())][:_FINALISTS]
    plain = [j for j in range(rank) if not q.is_class[j]]
    found = []
    for place in zip(*np.unravel_index(at, total.shape), strict=True):
        chosen = [o[int(i)] for o, i in zip(options, place, strict=True)]
        found.append((tuple(chosen[j][0] for j in plain), tuple(chosen[j][1] for j in plain)))
    return found


def _options(q: Axes, k: Axes, j: int, grid: Grid) -> list[tuple[int, int]]:
    """Extents of blocks along a digit, of queries and of keys."""
    if q.is_class[j]:
        return [(1, 1)]
    n, m = q.digits[j][1], k.digits[j][1]
    sides = [sorted({s[0] for s in factorizations(tile, 2)}) for tile in (grid.q_tile, grid.k_tile)]
    every = [(a, b) for a in sides[0] if a <= n for b in sides[1] if b <= m]
    return [(a, b) for a, b in every if (n // a) * (m // b) <= _MOST_BLOCKS] or every[-1:]


def _totals(tables: Tables, options: list[list[tuple[int, int]]], q: Axes, k: Axes, starts: list[int]) -> Array:
    """The number of pairs of blocks that are not empty, one axis a digit's options."""
    spans = [
        [(_spans(q.digits[j][1], a, starts[j]), _spans(k.digits[j][1], b, starts[j])) for a, b in each]
        for j, each in enumerate(options)
    ]
    found, distinct, digits = [], [], []
    for table in tables.tables:
        place = (*table.group.q, *table.group.k)
        j = place[0] if place else None
        cells = []
        for a, b in spans[j] if j is not None else [((np.zeros(1), np.ones(1)),) * 2]:
            bits = table.over([a] if table.group.q else [], [b] if table.group.k else [])
            times = (1 if table.group.q or j is None else a[0].size) * (1 if table.group.k or j is None else b[0].size)
            cells.append((*np.unique(bits, return_counts=True), times))
        every = np.unique(np.concatenate([c[0] for c in cells]))
        counts = np.zeros((len(cells), every.size))
        for row, (bits, number, times) in enumerate(cells):
            counts[row, np.searchsorted(every, bits)] = number * times
        found.append(counts)
        distinct.append(every.astype(np.uint64))
        digits.append(j)
    alive = (tables.kinds(distinct) & 1).astype(np.float64)
    for counts in found:
        alive = np.tensordot(alive, counts, axes=(0, 1))
    return _with_free(alive, digits, spans)


def _with_free(alive: Array, digits: list[int | None], spans: Any) -> Array:
    """The axes in the order of the digits, those without a table counted whole."""
    alive = alive.reshape([n for n, j in zip(alive.shape, digits, strict=True) if j is not None])
    used = [j for j in digits if j is not None]
    alive = alive.transpose(np.argsort(used))
    for j, each in enumerate(spans):
        if j not in used:
            alive = np.expand_dims(alive, j)
            sizes = np.array([a[0].size * b[0].size for a, b in each], np.float64)
            alive = alive * sizes.reshape([-1 if i == j else 1 for i in range(alive.ndim)])
    return alive


def _spans(extent: int, block: int, start: int) -> tuple[Array, Array]:
    """The blocks along a digit, those at the borders cut short."""
    first = np.arange(start % block - block if start % block else 0, extent, block, dtype=np.int64)
    return np.maximum(first, 0), np.minimum(first + block, extent)

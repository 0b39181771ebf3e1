"""Which tiles of keys a decoding kernel visits: the heads of its loops.

Tiles are listed, or found from ranges: bounds on the keys that a query keeps, evaluated at the queries that a
program instance has.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

from maskc.backends.triton.expressions import Block, Expressions
from maskc.backends.triton.writer import origin
from maskc.ir.nodes import TRUE
from maskc.passes.rows import Clause

__all__ = ["Loop", "listed_loop", "range_loops"]


class Loop(NamedTuple):
    """The lines up to a loop's body, which finds its tile as ``tile``. ``full``: every query keeps all of its keys."""

    head: list[str]
    full: bool = False


def listed_loop() -> Loop:
    """The loop over a list of tiles, one for every entry and pack of heads."""
    head = [
        "    pack = b * packs + first_head // PACK",
        "    first_tile = tl.load(tiles_first + pack)",
        "    total_tiles = tl.load(tiles_first + pack + 1) - first_tile",
        *_SHARE,
        "        tile = tl.load(tiles + first_tile + i)",
    ]
    return Loop(head)


_SHARE = [
    "    # Each split has an equal share of the tiles.",
    "    for i in tl.range(total_tiles * split // splits, total_tiles * (split + 1) // splits):",
]


def range_loops(ranges: tuple[Clause, ...], exact: bool, used: Expressions, block: Block) -> list[Loop]:
    """The loops over the tiles of ranges, each tile once. ``exact``: queries keep all keys of their ranges.
    ``block``: what is before them, where the ranges are found from their bounds at the queries of this tile."""
    if len(ranges) == 1 and exact and ranges[0].residual is TRUE:
        return _one_range(ranges[0], used, block)
    return [_all_ranges(ranges, used, block)]


def _all_ranges(ranges: tuple[Clause, ...], used: Expressions, block: Block) -> Loop:
    """The tiles of all ranges, in order."""
    names = []
    for i, clause in enumerate(ranges):
        names.append(_range_lines(i, clause, used, block))
    names = _sorted(names, block)
    reach, ends = "", list[tuple[str, str]]()
    for i, (first, last) in enumerate(names):
        # What an earlier range has is left out.
        block.add(f"first_tile_{i} = {f'tl.maximum({first}, {reach})' if reach else first}")
        block.add(f"last_tile_{i} = tl.maximum(first_tile_{i}, {last})")
        before = f" + end_{i - 1}" if i else ""
        block.add(f"end_{i} = last_tile_{i} - first_tile_{i}{before}")
        ends.append((f"end_{i}", f"last_tile_{i} - end_{i}"))
        reach = f"last_tile_{i}"
    block.add(f"total_tiles = {ends[-1][0] if ends else '0'}")
    lines = [*_SHARE, f"        tile = i + ({ends[0][1]})" if ends else "        tile = i"]
    for (end, _), (_, shift) in itertools.pairwise(ends):
        lines.append(f"        tile = tl.where(i < {end}, tile, i + ({shift}))")
    return Loop(lines)


def _one_range(clause: Clause, used: Expressions, block: Block) -> list[Loop]:
    """The tiles of one range: those that every query keeps whole, which are a run, and those on both sides of it."""
    first, last = _range_lines(0, clause, used, block)
    block.add(f"total_tiles = {last} - {first}")
    low = high = None
    if clause.lo is not None:
        low = "tl.max(tl.max(tl.where(q_there[:, None], lows_0, k_start), 1), 0)"
    if clause.hi is not None:
        high = "tl.min(tl.min(tl.where(q_there[:, None], highs_0, k_len), 1), 0)"
    block.add(f"inner_low = {low or 'k_start'}")
    block.add(f"inner_high = {high or 'k_len'}")
    return [Loop(_FULL, full=True), Loop(_AROUND)]


_FULL = [
    "    # Each split has an equal share of the tiles, and among them these full ones: every query keeps all keys.",
    "    share_first = from_0 + total_tiles * split // splits",
    "    share_last = from_0 + total_tiles * (split + 1) // splits",
    "    full_first = tl.minimum(tl.maximum(share_first, tl.cast(tl.cdiv(inner_low, K_TILE), tl.int32)), share_last)",
    "    full_last = tl.maximum(full_first, tl.minimum(share_last, tl.cast(inner_high // K_TILE, tl.int32)))",
    "    for tile in tl.range(full_first, full_last):",
]
_AROUND = [
    "",
    "    # Partial tiles, on both sides of the full ones.",
    "    full_tiles = full_last - full_first",
    "    for i in tl.range(share_first, share_last - full_tiles):",
    "        tile = tl.where(i < full_first, i, i + full_tiles)",
]


def _range_lines(i: int, clause: Clause, used: Expressions, block: Block) -> tuple[str, str]:
    """The names of the first tile of a range, and of the one after its last, over all queries of this tile."""
    for line in origin(*((word, n) for word, n in (("from", clause.lo), ("to", clause.hi)) if n is not None)):
        block.add(line)
    there, low, high = "q_there[:, None]", "k_start", "k_len"
    if clause.residual is not TRUE:
        # By way of an integer: see ``writer.keep_lines``.
        kept = f"tl.where({used.write(clause.residual, block, block, double=True)}, 1, 0)"
        there += f" & ((tl.zeros((Q_TILE, 1), tl.int32) + {kept}) != 0)"
    if clause.lo is not None:
        block.add(f"lows_{i} = tl.maximum({used.write(clause.lo, block, block)}, k_start)")
        low = f"lows_{i}"
    if clause.hi is not None:
        block.add(f"highs_{i} = tl.minimum({used.write(clause.hi, block, block)}, k_len)")
        high = f"highs_{i}"
    block.add(f"low_{i} = tl.min(tl.min(tl.where({there}, {low}, k_len), 1), 0)")
    block.add(f"high_{i} = tl.max(tl.max(tl.where({there}, {high}, 0), 1), 0)")
    block.add(f"some_{i} = high_{i} > low_{i}")
    block.add(f"from_{i} = tl.where(some_{i}, tl.cast(low_{i}, tl.int32) // K_TILE, 0)")
    block.add(f"to_{i} = tl.where(some_{i}, tl.cdiv(tl.cast(high_{i}, tl.int32), K_TILE), 0)")
    return f"from_{i}", f"to_{i}"


def _sorted(names: list[tuple[str, str]], block: Block) -> list[tuple[str, str]]:
    """Names of the same ranges by where they start: compared and exchanged, each with each."""
    names, count = list(names), 0
    for i in range(1, len(names)):
        for j in range(i, 0, -1):
            (a, x), (b, y) = names[j - 1], names[j]
            block.add(f"later_{count} = {b} < {a}")
            for k, (first, second) in enumerate(((a, b), (x, y))):
                block.add(f"lower_{count}_{k} = tl.where(later_{count}, {second}, {first})")
                block.add(f"upper_{count}_{k} = tl.where(later_{count}, {first}, {second})")
            names[j - 1] = (f"lower_{count}_0", f"lower_{count}_1")
            names[j] = (f"upper_{count}_0", f"upper_{count}_1")
            count += 1
    return names

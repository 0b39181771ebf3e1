"""Finds the live tiles of a mask with torch alone: ``standalone`` copies what is below into the files that it writes.

A mask is a function of positions that is written with operators and with the functions below. It is first called with
a ``Range`` of queries and one of keys for every tile, which settles most tiles at the cost of one evaluation each;
those that are left open, usually on the border of the mask, are evaluated at every pair.
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["Range", "plan_tiles", "tile_kinds"]


class Range:
    """Bounds, elementwise: a number is at least ``low`` and at most ``high``. Of a truth value, ``low`` says whether
    it holds everywhere, and ``high`` whether it may hold somewhere. Bounds that are NaN leave every comparison open:
    those of what may be NaN."""

    def __init__(self, low: Any, high: Any) -> None:
        self.low, self.high = low, high

    def __add__(self, other: Any) -> Range:
        o = ranged(other)
        return unknown(self.low + o.low, self.high + o.high)

    def __sub__(self, other: Any) -> Range:
        o = ranged(other)
        return unknown(self.low - o.high, self.high - o.low)

    def __rsub__(self, other: Any) -> Range:
        return ranged(other) - self

    def __neg__(self) -> Range:
        return Range(-1 * self.high, -1 * self.low)

    def __mul__(self, other: Any) -> Range:
        o = ranged(other)
        ends = [a * b for a in (self.low, self.high) for b in (o.low, o.high)]
        return unknown(least(*ends), greatest(*ends))

    def __lt__(self, other: Any) -> Range:
        o = ranged(other)
        # A NaN compares false: it must leave open what may be.
        return Range(tensor(self.high < o.low), ~tensor(self.low >= o.high))

    def __le__(self, other: Any) -> Range:
        o = ranged(other)
        return Range(tensor(self.high <= o.low), ~tensor(self.low > o.high))

    def __gt__(self, other: Any) -> Range:
        return ranged(other) < self

    def __ge__(self, other: Any) -> Range:
        return ranged(other) <= self

    def __eq__(self, other: object) -> Range:  # type: ignore[override]
        o = ranged(other)
        same = tensor(self.low == self.high) & tensor(o.low == o.high) & tensor(self.low == o.low)
        return Range(same, ~(tensor(self.high < o.low) | tensor(o.high < self.low)))

    def __ne__(self, other: object) -> Range:  # type: ignore[override]
        return ~(self == other)

    def __invert__(self) -> Range:
        return Range(~tensor(self.high), ~tensor(self.low))

    def __and__(self, other: Any) -> Range:
        o = ranged(other)
        return Range(tensor(self.low) & o.low, tensor(self.high) & o.high)

    def __or__(self, other: Any) -> Range:
        o = ranged(other)
        return Range(tensor(self.low) | o.low, tensor(self.high) | o.high)

    def __truediv__(self, other: Any) -> Range:
        return Range(float("nan"), float("nan"))

    __radd__, __rmul__, __rand__, __ror__ = __add__, __mul__, __and__, __or__
    __rtruediv__ = __pow__ = __rpow__ = __truediv__
    __hash__ = None  # type: ignore[assignment]


def ranged(x: Any) -> Range:
    """As a range; of a number that is known, from itself to itself."""
    return x if isinstance(x, Range) else Range(x, x)


def unknown(low: Any, high: Any) -> Range:
    """From ``low`` to ``high``; of what is infinite on both sides, or NaN on one, nothing is known: it may be NaN."""
    low, high = on_one_device(low, high)
    if not low.is_floating_point():
        return Range(low, high)
    bad = ~(low > -float("inf")) & ~(high < float("inf"))
    bad = bad | low.isnan() | high.isnan()
    return Range(torch.where(bad, float("nan"), low), torch.where(bad, float("nan"), high))


def tensor(x: Any) -> Any:
    """A number as a tensor; tensors and ranges as they are."""
    return x if torch.is_tensor(x) or isinstance(x, Range) else torch.tensor(x)


def least(first: Any, *rest: Any) -> Any:
    """The smallest, elementwise."""
    for x in rest:
        if isinstance(first, Range) or isinstance(x, Range):
            a, b = ranged(first), ranged(x)
            first = Range(least(a.low, b.low), least(a.high, b.high))
        else:
            first = torch.minimum(*on_one_device(first, x))
    return first


def greatest(first: Any, *rest: Any) -> Any:
    """The largest, elementwise."""
    return -least(-first, *(-x for x in rest))


def absolute(x: Any) -> Any:
    """Without the sign."""
    return greatest(x, -x) if not isinstance(x, Range) else greatest(x, -x, 0)


def on_one_device(*given: Any) -> list[Any]:
    """Numbers as tensors where the tensors are."""
    device = next((x.device for x in given if torch.is_tensor(x) and x.ndim), None)
    return [on_device(x, device) for x in given]


def on_device(x: Any, device: Any) -> Any:
    """A number as a tensor there, made there: nothing is copied, which a graph being captured would not take."""
    if torch.is_tensor(x) and (x.ndim or device is None or x.device == device):
        return x if device is None else x.to(device)
    value, dtype = (x.item(), x.dtype) if torch.is_tensor(x) else (x, None)
    return torch.full((), value, dtype=dtype, device=device)


def choose(condition: Any, a: Any, b: Any) -> Any:
    """``a`` where the condition holds, else ``b``."""
    if not any(isinstance(x, Range) for x in (condition, a, b)):
        return torch.where(*on_one_device(condition, a, b))
    c, a, b = ranged(condition), ranged(a), ranged(b)
    if a.low.__class__ is bool or (torch.is_tensor(a.low) and a.low.dtype == torch.bool):
        return (c & a) | (~c & b)
    always, never = tensor(c.low), ~tensor(c.high)
    low, high = least(a.low, b.low), greatest(a.high, b.high)
    return Range(
        torch.where(*on_one_device(always, a.low, torch.where(*on_one_device(never, b.low, low)))),
        torch.where(*on_one_device(always, a.high, torch.where(*on_one_device(never, b.high, high)))),
    )


def floor_divide(a: Any, b: Any) -> Any:
    """The quotient, floored; 0 where the divisor is."""
    if not (isinstance(a, Range) or isinstance(b, Range)):
        a, b = on_one_device(a, b)
        return torch.where(b == 0, 0, torch.div(a, torch.where(b == 0, 1, b), rounding_mode="floor"))
    a = ranged(a)
    if isinstance(b, int) and b > 0:
        return Range(a.low // b, a.high // b)
    largest = absolute(a).high
    return Range(-largest, largest)


def remainder(a: Any, b: Any) -> Any:
    """The remainder of ``floor_divide``; 0 where the divisor is."""
    if not (isinstance(a, Range) or isinstance(b, Range)):
        a, b = on_one_device(a, b)
        return torch.where(b == 0, 0, torch.remainder(a, torch.where(b == 0, 1, b)))
    a = ranged(a)
    if isinstance(b, int) and b > 0:
        low, high = on_one_device(a.low, a.high)
        inside = low // b == high // b  # no multiple lies between them
        return Range(torch.where(inside, low % b, 0), torch.where(inside, high % b, b - 1))
    largest = greatest(absolute(b) if isinstance(b, Range) else abs(b), 1) - 1
    return Range(-ranged(largest).high, ranged(largest).high)


def hashed(*values: Any) -> Any:
    """The same number below 2**31 as in the kernels."""
    if any(isinstance(x, Range) for x in values):
        parts = [ranged(x) for x in values]
        known = tensor(True)
        for x in parts:
            known = known & tensor(x.low == x.high)
        found = tensor(hashed(*(x.low for x in parts)))
        return Range(torch.where(known, found, 0), torch.where(known, found, 2**31 - 1))
    state: Any = 0x9E3779B9
    for value in values:
        state = state ^ (value & 0xFFFFFFFF)
        state = state ^ (state >> 16)
        state = (state * 0x7FEB352D) & 0xFFFFFFFF
        state = state ^ (state >> 15)
        state = (state * 0x5BD1E995) & 0xFFFFFFFF
        state = state ^ (state >> 16)
    return state >> 1


def as_float(x: Any) -> Any:
    """A number in 64 bits of float."""
    return Range(tensor(x.low).double(), tensor(x.high).double()) if isinstance(x, Range) else tensor(x).double()


def single(x: Any) -> Any:
    """A number in 32 bits of float, as kernels compute scores."""
    return tensor(x).float()


def floor(x: Any) -> Any:
    """A float, rounded down to an integer, at most 2**30 from 0; 0 of NaN, which what may be infinite may be."""
    most = float(2**30)
    if not isinstance(x, Range):
        return torch.floor(tensor(x).nan_to_num(0.0).clamp(-most, most)).long()
    low, high = (torch.as_tensor(e, dtype=torch.float64) for e in (x.low, x.high))
    finite = low.isfinite() & high.isfinite()
    low, high = (torch.floor(e.nan_to_num(n).clamp(-most, most)).long() for e, n in ((low, -most), (high, most)))
    return Range(torch.where(finite, low, low.clamp(max=0)), torch.where(finite, high, high.clamp(min=0)))


def by_torch(function: Any, x: Any) -> Any:
    """A function of floats; of a range nothing is said."""
    return Range(float("nan"), float("nan")) if isinstance(x, Range) else function(tensor(x))


def some(count: int, body: Any) -> Any:
    """Whether the body holds for any index from 0 to ``count`` (excluded)."""
    found: Any = False
    for index in range(int(count)):
        found = body(index) | found
    return found


def element(table: Any, *indices: Any) -> Any:
    """An element of a table; every index is clamped to its range."""
    if table.numel() == 0:
        return torch.zeros((), dtype=table.dtype, device=table.device)
    moving = [axis for axis, i in enumerate(indices) if isinstance(i, Range)]
    axes = list(zip(indices, table.shape, strict=True))
    if not moving:
        places = [on_device(i, table.device).clamp(0, n - 1) for i, n in axes]
        return wide(table[tuple(places)])
    if len(moving) > 1:
        return Range(wide(table.min()), wide(table.max()))
    at = indices[moving[0]]
    fixed = [slice(None) if axis == moving[0] else clamped(i, n) for axis, (i, n) in enumerate(axes)]
    row = wide(table[tuple(fixed)])
    return extremes(row, *(torch.as_tensor(e, device=row.device).clamp(0, len(row) - 1) for e in (at.low, at.high)))


def clamped(index: Any, extent: int) -> int:
    """An index as a number within its range."""
    return min(max(int(index), 0), extent - 1)


def wide(x: Any) -> Any:
    """In 64 bits, so that no arithmetic with it can overflow."""
    return x.double() if x.is_floating_point() else x if x.dtype == torch.bool else x.long()


def extremes(row: Any, first: Any, last: Any) -> Range:
    """The least and the largest element from ``first`` to ``last``: of two stretches whose lengths are powers of two
    and which cover all between them."""
    low, high, length = [row], [row], 1
    while 2 * length <= len(row):
        low.append(torch.minimum(low[-1][:-length], low[-1][length:]))
        high.append(torch.maximum(high[-1][:-length], high[-1][length:]))
        length *= 2
    level = (last - first + 1).double().log2().floor().long().clamp(0, len(low) - 1)
    second = last + 1 - (1 << level)
    ends = []
    for stretches, pick in ((low, torch.minimum), (high, torch.maximum)):
        found = torch.zeros(level.shape, dtype=row.dtype, device=row.device)
        for i, each in enumerate(stretches):
            a, b = (each[x.clamp(0, len(each) - 1)] for x in (first, second))
            found = torch.where(level == i, pick(a, b), found)
        ends.append(found)
    return Range(*ends)


def tile_kinds(mask: Any, given: Any, b: int, h: int, q_tile: int, k_tile: int, device: Any) -> Any:
    """0, 1 or 2 for every tile without, with some and with all pairs kept, int8 (rows, columns).

    Takes time for each tile, and for each pair of the tiles that ranges leave open. A ragged tile at an end counts
    as partial.
    """
    q_len, k_len, offset = given["q_len"], given["k_len"], given["offset"]
    rows, columns = -(-q_len // q_tile), -(-k_len // k_tile)
    row: Any = torch.arange(rows, device=device)[:, None]
    column = torch.arange(columns, device=device)[None, :]
    kinds = torch.zeros((rows, columns), dtype=torch.int8, device=device)
    most = 1 << 22  # tiles or pairs at a time
    keys = Range(column * k_tile, (column * k_tile + k_tile - 1).clamp(max=k_len - 1))
    for part in row.split(max(1, most // max(1, columns))):
        queries = Range(part * q_tile, (part * q_tile + q_tile - 1).clamp(max=q_len - 1)) + offset
        kept = ranged(mask(queries, keys, b, h, given))
        kind = torch.as_tensor(kept.high, device=device).to(torch.int8) + torch.as_tensor(kept.low, device=device)
        kinds[int(part[0]) : int(part[0]) + len(part)] = kind
    left: Any = (kinds == 1).nonzero()
    for part in left.split(max(1, most // (q_tile * k_tile))):
        q = part[:, 0, None, None] * q_tile + torch.arange(q_tile, device=device)[:, None]
        k = part[:, 1, None, None] * k_tile + torch.arange(k_tile, device=device)
        there = (q < q_len) & (k < k_len)
        found = mask(q.clamp(max=q_len - 1) + offset, k.clamp(max=k_len - 1), b, h, given)
        found = torch.as_tensor(found, device=device).expand(there.shape)
        every = (found | ~there).flatten(1).all(1)
        kinds[part[:, 0], part[:, 1]] = (found & there).flatten(1).any(1).to(torch.int8) * (1 + every.to(torch.int8))
    whole = ((row + 1) * q_tile <= q_len) & ((column + 1) * k_tile <= k_len)
    return torch.where(whole, kinds, kinds.clamp(max=1))


def plan_tiles(every: list[Any]) -> dict[str, Any]:
    """The kinds of tile of some masks as the kernels read them: for every row its full and its partial tiles, as
    two numbers where they are contiguous, else as a list; rows with most work come first."""
    rows = every[0].shape[0]
    work = torch.stack([work_of(kinds) for kinds in every])
    # One order for all of them: an instance of some kernels does several heads one after another.
    order = torch.argsort(-work.sum(0), stable=True)
    # A line: the row, where its full tiles start and end, and where its partial ones do.
    lines = torch.zeros((len(every), rows, 8), dtype=torch.int64, device=order.device)
    lines[:, :, 0] = order
    found: dict[str, Any] = {"tile_rows": rows, "ONE_PLAN": len(every) == 1}
    for at, word, value in ((1, "full", 2), (3, "part", 1)):
        live = torch.cat([kinds == value for kinds in every])
        count, columns = live.sum(1), live.shape[1]
        first = live.to(torch.uint8).argmax(1) if columns else torch.zeros_like(count)
        behind = columns - 1 - live.flip(1).to(torch.uint8).argmax(1) if columns else first
        run = bool(((count == 0) | (behind - first + 1 == count)).all())
        last = first + count if run else count.cumsum(0)
        for place, ends in ((at, last - count), (at + 1, last)):
            lines[:, :, place] = ends.view(len(every), rows)[:, order]
        # Kernels read a tile ahead, and so one behind the last.
        tiles = torch.nn.functional.pad(live.nonzero()[:, 1] if not run else count[:0], (0, 1))
        found |= {f"{word}_tiles": tiles, f"{word.upper()}_RUN": run}
    return found | {"schedule": lines}


def work_of(kinds: Any) -> Any:
    """What the rows of tiles take, about."""
    return (kinds == 2).sum(1) + 1.5 * (kinds == 1).sum(1)

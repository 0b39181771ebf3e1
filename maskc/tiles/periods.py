"""Masks that repeat: one period tells what all tiles of a size hold, wherever they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.ir.evaluate import evaluate, kept
from maskc.ir.nodes import Apply, Exists, Lookup, Node, Symbol, Type
from maskc.ir.ops import apply
from maskc.ir.schedule import schedule
from maskc.tiles.budget import OPERATIONS
from maskc.tiles.headmask import HeadMask

__all__ = ["Period", "Repeats", "repeats"]

Array = npt.NDArray[Any]
#: Largest period cell that is evaluated to find out what a periodic mask does in a tile.
_LARGEST_CELL = 1 << 16
#: Array operations on points that all cells of a mask may take together: a tenth of a second or two. What a period
#: tells saves looking at tiles, but nothing rests on it.
_MOST_WORK = 1 << 26
#: Of these, what finding out takes that all tiles of some sizes surely hold.
_WINDOWS = 16


@dataclass(frozen=True, eq=False)
class Period:
    """A mask that repeats every so many queries and keys: one period, (queries, keys) bool."""

    cell: Array
    _known: dict[tuple[int, int], tuple[bool, bool]] = field(default_factory=dict)

    def within(self, q: int, k: int) -> tuple[bool, bool]:
        """Whether so many queries and keys in a row surely have a kept pair, and a dropped one, wherever they are."""
        size = min(q, self.cell.shape[0]), min(k, self.cell.shape[1])
        if size not in self._known:
            number = _windows(_windows(self.cell.astype(np.int32), size[0]).T, size[1])
            self._known[size] = bool(number.min() > 0), bool(number.max() < math.prod(size))
        return self._known[size]


def _windows(x: Array, size: int) -> Array:
    """Sums of so many rows in a row, from each one on; after the last comes the first."""
    before = np.cumsum(np.concatenate([np.zeros_like(x[:1]), x, x[: size - 1]]), axis=0, dtype=x.dtype)
    found: Array = before[size:] - before[: len(x)]
    return found


@dataclass(frozen=True)
class Repeats:
    """What repeats within a mask. ``periods``: of the largest periodic masks (those that no periodic one contains), and
    of ``joint`` ones: for a conjunction, or a union, that is not periodic, that of its operands that are."""

    periods: dict[Node, Period]
    joint: dict[Node, Apply]


def repeats(c: HeadMask) -> Repeats:
    """What repeats within a mask. Raises MaskcError E801."""
    steps = _steps(c)
    inner = {child for n in c.order if n.type is Type.BOOL and n in steps for child in n.children}
    plain = [n for n in c.order if n.type is Type.BOOL and n in steps and n not in inner and c.uses[n]]
    joint = {n: part for n in c.order if n not in steps and (part := _joint(n, steps, c)) is not None}
    found, work = {}, 0
    for node in (*plain, *dict.fromkeys(joint.values())):
        q, k = steps[node]
        if q * k <= _LARGEST_CELL:
            cost = q * k * (_WINDOWS + len(schedule(node).steps))  # no period is found of an `any`
            work += cost
            if work > _MOST_WORK:
                break
            if c.budget is not None:
                c.budget.spend(cost // OPERATIONS, "periods of the mask")
            found[node] = Period(_cell(c, node, q, k))
    return Repeats(found, {n: part for n, part in joint.items() if part in found})


def _joint(node: Node, steps: dict[Node, tuple[int, int]], c: HeadMask) -> Apply | None:
    """The operands of ``and`` or ``or`` that repeat together in a cell that is not too large, where these are several:
    as one, whose period is then known. What each does in a tile by itself does not tell what they do together."""
    if not isinstance(node, Apply) or node.op not in ("and", "or"):
        return None
    parts, q, k = list[Node](), 1, 1
    for part in sorted((a for a in node.args if a in steps and c.uses[a]), key=lambda a: math.prod(steps[a])):
        whole = math.lcm(q, steps[part][0]), math.lcm(k, steps[part][1])
        if math.prod(whole) <= _LARGEST_CELL:
            parts.append(part)
            q, k = whole
    if len(parts) < 2:
        return None
    found = apply(node.op, *parts)
    assert isinstance(found, Apply)
    steps[found] = q, k
    return found


def _cell(c: HeadMask, node: Node, q: int, k: int) -> Array:
    rows, cols = np.arange(q, dtype=np.int64)[:, None], np.arange(k, dtype=np.int64)[None, :]
    return kept(node, c.binding, q=rows, k=cols, h=c.head, b=c.batch, params=c.params)


def _steps(c: HeadMask) -> dict[Node, tuple[int, int]]:
    """The nodes that repeat, with their periods in q and in k."""
    steps: dict[Node, tuple[int, int]] = {}
    slopes: dict[Node, tuple[int, int]] = {}
    for node in c.order:
        slope = _slope(c, node, slopes)
        if slope is not None:
            slopes[node] = slope
            if slope == (0, 0):
                steps[node] = (1, 1)
        if node in steps or isinstance(node, (Symbol, Lookup, Exists)) or not node.children:
            continue
        if all(child in steps for child in node.children):
            pairs = [steps[child] for child in node.children]
            steps[node] = math.lcm(*(p[0] for p in pairs)), math.lcm(*(p[1] for p in pairs))
        elif isinstance(node, Apply) and node.op == "mod" and node.args[0] in slopes:
            divisor = _scalar(c, node.args[1])
            if divisor:
                a, b = slopes[node.args[0]]
                steps[node] = abs(divisor) // math.gcd(a, divisor), abs(divisor) // math.gcd(b, divisor)
    return {n: s for n, s in steps.items() if max(s) <= _LARGEST_CELL}


def _slope(c: HeadMask, node: Node, slopes: Mapping[Node, tuple[int, int]]) -> tuple[int, int] | None:
    """(a, b) if the node is ``a*q + b*k`` plus something that depends on neither."""
    if not c.uses[node]:
        return None if c.free[node] else (0, 0)
    if isinstance(node, Symbol):
        return int(node.name == "q"), int(node.name == "k")
    if not isinstance(node, Apply) or node.type is not Type.INT or any(a not in slopes for a in node.args):
        return None
    parts = [slopes[a] for a in node.args]
    if node.op in ("add", "sub"):
        sign = 1 if node.op == "add" else -1
        return parts[0][0] + sign * parts[1][0], parts[0][1] + sign * parts[1][1]
    if node.op == "neg":
        return -parts[0][0], -parts[0][1]
    if node.op == "mul":
        for x, y in ((0, 1), (1, 0)):
            factor = _scalar(c, node.args[x])
            if factor is not None:
                return parts[y][0] * factor, parts[y][1] * factor
    return None


def _scalar(c: HeadMask, node: Node) -> int | None:
    """The value of an integer that depends on neither position, nor on an index."""
    if c.uses[node] or c.free[node] or node.type is not Type.INT:
        return None
    zero = np.zeros((), np.int64)
    return int(evaluate(node, c.binding, q=zero, k=zero, h=c.head, b=c.batch, params=c.params))

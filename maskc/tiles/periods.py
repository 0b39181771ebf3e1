"""Masks that repeat: what one period holds tells what every tile does that is no smaller than it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.ir.evaluate import evaluate, kept
from maskc.ir.nodes import Apply, Exists, Lookup, Node, Symbol, Type
from maskc.ir.schedule import schedule
from maskc.tiles.budget import OPERATIONS
from maskc.tiles.headmask import HeadMask

__all__ = ["Period", "periods"]

Array = npt.NDArray[Any]
#: Largest period cell that is evaluated to find out what a periodic mask does in a tile.
_LARGEST_CELL = 1 << 16
#: Array operations on points that all cells of a mask may take together: a tenth of a second or two. What a period
#: tells saves looking at tiles, but nothing rests on it.
_MOST_WORK = 1 << 26


@dataclass(frozen=True)
class Period:
    """A mask that repeats every ``q`` queries and ``k`` keys, and what one period holds: a kept and a
    dropped pair at all; in every row of the cell; in every column of it. ``difference``: whether it speaks of
    ``q - k`` only, so that as many differences in a row hold all there is."""

    q: int
    k: int
    difference: bool
    hit: tuple[bool, bool, bool]
    miss: tuple[bool, bool, bool]


def periods(c: HeadMask) -> dict[Node, Period]:
    """Of the largest periodic masks within a mask (those that no periodic one contains). Raises MaskcError E801."""
    steps, differences = _steps(c)
    inner = {child for n in c.order if n.type is Type.BOOL and n in steps for child in n.children}
    found, work = {}, 0
    for node in c.order:
        if node.type is not Type.BOOL or node not in steps or node in inner or not c.uses[node]:
            continue
        q, k = steps[node]
        if q * k <= _LARGEST_CELL:
            cost = q * k * len(schedule(node).steps)  # no period is found of an `any`
            work += cost
            if work > _MOST_WORK:
                break
            if c.budget is not None:
                c.budget.spend(cost // OPERATIONS, "periods of the mask")
            found[node] = _cell(c, node, q, k, node in differences)
    return found


def _cell(c: HeadMask, node: Node, q: int, k: int, difference: bool) -> Period:
    rows, cols = np.arange(q, dtype=np.int64)[:, None], np.arange(k, dtype=np.int64)[None, :]
    cell = kept(node, c.binding, q=rows, k=cols, h=c.head, b=c.batch, params=c.params)
    return Period(q, k, difference, _presence(cell), _presence(~cell))


def _presence(cell: Array) -> tuple[bool, bool, bool]:
    return bool(cell.any()), bool(cell.any(axis=1).all()), bool(cell.any(axis=0).all())


def _steps(c: HeadMask) -> tuple[dict[Node, tuple[int, int]], set[Node]]:
    """The nodes that repeat, with their periods in q and in k; and those that speak of ``q - k`` only."""
    steps: dict[Node, tuple[int, int]] = {}
    differences: set[Node] = set()
    slopes: dict[Node, tuple[int, int]] = {}
    for node in c.order:
        slope = _slope(c, node, slopes)
        if slope is not None:
            slopes[node] = slope
            if slope == (0, 0):
                steps[node] = (1, 1)
                differences.add(node)
        if node in steps or isinstance(node, (Symbol, Lookup, Exists)) or not node.children:
            continue
        if all(child in steps for child in node.children):
            pairs = [steps[child] for child in node.children]
            steps[node] = math.lcm(*(p[0] for p in pairs)), math.lcm(*(p[1] for p in pairs))
            if all(child in differences for child in node.children):
                differences.add(node)
        elif isinstance(node, Apply) and node.op == "mod" and node.args[0] in slopes:
            divisor = _scalar(c, node.args[1])
            if divisor:
                a, b = slopes[node.args[0]]
                steps[node] = abs(divisor) // math.gcd(a, divisor), abs(divisor) // math.gcd(b, divisor)
                if a == -b:
                    differences.add(node)
    return {n: s for n, s in steps.items() if max(s) <= _LARGEST_CELL}, differences


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

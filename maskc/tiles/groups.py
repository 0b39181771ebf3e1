"""Which heads and batch entries share one mask."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from maskc.ir.binding import Binding
from maskc.ir.evaluate import evaluate, free_indices
from maskc.ir.nodes import Const, Lookup, Node, Symbol, postorder
from maskc.ir.program import Program
from maskc.tiles.inputs import row_classes

__all__ = ["Members", "members"]

#: Heads and batch entries, all pairs of which share one mask.
Members = tuple[tuple[int, ...], tuple[int, ...]]


def members(program: Program, binding: Binding) -> list[list[Members]]:
    """One entry a distinct mask: the (heads, batches) products that have it.

    Masks are told apart by the values of all that they say of the head and the batch entry, so that two
    heads with equal windows share a mask, whatever their tables are called.
    """
    heads, batches = max(1, binding.heads), max(1, binding.batch)
    columns = _head_and_batch_values(program, binding, heads, batches)
    if not columns:
        return [[(tuple(range(heads)), tuple(range(batches)))]]
    keys: list[list[Hashable]] = [[() for _ in range(batches)] for _ in range(heads)]
    for column in columns:
        for h in range(heads):
            for b in range(batches):
                keys[h][b] = (keys[h][b], column[h][b])
    found: dict[Hashable, dict[int, list[int]]] = {}
    for h in range(heads):
        for b in range(batches):
            found.setdefault(keys[h][b], {}).setdefault(h, []).append(b)
    return [_products(of_head) for of_head in found.values()]


def _products(of_head: dict[int, list[int]]) -> list[Members]:
    same: dict[tuple[int, ...], list[int]] = {}
    for h, batches in of_head.items():
        same.setdefault(tuple(batches), []).append(h)
    return [(tuple(heads), batches) for batches, heads in same.items()]


def _head_and_batch_values(program: Program, binding: Binding, heads: int, batches: int) -> list[list[list[Hashable]]]:
    """For everything that may differ: its value by head and batch entry."""
    free, varies, points = free_indices([program.mask]), set[Node](), set[Node]()
    columns: list[list[list[Hashable]]] = []
    batched: set[str] = set()
    h, b = np.arange(heads)[:, None], np.arange(batches)[None, :]
    zero = np.zeros((), np.int64)
    tops: dict[Node, None] = {}
    for node in postorder([program.mask]):
        if (isinstance(node, Symbol) and node.name in ("q", "k")) or any(c in points for c in node.children):
            points.add(node)
        if (isinstance(node, Symbol) and node.name in ("h", "b")) or any(c in varies for c in node.children):
            varies.add(node)
        if isinstance(node, Lookup) and node.name in binding.batched:
            varies.add(node)
            if node in points or free[node]:
                batched.add(node.name)
        apart = node in points or free[node]
        below = [c for c in node.children if c in varies and c not in points and not free[c]]
        if apart:
            tops.update(dict.fromkeys(below))
    if program.mask in varies and program.mask not in points:
        tops[program.mask] = None
    for node in tops:
        if isinstance(node, Const):
            continue
        value = evaluate(node, binding, q=zero, k=zero, h=h, b=b, params=program.params)
        columns.append(np.broadcast_to(value, (heads, batches)).tolist())
    for name in sorted(batched):
        classes = row_classes(np.asarray(binding.tables[name]))
        rows = [classes[i] if i < len(classes) else -1 for i in range(batches)]
        columns.append([list(rows) for _ in range(heads)])
    return columns

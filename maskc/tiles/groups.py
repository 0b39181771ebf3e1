"""Which heads and batch entries share one mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.ir.binding import Binding
from maskc.ir.evaluate import evaluate
from maskc.ir.nodes import Const, Lookup, Node, Symbol, postorder
from maskc.ir.program import Program
from maskc.ir.schedule import free_indices
from maskc.tiles.inputs import row_classes
from maskc.tiles.values import fail

__all__ = ["MAX_MASKS", "MAX_MEMBERS", "Members", "layers_alike", "members"]

Array = npt.NDArray[Any]
#: Heads and batch entries, all pairs of which share one mask.
Members = tuple[tuple[int, ...], tuple[int, ...]]


#: Masks, and pairs of a head and a batch entry that something tells apart, at most: planning each takes a millisecond.
MAX_MASKS, MAX_MEMBERS = 1 << 18, 1 << 22


def members(program: Program, binding: Binding) -> list[list[Members]]:
    """One entry a distinct mask: the (heads, batches) products that have it, each in ascending order.

    Masks are told apart by the values of all that they say of the head and the batch entry, so that two
    heads with equal windows share a mask, whatever their tables are called. Raises MaskcError E801 where there are
    more than ``MAX_MASKS``.
    """
    heads, batches = max(1, binding.heads), max(1, binding.batch)
    columns = _codes_by_head_and_batch(program, binding, heads, batches)
    by_head = _joined([c for c in columns if c.shape[1] == 1], (heads, 1))
    by_batch = _joined([c for c in columns if c.shape[0] == 1], (1, batches))
    both = [c for c in columns if 1 not in c.shape]
    if not both:
        _check_count(_distinct(by_head) * _distinct(by_batch))
        of_batch = _classes(by_batch.ravel())
        return [[(h, b)] for h in _classes(by_head.ravel()) for b in of_batch]
    every = _joined([by_head, by_batch, *both], (heads, batches))
    _check_count(_distinct(every))
    return [_products(same, batches) for same in _classes(every.ravel())]


def layers_alike(program: Program, binding: Binding, layers: int) -> list[int]:
    """For each of layers 0, 1, ...: the first layer that has the same masks, as told apart by the values of all that
    they say of the layer."""
    heads, batches = np.arange(max(1, binding.heads))[:, None], np.arange(max(1, binding.batch))[None, :]
    bindings, zero = [binding.replace(layer=i) for i in range(layers)], np.zeros((), np.int64)
    values: list[list[bytes]] = [[] for _ in bindings]
    for node in _largest_of_layer(program):
        for b, found in zip(bindings, values, strict=True):
            value = evaluate(node, b, q=zero, k=zero, h=heads, b=batches, params=program.params)
            found.append(np.asarray(value).tobytes())
    first: dict[tuple[bytes, ...], int] = {}
    return [first.setdefault(tuple(found), i) for i, found in enumerate(values)]


def _largest_of_layer(program: Program) -> list[Node]:
    """The largest parts of a mask that speak of the layer, and neither of positions nor of an index around them."""
    free = free_indices([program.mask])
    apart, varies, found = set[Node](), set[Node](), dict[Node, None]()
    for node in postorder([program.mask]):
        if node in (Symbol("q"), Symbol("k")) or free[node] or any(c in apart for c in node.children):
            apart.add(node)
            found.update(dict.fromkeys(c for c in node.children if c in varies and c not in apart))
        if node is Symbol("layer") or any(c in varies for c in node.children):
            varies.add(node)
    if program.mask in varies and program.mask not in apart:
        found[program.mask] = None
    return list(found)


def _distinct(codes: Array) -> int:
    return int(codes.max()) + 1


def _check_count(masks: int) -> None:
    if masks > MAX_MASKS:
        message = f"heads and batch entries have {masks:,} masks of their own: at most {MAX_MASKS:,} are planned"
        raise fail("E801", message, "give fewer batch entries at once")


def _joined(codes: list[Array], shape: tuple[int, int]) -> Array:
    """Numbers from 0 on that are equal where all the codes are, of a shape that all broadcast to."""
    found = np.zeros(shape, np.int64)
    for each in codes:
        found = _coded(found * (_distinct(each)) + each)
    return found


def _coded(values: Array) -> Array:
    """Equal values as equal numbers from 0 on."""
    codes: Array = np.unique(values, return_inverse=True)[1]
    return codes.reshape(values.shape)


def _classes(codes: Array) -> list[tuple[int, ...]]:
    """The places of each code, that of the first place first."""
    order = np.argsort(codes, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
    return sorted(tuple(part.tolist()) for part in parts)


def _products(same: tuple[int, ...], batches: int) -> list[Members]:
    """Places in an array by head and batch entry as products."""
    of_head: dict[int, list[int]] = {}
    for place in same:
        of_head.setdefault(place // batches, []).append(place % batches)
    found: dict[tuple[int, ...], list[int]] = {}
    for h, entries in of_head.items():
        found.setdefault(tuple(entries), []).append(h)
    return [(tuple(heads), entries) for entries, heads in found.items()]


def _codes_by_head_and_batch(program: Program, binding: Binding, heads: int, batches: int) -> list[Array]:
    """For everything that may differ: a number that tells its values apart, (heads, 1), (1, batches) or
    (heads, batches)."""
    free, points = free_indices([program.mask]), set[Node]()
    varies: dict[Node, frozenset[str]] = {}
    columns: list[Array] = []
    batched: set[str] = set()
    h, b = np.arange(heads)[:, None], np.arange(batches)[None, :]
    zero = np.zeros((), np.int64)
    tops: dict[Node, None] = {}
    for node in postorder([program.mask]):
        by = frozenset[str]().union(*(varies.get(c, ()) for c in node.children))
        if (isinstance(node, Symbol) and node.name in ("q", "k")) or any(c in points for c in node.children):
            points.add(node)
        if isinstance(node, Symbol) and node.name in ("h", "b"):
            by |= {node.name}
        if isinstance(node, Lookup) and node.name in binding.batched:
            by |= {"b"}
            if node in points or free[node]:
                batched.add(node.name)
        if by:
            varies[node] = by
        apart = node in points or free[node]
        below = [c for c in node.children if c in varies and c not in points and not free[c]]
        if apart:
            tops.update(dict.fromkeys(below))
    if program.mask in varies and program.mask not in points:
        tops[program.mask] = None
    for node in tops:
        if isinstance(node, Const):
            continue
        if len(varies[node]) > 1 and heads * batches > MAX_MEMBERS:
            message = (
                f"masks that differ by head and batch entry are told apart for {MAX_MEMBERS:,} pairs of them at most"
            )
            raise fail("E801", message, f"there are {heads:,} heads x {batches:,} batch entries: give fewer")
        value = evaluate(node, binding, q=zero, k=zero, h=h, b=b, params=program.params)
        columns.append(_coded(np.broadcast_to(value, np.broadcast_shapes(np.shape(value), (1, 1)))))
    for name in sorted(batched):
        classes = row_classes(np.asarray(binding.tables[name]))
        columns.append(_coded(np.array([[classes[i] if i < len(classes) else -1 for i in range(batches)]])))
    return columns

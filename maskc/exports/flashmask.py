"""FlashMask: for each key the one or two stretches of queries that do not see it.

What ``startend_row_indices`` (batch, key heads or 1, keys, 1, 2 or 4) mean is taken from the docstring of
``paddle.nn.functional.flashmask_attention`` (arXiv 2410.01359) and from the dense masks that its tests make of them.
With ``causal`` a query sees no later key, both counted from the end; then one number is the first query from which on
the key is hidden, and two are the first and the last (excluded). Without, two numbers hide the queries from the first
on and those up to the second, and four hide two stretches.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskc.exports.stretches import Unfit, groups_by_member, queries_of_keys

if TYPE_CHECKING:
    from maskc.tiles.plan import TilePlan

__all__ = ["flashmask"]

Array = npt.NDArray[Any]
_NOT_SAID = "FlashMask hides at most two stretches of queries from a key"


def flashmask(plan: TilePlan, kv_heads: int) -> tuple[dict[str, Array], dict[str, Any]]:
    """Arrays, and options of the call. Raises Unfit."""
    b, causal = plan.binding, True
    bounds = _bounds(plan, causal)
    if bounds is None:
        causal, bounds = False, _bounds(plan, False)
    assert bounds is not None
    # The last query of a stretch need not be said where it is the last one of all.
    short = all((x[:, 1] == b.q_len).all() if causal else _to_the_ends(x, b.q_len) for x in bounds.values())
    columns = ([0] if causal else [0, 3]) if short else ([0, 1] if causal else [0, 1, 2, 3])
    of = groups_by_member(plan)
    every = [[bounds[id(of[h, i].runs)] for h in range(b.heads)] for i in range(b.batch)]
    heads = _heads(every, kv_heads)
    found = np.empty((b.batch, len(heads), b.k_len, len(columns)), np.int32)
    for i, entry in enumerate(every):
        for j, h in enumerate(heads):
            found[i, j] = entry[h][:, columns]
    return {"startend_row_indices": found}, {"causal": causal}


def _bounds(plan: TilePlan, causal: bool) -> dict[int, Array] | None:
    """What is hidden by the masks of a plan, by their runs: stretches below the diagonal, (keys, 2), or any, (keys, 4);
    None where a mask keeps something above it. The same object for masks that come out alike, whatever they are made
    from. Raises Unfit."""
    b = plan.binding
    # A key that is later than a query, both counted from the end.
    diagonal = (np.arange(b.k_len) - (b.k_len - b.q_len)).clip(0, b.q_len).astype(np.int32)
    found: dict[int, Array] = {}
    alike: dict[bytes, Array] = {}
    for group in plan.groups:
        if id(group.runs) in found:
            continue
        try:
            start, stop = _hidden(queries_of_keys(plan, group, 3), b.q_len)
        except Unfit as why:
            raise Unfit(f"{_NOT_SAID}: {why}") from None
        one = _below(start, stop, diagonal, b.q_len) if causal else _both(start, stop, b.q_len)
        if one is None:
            return None
        found[id(group.runs)] = alike.setdefault(sha256(one.tobytes()).digest(), one)
    return found


def _heads(every: list[list[Array]], kv_heads: int) -> list[int]:
    """A query head for each key head; one if all have the same mask. ``every``: by batch entry and query head, the same
    object for the same mask. Raises Unfit where those of a group differ."""
    masks = [[id(x) for x in member] for member in zip(*every, strict=True)]
    if all(x == masks[0] for x in masks):  # also where there are no batch entries
        return [0]
    group = len(masks) // kv_heads
    for h in range(len(masks)):
        if masks[h] != masks[h // group * group]:
            raise Unfit(
                f"FlashMask has one mask for each key head, and those of heads {h // group * group} and {h} differ"
            )
    return list(range(0, len(masks), group))


def _hidden(kept: tuple[Array, Array], q_len: int) -> tuple[Array, Array]:
    """What lies around the stretches, empty ones last: two stretches at most. Raises Unfit."""
    first, last = kept
    there = last > first
    first, last = np.where(there, first, q_len), np.where(there, last, q_len)
    zero, end = (np.full((1, first.shape[1]), n, first.dtype) for n in (0, q_len))
    start, stop = np.concatenate([zero, last]), np.concatenate([first, end])
    for behind in range(len(start) - 1, 0, -1):  # a bubble sort: the rows are few, and long
        for i in range(behind):
            nothing = stop[i] <= start[i]
            for x in (start, stop):
                here = x[i].copy()
                np.copyto(x[i], x[i + 1], where=nothing)
                np.copyto(x[i + 1], here, where=nothing)
    more = (stop[2:] > start[2:]).any(0)
    if more.any():
        raise Unfit(f"from key {int(np.argmax(more))} more are hidden")
    start, stop = np.where(stop > start, (start, stop), q_len)
    missing = np.full((max(0, 2 - len(start)), start.shape[1]), q_len, start.dtype)
    return np.concatenate([start[:2], missing]), np.concatenate([stop[:2], missing])


def _below(start: Array, stop: Array, diagonal: Array, q_len: int) -> Array | None:
    """The stretch that is hidden below the diagonal, (keys, 2), if what is above it is hidden; else None."""
    above = (start[0] == 0) & (stop[0] >= diagonal) | (diagonal == 0)
    start = np.maximum(start, diagonal)
    left = stop > start
    if not above.all() or left.all(0).any():
        return None
    which = np.argmax(left, axis=0)[None]
    first, last = (np.take_along_axis(x, which, 0)[0] for x in (start, stop))
    some = left.any(0)
    return np.stack([np.where(some, first, q_len), np.where(some, last, q_len)], 1)


def _both(start: Array, stop: Array, q_len: int) -> Array:
    """Lower and upper stretch, (keys, 4). A single one is the upper if it starts with the first query."""
    alone = start[1] == q_len
    upper = ~alone | (start[0] == 0) & (stop[0] < q_len)
    lower = np.where(~alone, (start[1], stop[1]), np.where(upper, q_len, (start[0], stop[0])))
    above = np.where(upper, (start[0], stop[0]), 0)
    return np.stack([*lower, *above], 1)


def _to_the_ends(bounds: Array, q_len: int) -> bool:
    """Whether each lower stretch ends with the last query, and each upper one starts with the first."""
    return bool((bounds[:, 1] == q_len).all() and (bounds[:, 2] == 0).all())

"""MagiAttention: slices, each a range of queries, a range of keys, and one of four shapes.

What a slice keeps is taken from the docstring of ``magi_attention.functional.flex_flash_attn_func``: all of its
pairs (0), those up to a diagonal into its last corner (1, "causal"), those from a diagonal out of its first corner on
(2, "inverse causal"), or what is between both diagonals (3). Ranges of queries may overlap; no pair is in two slices,
since it would count twice. Batch entries lie one after another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskc.exports.stretches import Unfit, groups_by_member, keys_of_queries, same_mask

if TYPE_CHECKING:
    from maskc.tiles.plan import TilePlan

__all__ = ["magi", "one_mask"]

Array = npt.NDArray[Any]
_MOST = 8  # stretches of keys a query


def magi(plan: TilePlan, kv_heads: int) -> tuple[dict[str, Array], dict[str, Any]]:
    """Arrays; there are no options. Raises Unfit."""
    b = plan.binding
    parts = []
    for entry, group in enumerate(one_mask(plan, "MagiAttention")):
        try:
            first, last = keys_of_queries(plan, group, _MOST)
        except Unfit as why:
            raise Unfit(
                f"MagiAttention has slices of consecutive keys, of which a query would have many: {why}"
            ) from None
        for one in zip(first, last, strict=True):
            q, k, kind = _slices(*one)
            parts.append((q + entry * b.q_len, k + entry * b.k_len, kind))
    none = (np.zeros((0, 2), np.int64), np.zeros((0, 2), np.int64), np.zeros(0, np.int64))
    q, k, kind = (np.concatenate(x) for x in zip(*(parts or [none]), strict=True))
    order = np.lexsort((k[:, 0], q[:, 0]))
    names = {"q_ranges": q, "k_ranges": k, "attn_type_map": kind}
    return {name: x[order].astype(np.int32) for name, x in names.items()}, {}


def one_mask(plan: TilePlan, engine: str) -> list[Any]:
    """The group of each batch entry. Raises Unfit where heads have masks of their own."""
    b, groups = plan.binding, groups_by_member(plan)
    found = [groups[0, i] for i in range(b.batch)]
    for h in range(1, b.heads):
        if not all(same_mask(plan, groups[h, i], found[i]) for i in range(b.batch)):
            raise Unfit(
                f"{engine} has one mask for all heads, and those of heads 0 and {h} differ: export them one by one"
            )
    return found


def _slices(first: Array, last: Array) -> tuple[Array, Array, Array]:
    """The ranges of queries and of keys, (slices, 2), and the shapes, of one stretch of keys a query: as long as
    each of its ends stays, or goes on by one key, from query to query."""
    q_len = first.size
    empty = np.zeros((0, 2), np.int64)
    if not q_len:
        return empty, empty, np.zeros(0, np.int64)
    there = last > first
    by = [np.diff(x) for x in (first, last)]
    fits = there[1:] & there[:-1] & (by[0] >= 0) & (by[0] <= 1) & (by[1] >= 0) & (by[1] <= 1)
    shape = np.where(fits, by[1] + 2 * by[0], -1)
    # Where the shape changes, the query is part of the slice that ends there.
    turn = np.flatnonzero((shape[1:] != shape[:-1]) & (shape[:-1] >= 0)) + 2
    ends = np.union1d(turn, np.flatnonzero(shape < 0) + 1)
    starts = np.concatenate([[0], ends])
    stops = np.concatenate([ends, [q_len]])
    some = there[starts]
    starts, stops = starts[some], stops[some]
    kind = np.where(stops - starts > 1, shape[np.minimum(starts, q_len - 2)] if q_len > 1 else 0, 0)
    return np.stack([starts, stops], 1), np.stack([first[starts], last[stops - 1]], 1), kind

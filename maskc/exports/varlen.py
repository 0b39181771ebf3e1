"""FlashAttention over packed sequences: where each starts, and a window that all of them have.

What they mean is taken from the docstring of ``flash_attn.flash_attn_varlen_func``: query ``i`` of a sequence with
``n`` queries and ``m`` keys sees keys ``i + m - n - left`` to ``i + m - n + right``, both included; minus one is no
bound. Versions 2 and 3 take it so; version 4 (``flash_attn.cute``) has None for no bound and counts with negative
numbers. Sequences may have no queries, or no keys: then queries get 0.
Batch entries lie one after another. The same arrays serve ``torch.nn.attention.varlen.varlen_attn``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskc.exports.magi import one_mask
from maskc.exports.stretches import Unfit, keys_of_queries

if TYPE_CHECKING:
    from maskc.tiles.plan import TilePlan

__all__ = ["varlen"]

Array = npt.NDArray[Any]
_ENGINE = "FlashAttention"


def varlen(plan: TilePlan, kv_heads: int) -> tuple[dict[str, Array], dict[str, Any]]:
    """Arrays, and options of the call. Raises Unfit."""
    b = plan.binding
    first, last = np.zeros((2, b.batch * b.q_len), np.int64)
    for entry, group in enumerate(one_mask(plan, _ENGINE)):
        try:
            found = keys_of_queries(plan, group, 1)
        except Unfit as why:
            raise Unfit(f"{_ENGINE} lets a query see consecutive keys alone, and {why}") from None
        for one in zip(*found, strict=True):
            part = slice(entry * b.q_len, (entry + 1) * b.q_len)
            first[part], last[part] = (np.where(one[1] > one[0], x + entry * b.k_len, 0) for x in one)
    q_ends, k_ends = _sequences(first, last, b.batch * b.k_len)
    left, right = _window(first, last, q_ends, k_ends)
    arrays = {"cu_seqlens_q": q_ends, "cu_seqlens_k": k_ends}
    longest = [int(np.diff(x).max(initial=0)) for x in (q_ends, k_ends)]
    options: dict[str, Any] = {"max_seqlen_q": longest[0], "max_seqlen_k": longest[1]}
    options |= {"causal": right == 0, "window_size": (left, right)}
    return {name: x.astype(np.int32) for name, x in arrays.items()}, options


def _sequences(first: Array, last: Array, k_len: int) -> tuple[Array, Array]:
    """Where sequences end, of queries and of keys, a 0 in front. One ends where no later query sees a key that an
    earlier one sees; keys that nobody sees, and queries that see nothing, are sequences of their own."""
    seeing = np.flatnonzero(last > first)
    lo, hi = first[seeing], last[seeing]
    reach = np.maximum.accumulate(hi)
    least = np.minimum.accumulate(lo[::-1])[::-1]
    starts = np.flatnonzero(np.append(True, least[1:] >= reach[:-1])) if seeing.size else seeing
    ends = np.append(starts[1:], seeing.size)[: starts.size]
    q_at = np.stack([seeing[starts], seeing[ends - 1] + 1], 1)
    k_at = np.stack([least[starts], reach[ends - 1]], 1)
    # What lies in front of a sequence, perhaps nothing, then the sequence.
    q_cut = np.concatenate([[0], q_at.ravel(), [first.size]])
    k_cut = np.concatenate([[0], k_at.ravel(), [k_len]])
    return _between(q_cut, k_cut)


def _between(q_cut: Array, k_cut: Array) -> tuple[Array, Array]:
    """The cuts without those that are none; queries and keys between two sequences are two, which see nothing."""
    both = (np.diff(q_cut, prepend=0) > 0) & (np.diff(k_cut, prepend=0) > 0)
    both[::2] = False  # a sequence
    at = np.flatnonzero(both)
    q_all, k_all = np.insert(q_cut, at, q_cut[at]), np.insert(k_cut, at, k_cut[at - 1])
    new = np.append(True, (np.diff(q_all) > 0) | (np.diff(k_all) > 0))
    return q_all[new], k_all[new]


def _window(first: Array, last: Array, q_ends: Array, k_ends: Array) -> tuple[int, int]:
    """How many keys to the left and to the right of its own a query sees; -1: all. Raises Unfit."""
    q_len, k_len = (np.diff(x) for x in (q_ends, k_ends))
    of = np.repeat(np.arange(q_len.size), q_len)
    start, end = k_ends[of], k_ends[of + 1]
    own = np.arange(first.size) - q_ends[of] + (k_len - q_len)[of] + start
    sees = last > first
    right = _bound(sees & (last < end), last - 1 - own)
    left = _bound(sees & (first > start), own - first)
    lo = start if left < 0 else np.maximum(start, own - left)
    hi = end if right < 0 else np.minimum(end, own + right + 1)
    kept = hi > lo
    wrong = (kept != sees) | (kept & ((lo != first) | (hi != last)))
    if left == _NONE or right == _NONE or wrong.any():
        raise Unfit(f"{_ENGINE} has one window for all queries of all sequences{_where(wrong)}")
    return left, right


_NONE = -2


def _bound(bounded: Array, distance: Array) -> int:
    """The distance that all bounded queries have; -1 if none is bounded, -2 if they differ or are no window."""
    if not bounded.any():
        return -1
    found = distance[bounded]
    return int(found[0]) if (found == found[0]).all() and found[0] >= 0 else _NONE


def _where(wrong: Array) -> str:
    return f", and query {int(np.argmax(wrong))} sees other keys" if wrong.any() else ""

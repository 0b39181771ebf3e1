"""A few queries over keys that are not many, as in decoding: their mask is evaluated, which costs less than a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from maskc.backends.cpu.jobs import Bools, Job, Mask, Schedule
from maskc.ir.evaluate import evaluate
from maskc.ir.nodes import Lookup, Symbol, postorder

if TYPE_CHECKING:
    from maskc.ir.binding import Binding
    from maskc.ir.program import Program

__all__ = ["few_queries"]

_QUERIES = 8
_POINTS = 1 << 16  # at which the mask is evaluated: well under a millisecond
_RUNS = 16  # ranges of keys that are gathered


def few_queries(program: Program, binding: Binding) -> tuple[Schedule, ...] | None:
    """The jobs of the forward and of the backward pass, one a group of heads and batch entries that share a mask.

    None where there are many queries, or many keys, or none.
    """
    kept = _kept(program, binding)
    if kept is None:
        return None
    members: dict[bytes, dict[int, list[int]]] = {}
    for b, h in np.ndindex(*kept.shape[:2]):
        members.setdefault(kept[b, h].tobytes(), {}).setdefault(b, []).append(h)
    found = []
    for rows in members.values():
        products: dict[tuple[int, ...], list[int]] = {}
        for entry, heads in rows.items():
            products.setdefault(tuple(heads), []).append(entry)
        for same, entries in products.items():
            job = _job(kept[entries[0], same[0]])
            h_all = tuple(range(binding.heads)) if kept.shape[1] == 1 else same
            b_all = tuple(range(binding.batch)) if kept.shape[0] == 1 else tuple(entries)
            found.append(Schedule(h_all, b_all, () if job is None else (job,), job is not None))
    return tuple(found)


def _kept(program: Program, binding: Binding) -> Bools | None:
    """The mask, (batch or 1, heads or 1, queries, keys): 1 where all have the same."""
    nodes = list(postorder([program.mask]))
    names = {n.name for n in nodes if isinstance(n, Symbol)}
    differ = any(isinstance(n, Lookup) and n.name in binding.batched for n in nodes)
    batch = binding.batch if differ or "b" in names else 1
    heads = binding.heads if "h" in names else 1
    shape = (batch, heads, binding.q_len, binding.k_len)
    if binding.q_len > _QUERIES or not 0 < batch * heads * binding.q_len * binding.k_len <= _POINTS:
        return None
    found = evaluate(
        program.mask,
        binding,
        q=binding.offset + np.arange(binding.q_len)[:, None],
        k=np.arange(binding.k_len),
        h=np.arange(heads)[:, None, None],
        b=np.arange(batch)[:, None, None, None],
        params=program.params,
    )
    return np.broadcast_to(found, shape)


def _job(kept: Bools) -> Job | None:
    """One job for all queries; None if they keep nothing."""
    live = kept.any(axis=0)
    if not live.any():
        return None
    edges = np.flatnonzero(np.diff(np.concatenate([[False], live, [False]]).astype(np.int8))).reshape(-1, 2)
    first, last = int(edges[0, 0]), int(edges[-1, 1])
    runs = None
    if 1 < len(edges) <= _RUNS and 2 * int(live.sum()) < last - first:
        runs = tuple((a, b) for a, b in edges.tolist())
    inner = np.array(kept[:, live] if runs else kept[:, first:last])
    mask = None if inner.all() else Mask(lambda: inner, inner.size)
    return Job(0, len(kept), first, inner.shape[1], mask=mask, k_runs=runs, fresh=True)

"""Decoding: how many program instances share the keys of a row, and how their results become one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from maskc.backends.triton.entry import Entry

__all__ = ["merge_splits", "number_of_splits", "splits_for"]

Tensor = torch.Tensor
_FEW_QUERIES = 16
_MANY_KEYS = 1024
_KEYS_A_SPLIT = 256


def number_of_splits(entry: Entry, q: Tensor) -> int:
    """Splits of the keys; 0: the forward kernel is used, which has enough rows to keep a device busy."""
    if entry.splits is not None:
        return entry.splits
    rows, keys = entry.binding.q_len, entry.binding.k_len
    if rows > _FEW_QUERIES or keys < _MANY_KEYS:
        return 0
    return splits_for(q.shape[0] * q.shape[1], keys, q.device)


def splits_for(instances: int, keys: int, device: torch.device) -> int:
    """How many instances share the keys of one, so that a device is busy; at most ``keys`` have to be shared."""
    if device.type != "cuda":
        return 2
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return max(1, min(keys // _KEYS_A_SPLIT, -(-2 * processors // instances), 128))


def merge_splits(parts: Tensor, lses: Tensor | None, sink: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Join partial results (splits, B, H, Nq, Dv) by their log-sum-exps (splits, B, H, Nq).

    ``lses`` None: the parts are sums, not averages. ``sink``: (B, H, Nq, 1), a logit more in the denominator.
    Returns output and log-sum-exp; 0 and minus infinity for a query that keeps nothing.
    """
    if lses is None:
        return parts.sum(dim=0), None
    terms = lses if sink is None else torch.cat([lses, sink.expand(*lses.shape[1:], 1).squeeze(-1)[None]])
    lse = torch.logsumexp(terms, dim=0)
    share = torch.where(lse == -torch.inf, 0.0, torch.exp(lses - lse))
    return (parts * share[..., None]).sum(dim=0), lse

"""Gradients of float inputs that are read by query and key together: what starts ``attention_pairs``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from maskc.backends.triton.jobs import jobs_on, most_blocks, pair_jobs
from maskc.backends.triton.launch import DevicePlan, default_config, launch, steady
from maskc.backends.triton.pairs import grouping
from maskc.backends.triton.spec import Form

if TYPE_CHECKING:
    from maskc.backends.triton.pull import Values
    from maskc.backends.triton.staged import Staged
    from maskc.ir.nodes import Lookup

__all__ = ["pull_pairs"]

Tensor = torch.Tensor


def pull_pairs(
    entry: Staged,
    lookups: tuple[Lookup, ...],
    given: tuple[Tensor, Tensor, Tensor],
    tables: Mapping[str, Tensor],
    value: Values,
    sums: dict[str, Tensor],
    scale: float,
    more: Mapping[str, Any],
) -> None:
    """Add to ``sums`` what look-ups by query and key together get: some blocks of pairs after others. ``given``: q, k
    and v; ``more``: the other arguments."""
    q, k, v = given
    chosen = entry.configs.get("pairs") or default_config("pairs", q.device, q.shape[3], v.shape[3], q.dtype, 1)
    apart = grouping(lookups, entry.binding.batched, chosen.q_tile == chosen.k_tile)
    jobs = entry._remembered(
        ("jobs", apart, chosen, q.device),
        lambda: jobs_on(pair_jobs(entry.plan(chosen.q_tile, chosen.k_tile), apart), q.device),
    )
    kernel = entry.kernel("pairs", Form(steady=steady(q, k, v, more["do_ptr"])), frozenset(sums))
    shape = chosen.q_tile, chosen.k_tile
    for some in jobs.chunks(most_blocks(apart, *shape)):
        blocks = [torch.empty((some.count, *shape), device=q.device) for _ in lookups]
        plan = DevicePlan(dict(some.arguments), chosen, some.count)
        values = {**entry._values(plan, kernel, q, k, v, tables), **more, "scale": float(scale)}
        values |= {f"table_{i}_ptr": x for i, x in enumerate(blocks)}
        launch(kernel, (some.count, 1, 1), values, chosen, q.device)
        first = some.first(q.shape[1], *shape)
        for node, each in zip(lookups, blocks, strict=True):
            value.pull_blocks(node, each, first, apart.by_difference, sums)

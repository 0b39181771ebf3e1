"""A tile plan on a device: the arrays that kernels read, and what they ask of a kernel's text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from maskc.backends.triton.backward import joins_dkv
from maskc.backends.triton.boxes import Packed
from maskc.backends.triton.configs import LONG_ROWS, Config, joins
from maskc.backends.triton.launch import DevicePlan, on_device, pad, target_of
from maskc.backends.triton.masks import mask_form
from maskc.backends.triton.places import places_of
from maskc.backends.triton.shares import Joint, Shares, shared_rows
from maskc.backends.triton.spec import Form, KernelSpec
from maskc.backends.triton.tiles import KernelPlan, full_skips, joined, kernel_plan, schedule

if TYPE_CHECKING:
    from maskc.backends.triton.problem import Problem
    from maskc.tiles.plan import TilePlan

__all__ = ["device_plan", "workers_of"]

Tensor = torch.Tensor


def device_plan(
    entry: Problem, stage: str, chosen: Config, device: torch.device, width: int, *, pack: int, group: int, whole: bool
) -> tuple[DevicePlan, Form]:
    """The plan of an entry for a configuration. Arguments as those of ``Staged._device_plan``."""
    plan = entry.plan(chosen.q_tile // pack, chosen.k_tile, entry.layout)
    clauses, boxes = mask_form(entry.text_program, plan)
    rows = kernel_plan(plan, by_keys=stage == "dkv", intervals=clauses is not None)
    queries = places_of("q", plan.q_order, plan.q_tile, entry.binding.offset)
    keys = places_of("k", plan.k_order, plan.k_tile, 0)
    workers, shares, joint = entry.workers or workers_of(device, chosen), None, None
    if workers and not whole and queries.steps is None and keys.steps is None:
        rows, shares = shared_rows(rows, max(1, workers * pack), group)
    partial = bool((rows.part.last > rows.part.first).any())
    computed = clauses is None and boxes is None and joins_dkv(KernelSpec(entry.text_program))
    join = joins(stage, target_of(device), chosen, pad(width)) and _joins(plan, rows, computed)
    one = joined(rows) if join else None
    rows = one or rows
    if shares is not None:
        joint = Joint(shares.count, on_device(shares.rows.astype(np.int32), device))
    made = _plan_arguments(rows, chosen, device, shares, joint, partial)
    made.arguments.update(queries.on(device) | keys.on(device))
    if boxes is not None:
        made.arguments.update(_box_arguments(boxes, plan, device))
    if shares is not None:
        made.arguments["shares"] = shares.count
    form = Form(clauses, queries.steps, keys.steps, pack > 1, shares is not None, boxes is not None)
    return made, form._replace(joined=one is not None)


def _joins(plan: TilePlan, rows: KernelPlan, computed: bool) -> bool:
    """Whether full and partial tiles are worth being one sequence: none is ragged, and forward, rows are short. For dK
    and dV the mask has to be ``computed``, and nothing else to ask for it: what a mask reads would not be under way
    before it is needed."""
    if rows.by_keys:
        return computed and plan.q_order.index is None and plan.binding.q_len % plan.q_tile == 0
    return plan.binding.k_len % plan.k_tile == 0 and _tiles_a_row(rows) * plan.k_tile < LONG_ROWS


def _tiles_a_row(rows: KernelPlan) -> float:
    """On average, over all heads and batch entries."""
    copies = np.bincount(rows.plan_of, minlength=rows.row_order.size // max(1, rows.rows))  # of each mask
    lengths = sum((kind.last - kind.first).reshape(copies.size, -1).sum(axis=1) for kind in (rows.full, rows.part))
    return float(lengths @ copies) / max(1, rows.rows * rows.plan_of.size)


def workers_of(device: torch.device, chosen: Config) -> int | None:
    """Program instances that run at once, about; None where there is no GPU."""
    if device.type != "cuda":
        return None
    return torch.cuda.get_device_properties(device).multi_processor_count * max(1, 8 // chosen.warps)


def _plan_arguments(
    plan: KernelPlan,
    chosen: Config,
    device: torch.device,
    shares: Shares | None,
    joint: Joint | None,
    partial: bool,
) -> DevicePlan:
    """The plan's arrays as arguments. ``partial``: whether there are partial tiles."""

    def tensor(*arrays: Any) -> Tensor:
        whole = np.concatenate(arrays) if len(arrays) > 1 else np.ravel(arrays[0])
        whole = whole.astype(np.int32, copy=False)
        return on_device(whole, device) if whole.size else torch.zeros(1, dtype=torch.int32, device=device)

    lines = schedule(plan) if shares is None else schedule(plan, shares.row_of, shares.share_of)
    arguments: dict[str, Any] = {"plan_of": tensor(plan.plan_of), "schedule": tensor(lines)}
    lists = [("full_tiles", "FULL_RUN", plan.full), ("part_tiles", "PART_RUN", plan.part)]
    for name, run, kind in [("tiles", "ONE_RUN", plan.part)] if plan.joined else lists:
        # Kernels read a tile ahead, and so one behind the last.
        arguments[name] = tensor([0]) if kind.tiles is None else tensor(kind.tiles, [0])
        arguments[run] = kind.tiles is None if kind.skips is None else 2
    if not plan.joined and plan.full.skips is not None:
        arguments["full_tiles"] = tensor(full_skips(plan))
    if plan.intervals is not None:
        arguments |= {"interval_low": tensor(plan.intervals[0]), "interval_high": tensor(plan.intervals[1])}
    arguments |= {"tile_rows": plan.rows, "ONE_PLAN": not plan.plan_of.any()}
    return DevicePlan(arguments, chosen, plan.rows, joint, partial)


def _box_arguments(boxes: Packed, plan: TilePlan, device: torch.device) -> dict[str, Any]:
    """Boxes as arguments."""
    # A ragged tile at the end reads points of keys that do not exist.
    arrays = {"low": boxes.low, "high": boxes.high, "point": np.pad(boxes.point, (0, plan.k_tile))}
    placed = {f"box_{name}": on_device(array, device) for name, array in arrays.items()}
    return {**placed, "box_guard": boxes.guard}

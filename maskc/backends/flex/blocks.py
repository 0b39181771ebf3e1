"""Between our plans and FlexAttention's ``BlockMask``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.attention.flex_attention import BlockMask

from maskc.arguments import expect
from maskc.diagnostics import fail
from maskc.ir.binding import Binding
from maskc.ir.program import Program
from maskc.tiles.plan import TilePlan
from maskc.tiles.runs import assemble
from maskc.tiles.tiling import EMPTY, FULL, PARTIAL, Group

__all__ = ["MAX_TILES", "from_block_mask", "to_block_mask"]

#: Entries of a BlockMask's index tensors, which are dense, that are made at most: 1 GiB of them.
MAX_TILES = 1 << 26

#: Whether torch can leave the tiles by key out; older versions always index them.
_CAN_LEAVE_OUT = "compute_q_blocks" in inspect.signature(BlockMask.from_kv_blocks).parameters


def to_block_mask(
    plan: TilePlan,
    mask_mod: Callable[..., torch.Tensor],
    *,
    device: torch.device | str = "cpu",
    backward: bool = True,
) -> BlockMask:
    """The plan as a ``BlockMask``, with what is kept inside partial tiles given by ``mask_mod``.

    Args:
        plan: in the tokens' own order.
        backward: also index the tiles by key, as the backward pass needs.

    Raises MaskcError: E702 for a plan in another order, E801 where the dense index tensors of a
    BlockMask would not fit.
    """
    if plan.q_order.index is not None or plan.k_order.index is not None:
        raise fail("E702", "a BlockMask knows no token order", "plan with layout='none'")
    batches = sorted({b for g in plan.groups for b in g.batches}) if len(plan.groups) > 1 else [0]
    heads = sorted({h for g in plan.groups for h in g.heads}) if len(plan.groups) > 1 else [0]
    entries = len(batches) * len(heads) * plan.rows * plan.cols
    if entries > MAX_TILES:
        message = f"a BlockMask of this plan would hold {entries:.3g} indices, and at most {MAX_TILES:.3g} are made"
        raise fail("E801", message, "use larger tiles, or another backend: plans of ours hold runs")
    kinds = np.empty((len(batches), len(heads), plan.rows, plan.cols), np.uint8)
    for i, b in enumerate(batches):
        for j, h in enumerate(heads):
            group = plan.group_of(h, b) if len(plan.groups) > 1 else plan.groups[0]
            kinds[i, j] = plan.kinds(group)
    # FlexAttention counts what lies beyond the ends as masked: a full tile that reaches there is partial.
    edges = [kinds[:, :, -1, :]] if plan.binding.q_len % plan.q_tile else []
    edges += [kinds[:, :, :, -1]] if plan.binding.k_len % plan.k_tile else []
    for edge in edges:  # Views of ``kinds``.
        edge[edge == FULL] = PARTIAL
    partial, full = (_indices(kinds == kind, device) for kind in (PARTIAL, FULL))
    less: dict[str, Any] = {"compute_q_blocks": False} if _CAN_LEAVE_OUT and not backward else {}
    return BlockMask.from_kv_blocks(
        *partial,
        *full,
        BLOCK_SIZE=(plan.q_tile, plan.k_tile),
        mask_mod=mask_mod,
        seq_lengths=(plan.binding.q_len, plan.binding.k_len),
        **less,
    )


def _indices(chosen: npt.NDArray[np.bool_], device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
    """For every row how many tiles are chosen, and the chosen ones' columns in front of the others."""
    count = torch.as_tensor(chosen.sum(-1, dtype=np.int32), device=device)
    order = np.argsort(~chosen, axis=-1, kind="stable").astype(np.int32)
    return count, torch.as_tensor(order, device=device)


def from_block_mask(block_mask: BlockMask, program: Program, binding: Binding) -> TilePlan:
    """The plan that a ``BlockMask`` stands for, of a program that means the same mask.

    The kinds of the tiles are taken as they are; the program says what is kept inside partial ones.
    Raises MaskcError: E505 where lengths, heads or batch entries do not fit.
    """
    expect("block_mask", block_mask, BlockMask, "a BlockMask")
    q_len, k_len = block_mask.seq_lengths
    batch, heads = block_mask.kv_num_blocks.shape[:2]
    if (q_len, k_len) != (binding.q_len, binding.k_len):
        message = f"the BlockMask has {q_len} queries and {k_len} keys, not {binding.q_len} and {binding.k_len}"
        raise fail("E505", message, "bind the program to the BlockMask's lengths")
    if heads not in (1, binding.heads) or batch not in (1, binding.batch):
        message = f"the BlockMask has {batch} batch entries and {heads} heads, not {binding.batch} and {binding.heads}"
        raise fail("E505", message, "bind the program to the BlockMask's batch and heads")
    q_tile, k_tile = block_mask.BLOCK_SIZE
    groups = []
    for b in range(batch):
        for h in range(heads):
            kinds = _kinds(block_mask, b, h, -(-k_len // k_tile))
            rows, cols = np.nonzero(kinds)
            runs = assemble(kinds.shape[0], kinds.shape[1], rows, rows + 1, cols, cols + 1, kinds[rows, cols])
            whose = tuple(range(binding.heads)) if heads == 1 else (h,)
            groups.append(Group(whose, tuple(range(binding.batch)) if batch == 1 else (b,), runs))
    return TilePlan(program, binding, q_tile, k_tile, tuple(groups))


def _kinds(block_mask: BlockMask, b: int, h: int, cols: int) -> npt.NDArray[np.uint8]:
    kinds = np.full((block_mask.kv_num_blocks.shape[-1], cols), EMPTY, np.uint8)
    listed: list[tuple[Any, Any, int]] = [(block_mask.kv_num_blocks, block_mask.kv_indices, PARTIAL)]
    if block_mask.full_kv_num_blocks is not None:
        listed.append((block_mask.full_kv_num_blocks, block_mask.full_kv_indices, FULL))
    for count, index, kind in listed:
        n, at = count[b, h].cpu().numpy(), index[b, h].cpu().numpy()
        row = np.repeat(np.arange(len(n)), n)
        col = np.concatenate([at[r, :m] for r, m in enumerate(n)]) if n.sum() else np.empty(0, np.int32)
        kinds[row, col] = kind
    return kinds

"""The same for torch's own function, under the names that it has: ``torch.nn.attention.varlen.varlen_attn``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskc.exports.varlen import varlen

if TYPE_CHECKING:
    from maskc.tiles.plan import TilePlan

__all__ = ["varlen_attn"]


def varlen_attn(plan: TilePlan, kv_heads: int) -> tuple[dict[str, npt.NDArray[np.int32]], dict[str, Any]]:
    """Arrays, and options of the call, of which there is no ``causal``: the window says it. Raises Unfit."""
    arrays, options = varlen(plan, kv_heads)
    found = {f"cu_seq_{side}": arrays[f"cu_seqlens_{side}"] for side in "qk"}
    longest = {f"max_{side}": options[f"max_seqlen_{side}"] for side in "qk"}
    return found, {**longest, "window_size": options["window_size"]}

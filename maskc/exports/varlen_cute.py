"""The same for FlashAttention 4, ``flash_attn.cute.flash_attn_varlen_func``: None is a window without a bound.

There -1 is a number like others: (-1, 3) hides a query's own key, and (3, -1) does too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskc.exports.varlen import varlen

if TYPE_CHECKING:
    from maskc.tiles.plan import TilePlan

__all__ = ["varlen_cute"]


def varlen_cute(plan: TilePlan, kv_heads: int) -> tuple[dict[str, npt.NDArray[np.int32]], dict[str, Any]]:
    """Arrays, and options of the call; not the longest sequences, which early releases do not take. Raises Unfit."""
    arrays, options = varlen(plan, kv_heads)
    left, right = (None if n < 0 else n for n in options["window_size"])
    return arrays, {"causal": options["causal"], "window_size": (left, right)}

"""Masks as other engines want them: arrays that say exactly the same, or a refusal that says why there are none.

A format is one module and a row of ``FORMATS``. Nothing but the mask is exported: a pattern that changes scores or
outputs is refused, since the engine would drop it silently.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from maskc.arguments import by_name, integer, mapping_of
from maskc.compiler import as_pattern
from maskc.diagnostics import Diagnostic, MaskcError, fail
from maskc.exports.stretches import Unfit
from maskc.ir.nodes import Symbol
from maskc.ir.program import OUTPUT
from maskc.tiles import make_plan
from maskc.tiles.binding import bind
from maskc.tiles.budget import BUDGET, within_memory

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from maskc.compiler import PatternLike
    from maskc.ir.binding import Binding
    from maskc.ir.program import Program
    from maskc.tiles.plan import TilePlan

__all__ = ["FORMATS", "Export", "Format", "check_format", "export", "export_mask", "export_plan"]


class Format(NamedTuple):
    """How masks are handed to an engine. ``call``: the Python that does it, with arrays and options by name."""

    engine: str
    call: str


#: By name; each is a function of that name in the module of that name.
FORMATS: dict[str, Format] = {
    "varlen": Format(
        "FlashAttention",
        "flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal=causal, "
        "window_size=window_size)",
    ),
    "varlen_cute": Format(
        "FlashAttention 4",
        "flash_attn.cute.flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, causal=causal, "
        "window_size=window_size)",
    ),
    "varlen_attn": Format(
        "torch.nn.attention.varlen", "varlen_attn(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, window_size=window_size)"
    ),
    "flashmask": Format("FlashMask", "flashmask_attention(q, k, v, startend_row_indices, causal=causal)"),
    "magi": Format("MagiAttention", "flex_flash_attn_func(q, k, v, q_ranges, k_ranges, attn_type_map)"),
    "flashinfer": Format(
        "FlashInfer",
        "BlockSparseAttentionWrapper(workspace).plan(indptr, indices, M, N, R, C, num_qo_heads, num_kv_heads, "
        "head_dim, mask=mask)",
    ),
    "splash": Format("Splash", "maskc.exports.splash.splash_kernel(export)(q, k, v)"),
}


@dataclass(frozen=True, eq=False)
class Export:
    """A mask in a format.

    Attributes:
        format: its name, a key of ``FORMATS``.
        arrays: int32 (of Splash, int8 or int16 where these suffice), and bool for masks of blocks, by the names that
            the engine gives them.
        options: numbers and truth values of the call, by name.
    """

    format: str
    arrays: Mapping[str, npt.NDArray[np.generic]]
    options: Mapping[str, Any]

    def tensors(self, device: Any = None) -> dict[str, Any]:
        """The arrays as torch tensors, and the options."""
        import torch

        return {**{n: torch.from_numpy(x).to(device) for n, x in self.arrays.items()}, **self.options}


def export(
    pattern: PatternLike,
    to: str,
    q_len: int,
    k_len: int | None = None,
    *,
    heads: int = 1,
    kv_heads: int | None = None,
    layer: int = 0,
    batch: int | None = None,
    sizes: Mapping[str, int] | None = None,
    q_tile: int = 128,
    k_tile: int = 128,
    inputs: Mapping[str, Any] | None = None,
    **more: Any,
) -> Export:
    """The mask as another engine wants it: arrays that say exactly the same, for these lengths and inputs.

    Args:
        to: "varlen" (FlashAttention 2 and 3), "varlen_cute" (FlashAttention 4), "varlen_attn"
            (torch.nn.attention.varlen), "flashmask", "magi" (MagiAttention), "flashinfer" or "splash" (JAX on TPUs).
        q_len, k_len: numbers of queries and of keys; as many keys as queries by default.
        kv_heads: number of key heads, where masks differ by head; by default as many as query heads.
        batch: number of batch entries; None: that of the inputs, else 1.
        q_tile, k_tile: queries and keys a block, where the format has blocks.
        inputs: arguments and inputs by name, for names that are also parameters of this function.
        more: arguments and inputs by name.

    Returns:
        ``arrays`` (of integers, and bool for masks of blocks) and ``options`` of the engine's call, by name;
        ``tensors(device)`` gives both, the arrays as torch tensors.

    Takes time and memory by the number of tokens; of "flashinfer" and "splash", by that of the pairs of blocks that are
    written out as well.

    Raises MaskcError E704 where the format cannot say the mask, or the pattern has more than a mask: nothing is dropped
    silently. E503 for another format, E504 for ``kv_heads``, E801 where it takes too much, and as ``make_binding``.
    """
    found = as_pattern(pattern)
    given, extents = {**found.args, **by_name("inputs", inputs, more)}, mapping_of("sizes", sizes)
    keys = q_len if k_len is None else k_len
    binding = bind(found.program, q_len, keys, heads=heads, layer=layer, batch=batch, sizes=extents, values=given)
    return export_mask(found.program, binding, to, kv_heads=kv_heads, q_tile=q_tile, k_tile=k_tile)


def export_mask(
    program: Program,
    binding: Binding,
    to: str,
    *,
    kv_heads: int | None = None,
    q_tile: int = 128,
    k_tile: int = 128,
    budget: int = BUDGET,
) -> Export:
    """The mask of a program under a binding in the format ``to``.

    Args:
        kv_heads: number of key heads, by default as many as query heads; where masks differ by head.
        q_tile, k_tile: queries and keys a block, where the format has blocks.
        budget: what planning may cost, as of ``make_plan``.

    Raises MaskcError: E503 for another format, E503 and E504 for numbers of heads, E704 where the format cannot say
    the mask, and E801 where planning takes too much.
    """
    check_format(to)
    _check_mask_alone(program, to)
    with within_memory("the export"):
        plan = make_plan(program, binding, q_tile=q_tile, k_tile=k_tile, budget=budget)
        return export_plan(plan, to, kv_heads)


#: What others call a format, or what is had by other means.
_ELSEWHERE = {
    **dict.fromkeys(
        ("flash", "flash_attn", "flashattention", "fa", "fa2", "fa3", "fa4"),
        "FlashAttention 2 and 3 take varlen, version 4 varlen_cute",
    ),
    **dict.fromkeys(
        ("flex", "flex_attention", "flexattention", "block_mask", "blockmask"),
        "maskc.backends.flex.block_mask makes FlexAttention's: see docs/flexattention.md",
    ),
    **dict.fromkeys(("dense", "numpy", "bool"), "maskc.dense_mask gives every pair"),
    **dict.fromkeys(("paddle", "flash_mask"), "PaddlePaddle's FlashMask takes flashmask"),
    **dict.fromkeys(("hf", "transformers"), "in Transformers a pattern stands in a config: see docs/transformers.md"),
}


def check_format(to: str) -> None:
    """Raises E503 where there is no such format."""
    if to not in FORMATS:
        from maskc.tiles.values import suggestion

        raise fail("E503", f"there is no format {to!r}", _ELSEWHERE.get(to.lower()) or suggestion(to, FORMATS))


def export_plan(plan: TilePlan, to: str, kv_heads: int | None = None) -> Export:
    """The mask of a plan in the tokens' own order, in a format of ``FORMATS``: see ``export_mask``."""
    program, heads = plan.program, plan.binding.heads
    keys = heads if kv_heads is None else integer("kv_heads", kv_heads, 1)
    if heads % keys:
        raise fail("E504", f"{heads} query heads cannot share {keys} key heads", "give a divisor of them")
    _check_mask_alone(program, to)
    try:
        arrays, options = getattr(importlib.import_module(f"maskc.exports.{to}"), to)(plan, keys)
    except Unfit as why:
        raise MaskcError(Diagnostic("E704", f"{program.name!r} cannot be said: {why}", hint=_HINT)) from None
    return Export(to, arrays, options)


_HINT = "another format may be able to (docs/exports.md), and maskc's own kernels are"


def _check_mask_alone(program: Program, to: str) -> None:
    """Raises E704 where a pattern does more than keep pairs."""
    parts = []
    if program.score is not Symbol("s"):
        parts.append("its score")
    if program.normalizer.kind != "softmax":
        parts.append(f"its normaliser, {program.normalizer.kind}")
    elif program.normalizer.sink is not None:
        parts.append("its sink")
    if program.output is not OUTPUT:
        parts.append("its output")
    if parts:
        message = f"{FORMATS[to].engine} would get the mask of {program.name!r} alone, and drop {' and '.join(parts)}"
        raise fail("E704", message, "export a pattern that only attends, and give the rest there")

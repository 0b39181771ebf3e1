"""Whether a pattern keeps keys that the cache has dropped, which nothing can bring back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from maskc.interop.transformers.handle import Request
from maskc.interop.transformers.inputs import inputs_of
from maskc.ir.nodes import Const, Symbol
from maskc.ir.ops import apply
from maskc.ir.program import Assertion, Program
from maskc.op import Op
from maskc.tiles.budget import evaluations_of
from maskc.tiles.values import fail
from maskc.varying import varying

if TYPE_CHECKING:
    from maskc.ir.binding import Binding

__all__ = ["check_dropped"]

_PAIRS = 1 << 20  # pairs that are evaluated at once
_OUTRIGHT = 1 << 22  # evaluations of an ordinary mask that are made sooner than a proof is found


def check_dropped(op: Op, request: Request, layer: int, given: Mapping[str, Any] | None) -> None:
    """Raise E702 if the pattern keeps a key that the cache has dropped; E801 where that is too much work to find out.

    Exact: of a step's few queries every pair is looked at, of many queries, or of a mask that takes long, it is proved.
    """
    total, dropped = request.q_offset + request.q_len, request.k_offset
    program = op.program
    inputs = inputs_of(program, request, 0, total, given)
    floats = {p.name for p in program.params if p.type.value == "float"}
    binding = op.bind(request.q_len, total, batch=request.batch, **{n: v for n, v in inputs.items() if n not in floats})
    heads, entries = _distinct(program, binding)
    pairs = len(heads) * len(entries) * request.q_len * dropped
    if pairs * evaluations_of(program, binding, outright=True) <= _OUTRIGHT:
        keeps = any(_kept(program, binding, h, b, dropped) for b in entries for h in heads)
    else:
        keeps = _provably_kept(program, binding, dropped)
    if keeps:
        raise fail(
            "E702",
            f"layer {layer}: the pattern keeps keys that the cache has dropped (before {dropped})",
            "use a cache that keeps them, past_key_values=DynamicCache() without a config, "
            "or a pattern that keeps within the window of the layer",
        )


def _distinct(program: Program, binding: Binding) -> tuple[range, range]:
    """The heads and the batch entries whose masks may differ."""
    differs = varying(program, [program.mask])
    by_entry = "batch" in differs or ("inputs" in differs and bool(binding.batched))
    return range(binding.heads if "head" in differs else 1), range(binding.batch if by_entry else min(1, binding.batch))


def _kept(program: Program, binding: Binding, h: int, b: int, dropped: int) -> bool:
    """Whether any of the first ``dropped`` keys is kept, by evaluating the mask at every pair."""
    from maskc.ir.evaluate import dense

    step, end = max(1, _PAIRS // dropped), binding.offset + binding.q_len
    parts = ((q, min(q + step, end)) for q in range(binding.offset, end, step))
    return any(dense(program, binding, h, b, rows, (0, dropped)).any() for rows in parts)


def _provably_kept(program: Program, binding: Binding, dropped: int) -> bool:
    """The same by planning, which bounds its own work."""
    from maskc.assertions import prove

    return not prove(program, binding, Assertion("all", apply("le", Const(dropped), Symbol("k")))).holds

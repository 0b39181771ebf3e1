"""The CPU backend: block-sparse attention in vectorised torch operations, forward and backward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from maskc.backends import Compiled, Refusal, Request

if TYPE_CHECKING:
    import torch

    from maskc.backends.cpu.entry import Entry
    from maskc.backends.decoding import DecodeCall
    from maskc.ir.binding import Binding
    from maskc.ir.program import Program

__all__ = ["entry_for", "run", "run_decode", "supports"]

_DTYPES = ("float32", "float64", "bfloat16", "float16")


def supports(program: Program, request: Request) -> Refusal | None:
    """Every program, on tensors in main memory of the four usual float dtypes."""
    if request.device not in (None, "cpu"):
        return Refusal(
            f"it computes on the CPU, and the tensors are on {request.device}", "move the tensors to the CPU"
        )
    if request.dtype is not None and request.dtype not in _DTYPES:
        return Refusal(f"it does not compute in {request.dtype}", f"convert q, k and v to one of {', '.join(_DTYPES)}")
    return None


def run(
    compiled: Compiled,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    binding: Binding,
    floats: Mapping[str, torch.Tensor],
    scale: float,
    return_lse: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Block-sparse attention: see ``maskc.backends.Backend.run``."""
    from maskc.backends.handles import handle_of
    from maskc.backends.transforms import attention

    found = entry_for(compiled, binding, tuple(floats))
    out, lse, _ = attention(q, k, v, list(floats.values()), handle_of(found), scale)
    return out, lse if return_lse and compiled.program.normalizer.kind == "softmax" else None


def run_decode(call: DecodeCall) -> tuple[torch.Tensor, torch.Tensor]:
    """Decoding over caches: see ``maskc.backends.Backend.run_decode``."""
    from maskc.backends.cpu.decode import decode

    return decode(call)


def entry_for(compiled: Compiled, binding: Binding, floats: tuple[str, ...]) -> Entry:
    """What computes calls with this binding and these float inputs; remembered, with its plan."""
    from maskc.backends.cpu.entry import Entry

    program, layout, budget = compiled.program, compiled.layout, compiled.budget
    return compiled.remember(("cpu", floats), binding, lambda: Entry(program, binding, floats, layout, budget))

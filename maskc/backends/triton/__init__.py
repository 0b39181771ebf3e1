"""The Triton backend: fused block-sparse kernels written from the pattern, for NVIDIA and AMD GPUs.

Under Triton's interpreter (``TRITON_INTERPRET=1``) it runs on the CPU, slowly: for tests.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import triton  # noqa: F401  # so that its absence is found when the backend is chosen, not at the first kernel

from maskc.backends import Compiled, Refusal, Request
from maskc.backends.handles import handle_of
from maskc.backends.transforms import attention
from maskc.backends.triton.entry import Entry
from maskc.backends.triton.expressions import Unsupported
from maskc.backends.triton.launch import capturing, interpreting
from maskc.backends.triton.spec import specialised
from maskc.backends.triton.stages import refusal_of
from maskc.diagnostics import Diagnostic, MaskcError
from maskc.ir.interval import MAX_TOKENS
from maskc.ir.nodes import Type
from maskc.knobs import AUTOTUNE, AUTOTUNE_SECONDS, TRITON_PRECISION

if TYPE_CHECKING:
    import torch

    from maskc.backends.decoding import DecodeCall
    from maskc.ir.binding import Binding
    from maskc.ir.program import Program

__all__ = ["Entry", "entry_for", "run", "run_decode", "supports"]

_DTYPES = ("float32", "bfloat16", "float16")
_MAX_DIM = 256


def supports(program: Program, request: Request) -> Refusal | None:
    """Programs whose expressions have a Triton spelling, on GPU tensors of 32 or 16 bits and at most 256 wide."""
    return _refused_device(request) or _refused_tensors(request) or _refused_program(program, request)


def _refused_device(request: Request) -> Refusal | None:
    if request.device in (None, "cuda"):
        return None
    if request.device == "cpu" and interpreting():
        if request.dtype == "bfloat16":
            return Refusal("Triton's interpreter computes bfloat16 wrongly", "convert q, k and v to float32 or float16")
        return None
    return Refusal(
        f"it computes on GPUs, and the tensors are on {request.device}",
        "move the tensors to a GPU, or set TRITON_INTERPRET=1 to try kernels slowly on the CPU",
    )


def _refused_tensors(request: Request) -> Refusal | None:
    if request.dtype is not None and request.dtype not in _DTYPES:
        return Refusal(f"it does not compute in {request.dtype}", f"convert q, k and v to one of {', '.join(_DTYPES)}")
    for what, dim in (("head dimension", request.head_dim), ("value dimension", request.value_dim)):
        if dim is not None and dim > _MAX_DIM:
            return Refusal(f"the {what} {dim} is above {_MAX_DIM}", "split the heads")
    if any(n is not None and n > MAX_TOKENS for n in (request.q_len, request.k_len)):
        return Refusal(f"the sequence is longer than {MAX_TOKENS}", "split the sequence")
    return None


def _refused_program(program: Program, request: Request) -> Refusal | None:
    needs_grad, args = bool(request.needs_grad), request.args
    reason = _reason(program, needs_grad, args)
    if reason is None:
        return None
    return Refusal(reason, _FROZEN if needs_grad and _reason(program, False, args) is None else "")


_FROZEN = "call under torch.no_grad() if no gradient is needed"


@functools.lru_cache(maxsize=256)
def _reason(program: Program, needs_grad: bool, given: tuple[tuple[str, bool | int | float], ...]) -> str | None:
    scalars = [p for p in program.params if p.is_scalar]
    # Where a value is not known yet, any will do: whether text can be written hardly depends on it.
    known = {p.name: (p.type is Type.BOOL or 1) if p.default is None else p.default.value for p in scalars}
    return refusal_of(specialised(program, {**known, **dict(given)}), frozenset(), needs_grad)


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
    """Attention by fused kernels: see ``maskc.backends.Backend.run``."""
    found = entry_for(compiled, binding, tuple(floats))
    out, lse, _ = attention(q, k, v, list(floats.values()), handle_of(found), scale)
    return out, lse if return_lse and compiled.program.normalizer.kind == "softmax" else None


def run_decode(call: DecodeCall) -> tuple[torch.Tensor, torch.Tensor]:
    """Decoding over caches: see ``maskc.backends.Backend.run_decode``."""
    from maskc.backends.triton.serving import decode

    try:
        return decode(call, TRITON_PRECISION.value())
    except Unsupported as error:
        message = f"the backend 'triton' cannot compute {call.program.name!r}: {error}"
        raise MaskcError(Diagnostic("E702", message, hint="use another backend")) from error


def entry_for(compiled: Compiled, binding: Binding, floats: tuple[str, ...]) -> Entry:
    """What computes calls with this binding and these float inputs; remembered, with its plans."""
    precision, autotune = TRITON_PRECISION.value(), AUTOTUNE.value()
    found = compiled.remember(
        ("triton", floats, precision, autotune),
        binding,
        lambda: Entry(
            compiled.program,
            binding,
            floats,
            precision,
            layout=compiled.layout,
            autotune=autotune,
            budget=AUTOTUNE_SECONDS.value(),
            planning=compiled.budget,
        ),
    )
    if capturing():
        compiled.hold(found)  # its plans lie where the graph will read them
    return found

"""The dense reference as a backend: every program, every device, all gradients; time and memory of N^2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from maskc.backends import Compiled, Refusal, Request
from maskc.reference.attention import attention

if TYPE_CHECKING:
    import torch

    from maskc.ir.binding import Binding
    from maskc.ir.program import Program

__all__ = ["run", "supports"]


def supports(program: Program, request: Request) -> Refusal | None:
    """Everything is supported. A layout has no meaning here: there are no tiles."""
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
    """Dense attention: see ``maskc.backends.Backend.run``."""
    out, lse = attention(compiled.program, binding, q, k, v, scale=scale, floats=floats)
    return out, lse if return_lse else None

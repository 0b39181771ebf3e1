"""What operators of torch call, and the words in which a call asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

__all__ = ["LSE", "Q_START", "Entry"]

Tensor = torch.Tensor

#: The log-sum-exp is asked for.
LSE = "lse"
#: Where the sizes of a call say the position of its first query, if they do: no name, so that no axis is called so.
Q_START = "q_start of the call"


class Entry(Protocol):
    """A program under one binding."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, floats: Sequence[Tensor], scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Output, log-sum-exp, and the output before the output expression (without elements if there is none)."""

    def backward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        floats: Sequence[Tensor],
        out: Tensor,
        lse: Tensor,
        grad: Tensor,
        grad_lse: Tensor | None,
        scale: float,
        wanted: Sequence[bool] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Gradients of q, k, v and ``floats``. ``out``: before the output expression. ``wanted``: which of ``floats``
        need theirs, by default all; the others get 0."""

    @property
    def plain_output(self) -> bool:
        """Whether the program has no output expression."""

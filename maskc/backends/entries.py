"""What operators of torch call: entries, and what finds them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import torch

__all__ = ["Entry", "Source"]

Tensor = torch.Tensor


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


class Source(Protocol):
    """What finds the entry of a call."""

    def entry_of(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        inputs: Mapping[str, Tensor],
        sizes: Mapping[str, int],
        wishes: Collection[str] = (),
    ) -> tuple[Entry, tuple[str, ...]]:
        """The entry, and which of the inputs are its floats, in order. ``wishes``: what was seen of the call when it
        was traced, and is refused here, if at all: ``library.LSE``, ``maskc.tensors.LEARNED_SCALE``."""

    @property
    def plain_output(self) -> bool:
        """Whether the program has no output expression."""

"""Attention as custom operators of torch, so that compilers, exporters and checkpointing can see through it.

An operator takes tensors, numbers and strings, so what a program is goes by a name: the handle of
an entry. Entries live as long as somebody holds them; a graph that outlives its op says so.
"""

from __future__ import annotations

import itertools
import os
import weakref
from collections.abc import Sequence
from typing import Any, Protocol

import torch

__all__ = ["Entry", "attention", "handle_of"]

Tensor = torch.Tensor


class Entry(Protocol):
    """What an operator needs of a backend."""

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
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Gradients of q, k, v and ``floats``."""

    @property
    def plain_output(self) -> bool:
        """Whether the program has no output expression."""


_entries: weakref.WeakValueDictionary[str, Entry] = weakref.WeakValueDictionary()
_handles: weakref.WeakKeyDictionary[Entry, str] = weakref.WeakKeyDictionary()
_numbers = itertools.count()


def handle_of(entry: Entry) -> str:
    """The name by which operators find ``entry`` for as long as it lives."""
    handle = _handles.get(entry)
    if handle is None:
        handle = f"{os.getpid()}.{next(_numbers)}"
        _entries[handle] = entry
        _handles[entry] = handle
    return handle


def _entry(handle: str) -> Entry:
    entry = _entries.get(handle)
    if entry is None:
        raise RuntimeError("the maskc op that this graph was made from no longer exists; keep a reference to it")
    return entry


@torch.library.custom_op("maskc::attention", mutates_args=())
def attention(
    q: Tensor, k: Tensor, v: Tensor, floats: Sequence[Tensor], handle: str, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention by the entry called ``handle``: output, log-sum-exp, output before the output expression."""
    out, lse, plain = _entry(handle).forward(q, k, v, floats, scale)
    return _heads_inside(out), _heads_inside(lse), plain if plain.numel() == 0 else _heads_inside(plain)


@torch.library.custom_op("maskc::attention_backward", mutates_args=())
def attention_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    floats: Sequence[Tensor],
    out: Tensor,
    lse: Tensor,
    grad: Tensor,
    grad_lse: Tensor | None,
    handle: str,
    scale: float,
) -> list[Tensor]:
    """Gradients of q, k, v and every float input."""
    dq, dk, dv, rest = _entry(handle).backward(q, k, v, floats, out, lse, grad, grad_lse, scale)
    return [x.contiguous() for x in (dq, dk, dv, *rest)]


def _heads_inside(x: Tensor) -> Tensor:
    """``x`` (B, H, N, ...) stored as (B, N, H, ...), as the layer that follows wants it."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)


@attention.register_fake
def _attention_fake(
    q: Tensor, k: Tensor, v: Tensor, floats: Sequence[Tensor], handle: str, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    batch, heads, rows, _ = q.shape
    shape = (batch, rows, heads, v.shape[3])
    precise = torch.float64 if q.dtype == torch.float64 else torch.float32
    out, lse = q.new_empty(shape).transpose(1, 2), q.new_empty(shape[:3], dtype=precise).transpose(1, 2)
    return out, lse, q.new_empty(0) if _entry(handle).plain_output else q.new_empty(shape).transpose(1, 2)


@attention_backward.register_fake
def _attention_backward_fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    floats: Sequence[Tensor],
    out: Tensor,
    lse: Tensor,
    grad: Tensor,
    grad_lse: Tensor | None,
    handle: str,
    scale: float,
) -> list[Tensor]:
    return [x.new_empty(x.shape) for x in (q, k, v, *floats)]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, v, floats, ctx.handle, ctx.scale = inputs
    out, lse, plain = output
    ctx.entry = _entry(ctx.handle)  # alive until the backward pass
    ctx.floats = len(floats)
    ctx.save_for_backward(q, k, v, *floats, out if ctx.entry.plain_output else plain, lse)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(plain)


def _backward(ctx: Any, grad: Tensor | None, grad_lse: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    q, k, v, *floats, out, lse = ctx.saved_tensors
    if grad is None and grad_lse is None:
        return None, None, None, [None] * ctx.floats, None, None
    given = torch.zeros_like(out) if grad is None else grad
    dq, dk, dv, *rest = attention_backward(q, k, v, floats, out, lse, given, grad_lse, ctx.handle, ctx.scale)
    return dq, dk, dv, rest, None, None


def _no_double_backward(ctx: Any, *_: Any) -> Any:
    raise RuntimeError("maskc attention can be differentiated once: its gradients have no gradient")


attention.register_autograd(_backward, setup_context=_setup)
attention_backward.register_autograd(_no_double_backward)

"""Attention as autograd sees it: under the transforms of ``torch.func``, which do not see through an operator's
autograd formula; and in plain calls, for which the way through the operator would cost more than to start a kernel.

``grad``, ``vjp``, ``jacrev``, ``vmap`` and ``functional_call`` work, also one inside another; forward
mode (``jvp``, dual tensors) and a second derivative are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.autograd import forward_ad

from maskc.backends import library
from maskc.backends.handles import name_call

__all__ = ["attention", "call"]

Tensor = torch.Tensor
_Sizes = tuple[int, ...] | None  # the extents that a handle names


def attention(
    q: Tensor, k: Tensor, v: Tensor, inputs: Sequence[Tensor], handle: str, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """``library.attention``, also while a transform of ``torch.func`` is at work. RuntimeError in forward mode."""
    if torch._C._are_functorch_transforms_active():
        return _apply(_Attention, handle, None, scale, q, k, v, *inputs)  # type: ignore[no-any-return]
    tensors = (q, k, v, *inputs)
    library.refuse_forward_mode(tensors)
    if torch._C._len_torch_dispatch_stack() or not all(type(x) in _PLAIN and not x.is_neg() for x in tensors):
        return library.attention(q, k, v, inputs, handle, None, scale)  # type: ignore[no-any-return]
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        return _apply(_Plain, handle, scale, *tensors)  # type: ignore[no-any-return]
    return library.compute(q, k, v, inputs, handle, None, scale)


def call(
    handle: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    inputs: Mapping[str, Tensor],
    sizes: Mapping[str, int],
    scale: float,
) -> tuple[Tensor, Tensor]:
    """``library.call``, also while a transform of ``torch.func`` is at work."""
    if not torch._C._are_functorch_transforms_active():
        return library.call(handle, q, k, v, inputs, sizes, scale)
    named, extents = name_call(handle, inputs, sizes, (), ""), tuple(sizes.values()) or None
    out, lse, _ = _apply(_Attention, named, extents, scale, q, k, v, *inputs.values())
    return out, lse


def _apply(function: Any, *given: Any) -> Any:
    return function.apply(*given)


_PLAIN = (Tensor, torch.nn.Parameter)


class _Plain(torch.autograd.Function):
    """What the operator does, of plain tensors that nobody else looks at, and that hold in memory what they mean: of a
    negated view (``torch.Tensor.is_neg``), as of an imaginary part, the operator makes one that does."""

    @staticmethod
    def forward(ctx: Any, handle: str, scale: float, q: Tensor, k: Tensor, v: Tensor, *inputs: Tensor) -> Any:
        output = library.compute(q, k, v, inputs, handle, None, scale)
        library.save(ctx, (q, k, v, inputs, handle, None, scale), output)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_lse: Tensor | None, _: Tensor | None) -> Any:
        q, k, v, *inputs, out, lse = ctx.saved_tensors
        if grad is None and grad_lse is None:
            return None, None, None, None, None, *(None for _ in inputs)
        given = torch.zeros_like(out) if grad is None else grad.resolve_neg()
        grad_lse = None if grad_lse is None else grad_lse.resolve_neg()
        wanted = list(ctx.needs_input_grad[5:])
        # The operator where gradients of gradients are asked for, either way: it says that there are none.
        again = torch.is_grad_enabled() or forward_ad._current_level >= 0
        run: Any = torch.ops.maskc.attention_backward if again else library.compute_backward
        found = run(q, k, v, inputs, out, lse, given, grad_lse, ctx.handle, (), ctx.scale, wanted)
        floats = (g if needed else None for g, needed in zip(found[3:], wanted, strict=True))
        return None, None, *found[:3], *floats


class _Attention(torch.autograd.Function):
    """The operator ``maskc::attention``."""

    @staticmethod
    def forward(handle: str, sizes: _Sizes, scale: float, q: Tensor, k: Tensor, v: Tensor, *inputs: Tensor) -> Any:
        return library.attention(q, k, v, inputs, handle, sizes, scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.handle, ctx.sizes, ctx.scale, *tensors = inputs
        out, lse, plain = output
        ctx.save_for_backward(*tensors, out if plain.numel() == 0 else plain, lse)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_lse: Tensor | None, _: Tensor | None) -> Any:
        *tensors, out, lse = ctx.saved_tensors
        if grad is None and grad_lse is None:
            return None, None, None, *(None for _ in tensors)
        grad = torch.zeros_like(out) if grad is None else grad
        given = torch.zeros_like(lse) if grad_lse is None else grad_lse
        named = ctx.handle, ctx.sizes, ctx.scale, grad_lse is not None
        return None, None, None, *_apply(_Backward, *named, out, lse, grad, given, *tensors)

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(library.FORWARD_MODE)

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], handle: str, sizes: _Sizes, scale: float, *tensors: Tensor) -> Any:
        if not info.batch_size:
            q, k, v, *inputs = library.nothing(tensors, dims[3:])
            return library.of_nothing(library.attention(q, k, v, inputs, handle, sizes, scale), tensors)
        each = _entries(info.batch_size, dims[3:], tensors)
        return _stacked([_apply(_Attention, handle, sizes, scale, *one) for one in each])


class _Backward(torch.autograd.Function):
    """The operator ``maskc::attention_backward``; ``with_lse``: the log-sum-exp has a gradient."""

    @staticmethod
    def forward(handle: str, sizes: _Sizes, scale: float, with_lse: bool, *tensors: Tensor) -> Any:
        out, lse, grad, grad_lse, q, k, v, *inputs = tensors
        wanted = [x.is_floating_point() for x in inputs]
        found = torch.ops.maskc.attention_backward(
            q, k, v, inputs, out, lse, grad, grad_lse if with_lse else None, handle, sizes, scale, wanted
        )
        return tuple(found)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError("maskc attention can be differentiated once: its gradients have no gradient of their own")

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(library.FORWARD_MODE)

    @staticmethod
    def vmap(
        info: Any, dims: tuple[Any, ...], handle: str, sizes: _Sizes, scale: float, with_lse: bool, *tensors: Tensor
    ) -> Any:
        if not info.batch_size:
            return library.of_nothing(library.nothing(tensors[4:], dims[8:]), tensors)
        each = _entries(info.batch_size, dims[4:], tensors)
        return _stacked([_apply(_Backward, handle, sizes, scale, with_lse, *one) for one in each])


def _entries(count: int, dims: Sequence[int | None], tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """The tensors of every call of a ``vmap``: one call after another, whose inputs and plans may differ."""
    return [[x if d is None else x.select(d, i) for x, d in zip(tensors, dims, strict=True)] for i in range(count)]


def _stacked(parts: Sequence[Sequence[Tensor]]) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    results = tuple(torch.stack(x) for x in zip(*parts, strict=True))
    return results, (0,) * len(results)

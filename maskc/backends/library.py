"""Attention as custom operators of torch, so that compilers, exporters and checkpointing can see through it.

An operator takes tensors, numbers and strings, so what is to be computed goes by a name. There are
two kinds: an entry, which is a program bound to lengths and inputs, and a source (an op), which
finds the entry when the operator runs, and so also inside a graph that was traced without values.
Both live as long as somebody holds them; a graph that outlives its op says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.autograd import forward_ad

from maskc.arguments import finite
from maskc.autocast import without_autocast
from maskc.backends.entries import Entry
from maskc.backends.finding import find, find_source
from maskc.backends.handles import name_call
from maskc.devices import in_main_memory
from maskc.prepared import Prepared

__all__ = [
    "FORWARD_MODE",
    "ReverseMode",
    "attention",
    "call",
    "compute",
    "compute_backward",
    "refuse_forward_mode",
    "save",
]

Tensor = torch.Tensor


def call(
    handle: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    inputs: Mapping[str, Tensor],
    sizes: Mapping[str, int],
    scale: float | None,
    wishes: Iterable[str] = (),
    recipe: str = "",
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of a call of the source called ``handle``; torch.compile can trace it."""
    named = name_call(handle, inputs, sizes, wishes, recipe)
    out, lse, _ = attention(q, k, v, list(inputs.values()), named, [*sizes.values()] or None, scale)
    return out, lse


def _entry(
    handle: str, q: Tensor, k: Tensor, v: Tensor, inputs: Sequence[Tensor], sizes: Sequence[int] | None
) -> tuple[Entry, list[int]]:
    """The entry, and the places of its float inputs among ``inputs``."""
    if "|" not in handle:
        return find(handle), list(range(len(inputs)))
    named = find_source(handle)
    given, extents = dict(zip(named.inputs, inputs, strict=True)), dict(zip(named.sizes, sizes or (), strict=True))
    entry, floats = named.source.entry_of(q, k, v, given, extents, named.wishes)
    return entry, [named.inputs.index(name) for name in floats]


def _found(handle: str) -> Entry | Prepared:
    found: Entry | Prepared = find_source(handle).source if "|" in handle else find(handle)
    return found


def _factor(scale: float | None, q: Tensor) -> float:
    """None, the usual factor, becomes a number when it runs: one that a graph holds would be of one head dimension."""
    return float(q.shape[-1] ** -0.5) if scale is None else finite("scale", scale)


def compute(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    inputs: Sequence[Tensor],
    handle: str,
    sizes: Sequence[int] | None,
    scale: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention by what is called ``handle``: output, log-sum-exp, output before the output expression.

    ``sizes``: the extents that the handle names. ``scale``: None is the usual factor, ``D ** -0.5``.
    """
    entry, places = _entry(handle, q, k, v, inputs, sizes)
    with without_autocast(q), in_main_memory():
        out, lse, plain = entry.forward(q, k, v, [inputs[i] for i in places], _factor(scale, q))
    return _heads_inside(out), lse.contiguous(), _heads_inside(plain) if plain.ndim == 4 else plain


def compute_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    inputs: Sequence[Tensor],
    out: Tensor,
    lse: Tensor,
    grad: Tensor,
    grad_lse: Tensor | None,
    handle: str,
    sizes: Sequence[int] | None,
    scale: float | None,
    wanted: Sequence[bool],
) -> list[Tensor]:
    """Gradients of q, k, v and every input (0 for those that are not floats, or not wanted)."""
    entry, places = _entry(handle, q, k, v, inputs, sizes)
    floats, some = [inputs[i] for i in places], [wanted[i] for i in places]
    with without_autocast(q), in_main_memory():
        dq, dk, dv, found = entry.backward(q, k, v, floats, out, lse, grad, grad_lse, _factor(scale, q), some)
    rest = [torch.zeros_like(x, memory_format=torch.contiguous_format) for x in inputs]
    for i, gradient in zip(places, found, strict=True):
        rest[i] = gradient.contiguous()
    return [_stored_as(dq, q), _stored_as(dk, k), _stored_as(dv, v), *rest]


def _heads_inside(x: Tensor) -> Tensor:
    """``x`` (B, H, N, ...) stored as (B, N, H, ...), as the layer that follows wants it."""
    inside = x.transpose(1, 2)
    return x if inside.is_contiguous() else inside.contiguous().transpose(1, 2)


def _stored_as(x: Tensor, other: Tensor) -> Tensor:
    """``x`` stored in the order of ``other``, as ``torch.empty_like(other)`` would be."""
    if x.stride() == other.stride() or x.stride() == torch.empty_like(other, device="meta").stride():
        return x
    return torch.empty_like(other).copy_(x)


def _attention_fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    inputs: Sequence[Tensor],
    handle: str,
    sizes: Sequence[int] | None,
    scale: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, heads, rows, _ = q.shape
    shape = (batch, rows, heads, v.shape[3])
    precise = torch.float64 if q.dtype == torch.float64 else torch.float32
    out, lse = q.new_empty(shape).transpose(1, 2), q.new_empty(q.shape[:3], dtype=precise)
    return out, lse, q.new_empty(0) if _found(handle).plain_output else q.new_empty(shape).transpose(1, 2)


def _attention_backward_fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    inputs: Sequence[Tensor],
    out: Tensor,
    lse: Tensor,
    grad: Tensor,
    grad_lse: Tensor | None,
    handle: str,
    sizes: Sequence[int] | None,
    scale: float | None,
    wanted: Sequence[bool],
) -> list[Tensor]:
    return [*(torch.empty_like(x) for x in (q, k, v)), *(x.new_empty(x.shape) for x in inputs)]


def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    """What the backward pass needs."""
    q, k, v, given, ctx.handle, ctx.sizes, ctx.scale = inputs
    out, lse, plain = output
    ctx.found = _found(ctx.handle)  # alive until the backward pass
    ctx.save_for_backward(q, k, v, *given, out if ctx.found.plain_output else plain, lse)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, grad_lse: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    q, k, v, *inputs, out, lse = ctx.saved_tensors
    if grad is None and grad_lse is None:
        return None, None, None, [None] * len(inputs), None, None, None
    given = torch.zeros_like(out) if grad is None else grad
    wanted = list(ctx.needs_input_grad[3])
    dq, dk, dv, *rest = torch.ops.maskc.attention_backward(
        q, k, v, inputs, out, lse, given, grad_lse, ctx.handle, ctx.sizes, ctx.scale, wanted
    )
    floats = [g if needed else None for g, needed in zip(rest, wanted, strict=True)]
    return dq, dk, dv, floats, None, None, None


def _once(ctx: Any, *_: Any) -> Any:
    raise RuntimeError("maskc attention can be differentiated once: its gradients have no gradient of their own")


def _vmap(info: Any, dims: Any, q: Tensor, k: Tensor, v: Tensor, inputs: Any, *named: Any) -> Any:
    """One call after another: inputs and plans may differ from entry to entry."""

    def at(x: Tensor, dim: int | None, i: int) -> Tensor:
        return x if dim is None else x.select(dim, i)

    if not info.batch_size:
        tensors = (q, k, v, *inputs)
        one_q, one_k, one_v, *rest = nothing(tensors, (*dims[:3], *dims[3]))
        return of_nothing(_attention_fake(one_q, one_k, one_v, rest, *named), tensors)
    results = []
    for i in range(info.batch_size):
        one = [at(x, d, i) for x, d in zip((q, k, v), dims[:3], strict=True)]
        given = [at(x, d, i) for x, d in zip(inputs, dims[3], strict=True)]
        results.append(attention(*one, given, *named))
    return tuple(torch.stack(x) for x in zip(*results, strict=True)), (0, 0, 0)


def nothing(tensors: Sequence[Tensor], dims: Sequence[int | None]) -> list[Tensor]:
    """One entry of each of ``tensors``, of which a ``vmap`` maps none, without values."""
    shapes = [[n for i, n in enumerate(x.shape) if i != d] for x, d in zip(tensors, dims, strict=True)]
    return [torch.empty(s, dtype=x.dtype, device="meta") for s, x in zip(shapes, tensors, strict=True)]


def of_nothing(results: Sequence[Tensor], tensors: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """What a ``vmap`` over no entry gives, where one entry would give ``results``; in the graph of ``tensors``, whose
    gradients are 0."""
    anchor = sum((x.sum() for x in tensors if x.is_floating_point()), start=tensors[0].new_zeros(()))
    made = (tensors[0].new_empty((0, *x.shape), dtype=x.dtype) for x in results)
    return tuple(x + anchor.to(x.dtype) for x in made), (0,) * len(results)


FORWARD_MODE = "maskc attention has no forward-mode derivative (jvp): use reverse mode, torch.func.vjp or backward()"
_TRACED = (
    "torch.compile cannot trace torch.func.grad of maskc attention: compile the function that is differentiated, and "
    "call backward() on what it returns"
)


def refuse_forward_mode(tensors: Iterable[Tensor]) -> None:
    """Raises RuntimeError where one of ``tensors`` has a tangent, which would be lost."""
    if forward_ad._current_level < 0:
        return
    tangent_of: Any = forward_ad.unpack_dual
    if any(x.is_floating_point() and tangent_of(x).tangent is not None for x in tensors):
        raise RuntimeError(FORWARD_MODE)


class ReverseMode(torch.library.Library):
    """Where autograd formulas of operators are registered, with what is refused there: torch drops tangents without a
    word where no formula is for them, and fails with words about its own insides where ``torch.func.grad`` meets an
    operator, which it only does in a graph (see ``transforms.py``)."""

    def impl(self, op_name: Any, fn: Any, dispatch_key: str = "", **options: Any) -> Any:
        made = _guarded(fn) if dispatch_key == "Autograd" else fn
        return super().impl(op_name, made, dispatch_key, **options)  # type: ignore[no-untyped-call]


def _guarded(kernel: Any) -> Any:
    def run(keyset: Any, *given: Any, **named: Any) -> Any:
        tensors = [x for each in given for x in (each if isinstance(each, (list, tuple)) else [each])]
        tensors = [x for x in tensors if isinstance(x, Tensor)]
        refuse_forward_mode(tensors)
        learns = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
        if learns and torch._C._are_functorch_transforms_active():
            raise RuntimeError(_TRACED)
        return kernel(keyset, *given, **named)

    return run


# Defined by hand and not by ``torch.library.custom_op``, whose first call imports the whole compiler: seconds.
_LIBRARY = torch.library.Library("maskc", "DEF")  # type: ignore[no-untyped-call]
_TENSORS = "Tensor q, Tensor k, Tensor v, Tensor[] inputs"
_GIVEN = "Tensor out, Tensor lse, Tensor grad, Tensor? grad_lse"
_NAMED = "str handle, SymInt[]? sizes, float? scale"
_define: Any = _LIBRARY.define
_define(f"attention({_TENSORS}, {_NAMED}) -> (Tensor, Tensor, Tensor)")
_define(f"attention_backward({_TENSORS}, {_GIVEN}, {_NAMED}, bool[] wanted) -> Tensor[]")
_LIBRARY.impl("attention", compute, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
_LIBRARY.impl("attention_backward", compute_backward, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
torch.library.register_fake("maskc::attention", _attention_fake, lib=_LIBRARY)
torch.library.register_fake("maskc::attention_backward", _attention_backward_fake, lib=_LIBRARY)
_FORMULAS = ReverseMode("maskc", "FRAGMENT")  # type: ignore[no-untyped-call]
torch.library.register_autograd("maskc::attention", _backward, setup_context=save, lib=_FORMULAS)
torch.library.register_autograd("maskc::attention_backward", _once, lib=_FORMULAS)
torch.library.register_vmap("maskc::attention", _vmap, lib=_LIBRARY)
attention: Any = torch.ops.maskc.attention.default

"""Checks of the tensors that an op is called with, before any work is done."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, cast

import numpy as np
import torch
from torch.autograd import forward_ad

from maskc.arguments import finite, shown
from maskc.devices import holds_values
from maskc.ir.nodes import Type
from maskc.sharded import check_whole
from maskc.tiles.binding import check_shape, positions
from maskc.tiles.values import check_complete, declaration, fail, to_numpy

if TYPE_CHECKING:
    from maskc.backends import Compiled
    from maskc.diagnostics import MaskcError
    from maskc.ir.program import Parameter

__all__ = [
    "LEARNED_SCALE",
    "check_dense",
    "check_float_input",
    "check_hidden_input",
    "check_tensors",
    "is_exporting",
    "is_symbolic",
    "is_transformed",
    "kind_of_call",
    "learned_scale",
    "refuse_traced",
    "scale_factor",
    "traced_input",
    "traced_scale",
]

#: What is computed in: FP8 tensors, which torch has hardly any arithmetic for, are converted by their owner.
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

#: The scale is a tensor that requires a gradient: what was seen of a call when it was traced.
LEARNED_SCALE = "learned scale"
_SCALE_QUERIES = "scale the queries instead: op(q * scale, k, v, scale=1.0)"


def check_tensors(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, suffix: str = "", shapes: str | None = None
) -> None:
    """Raises E510 (shape), E511 (dtype) or E512 (device) where q, k and v cannot be attended with.

    ``suffix``: of the names of k and v. ``shapes``: what errors say of the shapes, where these stand for others.
    """
    named = (("q", q), (f"k{suffix}", k), (f"v{suffix}", v))
    for name, tensor in named:
        if not isinstance(tensor, torch.Tensor):
            raise fail("E511", f"{name} must be a torch tensor, not {shown(tensor)}")
        check_dense(name, tensor)
        if tensor.ndim != 4:
            hint = f"for one batch entry: {name}[None]" if tensor.ndim == 3 else None
            raise fail("E510", f"{name} must be (batch, heads, length, dim), not {_shape(tensor)}", hint)
    _check_shapes(q, k, v, heads, suffix, shapes or ", ".join(f"{name} {_shape(x)}" for name, x in named))
    for name, tensor in named:
        if not tensor.is_floating_point():
            raise fail("E511", f"{name} must be of a float dtype, not {tensor.dtype}")
        if tensor.dtype not in _DTYPES:
            hint = f"convert: {name}.bfloat16()"
            raise fail("E511", f"{name} is {tensor.dtype}, and attention is computed in 16, 32 or 64 bits", hint)
        if tensor.dtype != q.dtype:
            raise fail("E511", f"q is {q.dtype}, but {name} is {tensor.dtype}", f"convert: {name}.to(q.dtype)")
        if tensor.device != q.device:
            raise fail("E512", f"q is on {q.device}, but {name} is on {tensor.device}", f"move it: {name}.to(q.device)")


def kind_of_call(q: Any, k: Any, v: Any, given: Mapping[str, Any], return_lse: bool) -> Hashable:
    """What tells whether tensors are right, and which backend computes them; None of what are no tensors."""
    tensor = torch.Tensor
    if not (isinstance(q, tensor) and isinstance(k, tensor) and isinstance(v, tensor)):
        return None
    if q.is_nested or k.is_nested or v.is_nested:
        return None  # have no shape
    grads = torch.is_grad_enabled() and (
        q.requires_grad
        or k.requires_grad
        or v.requires_grad
        or any(isinstance(x, tensor) and x.requires_grad for x in given.values())
    )
    of_q, of_k, of_v = ((x.shape, x.dtype, x.device, x.layout) for x in (q, k, v))
    return of_q, of_k, of_v, tuple(given), grads, return_lse


def check_dense(name: str, tensor: torch.Tensor) -> None:
    """Raises E511 for sparse and nested tensors."""
    if tensor.is_nested or tensor.layout != torch.strided:
        kind = "a nested one" if tensor.is_nested else f"one of the layout {tensor.layout}"
        hint = f"pad it: {name}.to_padded_tensor(0.0)" if tensor.is_nested else f"convert: {name}.to_dense()"
        raise fail("E511", f"{name} must be a dense tensor, not {kind}", hint)


def scale_factor(scale: Any, dim: int) -> float:
    """The factor of the dot products, by default ``dim ** -0.5``. Raises E503 where it is no number, or where it is a
    tensor whose gradient would be lost, and E504 where it is not finite."""
    if scale is None:
        return float(dim**-0.5)
    if isinstance(scale, torch.Tensor) and torch.is_grad_enabled() and scale.requires_grad:
        raise learned_scale()
    if not isinstance(scale, str | bytes) and not _is_truth(scale):
        with contextlib.suppress(TypeError, ValueError, RuntimeError, OverflowError):
            return finite("scale", float(scale))
    hint = _SCALE_QUERIES if isinstance(scale, torch.Tensor) else ""  # of several elements, or that vmap hides
    raise fail("E503", f"scale must be a number, not {shown(scale)}", hint)


def is_transformed(values: Iterable[Any], *, mapped: bool = False) -> bool:
    """Whether any of ``values`` is a tensor that a transform of ``torch.func``, or forward mode, is at work on.

    ``mapped``: only those that ``vmap`` maps over, whose values nobody can look at.
    """
    dual = forward_ad._current_level >= 0 and not mapped
    if not dual and not torch._C._are_functorch_transforms_active():
        return False
    func, tangent_of = torch._C._functorch, cast("Any", forward_ad.unpack_dual)
    for x in values:
        if not isinstance(x, torch.Tensor):
            continue
        if dual and x.is_floating_point() and tangent_of(x).tangent is not None:
            return True
        while func.is_functorch_wrapped_tensor(x):
            if not mapped or func.is_batchedtensor(x):
                return True
            x = func.get_unwrapped(x)
    return False


def is_exporting() -> bool:
    """Whether ``torch.export`` makes a graph now; torch 2.6 does not tell."""
    return bool(getattr(torch.compiler, "is_exporting", bool)())


def is_symbolic(q: Any, *others: Any) -> bool:
    """Whether a shape holds symbols, as where a graph is made of fake tensors for any lengths."""
    if isinstance(q, torch.Tensor) and holds_values(q):  # nearly always
        return False
    shapes = (x.shape for x in (q, *others) if isinstance(x, torch.Tensor))
    return any(isinstance(n, torch.SymInt) for shape in shapes for n in shape)


def traced_scale(scale: Any) -> tuple[Any, list[str]]:
    """The factor of the dot products of a call that is traced, as the operator takes it, and what is wrong with it."""
    if scale is None:
        return None, []
    if isinstance(scale, torch.Tensor) and not _is_truth(scale):
        learned = torch.is_grad_enabled() and scale.requires_grad
        return (1.0, [LEARNED_SCALE]) if learned else (scale.item(), [])
    if isinstance(scale, (str, bytes, list, tuple, Mapping)) or _is_truth(scale):
        refuse_traced("E503", f"scale must be a number, not {shown(scale)}")
    return scale, []


def refuse_traced(code: str, message: str, hint: str | None = None) -> NoReturn:
    """Raises what ``fail`` makes, where a call is traced: outside the graph, since the one that torch 2.11 goes on with
    after that can raise no object made before."""

    def refuse() -> NoReturn:
        raise fail(code, message, hint)

    disable: Any = torch.compiler.disable
    disable(refuse)()
    raise AssertionError


def _is_truth(x: Any) -> bool:
    """Whether ``x`` is true or false, which Python takes for a number."""
    return x.dtype == torch.bool if isinstance(x, torch.Tensor) else isinstance(x, (bool, np.bool_))


def learned_scale() -> MaskcError:
    """The error for a scale that requires a gradient."""
    return fail("E503", "scale requires a gradient, and it is taken as a number, which has none", _SCALE_QUERIES)


def _check_shapes(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, suffix: str, shapes: str) -> None:
    if q.shape[1] != heads:
        raise fail(
            "E510",
            f"q has {q.shape[1]} heads, but the op was compiled for {heads}: {shapes}",
            f"compile with heads={q.shape[1]}, or transpose q to (batch, heads, length, dim)",
        )
    if k.shape[:3] != v.shape[:3]:
        raise fail("E510", f"k{suffix} and v{suffix} must agree in batch, heads and length: {shapes}")
    if q.shape[0] != k.shape[0]:
        raise fail("E510", f"q and k{suffix} must have the same number of batch entries: {shapes}")
    if q.shape[3] != k.shape[3]:
        raise fail("E510", f"q and k{suffix} must have the same last dimension: {shapes}")
    # Of no dimension torch's own attention makes what its backends happen to make, a division by 0 among it.
    if 0 in (q.shape[1], k.shape[1], q.shape[3], v.shape[3]):
        hint = "batch entries, queries and keys may be none"
        raise fail("E510", f"the number of heads and the last dimensions must not be 0: {shapes}", hint)
    if q.shape[1] % k.shape[1]:
        fits = k.shape[2] and q.shape[1] % k.shape[2] == 0
        hint = f"if heads and tokens are exchanged: k{suffix}.transpose(1, 2), and v{suffix} alike" if fits else ""
        raise fail("E510", f"the query heads must be a multiple of the key heads: {shapes}", hint)


def check_float_input(
    p: Parameter, value: Any, q: torch.Tensor, k_len: int, heads: int, cross: bool, compiled: Compiled
) -> torch.Tensor:
    """A float input as a tensor on the device of ``q``. Raises E503, E505, E511 and E512.

    ``k_len``: number of keys. A tensor is taken as it is, for its gradient; lists and arrays are converted.
    """
    tensor = _as_tensor(p, value, q)
    check_whole(p.name, tensor)
    check_dense(p.name, tensor)
    if not tensor.is_floating_point():
        raise fail(
            "E511", f"{declaration(p)}: expected a float dtype, found {tensor.dtype}", f"convert: {p.name}.float()"
        )
    if tensor.device != q.device:
        raise fail("E512", f"q is on {q.device}, but {p.name} is on {tensor.device}", f"move it: {p.name}.to(q.device)")
    dims = {
        "head": heads,
        "layer": compiled.layer,
        "batch": q.shape[0],
        **positions(cross, q.shape[2], k_len),
    }
    check_shape(p, tuple(tensor.shape), dims, compiled.args)
    return tensor.resolve_neg()  # kernels read what is in memory


def check_hidden_input(p: Parameter, x: torch.Tensor, dims: Mapping[str, int | None], args: Mapping[str, Any]) -> None:
    """Raises E505 and E511 where an input whose values nobody looks at is not as declared. ``dims``, ``args``: as for
    ``check_shape``."""
    if (x.dtype == torch.bool) != (p.type is Type.BOOL) or x.is_floating_point() != (p.type is Type.FLOAT):
        raise fail("E511", f"{declaration(p)}: expected elements of that type, found {x.dtype}")
    check_shape(p, tuple(x.shape), dims, args)


def _as_tensor(p: Parameter, value: Any, q: torch.Tensor) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value
    check_complete(p.name, value)
    try:
        tensor: torch.Tensor = torch.as_tensor(_native(value), device=q.device)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        to_numpy(p.name, value)  # says of integers that they are too large, and of lists that they form no array
        raise fail("E503", f"{declaration(p)}: expected a tensor of floats ({error})") from None
    _check_lists(p.name, value)
    return _all_bits(value, tensor)


def _check_lists(name: str, value: Any) -> None:
    """Raises E503 for lists that hold tensors whose gradients would be lost."""
    for x in value if isinstance(value, (list, tuple)) else ():
        if isinstance(x, torch.Tensor) and torch.is_grad_enabled() and x.requires_grad:
            hint = f"give one tensor: torch.stack({name})"
            raise fail("E503", f"{name}: a list of tensors that require gradients, which lists do not receive", hint)
        _check_lists(name, x)


def _native(value: Any) -> Any:
    """An array, or what gives one, as torch takes it: of this machine's byte order, of 64 bits at most, without
    negative strides, writable. Others as they are."""
    if not hasattr(value, "__array__"):
        return value
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        return value
    dtype = np.dtype(np.float64) if array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")
    return array.astype(dtype, order="C", copy=not array.flags.writeable)


def _all_bits(value: Any, tensor: torch.Tensor) -> torch.Tensor:
    """``tensor``, made from ``value`` for a float input. Python's numbers have 64 bits, all of which masks compare."""
    if tensor.is_complex() or (tensor.is_floating_point() and hasattr(value, "dtype")):
        return tensor
    return torch.as_tensor(value, dtype=torch.float64, device=tensor.device)


def _shape(tensor: torch.Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def traced_input(name: str, value: Any, q: torch.Tensor, is_float: bool) -> torch.Tensor:
    """An input of a call as an operator takes it; ``is_float``: the pattern declares it as floats. Raises E503 and E512
    where it cannot be handed to one."""
    if value is None or isinstance(value, (str, bytes, Mapping)):
        refuse_traced("E503", f"{name}: expected numbers, an array or a tensor, found {shown(value)}")
    x = value if isinstance(value, torch.Tensor) else torch.as_tensor(value)
    _check_lists(name, value)
    if x.device.type == "meta" and q.device.type != "meta":
        refuse_traced("E512", f"q is on {q.device}, but {name} is on meta", f"move it: {name}.to(q.device)")
    return _all_bits(value, x) if x is not value and is_float else x

"""Checks of the tensors that an op is called with, before any work is done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from maskc.tiles.binding import check_shape, positions
from maskc.tiles.values import declaration, fail

if TYPE_CHECKING:
    from maskc.backends import Compiled
    from maskc.ir.program import Parameter

__all__ = ["check_float_input", "check_tensors"]


def check_tensors(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> None:
    """Raises E510 (shape), E511 (dtype) or E512 (device) where q, k and v cannot be attended with."""
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if not isinstance(tensor, torch.Tensor):
            raise fail("E511", f"{name} must be a torch tensor, not a {type(tensor).__name__}")
        if tensor.ndim != 4:
            raise fail("E510", f"{name} must be (batch, heads, length, dim), not {_shape(tensor)}")
    _check_shapes(q, k, v, heads)
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if not tensor.is_floating_point():
            raise fail("E511", f"{name} must be of a float dtype, not {tensor.dtype}")
        if tensor.dtype != q.dtype:
            raise fail("E511", f"q is {q.dtype}, but {name} is {tensor.dtype}", f"convert: {name}.to(q.dtype)")
        if tensor.device != q.device:
            raise fail("E512", f"q is on {q.device}, but {name} is on {tensor.device}", f"move it: {name}.to(q.device)")


def _check_shapes(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> None:
    shapes = f"q {_shape(q)}, k {_shape(k)}, v {_shape(v)}"
    if q.shape[1] != heads:
        raise fail(
            "E510",
            f"q has {q.shape[1]} heads, but the op was compiled for {heads}: {shapes}",
            f"compile with heads={q.shape[1]}, or transpose q to (batch, heads, length, dim)",
        )
    if k.shape[:3] != v.shape[:3]:
        raise fail("E510", f"k and v must agree in batch, heads and length: {shapes}")
    if q.shape[0] != k.shape[0]:
        raise fail("E510", f"q and k must have the same number of batch entries: {shapes}")
    if q.shape[3] != k.shape[3]:
        raise fail("E510", f"q and k must have the same last dimension: {shapes}")
    if 0 in (q.shape[1], k.shape[1], q.shape[3]):
        raise fail("E510", f"heads and dim must not be 0: {shapes}")
    if q.shape[1] % k.shape[1]:
        raise fail("E510", f"the query heads must be a multiple of the key heads: {shapes}")


def check_float_input(
    p: Parameter, value: Any, q: torch.Tensor, k_len: int, heads: int, cross: bool, compiled: Compiled
) -> torch.Tensor:
    """A float input as a tensor on the device of ``q``. Raises E503, E505, E511 and E512.

    ``k_len``: number of keys. A tensor is taken as it is, for its gradient; lists and arrays are converted.
    """
    tensor = _as_tensor(p, value, q)
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
    return tensor


def _as_tensor(p: Parameter, value: Any, q: torch.Tensor) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value
    try:
        tensor: torch.Tensor = torch.as_tensor(value, device=q.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise fail("E503", f"{declaration(p)}: expected a tensor of floats ({error})") from None
    return tensor if tensor.is_floating_point() else tensor.to(torch.float64)


def _shape(tensor: torch.Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)

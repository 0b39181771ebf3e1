"""Calls of DTensors: every process computes the batch entries and heads that it has, and nothing is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from maskc.diagnostics import fail
from maskc.ir.nodes import Symbol, postorder
from maskc.ir.program import Program

__all__ = ["call_sharded", "check_whole", "is_sharded", "refuse_sharded"]

_DIMS = ("batch entries", "heads")
_BY_HAND = "call an op for the heads of one process on what x.to_local() gives"


class _Op(Protocol):
    """What is asked here of ``maskc.Op``."""

    heads: int

    @property
    def program(self) -> Program: ...

    def for_heads(self, heads: int) -> _Op: ...

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, inputs: Mapping[str, Any] | None, **options: Any
    ) -> Any: ...


def is_sharded(*tensors: Any) -> bool:
    """Whether one of ``tensors`` is a DTensor; ``torch.distributed.tensor`` is not imported for it."""
    for x in tensors:  # noqa: SIM110  # asked with every call, of which a generator would take a share
        if type(x) is not torch.Tensor and hasattr(x, "device_mesh"):
            return True
    return False


def check_whole(name: str, tensor: Any) -> None:
    """Raises E511 for a DTensor among tensors that are none."""
    if is_sharded(tensor):
        hint = f"give {name}.to_local() or {name}.full_tensor(), or q, k and v as DTensors too"
        raise fail("E511", f"{name} is a DTensor, and q, k and v are not", hint)


def refuse_sharded(*tensors: Any) -> None:
    """Raises E702 for DTensors where they are not taken."""
    if is_sharded(*tensors):
        raise fail("E702", "decoding takes no DTensors", _BY_HAND)


def call_sharded(
    op: _Op, tensors: Sequence[Any], given: Mapping[str, Any], options: Mapping[str, Any]
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """A call of an op with q, k and v as DTensors, split by batch entries, heads, or both; results are split alike.

    ``given``: inputs, the same in every process: plain tensors without gradients, or replicated DTensors. ``options``:
    of the call. Raises E510, E511, and E702 where a process would have to know more than its part.
    """
    from torch.distributed.tensor import DTensor, Partial, Replicate

    q = tensors[0]
    for name, x in zip("qkv", tensors, strict=True):
        if not isinstance(x, DTensor):
            raise fail("E511", f"{name} is no DTensor, and others are", f"distribute_tensor({name}, mesh, placements)")
        if (x.device_mesh, x.placements) != (q.device_mesh, q.placements):
            message = f"{name} is placed as {x.placements}, and q as {q.placements}"
            raise fail("E511", message, f"give them one mesh and placements: {name}.redistribute(mesh, q.placements)")
    parts = _parts(tensors)
    _check_alike(op, given, parts)
    split = [p.is_shard() for p in q.placements]
    inputs = {}
    for name, x in given.items():
        if isinstance(x, DTensor):
            if x.device_mesh != q.device_mesh or not all(p.is_replicate() for p in x.placements):
                raise fail("E702", f"{name} is not replicated over the mesh of q", f"replicate {name}, or {_BY_HAND}")
            # Each process finds the gradient by its part.
            x = x.to_local(grad_placements=[Partial() if s else Replicate() for s in split])
        elif isinstance(x, torch.Tensor) and x.requires_grad and torch.is_grad_enabled() and any(split):
            message = f"{name} requires a gradient, and each process would have that of its part alone"
            raise fail("E702", message, f"give it as a DTensor: distribute_tensor({name}, mesh, [Replicate(), ...])")
        inputs[name] = x
    one = op if parts[1] == 1 else op.for_heads(op.heads // parts[1])
    q_part, k_part, v_part = (x.to_local() for x in tensors)
    found = one(q_part, k_part, v_part, inputs=inputs, **options)
    results = [DTensor.from_local(x, q.device_mesh, q.placements, run_check=False) for x in _listed(found)]
    return results[0] if isinstance(found, torch.Tensor) else (results[0], results[1])


def _listed(found: Any) -> list[torch.Tensor]:
    return [found] if isinstance(found, torch.Tensor) else list(found)


def _parts(tensors: Sequence[Any]) -> list[int]:
    """Into how many parts batch entries and heads are split. Raises E702 where anything else is, and E510 where parts
    would be unlike."""
    q = tensors[0]
    parts = [1, 1]
    for size, placement in zip(q.device_mesh.shape, q.placements, strict=True):
        if placement.is_replicate():
            continue
        if not placement.is_shard() or placement.dim > 1:
            hint = "split q, k and v by batch entries or heads, Shard(0) or Shard(1), as redistribute() does"
            if placement.is_shard(2):
                hint += ", or divide the sequence by maskc.parallel"
            raise fail("E702", f"q is placed as {q.placements}: a query needs whole keys, and all keys", hint)
        parts[placement.dim] *= size
    for name, x in zip("qkv", tensors, strict=True):
        for dim, count in enumerate(parts):
            if x.shape[dim] % count:
                message = f"{name} has {x.shape[dim]} {_DIMS[dim]}, which do not make {count} equal parts"
                raise fail("E510", message, _BY_HAND)
    return parts


def _check_alike(op: _Op, given: Mapping[str, Any], parts: Sequence[int]) -> None:
    """Raises E702 where the pattern tells apart what is split: a process does not know which part is its own."""
    spoken = {n.name for n in postorder(op.program.roots()) if isinstance(n, Symbol)}
    domains = {p.name: p.domain for p in op.program.params}
    batched = any(name in domains and np.ndim(x) > len(domains[name]) for name, x in given.items())
    told = (bool(spoken & {"b"}) or batched, bool(spoken & {"h", "heads"}))
    for what, split, differs in zip(_DIMS, parts, told, strict=True):
        if split > 1 and differs:
            raise fail("E702", f"{op.program.name!r} differs by {what}, and these are split over processes", _BY_HAND)

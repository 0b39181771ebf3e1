"""Calls of DTensors: every process computes the batch entries and heads that it has, and nothing is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from maskc.diagnostics import fail
from maskc.ir.nodes import Const, Lookup, Node, Symbol, postorder
from maskc.ir.ops import apply
from maskc.ir.program import Program
from maskc.ir.rewrite import map_program, rebuild, substitute

__all__ = ["call_sharded", "check_whole", "is_sharded", "of_heads", "refuse_sharded"]

_DIMS = ("batch entries", "heads")
_BY_HAND = "call an op for the heads of one process on what x.to_local() gives"


class _Op(Protocol):
    """What is asked here of ``maskc.Op``."""

    heads: int

    @property
    def program(self) -> Program: ...

    def of_heads(self, first: int, heads: int) -> _Op: ...

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, inputs: Mapping[str, Any] | None, **options: Any
    ) -> Any: ...


class _Part(NamedTuple):
    """Part number ``own`` of ``parts``, of ``size`` each."""

    parts: int
    own: int
    size: int


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

    ``given``: inputs, of all entries and heads, the same in every process: plain tensors without gradients, or
    replicated DTensors. ``options``: of the call. Raises E505, E510, E511, and E702 for what is split otherwise.
    """
    from torch.distributed.tensor import DTensor, Partial, Replicate

    q = tensors[0]
    for name, x in zip("qkv", tensors, strict=True):
        if not isinstance(x, DTensor):
            raise fail("E511", f"{name} is no DTensor, and others are", f"distribute_tensor({name}, mesh, placements)")
        if (x.device_mesh, x.placements) != (q.device_mesh, q.placements):
            message = f"{name} is placed as {x.placements}, and q as {q.placements}"
            raise fail("E511", message, f"give them one mesh and placements: {name}.redistribute(mesh, q.placements)")
    entries, heads = _own_parts(tensors)
    _check_entries(op, entries)
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
        inputs[name] = _of_entries(op.program, name, x, entries, q.shape[0])
    one = op if heads.parts == 1 else op.of_heads(heads.own * heads.size, heads.size)
    q_part, k_part, v_part = (x.to_local() for x in tensors)
    found = one(q_part, k_part, v_part, inputs=inputs, **options)
    results = [DTensor.from_local(x, q.device_mesh, q.placements, run_check=False) for x in _listed(found)]
    return results[0] if isinstance(found, torch.Tensor) else (results[0], results[1])


def _listed(found: Any) -> list[torch.Tensor]:
    return [found] if isinstance(found, torch.Tensor) else list(found)


def _own_parts(tensors: Sequence[Any]) -> tuple[_Part, _Part]:
    """This process's part of the batch entries and of the heads of q. Raises E702 where anything else is split, and
    E510 where parts would be unlike."""
    q = tensors[0]
    parts, own = [1, 1], [0, 0]
    for size, at, placement in zip(q.device_mesh.shape, q.device_mesh.get_coordinate(), q.placements, strict=True):
        if placement.is_replicate():
            continue
        if not placement.is_shard() or placement.dim > 1:
            hint = "split q, k and v by batch entries or heads, Shard(0) or Shard(1), as redistribute() does"
            if placement.is_shard(2):
                hint += ", or divide the sequence by maskc.parallel"
            raise fail("E702", f"q is placed as {q.placements}: a query needs whole keys, and all keys", hint)
        dim = placement.dim
        parts[dim], own[dim] = parts[dim] * size, own[dim] * size + at
    for name, x in zip("qkv", tensors, strict=True):
        for dim, count in enumerate(parts):
            if x.shape[dim] % count:
                message = f"{name} has {x.shape[dim]} {_DIMS[dim]}, which do not make {count} equal parts"
                raise fail("E510", message, _BY_HAND)
    entries, heads = (_Part(parts[dim], own[dim], q.shape[dim] // parts[dim]) for dim in range(2))
    return entries, heads


def _check_entries(op: _Op, entries: _Part) -> None:
    """Raises E702 where the pattern numbers batch entries that are split: those of a process count from 0."""
    if entries.parts > 1:
        domains = {p.name: p.domain for p in op.program.params}
        roots = (rebuild(root, lambda n: _any_entry(n, domains)) for root in op.program.roots())
        if any(n is Symbol("b") for n in postorder(roots)):
            message = f"{op.program.name!r} numbers the batch entries, and these are split over processes"
            raise fail("E702", message, "give what differs by entry as an input: int[batch]")


def _any_entry(node: Node, domains: Mapping[str, tuple[str | int, ...]]) -> Node:
    """A look-up in an input by batch entry as one of no entry in particular."""
    if not isinstance(node, Lookup):
        return node
    indexed = zip(domains[node.name], node.indices, strict=True)
    return Lookup(node.name, node.type, (Const(0) if d == "batch" and i is Symbol("b") else i for d, i in indexed))


def _of_entries(program: Program, name: str, value: Any, entries: _Part, batch: int) -> Any:
    """What an input says of a process's batch entries; ``batch``: of how many it is."""
    domain = next((p.domain for p in program.params if p.name == name), None)
    if entries.parts == 1 or domain is None:
        return value
    axis = 0 if np.ndim(value) > len(domain) else domain.index("batch") if "batch" in domain else None
    if axis is None:
        return value
    whole = value if hasattr(value, "shape") else np.asarray(value)
    if whole.shape[axis] != batch:
        message = f"{name} is of {whole.shape[axis]} batch entries, and q of {batch}"
        raise fail("E505", message, "inputs are given as for all entries, in every process")
    own = slice(entries.own * entries.size, (entries.own + 1) * entries.size)
    return whole[(slice(None),) * axis + (own,)]


def of_heads(program: Program, first: int, heads: int) -> Program:
    """What the program says of heads ``first`` and on, among ``heads``, of which each process counts its own from 0."""
    known: dict[Node, Node] = {Symbol("h"): apply("add", Symbol("h"), Const(first)), Symbol("heads"): Const(heads)}
    moved = map_program(program, lambda root: substitute(root, known))
    params = (replace(p, domain=tuple(heads if d == "head" else d for d in p.domain)) for p in program.params)
    return moved.replace(params=tuple(params))

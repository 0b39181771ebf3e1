"""Steps of decoding, of plain tensors: a call of ``op.decode`` is checked, bound to its inputs, and computed."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from maskc.backends import Compiled, Request, backend_row, choose
from maskc.backends.decoding import (
    Cohort,
    DecodeCall,
    check_caches,
    check_integers,
    check_kept_pages,
    check_lengths,
    kept_keys,
)
from maskc.ir.nodes import Const, Exists, Node, Size, postorder
from maskc.ir.program import Parameter, Program, Space
from maskc.ir.rewrite import map_program, substitute
from maskc.tensors import check_dense, check_hidden_input, scale_factor
from maskc.tiles.binding import bind, given_as, positions
from maskc.tiles.extents import check_extents
from maskc.tiles.values import check_values, declaration, fail, integers

if TYPE_CHECKING:
    from maskc.backends import Backend
    from maskc.diagnostics import MaskcError
    from maskc.ir.binding import Binding
    from maskc.prepared import Prepared

__all__ = ["by_cohort", "by_token", "call_of", "no_gradients", "on_entries", "split", "step", "without_spaces"]

Tensor = torch.Tensor
#: q, k, v, lengths, start and block table.
_Tensors = tuple[Tensor, Tensor, Tensor, Tensor, "Tensor | None", "Tensor | None"]


def step(
    op: Prepared,
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    lengths: Tensor | Sequence[int],
    block_table: Tensor | None,
    start: Tensor | Sequence[int] | None,
    given: Mapping[str, Any],
    sizes: Mapping[str, int],
    scale: float | None,
    return_lse: bool,
) -> Tensor | tuple[Tensor, Tensor]:
    """What ``op.decode`` gives, outside of graphs. Raises as it does."""
    chosen = _backend(op, q, k_cache, v_cache, block_table, return_lse)
    held = on_entries("lengths", lengths, q)
    first = None if start is None else on_entries("start", start, q)
    q, k_cache, v_cache = (x.resolve_neg() for x in (q, k_cache, v_cache))  # kernels read what is in memory
    tensors: _Tensors = (q, k_cache, v_cache, held, first, block_table)
    for name, x in (("lengths", held), ("start", first), ("block_table", block_table)):
        if x is not None:
            check_values(name, x)
    run = getattr(chosen, "run_decode", None)
    if run is None or op._check:  # these need to know
        tensors = (*tensors[:3], held.cpu(), None if first is None else first.cpu(), block_table)
    call = call_of(op, tensors, given, {**op.sizes, **sizes}, scale, return_lse)
    out, lse = by_cohort(call, chosen) if run is None else run(call)
    if op._check:
        _compare(call, out, lse)
    return (out, lse) if return_lse else out


def _backend(op: Prepared, q: Tensor, k: Tensor, v: Tensor, table: Tensor | None, return_lse: bool) -> Backend:
    """What computes the call, remembered for calls of this kind. Raises E510 to E512, E702 and E703."""
    every = [x for x in (q, k, v, table) if isinstance(x, Tensor)]
    grads = torch.is_grad_enabled() and any(x.requires_grad for x in every)
    kind: Hashable = None  # of nested tensors, which have no shape
    if not any(x.is_nested for x in every):
        kinds = [(x.shape, x.dtype, x.device, x.layout) for x in every]
        kind = ("decode", table is None, return_lse, grads, *kinds)
    known = op._chosen.get(kind)
    if known is not None:
        return known
    check_caches(q, k, v, table, op.heads)
    if return_lse:
        op._check_lse()
    _, chosen = choose(op.backend, op.program, _request(op, q, k, v, table, return_lse))
    op._remember(kind, chosen)
    return chosen


def on_entries(name: str, value: Tensor | Sequence[int], q: Tensor) -> Tensor:
    """``lengths`` or ``start`` as a tensor, checked. Raises E503 and E504 of what is no tensor, E510, E511 and E512."""
    tensor = value if isinstance(value, Tensor) else torch.from_numpy(integers(name, value))
    check_dense(name, tensor)
    if tensor.shape != q.shape[:1]:
        hint = f"the same for all of them: [n] * {q.shape[0]}" if tensor.ndim == 0 else None
        why = f"{name} must have one element a batch entry, ({q.shape[0]},), not {tuple(tensor.shape)}"
        raise fail("E510", why, hint)
    check_integers(name, tensor)
    if tensor.device.type != "cpu" and tensor.device != q.device:
        raise fail("E512", f"q is on {q.device}, but {name} is on {tensor.device}", f"move it: {name}.to(q.device)")
    return tensor


def _request(op: Prepared, q: Tensor, k: Tensor, v: Tensor, table: Tensor | None, return_lse: bool) -> Request:
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        raise no_gradients()
    k_len, kv_heads = (k.shape[2], k.shape[1]) if table is None else (table.shape[1] * k.shape[1], k.shape[2])
    return replace(op._request(q, k, v, {}, return_lse), k_len=k_len, kv_heads=kv_heads, layout="none")


def no_gradients() -> MaskcError:
    """The error for what decoding is asked to differentiate."""
    return fail("E702", "decoding computes no gradients", "call it under torch.no_grad(), or the op itself")


def call_of(
    op: Prepared,
    tensors: _Tensors,
    given: Mapping[str, Any],
    sizes: Mapping[str, int],
    scale: float | None,
    return_lse: bool = False,
) -> DecodeCall:
    """The call with its inputs checked. Raises E501 to E505, and E504 for lengths that the cache cannot hold."""
    q, k, v, lengths, start, table = tensors
    # Kernels read lengths one after another; a table of blocks by its strides, which those that are moved do not keep.
    lengths, start = lengths.contiguous(), None if start is None else start.contiguous()
    table = table if table is None or table.device == q.device else table.contiguous()
    on_host = lengths.device.type == "cpu" and (start is None or start.device.type == "cpu")
    found = by_token(op.program, given)
    longest = int(lengths.max()) if on_host and lengths.numel() else 0
    tokens = max(longest, q.shape[2]) if found is None else found[1]
    floats, rest = split(op, given, q, tokens)
    factor = scale_factor(scale, q.shape[-1])
    batched = op.call_inputs.batched(floats)
    call = DecodeCall(op.compiled, q, k, v, lengths, start, table, rest, floats, sizes, factor, return_lse, batched)
    if not on_host:
        _check_device_inputs(op, call, tokens)
        return call
    check_lengths(call)
    if found is not None and tokens < longest:
        shape = tuple(np.shape(given[found[0].name]))
        why = f"{declaration(found[0])}: found {shape}, {tokens} tokens, but the longest entry has {longest} keys"
        raise fail("E505", why, "give it for as many tokens as the cache holds, or as the longest entry has")
    return replace(call, binding=_binding(op, call, tokens))


def split(op: Prepared, given: Mapping[str, Any], q: Tensor, tokens: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The float inputs, and the others. Raises as ``CallInputs.split`` does, and E702."""
    floats, rest = op.call_inputs.split(given, q, tokens)
    if torch.is_grad_enabled() and any(x.requires_grad for x in floats.values()):
        raise no_gradients()
    return floats, rest


def _binding(op: Prepared, call: DecodeCall, tokens: int) -> Binding:
    """The inputs checked and converted. Where there are none, steps share one, of whatever batch: only the cases of an
    `any` would depend on the number of tokens."""
    batch, _, rows, _ = call.q.shape
    sizes = tuple(sorted(check_extents(op.program, call.sizes).items()))

    def make() -> Binding:
        plain = op.compiled.remember(("without spaces", sizes), None, lambda: without_spaces(op.program, dict(sizes)))
        known: dict[str, Any] = {"heads": op.heads, "layer": op.layer, "batch": batch, "needed": op.call_inputs.needed}
        known |= {"values": {**op.pattern.args, **call.inputs}, "fewer_keys": True}
        binding = bind(plain, rows, tokens, sizes={}, **known)
        return binding.replace(batched=binding.batched | call.batched)

    cases: bool = op.compiled.remember("has cases", None, lambda: _has_cases(op.program))
    if call.inputs or cases:
        return make()
    return op.compiled.remember(("decode binding", call.batched, sizes), None, make)


def without_spaces(program: Program, sizes: Mapping[str, int]) -> Program:
    """The program with the extents that are given put in; the others follow from each length. What is made of several
    extents would else be taken to overflow, since each of them may be as long as a sequence."""
    given: dict[Node, Node] = {Size(name): Const(extent) for name, extent in sizes.items()}
    plain = program.replace(q_space=Space(), k_space=Space())
    return map_program(plain, lambda root: substitute(root, given)) if given else plain


def _has_cases(program: Program) -> bool:
    return any(isinstance(n, Exists) for n in postorder(program.roots()))


def by_token(program: Program, given: Mapping[str, Any]) -> tuple[Parameter, int] | None:
    """The first input that is given for tokens or keys, and for how many; None if none is."""
    for p in program.params:
        if p.name in given and p.when == "call":
            shape = np.shape(given[p.name])
            for d, extent in zip(reversed(p.domain), reversed(shape), strict=False):
                if d in ("token", "k"):
                    return p, int(extent)
    return None


def _check_device_inputs(op: Prepared, call: DecodeCall, tokens: int) -> None:
    """Inputs that stay on a device: tensors there, of the declared type and shape. Their values nobody looks at."""
    dims: dict[str, int | None] = {"head": op.heads, "layer": op.layer, "batch": call.q.shape[0]}
    dims |= positions(op.program.cross, call.q.shape[2], tokens)
    for p in op.program.params:
        if p.name not in op.call_inputs.needed or p.when != "call":
            continue
        x = call.inputs.get(p.name)
        if x is None:
            raise fail(
                "E501", f"{op.pattern.name!r} needs the input {p.name!r}", f"give {given_as(p.name)} with the call"
            )
        if not isinstance(x, Tensor) or x.device != call.q.device:
            where = "lengths are on a device, and nothing is copied there behind your back"
            raise fail("E512", f"{declaration(p)}: expected a tensor on {call.q.device}", where)
        check_hidden_input(p, x, dims, op.compiled.args)


def by_cohort(call: DecodeCall, backend: Backend) -> tuple[Tensor, Tensor]:
    """What ``decode`` gives, by calls of a backend that has no decoding of its own: one a cohort, on copied keys."""
    q, compiled = call.q, call.compiled
    out = q.new_zeros((*q.shape[:3], call.v.shape[-1]))
    lse = q.new_full(q.shape[:3], -torch.inf, dtype=torch.float64 if q.dtype == torch.float64 else torch.float32)
    for cohort in call.cohorts():
        program, entries, binding = cohort.program, list(cohort.entries), cohort.binding
        if cohort.start:
            program = program.replace(mask=cohort.one()[0].mask)
        how = (compiled.heads, compiled.layer, compiled.args, compiled.tables)
        own = Compiled(program, *how, binding.sizes, budget=compiled.budget)
        rows = q[entries, :, q.shape[2] - binding.q_len :]
        keys = [_copied(cohort, call.k), _copied(cohort, call.v)]
        if not all(x.isfinite().all() for x in keys):
            # Not every backend keeps a NaN of a key that no query keeps from the results.
            unseen = torch.from_numpy(~kept_keys(cohort)).to(q.device)[:, None]
            keys = [x.masked_fill(unseen, 0.0) for x in keys]
        options: dict[str, Any] = {"floats": cohort.floats, "scale": call.scale, "return_lse": call.return_lse}
        part, part_lse = backend.run(own, rows, *keys, binding=binding, **options)
        out[entries, :, q.shape[2] - binding.q_len :] = part
        lse[entries, :, q.shape[2] - binding.q_len :] = 0.0 if part_lse is None else part_lse
    return out, lse


def _copied(cohort: Cohort, cache: Tensor) -> Tensor:
    """The keys of a cohort one after another, (entries, Hkv, length, D), with zeros for those that are gone."""
    call, entries, start = cohort.call, list(cohort.entries), cohort.start
    held = cohort.binding.k_len - start
    if call.block_table is None:
        keys = cache[entries, :, :held]
    else:
        pages = call.block_table[entries, : -(-held // call.block_size)].long()
        check_kept_pages(cohort)
        # Pages that hold no kept key may be anything.
        empty = cache.new_zeros((*pages.shape, *cache.shape[1:]))
        found = cache[pages.clamp(0, cache.shape[0] - 1)] if cache.shape[0] else empty
        keys = found.flatten(1, 2)[:, :held].transpose(1, 2)
    return torch.nn.functional.pad(keys, (0, 0, start, 0))


def _compare(call: DecodeCall, out: Tensor, lse: Tensor) -> None:
    """Raise RuntimeError where a result is not the reference's."""
    from maskc.checked import assert_close

    wanted, wanted_lse = by_cohort(call, backend_row("reference").load())
    pairs = [("output", out, wanted), ("log-sum-exp", lse, wanted_lse)]
    assert_close(call.program.name, call.q.dtype, pairs if call.return_lse else pairs[:1])

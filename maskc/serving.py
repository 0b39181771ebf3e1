"""Decoding as servers need it: a few queries for each batch entry, over caches of lengths of their own."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch

from maskc.arguments import mapping_of, shown
from maskc.autocast import autocast_dtype, without_autocast
from maskc.backends import Compiled, Request, backend_row, choose
from maskc.backends.decoding import Cohort, DecodeCall, check_caches, check_integers, check_kept_pages, check_lengths
from maskc.devices import holds_values, in_main_memory
from maskc.graphs import GRADIENTS, decode_in_graph, no_gradients
from maskc.ir.nodes import Const, Exists, Node, Size, postorder
from maskc.ir.program import Program, Space
from maskc.ir.rewrite import map_program, substitute
from maskc.sharded import refuse_sharded
from maskc.tensors import (
    check_dense,
    check_hidden_input,
    is_symbolic,
    is_transformed,
    refuse_traced,
    scale_factor,
    traced_scale,
)
from maskc.tiles.binding import bind, given_as, positions
from maskc.tiles.extents import check_extents
from maskc.tiles.values import check_values, declaration, fail, integers

if TYPE_CHECKING:
    from maskc.backends import Backend
    from maskc.ir.binding import Binding
    from maskc.op import Op

__all__ = ["by_cohort", "decode"]

Tensor = torch.Tensor


@overload
def decode(
    op: Op,
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    lengths: Tensor | Sequence[int],
    block_table: Tensor | None = None,
    *,
    start: Tensor | Sequence[int] | None = None,
    scale: float | None = None,
    return_lse: Literal[False] = False,
    sizes: Mapping[str, int] | None = None,
    inputs: Mapping[str, Any] | None = None,
    **more: Any,
) -> Tensor: ...


@overload
def decode(
    op: Op,
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    lengths: Tensor | Sequence[int],
    block_table: Tensor | None = None,
    *,
    start: Tensor | Sequence[int] | None = None,
    scale: float | None = None,
    return_lse: Literal[True],
    sizes: Mapping[str, int] | None = None,
    inputs: Mapping[str, Any] | None = None,
    **more: Any,
) -> tuple[Tensor, Tensor]: ...


def decode(
    op: Op,
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    lengths: Tensor | Sequence[int],
    block_table: Tensor | None = None,
    *,
    start: Tensor | Sequence[int] | None = None,
    scale: float | None = None,
    return_lse: bool = False,
    sizes: Mapping[str, int] | None = None,
    inputs: Mapping[str, Any] | None = None,
    **more: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of the last queries of sequences of different lengths over their cached keys, without gradients.

    For each batch entry ``b`` what ``op(q[b:b+1], k, v)`` gives, with the first ``lengths[b]`` keys and values of the
    entry and its own inputs. Memory and time follow the keys that are kept.

    Args:
        q: (B, Hq, Nq, D), any float dtype: the queries of each entry, which are its last positions. Of an entry with
            fewer than Nq keys the first queries are none: they get output 0 and log-sum-exp minus infinity.
        k_cache: (B, Hkv, Nmax, D), or with ``block_table`` pages (num_blocks, block_size, Hkv, D). Any strides.
        v_cache: the same with Dv.
        lengths: (B,), int32 or int64: keys of each entry, its new ones included; 0 is an entry that is not there.
            On the CPU it is checked, and masks are planned that need it; on the device of ``q`` it stays there, and
            nothing waits for it.
        block_table: (B, max_blocks), int32 or int64: the page of each ``block_size`` keys of an entry, in order. A
            page none of whose keys is kept may be anything, such as -1.
        start: (B,), like ``lengths``: position of the first key in the cache (of its first page). Earlier keys are
            gone: no query keeps them. By default 0.
        scale: factor of the dot products; by default D ** -0.5.
        return_lse: return the log-sum-exp too.
        sizes: extents of segments and axes, as in a call.
        inputs: inputs by name, for names that are also parameters of this method.
        more: inputs by name. Those over tokens or keys have the extent of the longest entry, or more; with a batch
            dimension in front they differ between entries.

    Returns:
        The output (B, Hq, Nq, Dv) in the dtype of ``q``; with ``return_lse`` also the log-sum-exp (B, Hq, Nq) in
        float32 (float64 if ``q`` is), as a call gives them.

    Under ``torch.autocast`` nothing is converted: caches are long.

    Raises MaskcError: what a call raises, E702 for tensors that ``torch.func`` transforms, and E504 for lengths beyond
    the cache and pages that there are not, where they are on the CPU. On a device, where nobody looks, such an entry's
    output is NaN.
    """
    if autocast_dtype(q) is not None:
        again: Callable[..., Tensor | tuple[Tensor, Tensor]] = decode
        options: dict[str, Any] = {"start": start, "scale": scale, "return_lse": return_lse, "sizes": sizes}
        with without_autocast(q):
            return again(op, q, k_cache, v_cache, lengths, block_table, inputs=inputs, **options, **more)
    given, sizes = op.given(inputs, more), mapping_of("sizes", sizes)
    refuse_sharded(q, k_cache, v_cache, lengths, block_table, start)
    if torch.compiler.is_compiling() or is_symbolic(q, k_cache, v_cache):
        options = {"sizes": sizes, "return_lse": return_lse}
        out, lse = _traced(op, (q, k_cache, v_cache), lengths, block_table, start, given, scale, options)
        return (out, lse) if return_lse else out
    _check_transforms((q, k_cache, v_cache, lengths, block_table, start, *given.values()))
    with in_main_memory():
        return _decode(op, q, k_cache, v_cache, lengths, block_table, start, given, sizes, scale, return_lse)


def _decode(
    op: Op,
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
    """A call of plain tensors: see ``decode``."""
    hidden = isinstance(q, Tensor) and not holds_values(q)
    if hidden:
        check_caches(q, k_cache, v_cache, block_table, op.heads)
        _check_lse(op, return_lse)
    else:
        chosen = _backend(op, q, k_cache, v_cache, block_table, return_lse)
    held = _integers("lengths", lengths, q)
    first = None if start is None else _integers("start", start, q)
    if hidden:
        found = _without_values(op, (q, k_cache, v_cache, held, first, block_table), given, sizes, scale)
        return found if return_lse else found[0]
    q, k_cache, v_cache = (x.resolve_neg() for x in (q, k_cache, v_cache))  # kernels read what is in memory
    tensors: _Tensors = (q, k_cache, v_cache, held, first, block_table)
    for name, x in (("lengths", held), ("start", first), ("block_table", block_table)):
        if x is not None:
            check_values(name, x)
    run = getattr(chosen, "run_decode", None)
    if run is None or op._check:  # these need to know
        tensors = (*tensors[:3], held.cpu(), None if first is None else first.cpu(), block_table)
    call = _call(op, tensors, given, {**op.sizes, **sizes}, scale, return_lse)
    out, lse = by_cohort(call, chosen) if run is None else run(call)
    if op._check:
        _compare(call, out, lse)
    return (out, lse) if return_lse else out


def _traced(
    op: Op,
    tensors: tuple[Tensor, Tensor, Tensor],
    lengths: Tensor | Sequence[int],
    table: Tensor | None,
    start: Tensor | Sequence[int] | None,
    given: Mapping[str, Any],
    scale: float | None,
    options: Mapping[str, Any],
) -> tuple[Tensor, Tensor]:
    """A call while torch.compile traces it: one operator, which does the rest when it runs."""
    held, first = _traced_integers("lengths", lengths), None if start is None else _traced_integers("start", start)
    if table is not None and not isinstance(table, Tensor):
        refuse_traced("E511", f"block_table must be a torch tensor, not {shown(table)}")
    factor, wishes = traced_scale(scale)
    inputs, sizes = op.call_inputs.traced(tensors[0], given), op.call_inputs.traced_sizes(options["sizes"])
    if torch.is_grad_enabled() and any(x.requires_grad for x in (*tensors, *inputs.values())):
        wishes.append(GRADIENTS)
    named: dict[str, Any] = {"wishes": wishes, "recipe": op.stored_recipe}
    return decode_in_graph(
        op.handle, *tensors, held, table, first, inputs, sizes, factor, options["return_lse"], **named
    )


def _traced_integers(name: str, value: Any) -> Tensor:
    """``lengths`` or ``start`` as the operator takes it, whose elements it checks when it runs. Raises E503."""
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, (list, tuple, range, np.ndarray)):
        refuse_traced("E503", f"{name}: expected integers, found {shown(value)}")
    return torch.tensor(value) if len(value) else torch.zeros(0, dtype=torch.int64)


def _without_values(
    op: Op, tensors: _Tensors, given: Mapping[str, Any], sizes: Mapping[str, int], scale: float | None
) -> tuple[Tensor, Tensor]:
    """What a call of tensors without values gives: shapes. Raises as a call whose lengths nobody looks at."""
    q, k, v, table = *tensors[:3], tensors[5]
    held, first = _hidden(tensors[3], q), None if tensors[4] is None else _hidden(tensors[4], q)
    extent = _extent(op.program, given)
    tokens = q.shape[2] if extent is None else extent
    floats, rest = _split(op, given, q, tokens)
    plain = _without_spaces(op.program, check_extents(op.program, {**op.sizes, **sizes}))
    hidden = op.call_inputs.check_without_values(q, tokens, {}, rest, program=plain, fewer_keys=True)
    factor = scale_factor(scale, q.shape[-1])
    return decode_in_graph(op.handle, q, k, v, held, table, first, {**hidden, **floats}, sizes, factor, True)


def _hidden(x: Tensor, q: Tensor) -> Tensor:
    """``x``, or what has its shape and no values, as ``q``."""
    return q.new_empty(x.shape, dtype=x.dtype) if holds_values(x) else x


def _backend(op: Op, q: Tensor, k: Tensor, v: Tensor, table: Tensor | None, return_lse: bool) -> Backend:
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
    _check_lse(op, return_lse)
    _, chosen = choose(op.backend, op.program, _request(op, q, k, v, table, return_lse))
    op._remember(kind, chosen)
    return chosen


def _check_transforms(values: Sequence[Any]) -> None:
    if is_transformed(values):
        hint = "call it outside of vmap, with what is mapped over as batch entries; for gradients call the op itself"
        raise fail("E702", "decoding takes no tensors that torch.func transforms", hint)


def _check_lse(op: Op, return_lse: bool) -> None:
    if return_lse and op.program.normalizer.kind != "softmax":
        why = f"{op.pattern.name!r} normalises by {op.program.normalizer.kind}, which has no log-sum-exp"
        raise fail("E702", why, "drop return_lse")


def _integers(name: str, value: Tensor | Sequence[int], q: Tensor) -> Tensor:
    """``lengths`` or ``start`` as a tensor, checked. Raises E503 and E504 of what is no tensor, E510, E511 and E512."""
    tensor = value if isinstance(value, Tensor) else torch.from_numpy(integers(name, value))
    check_dense(name, tensor)
    if tensor.shape != q.shape[:1]:
        raise fail("E510", f"{name} must have one element a batch entry, ({q.shape[0]},), not {tuple(tensor.shape)}")
    check_integers(name, tensor)
    if tensor.device.type != "cpu" and tensor.device != q.device:
        raise fail("E512", f"q is on {q.device}, but {name} is on {tensor.device}", f"move it: {name}.to(q.device)")
    return tensor


def _request(op: Op, q: Tensor, k: Tensor, v: Tensor, table: Tensor | None, return_lse: bool) -> Request:
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        raise no_gradients()
    return Request(
        device=q.device.type,
        dtype=str(q.dtype).removeprefix("torch."),
        head_dim=q.shape[3],
        value_dim=v.shape[3],
        q_len=q.shape[2],
        k_len=k.shape[2] if table is None else table.shape[1] * k.shape[1],
        batch=q.shape[0],
        heads=q.shape[1],
        kv_heads=k.shape[1] if table is None else k.shape[2],
        needs_grad=False,
        return_lse=return_lse,
        args=tuple(op.compiled.args.items()),
    )


_Tensors = tuple[Tensor, Tensor, Tensor, Tensor, "Tensor | None", "Tensor | None"]


def _call(
    op: Op,
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
    given_extent = _extent(op.program, given)
    longest = int(lengths.max()) if on_host and lengths.numel() else 0
    tokens = max(longest, q.shape[2]) if given_extent is None else given_extent
    floats, rest = _split(op, given, q, tokens)
    factor = scale_factor(scale, q.shape[-1])
    batched = op.call_inputs.batched(floats)
    call = DecodeCall(op.compiled, q, k, v, lengths, start, table, rest, floats, sizes, factor, return_lse, batched)
    if not on_host:
        _check_device_inputs(op, call, tokens)
        return call
    check_lengths(call)
    if tokens < longest:
        raise fail("E505", f"the longest entry has {longest} keys, but inputs are given for {tokens} tokens")
    return replace(call, binding=_binding(op, call, tokens))


def _split(op: Op, given: Mapping[str, Any], q: Tensor, tokens: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The float inputs, and the others. Raises as ``CallInputs.split`` does, and E702."""
    floats, rest = op.call_inputs.split(given, q, tokens)
    if torch.is_grad_enabled() and any(x.requires_grad for x in floats.values()):
        raise no_gradients()
    return floats, rest


def _binding(op: Op, call: DecodeCall, tokens: int) -> Binding:
    """The inputs checked and converted. Where there are none, steps share one: only the cases of an `any` would
    depend on the number of tokens."""
    batch, _, rows, _ = call.q.shape
    sizes = tuple(sorted(check_extents(op.program, call.sizes).items()))

    def make() -> Binding:
        plain = op.compiled.remember(("without spaces", sizes), None, lambda: _without_spaces(op.program, dict(sizes)))
        known: dict[str, Any] = {"heads": op.heads, "layer": op.layer, "batch": batch, "needed": op.call_inputs.needed}
        known |= {"values": {**op.pattern.args, **call.inputs}, "fewer_keys": True}
        binding = bind(plain, rows, tokens, sizes={}, **known)
        return binding.replace(batched=binding.batched | call.batched)

    cases: bool = op.compiled.remember("has cases", None, lambda: _has_cases(op.program))
    if call.inputs or cases:
        return make()
    return op.compiled.remember(("decode binding", rows, batch, call.batched, sizes), None, make)


def _without_spaces(program: Program, sizes: Mapping[str, int]) -> Program:
    """The program with the extents that are given put in; the others follow from each length. What is made of several
    extents would else be taken to overflow, since each of them may be as long as a sequence."""
    given: dict[Node, Node] = {Size(name): Const(extent) for name, extent in sizes.items()}
    plain = program.replace(q_space=Space(), k_space=Space())
    return map_program(plain, lambda root: substitute(root, given)) if given else plain


def _has_cases(program: Program) -> bool:
    return any(isinstance(n, Exists) for n in postorder(program.roots()))


def _extent(program: Program, given: Mapping[str, Any]) -> int | None:
    """The number of tokens that inputs are given for; None if none is."""
    for p in program.params:
        if p.name in given and p.when == "call":
            shape = np.shape(given[p.name])
            for d, extent in zip(reversed(p.domain), reversed(shape), strict=False):
                if d in ("token", "k"):
                    return int(extent)
    return None


def _check_device_inputs(op: Op, call: DecodeCall, tokens: int) -> None:
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
        keys = (_copied(cohort, call.k), _copied(cohort, call.v))
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

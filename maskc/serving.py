"""Decoding as servers need it: a few queries for each batch entry, over caches of lengths of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch

from maskc.arguments import mapping_of, shown
from maskc.autocast import autocast_dtype, without_autocast
from maskc.backends.decoding import check_caches
from maskc.devices import holds_values, in_main_memory
from maskc.graphs import GRADIENTS, decode_in_graph
from maskc.sharded import refuse_sharded
from maskc.steps import by_token, on_entries, split, step, without_spaces
from maskc.tensors import is_symbolic, is_transformed, refuse_traced, scale_factor, traced_scale
from maskc.tiles.extents import check_extents
from maskc.tiles.values import fail

if TYPE_CHECKING:
    from maskc.prepared import Prepared

__all__ = ["decode"]

Tensor = torch.Tensor


@overload
def decode(
    op: Prepared,
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
    op: Prepared,
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
    op: Prepared,
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
        if isinstance(q, Tensor) and not holds_values(q):
            caches = q, k_cache, v_cache, block_table
            out, lse = _without_values(op, caches, lengths, start, given, sizes, scale, return_lse)
            return (out, lse) if return_lse else out
        return step(op, q, k_cache, v_cache, lengths, block_table, start, given, sizes, scale, return_lse)


def _traced(
    op: Prepared,
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
    op: Prepared,
    caches: tuple[Tensor, Tensor, Tensor, Tensor | None],
    lengths: Tensor | Sequence[int],
    start: Tensor | Sequence[int] | None,
    given: Mapping[str, Any],
    sizes: Mapping[str, int],
    scale: float | None,
    return_lse: bool,
) -> tuple[Tensor, Tensor]:
    """What a call of tensors without values gives: shapes. Raises as a call whose lengths nobody looks at."""
    q, k, v, table = caches
    check_caches(q, k, v, table, op.heads)
    if return_lse:
        op._check_lse()
    held = _hidden(on_entries("lengths", lengths, q), q)
    first = None if start is None else _hidden(on_entries("start", start, q), q)
    found = by_token(op.program, given)
    tokens = q.shape[2] if found is None else found[1]
    floats, rest = split(op, given, q, tokens)
    plain = without_spaces(op.program, check_extents(op.program, {**op.sizes, **sizes}))
    hidden = op.call_inputs.check_without_values(q, tokens, {}, rest, program=plain, fewer_keys=True)
    factor = scale_factor(scale, q.shape[-1])
    return decode_in_graph(op.handle, q, k, v, held, table, first, {**hidden, **floats}, sizes, factor, True)


def _hidden(x: Tensor, q: Tensor) -> Tensor:
    """``x``, or what has its shape and no values, as ``q``."""
    return q.new_empty(x.shape, dtype=x.dtype) if holds_values(x) else x


def _check_transforms(values: Sequence[Any]) -> None:
    if is_transformed(values):
        hint = "call it outside of vmap, with what is mapped over as batch entries; for gradients call the op itself"
        raise fail("E702", "decoding takes no tensors that torch.func transforms", hint)

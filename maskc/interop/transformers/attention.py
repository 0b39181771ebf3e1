"""The two functions that Transformers calls: one for masks, once a forward pass, one for attention, in every layer."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from maskc.forks import new_lock
from maskc.interop.compose import (
    Fit,
    at_layer,
    caps,
    fit,
    is_relative,
    looks_back,
    numbers_heads,
    reads_layer,
    reads_sizes,
)
from maskc.interop.stored import Stored
from maskc.interop.transformers.demand import Demand, read
from maskc.interop.transformers.dropped import check_dropped
from maskc.interop.transformers.field import pattern_of
from maskc.interop.transformers.handle import MaskHandle, Request
from maskc.interop.transformers.inputs import (
    bounds_of,
    check_given,
    documents_of,
    find_documents,
    floats_of,
    has_values,
    inputs_of,
    real_keys,
)
from maskc.interop.transformers.parts import FIELD, say_so
from maskc.interop.transformers.positions import POSITIONS, tell_positions
from maskc.ir.nodes import TRUE
from maskc.ir.program import Program, Space
from maskc.op import Op
from maskc.pattern import Pattern
from maskc.tiles.values import fail

__all__ = ["attend", "mask"]

#: Keyword arguments of attention functions that change nothing of the result.
_HARMLESS = frozenset(
    {
        "cache_position", "is_causal", "layer_idx", "logits_to_keep", "max_length_k", "max_length_q", "maskc_inputs",
        "num_items_in_batch", "output_hidden_states", "output_router_logits", "position_ids", "return_dict",
        "sliding_window", "use_cache", POSITIONS,
    }
)  # fmt: skip
#: Those that do, with what to do about them.
_REFUSED = {
    "output_attentions": 'there are no attention weights to give; use attn_implementation="eager" to look at them',
    "head_mask": "leave the heads out of the model, or multiply the output by a gate: `output o * gate[h]`",
    "layer_head_mask": "leave the heads out of the model, or multiply the output by a gate: `output o * gate[h]`",
}
_DROPOUT = ("attention_dropout", "attention_probs_dropout_prob", "attn_pdrop", "dropout_rate")
_PACKING = frozenset({"cu_seq_lens_q", "cu_seq_lens_k", "cu_seqlens"})


def mask(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    kv_offset: Any = 0,
    mask_function: Any,
    attention_mask: torch.Tensor | MaskHandle | None = None,
    config: Any = None,
    device: Any = "cpu",
    **_: Any,
) -> MaskHandle:
    """A handle of the mask that is asked for. Raises E702 for what it cannot carry, and as ``from_spec`` does."""
    if isinstance(attention_mask, MaskHandle):
        return attention_mask  # made ahead, as generating with a static cache does
    if attention_mask is not None and attention_mask.ndim != 2:
        raise _made_already(attention_mask)
    demand = read(mask_function)
    # Of a static cache, the keys that are written; those that a mask says nothing of are padding, as in Transformers.
    count = int(kv_offset + kv_length if demand.bidirectional else q_offset + q_length)
    real = None if attention_mask is None or _all_real(attention_mask, count) else attention_mask.bool()
    tell_positions(config)
    stored = pattern_of(config, bidirectional=not demand.causal)
    if stored is not None:
        say_so(config)
    masked = attention_mask is not None
    request = Request(demand, stored, batch_size, q_length, kv_length, int(q_offset), int(kv_offset), real, masked)
    return MaskHandle(request, device)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one layer: (B, Hq, Nq, D) queries over (B, Hkv, Nk, D) keys; gives (B, Nq, Hq, Dv).

    Raises E702 for what cannot be honoured, E508 for a pattern of too many alternatives, and as ``maskc.compile`` and
    the op do.
    """
    _check(module, dropout, more)
    request = _request(module, query, key, attention_mask)
    find_documents(request, more.get("position_ids", more.get(POSITIONS)))
    _check_packing(request, more)
    how = _How(
        cross=_is_cross(module, request),
        layer=getattr(module, "layer_idx", None),
        heads=query.shape[1],
        length=_key_count(request, key),
        softcap=None if softcap is None else float(softcap),
        sink=s_aux is not None,
        bias=position_bias is not None,
    )
    _check_heads(module, request, how)
    op, given = _op_of(request, how, type(module).__name__, more.get("maskc_inputs"))
    length = how.length
    bias = None if position_bias is None else position_bias[..., :length]
    bias = bias[0] if bias is not None and bias.shape[0] == 1 else bias
    inputs = {**floats_of(op.program, s_aux, bias), **given}
    out = op(query, key[:, :, :length], value[:, :, :length], scale=scaling, inputs=inputs)
    return out.transpose(1, 2), None


def _all_real(attention_mask: torch.Tensor, count: int) -> bool:
    return attention_mask.shape[1] >= count and has_values(attention_mask) and bool(attention_mask.all())


@dataclass(frozen=True)
class _How:
    """What a layer asks of its op, besides the tensors."""

    cross: bool
    layer: int | None
    heads: int
    length: int
    softcap: float | None
    sink: bool
    bias: bool


def _op_of(request: Request, how: _How, module: str, user: Mapping[str, Any] | None) -> tuple[Op, dict[str, Any]]:
    """The op of a layer, and its inputs but for the floats; layers that do the same share them."""
    stored = None if how.cross else request.stored
    program = request.remember(("program", how.cross), lambda: _program(request, stored))
    if not request.remember(("layered", how.cross), lambda: reads_layer(program)):
        how = replace(how, layer=None)
    elif how.layer is None:
        hint = "write one pattern for all layers, without `layer`"
        raise fail("E702", f"{module} does not say which layer it is", hint)

    def make() -> tuple[Op, dict[str, Any]]:
        fitted = fit(program, _fit(program, request, how, own=stored is not None))
        op = _op(fitted if how.layer is None else at_layer(fitted, how.layer), stored, how)
        return op, request.remember(("inputs", op, how.length), lambda: _inputs(op, request, how, user))

    found: tuple[Op, dict[str, Any]] = request.remember(how, make)
    return found


def _inputs(op: Op, request: Request, how: _How, user: Mapping[str, Any] | None) -> dict[str, Any]:
    if request.stored is not None and not how.cross and request.k_offset:
        check_dropped(op, request, how.layer or 0, user)
    found = inputs_of(op.program, request, request.k_offset, how.length, user)
    check_given(op.program, found, sink=how.sink, bias=how.bias)
    return found


def _check_heads(module: Any, request: Request, how: _How) -> None:
    """Raises E702 where a pattern numbers the heads and the layer has a share of the model's, nobody says which."""
    whole = getattr(getattr(module, "config", None), "num_attention_heads", None)
    if request.stored is None or how.cross or not isinstance(whole, int) or not 0 < how.heads < whole:
        return
    program = request.stored.pattern.program
    if whole % how.heads == 0 and numbers_heads(program):
        message = f"{type(module).__name__} attends with {how.heads} of the model's {whole} heads, as where a model is"
        hint = "leave heads whole (no tp_plan), or write a pattern in which they are alike"
        raise fail("E702", f"{message} split over processes, and {program.name!r} tells heads apart", hint)


def _collects_weights() -> bool:
    """Whether Transformers collects weights of attention, which some models (GPT-2, OPT) do not tell their layers."""
    capturing = sys.modules.get("transformers.utils.output_capturing")
    collector = getattr(capturing, "_active_collector", None)
    collected = None if collector is None else collector.get()
    return any("attentions" in name for name in collected or ())


def _check(module: torch.nn.Module, dropout: float, more: Mapping[str, Any]) -> None:
    """Refuse what cannot be honoured."""
    if dropout:
        name = _dropout_field(getattr(module, "config", None), dropout)
        hint = f"make the model with {name}=0.0 in its config: from_pretrained(path, {name}=0.0)"
        raise fail("E702", f"{type(module).__name__} drops attention weights out ({dropout}), which is not done", hint)
    given = {**more, "output_attentions": True} if _collects_weights() else more
    for name, value in given.items():
        if value is None or value is False or name in _HARMLESS or name in _PACKING:
            continue
        hint = _REFUSED.get(name, 'use attn_implementation="eager" if the model depends on it')
        raise fail("E702", f"{type(module).__name__} gives its attention the argument {name!r}", hint)


def _dropout_field(config: Any, dropout: float) -> str:
    """What a config calls the dropout of attention weights: the first of the names in use that has this value."""
    return next((name for name in _DROPOUT if getattr(config, name, None) == dropout), _DROPOUT[0])


def _check_packing(request: Request, more: Mapping[str, Any]) -> None:
    if any(more.get(n) is not None for n in _PACKING) and documents_of(request) is None:
        hint = "give position_ids that start again with every document, and no attention_mask"
        raise fail("E702", "documents are packed by cu_seq_lens alone", hint)


def _request(module: Any, query: torch.Tensor, key: torch.Tensor, given: Any) -> Request:
    if isinstance(given, MaskHandle):
        return given.request
    if given is not None:
        raise _made_already(given)
    # No mask was asked for: eager attention would see every key.
    causal = getattr(module, "is_causal", False) and query.shape[2] > 1
    if causal:
        raise fail(
            "E702",
            f"{type(module).__name__} is causal, but its model asked for no mask",
            'call the model, not the attention module; or use attn_implementation="sdpa"',
        )
    space = Space()
    demand = Demand(Program("model", (), space, space, True, TRUE))
    stored = pattern_of(getattr(module, "config", None), bidirectional=True)
    return Request(demand, stored, query.shape[0], query.shape[2], key.shape[2], 0, 0, None)


def _made_already(given: Any) -> Exception:
    return fail(
        "E702",
        f"an attention mask that is made already: {type(given).__name__} {tuple(getattr(given, 'shape', ()))}",
        f"give the model a mask of shape (batch, keys) for padding, and write the rest as a pattern: config.{FIELD}; "
        'where it makes such a mask itself, use attn_implementation="eager"',
    )


def _is_cross(module: Any, request: Request) -> bool:
    """Whether the keys are another sequence's: those keep the mask that the model gives them."""
    if not request.demand.bidirectional:
        return False
    decodes = getattr(getattr(module, "config", None), "is_decoder", False) or getattr(module, "is_decoder", False)
    name = type(module).__name__
    if decodes or getattr(module, "is_cross_attention", False) or "Cross" in name or "Pool" in name:
        return True
    if request.q_len == request.k_len:
        return False
    if request.stored is not None:  # keys of the same sequence, but fewer (SegFormer), or another's
        message = f"{name} has {request.q_len} queries and {request.k_len} keys, and does not say of which sequences"
        raise fail("E702", message, "leave the pattern out for this model: it is for attention among all tokens")
    return True


def _key_count(request: Request, key: torch.Tensor) -> int:
    """How many of the keys there are: a static cache gives more, which nothing has been written to."""
    if key.shape[2] > request.k_len:  # as where a model adds keys that stand for many
        message = f"{key.shape[2]} keys are given, but a mask was asked for {request.k_len}"
        raise fail("E702", message, 'use attn_implementation="eager": the mask says nothing of the other keys')
    if request.demand.bidirectional:
        return int(key.shape[2])
    count = request.q_offset + request.q_len - request.k_offset
    if count > key.shape[2]:
        raise fail("E702", f"{count} keys were announced, but the cache gives {key.shape[2]}", "use another cache")
    return count


def _program(request: Request, stored: Stored | None) -> Program:
    if stored is None:
        return request.demand.program
    program = stored.pattern.program
    if program.cross:
        hint = "leave out `->`: the pattern of a config is for self-attention"
        raise fail("E702", f"{program.name!r} is a pattern for cross-attention", hint)
    declared = {p.name for p in program.params}
    if request.demand.block is not None and "block" not in declared:
        hint = "declare `block: int[token]`, which is -1 for text, and use it: `same(block) & block[q] >= 0`"
        raise fail("E702", f"the model marks images, which {program.name!r} knows nothing of", hint)
    if request.k_offset and (reads_sizes(program) or looks_back(program)):
        why = "depends on the number of keys" if reads_sizes(program) else "looks inputs up at other tokens"
        hint = "use a cache that keeps all keys: past_key_values=DynamicCache()"
        raise fail("E702", f"{program.name!r} {why}, but the cache has dropped some", hint)
    return program


def _fit(program: Program, request: Request, how: _How, *, own: bool) -> Fit:
    # Where Transformers itself has found the documents, the mask of the model's own code says so already.
    packed = documents_of(request) is not None and (own or request.demand.doc is None)
    padded = real_keys(request, request.k_offset, how.length) is not None
    bounded = padded and bounds_of(request, request.k_offset, how.length) is not None
    moved = own and not packed and not is_relative(program) and (request.real is not None or request.k_offset > 0)
    if how.sink and program.normalizer.kind != "softmax":
        hint = "leave out `normalize`, or take a model without sinks"
        raise fail("E702", f"the model has learned sinks, but {program.name!r} uses no softmax", hint)
    return Fit(
        origin=moved,
        packed=packed,
        bounded=bounded,
        scattered=padded and not bounded,
        softcap=None if how.softcap is None or caps(program) else how.softcap,
        sink=how.sink and program.normalizer.sink is None,
        bias=how.bias,
    )


_OPS = 512
_ops: OrderedDict[tuple[Any, ...], tuple[Stored | None, Op]] = OrderedDict()
_lock = new_lock()  # Programs are compared by Python, which lets other threads in: an OrderedDict breaks then.


def _op(program: Program, stored: Stored | None, how: _How) -> Op:
    """The op of a program that does not speak of layers; tables by layer are still compared with how many there are."""
    layer = how.layer if how.layer and any("layer" in p.domain for p in program.params) else 0
    key = (program, id(stored), how.heads, layer)
    with _lock:
        found = _ops.pop(key, None)
        # What the config held is part of what is kept, so that its identity is not used again.
        if found is None or found[0] is not stored:
            args, sizes = ({}, {}) if stored is None else (stored.pattern.args, stored.sizes)
            op = Op(Pattern(program, args), heads=how.heads, layer=layer, sizes=sizes)
            found = (stored, op)
        _ops[key] = found
        while len(_ops) > _OPS:
            _ops.popitem(last=False)
    return found[1]

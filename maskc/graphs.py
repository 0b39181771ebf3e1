"""``op.decode`` as a custom operator of torch, so that compilers can see through it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from maskc.autocast import without_autocast
from maskc.backends.finding import find_source
from maskc.backends.handles import name_call
from maskc.backends.library import ReverseMode
from maskc.devices import in_main_memory
from maskc.steps import no_gradients, step
from maskc.tensors import LEARNED_SCALE, learned_scale

__all__ = ["GRADIENTS", "decode_in_graph", "decode_operator"]

Tensor = torch.Tensor

#: A tensor requires a gradient: what was seen of a call when it was traced, as ``LEARNED_SCALE``.
GRADIENTS = "gradients"


def decode_in_graph(
    handle: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor,
    table: Tensor | None,
    start: Tensor | None,
    inputs: Mapping[str, Tensor],
    sizes: Mapping[str, int],
    scale: float | None,
    return_lse: bool,
    wishes: Iterable[str] = (),
    recipe: str = "",
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of a call of the op called ``handle``; torch.compile can trace it."""
    caches = (q, k, v, lengths, table, start, list(inputs.values()))
    what = name_call(handle, inputs, sizes, wishes, recipe)
    found: tuple[Tensor, Tensor] = decode_operator(*caches, what, [*sizes.values()] or None, scale, return_lse)
    return found


def _decode(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor,
    table: Tensor | None,
    start: Tensor | None,
    inputs: Sequence[Tensor],
    what: str,
    sizes: Sequence[int] | None,
    scale: float | None,
    return_lse: bool,
) -> tuple[Tensor, Tensor]:
    named = find_source(what)
    if LEARNED_SCALE in named.wishes:
        raise learned_scale()
    if GRADIENTS in named.wishes:
        raise no_gradients()
    given, extents = dict(zip(named.inputs, inputs, strict=True)), dict(zip(named.sizes, sizes or (), strict=True))
    with without_autocast(q), in_main_memory():
        every = named.source.given(given, {})
        found = step(named.source, q, k, v, lengths, table, start, every, extents, scale, return_lse)
    out, lse = found if isinstance(found, tuple) else (found, _no_lse(q))
    return out.transpose(1, 2).contiguous().transpose(1, 2), lse.contiguous()


def _no_lse(q: Tensor) -> Tensor:
    return q.new_zeros(q.shape[:3], dtype=torch.float64 if q.dtype == torch.float64 else torch.float32)


def _decode_fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor,
    table: Tensor | None,
    start: Tensor | None,
    inputs: Sequence[Tensor],
    what: str,
    sizes: Sequence[int] | None,
    scale: float | None,
    return_lse: bool,
) -> tuple[Tensor, Tensor]:
    batch, heads, rows, _ = q.shape
    return q.new_empty((batch, rows, heads, v.shape[3])).transpose(1, 2), torch.empty_like(_no_lse(q))


def _refused(ctx: Any, *_: Any) -> Any:
    raise no_gradients()


def _defined() -> tuple[torch.library.Library, Any]:
    """The operator, and the library that it lives in."""
    library = ReverseMode("maskc", "FRAGMENT")  # type: ignore[no-untyped-call]
    tensors = "Tensor q, Tensor k, Tensor v, Tensor lengths, Tensor? table, Tensor? start, Tensor[] inputs"
    define: Any = library.define
    define(f"decode({tensors}, str what, SymInt[]? sizes, float? scale, bool return_lse) -> (Tensor, Tensor)")
    library.impl("decode", _decode, "CompositeExplicitAutograd")
    torch.library.register_fake("maskc::decode", _decode_fake, lib=library)
    torch.library.register_autograd("maskc::decode", _refused, lib=library)
    return library, torch.ops.maskc.decode.default


_LIBRARY, decode_operator = _defined()

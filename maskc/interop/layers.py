"""Models whose layers are of two types: those with a window, and those that see everything before."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from maskc.interop import texts as t
from maskc.interop.fields import MAX_LAYERS, Fields, malformed
from maskc.interop.texts import by_layer, pattern_text

__all__ = ["CHUNKED", "FULL", "SLIDING", "alternating", "every", "layered", "types_of", "write_layers"]

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"


def types_of(c: Fields, local: str, is_local: Callable[[int], bool]) -> list[str]:
    said = c.layer_types((FULL, local))
    return said or [local if is_local(i) else FULL for i in range(c.layers())]


def layered(name: str, title: str, is_local: Callable[[Fields], Callable[[int], bool]]) -> Callable[[Fields], str]:
    """Layers of two types: those with a window, and those that see everything before."""

    def write(c: Fields) -> str:
        return write_layers(name, title, c, types_of(c, SLIDING, is_local(c)))

    return write


def write_layers(name: str, title: str, c: Fields, types: Sequence[str], **masks: str) -> str:
    params, statements = [], []
    cap = c.number("attn_logit_softcapping")
    if SLIDING in types:
        window = c.optional("sliding_window", 1)
        if window is None:
            raise malformed("layers with a sliding window, but 'sliding_window' is not given")
        params.append(t.window(window))
    if cap is not None:
        params.append(t.Parameter(f"cap: float = {cap!r}", "the scores' bound."))
        statements.append("score cap * tanh(s / cap)")
    attend = by_layer(types, {FULL: "causal", SLIDING: "sliding_window(window)", **masks})
    kinds = {FULL: "everything before", SLIDING: "a sliding window"}
    said = [kinds[k] for k in (SLIDING, FULL) if k in types]
    doc = f"{title}: {' and '.join(said)}{', by layer' if len(said) > 1 else ' in every layer'}."
    return pattern_text(name, doc, attend, params, statements)


def every(period: str) -> Callable[[Fields], Callable[[int], bool]]:
    """Every ``period``-th layer is global."""

    def is_local(c: Fields) -> Callable[[int], bool]:
        n = c.integer(period, 1, MAX_LAYERS)
        return lambda i: (i + 1) % n != 0

    return is_local


def alternating(c: Fields) -> Callable[[int], bool]:
    return lambda i: i % 2 == 0

"""What the configurations of the Gemma family mean: windows, both directions, and pictures."""

from __future__ import annotations

from typing import Any

from maskc.interop import texts as t
from maskc.interop.fields import Fields
from maskc.interop.layers import FULL, SLIDING, alternating, every, types_of, write_layers
from maskc.interop.texts import by_layer, pattern_text

__all__ = ["GEMMA2", "GEMMA3", "GEMMA4", "gemma3", "gemma3_text", "gemma4", "gemma4_text", "paligemma"]

GEMMA2: dict[str, Any] = {"num_hidden_layers": 26, "sliding_window": 4096, "attn_logit_softcapping": 50.0}
GEMMA3: dict[str, Any] = {"num_hidden_layers": 26, "sliding_window": 4096, "sliding_window_pattern": 6}
GEMMA4: dict[str, Any] = {"num_hidden_layers": 30, "sliding_window": 512}


def gemma3_text(c: Fields) -> str:
    types = types_of(c, SLIDING, every("sliding_window_pattern")(c))
    if not c.flag("use_bidirectional_attention"):
        return write_layers("gemma3", "Gemma 3", c, types)
    return _both_ways("gemma3", "Gemma 3", c, types, "window(window - 1, window - 1)")


def _both_ways(name: str, title: str, c: Fields, types: list[str], local: str) -> str:
    # Transformers halves the window of such a model when it reads the config, and writes 0 for a token by itself.
    window = c.integer("sliding_window") // 2 + 1
    doc = f"{title} as an encoder: in both directions, a window and everything by layer."
    attend = by_layer(types, {FULL: "all", SLIDING: local})
    params = [t.Parameter(f"window: int(1..) = {window}", "half the width of the window, as its layers count it.")]
    cap = c.number("attn_logit_softcapping")
    statements = [] if cap is None else [f"score {cap!r} * tanh(s / {cap!r})"]
    return pattern_text(name, doc, attend, params if SLIDING in types else [], statements)


def gemma3(c: Fields) -> str:
    inner = c.within("text_config", GEMMA3)
    types = types_of(inner, SLIDING, every("sliding_window_pattern")(inner))
    lets = ["let visible = causal | same(image) & image[q] >= 0"]
    masks = {FULL: "visible", SLIDING: "visible & q - k < window"}
    return _pictures("gemma3_vision", "Gemma 3", inner, types, masks, lets)


def _gemma4_types(c: Fields) -> list[str]:
    types = types_of(c, SLIDING, lambda i: (i + 1) % 6 != 0)
    return [*types[:-1], FULL]  # as Transformers does, whatever the config says


def gemma4_text(c: Fields) -> str:
    types = _gemma4_types(c)
    if c.get("use_bidirectional_attention") == "all":
        return _both_ways("gemma4", "Gemma 4", c, types, "window(window, window)")
    return write_layers("gemma4", "Gemma 4", c, types)


def gemma4(c: Fields) -> str:
    inner = c.within("text_config", GEMMA4)
    if inner.get("use_bidirectional_attention") != "vision":
        return gemma4_text(inner)
    # Of Gemma 4 only the local layers see pictures in both directions.
    masks = {FULL: "causal", SLIDING: "(causal | same(image) & image[q] >= 0) & q - k < window"}
    return _pictures("gemma4_vision", "Gemma 4", inner, _gemma4_types(inner), masks, [])


def _pictures(name: str, title: str, c: Fields, types: list[str], masks: dict[str, str], lets: list[str]) -> str:
    doc = f"{title} with pictures in the text: the tokens of one picture see each other in both directions."
    image = t.Parameter("image: int(-1..)[token]", "the picture that a token belongs to, from 0; -1 for text.")
    params = [image, *([t.window(c.integer("sliding_window", 1))] if SLIDING in types else [])]
    return pattern_text(name, doc, by_layer(types, masks), params, [], lets)


def paligemma(c: Fields) -> str:
    inner = c.within("text_config", {"num_hidden_layers": 18})
    prefix = t.Parameter("prefix_length: int(0..)[batch]", "tokens of picture and prompt together, in each row.")
    doc = "PaliGemma: picture and prompt see each other in both directions, the answer is causal."
    window = inner.optional("sliding_window", 1) if inner.get("model_type") == "gemma2" else None
    inner = c.within("text_config", GEMMA2 if window is not None else {})
    if window is None:
        return pattern_text("paligemma", doc, "causal | prefix(prefix_length[b])", [prefix])
    types = types_of(inner, SLIDING, alternating(inner))
    local = "sliding_window(window) | (q < prefix_length[b] & k < prefix_length[b])"
    attend = by_layer(types, {FULL: "causal | prefix(prefix_length[b])", SLIDING: local})
    cap = inner.number("attn_logit_softcapping")
    score = [] if cap is None else [f"score {cap!r} * tanh(s / {cap!r})"]
    return pattern_text("paligemma", doc, attend, [prefix, t.window(window)], score)

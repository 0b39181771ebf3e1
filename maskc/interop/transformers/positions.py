"""Positions of tokens, for models whose layers keep to themselves where a token stands in its text."""

from __future__ import annotations

import functools
import sys
from typing import Any

from maskc.interop.transformers.parts import NAME

__all__ = ["POSITIONS", "tell_positions"]

#: The keyword argument of an attention function under which such a layer's positions arrive.
POSITIONS = "maskc_position_ids"
#: By kind of config: the module and the class of layers that are given ``position_ids``, hand every other keyword
#: argument on to their attention, but not this one.
_SILENT = {"llama4_text": ("transformers.models.llama4.modeling_llama4", "Llama4TextDecoderLayer")}


def tell_positions(config: Any) -> None:
    """Have the layers of a model with this config tell their attention the positions, if they do not of themselves.

    Called where the model asks for its masks, which is before its layers run. The class is changed once; layers that
    use another implementation do as before.
    """
    module, name = _SILENT.get(getattr(config, "model_type", ""), ("", ""))
    layer = getattr(sys.modules.get(module), name, None)
    if layer is None or hasattr(layer.forward, POSITIONS):
        return
    plain = layer.forward

    @functools.wraps(plain)
    def forward(self: Any, *args: Any, **more: Any) -> Any:
        held = getattr(getattr(self, "self_attn", None), "config", None)
        if more.get("position_ids") is not None and getattr(held, "_attn_implementation", None) == NAME:
            more = {**more, POSITIONS: more["position_ids"]}
        return plain(self, *args, **more)

    setattr(forward, POSITIONS, True)
    layer.forward = forward

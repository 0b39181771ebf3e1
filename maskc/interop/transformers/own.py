"""Models that attend by their own code, or not at all: no pattern would run in them."""

from __future__ import annotations

import functools
import inspect
import re
import sys
import warnings
from typing import Any

from maskc.diagnostics import MaskcError
from maskc.interop.transformers.parts import NAME, has_sides, leaves
from maskc.tiles.values import fail

__all__ = ["refuse_own_attention", "warn_own_attention"]

_OWN = "attends by its own code"
_UNTOLD = "cannot be told from the decoder's attention to it"
#: By kind of config: the side that can run no pattern, where the other one can, and why.
_UNFIT = {
    "longt5": ("encoder", _OWN),
    "pegasus_x": ("encoder", _OWN),
    "moonshine": ("encoder", _UNTOLD),
    "moonshine_streaming": ("encoder", _UNTOLD),
}
#: How the code of a model made of other models comes by them.
_OTHERS = re.compile(r"^from \.\.(auto\b|\w+\.modeling_)|\bload_backbone\(", re.MULTILINE)
#: How code chooses among classes for attention of its own, by the name of the implementation.
_CHOSEN = "_SELF_ATTENTION_CLASSES["
_INTERFACE = "ALL_ATTENTION_FUNCTIONS"


def refuse_own_attention(config: Any, spec: Any, model: Any = None) -> None:
    """Raise E702 for a kind of model that does not leave attention to an implementation.

    Asked are the parts that would run the pattern ``spec``: of a model of texts and pictures the text's, of an encoder
    and a decoder those that it is for. ``model``: which holds the config, where there is one.
    """
    found = _own_attention(config, spec, model)
    if found is not None:
        raise found


def warn_own_attention(config: Any, spec: Any) -> None:
    """Warn where a model with this config would not run by maskc, though that was chosen for it."""
    found = _own_attention(config, spec)
    if found is not None:
        said = found.diagnostics[0].message
        warnings.warn(f'{said}, so that attn_implementation="{NAME}" does nothing there', stacklevel=3)


def _own_attention(config: Any, spec: Any, model: Any = None) -> MaskcError | None:
    for part in leaves(config):
        if part.side is not None and not _is_meant(part.side, spec):
            continue
        kind = getattr(part.config, "model_type", "")
        side, why = _UNFIT.get(kind, ("", ""))
        if side and _is_meant(side, spec):
            return fail("E702", f"the {side} of {kind} {why}", 'give {"decoder": pattern} alone')
        for found in _classes(part.config, model) or _classes(config, model):
            if not _uses_interface(found):
                return _own(found.__name__)
    return None


def _is_meant(side: str, spec: Any) -> bool:
    return not has_sides(spec) or spec.get(side) is not None


def _classes(config: Any, model: Any) -> list[type]:
    """The classes of the models that run by a config; of one that is not made yet, those that Transformers names."""
    held = () if model is None else model.modules()
    made = [type(m) for m in held if hasattr(m, "set_attn_implementation") and m.config is config]
    if made:
        return made
    from transformers.models.auto import modeling_auto

    for mapping in (modeling_auto.MODEL_MAPPING, modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING):
        try:
            found: Any = mapping.get(type(config), None)
        except ValueError:  # it names a class that Transformers does not have
            continue
        if found is not None:
            return list(found) if isinstance(found, list | tuple) else [found]
    return []


@functools.lru_cache(maxsize=256)
def _uses_interface(model: type) -> bool:
    """Whether a class of models leaves attention to an implementation.

    Transformers itself takes a model without a class for attention for one that is made of others. If it is one of its
    own, and its code names none, it does not attend at all, as FNet and Mamba.
    """
    # What a missing package would define has no such method, and cannot be made.
    if not getattr(model, "_can_set_attn_implementation", lambda: True)():
        return False
    module = sys.modules.get(model.__module__)
    if module is None or not model.__module__.startswith("transformers.models."):
        return True
    code = inspect.getsource(module)
    return _CHOSEN not in code and (_INTERFACE in code or bool(_OTHERS.search(code)))


def _own(model: str) -> MaskcError:
    from transformers import __version__

    why = f"Transformers {__version__} does not let an implementation be chosen for it"
    hint = "put maskc.nn.Attention in the place of its attention modules, or take a model with the attention interface"
    return fail("E702", f"{model} {_OWN}, if at all: {why}", hint)

"""Models that attend by their own code, or not at all: no pattern would run in them."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import sys
import warnings
from typing import Any

from maskc.diagnostics import MaskcError
from maskc.interop.transformers.parts import NAME, has_sides, leaves
from maskc.tiles.values import fail

__all__ = ["names_attention", "refuse_own_attention", "refuse_unnamed", "warn_own_attention"]

_OWN = "attends by its own code"
_INSTEAD = "put maskc.nn.Attention in the place of its attention modules, or take a model with the attention interface"
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
_INTERFACE = "ALL_ATTENTION_FUNCTIONS"
_LOOKS = (ast.Call, ast.Subscript)


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


def refuse_unnamed(config: Any) -> None:
    """Raise E702 for a model that finds its class for attention by the implementation's name, and has none for maskc:
    making it would end in a KeyError. Asked are the parts of the config that would run a pattern."""
    for part in leaves(config):
        for found in _classes(part.config, None) or _made_by(type(part.config)) or _classes(config, None):
            names = _names(found)
            if names:
                message = (
                    f'{found.__name__} cannot run by attn_implementation="{NAME}": it has classes for attention of its '
                    f"own, for {', '.join(map(repr, names))} alone"
                )
                raise fail("E702", message, f"leave that out, and {_INSTEAD}")


def names_attention(config: Any) -> bool:
    """Whether a model with this very config, whatever its parts, is one that ``refuse_unnamed`` refuses."""
    return any(_names(found) for found in _classes(config, None) or _made_by(type(config)))


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


def _made_by(config: type) -> list[type]:
    """The classes of models by a class of configs, of all that are loaded."""
    package = config.__module__.rpartition(".")[0] + ".modeling_"
    modules = [module for name, module in list(sys.modules.items()) if package and name.startswith(package)]
    held = {id(x): x for module in modules for x in vars(module).values() if isinstance(x, type)}
    return [x for x in held.values() if vars(x).get("config_class") is config]


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
    return not _names(model) and (_INTERFACE in code or bool(_OTHERS.search(code)))


@functools.lru_cache(maxsize=256)
def _names(model: type) -> tuple[str, ...]:
    """The implementations by whose names a class of models, or a module that it makes, finds its class for attention in
    a dictionary; none where there is no such dictionary, or where it has one for maskc.

    Models in it that have configs of their own are asked by themselves.
    """
    for base in model.__mro__:
        module = sys.modules.get(base.__module__)
        known = {} if module is None else {n: x for n, x in list(vars(module).items()) if _is_choice(x)}
        if module is None or not known:
            continue
        uses, todo, seen = _uses(module), [base.__name__], set[str]()
        while todo:
            name = todo.pop()
            if name in known and NAME not in known[name]:
                return tuple(known[name])
            if name in seen or _is_other_model(getattr(module, name, None), base):
                continue
            seen.add(name)
            todo += uses.get(name, ())
    return ()


def _is_choice(value: Any) -> bool:
    """Whether a value is a dictionary of classes by the names of implementations."""
    return isinstance(value, dict) and "eager" in value and all(isinstance(x, type) for x in value.values())


def _is_other_model(found: Any, model: type) -> bool:
    own = getattr(found, "config_class", None)
    return own is not None and own is not getattr(model, "config_class", None)


def _uses(module: Any) -> dict[str, set[str]]:
    """By the name of each class of a module: the names that it calls, or looks a key up in."""
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError, SyntaxError):  # no source, as of what is compiled
        return {}
    found = {}
    for one in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        parts = [n.func if isinstance(n, ast.Call) else n.value for n in ast.walk(one) if isinstance(n, _LOOKS)]
        found[one.name] = {n.id for part in parts for n in ast.walk(part) if isinstance(n, ast.Name)}
        found[one.name] |= {base.id for base in one.bases if isinstance(base, ast.Name)}
    return found


def _own(model: str) -> MaskcError:
    from transformers import __version__

    why = f"Transformers {__version__} does not let an implementation be chosen for it"
    return fail("E702", f"{model} {_OWN}, if at all: {why}", _INSTEAD)

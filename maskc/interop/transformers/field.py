"""The field of a config that holds a pattern, and what it means for the implementation that is chosen."""

from __future__ import annotations

import json
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sized
from dataclasses import dataclass, field
from typing import Any

from maskc.pattern import Pattern
from maskc.spec import from_spec
from maskc.tiles.values import fail

__all__ = ["FIELD", "NAME", "PatternField", "Stored", "own_attention", "pattern_of", "refuse_own_attention", "say_so"]

#: The name of the implementation, and the field of a config that holds a pattern.
NAME, FIELD = "maskc", "attention_pattern"


class PatternField:
    """The attribute ``attention_pattern`` of all configs: whoever sets it, chooses the implementation.

    Reading a config sets its attributes one by one, so that a config with a pattern runs by maskc and says so when it
    is saved again, whatever the file says. Where another implementation was asked for by name, there is a warning.
    """

    def __get__(self, config: Any, owner: Any = None) -> Any:
        if config is None:
            return self
        if FIELD not in vars(config):
            raise AttributeError(f"{type(config).__name__!r} object has no attribute {FIELD!r}")
        return vars(config)[FIELD]

    def __set__(self, config: Any, spec: Any) -> None:
        vars(config)[FIELD] = spec
        if spec is None:
            return
        refuse_own_attention(config)
        asked = getattr(config, "_attn_implementation", None)
        if asked is None:
            config._attn_implementation = NAME
        elif asked != NAME:
            warnings.warn(
                f"the config has an {FIELD}, but attn_implementation={asked!r} was asked for, which does not run it: "
                f'leave that out, or use set_pattern(model, ...) or attn_implementation="{NAME}"',
                stacklevel=2,
            )
        say_so(config)

    def __delete__(self, config: Any) -> None:
        self.__get__(config)
        del vars(config)[FIELD]


def say_so(config: Any) -> None:
    """Let a config with a pattern name the implementation when it is saved; reading one takes that away."""
    if vars(config).get("attn_implementation") != NAME:
        config.attn_implementation = NAME


def refuse_own_attention(config: Any) -> None:
    """Raise E702 for a kind of model that does not leave attention to an implementation."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    found: Any = MODEL_MAPPING.get(type(config), None)
    for model in found if isinstance(found, list | tuple) else [found]:
        if model is not None and not model._can_set_attn_implementation():
            raise own_attention(model.__name__)


def own_attention(model: str) -> Exception:
    """E702: the model attends by its own code."""
    from transformers import __version__

    return fail(
        "E702",
        f"{model} attends by its own code: Transformers {__version__} does not let an implementation be chosen for it",
        "put maskc.nn.Attention in the place of its attention modules, or take a model with the attention interface",
    )


@dataclass(frozen=True)
class Stored:
    """What a config's field holds: a pattern, and extents of its segments and axes."""

    pattern: Pattern
    sizes: Mapping[str, int] = field(default_factory=dict)


_MOST = 512  # fields that are kept, read
_LARGE = 1 << 16  # characters of a text, entries of a list
_read: OrderedDict[str, Stored] = OrderedDict()


def pattern_of(config: Any, *, bidirectional: bool = False) -> Stored | None:
    """What a config's field holds, or None. ``bidirectional``: of the encoder, where there are two sides.

    Equal fields give the same object. Raises E601 to E603, and what parsing the text raises.
    """
    spec = getattr(config, FIELD, None)
    if spec is None:
        return None
    if isinstance(spec, Mapping) and "maskc" not in spec and set(spec) <= {"encoder", "decoder"} and spec:
        spec = spec.get("encoder" if bidirectional else "decoder")
        if spec is None:
            return None
    key = _key(spec)
    if key is None:
        return _stored(spec)
    found = _read.pop(key, None) or _stored(spec)
    _read[key] = found
    while len(_read) > _MOST:
        _read.popitem(last=False)
    return found


def _key(spec: Any) -> str | None:
    """Equal for equal fields; None for what is too large or too strange to be one."""
    if not isinstance(spec, Mapping) or _is_large(spec) or _is_large(spec.get("args")):
        return None
    try:
        return json.dumps(spec, sort_keys=True, default=repr)
    except (TypeError, ValueError, RecursionError):
        return None


def _is_large(values: Any) -> bool:
    """Whether a name or a value of a mapping is."""
    if not isinstance(values, Mapping):
        return False
    return any(isinstance(x, Sized) and len(x) > _LARGE for entry in values.items() for x in entry)


def _stored(spec: Any) -> Stored:
    if not isinstance(spec, Mapping) or "sizes" not in spec:
        return Stored(from_spec(spec))
    from maskc.tiles.extents import check_extents

    pattern = from_spec({name: value for name, value in spec.items() if name != "sizes"})
    return Stored(pattern, check_extents(pattern.program, _sizes(spec["sizes"])))


def _sizes(sizes: Any) -> Mapping[str, int]:
    good = isinstance(sizes, Mapping) and all(
        isinstance(name, str) and len(name) < 256 and isinstance(value, int) and 0 <= value < 1 << 31
        for name, value in sizes.items()
    )
    if not good:
        hint = 'write {"x": 32}: extents of segments and axes, below 2147483648'
        raise fail("E601", "malformed spec: sizes must be an object of names and integers", hint)
    return dict(sizes)

"""The field of a config that holds a pattern, and what it means for the implementation that is chosen."""

from __future__ import annotations

import json
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sized
from typing import Any
from weakref import WeakValueDictionary

from maskc.interop.stored import Stored, spec_of
from maskc.interop.transformers.own import names_attention, refuse_own_attention, refuse_unnamed, warn_own_attention
from maskc.interop.transformers.parts import FIELD, NAME, has_sides, leaves, write
from maskc.tiles.values import fail

__all__ = [
    "Implementation",
    "PatternField",
    "choose",
    "pattern_of",
]


class PatternField:
    """The attribute ``attention_pattern`` of all configs: whoever sets it, chooses the implementation.

    Reading a config sets its attributes one by one, so that a config with a pattern runs by maskc and says so when it
    is saved again, whatever the file says. Where another implementation was asked for by name, there is a warning.
    Set later, the pattern chooses whatever was asked for before. The parts of a config that carry its pattern get it.
    """

    def __get__(self, config: Any, owner: Any = None) -> Any:
        if config is None:
            return self
        if FIELD not in vars(config):
            raise AttributeError(f"{type(config).__name__!r} object has no attribute {FIELD!r}")
        return vars(config)[FIELD]

    def __set__(self, config: Any, spec: Any) -> None:
        reading = not vars(config).get("_post_init_done", False)
        if spec is not None:
            refuse_own_attention(config, spec)
        write(config, spec, over=not reading)
        if spec is None:
            return
        asked = {Implementation.of(part.config) for part in leaves(config)} - {NAME}
        if not reading or Implementation.of(config) is None:
            choose(config)
        elif asked:
            _warn(", ".join(sorted(map(repr, asked))))
        if not reading and _held.get(id(config)) is config and getattr(config, "is_encoder_decoder", False):
            warnings.warn(
                f"{FIELD} was set in the config of a model that is made already, whose encoder and decoder may hold "
                "copies of it (those of T5 do) that have not changed: use set_pattern(model, ...)",
                stacklevel=2,
            )

    def __delete__(self, config: Any) -> None:
        self.__get__(config)
        del vars(config)[FIELD]


class Implementation:
    """The attribute where all configs keep the implementation, so that none with a pattern loses it unseen.

    Reading finds the value in the object itself, as before: there is no ``__get__``.
    """

    SLOT = "_attn_implementation_internal"

    @classmethod
    def of(cls, config: Any) -> Any:
        """What a config has chosen; None where it has not yet."""
        return vars(config).get(cls.SLOT)

    def __set__(self, config: Any, name: Any) -> None:
        held = vars(config)
        before = self.of(config)
        patterned = held.get(FIELD) is not None
        if name is None or name is self:  # the latter: what a config is read to have before anything is set
            # A config resets those of its parts when it is made; a pattern has chosen already.
            name = before if patterned else None
        if name == NAME:
            name = self._by_name(config, before)
        held[self.SLOT] = name
        if held.get("_post_init_done", False):
            _held[id(config)] = config
            # What is chosen for a config is chosen for its parts; only of the whole it is news that it does nothing.
            inner = (getattr(config, key, None) for key in config.sub_configs)
            _parts.update((id(part), part) for part in inner if hasattr(part, "sub_configs"))
            if name == NAME != before and _parts.get(id(config)) is not config:
                warn_own_attention(config, held.get(FIELD))
        if patterned and before == NAME != name:
            _warn(repr(name))

    @staticmethod
    def _by_name(config: Any, before: Any) -> Any:
        """What a config that is to run by maskc chooses. Raises E702 where its model would look the name up in vain.

        A part of it that runs no pattern, as the one for pictures, keeps what it had: its attention is its own."""
        if _beside.get(id(config)) is config and names_attention(config):
            return None if before == NAME else before
        own = {id(part.config) for part in leaves(config)}
        inner = (getattr(config, key, None) for key in config.sub_configs)
        _beside.update((id(part), part) for part in inner if hasattr(part, "sub_configs") and id(part) not in own)
        if vars(config).get("_post_init_done", False):
            refuse_unnamed(config)
        return NAME

    def __delete__(self, config: Any) -> None:
        vars(config).pop(self.SLOT, None)


#: Configs whose implementation was set after they were made, as making a model does. They have no hash.
_held: WeakValueDictionary[int, Any] = WeakValueDictionary()
#: Configs that are part of one of those.
_parts: WeakValueDictionary[int, Any] = WeakValueDictionary()
#: Configs that are part of one that was to run by maskc, and run no pattern of it.
_beside: WeakValueDictionary[int, Any] = WeakValueDictionary()


def choose(config: Any) -> None:
    """Let a config, with its parts, name maskc as its implementation."""
    held = _held.get(id(config)) is config
    config._attn_implementation = NAME
    if not held:
        _held.pop(id(config), None)


def _warn(asked: str) -> None:
    warnings.warn(
        f"the config has an {FIELD}, but attn_implementation={asked} was asked for, which does not run it: "
        f'leave that out, or use set_pattern(model, ...) or attn_implementation="{NAME}"',
        stacklevel=3,
    )


_MOST = 512  # fields that are kept, read
_LARGE = 1 << 16  # characters of a text, entries of a list
_read: OrderedDict[str, Stored] = OrderedDict()


def pattern_of(config: Any, *, bidirectional: bool = False) -> Stored | None:
    """What a config's field holds, or None. ``bidirectional``: of the encoder, where there are two sides.

    Equal fields give the same object. Raises E601 to E603, what parsing the text raises, and E702 for a pattern of a
    side that the model lacks.
    """
    spec = getattr(config, FIELD, None)
    if has_sides(spec):
        side = "encoder" if bidirectional else "decoder"
        _check_sides(config, spec, side)
        spec = spec.get(side)
    if spec is None:
        return None
    key = _key(spec)
    if key is None:
        return spec_of(spec)
    found = _read.pop(key, None) or spec_of(spec)
    _read[key] = found
    while len(_read) > _MOST:
        _read.popitem(last=False)
    return found


def _check_sides(config: Any, spec: Mapping[str, Any], side: str) -> None:
    # Parts of models that have both, and decoders that are given what an encoder says, ask for the other side as well.
    both = getattr(config, "is_encoder_decoder", False) or getattr(type(config), "is_encoder_decoder", False)
    lacking = [name for name, one in spec.items() if name != side and one is not None]
    if lacking and not both and not getattr(config, "is_decoder", False):
        hint = f"give the spec itself: config.{FIELD} = spec"
        raise fail("E702", f"the config has a pattern for {lacking[0]!r}, but the model is only {side!r}", hint)


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

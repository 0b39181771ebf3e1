"""The configs that carry a pattern: several for a model of texts and pictures, or of an encoder and a decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from maskc.interop.stored import FIELD, SIDES

__all__ = ["FIELD", "NAME", "SIDES", "Part", "has_sides", "leaves", "parts", "say_so", "store", "write"]

#: The name of the implementation.
NAME = "maskc"


@dataclass(frozen=True)
class Part:
    """A config that carries a pattern; ``side``: of the encoder or of the decoder alone, None for what is whole."""

    config: Any
    side: str | None = None


def parts(config: Any) -> list[Part]:
    """The configs that carry the pattern of one: it itself, and those of its text, or of its encoder and decoder."""
    found = [Part(config)]
    if getattr(config, "is_encoder_decoder", False):
        found += [Part(one, side) for side in SIDES for whole in _named(config, side) for one in (whole, _text(whole))]
        found += [part for text in _named(config, "text_config") for part in parts(text)]
    else:
        found.append(Part(_text(config)))
    return list({id(part.config): part for part in reversed(found) if _is_config(part.config)}.values())[::-1]


def _named(config: Any, name: str) -> list[Any]:
    """The parts of a config that go by this name, or by a longer one for the same."""
    found = [getattr(config, one, None) for one in (name, name + "_config", "text_" + name)]
    return [one for one in found if _is_config(one)]


def leaves(config: Any) -> list[Part]:
    """The parts that layers of attention read."""
    whole = parts(config)
    return whole if getattr(config, "is_encoder_decoder", False) else whole[1:] or whole


def _is_config(value: Any) -> bool:
    return hasattr(value, "get_text_config")


def _text(config: Any) -> Any:
    try:
        return config.get_text_config() if _is_config(config) else None
    except ValueError:  # several texts
        return None


def has_sides(spec: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether a field, or what ``set_pattern`` is given, is for encoder and decoder apart."""
    return isinstance(spec, Mapping) and "maskc" not in spec and bool(spec) and set(spec) <= set(SIDES)


def write(config: Any, spec: Any, *, over: bool) -> None:
    """Write a spec to the parts of a config; ``over``: also to those that hold one of their own."""
    for part in parts(config):
        if part.config is config or over or vars(part.config).get(FIELD) is None:
            _put(part, spec)


def store(config: Any, spec: Any, model: Any = None) -> None:
    """Write a spec to the parts of a config, and to the copies of them that a model holds."""
    write(config, spec, over=True)
    whole = parts(config)
    known = {id(part.config) for part in whole}
    for module in () if model is None else model.modules():
        held: Any = getattr(module, "config", None)
        if id(held) not in known and (part := _copied(held, whole)) is not None:
            known.add(id(held))
            _put(Part(held, part.side), spec)
            # Transformers chooses for the models in a model, but their modules may hold configs that these have not.
            held._attn_implementation = NAME


def _copied(held: Any, whole: list[Part]) -> Part | None:
    """The part that a config is a copy of; None for what is no config, or another one."""
    same = [part for part in whole if type(part.config) is type(held)]
    decodes = [p for p in same if getattr(p.config, "is_decoder", False) == getattr(held, "is_decoder", False)]
    return next(iter(decodes + same), None)


def _put(part: Part, spec: Any) -> None:
    own = spec.get(part.side) if part.side is not None and has_sides(spec) else spec
    vars(part.config)[FIELD] = own
    if own is not None:
        say_so(part.config)


def say_so(config: Any) -> None:
    """Let a config with a pattern name the implementation when it is saved; reading one takes that away."""
    if vars(config).get("attn_implementation") != NAME:
        config.attn_implementation = NAME

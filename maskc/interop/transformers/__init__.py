"""Patterns in Transformers' models: ``register()``, then ``attn_implementation="maskc"``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskc.compiler import PatternLike
    from maskc.pattern import Pattern

from maskc.interop.configs import pattern_from_config, text_from_config

__all__ = ["pattern_from_config", "register", "set_pattern", "text_from_config"]


def register() -> None:
    """Make ``attn_implementation="maskc"`` known to Transformers, and let configs with a pattern choose it.

    A config's ``attention_pattern`` is an attribute that chooses the implementation when it is set, as reading a config
    does, and choosing another by name then warns. May be called again. Raises E703 where Transformers, or a part of it
    that is needed, is missing.
    """
    configs, interface, masks = _interfaces()
    from maskc.interop.transformers.attention import attend, mask
    from maskc.interop.transformers.field import Implementation, PatternField
    from maskc.interop.transformers.parts import FIELD, NAME

    # Neither is traced into graphs: a graph breaks at them.
    interface.register(NAME, _untraced(attend))
    masks.register(NAME, _untraced(mask))
    for field, kept in ((FIELD, PatternField), (Implementation.SLOT, Implementation)):
        if not isinstance(vars(configs).get(field), kept):
            setattr(configs, field, kept())


def set_pattern(
    target: Any,
    pattern: PatternLike | Mapping[str, PatternLike | None] | None,
    name: str | None = None,
    *,
    sizes: Mapping[str, int] | None = None,
) -> None:
    """Let a model or a config run ``pattern`` by maskc; None: what the config itself implies.

    Args:
        target: a Transformers config, or a model, which changes at once.
        pattern: anything that ``maskc.compile`` takes; it is stored as a spec in
            ``config.attention_pattern``. Its arguments must be given. For a model with an encoder and a decoder:
            ``{"encoder": pattern, "decoder": pattern}``, either of which may be left out.
        name: which pattern of a file is meant.
        sizes: extents of the pattern's segments and axes; all but one, which follows from the length.

    The config then also says ``attn_implementation``, so that a process that reads it and has not
    registered maskc gets an error, not another mask. Raises what ``maskc.parse`` raises, E501 where an
    argument is missing, E502 to E504 for sizes, and E702 for a pattern of two sequences and for a model that does not
    leave attention to its implementation.
    """
    register()
    from maskc.interop.transformers.field import choose
    from maskc.interop.transformers.own import refuse_own_attention
    from maskc.interop.transformers.parts import NAME, has_sides, store

    spec = None if pattern is None else _field(pattern, name, sizes or {})
    model = target if hasattr(target, "set_attn_implementation") else None
    config = target if model is None else target.config
    refuse_own_attention(config, spec, model)
    if spec is not None:
        _check_sides(config, given=list(spec) if has_sides(spec) else [])
    store(config, spec, model)
    if model is not None:
        model.set_attn_implementation(NAME)
    else:
        choose(config)


def _field(pattern: Any, name: str | None, sizes: Mapping[str, int]) -> dict[str, Any] | None:
    """What the config's field will hold; None where both sides are None."""
    from maskc.interop.transformers.parts import has_sides
    from maskc.tiles.extents import check_extents

    if not has_sides(pattern):
        found, own = _pattern(pattern, name, sizes)
        return _spec(found, check_extents(found.program, own))
    sides = {side: _pattern(one, name, sizes) for side, one in pattern.items() if one is not None}
    known = {name for found, _ in sides.values() for name in _extents(found)}
    specs = {}
    for side, (found, own) in sides.items():
        # Extents that the other side alone has are no mistake.
        mine = {name: size for name, size in own.items() if name in _extents(found) or name not in known}
        specs[side] = _spec(found, check_extents(found.program, mine))
    return specs or None


def _pattern(source: Any, name: str | None, sizes: Mapping[str, int]) -> tuple[Pattern, Mapping[str, int]]:
    """A pattern, and extents: those that are given, and those beside the spec if it is out of a config's field."""
    from maskc.compiler import as_pattern
    from maskc.interop.stored import spec_of

    if isinstance(source, Mapping):
        stored = spec_of(source)
        return stored.pattern, {**stored.sizes, **sizes}
    return as_pattern(source, name), sizes


def _extents(pattern: Pattern) -> tuple[str, ...]:
    from maskc.tiles.extents import space_names

    return (*space_names(pattern.program.q_space), *space_names(pattern.program.k_space))


def _spec(pattern: Pattern, sizes: Mapping[str, int]) -> dict[str, Any]:
    _check_complete(pattern)
    return {**pattern.spec(), **({"sizes": dict(sizes)} if sizes else {})}


def _check_complete(pattern: Pattern) -> None:
    """Refuse what no call of a model could run: a pattern that lacks arguments, and one of two sequences."""
    from maskc.ir.text import declaration
    from maskc.tiles.binding import names_read
    from maskc.tiles.values import fail

    program = pattern.program
    if program.cross:
        hint = "leave out `->`: the pattern of a config is for self-attention"
        raise fail("E702", f"{pattern.name!r} is a pattern for cross-attention", hint)
    needed = names_read(program, program.roots())
    for p in program.params:
        if p.when == "compile" and p.name in needed and p.default is None and p.name not in pattern.args:
            hint = f"give it with the pattern: maskc.parse(text).with_args({p.name}=...)"
            hint += f"; it is declared `{declaration(p)}`"
            raise fail("E501", f"{pattern.name!r} needs the argument {p.name!r}", hint)


def _check_sides(config: Any, given: list[str]) -> None:
    """Refuse one pattern for two sides, and a pattern for a side that there is not."""
    from maskc.tiles.values import fail

    both = getattr(config, "is_encoder_decoder", False)
    if both and not given:
        hint = 'give set_pattern {"encoder": pattern, "decoder": pattern}, either of which may be left out'
        raise fail("E702", "the model has an encoder and a decoder", hint)
    if given and not both:
        names = " and ".join(map(repr, given))
        hint = "give the pattern itself"
        raise fail("E702", f"a pattern is given for {names}, but the model has no encoder and decoder", hint)


_LEAST = (
    5,
    22,
)  # Configs of earlier ones do not tell when they have been made; before 5.4 masks are asked for otherwise.


def _interfaces() -> tuple[Any, Any, Any]:
    from maskc.tiles.values import fail

    least, hint = ".".join(map(str, _LEAST)), "install it with: pip install 'maskc[hf]'"
    try:
        from transformers import AttentionInterface, __version__
        from transformers.configuration_utils import PretrainedConfig
        from transformers.masking_utils import AttentionMaskInterface
    except ImportError as missing:
        raise fail("E703", f"Transformers {least} or later is needed ({missing})", hint) from missing
    if tuple(int(part) for part in __version__.split(".")[:2]) < _LEAST:
        raise fail("E703", f"Transformers {least} or later is needed, and {__version__} is installed", hint)
    return PretrainedConfig, AttentionInterface, AttentionMaskInterface


def _untraced(function: Any) -> Any:
    import torch

    disable: Any = torch.compiler.disable
    return disable(function)

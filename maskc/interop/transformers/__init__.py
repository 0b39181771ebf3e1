"""Patterns in Transformers' models: ``register()``, then ``attn_implementation="maskc"``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskc.compiler import PatternLike

from maskc.interop.configs import pattern_from_config, text_from_config

__all__ = ["pattern_from_config", "register", "set_pattern", "text_from_config"]


def register() -> None:
    """Make ``attn_implementation="maskc"`` known to Transformers, and let configs with a pattern choose it.

    A config's ``attention_pattern`` is an attribute that chooses the implementation when it is set, as reading a config
    does. May be called again. Raises E703 where Transformers, or a part of it that is needed, is missing.
    """
    configs, interface, masks = _interfaces()
    from maskc.interop.transformers.attention import attend, mask
    from maskc.interop.transformers.field import FIELD, NAME, PatternField

    # Neither is traced into graphs: a graph breaks at them.
    interface.register(NAME, _untraced(attend))
    masks.register(NAME, _untraced(mask))
    if not isinstance(vars(configs).get(FIELD), PatternField):
        setattr(configs, FIELD, PatternField())


def set_pattern(
    target: Any, pattern: PatternLike | None, name: str | None = None, *, sizes: Mapping[str, int] | None = None
) -> None:
    """Let a model or a config run ``pattern`` by maskc; None: what the config itself implies.

    Args:
        target: a Transformers config, or a model, which changes at once.
        pattern: anything that ``maskc.compile`` takes; it is stored as a spec in
            ``config.attention_pattern``. Its arguments must be given.
        name: which pattern of a file is meant.
        sizes: extents of the pattern's segments and axes; all but one, which follows from the length.

    The config then also says ``attn_implementation``, so that a process that reads it and has not
    registered maskc gets an error, not another mask. Raises what ``maskc.parse`` raises, E502 to E504 for sizes, and
    E702 for a model that does not leave attention to its implementation.
    """
    register()
    from maskc.interop.transformers.field import FIELD, NAME, refuse_own_attention, say_so

    spec = None if pattern is None else _spec(pattern, name, sizes or {})
    model = target if hasattr(target, "set_attn_implementation") else None
    config = target if model is None else target.config
    refuse_own_attention(config)
    if spec is not None and getattr(config, "is_encoder_decoder", False):
        from maskc.tiles.values import fail

        hint = f'set config.{FIELD} = {{"encoder": spec, "decoder": spec}}, either of which may be left out'
        raise fail("E702", "the model has an encoder and a decoder", hint)
    if model is not None:
        _use(model)
    else:
        config._attn_implementation = NAME
    for one in {id(c): c for c in (config, config.get_text_config())}.values():
        setattr(one, FIELD, spec)
        say_so(one)


def _spec(pattern: PatternLike, name: str | None, sizes: Mapping[str, int]) -> dict[str, Any]:
    from maskc.compiler import as_pattern
    from maskc.tiles.extents import check_extents

    found = as_pattern(pattern, name)
    checked = check_extents(found.program, sizes)
    return {**found.spec(), **({"sizes": checked} if checked else {})}


def _use(model: Any) -> None:
    from maskc.interop.transformers.field import NAME, own_attention

    if not model._can_set_attn_implementation():
        raise own_attention(type(model).__name__)
    model.set_attn_implementation(NAME)


def _interfaces() -> tuple[Any, Any, Any]:
    try:
        from transformers import AttentionInterface
        from transformers.configuration_utils import PretrainedConfig
        from transformers.masking_utils import AttentionMaskInterface
    except ImportError as missing:
        from maskc.tiles.values import fail

        hint = "install it with: pip install 'maskc[hf]'"
        raise fail("E703", f"Transformers 4.56 or later is needed ({missing})", hint) from missing
    return PretrainedConfig, AttentionInterface, AttentionMaskInterface


def _untraced(function: Any) -> Any:
    import torch

    disable: Any = torch.compiler.disable
    return disable(function)

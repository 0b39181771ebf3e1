"""Patterns in Transformers' models: ``register()``, then ``attn_implementation="maskc"``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskc.compiler import PatternLike

from maskc.interop.configs import pattern_from_config, text_from_config

__all__ = ["pattern_from_config", "register", "set_pattern", "text_from_config"]


def register() -> None:
    """Make ``attn_implementation="maskc"`` known to Transformers. May be called again.

    Raises E703 where Transformers, or a part of it that is needed, is missing.
    """
    interface, masks = _interfaces()
    from maskc.interop.transformers.attention import NAME, attend, mask

    # Neither is traced into graphs: a graph breaks at them.
    interface.register(NAME, _untraced(attend))
    masks.register(NAME, _untraced(mask))


def set_pattern(target: Any, pattern: PatternLike | None, name: str | None = None) -> None:
    """Let a model or a config run ``pattern`` by maskc; None: what the config itself implies.

    Args:
        target: a Transformers config, or a model, which changes at once.
        pattern: anything that ``maskc.compile`` takes; it is stored as a spec in
            ``config.attention_pattern``. Its arguments must be given.
        name: which pattern of a file is meant.

    The config then also says ``attn_implementation``, so that a process that reads it and has not
    registered maskc gets an error, not another mask. Raises what ``maskc.parse`` raises, and E702 for
    a model that does not leave attention to its implementation.
    """
    from maskc.compiler import as_pattern
    from maskc.interop.transformers.attention import FIELD, NAME
    from maskc.spec import to_spec

    register()
    spec = None if pattern is None else to_spec(as_pattern(pattern, name))
    model = target if hasattr(target, "set_attn_implementation") else None
    config = target if model is None else target.config
    text = config.get_text_config()
    if spec is not None and getattr(config, "is_encoder_decoder", False):
        from maskc.tiles.values import fail

        hint = f'set config.{FIELD} = {{"encoder": spec, "decoder": spec}}, either of which may be left out'
        raise fail("E702", "the model has an encoder and a decoder", hint)
    if model is not None:
        _use(model)
    else:
        config._attn_implementation = NAME
    for one in {id(c): c for c in (config, text)}.values():
        one.attn_implementation = NAME
    setattr(text, FIELD, spec)


def _use(model: Any) -> None:
    from maskc.interop.transformers.attention import NAME
    from maskc.tiles.values import fail

    if not model._can_set_attn_implementation():
        raise fail(
            "E702",
            f"{type(model).__name__} does not leave attention to the implementation that is chosen",
            "its attention is its own code; use maskc.nn.Attention in its place, or another model",
        )
    model.set_attn_implementation(NAME)


def _interfaces() -> tuple[Any, Any]:
    try:
        from transformers import AttentionInterface
        from transformers.masking_utils import AttentionMaskInterface
    except ImportError as missing:
        from maskc.tiles.values import fail

        hint = "install it with: pip install 'maskc[hf]'"
        raise fail("E703", f"Transformers 4.56 or later is needed ({missing})", hint) from missing
    return AttentionInterface, AttentionMaskInterface


def _untraced(function: Any) -> Any:
    import torch

    disable: Any = torch.compiler.disable
    return disable(function)

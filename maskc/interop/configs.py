"""What the configuration of a published model means as a pattern file. Needs neither torch nor Transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from maskc.diagnostics import Diagnostic, MaskcError
from maskc.interop.fields import Fields, malformed
from maskc.interop.kinds import KINDS, Kind

if TYPE_CHECKING:
    from maskc.pattern import Pattern

__all__ = ["parse_config", "pattern_from_config", "text_from_config"]


def text_from_config(config: Any) -> str:
    """The pattern file that a model's configuration means, formatted.

    Args:
        config: a Transformers config object, or what its ``config.json`` holds.

    Raises E604 for a configuration that cannot be right and E605 for a kind that is not known.
    """
    from maskc.syntax.format import format_text

    values = _values(config)
    kind = _kind(values)
    return format_text(kind.write(Fields(values, kind.defaults)))


def pattern_from_config(config: Any, name: str | None = None) -> Pattern:
    """The pattern that a model's configuration means.

    Args:
        config: as for ``text_from_config``.
        name: which pattern, where there are several: those of encoders and decoders.

    Raises E604, E605, and E205 where there are several patterns and ``name`` does not say which.
    """
    from maskc.reading import parse

    return parse(text_from_config(config), name)


def parse_config(text: str) -> Mapping[str, Any]:
    """The configuration in a ``config.json``. Raises E604."""
    try:
        found = json.loads(text, parse_int=_integer, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise malformed(f"not JSON: {reason}", "give the config.json of a model") from None
    if not isinstance(found, Mapping):
        raise malformed("not a JSON object", "give the config.json of a model")
    return found


def _integer(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError("a number with more than 20 digits")
    return int(digits)


def _constant(name: str) -> float:
    return float(name)


def _values(config: Any) -> Mapping[str, Any]:
    if isinstance(config, Mapping):
        return config
    if hasattr(config, "to_dict"):
        values = config.to_dict()
        # Some classes leave it to the caller which kind they are.
        return values if values.get("model_type") else {**values, "model_type": getattr(config, "model_type", None)}
    raise TypeError(f"expected a config, not {type(config).__name__}")


def _kind(values: Mapping[str, Any]) -> Kind:
    said = values.get("model_type")
    if not isinstance(said, str):
        raise malformed("'model_type' is missing", "give the config.json of a model; it says which kind the model is")
    for kind in KINDS:
        if said in kind.names:
            return kind
    names = ", ".join(kind.names[0] for kind in KINDS)
    message = f"models of the kind {said[:60]!r} are not known"
    raise MaskcError(Diagnostic("E605", message, hint=f"write the pattern by hand; known are {names}"))

"""The fields of a model's configuration, read with suspicion: it may be anybody's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from maskc.diagnostics import Diagnostic, MaskcError

__all__ = ["MAX_LAYERS", "Fields", "malformed"]

MAX_LAYERS = 4096
_MOST = 2**31 - 1  # as for all integers of the language


def malformed(message: str, hint: str | None = None) -> MaskcError:
    """The exception for a configuration that cannot be right."""
    return MaskcError(Diagnostic("E604", f"malformed config: {message}", hint=hint))


class Fields:
    """Typed access to a configuration. What is missing has the default of Transformers' class for this kind.

    Every method raises E604 where a value has another type, or is outside of its range.
    """

    def __init__(self, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self._values, self._defaults = values, defaults

    def get(self, name: str) -> Any:
        """The value as it is; None where there is neither a value nor a default."""
        return self._values[name] if name in self._values else self._defaults.get(name)

    def within(self, name: str, defaults: Mapping[str, Any]) -> Fields:
        """The fields of a nested configuration, perhaps empty."""
        value = self.get(name)
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            raise malformed(f"{name!r} must be an object, not {_shown(value)}")
        return Fields(value, defaults)

    def integer(self, name: str, least: int = 0, most: int = _MOST) -> int:
        """A number that must be there."""
        found = self.optional(name, least, most)
        if found is None:
            raise malformed(f"{name!r} is missing", "it is part of every published config of this kind")
        return found

    def optional(self, name: str, least: int = 0, most: int = _MOST) -> int | None:
        """A number, or None."""
        value = self.get(name)
        return None if value is None else _integer(name, value, least, most)

    def number(self, name: str) -> float | None:
        """A float of moderate size, or None."""
        value = self.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 1e-30 < abs(value) < 1e30:
            raise malformed(f"{name!r} must be a number, not {_shown(value)}")
        return float(value)

    def flag(self, name: str) -> bool:
        """A Boolean; missing and null are false."""
        value = self.get(name)
        if value is not None and not isinstance(value, bool):
            raise malformed(f"{name!r} must be true or false, not {_shown(value)}")
        return bool(value)

    def listed(self, name: str, most: int = MAX_LAYERS) -> list[Any] | None:
        """A list, or None."""
        value = self.get(name)
        if value is None:
            return None
        if isinstance(value, str) or not isinstance(value, Sequence) or len(value) > most:
            raise malformed(f"{name!r} must be a list of at most {most}, not {_shown(value)}")
        return list(value)

    def integers(self, name: str, count: int, least: int = 0) -> list[int]:
        """``count`` numbers, given as a list of that length or as one for all."""
        value = self.get(name)
        values = [value] * count if isinstance(value, int) else self.listed(name) or []
        if len(values) != count:
            raise malformed(f"{name!r} must hold {count} numbers, not {len(values)}")
        return [_integer(name, v, least, _MOST) for v in values]

    def layers(self, name: str = "num_hidden_layers") -> int:
        """The number of layers."""
        return self.integer(name, 1, MAX_LAYERS)

    def layer_types(self, known: Sequence[str]) -> list[str] | None:
        """The type of every layer, or None where the configuration does not say."""
        types = self.listed("layer_types")
        if types is None:
            return None
        for one in types:
            if one not in known:
                raise malformed(f"a layer type {_shown(one)}", f"of this kind are known: {', '.join(known)}")
        count = self.layers()
        if len(types) != count:
            raise malformed(f"{len(types)} layer_types for {count} layers")
        return types


def _integer(name: str, value: Any, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise malformed(f"{name!r} must be an integer from {least} to {most}, not {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    """A value for a message: short, on one line, and without anything a terminal would obey."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _MOST:
        return "a larger number"
    if isinstance(value, str):
        value = value[:60]
    elif isinstance(value, Mapping | Sequence):
        return f"a {type(value).__name__} of {len(value)}"
    return repr(value)[:80]

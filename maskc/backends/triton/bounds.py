"""How large the integers of a program can get, whatever the lengths: what decides on 32 or 64 bits and on signs."""

from __future__ import annotations

from collections.abc import Iterable

from maskc.ir.interval import MAX_TOKENS, Interval, intervals
from maskc.ir.nodes import Node, Size, Symbol, Type, postorder
from maskc.ir.program import Parameter

__all__ = ["fits_int32", "integer_bounds"]

_INT32 = (-(1 << 31), (1 << 31) - 1)
_SYMBOLS: dict[str, Interval] = {
    "q": (0, MAX_TOKENS - 1),
    "k": (0, MAX_TOKENS - 1),
    "h": (0, (1 << 16) - 1),
    "heads": (1, 1 << 16),
    "b": (0, (1 << 24) - 1),
    "layer": (0, (1 << 16) - 1),
}


def fits_int32(bounds: Interval) -> bool:
    """Whether 32 bits with sign hold every value."""
    return bounds[0] >= _INT32[0] and bounds[1] <= _INT32[1]


def integer_bounds(roots: Iterable[Node], params: Iterable[Parameter]) -> dict[Node, Interval]:
    """Bounds of every node below ``roots``. Inputs are taken to be int32 unless their range is declared."""
    roots = tuple(roots)
    known: dict[Node | str, Interval] = {Symbol(name): range_ for name, range_ in _SYMBOLS.items()}
    known.update({n: (0, MAX_TOKENS) for n in postorder(roots) if isinstance(n, Size)})
    for p in params:
        if p.type is Type.INT:
            low = _INT32[0] if p.low is None else p.low
            high = _INT32[1] if p.high is None else p.high - 1
            known[p.name] = (0, len(p.labels) - 1) if p.labels else (low, high)
    return intervals(roots, known)


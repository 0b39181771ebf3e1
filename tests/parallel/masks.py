"""Masks over a sequence, with what they mean as formulas of NumPy's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["MASKS", "Case"]

Array = np.ndarray


@dataclass(frozen=True)
class Case:
    """A pattern; ``kept(b, h, q, k)`` is whether a pair is kept, of arrays. ``inputs``: of the whole sequence."""

    text: str
    kept: Callable[[Array, Array, Array, Array], Array]
    inputs: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    length: int = 384


_DOC = np.repeat([3, 0, 7, 3, 1], [100, 21, 150, 63, 50])
_ROWS = np.stack([_DOC, np.repeat([0, 1], [200, 184])])
_IMAGE = np.where((np.arange(384) // 37) % 3 == 1, np.arange(384) // 37, -1)
_REACH = 5 + 11 * np.arange(384) % 60

MASKS: dict[str, Case] = {
    "everything": Case("k >= 0", lambda b, h, q, k: (q >= 0) & (k >= 0)),
    "causal": Case("k <= q", lambda b, h, q, k: k <= q),
    "window": Case("causal & sliding_window(50)", lambda b, h, q, k: (k <= q) & (q - k < 50)),
    "window of both sides": Case("abs(q - k) <= 30", lambda b, h, q, k: abs(q - k) <= 30),
    "sinks": Case("causal & (sliding_window(40) | k < 3)", lambda b, h, q, k: (k <= q) & ((q - k < 40) | (k < 3))),
    "dilated": Case("causal & (q - k) % 7 == 0", lambda b, h, q, k: (k <= q) & ((q - k) % 7 == 0)),
    "blocks": Case("q // 50 == k // 50", lambda b, h, q, k: q // 50 == k // 50),
    "documents": Case(
        "pattern p(doc: int[token]) { attend same(doc) }", lambda b, h, q, k: _DOC[q] == _DOC[k], {"doc": _DOC}
    ),
    "documents by batch entry": Case(
        "pattern p(doc: int[token]) { attend same(doc) & causal }",
        lambda b, h, q, k: (_ROWS[b, q] == _ROWS[b, k]) & (k <= q),
        {"doc": _ROWS},
    ),
    "windows by head": Case(
        "pattern p(w: int[head]) { attend causal & q - k < w[h] }",
        lambda b, h, q, k: (k <= q) & (q - k < np.array([9, 100, 40, 1])[h]),
        arguments={"w": [9, 100, 40, 1]},
    ),
    "images in text": Case(
        "pattern p(image: int[token]) { attend causal | (same(image) & image[q] >= 0) }",
        lambda b, h, q, k: (k <= q) | ((_IMAGE[q] == _IMAGE[k]) & (_IMAGE[q] >= 0)),
        {"image": _IMAGE},
    ),
    "reach by query": Case(
        "pattern p(reach: int[q], ahead: int[k]) { attend q - k < reach[q] & k - q < ahead[k] }",
        lambda b, h, q, k: (q - k < _REACH[q]) & (k - q < _REACH[k] // 2),
        {"reach": _REACH, "ahead": _REACH // 2},
    ),
    "grid": Case(
        "pattern p over grid(y, x) { attend abs(y[q] - y[k]) <= 2 & abs(x[q] - x[k]) <= 3 }",
        lambda b, h, q, k: (abs(q // 24 - k // 24) <= 2) & (abs(q % 24 - k % 24) <= 3),
        sizes={"x": 24},
    ),
    "a share of the length": Case(
        "causal & q - k < size(k) // 6", lambda b, h, q, k: (k <= q) & (q - k < 389 // 6), length=389
    ),
    "ragged": Case("abs(q - k) < 77", lambda b, h, q, k: abs(q - k) < 77, length=389),
    "some see nothing": Case(
        "causal & sliding_window(30) & q % 100 > 40",
        lambda b, h, q, k: (k <= q) & (q - k < 30) & (q % 100 > 40),
        length=389,
    ),
}

"""Kernels whose text is kept, to see what a change does to them."""

from __future__ import annotations

from maskc.backends.triton.emit import STAGES
from maskc.backends.triton.spec import Kernel, KernelSpec, specialised
from maskc.lower import lower_text

__all__ = ["GOLDEN", "kernel_of"]

#: Name -> text of the pattern, stage, intervals a query, float inputs with a gradient.
GOLDEN: dict[str, tuple[str, str, int | None, frozenset[str]]] = {
    "causal-forward": ("causal", "forward", None, frozenset()),
    "causal-decode": ("causal", "decode", None, frozenset()),
    "causal-dq": ("causal", "dq", None, frozenset()),
    "causal-dkv": ("causal", "dkv", None, frozenset()),
    "window-and-sinks-forward": ("sinks(4) | sliding_window(1024)", "forward", None, frozenset()),
    "documents-by-intervals-forward": (
        "pattern p(doc: int[token]) { attend same(doc) & causal }",
        "forward",
        1,
        frozenset(),
    ),
    "documents-by-intervals-dkv": ("pattern p(doc: int[token]) { attend same(doc) & causal }", "dkv", 1, frozenset()),
    "alibi-soft-cap-dq": (
        "pattern p(slope: float[head]) { attend causal\n score s + slope[h] * (k - q)\n score 30.0 * tanh(s / 30.0) }",
        "dq",
        None,
        frozenset({"slope"}),
    ),
    "sink-and-gate-forward": (
        "pattern p(sink: float[head], gate: float[q, head]) { attend causal\n"
        " normalize softmax(sink = sink[h])\n output o * gate[q, h] }",
        "forward",
        None,
        frozenset(),
    ),
    "sigmoid-forward": ("pattern p { attend window(64, 64)\n normalize sigmoid }", "forward", None, frozenset()),
    "grid-forward": (
        "pattern p over grid(t, y, x) { attend neighborhood(t, 18) & neighborhood(y, 24) & neighborhood(x, 24) }",
        "forward",
        None,
        frozenset(),
    ),
    "hash-and-floor-forward": (
        "hash(q, k - 7, h) % 3 == 0 | (q - 20) // 7 == (k - 20) // 7 | any(i in 0..3: q - k == i * i)",
        "forward",
        None,
        frozenset(),
    ),
}


def kernel_of(name: str) -> Kernel:
    """The kernel of a row."""
    text, stage, clauses, tables = GOLDEN[name]
    return STAGES[stage](KernelSpec(specialised(lower_text(text)[0], {}), frozenset(), clauses, tables))

"""Kernels whose text is kept, to see what a change does to them."""

from __future__ import annotations

from maskc.backends.triton.emit import STAGES
from maskc.backends.triton.spec import Form, Kernel, KernelSpec, specialised
from maskc.lower import lower_text

__all__ = ["GOLDEN", "kernel_of"]

_GRID = "pattern p over grid(y, x) { attend neighborhood(y, 9) & neighborhood(x, 9) }"
_SINK_AND_GATE = (
    "pattern p(sink: float[head], gate: float[q, head]) { attend causal\n"
    " normalize softmax(sink = sink[h])\n output o * gate[q, h] }"
)
#: Name -> text of the pattern, stage, form of the plan, float inputs with a gradient.
GOLDEN: dict[str, tuple[str, str, Form, frozenset[str]]] = {
    "causal-forward": ("causal", "forward", Form(steady=True), frozenset()),
    "window-in-one-loop-forward": ("sliding_window(1024)", "forward", Form(steady=True, joined=True), frozenset()),
    "window-in-one-loop-dkv": ("sliding_window(1024)", "dkv", Form(steady=True, joined=True), frozenset()),
    "causal-decode": ("causal", "decode", Form(), frozenset()),
    "sink-and-gate-merge": (_SINK_AND_GATE, "merge", Form(), frozenset()),
    "causal-dq": ("causal", "dq", Form(steady=True), frozenset()),
    "causal-dkv": ("causal", "dkv", Form(steady=True), frozenset()),
    "window-and-sinks-forward": ("sinks(4) | sliding_window(1024)", "forward", Form(), frozenset()),
    "documents-by-intervals-forward": (
        "pattern p(doc: int[token]) { attend same(doc) & causal }",
        "forward",
        Form(1),
        frozenset(),
    ),
    "documents-by-intervals-dkv": (
        "pattern p(doc: int[token]) { attend same(doc) & causal }",
        "dkv",
        Form(1),
        frozenset(),
    ),
    "alibi-soft-cap-dq": (
        "pattern p(slope: float[head]) { attend causal\n score s + slope[h] * (k - q)\n score 30.0 * tanh(s / 30.0) }",
        "dq",
        Form(),
        frozenset({"slope"}),
    ),
    "sink-and-gate-forward": (_SINK_AND_GATE, "forward", Form(), frozenset()),
    "sigmoid-forward": ("pattern p { attend window(64, 64)\n normalize sigmoid }", "forward", Form(), frozenset()),
    "grid-forward": (
        "pattern p over grid(t, y, x) { attend neighborhood(t, 18) & neighborhood(y, 24) & neighborhood(x, 24) }",
        "forward",
        Form(),
        frozenset(),
    ),
    "packed-window-forward": ("window(64, 64)", "forward", Form(packed=True), frozenset()),
    "laid-out-grid-forward": (_GRID, "forward", Form(q_steps=3, k_steps=3), frozenset()),
    "laid-out-grid-dkv": (_GRID, "dkv", Form(q_steps=2, k_steps=3), frozenset()),
    "laid-out-documents-dq": (
        "pattern p(doc: int[token]) { attend same(doc) & causal }",
        "dq",
        Form(q_steps=0, k_steps=0),
        frozenset(),
    ),
    "hash-and-floor-forward": (
        "hash(q, k - 7, h) % 3 == 0 | (q - 20) // 7 == (k - 20) // 7 | any(i in 0..3: q - k == i * i)",
        "forward",
        Form(),
        frozenset(),
    ),
}


def kernel_of(name: str) -> Kernel:
    """The kernel of a row."""
    text, stage, form, tables = GOLDEN[name]
    return STAGES[stage](KernelSpec(specialised(lower_text(text)[0], {}), grad_tables=tables, **form._asdict()))

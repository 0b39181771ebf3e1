"""What benchmarks/gpu.py compares: patterns in the language, and the same for FlexAttention. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CHECKS", "PATTERNS", "Check", "Pattern", "named"]


@dataclass(frozen=True)
class Pattern:
    """A row of the table.

    Attributes:
        name, text, length: the pattern, and for how many keys it is measured.
        flex: from the inputs on the device and the length to FlexAttention's ``mask_mod``.
        inputs: from a length to the pattern's tables and inputs.
        sizes: extents of grid axes. ``small``, ``small_arguments``: those that results are checked with.
        layout: the order of tokens, as ``maskc.compile`` takes it.
        causal: SDPA's ``is_causal`` does the same.
        queries: if not as many as keys: decoding, which is measured without gradients.
    """

    name: str
    text: str
    length: int
    flex: Callable[[dict[str, Any], int], Callable[..., Any]]
    inputs: Callable[[int], dict[str, Any]] = lambda n: {}
    sizes: dict[str, int] = field(default_factory=dict)
    small: dict[str, int] = field(default_factory=dict)
    small_arguments: dict[str, int] = field(default_factory=dict)
    layout: str = "none"
    causal: bool = False
    dim: int = 128
    heads: int = 16
    kv_heads: int = 16
    batch: int = 1
    queries: int | None = None


def _documents(n: int) -> dict[str, Any]:
    """About 24 documents of uneven lengths."""
    import torch

    generator = torch.Generator().manual_seed(5)
    cuts = torch.randperm(n - 1, generator=generator)[: max(2, min(23, n // 16))] + 1
    marks = torch.zeros(n, dtype=torch.int32)
    marks[cuts] = 1
    return {"doc": marks.cumsum(0).to(torch.int32)}


def _windows(n: int) -> dict[str, Any]:
    import torch

    return {"w": torch.tensor([n >> (1 + i % 8) for i in range(16)], dtype=torch.int32)}


def _near(x: Any, y: Any, n: int, w: int, stride: int) -> Any:
    """NATTEN's window: ``w`` wide, around the leader of ``stride`` queries, moved inward at the borders."""
    leader = (x // stride * stride + stride // 2).clamp(max=n - 1)
    start = (leader - w // 2).clamp(max=n - w).clamp(min=0)
    return (start <= y) & (y < start + w)


def _grid(stride: tuple[int, int, int]) -> Callable[[dict[str, Any], int], Callable[..., Any]]:
    (t, y, x), (a, b, c) = _VIDEO.values(), stride

    def mask(_b: Any, _h: Any, q: Any, k: Any) -> Any:
        near_t = _near(q // (x * y), k // (x * y), t, 18, a)
        return near_t & _near(q // x % y, k // x % y, y, 24, b) & _near(q % x, k % x, x, 24, c)

    return lambda inputs, length: mask


_VIDEO = {"t": 30, "y": 48, "x": 80}
_SMALL_VIDEO = {"t": 8, "y": 12, "x": 20}
_NEAR = """pattern video(wt: int = 18, wy: int = 24, wx: int = 24, st: int = {}, sy: int = {}, sx: int = {})
    over grid(t, y, x) {{
    attend neighborhood(t, wt, stride = st) & neighborhood(y, wy, stride = sy) & neighborhood(x, wx, stride = sx)
}}"""


def _causal(inputs: dict[str, Any], length: int) -> Callable[..., Any]:
    return lambda b, h, q, k: k <= q


def _window(inputs: dict[str, Any], length: int) -> Callable[..., Any]:
    return lambda b, h, q, k: (k <= q) & (q - k < 1024)


def _same_document(inputs: dict[str, Any], length: int) -> Callable[..., Any]:
    doc = inputs["doc"]
    return lambda b, h, q, k: (doc[q] == doc[k]) & (k <= q)


def _head_windows(inputs: dict[str, Any], length: int) -> Callable[..., Any]:
    w = inputs["w"]
    return lambda b, h, q, k: (k <= q) & (q - k < w[h])


_DOCUMENTS = "pattern p(doc: int[token]) { attend same(doc) & causal }"
_SINKS = "sinks(4) & causal | sliding_window(1024)"
_GROUPED: dict[str, Any] = {"heads": 32, "kv_heads": 8}
_DECODE: dict[str, Any] = {"batch": 4, "queries": 1, **_GROUPED}
#: Those that matter most come first: what is not reached in time is left out.
PATTERNS = (
    Pattern("full 8k", "all", 8192, lambda i, n: lambda b, h, q, k: q >= 0),
    Pattern("causal 8k", "causal", 8192, _causal, causal=True),
    Pattern("window 1024, 32k", "sliding_window(1024)", 32768, _window),
    Pattern("documents, causal, 64k", _DOCUMENTS, 65536, _same_document, _documents),
    Pattern("causal 8k, 32/8 heads", "causal", 8192, _causal, causal=True, **_GROUPED),
    Pattern(
        "3-D grid",
        _NEAR.format(1, 1, 1),
        30 * 48 * 80,
        _grid((1, 1, 1)),
        sizes=_VIDEO,
        small=_SMALL_VIDEO,
        small_arguments={"wt": 4, "wy": 6, "wx": 6},
        layout="auto",
    ),
    Pattern(
        "dilated 8, 16k",
        "causal & (q - k) % 8 == 0",
        16384,
        lambda i, n: lambda b, h, q, k: (k <= q) & ((q - k) % 8 == 0),
        layout="auto",
    ),
    Pattern("decode, 128k", "causal", 131072, _causal, **_DECODE),
    Pattern("decode, window 1024, 128k", "sliding_window(1024)", 131072, _window, **_DECODE),
    Pattern("causal 8k, D 64", "causal", 8192, _causal, causal=True, dim=64),
    Pattern("causal 32k", "causal", 32768, _causal, causal=True),
    Pattern(
        "window 2048, 32k",
        "window(1024, 1023)",
        32768,
        lambda i, n: lambda b, h, q, k: (q - k <= 1024) & (k - q <= 1023),
    ),
    Pattern(
        "sinks and window, 64k", _SINKS, 65536, lambda i, n: lambda b, h, q, k: (k <= q) & ((k < 4) | (q - k < 1024))
    ),
    Pattern(
        "3-D grid, strides",
        _NEAR.format(16, 8, 8),
        30 * 48 * 80,
        _grid((16, 8, 8)),
        sizes=_VIDEO,
        small=_SMALL_VIDEO,
        small_arguments={"wt": 4, "wy": 6, "wx": 8, "st": 4, "sy": 2, "sx": 4},
        layout="auto",
    ),
    Pattern("prefix 4096, 16k", "prefix(4096) | causal", 16384, lambda i, n: lambda b, h, q, k: (k < 4096) | (k <= q)),
    Pattern(
        "Longformer, 32k",
        "window(256, 256) | k < 64 | q < 64",
        32768,
        lambda i, n: lambda b, h, q, k: ((q - k <= 256) & (k - q <= 256)) | (k < 64) | (q < 64),
    ),
    Pattern(
        "windows by head, 32k",
        "pattern p(w: int[head]) { attend causal & q - k < w[h] }",
        32768,
        _head_windows,
        _windows,
    ),
    Pattern(
        "dilated blocks, 16k",
        "causal & (q // 128 - k // 128) % 4 == 0",
        16384,
        lambda i, n: lambda b, h, q, k: (k <= q) & ((q // 128 - k // 128) % 4 == 0),
    ),
    Pattern("window 1024, 32k, D 64", "sliding_window(1024)", 32768, _window, dim=64),
    Pattern("window 1024, 32k, 32/8 heads", "sliding_window(1024)", 32768, _window, **_GROUPED),
    Pattern("documents, causal, 64k, D 64", _DOCUMENTS, 65536, _same_document, _documents, dim=64),
    Pattern(
        "decode, sinks and window, 128k",
        _SINKS,
        131072,
        lambda i, n: lambda b, h, q, k: (k <= q) & ((k < 4) | (q - k < 1024)),
        **_DECODE,
    ),
)


@dataclass(frozen=True)
class Check:
    """A call whose result and gradients are compared with the reference, and nothing else. ``floats``: shapes of
    float inputs; ``inputs``: the others."""

    name: str
    text: str
    queries: int = 500
    keys: int = 500
    heads: int = 4
    kv_heads: int = 2
    dim: int = 64
    value_dim: int = 64
    batch: int = 2
    dtype: str = "bfloat16"
    strided: bool = False
    sizes: dict[str, int] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    floats: dict[str, tuple[int, ...]] = field(default_factory=dict)


_BUCKETS = """pattern t5(bias: float[head, 32]) {
    let near = match abs(q - k) < 8 { true: abs(q - k); else: min(15, 8 + floor(2.0 * log2(abs(q - k) / 8.0))) }
    attend all
    score s + bias[h, near + (match k > q { true: 16; else: 0 })]
}"""
_BY_BATCH = {"doc": [[i // 90 for i in range(500)], [i // 210 for i in range(500)]]}

#: Results that no row of the table has.
CHECKS = (
    Check("bias by bucket", _BUCKETS, floats={"bias": (4, 32)}),
    Check(
        "bias of pairs",
        "pattern p(bias: float[head, q, k]) { attend causal\n score s + bias[h, q, k] }",
        floats={"bias": (4, 500, 500)},
    ),
    Check(
        "ALiBi, D 80, Dv 48",
        "pattern p(slope: float[head]) { attend causal\n score s + slope[h] * (k - q) }",
        dim=80,
        value_dim=48,
        floats={"slope": (4,)},
    ),
    Check(
        "soft cap, sink, gate",
        "pattern p(sink: float[head], gate: float[q, head]) { attend sliding_window(100)\n"
        " score 20.0 * tanh(s / 20.0)\n normalize softmax(sink = sink[h])\n output o * gate[q, h] }",
        floats={"sink": (4,), "gate": (500, 4)},
    ),
    Check("documents by batch, strided", _DOCUMENTS, inputs=_BY_BATCH, strided=True),
    Check("fewer queries, empty rows", "sliding_window(70) & q % 7 > 0", queries=130, dim=96, value_dim=96),
    Check("sigmoid, float16", "pattern p { attend window(30, 40)\n normalize sigmoid }", dtype="float16"),
    Check(
        "hash, float32, D 256",
        "hash(q, k, h) % 3 == 0 & causal",
        queries=200,
        keys=200,
        dim=256,
        value_dim=256,
        dtype="float32",
    ),
    Check("decode, 3 queries", "causal & (k < 9 | q - k < 900)", queries=3, keys=3000, heads=8),
)


def named(name: str) -> Pattern | Check:
    """The row, or the check, with a name."""
    return next(each for each in (*PATTERNS, *CHECKS) if each.name == name)

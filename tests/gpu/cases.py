"""Patterns, lengths and inputs that kernels are tried with. Inputs are drawn from a fixed seed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["CASES", "Case"]


@dataclass(frozen=True)
class Case:
    """A call. ``floats``: shapes of float inputs; ``inputs``: the other inputs. ``splits``: decode with so many.
    ``clauses``: so many intervals a query mask partial tiles, ``boxed``: boxes do; else the mask itself does.
    ``layout``: the order of the tokens, which must be another than their own. ``pack``: heads that share a tile in
    the forward kernel. ``tile``: where lengths are multiples of it, full and partial tiles may be one sequence; one of
    8 is for the interpreter alone. ``q_start``: position of the first query, if the queries are not the last ones."""

    text: str
    q_len: int = 40
    k_len: int = 40
    heads: int = 2
    kv_heads: int = 1
    dim: int = 32
    value_dim: int = 32
    batch: int = 1
    layer: int = 0
    dtype: str = "float32"
    tile: int = 16
    splits: int | None = None
    scale: float | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    floats: dict[str, tuple[int, ...]] = field(default_factory=dict)
    strided: bool = False
    clauses: int | None = None
    boxed: bool = False
    layout: str = "none"
    pack: int | None = None
    q_start: int | None = None


_DOCUMENTS = [0] * 13 + [1] * 20 + [2] * 7
_GRID = "pattern p over grid(t, y, x) { attend neighborhood(t, 3) & neighborhood(y, 3) & neighborhood(x, 3) }"
_ALIBI = "pattern p(slope: float[head]) {{ attend causal{}\n score s + slope[h] * (k - q) }}"

CASES: dict[str, Case] = {
    "grid-by-boxes": Case(_GRID, 60, 60, sizes={"t": 3, "y": 4, "x": 5}, boxed=True),
    "laid-out-grid-by-boxes": Case(
        "pattern p over grid(y, x) { attend neighborhood(y, 5) & neighborhood(x, 5) }",
        72,
        72,
        4,
        2,
        sizes={"y": 6, "x": 12},
        layout="blocks",
        boxed=True,
        dtype="float16",
    ),
    "documents-by-boxes": Case(
        "pattern p(doc: int[token]) { attend same(doc) & (q - k) % 3 == 0 & causal }",
        33,
        45,
        heads=2,
        batch=2,
        inputs={"doc": [[i * 7 % 4 for i in range(45)], [0] * 25 + [5] * 20]},
        boxed=True,
    ),
    "windows-by-head-by-boxes": Case(
        "pattern p(w: int[head]) { attend causal & (q - k) % 2 == 0 & q - k < w[h] & k % 5 > 0 & q % 7 > 0 }",
        inputs={"w": [4, 21]},
        boxed=True,
        tile=8,
    ),
    "floors": Case(
        "pattern p { attend k <= q & floor(exp2(float(q - 2 * k) * 9.0)) - floor(log(float(k - 5))) > -2\n"
        " score s + 0.1 * float(floor(log2(s)) % 8) }"
    ),
    "causal": Case("causal", strided=True),
    "outside-a-window": Case("q - k > 20 | k - q > 14", 100, 110),
    "outside-windows-by-head": Case(
        "pattern p(w: int[head]) { attend abs(q - k) > w[h] }", 96, 96, 4, 2, inputs={"w": [20, 20, 0, 90]}, batch=2
    ),
    "outside-a-window-at-once": Case("abs(q - k) > 20", 96, 96, tile=8),
    "causal-half": Case("causal", 70, 70, 4, 2, 64, 64, dtype="float16", tile=32),
    "negative-scale": Case("causal", 20, 20, scale=-0.3),
    "window-fewer-queries": Case("causal & window(7)", 21, 50),
    "chunk-of-queries": Case("causal & sliding_window(20) | sinks(3)", 32, 96, 4, 2, q_start=32, tile=8),
    "chunk-before-a-window": Case("abs(q - k) <= 20 & q != 30", 25, 90, q_start=13),
    "window-of-two-edges": Case("causal & window(50)", 85, 90),
    "sinks-and-window": Case("sinks(4) | sliding_window(9)", 45, 45, heads=1),
    "documents": Case("pattern p(doc: int[token]) { attend same(doc) & causal }", inputs={"doc": _DOCUMENTS}),
    "documents-batch": Case(
        "pattern p(doc: int[token]) { attend same(doc) & causal }",
        heads=1,
        batch=2,
        inputs={"doc": [_DOCUMENTS, [0] * 25 + [5] * 15]},
    ),
    "documents-by-intervals": Case(
        "pattern p(doc: int[token]) { attend same(doc) & causal & q % 5 > 0 }",
        inputs={"doc": _DOCUMENTS},
        clauses=1,
        tile=8,
    ),
    "grid-by-intervals": Case(
        "pattern p over grid(y, x) { attend neighborhood(y, 3) & neighborhood(x, 3) }",
        45,
        45,
        sizes={"y": 5, "x": 9},
        clauses=3,
    ),
    "heads-by-intervals": Case(
        "pattern p(w: int[head], doc: int[token]) { attend same(doc) & abs(q - k) < w[h] | k < 2 }",
        30,
        40,
        inputs={"w": [3, 9], "doc": _DOCUMENTS},
        clauses=2,
        tile=8,
    ),
    "padding": Case(
        "pattern p(n: int[batch]) { attend padding(n[b]) }", 20, 40, heads=1, batch=2, inputs={"n": [17, 40]}
    ),
    "dilated": Case("dilated(3, 4) & causal", heads=1),
    "prefix-ragged": Case("prefix(10) | causal", 33, 47, heads=1, dim=80, value_dim=48),
    "grid": Case(
        "pattern p over grid(y, x) { attend neighborhood(y, 3) & neighborhood(x, 3) }", 48, 48, sizes={"y": 6, "x": 8}
    ),
    "cross": Case("pattern p over left -> right { attend q // 3 == k // 2 }", 30, 33, heads=1),
    "by-head": Case("pattern p(w: int[head]) { attend causal & q - k < w[h] }", inputs={"w": [5, 20]}),
    "by-layer": Case(
        "pattern p(far: bool[layer, head]) { attend far[layer, h] | self }",
        layer=1,
        inputs={"far": [[True, True], [False, True]]},
    ),
    "hash": Case("hash(q, k - 7, h) % 3 == 0 | (q - 20) // 7 == (k - 20) // 7 & (q - 13) % 5 < 3", heads=2, tile=8),
    "random-blocks": Case("random(2, seed = h)", tile=8),
    "edges": Case(
        "pattern p(near: int[token, 2]) { attend edges(near, 2) }",
        24,
        24,
        inputs={"near": [[(7 * i) % 24, i - 1] for i in range(24)]},
    ),
    "matrix": Case(
        "pattern p(see: bool[q, k]) { attend see[q, k] }",
        20,
        24,
        inputs={"see": [[(3 * i + 5 * j) % 7 < 3 for j in range(24)] for i in range(20)]},
    ),
    "float-mask": Case("attend sin(q * 0.7) < cos(k * 0.3)".replace("attend ", ""), 24, 24, heads=1),
    "floats-of-mask-and-score": Case(  # 7 * 0.1 is above 0.7 in 64 bits, and not in 32
        "pattern p { attend causal & q * 0.1 <= 0.7\n score s * (1.0 + q * 0.1) }", 20, 20
    ),
    "empty": Case("none", 20, 20),
    "some-rows-empty": Case("pattern p { attend q % 3 == 1 & causal }", 40, 40, heads=1, tile=8),
    "no-keys": Case("pattern p over left -> right { attend q < 3 }", 5, 0, heads=1),
    "full-heads": Case("h % 2 == 0 & same(token // 6)"),
    "alibi": Case(_ALIBI.format(""), floats={"slope": (2,)}),
    "soft-cap": Case("pattern p { attend causal & window(9)\n score 5.0 * tanh(s / 5.0) }", heads=1, tile=8),
    "score-inputs": Case(
        "pattern p(bias: float[k], m: float[q]) { attend window(6, 6)\n score s * m[q] + bias[k] }",
        30,
        30,
        batch=2,
        floats={"bias": (30,), "m": (2, 30)},
    ),
    "score-of-queries-alone": Case(
        "pattern p(m: float[q]) { attend causal\n score m[q] }", floats={"m": (40,)}, strided=True
    ),
    "score-of-keys-alone": Case(
        "pattern p(m: float[k]) { attend causal\n score m[k]\n normalize sigmoid }", floats={"m": (40,)}
    ),
    "score-of-heads-alone": Case(
        "pattern p(m: float[head]) { attend causal\n score m[h] }", floats={"m": (4,)}, heads=4, tile=32, pack=2
    ),
    "score-of-nothing": Case("pattern p { attend causal\n score 0.5\n normalize relu }", heads=1),
    "output-of-nothing": Case("pattern p { attend causal\n output 0.5 }", heads=1),
    "decode-score-of-nothing": Case("pattern p { attend causal\n score 0.5\n output 0.5 * o }", 2, 50, splits=2),
    "decode-output-of-nothing": Case("pattern p { attend causal\n output 0.5 }", 2, 50, splits=2),
    "bias-by-distance": Case(
        "pattern p(bias: float[head, 9]) { attend causal\n score s + bias[h, q - k] }",
        45,
        45,
        4,
        2,
        batch=2,
        floats={"bias": (4, 9)},
    ),
    "bias-of-all-heads": Case(
        "pattern p(bias: float[23]) { attend window(20, 9)\n score s * (1.0 + bias[q - k + 11]) }",
        21,
        45,
        4,
        2,
        batch=3,
        floats={"bias": (23,)},
    ),
    "bias-by-bucket": Case(
        "pattern p(n: int[batch], bias: float[head, 12]) { attend padding(n[b])\n"
        " let near = min(5, floor(2.0 * log2(max(1.0, 1.0 * abs(q - k)))))\n"
        " score s + bias[h, match k > q { true: 6 + near; else: near }] }",
        scale=1.0,
        batch=2,
        inputs={"n": [17, 40]},
        floats={"bias": (2, 12)},
    ),
    "bias-by-step": Case(
        "pattern p(bias: float[head, 5, 3]) over grid(y, x) { attend neighborhood(y, 3) & neighborhood(x, 3)\n"
        " score s + bias[h, y[q] - y[k] + 2, x[q] - x[k] + 1] }",
        45,
        45,
        sizes={"y": 5, "x": 9},
        floats={"bias": (2, 5, 3)},
    ),
    "bias-of-pairs": Case(
        "pattern p(bias: float[q, k]) { attend window(20, 20) & q % 3 > 0\n score s + bias[q, k] }",
        21,
        45,
        4,
        2,
        batch=2,
        floats={"bias": (21, 45)},
    ),
    "bias-of-pairs-by-batch": Case(
        "pattern p(doc: int[token], bias: float[head, q, k]) { attend same(doc)\n score s + bias[h, q, k] }",
        heads=1,
        batch=2,
        inputs={"doc": [_DOCUMENTS, [0] * 25 + [5] * 15]},
        floats={"bias": (2, 1, 40, 40)},
    ),
    "biases-together": Case(
        "pattern p(far: float[16], both: float[3, 3], slope: float[head]) { attend window(9, 4)\n"
        " score 4.0 * tanh((s + far[q - k] + both[q % 3, k % 3] + slope[h] * (k - q)) / 4.0)\n normalize sigmoid }",
        40,
        40,
        floats={"far": (16,), "both": (3, 3), "slope": (2,)},
    ),
    "bias-half": Case(
        "pattern p(bias: float[head, 9]) { attend causal\n score s + bias[h, q - k] }",
        dtype="float16",
        floats={"bias": (2, 9)},
    ),
    "sink-and-gate": Case(
        "pattern p(sink: float[head], gate: float[q, head]) { attend causal & window(9) & q % 4 < 3\n"
        " normalize softmax(sink = sink[h])\n output o * gate[q, h] }",
        37,
        50,
        floats={"sink": (2,), "gate": (37, 2)},
    ),
    "sigmoid": Case("pattern p { attend causal\n normalize sigmoid }", heads=1, tile=8),
    "relu": Case("pattern p { attend window(8, 8)\n normalize relu }", heads=1),
    "packed-window": Case("causal & window(20)", 90, 130, 8, 2, tile=64, pack=4),
    "packed-half": Case("causal & window(9)", 70, 70, 6, 1, 64, 48, dtype="float16", tile=32, pack=2, strided=True),
    "packed-by-head": Case(
        "pattern p(w: int[head], slope: float[head], sink: float[head], gate: float[q, head]) {\n"
        " attend causal & q - k < w[h] & q % 5 > 0\n score s + slope[h] * (k - q)\n"
        " normalize softmax(sink = sink[h])\n output o * gate[q, h] }",
        60,
        64,
        4,
        2,
        tile=32,
        inputs={"w": [9, 9, 20, 20]},
        floats={"slope": (4,), "sink": (4,), "gate": (60, 4)},
        pack=2,
    ),
    "packed-by-intervals": Case(
        "pattern p(doc: int[token]) { attend same(doc) & causal }",
        heads=4,
        tile=32,
        inputs={"doc": _DOCUMENTS},
        clauses=1,
        pack=2,
    ),
    "packed-and-laid-out": Case("dilated(9, 2)", 128, 128, 4, 2, tile=32, layout="residues", pack=2),
    "apart-by-head": Case(
        "pattern p(w: int[head]) { attend causal & q - k < w[h] }", heads=2, tile=32, inputs={"w": [5, 20]}, pack=1
    ),
    "laid-out-classes": Case("dilated(8, 4) & causal", 128, 128, strided=True, layout="residues"),
    "laid-out-classes-ragged": Case("dilated(3, 4) & causal", 21, 45, layout="residues"),
    "laid-out-blocks": Case(_GRID, 128, 128, sizes={"t": 4, "y": 4, "x": 8}, layout="blocks"),
    "laid-out-blocks-half": Case(
        _GRID, 128, 128, 4, 2, 64, 48, dtype="float16", tile=32, sizes={"t": 4, "y": 4, "x": 8}, layout="blocks"
    ),
    "laid-out-blocks-ragged": Case(_GRID, 60, 60, sizes={"t": 3, "y": 4, "x": 5}, layout="blocks"),
    "laid-out-labels": Case(
        "pattern p(doc: int[token]) { attend same(doc) & causal }",
        40,
        60,
        inputs={"doc": [7 * i % 5 for i in range(60)]},
        layout="sorted",
    ),
    "laid-out-labels-by-intervals": Case(
        "pattern p(doc: int[token]) { attend same(doc) & q % 7 > 0 }",
        inputs={"doc": [7 * i % 3 for i in range(40)]},
        layout="sorted",
        clauses=1,
    ),
    "laid-out-scores": Case(
        "pattern p(bias: float[k], m: float[q], gate: float[q, head]) { attend dilated(8, 4) & q % 5 > 0\n"
        " score s * m[q] + bias[k] - 0.01 * abs(q - k)\n output o * gate[q, h] }",
        64,
        128,
        batch=2,
        floats={"bias": (128,), "m": (2, 64), "gate": (64, 2)},
        layout="residues",
    ),
    "laid-out-sigmoid": Case(
        "pattern p { attend dilated(8, 4) & causal\n normalize sigmoid }", 128, 128, heads=1, layout="residues"
    ),
    "decode": Case("causal", 3, 60, 4, 2, splits=3),
    "decode-by-head": Case(
        "pattern p(w: int[head], sink: float[head]) { attend causal & q - k < w[h]\n"
        " score s + 0.1 * h\n normalize softmax(sink = sink[h])\n output 2.0 * o }",
        2,
        60,
        4,
        2,
        splits=2,
        inputs={"w": [5, 25, 5, 5]},
        floats={"sink": (4,)},
    ),
    "decode-sigmoid": Case("pattern p { attend causal\n normalize sigmoid }", 1, 50, 2, 1, splits=2),
    "decode-relu-cross": Case(
        "pattern p over left -> right { attend q // 3 == k // 9\n normalize relu }", 13, 33, 3, 3, splits=3, scale=-0.2
    ),
    "decode-listed": Case(
        "pattern p(doc: int[token]) { attend same(doc) | k < 3 }",
        2,
        40,
        4,
        2,
        batch=2,
        splits=2,
        inputs={"doc": [_DOCUMENTS, _DOCUMENTS[::-1]]},
    ),
    "decode-inputs": Case(
        "pattern p(w: int[head, batch], bias: float[k], m: float[q], sink: float[head], gate: float[q, head]) {\n"
        " attend causal & q - k < w[h, b]\n score s * m[q] + bias[k]\n normalize softmax(sink = sink[h])\n"
        " output o * gate[q, h] + 0.25 * m[q] }",
        3,
        50,
        6,
        2,
        dim=24,
        value_dim=40,
        batch=2,
        dtype="float16",
        splits=2,
        strided=True,
        inputs={"w": [[5, 50], [9, 50], [0, 9], [50, 50], [1, 2], [40, 40]]},
        floats={"bias": (50,), "m": (2, 3), "sink": (6,), "gate": (3, 6)},
    ),
    "decode-grid": Case(
        "pattern p over text ++ grid(y, x) { attend k in text | neighborhood(y, 3) & causal on y }",
        2,
        45,
        sizes={"text": 5, "y": 5, "x": 8},
        splits=2,
        layout="none",
    ),
    "decode-in-the-middle": Case("sliding_window(9)", 3, 60, 4, 2, splits=3, q_start=30),
    "decode-before-the-keys-it-sees": Case("0 <= k - q < 20 | k < 3", 2, 60, splits=2, q_start=0),
    "decode-listed-in-the-middle": Case(
        "pattern p(doc: int[token], m: float[q], gate: float[q, head]) { attend same(doc) | q // 3 == k % 5\n"
        " score s * m[q]\n output o * gate[q, h] + 0.01 * q }",
        3,
        40,
        4,
        2,
        batch=2,
        splits=2,
        q_start=12,
        inputs={"doc": [_DOCUMENTS, _DOCUMENTS[::-1]]},
        floats={"m": (2, 3), "gate": (3, 4)},
    ),
    "decode-laid-out": Case("dilated(8, 4) & causal", 16, 128, splits=2, layout="residues"),
}

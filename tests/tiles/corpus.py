"""Masks of every kind that planning treats differently, and the kinds of their tiles by brute force."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.ir.binding import Binding
from maskc.ir.evaluate import dense
from maskc.ir.program import Program
from maskc.lower import lower_text
from maskc.tiles.binding import make_binding

__all__ = ["GRIDS", "INPUTS", "MASKS", "brute_kinds", "grid_case", "input_case", "plain_case"]

#: Masks over plain tokens.
MASKS: dict[str, str] = {
    "all": "true",
    "none": "false",
    "contradiction": "k < 100 & 200 < k",
    "causal": "causal",
    "anti-causal": "k >= q",
    "window": "sliding_window(100)",
    "window, tile-aligned": "sliding_window(128)",
    "two-sided window": "window(70, 33)",
    "not a window": "~window(50, 60)",
    "window | sinks": "sliding_window(128) | sinks(4) & causal",
    "window | many sinks": "(sliding_window(90) | sinks(130)) & causal",
    "chunk": "chunk(77) & causal",
    "chunk of 64": "chunk(64)",
    "prefix": "causal | k < 130",
    "Longformer": "window(40, 40) | global(token < 10)",
    "BigBird": "window(1, 1) on token // 16 | any(i in 0..3: k // 16 == hash(q // 16, i) % (size(k) // 16 + 1))",
    "random keys": "any(i in 0..5: k == hash(q, i) % (q + 1))",
    "dilated": "dilated(20, 3)",
    "dilated by more than a tile": "dilated(5, 50)",
    "strided": "causal & (sliding_window(30) | strided(30))",
    "stripes": "causal & (sliding_window(30) | stripe(30, 3))",
    "product of residues": "q % 2 == 0 & k % 3 == 1",
    "residues of sums": "(q + 2 * k) % 5 < 2 & (q - k) % 7 != 0",
    "stretches of differences": "(q - k) % 50 < 20 & (q - k) % 50 >= 5 | (k - q + 3) % 70 > 60",
    "all differences but some": "causal & (q - k) % 40 != 7 & (2 + k - q) % 45 != 3",
    "hash": "hash(q, k) % 2 == 0 & causal",
    "sparse hash": "hash(q, k) % 4096 == 0",
    "hash of rows": "hash(q) % 2 == 0 & k < q - 3",
    "hash of keys": "hash(k) % 3 == 0 | q == k",
    "powers of two": "any(i in 0..10: q - k == match i { 0: 1; 1: 2; 2: 4; 3: 8; 4: 16; 5: 32; 6: 64; _: 128 })",
    "product": "q * k % 11 < 3",
    "hyperbola": "q * k < 20000",
    "scaled": "2 * k <= q & q <= 3 * k + 7",
    "quotients": "q // (k + 1) == 2",
    "moving period": "(q - k) % (k // 50 + 1) == 0",
    "minimum": "min(q, 200) - max(k, 50) < 90 & abs(q - 2 * k) > 30",
    "floats": "exp(-0.01 * abs(q - k)) > 0.3 & sin(0.01 * q) < cos(0.02 * k)",
    "float floor": "floor(0.3 * q) == floor(0.3 * k)",
    "nested any": "any(i in 0..3: any(j in 0..2: k // 8 == q // 8 - 5 * i - j))",
    "tree": "any(i in 0..10: q // match i { 0: 1; 1: 2; 2: 4; 3: 8; 4: 16; 5: 32; 6: 64; _: 128 } == k)",
    "block diffusion": "q < 200 & k < 200 & chunk(50) | q >= 200 & q // 50 >= k // 50",
    "Boolean equality": "(q < 100) == (k < 150)",
}

#: Masks over a grid: text, extents.
GRIDS: dict[str, tuple[str, dict[str, int]]] = {
    "2-D window": ("over grid(y, x) { attend window(3, 3) on y & window(2, 4) on x }", {"y": 19, "x": 23}),
    "3-D neighbourhood": (
        "over grid(t, y, x) { attend neighborhood(t, 3) & neighborhood(y, 5) & neighborhood(x, 5) }",
        {"t": 5, "y": 9, "x": 11},
    ),
    "strided, dilated": (
        "over grid(y, x) { attend neighborhood(y, 5, stride = 2) & neighborhood(x, 5, dilation = 2) }",
        {"y": 18, "x": 25},
    ),
    "shifted windows": (
        "over grid(y, x) { attend shifted_window(y, 8, 4) & shifted_window(x, 8, 4) }",
        {"y": 24, "x": 24},
    ),
    "nearly all of a row": ("over grid(y, x) { attend window(2, 2) on y & window(20, 20) on x }", {"y": 19, "x": 23}),
    "blocks of a row": (
        "over grid(y, x) { attend window(30, 1) on y & (x[q] + 3) // 9 == (x[k] + 3) // 9 }",
        {"y": 13, "x": 23},
    ),
    "narrow last tile": ("over grid(y, x) { attend window(3, 0) on y & x[k] >= 18 }", {"y": 15, "x": 25}),
    "halo": ("over grid(y, x) { attend halo(y, 4, 2) & halo(x, 4, 2) }", {"y": 20, "x": 28}),
    "axial": ("over grid(y, x) { attend same(y) | same(x) }", {"y": 20, "x": 28}),
    "causal rows": ("over grid(y, x) { attend causal on y & window(3, 3) on x }", {"y": 16, "x": 32}),
    "text and grid": (
        "over text ++ image: grid(y, x) { attend causal | q in image & k in image & window(2, 2) on y }",
        {"text": 37, "y": 15, "x": 21},
    ),
}

#: Masks with inputs: signature and body.
INPUTS: dict[str, str] = {
    "documents": "(doc: int[token]) { attend causal & same(doc) }",
    "marked": "(mark: bool[token]) { attend window(20, 20) | global(mark) }",
    "padding": "(length: int[batch]) { attend causal & k < length[b] }",
    "own windows": "(w: int[head]) { attend sliding_window(w[h]) }",
    "per-query bound": "(a: int[q]) { attend k < a[q] }",
    "per-key flag": "(c: bool[k]) { attend c[k] & causal }",
    "explicit": "(see: bool[q, k]) { attend see[q, k] & k <= q + 5 }",
    "previous document": "(doc: int[token]) { attend doc[k] == doc[q] - 1 | doc[q - 3] == doc[k + 2] }",
    "head and documents": "(doc: int[token], r: bool[head]) { attend r[h] & same(doc) | ~r[h] & causal }",
    "edges": "(e: int[token, 3]) { attend any(i in 0..3: k == e[q, i]) }",
}


def _lower(text: str) -> Program:
    return lower_text(text)[0]


def plain_case(name: str, q_len: int, k_len: int) -> tuple[Program, Binding]:
    program = _lower(MASKS[name])
    return program, make_binding(program, q_len, k_len)


def grid_case(name: str) -> tuple[Program, Binding]:
    body, sizes = GRIDS[name]
    program = _lower("pattern p() " + body)
    axes = [v for n, v in sizes.items() if n != "text"]
    length = int(np.prod(axes)) + sizes.get("text", 0)
    return program, make_binding(program, length, length, sizes=sizes)


def input_case(name: str, q_len: int, k_len: int, seed: int = 0) -> tuple[Program, Binding]:
    program = _lower("pattern p" + INPUTS[name])
    return program, make_binding(program, q_len, k_len, heads=3, batch=2, **_values(program, q_len, k_len, seed))


def _values(program: Program, q_len: int, k_len: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    sorted_docs = np.sort(rng.integers(0, 9, (2, k_len)), axis=1)
    unsorted = rng.integers(0, 4, (1, k_len)).repeat(2, axis=0)
    contiguous = rng.permutation(9)[sorted_docs]
    every = {
        "doc": (sorted_docs, unsorted, contiguous)[seed % 3],
        "mark": rng.random(k_len) < 0.01,
        "length": np.array([k_len // 2, k_len]),
        "w": np.array([50, 9, 50]),
        "a": rng.integers(0, k_len, q_len),
        "c": rng.random(k_len) < 0.1,
        "see": rng.random((q_len, k_len)) < np.linspace(0, 0.003, k_len),
        "r": np.array([True, False, True]),
        "e": rng.integers(0, k_len, (k_len, 3)),
    }
    return {p.name: every[p.name] for p in program.params}


def brute_kinds(
    program: Program, binding: Binding, q_tile: int, k_tile: int, head: int = 0, batch: int = 0
) -> npt.NDArray[np.uint8]:
    """0, 1 or 2 (empty, partial, full) for every tile, by looking at every pair."""
    kept = dense(program, binding, head, batch)
    rows, cols = -(-kept.shape[0] // q_tile), -(-kept.shape[1] // k_tile)
    out = np.zeros((rows, cols), np.uint8)
    for r in range(rows):
        for c in range(cols):
            tile = kept[r * q_tile : (r + 1) * q_tile, c * k_tile : (c + 1) * k_tile]
            out[r, c] = 2 if tile.all() else int(tile.any())
    return out

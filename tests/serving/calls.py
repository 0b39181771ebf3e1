"""Calls of ``op.decode``, and for each the loop over entries that says what it means."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import maskc
from maskc.ir.nodes import Const, Symbol
from maskc.ir.ops import apply
from maskc.reference.attention import attention
from maskc.tiles.binding import bind

Tensor = torch.Tensor

__all__ = ["CASES", "Call", "Case", "make"]


@dataclass(frozen=True)
class Case:
    """A pattern and what it is called with. ``inputs``: name to shape, whose "N" is the extent of tokens."""

    text: str
    lengths: tuple[int, ...] = (37, 64, 5, 50)
    rows: int = 1
    heads: int = 4
    kv_heads: int = 2
    dim: int = 16
    value_dim: int = 16
    block: int = 16
    floats: dict[str, tuple[int | str, ...]] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    args: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    layer: int = 0
    start: tuple[int, ...] | None = None


_DOCUMENTS = np.repeat(np.arange(8), [3, 9, 1, 20, 7, 10, 4, 26])
_SINK = "pattern p(sink: float[head]) {{ attend {}\n normalize softmax(sink = sink[h]) }}"

CASES: dict[str, Case] = {
    "causal": Case("causal"),
    "causal-16": Case("causal", rows=16, lengths=(37, 64, 16, 17)),
    "shorter-than-queries": Case("causal", rows=8, lengths=(3, 0, 8, 40)),
    "absent": Case("causal", lengths=(0, 0, 0, 0)),
    "equal-lengths": Case("causal", rows=2, lengths=(40, 40, 40, 40)),
    "equal-pairs": Case("sliding_window(9)", rows=2, lengths=(40, 23, 40, 23)),
    "scattered-equals": Case("sliding_window(9)", rows=2, lengths=(40, 23, 23, 40)),
    "window": Case("sliding_window(10)", rows=3),
    "wide-window": Case("sliding_window(45)", rows=3, lengths=(37, 64, 2, 80)),
    "sinks-and-window": Case("sinks(4) | sliding_window(9)", rows=2, lengths=(37, 64, 7, 50)),
    "multi-query": Case("sinks(4) | sliding_window(9)", kv_heads=1, rows=4),
    "own-heads": Case("sinks(4) | sliding_window(9)", kv_heads=4),
    "dilated": Case("dilated(3, 4) & causal", rows=2),
    "strided": Case("causal & (sliding_window(4) | k % 8 == 7)", rows=2),
    "bidirectional": Case("window(5, 5) | k < 3", rows=4),
    "documents": Case("pattern p(doc: int[token]) { attend same(doc) & causal }", inputs={"doc": _DOCUMENTS}, rows=3),
    "documents-batch": Case(
        "pattern p(doc: int[token]) { attend same(doc) & causal }",
        inputs={"doc": np.stack([_DOCUMENTS, _DOCUMENTS[::-1], 0 * _DOCUMENTS, _DOCUMENTS // 2])},
        lengths=(37, 64, 37, 37),
    ),
    "documents-solved": Case(
        "pattern p(first: int[token]) { attend first[q] <= k <= q }",
        inputs={"first": np.repeat([0, 3, 12, 13, 33, 40, 50, 54], [3, 9, 1, 20, 7, 10, 4, 26])},
        rows=3,
    ),
    "clamped": Case(
        "pattern p(doc: int[token]) { attend doc[k + 1] == doc[q] | self }", inputs={"doc": _DOCUMENTS}, rows=2
    ),
    "padding": Case("pattern p(n: int[batch]) { attend causal & padding(n[b]) }", inputs={"n": [30, 64, 0, 7]}),
    "entry-number": Case("causal & k % 4 != b", lengths=(37, 64, 37, 50), rows=2),
    "entry-number-looked-up": Case(
        "pattern p(n: int[batch]) { attend causal & k % 4 != b & k < n[b] }",
        inputs={"n": [30, 64, 12, 7]},
        rows=2,
    ),
    "seen-pairs": Case(
        "pattern p(see: bool[q, k]) { attend see[q, k] }",
        inputs={"see": (np.arange(3 * 80).reshape(3, 80) * 7 % 11 < 4)},
        rows=3,
        lengths=(37, 64, 2, 80),
    ),
    "by-query": Case(
        "pattern p(far: bool[q]) { attend causal & (far[q] | q - k < 5) }",
        inputs={"far": [True, False, True]},
        rows=3,
        lengths=(37, 2, 1, 50),
    ),
    "by-head": Case("pattern p(w: int[head]) { attend causal & q - k < w[h] }", args={"w": [5, 25, 5, 60]}, rows=2),
    "by-layer": Case("match layer { 0: causal; else: sliding_window(5) }", layer=1),
    "head-kinds": Case("match h { 0: causal; 1: dilated(2, 5) & causal; else: sinks(2) | sliding_window(6) }", rows=2),
    "none": Case("none", rows=2),
    "some-rows-empty": Case("causal & q % 3 == 1", rows=5),
    "hash": Case("hash(q, k, h) % 3 == 0 & causal", rows=2),
    "ends": Case("k < 3 | k >= size(k) - 5", rows=2),
    "alibi": Case(
        "pattern p(slope: float[head]) { attend causal\n score s + slope[h] * (k - q) }", floats={"slope": (4,)}, rows=2
    ),
    "soft-cap": Case("pattern p { attend sliding_window(20)\n score 5.0 * tanh(s / 5.0) }", value_dim=24),
    "bias-by-token": Case(
        "pattern p(bias: float[k], m: float[q]) { attend causal\n score s * m[q] + bias[k] }",
        floats={"bias": (4, "N"), "m": (4, 3)},
        rows=3,
        lengths=(37, 64, 2, 50),
    ),
    "sink": Case(_SINK.format("sliding_window(9)"), floats={"sink": (4,)}, rows=2, value_dim=8),
    "sink-only": Case(_SINK.format("none"), floats={"sink": (4,)}),
    "gate": Case(
        "pattern p(gate: float[q, head]) { attend causal\n output o * gate[q, h] }", floats={"gate": (2, 4)}, rows=2
    ),
    "batched-gate": Case(
        "pattern p(gate: float[batch]) { attend causal\n output o * gate[b] + 0.5 * b }", floats={"gate": (4,)}, rows=2
    ),
    "sigmoid": Case("pattern p { attend sliding_window(20)\n normalize sigmoid }", rows=2),
    "relu": Case("pattern p { attend causal\n normalize relu }", value_dim=40),
    "image": Case(
        "pattern p over text ++ grid(y, x) { attend k in text | neighborhood(y, 3) & causal on y }",
        sizes={"text": 5, "x": 8},
        lengths=(37, 61, 5, 21),
        rows=2,
    ),
    # The product of three extents, of which one follows from the length, is where the text starts.
    "video": Case(
        "pattern p over grid(t, y, x) ++ text { attend k in text | neighborhood(y, 3) & same(t) }",
        sizes={"text": 5, "y": 2, "x": 4},
        lengths=(37, 61, 5, 21),
        rows=2,
    ),
    "cross": Case("pattern p over left -> right { attend k < 30 }", rows=3, lengths=(37, 0, 5, 50)),
    "gone": Case("sliding_window(9)", rows=2, lengths=(37, 64, 7, 50), start=(20, 41, 0, 36)),
    "gone-and-kept": Case("causal", rows=2, lengths=(37, 64, 7, 50), start=(20, 41, 7, 3)),
    "gone-documents": Case(
        "pattern p(doc: int[token]) { attend same(doc) & causal }",
        inputs={"doc": _DOCUMENTS},
        lengths=(37, 64, 7, 50),
        start=(14, 41, 5, 49),
    ),
}


@dataclass
class Call:
    """Tensors of a case: caches dense and in pages, poisoned wherever no kept key lies."""

    case: Case
    op: Any
    q: Tensor
    k: Tensor
    v: Tensor
    lengths: Tensor
    start: Tensor | None
    k_pages: Tensor
    v_pages: Tensor
    table: Tensor
    inputs: dict[str, Any]

    def dense(self, **more: Any) -> Any:
        return self.op.decode(self.q, self.k, self.v, self.lengths, **self._given(more))

    def paged(self, **more: Any) -> Any:
        return self.op.decode(self.q, self.k_pages, self.v_pages, self.lengths, self.table, **self._given(more))

    def _given(self, more: dict[str, Any]) -> dict[str, Any]:
        return {"start": self.start, "sizes": self.case.sizes, "inputs": self.inputs, **more}

    def wanted(self) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp, by the reference in float64, one entry after another."""
        outs, lses = [], []
        for b, length in enumerate(self.case.lengths):
            out, lse = _entry(self, b, length)
            outs.append(out)
            lses.append(lse)
        return torch.stack(outs), torch.stack(lses)


def _entry(call: Call, b: int, length: int) -> tuple[Tensor, Tensor]:
    """One entry of the loop: its own keys, queries and inputs, but the number of the entry, which ``b`` is."""
    case, program = call.case, call.op.program
    out = torch.zeros(case.heads, case.rows, case.value_dim, dtype=torch.float64)
    lse = torch.full((case.heads, case.rows), -torch.inf, dtype=torch.float64)
    rows = case.rows if program.cross else min(case.rows, length)
    if rows == 0:
        return out, lse
    start = 0 if case.start is None else case.start[b]
    values, floats = {}, {}
    for p in program.params:
        if p.name in call.inputs:
            given = call.inputs[p.name]
            x = given if isinstance(given, Tensor) else torch.as_tensor(np.asarray(given))
            batched = x.ndim > len(p.domain)
            for axis, d in enumerate(["batch", *p.domain] if batched else p.domain):
                if d in ("token", "k"):
                    x = x.narrow(axis, 0, length)
                elif d == "q":
                    x = x.narrow(axis, x.shape[axis] - rows, rows)
            (floats if x.is_floating_point() else values)[p.name] = x
    batch = len(case.lengths)
    known = {**values, **case.args, **floats}
    binding = bind(
        program, rows, length, heads=case.heads, layer=case.layer, batch=batch, sizes=case.sizes, values=known
    )
    if start:
        there = apply("le", Const(start), Symbol("k"))
        program = program.replace(mask=apply("and", there, program.mask))
    k, v = (torch.zeros(batch, case.kv_heads, length, x.shape[3], dtype=torch.float64) for x in (call.k, call.v))
    k[b, :, start:], v[b, :, start:] = call.k[b, :, : length - start], call.v[b, :, : length - start]
    q = call.q[:, :, case.rows - rows :].double()
    exact = {n: x.double() for n, x in floats.items()}
    found, found_lse = attention(program, binding, q, k, v, scale=case.dim**-0.5, floats=exact)
    out[:, case.rows - rows :] = found[b]
    lse[:, case.rows - rows :] = 0.0 if found_lse is None else found_lse[b]
    return out, lse


def make(case: Case, dtype: torch.dtype = torch.float32, backend: str = "cpu", strided: bool = False) -> Call:
    """The call of a case: pages in a random order, with NaN in every slot that holds no key of an entry.
    ``strided``: the elements of a query are apart, and those of keys lie as servers have them."""
    generator = torch.Generator().manual_seed(len(case.text))
    op = maskc.compile(case.text, heads=case.heads, layer=case.layer, backend=backend, arguments=case.args)
    batch, longest = len(case.lengths), max(case.lengths)
    start = (0,) * batch if case.start is None else case.start
    capacity = longest + 3

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    blocks = -(-capacity // case.block)
    order = torch.randperm(batch * blocks + 2, generator=generator)
    table = torch.full((batch, blocks), -1, dtype=torch.int32)
    q = random(batch, case.heads, case.rows, case.dim)
    q = q.repeat_interleave(2, -1)[..., ::2] if strided else q
    caches, pages = [], []
    for dim in (case.dim, case.value_dim):
        cache = random(batch, capacity, case.kv_heads, dim).transpose(1, 2)
        paged = torch.full((batch * blocks + 2, case.block, 2, case.kv_heads, dim), torch.nan, dtype=dtype)[:, :, 0]
        for b, (length, first) in enumerate(zip(case.lengths, start, strict=True)):
            cache[b, :, length - first :] = torch.nan
            for i in range(-(-(length - first) // case.block)):
                a, z = i * case.block, min((i + 1) * case.block, length - first)
                table[b, i] = order[b * blocks + i]
                paged[table[b, i], : z - a] = cache[b, :, a:z].transpose(0, 1)
        caches.append(cache if strided else cache.contiguous())
        pages.append(paged if strided else paged.contiguous())
    extent = {"N": max(longest, 80)}
    inputs = {**case.inputs}
    for name, shape in case.floats.items():
        inputs[name] = random(*(extent[s] if isinstance(s, str) else s for s in shape))
    return Call(
        case,
        op,
        q,
        *caches,
        torch.tensor(case.lengths, dtype=torch.int32),
        None if case.start is None else torch.tensor(case.start),
        *pages,
        table,
        inputs,
    )

"""Whether what benchmarks/gpu.py measures is right."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from _gpu_rows import Check, Pattern

import maskc

Tensor = torch.Tensor
Row = dict[str, Any]
_sdpa: Any = torch.nn.functional.scaled_dot_product_attention
CHECKED = 1024  # length at which the rows' results are compared with float64


def poison(like: Tensor) -> None:
    """Fill what the allocator hands out next with NaN."""
    if like.device.type == "cuda":
        for size in (like.numel() // 2, like.numel(), 8 * like.numel()):
            torch.full((size,), torch.nan, device=like.device)


def two_runs(call: Callable[[], list[Tensor]], like: Tensor) -> tuple[list[Tensor], bool, float]:
    """Results, whether a second run gives the same bits, and the seconds of the first."""
    poison(like)
    start = time.perf_counter()
    first = call()
    if like.device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    poison(like)
    return first, all(torch.equal(a, b) for a, b in zip(first, call(), strict=True)), seconds


def verdict(names: list[str], ours: list[Tensor], same: list[Tensor], exact: list[Tensor], share: float = 1e-5) -> str:
    """ "yes", or what is wrong: errors against float64 may be half as large again as ``same`` has in the same dtype,
    and a share of the numbers themselves."""
    for name, a, b, c in zip(names, ours, same, exact, strict=True):
        if a.shape != c.shape or not torch.equal(a.isneginf(), c.isneginf()):
            return f"{name}: other rows are empty"
        live = ~c.isneginf()
        mine, theirs, size = (x[live].double().square().mean().sqrt().item() for x in (a - c, b - c, c))
        if live.any() and not mine <= 1.5 * theirs + share * size + 1e-6:
            return f"{name}: error {mine:.2e}, in the same dtype elsewhere {theirs:.2e}"
    return "yes"


def op_of(p: Pattern, inputs: Row, sizes: dict[str, int], arguments: dict[str, Any]) -> tuple[Any, Row]:
    """The op, and the inputs that come with calls."""
    pattern = maskc.parse(p.text)
    static = {q.name for q in pattern.program.params if q.when == "compile"}
    given = {n: x.tolist()[: p.heads] for n, x in inputs.items() if n in static} | arguments
    options: Row = {"heads": p.heads, "sizes": sizes or None, "backend": "triton", "layout": p.layout}
    return maskc.compile(pattern, arguments=given, **options), {n: x for n, x in inputs.items() if n not in static}


def check_pattern(p: Pattern, device: str) -> Row:
    """A row's pattern at a length at which everything is dense in float64."""
    length = CHECKED if device == "cuda" else 60
    sizes = p.small if device == "cuda" or not p.small else {"t": 3, "y": 4, "x": 5}
    arguments = p.small_arguments if device == "cuda" else {n: min(v, 3) for n, v in p.small_arguments.items()}
    if sizes:
        length = sizes["t"] * sizes["y"] * sizes["x"]
    if device == "cpu":
        p = replace(p, heads=2, kv_heads=max(1, 2 * p.kv_heads // p.heads), dim=32, batch=1)
    inputs = p.inputs(length)
    op, given = op_of(p, inputs, sizes, arguments)
    dtype = torch.bfloat16 if device == "cuda" else torch.float16
    rows = length if p.queries is None else p.queries
    q = torch.randn(p.batch, p.heads, rows, p.dim, device=device, dtype=dtype).requires_grad_()
    k, v = (torch.randn(p.batch, p.kv_heads, length, p.dim, device=device, dtype=dtype) for _ in range(2))
    leaves = (q, k.requires_grad_(), v.requires_grad_())
    grad = torch.randn_like(q)

    def ours() -> list[Tensor]:
        if p.queries is not None:
            with torch.no_grad():
                return [*op(q, k, v, return_lse=True, **given)]
        out, lse = op(*leaves, return_lse=True, **given)
        return [out.detach(), lse.detach(), *torch.autograd.grad(out, leaves, grad)]

    dense = maskc.dense_mask(op.pattern, rows, length, heads=p.heads, sizes=sizes or None, **given)
    kept = torch.from_numpy(dense).to(device)

    def plain(as_dtype: torch.dtype) -> list[Tensor]:
        copies = [x.detach().to(as_dtype).requires_grad_() for x in leaves]
        every = [copies[0], *(x.repeat_interleave(p.heads // p.kv_heads, 1) for x in copies[1:])]
        out = _sdpa(*every, attn_mask=kept)
        with torch.no_grad():
            scores = (
                every[0].float() @ every[1].float().transpose(2, 3)
                if as_dtype != torch.float64
                else (every[0] @ every[1].transpose(2, 3))
            )
            lse = (scores * p.dim**-0.5).masked_fill(~kept, -torch.inf).logsumexp(-1)
        found = [out.detach(), lse]
        return found if p.queries is not None else [*found, *torch.autograd.grad(out, copies, grad.to(as_dtype))]

    result, same, seconds = two_runs(ours, q)
    told = verdict(["out", "lse", "dq", "dk", "dv"][: len(result)], result, plain(dtype), plain(torch.float64))
    return {"correct": told if same else "two runs differ", "compile_s": seconds}


def check_call(c: Check, device: str) -> Row:
    """A call against the reference."""
    if device == "cpu":
        c = _tiny(c)
    dtype = getattr(torch, c.dtype)

    def tensor(heads: int, length: int, dim: int) -> Tensor:
        if c.strided:
            return torch.randn(c.batch, length, heads, dim, device=device, dtype=dtype).transpose(1, 2)
        return torch.randn(c.batch, heads, length, dim, device=device, dtype=dtype)

    q, k = tensor(c.heads, c.queries, c.dim), tensor(c.kv_heads, c.keys, c.dim)
    v = tensor(c.kv_heads, c.keys, c.value_dim)
    floats = {n: torch.randn(s, device=device) for n, s in c.floats.items()}
    inputs = {n: torch.tensor(x)[..., : c.keys] for n, x in c.inputs.items()}
    grad = torch.randn(c.batch, c.heads, c.queries, c.value_dim, device=device, dtype=dtype)

    def run(backend: str, as_dtype: torch.dtype) -> list[Tensor]:
        op = maskc.compile(c.text, heads=c.heads, sizes=c.sizes or None, backend=backend)
        wide = torch.float64 if as_dtype == torch.float64 else torch.float32
        leaves = [x.detach().to(as_dtype).requires_grad_() for x in (q, k, v)]
        some = {n: x.detach().to(wide).requires_grad_() for n, x in floats.items()}
        softmax = op.program.normalizer.kind == "softmax"
        found = op(*leaves, return_lse=softmax, **some, **inputs)
        out, *lse = found if softmax else (found,)
        grads = torch.autograd.grad(out, [*leaves, *some.values()], grad.to(as_dtype))
        return [out.detach(), *(x.detach() for x in lse), *grads]

    result, same, seconds = two_runs(lambda: run("triton", dtype), q)
    names = ["out", *(["lse"] if len(result) > 4 + len(floats) else []), "dq", "dk", "dv", *(f"d {n}" for n in floats)]
    # The reference computes in float32 what goes through the tensor cores in 16 bits elsewhere.
    share = 1e-5 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
    told = verdict(names, result, run("reference", dtype), run("reference", torch.float64), share)
    if told == "yes" and device == "cuda" and not c.floats:
        told = in_a_graph(c, q, k, v, inputs)
    return {"correct": told if same else "two runs differ", "compile_s": seconds}


def _tiny(c: Check) -> Check:
    """The check for the interpreter, which takes milliseconds a tile."""
    short = {n: max(3, n // 10) for n in (c.queries, c.keys)}
    floats = {name: tuple(short.get(n, n) for n in shape) for name, shape in c.floats.items()}
    dtype = "float16" if c.dtype == "bfloat16" else c.dtype
    sizes: Row = {"queries": short[c.queries], "keys": short[c.keys], "dim": 32, "value_dim": 16}
    return replace(c, **sizes, dtype=dtype, floats=floats)


def in_a_graph(c: Check, q: Tensor, k: Tensor, v: Tensor, inputs: Row) -> str:
    """Whether a CUDA graph of the call gives the same on new numbers."""
    op = maskc.compile(c.text, heads=c.heads, backend="triton")
    with torch.no_grad():
        op(q, k, v, **inputs)
        torch.cuda.synchronize()
        graph: Any = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = op(q, k, v, **inputs)
        q.copy_(torch.randn_like(q))
        graph.replay()
        return "yes" if torch.equal(out, op(q, k, v, **inputs)) else "a CUDA graph gives something else"

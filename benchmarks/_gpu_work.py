"""The process of benchmarks/gpu.py that uses the GPU: python _gpu_work.py check|measure cuda|cpu ROUNDS NAME...

Writes a line of JSON to standard output where a row starts and where more of it is known: nothing is lost at its end.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import torch  # noqa: E402
from _gpu_rows import Check, Pattern, named  # noqa: E402

import maskc  # noqa: E402

Tensor = torch.Tensor
Row = dict[str, Any]
_sdpa: Any = torch.nn.functional.scaled_dot_product_attention
CHECKED = 1024  # length at which the rows' results are compared with float64
SLOW_MS, FEW = 150.0, 3  # what takes longer than this is measured this often only


def say(kind: str, what: Any) -> None:
    """A line for the parent."""
    print(json.dumps({kind: what}), flush=True)


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


class Clock:
    """Marks on a device's stream."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"

    def mark(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        new: Any = torch.cuda.Event
        event = new(enable_timing=True)
        event.record()
        return event

    def ms(self, a: Any, b: Any) -> float:
        return float(a.elapsed_time(b)) if self.cuda else 1e3 * (b - a)

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def memory(self) -> int:
        return torch.cuda.max_memory_allocated() if self.cuda else 0


def measure(p: Pattern, device: str, rounds: int) -> None:
    """Time all contenders of a row in turn."""
    if device == "cpu":  # only to see whether all of this works
        short: Row = {"sizes": p.small and {"t": 3, "y": 4, "x": 5}, "length": 60, "batch": 1}
        p = replace(p, heads=2, kv_heads=max(1, 2 * p.kv_heads // p.heads), dim=16, **short)
    row: Row = {"name": p.name, "times": {}, "peak": {}, "notes": []}
    n, dtype, clock = p.length, torch.bfloat16 if device == "cuda" else torch.float16, Clock(device)
    inputs = p.inputs(n)
    arguments = {} if device == "cuda" else {a: min(v, 3) for a, v in p.small_arguments.items()}
    op, given = op_of(p, inputs, p.sizes, arguments)
    rows = n if p.queries is None else p.queries
    q = torch.randn(p.batch, p.heads, rows, p.dim, device=device, dtype=dtype)
    k, v = (torch.randn(p.batch, p.kv_heads, n, p.dim, device=device, dtype=dtype) for _ in range(2))
    leaves = tuple(x.requires_grad_(p.queries is None) for x in (q, k, v))
    start = time.perf_counter()
    plan = op.plan(rows, n, q_tile=128, k_tile=64, layout=p.layout, **given)
    row["plan_ms"] = 1e3 * (time.perf_counter() - start)
    row["pairs"] = 128 * 64 * live_tiles(plan) * p.batch / plan.binding.batch
    row["work"] = 4 * row["pairs"] * p.dim
    row["tiles"] = row["pairs"] / (p.batch * p.heads * plan.rows * 128 * plan.cols * 64)
    start = time.perf_counter()
    run_once(lambda: op(*leaves, **given), leaves)
    clock.wait()
    row["first_s"] = time.perf_counter() - start
    say("row", row)
    forwards: dict[str, Callable[[], Tensor]] = {"maskc": lambda: op(*leaves, **given)}
    add_sdpa(p, forwards, leaves, device)
    if device == "cuda":
        on_device = {name: x.to(device) for name, x in inputs.items()}
        attempt("masked", row, lambda: add_masked(p, forwards, leaves, on_device))
        attempt("FlexAttention", row, lambda: add_flex(p, forwards, leaves, on_device))
    if p.queries is not None:
        lengths = torch.full((p.batch,), n, dtype=torch.int32)
        attempt("decode()", row, lambda: add_cached(op, forwards, leaves, lengths, given))
    contend(forwards, leaves, row, rounds, clock)
    say("row", row)


def live_tiles(plan: Any) -> int:
    """Tiles that are computed, over the heads and batch entries of the plan."""
    return sum(len(g.heads) * len(g.batches) * int((g.runs.end - g.runs.start).sum()) for g in plan.groups)


def run_once(forward: Callable[[], Tensor], leaves: tuple[Tensor, ...]) -> None:
    """Forward and, with gradients, backward."""
    if not leaves[0].requires_grad:
        with torch.no_grad():
            forward()
        return
    out = forward()
    torch.autograd.grad(out, leaves, torch.ones_like(out))


def attempt(what: str, row: Row, add: Callable[[], None]) -> None:
    """Add a contender, or a note where it fails."""
    try:
        add()
    except Exception as error:
        row["notes"].append(f"{what}: {type(error).__name__}: {error}".splitlines()[0][:100])


def add_sdpa(p: Pattern, forwards: dict[str, Any], leaves: tuple[Tensor, ...], device: str) -> None:
    """SDPA by flash attention and by cuDNN, over all keys, and causal where the pattern is."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    grouped = {"enable_gqa": True} if p.kv_heads != p.heads else {}
    kinds = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
    for name, kind in kinds.items() if device == "cuda" else [("math", SDPBackend.MATH)]:
        for way in ("full", "causal") if p.causal else ("full",):

            def forward(kind: Any = kind, causal: bool = way == "causal") -> Tensor:
                with sdpa_kernel(kind):
                    out: Tensor = _sdpa(*leaves, is_causal=causal, **grouped)
                    return out

            forwards[f"{name} {way}"] = forward


def mask_mod(p: Pattern, inputs: Row) -> Callable[..., Any]:
    """FlexAttention's form of the mask; the last query is the last key."""
    mod = p.flex(inputs, p.length)
    first = 0 if p.queries is None else p.length - p.queries
    return (lambda b, h, q, k: mod(b, h, q + first, k)) if first else mod


def add_masked(p: Pattern, forwards: dict[str, Any], leaves: tuple[Tensor, ...], inputs: Row) -> None:
    """SDPA with a dense mask, where that is not too large."""
    if p.length > 16384 or p.queries is not None or p.kv_heads != p.heads:
        return
    place = torch.arange(p.length, device="cuda", dtype=torch.int32)
    kept = mask_mod(p, inputs)(0, 0, place[:, None], place[None, :])
    mask = kept.expand(p.length, p.length).contiguous()
    forwards["masked"] = lambda: _sdpa(*leaves, attn_mask=mask)


def add_flex(p: Pattern, forwards: dict[str, Any], leaves: tuple[Tensor, ...], inputs: Row) -> None:
    """FlexAttention, compiled."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    torch._dynamo.reset()  # else it stops compiling after a few masks, without a word
    mod, heads = mask_mod(p, inputs), p.heads if "w" in inputs else None
    rows = p.queries or p.length
    # Evaluated at every pair of blocks at once where it is not compiled.
    block = torch.compile(create_block_mask)(mod, None, heads, rows, p.length, device="cuda")
    flex: Any = torch.compile(flex_attention)
    grouped = {"enable_gqa": True} if p.kv_heads != p.heads else {}
    forward = lambda: flex(*leaves, block_mask=block, **grouped)  # noqa: E731
    run_once(forward, leaves)
    forwards["flex"] = forward


def add_cached(op: Any, forwards: dict[str, Any], leaves: tuple[Tensor, ...], lengths: Tensor, given: Row) -> None:
    """Decoding over caches whose lengths may differ."""
    from maskc.serving import decode

    forward = lambda: decode(op, *leaves, lengths, **given)  # noqa: E731
    forward()
    forwards["decode()"] = forward


def contend(
    forwards: dict[str, Callable[[], Tensor]], leaves: tuple[Tensor, ...], row: Row, rounds: int, clock: Clock
) -> None:
    """Forward and backward of every contender in turn; medians, with the chip's cache flushed before each."""
    flush = torch.empty((64 << 20) if clock.cuda else 1, dtype=torch.int32, device=leaves[0].device)
    taken: dict[str, list[float]] = {}
    for number in range(rounds + 2):
        for name, forward in list(forwards.items()):
            if (
                number > 1 + FEW
                and sum(taken.get(f"{name} {way}", [0])[-1] for way in ("forward", "backward")) > SLOW_MS
            ):
                continue
            try:
                found, peak = one_turn(forward, leaves, flush, clock)
            except Exception as error:
                row["notes"].append(f"{name}: {type(error).__name__}: {error}".splitlines()[0][:100])
                del forwards[name]
                continue
            if number >= 2:
                for way, ms in found.items():
                    taken.setdefault(f"{name} {way}", []).append(ms)
            row["peak"][name] = peak
        row["times"] = {name: sorted(ms)[len(ms) // 2] for name, ms in taken.items()}
        if number in (2, 5):
            say("row", row)


def one_turn(
    forward: Callable[[], Tensor], leaves: tuple[Tensor, ...], flush: Tensor, clock: Clock
) -> tuple[dict[str, float], int]:
    """Milliseconds of the forward and, with gradients, of the backward pass; bytes allocated at most beyond before."""
    grads = leaves[0].requires_grad
    before = torch.cuda.memory_allocated() if clock.cuda else 0
    if clock.cuda:
        torch.cuda.reset_peak_memory_stats()
    with contextlib.nullcontext() if grads else torch.no_grad():
        flush.zero_()
        marks = [clock.mark()]
        out = forward()
        marks.append(clock.mark())
    if grads:
        grad = torch.ones_like(out)
        flush.zero_()
        marks.append(clock.mark())
        torch.autograd.grad(out, leaves, grad)
        marks.append(clock.mark())
    clock.wait()
    found = {"forward": clock.ms(marks[0], marks[1])}
    if grads:
        found["backward"] = clock.ms(marks[2], marks[3])
    return found, clock.memory() - before


def main() -> None:
    mode, device, rounds, *names = sys.argv[1:]
    if device == "cpu":
        torch.set_num_threads(1)
    for name in names:
        say("start", name)
        one = named(name)
        try:
            if mode == "measure":
                assert isinstance(one, Pattern)
                measure(one, device, int(rounds))
            else:
                found = check_pattern(one, device) if isinstance(one, Pattern) else check_call(one, device)
                say("row", {"name": name, **found})
        except Exception as error:
            text = f"{type(error).__name__}: {error}"[:300].replace("\n", " ")
            say("row", {"name": name, **({"failed": text} if mode == "measure" else {"correct": text})})
        if device == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()

"""The process of benchmarks/gpu.py that uses the GPU: python _gpu_work.py check|measure cuda|cpu ROUNDS NAME...

Writes a line of JSON to standard output where a row starts and where more of it is known: nothing is lost at its end.
To measure, a process compiles everything, says that it is ready, and waits for a line on standard input: then no other
one uses the GPU.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import torch  # noqa: E402
from _gpu_check import check_call, check_pattern, op_of  # noqa: E402
from _gpu_rows import Pattern, named  # noqa: E402

Tensor = torch.Tensor
FAILED = 75  # exit status after a failure that was told
Row = dict[str, Any]
_sdpa: Any = torch.nn.functional.scaled_dot_product_attention
SLOW_MS, FEW = 150.0, 1  # what takes longer than this is measured this often only
DENSE = 16384  # keys up to which a mask of every pair is made
LONG = 65536  # keys beyond which only the faster of SDPA's kernels is measured, which takes a second there
READY_SECONDS = 75  # that a contender may take to be compiled and to run once
TILE = 64  # of queries and of keys, in which work is counted
FLUSHES = 24  # of 256 MB: so that the host has submitted all kernels before the device comes to the first


def say(kind: str, what: Any) -> None:
    """A line for the parent."""
    print(json.dumps({kind: what}), flush=True)


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
    n, clock = p.length, Clock(device)
    op, leaves, inputs, given = prepared(p, device)
    rows = leaves[0].shape[2]
    start = time.perf_counter()
    plan = op.plan(rows, n, q_tile=TILE, k_tile=TILE, layout=p.layout, **given)
    row["plan_ms"] = 1e3 * (time.perf_counter() - start)
    row["pairs"] = TILE * TILE * live_tiles(plan) * p.batch / plan.binding.batch
    row["work"] = 4 * row["pairs"] * p.dim if p.queries is None else 0  # a tile is no measure of a single query
    row["tiles"] = row["pairs"] / (p.batch * p.heads * plan.rows * TILE * plan.cols * TILE)
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
    clock.wait()
    if clock.cuda:
        torch.cuda.empty_cache()
    say("ready", p.name)
    if not sys.stdin.readline():  # nobody waits for it any more
        return
    contend(forwards, leaves, row, rounds, clock)
    row["host"] = {name: submitted(forwards[name], leaves, clock) for name in ("maskc", "flex") if name in forwards}
    say("row", row)


def submitted(forward: Callable[[], Tensor], leaves: tuple[Tensor, ...], clock: Clock) -> float:
    """Microseconds that the host takes to submit a forward pass, the median of some."""
    taken = []
    with contextlib.nullcontext() if leaves[0].requires_grad else torch.no_grad():
        for _ in range(9):
            clock.wait()
            start = time.perf_counter()
            forward()
            taken.append(1e6 * (time.perf_counter() - start))
    return sorted(taken)[len(taken) // 2]


def prepared(p: Pattern, device: str) -> tuple[Any, tuple[Tensor, ...], Row, Row]:
    """The op of a row, its q, k and v, all inputs of the pattern, and those that come with calls, on the device."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float16
    inputs = p.inputs(p.length)
    arguments = {} if device == "cuda" else {a: min(v, 3) for a, v in p.small_arguments.items()}
    op, given = op_of(p, inputs, p.sizes, arguments)
    rows = p.length if p.queries is None else p.queries
    q = torch.randn(p.batch, p.heads, rows, p.dim, device=device, dtype=dtype)
    k, v = (torch.randn(p.batch, p.kv_heads, p.length, p.dim, device=device, dtype=dtype) for _ in range(2))
    leaves = tuple(x.requires_grad_(p.queries is None) for x in (q, k, v))
    return op, leaves, inputs, {name: x.to(device) for name, x in given.items()}


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
    """Add a contender, or a note where it fails or takes too long."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"not ready in {READY_SECONDS} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(READY_SECONDS)
    try:
        add()
    except Exception as error:
        row["notes"].append(f"{what}: {type(error).__name__}: {error}".splitlines()[0][:100])
    finally:
        signal.alarm(0)


def add_sdpa(p: Pattern, forwards: dict[str, Any], leaves: tuple[Tensor, ...], device: str) -> None:
    """SDPA by flash attention and by cuDNN, over all keys, and causal where the pattern is."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    grouped = {"enable_gqa": True} if p.kv_heads != p.heads else {}
    kinds = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
    if p.length > LONG:
        del kinds["flash"]
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
    if p.length > DENSE or p.queries is not None or p.kv_heads != p.heads:
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
    # Evaluated at every pair at once where it is not compiled; at 16,384 tokens, compiling did not end.
    make: Any = torch.compile(create_block_mask) if p.length > DENSE else create_block_mask
    block = make(mod, None, heads, rows, p.length, device="cuda")
    flex: Any = torch.compile(flex_attention)
    grouped = {"enable_gqa": True} if p.kv_heads != p.heads else {}
    forward = lambda: flex(*leaves, block_mask=block, **grouped)  # noqa: E731
    run_once(forward, leaves)
    forwards["flex"] = forward


def add_cached(op: Any, forwards: dict[str, Any], leaves: tuple[Tensor, ...], lengths: Tensor, given: Row) -> None:
    """Decoding over caches whose lengths may differ."""
    from maskc.serving import decode

    q, k, v = leaves
    forward = lambda: decode(op, q, k, v, lengths, **given)  # noqa: E731
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
        for _ in range(FLUSHES):
            flush.zero_()
        marks = [clock.mark()]
        out = forward()
        marks.append(clock.mark())
    if grads:
        grad = torch.ones_like(out)
        for _ in range(FLUSHES):
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
            if device == "cuda":  # which may be of no use any more
                sys.exit(FAILED)
        if device == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()

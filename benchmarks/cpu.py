"""The CPU backend beside FlexAttention and SDPA, in one run: ``python benchmarks/cpu.py [section ...]``.

Every figure is taken in turn with those it is compared with, all warm, with the same threads; times
are the median (and the least) of the rounds, ratios the median of the rounds' ratios. Sections that
measure memory or a first call run in a process of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

import maskc

PATTERNS: dict[str, tuple[str, Callable[..., Any]]] = {
    "window 512": ("sliding_window(512)", lambda b, h, q, k: (q >= k) & (q - k < 512)),
    "documents of 1024": ("causal & same(token // 1024)", lambda b, h, q, k: (q >= k) & (q // 1024 == k // 1024)),
    "window 256 + 64 global": ("-256 < q - k < 256 | k < 64", lambda b, h, q, k: ((q - k).abs() < 256) | (k < 64)),
    "causal": ("causal", lambda b, h, q, k: q >= k),
}


def tensors(n: int, heads: int, m: int | None = None) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(1, heads, length, 64) for length in (n, m or n, m or n)]


def rounds(work: dict[str, Callable[[], Any]], count: int) -> dict[str, list[float]]:
    """Seconds of every piece of work, taken in turn."""
    for run in work.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(count):
        for name, run in work.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return times


def shown(times: list[float]) -> str:
    return f"{1e3 * statistics.median(times):.1f} ({1e3 * min(times):.1f})"


def ratio(slow: list[float], fast: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def line(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def head(*cells: str) -> None:
    line(*cells)
    print("|" + "---|" * len(cells), flush=True)


def table(*rows: list[str]) -> None:
    head(*rows[0])
    for row in rows[1:]:
        line(*row)
    print(flush=True)


def kept(text: str, n: int) -> int:
    """Pairs that a mask keeps."""
    from maskc.tiles import make_plan

    program = maskc.parse(text).program
    plan = make_plan(program, maskc.make_binding(program, n, n))
    intervals = plan.intervals(plan.groups[0])
    assert intervals is not None
    return sum(int((hi - lo).sum()) for lo, hi in intervals)


def forward(count: int) -> None:
    """Forward pass beside compiled FlexAttention and SDPA's causal path."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    torch._dynamo.config.recompile_limit = 64
    flex, square = torch.compile(flex_attention), torch.randn(2048, 2048)
    rows = [
        ["work", "maskc ms, median (least)", "FlexAttention", "ratio", "ratio of the least", "share of matmul's rate"]
    ]
    for name, n, heads in [*((p, 8192, 4) for p in PATTERNS), ("window 512", 16384, 8)]:
        text, mask = PATTERNS[name]
        q, k, v = tensors(n, heads)
        op = maskc.compile(text, heads=heads, backend="cpu")
        blocks = create_block_mask(mask, None, None, n, n, device="cpu")
        work = {
            "ours": lambda: op(q, k, v),  # noqa: B023
            "flex": lambda: flex(q, k, v, block_mask=blocks),  # noqa: B023
            "matmul": lambda: square @ square,
        }
        if name == "causal":
            work["sdpa"] = lambda: sdpa(q, k, v, is_causal=True)  # noqa: B023
        assert torch.allclose(work["ours"](), work["flex"](), atol=1e-5)
        times = rounds(work, count)
        ours, theirs = times["ours"], times["flex"]
        useful = 4 * 64 * heads * kept(text, n) / min(ours) / (2 * 2048**3 / min(times["matmul"]))
        label = f"{name}, N {n}, H {heads}"
        rows.append([label, shown(ours), shown(theirs), f"{ratio(theirs, ours):.2f}", f"{min(theirs) / min(ours):.2f}",
                     f"{100 * useful:.0f} %"])  # fmt: skip
        if name == "causal":
            said = ["the same, beside SDPA is_causal", shown(ours), shown(times["sdpa"])]
            rows.append([*said, f"{ratio(times['sdpa'], ours):.2f}", f"{min(times['sdpa']) / min(ours):.2f}", ""])
    print(f"{torch.get_num_threads()} threads\n")
    table(*rows)


def backward(count: int) -> None:
    """Forward and backward pass beside SDPA with a dense Boolean mask."""
    n, heads = 8192, 4
    head("work", "maskc ms, median (least)", "SDPA, dense mask", "speed-up", "ideal (1 / density)", "share of ideal")
    q, k, v = (x.requires_grad_() for x in tensors(n, heads))
    grad, at = torch.randn(q.shape), torch.arange(n)
    for name, (text, mask) in PATTERNS.items():
        op = maskc.compile(text, heads=heads, backend="cpu")
        dense = mask(0, 0, at[:, None], at[None, :])
        work = {
            "ours": lambda: torch.autograd.grad(op(q, k, v), (q, k, v), grad),  # noqa: B023
            "sdpa": lambda: torch.autograd.grad(sdpa(q, k, v, attn_mask=dense), (q, k, v), grad),  # noqa: B023
        }
        times = rounds(work, max(3, count // 2))
        ideal, speed = n * n / kept(text, n), ratio(times["sdpa"], times["ours"])
        line(name, shown(times["ours"]), shown(times["sdpa"]), f"{speed:.1f}", f"{ideal:.1f}", f"{speed / ideal:.2f}")
    print(flush=True)


def first(count: int) -> None:
    """First call on a new pattern: from text to result, everything imported and warm with another pattern."""
    found = {who: json.loads(_alone("first_" + who)) for who in ("ours", "flex")}
    ours, flex = statistics.median(found["ours"]), statistics.median(found["flex"])
    table(["first call, N 8192, H 4", "maskc s", "FlexAttention s", "times sooner"],
          ["new pattern, text to result", f"{ours:.3f}", f"{flex:.1f}", f"{flex / ours:.0f}"])  # fmt: skip


def first_ours() -> None:
    q, k, v = tensors(8192, 4)
    maskc.compile("sliding_window(100)", heads=4, backend="cpu")(q, k, v)
    times = []
    for text in ("sliding_window(512)", "causal & same(token // 1024)", "-256 < q - k < 256 | k < 64"):
        start = time.perf_counter()
        maskc.compile(text, heads=4, backend="cpu")(q, k, v)
        times.append(time.perf_counter() - start)
    print(json.dumps(times))


def first_flex() -> None:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    q, k, v = tensors(8192, 4)
    flex, times = torch.compile(flex_attention), []
    for name in ("causal", "window 512", "documents of 1024", "window 256 + 64 global"):
        start = time.perf_counter()
        flex(q, k, v, block_mask=create_block_mask(PATTERNS[name][1], None, None, 8192, 8192, device="cpu"))
        times.append(time.perf_counter() - start)
    print(json.dumps(times[1:]))  # the first one also imports the compiler


def memory(count: int) -> None:
    """Time and memory beyond tensors and results."""
    rows = [["work", "seconds", "extra memory MiB"]]
    for name, n, heads, window, backward in (
        ("N 16384, H 4, window 512, forward", 16384, 4, 512, 0),
        ("N 16384, H 8, window 512, forward", 16384, 8, 512, 0),
        ("1,048,576 tokens, H 1, window 1024, forward", 1 << 20, 1, 1024, 0),
        ("1,048,576 tokens, H 1, window 1024, forward and backward", 1 << 20, 1, 1024, 1),
    ):
        seconds, extra = json.loads(_alone("memory_of", n, heads, window, backward))
        rows.append([name, f"{seconds:.2f}", f"{extra:.0f}"])
    table(*rows)


def memory_of(n: int, heads: int, window: int, backward: int) -> None:
    """Seconds, and how far resident memory rose above tensors, results and what a small call had needed."""
    op = maskc.compile(f"sliding_window({window})", heads=heads, backend="cpu")
    small = [x.requires_grad_(bool(backward)) for x in tensors(256, heads)]
    op(*small).sum().backward() if backward else op(*small)
    q, k, v = (x.requires_grad_(bool(backward)) for x in tensors(n, heads))
    # Memory that the random numbers freed does not count as there; the result and gradients do not count as extra.
    _release()
    before, start, peak = _resident(), time.perf_counter(), _Peak()
    out = op(q, k, v)
    if backward:
        out.backward(out.detach())
    seconds, results = time.perf_counter() - start, (4 if backward else 1) * out.numel() * 4 + 4 * n * heads
    print(json.dumps([seconds, (peak.stop() - before - results) / 2**20]))


class _Peak:
    """The most resident memory, looked at every 2 ms."""

    def __init__(self) -> None:
        self._most, self._on = _resident(), True
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while self._on:
            self._most = max(self._most, _resident())
            time.sleep(0.002)

    def stop(self) -> int:
        """Stop, and the peak in bytes."""
        self._on = False
        self._thread.join()
        return max(self._most, _resident())


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _release() -> None:
    import ctypes
    import gc

    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def decode(count: int) -> None:
    """One query over a long cache: time follows the live keys."""
    rows = [["one query, H 8, D 64, sinks 64 + window 4096", "live keys", "ms, median (least)", "SDPA over all keys"]]
    op = maskc.compile("sliding_window(4096) | sinks(64)", heads=8, backend="cpu")
    with torch.no_grad():
        for m in (8192, 131072, 1 << 20):
            q, k, v = tensors(1, 8, m)
            times = rounds({"ours": lambda: op(q, k, v), "sdpa": lambda: sdpa(q, k, v)}, count)  # noqa: B023
            rows.append([f"{m} keys", "4160", shown(times["ours"]), shown(times["sdpa"])])
    table(*rows)


@torch.no_grad()
def serving(count: int) -> None:
    """``op.decode`` over many caches of unlike lengths, beside loops of SDPA and one padded call of it."""
    rows = [["one query for each cache, H 8, D 64, causal", "maskc ms, median (least)", "loop of SDPA", "ratio"]]
    rows[0] += ["one padded SDPA", "ratio", "maskc, pages of 16", "loop of gathers and SDPA", "ratio"]
    for batch, least, most, kv_heads in (
        (64, 14, 114, 8),
        (64, 14, 114, 2),
        (64, 384, 640, 8),
        (64, 384, 640, 2),
        (64, 12, 1012, 8),
        (8, 256, 768, 8),
    ):
        work = _serving(batch, least, most, kv_heads)
        wanted = work["loop"]()
        assert all(torch.allclose(run(), wanted, atol=1e-5) for run in work.values())
        times = rounds(work, count)
        ours, paged = times["ours"], times["paged"]
        label = f"B {batch}, {least} to {most} keys, {kv_heads} key heads"
        compared = [(ours, times["loop"]), (ours, times["padded"]), (paged, times["gathers"])]
        cells = [label, shown(ours)]
        for i, (a, b) in enumerate(compared):
            cells += [*([shown(paged)] if i == 2 else []), shown(b), f"{ratio(b, a):.2f}"]
        rows.append(cells)
    table(*rows)


def _serving(batch: int, least: int, most: int, kv_heads: int) -> dict[str, Callable[[], torch.Tensor]]:
    """The same results by ``op.decode`` and by what one would write without it, dense and in pages."""
    generator, size = torch.Generator().manual_seed(0), 16
    lengths = least + torch.randperm(most - least, generator=generator)[:batch]
    longest = int(lengths.max())
    each = list(enumerate(lengths.tolist()))
    pages = -(-longest // size)
    table = torch.randperm(batch * pages, generator=generator).view(batch, pages)
    q = torch.randn(batch, 8, 1, 64, generator=generator)
    k, v = (torch.randn(batch, kv_heads, pages * size, 64, generator=generator) for _ in range(2))
    k_pages, v_pages = (torch.empty(batch * pages, size, kv_heads, 64) for _ in range(2))
    for paged, x in ((k_pages, k), (v_pages, v)):
        paged[table] = x.view(batch, kv_heads, pages, size, 64).permute(0, 2, 3, 1, 4)
    op = maskc.compile("causal", heads=8, backend="cpu")

    def padded() -> torch.Tensor:
        mask = (torch.arange(longest) < lengths[:, None])[:, None, None]
        return sdpa(q, k[:, :, :longest], v[:, :, :longest], attn_mask=mask, enable_gqa=True)

    def gathered(paged: torch.Tensor, entry: int, n: int) -> torch.Tensor:
        return paged[table[entry, : -(-n // size)]].flatten(0, 1)[:n].transpose(0, 1)[None]

    def gathers() -> torch.Tensor:
        parts = [sdpa(q[i : i + 1], gathered(k_pages, i, n), gathered(v_pages, i, n), enable_gqa=True) for i, n in each]
        return torch.cat(parts)

    def loop() -> torch.Tensor:
        parts = [(q[i : i + 1], k[i : i + 1, :, :n], v[i : i + 1, :, :n]) for i, n in each]
        return torch.cat([sdpa(*part, enable_gqa=True) for part in parts])

    return {
        "ours": lambda: op.decode(q, k, v, lengths),
        "loop": loop,
        "padded": padded,
        "paged": lambda: op.decode(q, k_pages, v_pages, lengths, table),
        "gathers": gathers,
    }


def _alone(name: str, *arguments: int) -> str:
    """What a function of this file prints, run in a process of its own."""
    command = [sys.executable, __file__, "--threads", str(torch.get_num_threads())]
    with tempfile.TemporaryDirectory() as fresh:  # nothing that was compiled by an earlier run
        done = subprocess.run(
            [*command, "--alone", name, *map(str, arguments)],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": fresh},
        )
    return done.stdout.strip().splitlines()[-1]


SECTIONS = {f.__name__: f for f in (forward, backward, first, memory, decode, serving)}
ALONE = {f.__name__: f for f in (first_ours, first_flex, memory_of)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", help=f"some of {', '.join(SECTIONS)}; by default all")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--write", metavar="PAGE", help="put the tables into this page, at the places named after them")
    parser.add_argument("--alone", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.alone:
        ALONE[given.alone[0]](*map(int, given.alone[1:]))
        return
    for name in given.sections or SECTIONS:
        text = io.StringIO()
        print(f"## {SECTIONS[name].__doc__.strip().splitlines()[0]}\n", flush=True)
        with contextlib.redirect_stdout(text if given.write else sys.stdout):
            SECTIONS[name](given.rounds)
        if given.write:
            print(text.getvalue(), flush=True)
            write(Path(given.write), f"{name}, {given.threads} threads", text.getvalue())


def write(path: Path, what: str, text: str) -> None:
    """Put a section's tables between ``<!-- what -->`` and the next ``<!-- end -->`` of a page."""
    first, mark, rest = path.read_text().partition(f"<!-- {what} -->\n")
    _, end, last = rest.partition("<!-- end -->")
    if not mark or not end:
        raise SystemExit(f"{path} has no place called {what!r}: <!-- {what} --> up to <!-- end -->")
    path.write_text(first + mark + "\n" + text.strip() + "\n\n" + end + last)


if __name__ == "__main__":
    main()

"""Attention on a GPU: correct first, then against compiled FlexAttention and SDPA. Needs torch, triton and lark.

    python benchmarks/gpu.py [--minutes 7.5] [--only WORD] [--dry-run]

Prints a table last and writes docs/benchmarks/gpu-<device>.md. Every figure is the median of runs that take
turns with those of the others. ``--dry-run`` tries the checks of correctness on tiny inputs without a GPU.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
if "--dry-run" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported

import torch  # noqa: E402

Tensor = torch.Tensor
ROUNDS = 12
CHECKED = 1024  # length at which results are compared with float64


@dataclass(frozen=True)
class Pattern:
    """One row: the pattern in the language, the same for FlexAttention, and sizes. ``inputs`` makes the inputs
    for a length; ``flex`` makes a ``mask_mod`` from them and the length."""

    name: str
    text: str
    length: int
    flex: Callable[[dict[str, Tensor], int], Callable[..., Any]]
    inputs: Callable[[int], dict[str, Any]] = lambda n: {}
    sizes: dict[str, int] = field(default_factory=dict)
    small: dict[str, int] = field(default_factory=dict)
    causal: bool = False
    dim: int = 128
    heads: int = 16
    kv_heads: int = 16


def _documents(n: int) -> dict[str, Any]:
    """About 24 documents of uneven lengths."""
    generator = torch.Generator().manual_seed(5)
    cuts = torch.randperm(n - 1, generator=generator)[: max(2, min(23, n // 16))] + 1
    marks = torch.zeros(n, dtype=torch.int32)
    marks[cuts] = 1
    return {"doc": marks.cumsum(0).to(torch.int32)}


def _near(x: Any, y: Any, n: int, w: int, stride: int = 1) -> Any:
    leader = torch.clamp(x // stride * stride + stride // 2, max=n - 1)
    start = torch.clamp(torch.clamp(leader - w // 2, max=n - w), min=0)
    return (start <= y) & (y < start + w)


def _grid(t: int, y: int, x: int, window: tuple[int, int, int], stride: tuple[int, int, int]) -> Callable[..., Any]:
    def mask(b: Any, h: Any, q: Any, k: Any) -> Any:
        return (
            _near(q // (x * y), k // (x * y), t, window[0], stride[0])
            & _near(q // x % y, k // x % y, y, window[1], stride[1])
            & _near(q % x, k % x, x, window[2], stride[2])
        )

    return mask


_VIDEO = {"t": 30, "y": 48, "x": 80}
_SMALL_VIDEO = {"t": 18, "y": 24, "x": 24}
_WINDOW = "neighborhood(t, 18{}) & neighborhood(y, 24{}) & neighborhood(x, 24{})"
_CAUSAL: Callable[..., Any] = lambda i, n: lambda b, h, q, k: k <= q  # noqa: E731

PATTERNS = (
    Pattern("full 8k", "all", 8192, lambda i, n: lambda b, h, q, k: q >= 0),
    Pattern("causal 8k", "causal", 8192, _CAUSAL, causal=True),
    Pattern("causal 32k", "causal", 32768, _CAUSAL, causal=True),
    Pattern("causal 8k, D 64", "causal", 8192, _CAUSAL, causal=True, dim=64),
    Pattern("causal 8k, 32/8 heads", "causal", 8192, _CAUSAL, causal=True, heads=32, kv_heads=8),
    Pattern(
        "window 1024, 32k", "sliding_window(1024)", 32768, lambda i, n: lambda b, h, q, k: (k <= q) & (q - k < 1024)
    ),
    Pattern(
        "window 2048, 32k",
        "window(1024, 1023)",
        32768,
        lambda i, n: lambda b, h, q, k: (q - k <= 1024) & (k - q <= 1023),
    ),
    Pattern(
        "documents, causal, 64k",
        "pattern p(doc: int[token]) { attend same(doc) & causal }",
        65536,
        lambda i, n: lambda b, h, q, k: (i["doc"][q] == i["doc"][k]) & (k <= q),
        _documents,
    ),
    Pattern(
        "sinks and window, 64k",
        "sinks(4) | sliding_window(1024)",
        65536,
        lambda i, n: lambda b, h, q, k: (k < 4) & (k <= q) | (k <= q) & (q - k < 1024) | (k < 4),
    ),
    Pattern("prefix 4096, 16k", "prefix(4096) | causal", 16384, lambda i, n: lambda b, h, q, k: (k < 4096) | (k <= q)),
    Pattern(
        "dilated, 16k",
        "causal & (q // 128 - k // 128) % 4 == 0",
        16384,
        lambda i, n: lambda b, h, q, k: (k <= q) & ((q // 128 - k // 128) % 4 == 0),
    ),
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
        lambda i, n: lambda b, h, q, k: (k <= q) & (q - k < i["w"][h]),
        lambda n: {"w": torch.tensor([n >> (1 + i % 8) for i in range(16)], dtype=torch.int32)},
    ),
    Pattern(
        "3-D grid",
        f"pattern p over grid(t, y, x) {{ attend {_WINDOW.format('', '', '')} }}",
        30 * 48 * 80,
        lambda i, n: _grid(30, 48, 80, (18, 24, 24), (1, 1, 1)),
        sizes=_VIDEO,
        small=_SMALL_VIDEO,
    ),
    Pattern(
        "3-D grid, strides",
        "pattern p over grid(t, y, x) { attend "
        + _WINDOW.format(", stride = 16", ", stride = 8", ", stride = 8")
        + " }",
        30 * 48 * 80,
        lambda i, n: _grid(30, 48, 80, (18, 24, 24), (16, 8, 8)),
        sizes=_VIDEO,
        small=_SMALL_VIDEO,
    ),
)


@dataclass
class Row:
    """What was measured of a pattern; times in milliseconds."""

    name: str
    correct: str = ""
    times: dict[str, float] = field(default_factory=dict)
    density: float = 0.0
    plan_ms: float = 0.0
    first_s: float = 0.0
    peak_mib: float = 0.0
    notes: list[str] = field(default_factory=list)


def tensors(p: Pattern, length: int, device: str, dtype: torch.dtype, batch: int = 1) -> list[Tensor]:
    """Fresh random q, k and v that want gradients."""
    shapes = [(batch, h, length, p.dim) for h in (p.heads, p.kv_heads, p.kv_heads)]
    return [torch.randn(s, device=device, dtype=dtype).requires_grad_() for s in shapes]


def compiled_op(p: Pattern, inputs: dict[str, Any], sizes: dict[str, int], heads: int) -> tuple[Any, dict[str, Any]]:
    """The op, and the inputs that come with calls."""
    import maskc

    pattern = maskc.parse(p.text)
    static = {q.name for q in pattern.program.params if q.when == "compile"}
    op = maskc.compile(
        pattern,
        heads=heads,
        sizes=sizes or None,
        backend="triton",
        arguments={n: x.tolist()[:heads] for n, x in inputs.items() if n in static},
    )
    return op, {n: x for n, x in inputs.items() if n not in static}


def is_correct(p: Pattern, device: str, length: int, heads: int) -> str:
    """ "yes", or what is wrong: errors are compared with those of SDPA in the same dtype, both against float64."""
    from dataclasses import replace

    dtype = torch.bfloat16 if device == "cuda" else torch.float16
    small = replace(
        p, heads=heads, kv_heads=max(1, heads * p.kv_heads // p.heads), dim=p.dim if device == "cuda" else 32
    )
    if p.small and device == "cuda":
        length = p.small["t"] * p.small["y"] * p.small["x"]
    sizes = {} if not p.small else p.small if device == "cuda" else {"t": 2, "y": 5, "x": length // 10}
    inputs = p.inputs(length)
    op, given = compiled_op(small, inputs, sizes, heads)
    q, k, v = tensors(small, length, device, dtype)
    grad = torch.randn(*q.shape, device=device, dtype=dtype)
    runs = []
    for _ in range(2):
        poison = torch.full((4 * q.numel(),), torch.nan, device=device)  # what empty memory holds afterwards
        del poison
        out = op(q, k, v, **given)
        runs.append([out, *torch.autograd.grad(out, (q, k, v), grad)])
    if not all(torch.equal(a, b) for a, b in zip(*runs, strict=True)):
        return "two runs differ"
    kept = torch.from_numpy(op_mask(op, length, sizes, {**given})).to(device)

    def dense(as_dtype: torch.dtype) -> list[Tensor]:
        leaves = [x.detach().to(as_dtype).requires_grad_() for x in (q, k, v)]
        every = [leaves[0], *(x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in leaves[1:])]
        result = torch.nn.functional.scaled_dot_product_attention(*every, attn_mask=kept)
        return [result.detach(), *torch.autograd.grad(result, leaves, grad.to(as_dtype))]

    for name, ours, same, exact in zip(
        ("out", "dq", "dk", "dv"), runs[0], dense(dtype), dense(torch.float64), strict=True
    ):
        mine, theirs = ((x.double() - exact).square().mean().sqrt().item() for x in (ours, same))
        if not mine <= 1.5 * theirs + 1e-5:
            return f"{name}: error {mine:.2e}, that of SDPA {theirs:.2e}"
    return "yes"


def op_mask(op: Any, length: int, sizes: dict[str, int], given: dict[str, Any]) -> Any:
    """The dense mask of an op, which shares nothing with its kernels."""
    import maskc

    return maskc.dense_mask(op.pattern, length, length, heads=op.heads, sizes=sizes or None, **given)


def measure(p: Pattern, row: Row, deadline: float) -> None:
    """Time all contenders in turn."""
    device, n = "cuda", p.length
    inputs = p.inputs(n)
    op, given = compiled_op(p, inputs, p.sizes, p.heads)
    on_device = {name: x.to(device) for name, x in inputs.items()}
    q, k, v = tensors(p, n, device, torch.bfloat16)
    start = time.perf_counter()
    plan = op.plan(n, n, q_tile=128, k_tile=64, **given)
    row.plan_ms = 1e3 * (time.perf_counter() - start)
    row.density = density(plan)
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    out = op(q, k, v, **given)
    grad = torch.randn_like(out)
    torch.autograd.grad(out, (q, k, v), grad)
    torch.cuda.synchronize()
    row.first_s = time.perf_counter() - start
    row.peak_mib = torch.cuda.max_memory_allocated() / 2**20
    del out
    forwards: dict[str, Callable[[], Tensor]] = {"maskc": lambda: op(q, k, v, **given)}
    add_flex(p, row, forwards, on_device, (q, k, v))
    sdpa = torch.nn.functional.scaled_dot_product_attention
    grouped = {"enable_gqa": True} if p.kv_heads != p.heads else {}
    forwards["sdpa full"] = lambda: sdpa(q, k, v, **grouped)
    if p.causal:
        forwards["sdpa causal"] = lambda: sdpa(q, k, v, is_causal=True, **grouped)
    contend(forwards, (q, k, v), grad, row, deadline)


def density(plan: Any) -> float:
    """The share of all tiles that is computed, over heads and batch entries."""
    live = whole = 0
    for group in plan.groups:
        members = len(group.heads) * len(group.batches)
        live += members * int((group.runs.end - group.runs.start).sum())
        whole += members * plan.rows * plan.cols
    return live / whole


def add_flex(
    p: Pattern,
    row: Row,
    forwards: dict[str, Callable[[], Tensor]],
    inputs: dict[str, Tensor],
    given: tuple[Tensor, ...],
) -> None:
    """FlexAttention, compiled; a note where it fails."""
    try:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        torch._dynamo.reset()  # else it stops compiling after a few masks, without a word
        block = torch.compile(create_block_mask)(
            p.flex(inputs, p.length), None, p.heads if "head" in p.text else None, p.length, p.length, device="cuda"
        )
        flex = torch.compile(flex_attention)
        grouped = {"enable_gqa": True} if p.kv_heads != p.heads else {}
        forward = lambda: flex(*given, block_mask=block, **grouped)  # noqa: E731
        forward()
        forwards["flex"] = forward
    except Exception as error:
        row.notes.append(f"FlexAttention: {type(error).__name__}")


def contend(
    forwards: dict[str, Callable[[], Tensor]], leaves: tuple[Tensor, ...], grad: Tensor, row: Row, deadline: float
) -> None:
    """Forward and backward of every contender in turn; medians by CUDA events, the cache of the chip flushed."""
    flush = torch.empty(64 << 20, dtype=torch.int32, device="cuda")
    taken: dict[str, list[float]] = {}
    for number in range(ROUNDS + 2):
        for name, forward in list(forwards.items()):
            marks = [torch.cuda.Event(enable_timing=True) for _ in range(4)]
            try:
                flush.zero_()
                marks[0].record()
                out = forward()
                marks[1].record()
                flush.zero_()
                marks[2].record()
                torch.autograd.grad(out, leaves, grad)
                marks[3].record()
                torch.cuda.synchronize()
            except Exception as error:
                row.notes.append(f"{name}: {type(error).__name__}")
                del forwards[name]
                continue
            if number >= 2:
                taken.setdefault(f"{name} forward", []).append(marks[0].elapsed_time(marks[1]))
                taken.setdefault(f"{name} backward", []).append(marks[2].elapsed_time(marks[3]))
        if number >= 4 and time.perf_counter() > deadline:
            break
    row.times = {name: sorted(ms)[len(ms) // 2] for name, ms in taken.items()}


def table(rows: list[Row]) -> list[str]:
    """Markdown: times in ms, speed-ups over FlexAttention, and how near the tiles alone would come."""
    heads = (
        "pattern | correct | fwd | flex fwd | x | sdpa fwd | bwd | flex bwd | x | sdpa bwd | tiles"
        " | plan ms | first s | peak MiB | notes"
    )
    lines = [f"| {heads} |", "|" + "---|" * (heads.count("|") + 1)]
    for r in rows:
        cells = [r.name, r.correct]
        for way in ("forward", "backward"):
            mine, flex = r.times.get(f"maskc {way}"), r.times.get(f"flex {way}")
            dense = r.times.get(f"sdpa causal {way}", r.times.get(f"sdpa full {way}"))
            cells += [_ms(mine), _ms(flex), f"{flex / mine:.2f}" if mine and flex else "", _ms(dense)]
        cells += [f"{100 * r.density:.1f} %", f"{r.plan_ms:.1f}", f"{r.first_s:.1f}", f"{r.peak_mib:.0f}"]
        lines.append("| " + " | ".join([*cells, "; ".join(r.notes)]) + " |")
    return lines


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def write_page(lines: list[str]) -> Path:
    """The page of this device."""
    import triton

    device = torch.cuda.get_device_name()
    path = ROOT / "docs" / "benchmarks" / f"gpu-{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    versions = f"torch {torch.__version__}, triton {triton.__version__}, Python {platform.python_version()}"
    head = f"# Attention on {device}\n\nBy `python benchmarks/gpu.py`; {versions}; bfloat16; times in ms, medians.\n\n"
    path.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=7.5, help="what is not reached by then is left out")
    parser.add_argument("--only", default="", help="patterns whose name holds this")
    parser.add_argument("--dry-run", action="store_true", help="correctness only, tiny, without a GPU")
    asked = parser.parse_args()
    chosen = [p for p in PATTERNS if asked.only in p.name]
    if asked.dry_run:
        results = {p.name: is_correct(p, "cpu", 60, 2) for p in chosen}
        print("\n".join(f"{name}: {result}" for name, result in results.items()))
        return int(any(result != "yes" for result in results.values()))
    if not torch.cuda.is_available():
        print("no GPU that torch can use: nothing to measure (try --dry-run)")
        return 0
    deadline = time.perf_counter() + 60 * asked.minutes
    rows = [Row(p.name) for p in chosen]
    for p, row in zip(chosen, rows, strict=True):
        try:
            row.correct = is_correct(p, "cuda", CHECKED, p.heads)
        except Exception as error:
            row.correct = f"{type(error).__name__}: {error}"[:200]
        print(f"{p.name}: correct: {row.correct}", flush=True)
    for i, (p, row) in enumerate(zip(chosen, rows, strict=True)):
        if time.perf_counter() > deadline:
            row.notes.append("not reached")
            continue
        try:
            # Those still to come get a fair share of the time that is left.
            share = (deadline - time.perf_counter()) / (len(rows) - i)
            measure(p, row, time.perf_counter() + share)
        except Exception as error:
            row.notes.append(f"{type(error).__name__}: {error}"[:200])
        torch.cuda.empty_cache()
        print(table([row])[-1], flush=True)
    lines = table(rows)
    path = write_page(lines)
    print(f"\nwritten to {path}\n")
    print("\n".join(lines))
    return int(any(row.correct != "yes" for row in rows))


if __name__ == "__main__":
    sys.exit(main())

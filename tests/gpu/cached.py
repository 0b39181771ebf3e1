"""Decoding over caches under Triton's interpreter: what ``tests.gpu.interpreted`` calls of it."""

from __future__ import annotations

from dataclasses import replace

import torch

import maskc
from maskc.backends.decoding import DecodeCall
from maskc.backends.triton import serving
from maskc.backends.triton.configs import Config
from maskc.diagnostics import MaskcError
from tests.serving.calls import CASES, Call, make

__all__ = [
    "decode_and_op_agree",
    "decode_beyond_the_cache",
    "decode_differences",
    "decode_many_queries",
    "decode_of_views",
    "decode_refusal",
    "decode_scaled",
    "decode_unseen",
]

Tensor = torch.Tensor


def decode_differences(name: str, block: int, dtype: str, strided: bool) -> dict[str, float]:
    """The largest differences of a call of ``op.decode`` from the loop over entries in float64."""
    call = make(replace(CASES[name], block=block), getattr(torch, dtype), backend="triton", strided=strided)
    softmax = call.op.program.normalizer.kind == "softmax"
    wanted, wanted_lse = call.wanted()
    found = {}
    for layout, run in (("dense", call.dense), ("paged", call.paged)):
        got = run(return_lse=softmax)
        out, lse = got if softmax else (got, None)
        found[layout] = _difference(out, wanted)
        if lse is not None:
            found[f"{layout} lse"] = _difference(lse, wanted_lse)
    return found


def decode_unseen(name: str, listed: bool, splits: int, k_tile: int, spoiled: str) -> list[float]:
    """The largest difference of each entry where nothing of lengths, tables and inputs is known on the host, infinite
    where it is NaN. ``spoiled``: "page" or "length" of the first entry is wrong."""
    made = make(CASES[name], backend="triton")
    call = _made(made)
    if spoiled == "page":
        # Behind the last page there are zeros, which nobody may read.
        k, v = (torch.cat([x, torch.zeros_like(x[:1])])[:-1] for x in (call.k, call.v))
        call = replace(call, k=k, v=v)
        assert call.block_table is not None
        call.block_table[0, 0] = call.k.shape[0]
    elif spoiled == "length":
        call.lengths[0] = call.capacity + 5
    if not listed:
        assert call.block_table is not None
        inputs = {n: torch.as_tensor(x) for n, x in call.inputs.items()}
        # Integers of 64 bits are read as they are.
        long = {"lengths": call.lengths.long(), "block_table": call.block_table.long()}
        call = replace(call, binding=None, inputs=inputs, **long)
    batched = serving._batched(call)
    config = Config(16, k_tile, 4, 1)
    kernels = serving.CachedKernels(call.program, batched, "ieee", listed=listed, config=config, splits=splits)
    out, _ = kernels.run(call)
    return [_difference(a, b) for a, b in zip(out, made.wanted()[0], strict=True)]


def _made(made: Call) -> DecodeCall:
    """What the backend is handed for the pages of a call."""
    calls: list[DecodeCall] = []

    def take(call: DecodeCall, precision: str) -> tuple[Tensor, Tensor]:
        calls.append(call)
        return call.q, call.q

    before, serving.decode = serving.decode, take
    try:
        made.paged()
    finally:
        serving.decode = before
    return calls[0]


def decode_many_queries(rows: int, heads: int, kv_heads: int) -> float:
    """Queries that fill several tiles, over both kinds of head."""
    case = replace(CASES["sinks-and-window"], rows=rows, heads=heads, kv_heads=kv_heads, lengths=(90, 70))
    call = make(case, backend="triton")
    return _difference(call.paged(), call.wanted()[0])


def decode_scaled(scale: float) -> float:
    """The largest difference from the CPU backend for a factor of the dot products, and queries with odd strides."""
    ours, theirs = (
        make(CASES["wide-window"], backend=name, strided=True).dense(scale=scale, return_lse=True)
        for name in ("triton", "cpu")
    )
    return max(_difference(a, b) for a, b in zip(ours, theirs, strict=True))


def decode_refusal() -> str:
    """What is said of a page that there is not, where the table is on the host."""
    call = make(CASES["window"], backend="triton")
    call.table[1, 3] = 99
    try:
        call.paged()
    except MaskcError as error:
        return str(error)
    return ""


def decode_beyond_the_cache(length: int) -> bool:
    """Whether everything is NaN where the cache is the first half of what memory holds, and shorter than the entry."""
    op = maskc.compile("causal", heads=2, backend="triton")
    q, memory = torch.randn(1, 2, 1, 16), torch.randn(1, 2, 128, 16)
    cache = memory[:, :, :64]
    call = DecodeCall(op.compiled, q, cache, cache, torch.tensor([length]), None, None, {}, {}, {}, 0.25)
    out, _ = serving.decode(call, "ieee")
    return bool(out.isnan().all())


def decode_and_op_agree() -> bool:
    """A scale that is negative, through the op and through its decoding."""
    op = maskc.compile("sliding_window(9)", heads=2, backend="triton")
    q, k, v = torch.randn(1, 2, 2, 16), torch.randn(1, 2, 30, 16), torch.randn(1, 2, 30, 16)
    return torch.allclose(op(q, k, v, scale=-0.3), op.decode(q, k, v, [30], scale=-0.3), atol=1e-5)


def decode_of_views() -> bool:
    """Lengths and starts that are columns of a table, or one number expanded, against copies of them."""
    op = maskc.compile("causal", heads=2, backend="triton")
    q, k, v = torch.randn(2, 2, 1, 16), torch.randn(2, 2, 12, 16), torch.randn(2, 2, 12, 16)
    every = torch.tensor([[11, 2, 3], [7, 1, 4]])
    for lengths, start in ((every[:, 0], every[:, 1]), (every[:1, 0].expand(2), every[:1, 1].expand(2))):
        found = op.decode(q, k, v, lengths, start=start)
        if not torch.equal(found, op.decode(q, k, v, lengths.tolist(), start=start.tolist())):
            return False
    return True


def _difference(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    a, b = found.double(), wanted
    return float(torch.where(a == b, 0.0, (a - b).abs()).nan_to_num(torch.inf, torch.inf).max())

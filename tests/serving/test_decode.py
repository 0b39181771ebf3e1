"""Decoding on the CPU is the loop over entries, whatever lies between and behind their keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import maskc
from maskc.backends import cpu, reference
from maskc.backends.cpu import decode as decoding
from maskc.diagnostics import MaskcError
from maskc.tiles.classify import Classifier
from tests.serving.calls import CASES, Call, make

Tensor = torch.Tensor


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_is_the_loop_over_entries(name: str, strided: bool) -> None:
    call = make(CASES[name], torch.float64, strided=strided)
    out, lse = call.wanted()
    for found in (call.dense, call.paged):
        if call.op.program.normalizer.kind == "softmax":
            got, got_lse = found(return_lse=True)
            torch.testing.assert_close(got_lse, lse, rtol=1e-10, atol=1e-10)
        else:
            got = found()
        torch.testing.assert_close(got, out, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["sinks-and-window", "documents-batch", "gone", "sink", "sigmoid", "entry-number"])
def test_backends_without_decoding_of_their_own(name: str) -> None:
    call = make(CASES[name], backend="reference")
    out, _ = call.wanted()
    for found in (call.dense(), call.paged()):
        torch.testing.assert_close(found.double(), out, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("paged", [False, True])
def test_backends_without_decoding_of_their_own_get_numbers_where_no_query_looks(
    monkeypatch: pytest.MonkeyPatch, paged: bool
) -> None:
    """FlexAttention multiplies a value by a weight of 0, which a NaN survives."""
    found, run = list[Tensor](), reference.run

    def watched(compiled: Any, q: Tensor, k: Tensor, v: Tensor, **more: Any) -> Any:
        found.extend((k, v))
        return run(compiled, q, k, v, **more)

    monkeypatch.setattr(reference, "run", watched)
    call = make(CASES["sinks-and-window"], backend="reference")
    for b, length in enumerate(CASES["sinks-and-window"].lengths):
        between = slice(5, max(5, length - 12))
        call.k[b, :, between], call.v[b, :, between] = torch.nan, torch.inf
        for i in range(1, (length - 12) // 16):
            call.k_pages[call.table[b, i]], call.v_pages[call.table[b, i]] = torch.nan, torch.inf
    out = call.paged() if paged else call.dense()
    assert found
    assert all(x.isfinite().all() for x in found)
    torch.testing.assert_close(out.double(), call.wanted()[0], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["causal-16", "sinks-and-window", "documents", "alibi"])
def test_dtypes(name: str, dtype: torch.dtype) -> None:
    call = make(CASES[name], dtype)
    out, lse = call.wanted()
    tolerance = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}[dtype]
    for found in (call.dense, call.paged):
        got, got_lse = found(return_lse=True)
        assert (got.dtype, got_lse.dtype) == (dtype, torch.float32)
        torch.testing.assert_close(got.double(), out, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(got_lse.double(), lse, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("block", [1, 3, 16, 64, 100])
def test_pages_of_any_size(block: int) -> None:
    call = make(replace(CASES["sinks-and-window"], block=block), torch.float64)
    torch.testing.assert_close(call.paged(), call.wanted()[0], rtol=1e-10, atol=1e-10)


def test_freed_pages_are_not_looked_at() -> None:
    call = make(CASES["window"], torch.float64)
    for b, length in enumerate(CASES["window"].lengths):
        call.table[b, : max(0, length - 12) // 16] = -1
    torch.testing.assert_close(call.paged(), call.wanted()[0], rtol=1e-10, atol=1e-10)


def test_nan_in_a_key_that_is_kept_stays_with_its_queries() -> None:
    call = make(CASES["causal-16"], torch.float64)
    call.k[0, 0, 30] = torch.nan
    out, clean = call.dense(), make(CASES["causal-16"], torch.float64).dense()
    torch.testing.assert_close(out[1:], clean[1:])
    torch.testing.assert_close(out[0, 2:], clean[0, 2:])
    assert out[0, :2, 9:].isnan().all()
    torch.testing.assert_close(out[0, :2, :9], clean[0, :2, :9])  # positions 21 to 29


def test_only_live_keys_are_read() -> None:
    """A window over a cache that cannot be read elsewhere: its other rows are not even allocated as data."""
    case = replace(CASES["window"], lengths=(1000, 500), block=16)
    call = make(case, torch.float64)
    out = call.paged()
    for b, length in enumerate(case.lengths):
        for i in range((length - 12) // 16):
            call.k_pages[call.table[b, i]] = torch.nan
            call.v_pages[call.table[b, i]] = torch.nan
    assert torch.equal(call.paged(), out)
    call.k[:, :, :400], call.v[:, :, :400] = torch.nan, torch.nan
    torch.testing.assert_close(call.dense(), out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_caches_larger_than_memory(dtype: torch.dtype) -> None:
    """A cache of terabytes, every key of which is the same one in memory: it cannot have been copied."""
    op = maskc.compile("sliding_window(100) | sinks(4)", heads=4)
    q, key = torch.randn(3, 4, 2, 64).to(dtype), torch.randn(64).to(dtype)
    cache = key.expand(3, 2, 1 << 30, 64)
    out = op.decode(q, cache, cache, [1 << 20, 12345, 1 << 20])
    torch.testing.assert_close(out, key.expand(out.shape), rtol=1e-2, atol=1e-2)


class _Counted(TorchDispatchMode):
    """Counts the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ran[str(function.overloadpacket)] += 1
        return function(*args, **(kwargs or {}))


def _kernel_calls(run: Callable[[], Any]) -> tuple[int, int]:
    """Calls of torch's kernel, and look-ups in lists."""
    with _Counted() as counted:
        run()
    looked_up = sum(n for name, n in counted.ran.items() if name.startswith("aten.index_select"))
    return counted.ran["aten._scaled_dot_product_flash_attention_for_cpu"], looked_up


def _clean(call: Call) -> Call:
    """The call with numbers wherever no key lies."""
    call.k, call.v, call.k_pages, call.v_pages = (x.nan_to_num() for x in (call.k, call.v, call.k_pages, call.v_pages))
    return call


@pytest.mark.parametrize("lengths", [(40, 23, 37, 9), (40, 23, 40, 23), (40, 0, 37, 9), tuple(range(100, 36, -1))])
@pytest.mark.parametrize("text", ["causal", "sliding_window(30)", "sinks(4) | sliding_window(9)"])
@pytest.mark.parametrize("rows", [1, 3])
def test_entries_of_unlike_lengths_are_computed_together(text: str, lengths: tuple[int, ...], rows: int) -> None:
    """Of the dense cache in one view; pages are looked up once for the keys and once for the values of a call."""
    call = _clean(make(replace(CASES["causal"], text=text, lengths=lengths, rows=rows)))
    call.dense()  # the first tries out what torch's kernel can do
    assert _kernel_calls(call.dense) == (1, 0)
    calls, looked_up = _kernel_calls(call.paged)
    assert calls <= (1 if len(lengths) == 4 else 2)
    assert looked_up <= 3 * calls  # queries, too, where their entries have holes between them
    for found in (call.dense(), call.paged()):
        torch.testing.assert_close(found.double(), call.wanted()[0], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, 3e38])
def test_what_fills_up_the_shorter_entries_may_hold_anything(garbage: float) -> None:
    """A view that meets it is dropped for a copy without it."""
    case = replace(CASES["causal"], lengths=(40, 23, 37, 9))
    call, (out, lse) = make(case), make(case).wanted()
    call.dense()
    for x in (call.k, call.v, call.k_pages, call.v_pages):
        x.nan_to_num_(nan=garbage, posinf=torch.inf)
    assert _kernel_calls(call.dense)[0] == 2
    assert _kernel_calls(call.paged) == (1, 2)
    for got, got_lse in (call.dense(return_lse=True), call.paged(return_lse=True)):
        torch.testing.assert_close(got.double(), out, rtol=2e-5, atol=2e-5)
        torch.testing.assert_close(got_lse.double(), lse, rtol=2e-5, atol=2e-5)


def test_long_entries_are_not_filled_up_to_longer_ones() -> None:
    """What would be read in vain counts: a key of 8 heads of 64 numbers, and its value, are 4 KiB."""
    op = maskc.compile("causal", heads=8)
    q, cache = torch.randn(4, 8, 1, 64), torch.randn(4, 8, 4096, 64)
    op.decode(q, cache, cache, [3, 5, 7, 9])
    for lengths, calls in (([4096, 4000, 3900, 4050], 1), ([4096, 40, 30, 50], 2), ([4096, 40, 4096, 50], 4)):
        assert _kernel_calls(lambda lengths=lengths: op.decode(q, cache, cache, lengths)) == (calls, 0)  # type: ignore[misc]


@pytest.mark.parametrize("paged", [False, True])
def test_a_planned_step_looks_at_its_keys_a_few_times(monkeypatch: pytest.MonkeyPatch, paged: bool) -> None:
    """At pairs of the one query, and not of a whole tile of queries; and at each of the ranges of its keys, however
    many there are, and not at all of them for each."""
    tokens, stride, size, seen, handed = 1 << 16, 64, 16, Counter[str](), Counter[str]()
    points, union = Classifier.points, decoding.union

    class Ranges(list[tuple[int, int]]):
        def __iter__(self) -> Iterator[tuple[int, int]]:
            for each in super().__iter__():
                handed["ranges"] += 1
                yield each

    def counted(self: Classifier, q: Any, k: Any) -> Any:
        found = points(self, q, k)
        seen["pairs"] += found.size
        return found

    monkeypatch.setattr(Classifier, "points", counted)
    monkeypatch.setattr(decoding, "union", lambda ranges: Ranges(union(ranges)))
    op = maskc.compile(f"causal & (q - k) % {stride} == 0", heads=1, backend="cpu")
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, tokens, 8)
    pages, table = k.view(-1, size, 1, 8), torch.arange(tokens // size, dtype=torch.int32)[None]
    out = op.decode(q, pages, pages, [tokens], table) if paged else op.decode(q, k, k, [tokens])
    kept = k[:, :, stride - 1 :: stride]
    torch.testing.assert_close(out, torch.nn.functional.scaled_dot_product_attention(q, kept, kept))
    assert 0 < seen["pairs"] <= 4 * tokens
    assert handed["ranges"] <= 16 * tokens // stride


def test_nothing_is_remembered_for_a_length_or_a_batch() -> None:
    call = _clean(make(CASES["sinks-and-window"]))
    call.dense()
    size = call.op.cache_info().size
    for length in range(10, 60):
        some = slice(length % 4 + 1)
        call.lengths.fill_(length)
        call.op.decode(call.q[some, :, : length % 2 + 1], call.k[some], call.v[some], call.lengths[some])
    assert call.op.cache_info().size == size


def test_ops_that_check_compare_with_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    op = maskc.compile("sliding_window(5)", heads=2, check=True)
    q, k, v = torch.randn(2, 2, 1, 16), torch.randn(2, 2, 9, 16), torch.randn(2, 2, 9, 16)
    out = op.decode(q, k, v, [9, 4])
    monkeypatch.setattr(cpu, "run_decode", lambda call: (out + 0.1, torch.zeros(2, 2, 1)))
    with pytest.raises(RuntimeError, match="check mode: the output of"):
        op.decode(q, k, v, [9, 4])


def test_inputs_given_when_compiling_and_lists() -> None:
    text = "pattern p(doc: int[token]) { attend same(doc) & causal }"
    op = maskc.compile(text, heads=1, doc=[0, 0, 1, 1, 1])
    q, k, v = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 8, 16), torch.randn(1, 1, 8, 16)
    found = op.decode(q, k, v, [5])
    again = maskc.compile("all", heads=1)(q, k[:, :, 2:5], v[:, :, 2:5])
    torch.testing.assert_close(found, again)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("size", [1, 4, 8])
def test_pages_beside_a_kept_key_may_be_gone(backend: str, size: int) -> None:
    """However many keys a tile has in which the kept ones are looked for."""
    op = maskc.compile("(q - k) % 16 == 0", heads=1, backend=backend)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 1, n, 16, generator=generator) for n in (1, 32, 32))
    kept = [p // size for p in (15, 31)]
    table = torch.full((1, 32 // size), -1, dtype=torch.int32)
    pages = [torch.zeros(2, size, 1, 16) for _ in range(2)]
    for i, page in enumerate(kept):
        table[0, page] = i
        for cache, x in zip(pages, (k, v), strict=True):
            cache[i] = x[0, :, page * size : (page + 1) * size].transpose(0, 1)
    torch.testing.assert_close(op.decode(q, *pages, [32], table), op(q, k, v))
    with pytest.raises(MaskcError, match="keeps keys on page -1"):
        op.decode(q, *pages, [32], table.masked_fill(table == 1, -1))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_inputs_by_token_of_the_longest_entry_though_it_is_shorter_than_the_queries(backend: str) -> None:
    text = "pattern p(doc: int[token], w: float[q]) { attend same(doc) & causal\n output o * w[q] }"
    op = maskc.compile(text, heads=1, backend=backend)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 1, n, 16, generator=generator) for n in (3, 4, 4))
    doc, w = torch.tensor([0, 1]), torch.rand(3, generator=generator)
    out = op.decode(q, k, v, [1, 2], doc=doc, w=w)
    for entry, n in enumerate((1, 2)):
        one = slice(entry, entry + 1)
        wanted = op(q[one, :, 3 - n :], k[one, :, :n], v[one, :, :n], doc=doc[:n], w=w[3 - n :])
        torch.testing.assert_close(out[one, :, 3 - n :], wanted)
        assert not out[entry, :, : 3 - n].any()

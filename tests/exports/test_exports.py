"""Exports say what the mask says, by the engines' own definitions, or are refused."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import maskc
from maskc.diagnostics import MaskcError
from maskc.exports import FORMATS, export_mask
from maskc.ir.evaluate import dense
from maskc.lower import lower_text
from maskc.tiles.binding import bind
from maskc.tiles.plan import TilePlan
from tests.exports.rules import RULES, flash_mask
from tests.strategies import bindings, programs

Array = np.ndarray[Any, Any]


def exported(program: Any, binding: Any, to: str, **more: Any) -> Array | None:
    """What the exported arrays say, (batch, heads, queries, keys); None where that is refused."""
    try:
        found = export_mask(program, binding, to, q_tile=4, k_tile=2 if to == "flashinfer" else 4, **more)
    except MaskcError as error:
        assert error.codes == ("E704",), error
        return None
    integers = (np.int8, np.int16, np.int32) if to == "splash" else (np.int32,)
    assert all(x.dtype in (*integers, np.bool_) for x in found.arrays.values())
    said = RULES[to]({**found.arrays, **found.options}, binding.q_len, binding.k_len, binding.batch)
    return np.broadcast_to(said, (binding.batch, binding.heads, binding.q_len, binding.k_len))


def wanted(program: Any, binding: Any) -> Array:
    return np.stack(
        [np.stack([dense(program, binding, h, b) for h in range(binding.heads)]) for b in range(binding.batch)]
    )


def bound(text: str, q_len: int, k_len: int | None = None, heads: int = 2, sizes: Any = None, **values: Any) -> Any:
    program = lower_text(text)[0]
    lengths: dict[str, Any] = {"heads": heads, "layer": 0, "batch": None, "sizes": sizes or {}}
    return program, bind(program, q_len, q_len if k_len is None else k_len, **lengths, values=values)


DOC = np.repeat(np.arange(5), [7, 1, 9, 4, 3])
#: What can say a mask by which a query keeps nothing, or of which there is no whole number of blocks.
RAGGED = set(FORMATS) - {"splash"}
PATTERNS: dict[str, tuple[Any, set[str]]] = {
    "causal": (bound("causal", 24), set(FORMATS)),
    "all": (bound("all", 24), set(FORMATS)),
    "none": (bound("(none)", 24), RAGGED),
    "window": (bound("sliding_window(5)", 24), set(FORMATS)),
    "band": (bound("window(3, 2)", 24), set(FORMATS)),
    "self": (bound("self", 24), set(FORMATS)),
    "before": (bound("k < q", 24), RAGGED),
    "chunked": (bound("causal", 7, 24), RAGGED),
    "chunked-window": (bound("sliding_window(9)", 7, 24), RAGGED),
    "documents": (
        bound("pattern p(doc: int[token]) { attend same(doc) & causal }", 24, doc=DOC),
        set(FORMATS),
    ),
    "documents-both-ways": (
        bound("pattern p(doc: int[token]) { attend same(doc) }", 24, doc=DOC),
        set(FORMATS),
    ),
    "documents-window": (
        bound("pattern p(doc: int[token]) { attend same(doc) & sliding_window(4) }", 24, doc=DOC),
        set(FORMATS),
    ),
    "documents-batch": (
        bound("pattern p(doc: int[token]) { attend same(doc) & causal }", 24, doc=np.stack([DOC, DOC[::-1] // 2])),
        {"varlen", "flashmask", "magi"},
    ),
    "padding": (
        bound("pattern p(n: int[batch]) { attend causal & padding(n[b]) }", 24, n=[24, 9, 0]),
        {"flashmask", "magi"},
    ),
    "left-padding": (
        bound("pattern p(first: int[batch]) { attend causal & first[b] <= k & first[b] <= q }", 24, first=[0, 5, 24]),
        {"varlen", "flashmask", "magi"},
    ),
    "sinks": (bound("causal & (sinks(3) | sliding_window(5))", 24), {"flashmask", "magi", "flashinfer", "splash"}),
    "prefix": (bound("k < 6 | causal", 24), {"flashmask", "magi", "flashinfer", "splash"}),
    "global": (bound("window(2, 2) | k < 2 | q < 2", 24), {"flashmask", "magi", "flashinfer", "splash"}),
    "dilated": (bound("dilated(3, 4) & causal", 24), {"magi", "flashinfer", "splash"}),
    "chunks": (bound("q // 8 == k // 8 & causal", 24), set(FORMATS)),
    "evicted": (
        bound(
            "pattern p(gone: int[k]) { attend causal & q < gone[k] }",
            24,
            gone=np.arange(24) + 1 + np.arange(24) * 7 % 11,
        ),
        {"flashmask", "magi", "flashinfer", "splash"},
    ),
    "but-a-hole": (
        bound("causal & ~(8 <= q & q < 14 & 3 <= k & k < 7)", 24),
        {"flashmask", "magi", "flashinfer", "splash"},
    ),
    "by-head": (
        bound("pattern p(w: int[head]) { attend sliding_window(w[h]) }", 24, heads=2, w=[3, 9]),
        {"flashmask", "splash"},
    ),
    "cross": (bound("pattern p over left -> right { attend k < 9 & q < 20 }", 22, 12), RAGGED),
    "hash": (bound("hash(q, k) % 2 == 0", 40), {"flashinfer", "splash"}),
}


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("name", PATTERNS)
def test_what_is_exported_is_the_mask(name: str, to: str) -> None:
    (program, binding), able = PATTERNS[name]
    said = exported(program, binding, to)
    assert (said is not None) == (to.removesuffix("_attn").removesuffix("_cute") in able)
    if said is not None:
        np.testing.assert_array_equal(said, wanted(program, binding))


@pytest.mark.parametrize("to", FORMATS)
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_random_masks_are_exported_exactly_or_not_at_all(to: str, data: st.DataObject) -> None:
    program, binding = data.draw(programs(scores=False)), data.draw(bindings())
    said = exported(program, binding, to)
    if said is not None:
        np.testing.assert_array_equal(said, wanted(program, binding))


@settings(max_examples=150, deadline=None)
@given(data=st.data(), to=st.sampled_from(sorted(FORMATS)))
def test_random_stretches_are_exported_exactly_or_not_at_all(data: st.DataObject, to: str) -> None:
    """Of masks that most formats can say: each query keeps one stretch of keys, with ends of any kind."""
    n = data.draw(st.integers(1, 14))
    ends = st.lists(st.integers(0, n), min_size=n, max_size=n)
    first, last = data.draw(ends), data.draw(ends)
    if data.draw(st.booleans()):
        first, last = sorted(first), sorted(last)
    text = "pattern p(first: int[q], last: int[q]) over left -> right { attend first[q] <= k & k < last[q] }"
    program, binding = bound(text, n, n, first=first, last=last)
    said = exported(program, binding, to)
    if to == "magi":
        assert said is not None
    if said is not None:
        np.testing.assert_array_equal(said, wanted(program, binding))


def test_the_fewest_numbers_are_taken() -> None:
    """Causal documents and windows take one number a key, and keep the kernel's own causal loop."""
    for name, shape, causal in (
        ("documents", (1, 1, 24, 1), True),
        ("window", (1, 1, 24, 1), True),
        ("before", (1, 1, 24, 2), True),
        ("documents-both-ways", (1, 1, 24, 2), False),
        ("global", (1, 1, 24, 4), False),
        ("by-head", (1, 2, 24, 1), True),
        ("padding", (3, 1, 24, 1), True),
    ):
        found = export_mask(*PATTERNS[name][0], "flashmask")
        assert (found.arrays["startend_row_indices"].shape, found.options["causal"]) == (shape, causal), name
    found = export_mask(*PATTERNS["window"][0], "magi")
    assert len(found.arrays["q_ranges"]) == 2  # a triangle, and a band
    found = export_mask(*PATTERNS["documents-batch"][0], "varlen")
    assert found.arrays["cu_seqlens_q"].tolist() == [0, 7, 8, 17, 21, 24, 27, 40, 48]
    assert "mask" not in export_mask(*bound("q // 4 == k // 4", 24), "flashinfer", q_tile=4, k_tile=4).arrays


def test_flashmask_says_what_its_own_generators_say() -> None:
    """The masks of FlashMask's tests (``generate_startend_row_indices.py``), by their numbers and as patterns."""
    n, seq = 64, np.array([20, 14, 30])
    ends = np.repeat(np.cumsum(seq), seq)
    starts = np.repeat(np.cumsum(seq) - seq, seq)
    at = np.arange(n)
    doc = {"doc": np.repeat(np.arange(3), seq)}
    documents = "pattern p(doc: int[token]) {{ attend {} }}"
    cases = [
        ("sliding_window(10)", {}, np.stack([np.minimum(at + 10, n)], 1), True),
        (documents.format("same(doc) & causal"), doc, np.stack([ends], 1), True),
        (documents.format("same(doc)"), doc, np.stack([ends, starts], 1), False),
        # The first sequence is the question, and the others are answers to it.
        (documents.format("causal & (same(doc) | k < 20)"), doc, np.stack([np.where(at < 20, n, ends)], 1), True),
        ("k < 16 | causal", {}, np.stack([np.full(n, n), np.where(at < 16, 0, at)], 1), False),
    ]
    for text, values, indices, causal in cases:
        program, binding = bound(text, n, **values)
        found = export_mask(program, binding, "flashmask")
        assert found.options["causal"] is causal
        np.testing.assert_array_equal(found.arrays["startend_row_indices"][0, 0], indices)
        np.testing.assert_array_equal(flash_mask(indices, causal, n), wanted(program, binding)[0, 0])


REFUSED = [
    ("dilated(3, 4) & causal", "varlen", "query 4 keeps 2 stretches of keys"),
    ("causal & (sinks(2) | sliding_window(3))", "varlen", "query 5 keeps 2 stretches of keys"),
    ("k < 3 | causal", "varlen", "one window for all queries of all sequences, and query 0 sees other keys"),
    ("k % 2 == 0 & k < 22", "magi", "a query would have many: query 0 keeps 11 stretches of keys"),
    (
        "q % 3 == 0",
        "flashmask",
        "hides at most two stretches of queries from a key: key 0 is kept by more than 3 stretches",
    ),
    ("q % 3 == 1 & q < 8", "flashmask", "from key 0 more are hidden"),
    ("match h { 0: causal; else: all }", "varlen", "one mask for all heads, and those of heads 0 and 1 differ"),
    ("match h { 0: causal; else: all }", "magi", "one mask for all heads"),
]


@pytest.mark.parametrize(("text", "to", "why"), REFUSED)
def test_refusals_say_which_token_it_is(text: str, to: str, why: str) -> None:
    program, binding = bound(text, 24)
    with pytest.raises(MaskcError, match="E704") as caught:
        export_mask(program, binding, to)
    assert why in str(caught.value)


def test_what_is_beside_the_mask_is_not_dropped() -> None:
    for text, what in (
        ("pattern p(slope: float[head]) { attend causal; score s + slope[h] * k }", "drop its score"),
        ("pattern p(x: float[head]) { attend causal; normalize softmax(sink = x[h]) }", "drop its sink"),
        ("pattern p { attend causal; normalize relu; output o * 2.0 }", "drop its normaliser, relu and its output"),
    ):
        program = lower_text(text)[0]
        with pytest.raises(MaskcError, match="E704") as caught:
            export_mask(program, maskc.make_binding(program, 8, 8, heads=2), "varlen")
        assert what in str(caught.value)


def test_heads_that_share_keys_share_a_mask() -> None:
    program, binding = bound("pattern p(w: int[head]) { attend sliding_window(w[h]) }", 24, heads=4, w=[3, 3, 9, 9])
    found = export_mask(program, binding, "flashmask", kv_heads=2)
    assert found.arrays["startend_row_indices"].shape == (1, 2, 24, 1)
    said = np.repeat(RULES["flashmask"]({**found.arrays, **found.options}, 24, 24, 1), 2, 1)
    np.testing.assert_array_equal(said, wanted(program, binding))
    with pytest.raises(MaskcError, match="those of heads 0 and 2 differ"):
        export_mask(program, binding, "flashmask", kv_heads=1)
    with pytest.raises(MaskcError, match="E504"):
        export_mask(program, binding, "flashmask", kv_heads=3)
    with pytest.raises(MaskcError, match="kv_heads must be an integer"):
        export_mask(program, binding, "flashmask", kv_heads="2")  # type: ignore[arg-type]
    with pytest.raises(MaskcError, match="E503"):
        export_mask(program, binding, "flashmusk")


@pytest.mark.parametrize("to", FORMATS)
def test_there_may_be_no_batch_entries(to: str) -> None:
    found = maskc.export("sliding_window(3)", to, 8, batch=0, q_tile=4, k_tile=4).arrays
    shapes = {name: x.shape for name, x in found.items()}
    if to == "flashmask":
        assert shapes == {"startend_row_indices": (0, 1, 8, 1)}
    elif to == "magi":
        assert shapes == {"q_ranges": (0, 2), "k_ranges": (0, 2), "attn_type_map": (0,)}
    elif to == "varlen":
        assert found["cu_seqlens_q"].tolist() == found["cu_seqlens_k"].tolist() == [0]


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("more", ["", " & hash(q, k) % 2 == 0"], ids=["solved", "read"])
def test_masks_that_come_out_alike_are_one(to: str, more: str) -> None:
    """Windows wider than the sequence, and batch entries as long as it or longer."""
    text = f"pattern p(w: int[head], n: int[batch]) {{ attend sliding_window(w[h]) & k < n[b]{more} }}"
    given = bound(text, 16, heads=3, w=[16, 40, 99], n=[16, 17])
    said = exported(*given, to)
    assert (said is not None) == (not more or to == "flashinfer" or to == "magi")
    if said is not None:
        np.testing.assert_array_equal(said, wanted(*given))


@pytest.mark.parametrize("to", ["varlen", "flashmask", "magi"])
def test_masks_of_many_stretches_are_refused_at_once(to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after all their pairs have been looked at; and neither are those of heads that differ."""
    pairs = 0

    def counted(self: TilePlan, group: Any, rows: Array, cols: Array) -> Array:
        nonlocal pairs
        pairs += rows.size * self.q_tile * self.k_tile
        return tile_mask(self, group, rows, cols)

    n, tile_mask = 1 << 13, TilePlan.tile_mask
    monkeypatch.setattr(TilePlan, "tile_mask", counted)
    for text in ("hash(q, k) % 2 == 0", "hash(q, k) % 2 == h"):
        with pytest.raises(MaskcError, match=r"E704.*(more than|differ)"):
            export_mask(*bound(text, n), to)
        assert pairs < n * n // 2
        pairs = 0


@pytest.mark.parametrize(("text", "to", "most"), [("sliding_window(1024)", "magi", 4), ("causal", "magi", 1)])
def test_a_million_tokens_are_a_few_slices(text: str, to: str, most: int) -> None:
    found = export_mask(*bound(text, 1 << 20), to)
    assert len(found.arrays["q_ranges"]) <= most


def test_memory_follows_the_tokens() -> None:
    """Of every format that has no masks of blocks: some numbers a token, at a million of them."""
    n = 1 << 20
    doc = np.arange(n) // 5000
    program, binding = bound("pattern p(doc: int[token]) { attend same(doc) & causal }", n, doc=doc)
    for to in ("varlen", "flashmask", "magi"):
        tracemalloc.start()
        found = export_mask(program, binding, to)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 400 * n
        if to != "flashmask":
            assert max(len(x) for x in found.arrays.values()) == 210 + (to == "varlen")

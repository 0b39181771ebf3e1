"""Dividing a sequence among ranks."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import maskc
from maskc.parallel import Chunk, Partition, partition
from maskc.parallel.assign import balanced
from maskc.parallel.needs import needs_of
from maskc.parallel.overlap import groups_of, heads_are_alike

from .masks import MASKS, Case

METHODS = [("auto", None), ("contiguous", None), ("contiguous", 3), ("balanced", None), ("balanced", 2)]


def op_of(case: Case) -> Any:
    return maskc.compile(case.text, heads=4, sizes=case.sizes, **case.arguments)


def kept_pairs(case: Case) -> np.ndarray:
    """Whether any head of any batch entry keeps a pair."""
    n = np.arange(case.length)
    b, h = np.arange(2)[:, None, None, None], np.arange(4)[None, :, None, None]
    found = np.broadcast_to(case.kept(b, h, n[:, None], n[None, :]), (2, 4, case.length, case.length))
    return np.asarray(found.any(axis=(0, 1)))


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("ranks", [1, 3, 8])
@pytest.mark.parametrize(("method", "parts"), METHODS)
def test_all_tokens_and_all_keys_are_there(name: str, ranks: int, method: str, parts: int | None) -> None:
    case = MASKS[name]
    op = op_of(case)
    found = partition(op, case.length, ranks, method=method, parts=parts, **case.inputs)
    assert found.ranks == ranks
    np.testing.assert_array_equal(
        np.sort(np.concatenate([found.index(r) for r in range(ranks)])), np.arange(case.length)
    )
    assert set(found.tokens) <= {case.length // ranks, -(-case.length // ranks)}
    pairs, needs = (
        kept_pairs(case),
        needs_of(op.plan(case.length, case.length, q_tile=8, k_tile=8, **case.inputs), found),
    )
    for rank in range(ranks):
        sees = np.zeros(case.length, np.bool_)
        for start, end in needs.keys[rank]:
            sees[start:end] = True
        seen = pairs[found.index(rank)].any(axis=0)
        assert sees[seen].all()
        own = np.zeros(case.length, np.bool_)
        own[found.index(rank)] = True
        np.testing.assert_array_equal(needs.of_others(rank), np.flatnonzero(sees & ~own))
        # By the larger tiles of the plan that it was divided by.
        assert (seen & ~own).sum() <= found.received[rank] <= case.length - own.sum()
        for c, (k_start, k_end) in zip(found.chunks[rank], needs.spans[rank], strict=True):
            here = np.flatnonzero(pairs[c.start : c.end].any(axis=0))
            assert not here.size or (k_start <= here[0] and here[-1] < k_end)


@pytest.mark.parametrize("ranks", [4, 8, 64])
@pytest.mark.parametrize("text", ["k <= q", "causal | k < 9000", "causal & q // 8192 == k // 8192", "k <= q + 5000"])
def test_work_is_balanced(text: str, ranks: int) -> None:
    op, length = maskc.compile(text, heads=2), max(32768, 4096 * ranks)
    assert partition(op, length, ranks, method="balanced", exchange=0).imbalance < 1.02
    assert partition(op, length, ranks, method="contiguous").imbalance > 1.1 or "//" in text


def test_work_is_that_of_the_plan() -> None:
    """Under ``k <= q`` the second half of the queries has three times the pairs of the first."""
    found = partition(maskc.compile("k <= q", heads=1), 65536, 2, method="contiguous")
    assert found.work[1] / found.work[0] == pytest.approx(3, rel=0.03)
    pairs = 65536**2 / 2
    assert found.work.sum() == pytest.approx(pairs, rel=0.45)  # with what is loaded and masked
    assert partition(maskc.compile("k <= q", heads=3), 65536, 2).work.sum() == pytest.approx(3 * found.work.sum())


def test_windows_are_not_torn_apart() -> None:
    found = partition(maskc.compile("causal & sliding_window(1024)", heads=2), 65536, 8)
    assert [len(c) for c in found.chunks] == [1] * 8
    assert found.received.tolist() == [0] + [1024] * 7


def test_receiving_has_a_price() -> None:
    """Documents of unlike length: cheap exchange lets work be balanced, dear exchange keeps them together."""
    doc = np.repeat(np.arange(6), [9000, 500, 12000, 3000, 7268, 1000])
    op = maskc.compile("pattern p(doc: int[token]) { attend same(doc) & causal }", heads=2)
    cheap, dear = (partition(op, 32768, 8, exchange=price, doc=doc) for price in (0, 1e6))
    assert cheap.imbalance < dear.imbalance
    assert cheap.received.max() > dear.received.max()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 10**6))
def test_no_exchange_of_two_chunks_is_left_that_helps(ranks: int, parts: int, seed: int) -> None:
    cost = np.random.default_rng(seed).random(ranks * parts) ** 3
    size = 7 + np.diff(np.arange(cost.size + 1) * (seed % (cost.size + 1)) // cost.size)
    owner = balanced(cost, size, ranks)
    assert np.bincount(owner, minlength=ranks).tolist() == [parts] * ranks
    tokens = np.bincount(owner, weights=size, minlength=ranks)
    assert tokens.max() - tokens.min() <= 1
    load = np.bincount(owner, weights=cost, minlength=ranks)
    worst = load.argmax()
    for i in np.flatnonzero(owner == worst):
        for j in np.flatnonzero(owner != worst):
            moved = cost[i] - cost[j]
            assert size[i] != size[j] or max(load[worst] - moved, load[owner[j]] + moved) > load[worst] - 1e-6


def test_shards_join_to_the_whole() -> None:
    found = partition(maskc.compile("k <= q", heads=1), 389, 3, method="balanced", parts=4)
    whole = torch.randn(2, 4, 389, 8)
    shards = [found.shard(whole, r) for r in range(3)]
    for rank, shard in enumerate(shards):
        torch.testing.assert_close(shard, whole[:, :, torch.from_numpy(found.index(rank))], atol=0, rtol=0)
    assert torch.equal(found.join(shards), whole)
    ids = np.arange(389)
    np.testing.assert_array_equal(found.join([found.shard(ids, r, -1) for r in range(3)], -1), ids)
    with pytest.raises(maskc.MaskcError, match="389"):
        found.shard(whole[:, :, 1:], 0)
    with pytest.raises(maskc.MaskcError, match="expected"):
        found.join(shards[::-1] if len({*found.tokens}) > 1 else shards[:2])


def test_it_is_the_same_in_every_process_and_can_be_stored() -> None:
    op = maskc.compile("k <= q", heads=1)
    one, two = partition(op, 5000, 4), partition(op, 5000, 4)
    assert one.digest == two.digest != partition(op, 5000, 5).digest
    said = json.loads(json.dumps(one.to_dict()))
    assert said["ranks"] == 4
    assert sum(said["tokens"]) == 5000
    assert sorted(c for chunks in said["chunks"] for c in chunks)[0][0] == 0
    assert "4 ranks of 1,250 tokens" in str(one)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"ranks": 0}, "E504"),
        ({"ranks": 101}, "E504"),
        ({"ranks": 2.0}, "E503"),
        ({"length": 0}, "E504"),
        ({"method": "fair"}, "E503"),
        ({"parts": 0}, "E504"),
        ({"parts": 51}, "E504"),
        ({"exchange": -1}, "E504"),
        ({"exchange": float("nan")}, "E504"),
        ({"exchange": "a"}, "E503"),
        ({"doc": [0] * 99}, "E502"),
    ],
)
def test_what_cannot_be_meant(change: dict[str, Any], code: str) -> None:
    options = {"length": 100, "ranks": 2, **change}
    with pytest.raises(maskc.MaskcError) as error:
        partition(maskc.compile("k <= q", heads=1), **options)
    assert error.value.diagnostics[0].code == code


def test_layers_share_a_partition() -> None:
    """Three layers with a window and one that sees all before: the work of all of them is divided evenly."""
    local, whole = (maskc.compile(text, heads=2) for text in ("causal & sliding_window(512)", "k <= q"))
    layers = [local, local, local, whole]
    found = partition(layers, 32768, 8, method="balanced")
    each = [partition(op, 32768, 8, method="contiguous") for op in (local, whole)]
    assert found.work.sum() == pytest.approx(3 * each[0].work.sum() + each[1].work.sum(), rel=1e-6)
    assert found.imbalance < 1.02
    for length, more, code in ((100, {"doc": [0] * 100}, "E502"), (0, {}, "E504")):
        with pytest.raises(maskc.MaskcError) as error:
            partition(layers, length, 2, **more)
        assert error.value.diagnostics[0].code == code
    packed = maskc.compile("pattern p(doc: int[token]) { attend same(doc) }", heads=2)
    assert partition([packed, whole], 100, 2, doc=[0] * 50 + [1] * 50).ranks == 2
    with pytest.raises(maskc.MaskcError, match="no op"):
        partition([], 100, 2)
    with pytest.raises(TypeError, match=r"an op of maskc\.compile"):
        partition("k <= q", 100, 2)  # type: ignore[arg-type]


def test_one_sequence_is_divided() -> None:
    op = maskc.compile("pattern p over decoder -> encoder { attend k <= q }", heads=1)
    with pytest.raises(maskc.MaskcError, match="two sequences"):
        partition(op, 100, 2)


def test_a_partition_of_what_sees_nothing() -> None:
    found = partition(maskc.compile("k > q & k < q", heads=1), 100, 4)
    assert isinstance(found, Partition)
    assert found.received.tolist() == [0] * 4
    assert found.imbalance == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(
    "chunks", [[(0, 5), (6, 10)], [(0, 6), (5, 10)], [(0, 9)], [(1, 10)], [(0, 5), (5, 5), (5, 10)], []]
)
def test_chunks_are_all_tokens_once(chunks: list[tuple[int, int]]) -> None:
    ranks = (tuple(Chunk(*c) for c in chunks[::2]), tuple(Chunk(*c) for c in chunks[1::2]))
    with pytest.raises(maskc.MaskcError, match="each token once"):
        Partition(10, ranks, np.ones(2), np.zeros(2, np.int64), "by hand")


ALIKE = {
    "causal": True,
    "pattern p(slope: float[head]) { attend causal\n score s + slope[h] * (k - q) }": True,
    "pattern p(a: float[head]) { attend causal\n normalize softmax(sink = a[h]) }": True,
    "pattern p(a: float[head]) { attend causal\n score s + a[0] }": True,
    "pattern p(w: int[head]) { attend q - k < w[h] }": False,
    "pattern p(a: float[head]) { attend causal\n score s + a[(h + 1) % 4] }": False,
    "pattern p { attend causal\n score s + exp2(-8.0 * float(h) / float(heads)) * float(k - q) }": False,
    "pattern p { attend causal & q - k < 4 * heads }": False,
}


@pytest.mark.parametrize("text", ALIKE)
def test_heads_that_are_told_apart_are_not_divided(text: str) -> None:
    op = maskc.compile(text, heads=4, **({"w": [1, 2, 3, 4]} if "w: int" in text else {}))
    assert heads_are_alike(op.program) is ALIKE[text]


def test_keys_are_under_way_where_that_pays() -> None:
    op, length = maskc.compile("causal", heads=32), 131_072
    plan = op.plan(length, length)
    near, far = (needs_of(plan, partition(op, length, 8, exchange=price)) for price in (200, 4000))
    assert groups_of(near, 1, 32, 8, None) == 1  # of what is hidden less than what more calls take
    assert groups_of(far, 1, 32, 8, None) in (2, 4)
    assert groups_of(far, 1, 32, 1, None) == 1  # one head of keys has no parts
    assert [groups_of(near, 1, 32, 6, most) for most in (1, 2, 4, 5, 99)] == [1, 2, 3, 3, 6]

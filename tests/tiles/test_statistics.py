"""Counts of pairs, tiles and operations equal brute force; advice holds what it promises."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskc.ir.binding import Binding
from maskc.ir.evaluate import dense
from maskc.ir.program import Program
from maskc.lower import lower_text
from maskc.tiles import make_plan
from maskc.tiles.advice import union_tiles
from maskc.tiles.binding import make_binding
from maskc.tiles.cost import ROUGH, CostModel, features, fit, plan_cost, row_costs
from maskc.tiles.figures import Statistics
from maskc.tiles.keyorders import KeyOrder
from maskc.tiles.rowsets import RowSets, merged_intervals, row_sets
from maskc.tiles.statistics import _groups, _partial_tiles, statistics
from maskc.tiles.tiling import PARTIAL
from tests.strategies import bindings, programs

from .corpus import GRIDS, INPUTS, MASKS, grid_case, input_case, plain_case

#: Masks that are counted by rows whatever their length: if one falls out of this list, it costs N x N.
BY_ROWS = (
    *("causal", "window", "not a window", "window | sinks", "chunk", "prefix", "Longformer", "BigBird", "random keys"),
    *("dilated", "dilated by more than a tile", "strided", "stripes", "product of residues", "hash of rows"),
    *("hash of keys", "powers of two", "scaled", "float floor", "nested any", "tree", "block diffusion"),
)


def stats_of(mask: str, q_len: int, k_len: int | None = None, q_tile: int = 64, k_tile: int = 64) -> Statistics:
    program = lower_text(mask)[0]
    binding = make_binding(program, q_len, q_len if k_len is None else k_len)
    return make_plan(program, binding, q_tile=q_tile, k_tile=k_tile).stats


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("lengths", [(301, 333), (256, 256), (1, 200)])
def test_keys_of_each_query_are_counted_exactly(name: str, lengths: tuple[int, int]) -> None:
    program, binding = plain_case(name, *lengths)
    sets = row_sets(program, binding)
    assert sets is not None or name not in BY_ROWS
    if sets is not None:
        np.testing.assert_array_equal(sets.counts(), dense(program, binding).sum(axis=1))


@pytest.mark.parametrize("name", GRIDS)
def test_keys_of_each_query_of_a_grid_are_counted_exactly(name: str) -> None:
    program, binding = grid_case(name)
    sets = row_sets(program, binding)
    assert sets is not None or name == "strided, dilated"
    if sets is not None:
        np.testing.assert_array_equal(sets.counts(), dense(program, binding).sum(axis=1))


@pytest.mark.parametrize("name", INPUTS)
def test_keys_are_counted_for_each_head_and_batch_entry(name: str) -> None:
    program, binding = input_case(name, 301, 333)
    for head in range(3):
        for batch in range(2):
            sets = row_sets(program, binding, head, batch)
            if sets is not None:
                np.testing.assert_array_equal(sets.counts(), dense(program, binding, head, batch).sum(axis=1))


def test_documents_in_any_order_are_counted_by_rows() -> None:
    program = lower_text("pattern p(doc: int[token], mark: bool[token]) { attend (causal | mark[k]) & same(doc) }")[0]
    rng = np.random.default_rng(0)
    binding = make_binding(
        program, 400, 500, doc=rng.integers(-(10**12), 10**12, 7)[rng.integers(0, 7, 500)], mark=rng.random(500) < 0.2
    )
    sets = row_sets(program, binding)
    assert sets is not None
    np.testing.assert_array_equal(sets.counts(), dense(program, binding).sum(axis=1))


@settings(max_examples=150, deadline=None)
@given(programs(scores=False), bindings())
def test_random_programs_are_counted_exactly(program: Program, binding: Binding) -> None:
    plan = make_plan(program, binding, q_tile=4, k_tile=3)
    found = statistics(plan, advise=False)
    masks = {(h, b): dense(program, binding, h, b) for h in range(binding.heads) for b in range(binding.batch)}
    assert found.useful_exact
    assert found.useful_pairs == sum(int(m.sum()) for m in masks.values())
    for g in found.groups:
        for h in g.heads:
            for b in g.batches:
                assert g.useful_pairs == masks[h, b].sum()
                blind = np.flatnonzero(~masks[h, b].any(axis=1))
                assert g.blind in (None, blind.size)
                assert g.first_blind in (None, *(binding.offset + blind[:1]))


def test_intervals_of_each_row_are_merged_without_a_gap_or_an_overlap() -> None:
    rng = np.random.default_rng(0)
    for count in range(6):
        bounds = [(lo, lo + rng.integers(-3, 9, 50)) for lo in rng.integers(0, 20, (count, 50))]
        lo, hi = merged_intervals(bounds, 50)
        assert (lo <= hi).all()
        assert (hi[:, :-1] <= lo[:, 1:]).all()
        k = np.arange(40)
        kept = [((a[:, None] <= k) & (k < b[:, None])) for a, b in bounds]
        found = ((lo[..., None] <= k) & (k < hi[..., None])).sum(axis=1)
        assert (found == np.any(kept, axis=0)).all() if count else not found.any()


def test_strides_that_are_not_worth_it_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(plan: object) -> int:
        raise AssertionError("counted")

    monkeypatch.setattr("maskc.tiles.advice._kept", counted)
    found = stats_of("causal & (sinks(4) | sliding_window(600))", 8192)  # Rounding that window saves nothing.
    assert [a.kind for a in found.advice] == ["cache"]


def test_totals_follow_from_groups_and_json_holds_them() -> None:
    program = lower_text("pattern p(w: int[head]) { attend sliding_window(w[h]) }")[0]
    plan = make_plan(program, make_binding(program, 300, 300, heads=4, w=[20, 90, 20, 300]), q_tile=32, k_tile=32)
    found = statistics(plan, 64, value_dim=32)
    assert found.masks == 3
    assert found.useful_pairs == sum(g.copies * g.useful_pairs for g in found.groups)
    assert found.full + found.partial + found.empty == 4 * 10 * 10
    assert found.flops_forward == 2 * found.executed_pairs * (64 + 32)
    assert found.flops_backward == 2 * found.executed_pairs * (3 * 64 + 2 * 32)
    assert found.waste == found.executed_pairs / found.useful_pairs
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [g["heads"] for g in data["groups"]] == [[0, 2], [1], [3]]
    assert data["liveness"]["most"] == 300


def test_a_mask_that_keeps_nothing() -> None:
    found = stats_of("none", 200)
    assert found.useful_pairs == found.executed_pairs == 0
    assert found.to_dict()["waste"] is None
    assert [a.kind for a in found.advice] == ["empty"]


def test_no_queries_and_no_keys() -> None:
    program = lower_text("causal")[0]
    for q_len, k_len in ((0, 0), (0, 5)):
        found = make_plan(program, make_binding(program, q_len, k_len)).stats
        assert (found.useful_pairs, found.executed_pairs, found.full) == (0, 0, 0)
        assert found.speedup == 1.0
        assert "inf" not in str(found)
        json.dumps(found.to_dict(), allow_nan=False)


def test_a_million_tokens_are_counted_in_closed_form() -> None:
    n, w, s = 1 << 20, 4096, 64
    program = lower_text(f"causal & (sinks({s}) | sliding_window({w}))")[0]
    found = statistics(make_plan(program, make_binding(program, n, n)), advise=False)
    window = n * w - w * (w - 1) // 2
    beyond = sum(min(s, q - w + 1) for q in range(w, w + s)) + (n - w - s) * s
    assert found.useful_exact
    assert found.useful_pairs == window + beyond
    assert found.liveness is not None
    assert found.liveness.most == w + s


def test_partial_tiles_are_found_by_their_number() -> None:
    (program,) = lower_text("pattern p() { attend causal & ((q - k) % (3 + h) == 0 | k < 40) & (k < 30 | k > 70) }")
    plan = make_plan(program, make_binding(program, q_len=150, k_len=170, heads=1), q_tile=8, k_tile=8)
    wanted = np.argwhere(plan.kinds() == PARTIAL)
    found = _partial_tiles(plan.groups[0].runs, np.arange(len(wanted)))
    np.testing.assert_array_equal(np.stack(found, axis=1), wanted)


def test_no_list_is_made_of_partial_tiles_that_are_sampled() -> None:
    """Of a dilation by head every tile below the diagonal is partial: one run a row, and 33.6 million tiles here."""
    (program,) = lower_text("pattern p() { attend causal & (q - k) % (7 + h) == 0 }")
    plan = make_plan(program, make_binding(program, q_len=1 << 18, k_len=1 << 18, heads=1), q_tile=32, k_tile=32)
    tracemalloc.start()
    found = statistics(plan, advise=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.partial == plan.rows * (plan.rows + 1) // 2
    assert found.sampled > 0
    assert peak < 100 << 20


def test_the_cost_model_is_linear_in_what_is_counted() -> None:
    program, binding = plain_case("Longformer", 300, 300)
    plan = make_plan(program, binding, q_tile=32, k_tile=16)
    rows = row_costs(plan.groups[0].runs, 32, 16)
    assert rows.sum() == pytest.approx(plan_cost(plan)) == pytest.approx(features(plan) @ np.array(ROUGH.weights))


def test_constants_are_found_again_from_measurements() -> None:
    truth = CostModel(partial=1.7, edge=11.0, run=900.0, row=7000.0, query=40.0, seconds=2e-10)
    plans = []
    for mask in ("true", "causal", "sliding_window(40)", "chunk(100)", "strided(3)"):
        program = lower_text(mask)[0]
        for n, q_tile, k_tile in ((500, 32, 16), (900, 64, 64), (700, 16, 64)):
            plans.append(make_plan(program, make_binding(program, n, n), q_tile=q_tile, k_tile=k_tile))
    found = fit(plans, [plan_cost(p, truth) * 2e-10 for p in plans])
    assert found.seconds == pytest.approx(2e-10, rel=1e-4)
    assert found.weights == pytest.approx(truth.weights, rel=1e-3)
    without = dataclasses.replace(truth, edge=-2.0)
    clipped = fit(plans, [plan_cost(p, without) * 2e-10 for p in plans])
    assert clipped.edge == 0.0
    assert min(clipped.weights) >= 0
    alone = fit(plans[:1], [plan_cost(plans[0], truth) * 2e-10])
    assert alone.seconds is not None
    assert plan_cost(plans[0], alone) * alone.seconds == pytest.approx(plan_cost(plans[0], truth) * 2e-10)
    with pytest.raises(ValueError, match="do not tell"):
        fit([make_plan(*plain_case("none", 50, 50))], [1.0])


def kinds(found: Statistics) -> dict[str, str]:
    return {a.kind: a.text for a in found.advice}


def test_advice_on_queries_without_keys_and_on_keys_of_the_future() -> None:
    assert "7 queries of the mask keep no key (the first is query 0)" in kinds(stats_of("k <= q - 7", 300))["blind"]
    ahead = kinds(stats_of("sinks(4) | sliding_window(64)", 300))["ahead"]
    assert "3 queries see later keys (query 0 sees key 3)" in ahead
    claimed = kinds(stats_of("pattern p { attend window(3, 3)\n assert k <= q }", 100))["ahead"]
    assert "99 queries see later keys" in claimed
    assert "asserts" in claimed
    assert "ahead" not in kinds(stats_of("window(3, 3)", 100))
    assert "ahead" not in kinds(stats_of("causal", 100))


def test_advice_on_the_cache() -> None:
    assert (
        "a KV cache of 36 keys, not of 300" in kinds(stats_of("causal & (sinks(4) | sliding_window(32))", 300))["cache"]
    )
    assert "cache" not in kinds(stats_of("causal", 300))


def test_advice_on_strides_is_what_the_stride_gives() -> None:
    program = lower_text("pattern p over grid(y, x) { attend neighborhood(y, 8) & neighborhood(x, 8) }")[0]
    binding = make_binding(program, 64 * 64, 64 * 64, sizes={"y": 64, "x": 64})
    plan = make_plan(program, binding)
    advice = next(a for a in plan.stats.advice if a.kind == "stride")
    stride = int(advice.text.split("with stride ")[1].split()[0])
    text = f"neighborhood(y, 8, stride = {stride}) & neighborhood(x, 8, stride = {stride})"
    strided = make_plan(lower_text(f"pattern p over grid(y, x) {{ attend {text} }}")[0], binding)
    assert advice.gain == pytest.approx(plan_cost(plan) / plan_cost(strided))
    assert advice.gain > 1.1


def test_advice_on_heads_that_could_share_a_plan() -> None:
    program = lower_text("pattern p(w: int[head]) { attend sliding_window(w[h]) }")[0]
    binding = make_binding(program, 2000, 2000, heads=3, w=[500, 1020, 1021])
    texts = kinds(make_plan(program, binding, q_tile=64, k_tile=64).stats)
    assert "heads 1 and 2 could share one plan" in texts["share"]


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(sorted(MASKS)), st.sampled_from(sorted(MASKS)))
def test_tiles_of_two_masks_together(first: str, second: str) -> None:
    plans = [make_plan(*plain_case(name, 150, 170), q_tile=16, k_tile=16) for name in (first, second)]
    together = int(((plans[0].kinds() > 0) | (plans[1].kinds() > 0)).sum())
    assert union_tiles(plans[0].groups[0].runs, plans[1].groups[0].runs, plans[0].cols) == together


def _many_heads(text: str, tokens: int, heads: int) -> tuple[Program, Binding]:
    program = lower_text(f"pattern p(w: int[head], doc: int[token], mark: bool[token]) {{ attend {text} }}")[0]
    doc, mark = np.arange(tokens) // 100 * 7 % 64, np.arange(tokens) % 5 > 0
    return program, make_binding(program, tokens, tokens, heads=heads, w=10 * np.arange(heads) + 50, doc=doc, mark=mark)


@pytest.mark.parametrize(
    ("text", "orders"),
    [("same(doc) & q - k < w[h]", 1), ("same(doc) & mark[k] | k > q + w[h]", 2), ("doc[k] < w[h] & causal", 6)],
)
def test_rules_are_evaluated_once_and_orders_of_keys_are_shared(
    monkeypatch: pytest.MonkeyPatch, text: str, orders: int
) -> None:
    """By all heads, where they do not depend on them."""
    case, evaluated, ordered = _many_heads(text, 6000, 6), list[object](), list[object]()
    rows, of = RowSets._rows, KeyOrder.of
    monkeypatch.setattr(RowSets, "_rows", lambda self, r, a, b: evaluated.append(r) or rows(self, r, a, b))
    monkeypatch.setattr(KeyOrder, "of", staticmethod(lambda *args: ordered.append(args) or of(*args)))
    plan = make_plan(*case)
    found = _groups(plan, None)[0]
    assert len(found) == 6
    assert len(evaluated) == 6 * len(row_sets(*case).rules)  # type: ignore[union-attr]
    assert len(ordered) == orders
    for g in found:
        assert g.useful_pairs == dense(*case, g.heads[0]).sum()


def test_labels_in_stretches_are_not_searched_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by each query, nor are the queries of each key."""
    case, searched = _many_heads("causal & same(doc) & q - k < w[h]", 6400, 4), list[int]()
    search = np.searchsorted
    monkeypatch.setattr(np, "searchsorted", lambda a, v, **o: searched.append(np.size(v)) or search(a, v, **o))
    _groups(make_plan(*case), None)
    assert sum(searched) < 4 * 6400 // 10


def test_groups_are_counted_one_after_another_and_said_to_be() -> None:
    case, seen = _many_heads("causal & q - k < w[h]", 1000, 5), list[tuple[int, int]]()
    statistics(make_plan(*case), watch=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 6) for i in range(6)]
    tracemalloc.start()
    for heads in (4, 32):  # a head holds 16 bytes a token and more, if all are held
        tracemalloc.reset_peak()
        _groups(make_plan(*_many_heads("causal & same(doc) & q - k < w[h]", 1 << 14, heads)), None)
        peak = tracemalloc.get_traced_memory()[1]
        assert peak < 250 * (1 << 14), peak
    tracemalloc.stop()

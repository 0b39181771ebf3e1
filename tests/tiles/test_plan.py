"""What a plan offers besides its runs: the transposed plan, hashes, tensors, statistics, schedules."""

from __future__ import annotations

import itertools
import json
import pickle
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskc.diagnostics import MaskcError
from maskc.ir.evaluate import dense
from maskc.lower import lower_text
from maskc.tiles import make_plan, transpose
from maskc.tiles.binding import make_binding
from maskc.tiles.choose import choose_tiles
from maskc.tiles.cost import CostModel, plan_cost
from maskc.tiles.plan import TilePlan
from maskc.tiles.runs import assemble, to_dense
from maskc.tiles.schedule import schedule
from maskc.tiles.statistics import statistics
from maskc.tiles.tiling import Runs
from maskc.tiles.transpose import transpose_runs

from .corpus import INPUTS, MASKS, brute_kinds, input_case, plain_case


def plan_of(name: str, q_len: int = 317, k_len: int = 611, q_tile: int = 32, k_tile: int = 48) -> TilePlan:
    return make_plan(*plain_case(name, q_len, k_len), q_tile=q_tile, k_tile=k_tile)


@pytest.mark.parametrize("name", MASKS)
def test_the_transposed_plan_is_the_transpose(name: str) -> None:
    plan = plan_of(name)
    transposed = plan.transposed()
    np.testing.assert_array_equal(to_dense(transposed.groups[0].runs, plan.rows), plan.kinds().T)


def test_a_transposed_plan_may_have_tiles_of_its_own() -> None:
    plan = plan_of("window | sinks")
    transposed = plan.transposed(64, 16)
    expected = brute_kinds(plan.program, plan.binding, 64, 16)
    np.testing.assert_array_equal(to_dense(transposed.groups[0].runs, expected.shape[0]), expected.T)


def test_transposing_costs_what_the_boundary_does() -> None:
    """Not what its area does, which is 33 million tiles here."""
    plan = plan_of("causal", 1 << 20, 1 << 20, 128, 128)
    tracemalloc.start()
    runs = plan.transposed().groups[0].runs
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert runs.start.size <= 2 * 8192
    assert most < 16 << 20


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_any_runs_are_transposed(seed: int, rows: int, cols: int) -> None:
    kinds = np.random.default_rng(seed).choice(3, (rows, cols), p=[0.3, 0.3, 0.4]).astype(np.uint8)
    found = transpose_runs(runs_of(kinds), cols)
    np.testing.assert_array_equal(to_dense(found, rows), kinds.T)
    for name, wanted in vars(runs_of(kinds.T)).items():
        np.testing.assert_array_equal(getattr(found, name), wanted, name)


def runs_of(kinds: np.ndarray) -> Runs:  # type: ignore[type-arg]
    """The runs of tiles of these kinds."""
    rows, cols = (x.ravel() for x in np.indices(kinds.shape))
    return assemble(*kinds.shape, rows, rows + 1, cols, cols + 1, kinds.ravel())


def test_more_runs_by_keys_than_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transpose, "MAX_RUNS", 1000)
    plan = make_plan(*plain_case("sparse hash", 4096, 4096), q_tile=32, k_tile=32)
    with pytest.raises(MaskcError) as e:
        plan.transposed()
    assert e.value.codes == ("E801",)


def test_plans_are_equal_if_they_plan_the_same() -> None:
    plan, again, other = plan_of("window"), plan_of("window"), plan_of("causal")
    assert plan == again
    assert hash(plan) == hash(again)
    assert plan != other
    assert plan != plan_of("window", k_len=612)
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_plans_of_other_inputs_differ() -> None:
    plans = [make_plan(*input_case("edges", 301, 333, seed)) for seed in (0, 1)]
    assert plans[0] != plans[1]


def test_a_plan_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        plan_of("causal").q_tile = 3  # type: ignore[misc]


def test_to_tensors() -> None:
    plan = plan_of("window | sinks")
    tensors = plan.to("cpu")
    for name in ("offsets", "start", "end"):
        tensor = tensors["groups"][0][name]
        assert tensor.dtype == torch.int32
        np.testing.assert_array_equal(tensor.numpy(), getattr(plan.groups[0].runs, name))
    assert tensors["q_index"] is None


@pytest.mark.parametrize("name", MASKS)
def test_useful_pairs_are_counted(name: str) -> None:
    plan = plan_of(name)
    (group,) = statistics(plan).groups
    assert (group.useful_pairs, group.sampled) == (int(dense(plan.program, plan.binding).sum()), 0)


@pytest.mark.parametrize("name", ["causal", "window | sinks", "Longformer", "chunk", "scaled", "minimum"])
def test_useful_pairs_are_counted_by_rows_where_tiles_are_many(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskc.tiles.statistics._EXACT_PAIRS", 0)
    plan = plan_of(name)
    (group,) = statistics(plan).groups
    assert (group.useful_pairs, group.sampled) == (int(dense(plan.program, plan.binding).sum()), 0)


def test_useful_pairs_of_an_irregular_mask_are_estimated_and_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskc.tiles.statistics._EXACT_PAIRS", 0)
    plan = make_plan(*plain_case("hash", 700, 700), q_tile=16, k_tile=16)
    (group,) = statistics(plan).groups
    truth = int(dense(plan.program, plan.binding).sum())
    assert group.sampled
    assert abs(group.useful_pairs - truth) < 0.1 * truth


@pytest.mark.parametrize("name", INPUTS)
def test_statistics_count_all_heads_and_batch_entries(name: str) -> None:
    program, binding = input_case(name, 301, 333)
    found = statistics(make_plan(program, binding, q_tile=32, k_tile=24))
    kinds = [brute_kinds(program, binding, 32, 24, h, b) for h in range(3) for b in range(2)]
    assert found.full == sum(int((x == 2).sum()) for x in kinds)
    assert found.partial == sum(int((x == 1).sum()) for x in kinds)
    assert found.empty == sum(int((x == 0).sum()) for x in kinds)
    assert found.useful_pairs == sum(int(dense(program, binding, h, b).sum()) for h in range(3) for b in range(2))
    assert found.executed_pairs == (found.full + found.partial) * 32 * 24
    json.dumps(found.to_dict(), allow_nan=False)


def test_advice_is_given_where_tiles_are_too_coarse() -> None:
    program = lower_text("any(i in 0..8: k // 32 == hash(q // 32, i) % 128)")[0]
    plan = make_plan(program, make_binding(program, 4096, 4096))
    advice = next(a for a in plan.stats.advice if a.kind == "tiles")
    assert "32 x 32" in advice.text
    better = make_plan(program, plan.binding, q_tile=32, k_tile=32)
    assert advice.gain == pytest.approx(plan_cost(plan) / plan_cost(better))
    assert f"{plan.stats.executed_pairs / better.stats.executed_pairs:.1f} times fewer pairs" in advice.text
    assert f"waste {plan.stats.waste:.2f}" in str(plan)


def test_tile_sizes_are_chosen_by_their_cost() -> None:
    for mask, best in (("q // 32 == k // 32", (32, 32)), ("true", (128, 128))):
        program = lower_text(mask)[0]
        model = CostModel(edge=2.0, row=0.0, run=0.0, query=0.0)
        plan = choose_tiles(program, make_binding(program, 1024, 1024), model=model)
        assert (plan.q_tile, plan.k_tile) == best
        assert plan_cost(plan, model) > 0


def test_a_schedule_covers_every_tile_once_and_balances() -> None:
    plan = make_plan(*plain_case("Longformer", 4096, 4096), q_tile=32, k_tile=32)
    runs = plan.groups[0].runs
    work = schedule(plan, workers=8)
    for row in range(plan.rows):
        here = np.flatnonzero(work.row == row)
        spans = sorted((int(work.first[i]), int(work.last[i])) for i in here)
        tiles = sum(int(runs.end[i] - runs.start[i]) for i in range(runs.offsets[row], runs.offsets[row + 1]))
        assert spans[0][0] == 0
        assert spans[-1][1] == tiles
        assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))
    assert (np.diff(work.cost) <= 0).all()
    assert work.split_rows >= 1
    assert work.imbalance < schedule(plan, workers=8, split=False).imbalance

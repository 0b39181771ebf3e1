"""The key intervals of every query are the mask, wherever there are few a query."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskc.ir.binding import Binding
from maskc.ir.evaluate import dense
from maskc.ir.nodes import Node
from maskc.ir.program import Program
from maskc.lower import lower_text
from maskc.tiles import make_plan
from maskc.tiles.binding import make_binding
from maskc.tiles.intervals import key_intervals
from maskc.tiles.plan import TilePlan
from maskc.tiles.tiling import Group

from .corpus import GRIDS, INPUTS, MASKS, grid_case, input_case, plain_case
from .test_random import _program, _tables, masks

FEW = 4


def laid_out(plan: TilePlan, group: Group) -> np.ndarray:
    kept = dense(plan.program, plan.binding, group.heads[0], group.batches[0])
    kept = kept if plan.q_order.index is None else kept[plan.q_order.index]
    return kept if plan.k_order.index is None else kept[:, plan.k_order.index]


def check(plan: TilePlan) -> None:
    """All groups have the intervals of their masks, and None where some query has more than a few."""
    for group in plan.groups:
        kept = laid_out(plan, group)
        edges = np.diff(kept.astype(np.int8), axis=1, prepend=0, append=0)
        most = int((edges == 1).sum(axis=1).max(initial=0))
        found = plan.intervals(group)
        if found is None:
            assert most > FEW
            continue
        assert len(found) == most
        again, end = np.zeros_like(kept), np.full(plan.binding.q_len, -1)
        for lo, hi in found:
            assert lo.dtype == hi.dtype == np.int32
            some = hi > lo
            assert ((lo == 0) & (hi == 0) | some).all()
            assert (lo > end)[some].all()
            end = np.where(some, hi, np.iinfo(np.int32).max)  # nothing follows an empty one
            k = np.arange(plan.binding.k_len)
            again |= (k >= lo[:, None]) & (k < hi[:, None])
        np.testing.assert_array_equal(again, kept)


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("shape", [(96, 96, 16, 16), (61, 131, 24, 16)], ids=str)
def test_plain_masks(name: str, shape: tuple[int, int, int, int]) -> None:
    q_len, k_len, q_tile, k_tile = shape
    check(make_plan(*plain_case(name, q_len, k_len), q_tile=q_tile, k_tile=k_tile))


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("layout", ["none", "blocks"])
def test_grids(name: str, layout: str) -> None:
    check(make_plan(*grid_case(name), q_tile=32, k_tile=32, layout=layout))


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("seed", range(3))
def test_inputs(name: str, seed: int) -> None:
    check(make_plan(*input_case(name, 101, 133, seed), q_tile=16, k_tile=16))


@settings(max_examples=80, deadline=None)
@given(masks(3), st.integers(0, 3), st.sampled_from([(150, 150, 16, 16), (70, 150, 8, 24), (1, 150, 4, 32)]))
def test_random_masks(mask: Node, seed: int, shape: tuple[int, int, int, int]) -> None:
    q_len, k_len, q_tile, k_tile = shape
    check(make_plan(_program(mask), Binding(q_len, k_len, tables=_tables(seed)), q_tile=q_tile, k_tile=k_tile))


def scattered(n: int) -> tuple[Program, Binding]:
    program = lower_text("pattern p(doc: int[token]) { attend causal & same(doc) | k == 0 }")[0]
    return program, make_binding(program, n, n, doc=np.arange(n) * 7 % 5)


def test_sorted_tokens_have_the_intervals_that_scattered_ones_have_not(monkeypatch: pytest.MonkeyPatch) -> None:
    program, binding = scattered(200)
    plain = make_plan(program, binding, q_tile=16, k_tile=16)
    assert plain.intervals(plain.groups[0]) is None
    monkeypatch.setattr("maskc.tiles.intervals._LOOK", 0)  # solved, not read off
    plan = make_plan(program, binding, q_tile=16, k_tile=16, layout="sorted")
    found = plan.intervals(plan.groups[0])
    assert found is not None
    assert len(found) == 2
    check(plan)


@pytest.mark.parametrize("name", ["dilated", "strided", "causal"])
def test_residue_classes(name: str) -> None:
    check(make_plan(*plain_case(name, 200, 200), q_tile=16, k_tile=16, layout="residues"))


def test_a_dilation_in_residue_classes_is_one_interval_a_query(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskc.tiles.intervals._LOOK", 0)
    program = lower_text("(q - k) % 16 == 0 & causal & q - k < 400")[0]
    plan = make_plan(program, make_binding(program, 1024, 1024), q_tile=16, k_tile=16, layout="residues")
    found = plan.intervals(plan.groups[0])
    assert found is not None
    assert len(found) == 1
    check(plan)


def test_intervals_are_found_once_and_for_groups_of_one_mask_together() -> None:
    program, binding = input_case("own windows", 64, 64)
    plan = make_plan(program, binding, q_tile=16, k_tile=16)
    for one in plan.groups:
        for other in plan.groups:
            assert (plan.intervals(one) is plan.intervals(other)) == (one.runs is other.runs)


def test_a_plan_without_its_intervals_is_still_small() -> None:
    program = lower_text("sliding_window(4096)")[0]
    plan = make_plan(program, make_binding(program, 1 << 20, 1 << 20))
    before = plan.nbytes
    found = plan.intervals(plan.groups[0])
    assert found is not None
    assert len(found) == 1
    np.testing.assert_array_equal(found[0][1], np.arange(1, (1 << 20) + 1))
    assert plan.nbytes == before < 2 << 20
    assert "_intervals" not in plan.__getstate__()


def test_one_interval_a_query_takes_little_memory() -> None:
    program, n = lower_text("causal & q - k < 100")[0], 1 << 19
    plan = make_plan(program, make_binding(program, n, n))
    tracemalloc.start()
    found = key_intervals(plan, plan.groups[0])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found is not None
    assert len(found) == 1
    assert peak < 56 * n, peak  # two bounds, as they are solved, clipped and in 32 bits

"""Live keys equal brute force, and bounds by tiles are never too small."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings

from maskc.ir.binding import Binding
from maskc.ir.evaluate import dense
from maskc.ir.program import Program
from maskc.lower import lower_text
from maskc.tiles import make_plan
from maskc.tiles.binding import make_binding
from maskc.tiles.liveness import Liveness, liveness
from maskc.tiles.plan import TilePlan
from tests.strategies import bindings, programs

from .corpus import GRIDS, MASKS, grid_case, plain_case


def brute(kept: npt.NDArray[np.bool_], binding: Binding) -> Liveness:
    """From the dense mask."""
    offset, n = binding.offset, binding.q_len
    last = np.where(kept.any(axis=0), offset + n - 1 - kept[::-1].argmax(axis=0), -1)
    key, queries = np.arange(binding.k_len), np.arange(offset, offset + n)
    count = [int((((key <= t) | binding.cross) & (last >= t)).sum()) for t in queries]
    causal = binding.cross or not (kept & (key[None, :] > queries[:, None])).any()
    at = int(np.argmax(count))
    return Liveness(count[at], offset + at, count[-1], int((last < 0).sum()), True, bool(causal))


def check(plan: TilePlan, kept: npt.NDArray[np.bool_]) -> None:
    found, truth = liveness(plan), brute(kept, plan.binding)
    if found.exact:
        assert found == truth
    else:
        assert found.most >= truth.most
        assert found.at_end >= truth.at_end
        assert found.never_seen <= truth.never_seen
        assert truth.causal or not found.causal


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("lengths", [(301, 333), (256, 256), (1, 200)])
def test_live_keys(name: str, lengths: tuple[int, int]) -> None:
    program, binding = plain_case(name, *lengths)
    check(make_plan(program, binding, q_tile=16, k_tile=32), dense(program, binding))


@pytest.mark.parametrize("name", GRIDS)
def test_live_keys_of_grids(name: str) -> None:
    program, binding = grid_case(name)
    check(make_plan(program, binding, q_tile=16, k_tile=32), dense(program, binding))


@settings(max_examples=100, deadline=None)
@given(programs(scores=False), bindings())
def test_live_keys_of_random_programs(program: Program, binding: Binding) -> None:
    plan = make_plan(program, binding, q_tile=4, k_tile=3)
    found = liveness(plan)
    truths = []
    for b in range(binding.batch):
        kept = np.logical_or.reduce([dense(program, binding, h, b) for h in range(binding.heads)])
        truths.append(brute(kept, binding))
    most = max(t.most for t in truths)
    assert found.most == most if found.exact else found.most >= most


@pytest.mark.parametrize(
    ("mask", "most"),
    [
        ("causal", 5000),
        ("sliding_window(100)", 100),
        ("causal & (sliding_window(100) | sinks(7))", 107),
        ("causal & chunk(64)", 64),
        ("causal & dilated(10, 16)", 161),
        ("self", 1),
        ("none", 0),
    ],
)
def test_the_cache_that_well_known_masks_need(mask: str, most: int) -> None:
    program = lower_text(mask)[0]
    found = liveness(make_plan(program, make_binding(program, 5000, 5000)))
    assert found.exact
    assert found.causal
    assert found.most == most


def test_keys_of_an_encoder_are_there_from_the_start() -> None:
    program = lower_text("pattern p over decoder -> encoder { attend k < 90 }")[0]
    found = liveness(make_plan(program, make_binding(program, 50, 200)))
    assert found == Liveness(90, 0, 90, 110, True, True)


def test_each_group_by_itself() -> None:
    program = lower_text("pattern p(w: int[head]) { attend sliding_window(w[h]) }")[0]
    plan = make_plan(program, make_binding(program, 300, 300, heads=3, w=[20, 90, 20]))
    assert [liveness(plan, g).most for g in plan.groups] == [20, 90]
    assert liveness(plan).most == 90
    assert [g.live_keys for g in plan.stats.groups] == [20, 90]

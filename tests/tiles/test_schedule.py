"""Schedules cover every tile once, and never take longer than what they replace."""

from __future__ import annotations

import numpy as np
import pytest

from maskc.tiles import make_plan
from maskc.tiles.cost import CostModel, row_costs
from maskc.tiles.schedule import schedule_runs, tiles_by_row

from .corpus import MASKS, plain_case


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("workers", [1, 7])
def test_every_tile_is_done_once(name: str, workers: int) -> None:
    plan = make_plan(*plain_case(name, 500, 500), q_tile=16, k_tile=16)
    runs = plan.groups[0].runs
    tiles = tiles_by_row(runs)
    np.testing.assert_array_equal(tiles, (plan.kinds() > 0).sum(axis=1))
    work = schedule_runs(runs, 16, 16, workers=workers)
    for row in range(plan.rows):
        here = sorted(zip(work.first[work.row == row].tolist(), work.last[work.row == row].tolist(), strict=True))
        assert here[0][0] == 0
        assert here[-1][1] == tiles[row]
        assert [a[1] for a in here[:-1]] == [b[0] for b in here[1:]]
    assert (np.diff(work.cost) <= 0).all()
    assert work.imbalance >= 1 - 1e-9


def test_costs_of_the_parts_add_up_to_the_row_and_its_repeated_start() -> None:
    plan = make_plan(*plain_case("Longformer", 500, 500), q_tile=16, k_tile=16)
    runs, model = plan.groups[0].runs, CostModel(row=300.0, query=2.0)
    work = schedule_runs(runs, 16, 16, workers=4, model=model)
    parts = np.bincount(work.row, minlength=plan.rows)
    assert parts.max() > 1
    assert work.split_rows == (parts > 1).sum()
    total = np.bincount(work.row, weights=work.cost, minlength=plan.rows)
    np.testing.assert_allclose(total, row_costs(runs, 16, 16, model) + (parts - 1) * (300.0 + 2.0 * 16))


def test_one_worker_is_always_in_balance() -> None:
    plan = make_plan(*plain_case("causal", 500, 500), q_tile=16, k_tile=16)
    work = schedule_runs(plan.groups[0].runs, 16, 16, workers=1)
    assert (work.in_order, work.heaviest_first) == pytest.approx((1.0, 1.0))
    with pytest.raises(ValueError, match="positive"):
        schedule_runs(plan.groups[0].runs, 16, 16, workers=0)


def test_imbalance_by_hand() -> None:
    # Causal, 4 rows of 1, 2, 3 and 4 tiles for 2 workers: in order 1 + 3 and 2 + 4; heaviest first 4 + 1 and 3 + 2.
    plan = make_plan(*plain_case("causal", 64, 64), q_tile=16, k_tile=16)
    model = CostModel(partial=1.0, edge=0.0, run=0.0, row=0.0, query=0.0)
    work = schedule_runs(plan.groups[0].runs, 16, 16, workers=2, split=False, model=model)
    assert work.in_order == pytest.approx(6 / 5)
    assert work.heaviest_first == work.imbalance == pytest.approx(1.0)
    assert work.row.tolist() == [3, 2, 1, 0]


def test_splitting_balances_a_row_that_sees_everything() -> None:
    plan = make_plan(*plain_case("Longformer", 4096, 4096), q_tile=32, k_tile=32)
    whole = schedule_runs(plan.groups[0].runs, 32, 32, workers=16, split=False)
    split = schedule_runs(plan.groups[0].runs, 32, 32, workers=16)
    assert whole.imbalance == whole.heaviest_first
    assert split.imbalance < whole.heaviest_first <= whole.in_order
    assert split.imbalance < 1.1

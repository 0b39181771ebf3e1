"""Alternatives are compared as long as that costs little, and what is left out is said."""

from __future__ import annotations

import pytest

from maskc.diagnostics import MaskcError
from maskc.ir.binding import Binding
from maskc.ir.program import Program
from maskc.lower import lower_text
from maskc.tiles import make_plan, planner
from maskc.tiles.binding import make_binding
from maskc.tiles.choose import choose_tiles
from maskc.tiles.compare import TILE_SIZES, Allowance, compare_tiles
from maskc.tiles.cost import plan_cost
from maskc.tiles.layouts.tables import Tables

from .corpus import input_case, plain_case


def striped(n: int = 4096) -> tuple[Program, Binding]:
    """Tiles smaller than the stripes are not mixed one like the other."""
    program = lower_text("causal & (sliding_window(100) | hash(q // 64, k // 64) % 2 == 0)")[0]
    return program, make_binding(program, n, n)


def test_the_cheapest_of_all_sizes_is_chosen() -> None:
    case = striped(2048)
    costs = {size: plan_cost(make_plan(*case, q_tile=size[0], k_tile=size[1])) for size in TILE_SIZES}
    chosen = choose_tiles(*case)
    assert plan_cost(chosen) == costs[chosen.q_tile, chosen.k_tile] == min(costs.values())


def test_sizes_that_cost_too_much_are_left_out_with_all_smaller_ones() -> None:
    program, binding = plain_case("hash", 3000, 3000)
    plan = make_plan(program, binding)
    choice = compare_tiles(plan, budget=400_000)
    assert choice.left_out
    for q, k in TILE_SIZES:
        if any(q <= q_out and k <= k_out for q_out, k_out in choice.left_out):
            assert (q, k) in choice.left_out
    assert (choice.plan.q_tile, choice.plan.k_tile) not in choice.left_out
    assert compare_tiles(plan, budget=4 * 10**8).left_out == ()


def test_an_allowance_is_shared() -> None:
    program, binding = plain_case("hash", 1000, 1000)
    allowance = Allowance(2_000_000)
    assert allowance.plan(program, binding, q_tile=16, k_tile=16) is not None
    after = allowance.left
    assert after < 2_000_000
    while allowance.plan(program, binding, q_tile=16, k_tile=16) is not None:
        assert allowance.left < after
        after = allowance.left
    assert allowance.left >= 0


def test_orders_that_are_not_tried_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    program, binding = plain_case("residues of sums", 700, 700)
    free = make_plan(program, binding, q_tile=16, k_tile=16, layout="auto")
    assert "not tried" not in free.q_order.reason
    monkeypatch.setattr(planner, "_TRIALS", 500)
    plan = make_plan(program, binding, q_tile=16, k_tile=16, layout="auto")
    assert "not tried, since planning in it takes too long: residues:5, residues:7" in plan.q_order.reason
    assert plan.q_order.name == "none"


def test_advice_says_what_was_not_compared() -> None:
    advice = make_plan(*plain_case("sparse hash", 3500, 3500)).stats.advice
    assert any(a.kind == "untried" and a.text.startswith("tiles of 128 x 64, ") for a in advice)
    regular = make_plan(*plain_case("window", 20_000, 20_000)).stats.advice
    assert not any(a.kind == "untried" for a in regular)


def test_heads_share_the_tables_of_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "pattern p(w: int[head]) over grid(y, x) { attend window(3, 3) on y & abs(x[q] - x[k]) < w[h] }"
    program = lower_text(text)[0]
    made: list[object] = []
    table = Tables._table
    monkeypatch.setattr(Tables, "_table", lambda self, c, group: made.append(group) or table(self, c, group))
    binding = make_binding(program, 24 * 32, 24 * 32, heads=6, sizes={"y": 24, "x": 32}, w=[1, 2, 3, 4, 5, 6])
    plan = make_plan(program, binding, q_tile=16, k_tile=16, layout="blocks:4x4")
    assert len(plan.groups) == 6
    assert len(made) == 1 + 6


def test_tokens_are_not_sorted_by_what_differs_between_batch_entries() -> None:
    program, binding = input_case("documents", 200, 200, 1)
    with pytest.raises(MaskcError, match="which differs between the batch entries") as error:
        make_plan(program, binding.replace(batched=frozenset({"doc"})), layout="sorted:doc")
    assert error.value.codes == ("E502",)

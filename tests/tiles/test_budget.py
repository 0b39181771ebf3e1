"""What planning has cost, is going to cost, and that it can be ended at any time."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from maskc.diagnostics import MaskcError
from maskc.lower import lower_text
from maskc.tiles import make_plan
from maskc.tiles import subdivide as subdivide_module
from maskc.tiles.binding import make_binding
from maskc.tiles.boxes import Boxes
from maskc.tiles.budget import Budget
from maskc.tiles.classify import Classifier, Verdict
from maskc.tiles.pieces import Pieces
from maskc.tiles.rowwise import _Fragments
from maskc.tiles.tiling import PARTIAL

from .corpus import MASKS, brute_kinds, input_case, plain_case


def watched(*case: object, **options: object) -> list[tuple[int, int]]:
    seen: list[tuple[int, int]] = []
    make_plan(*case, watch=lambda done, total: seen.append((done, total)), **options)  # type: ignore[arg-type]
    return seen


@pytest.mark.parametrize("name", ["hash", "product", "floats"])
def test_progress_rises_up_to_the_total(name: str) -> None:
    seen = watched(*plain_case(name, 3000, 3000), q_tile=16, k_tile=16)
    done = [d for d, _ in seen]
    assert done == sorted(done)
    assert all(d <= total for d, total in seen)
    assert seen[-1][0] == seen[-1][1]


def test_masks_that_are_still_to_be_planned_count() -> None:
    program = lower_text("pattern p(w: int[head]) { attend hash(q, k, w[h]) % 5000 == 0 }")[0]
    seen = watched(program, make_binding(program, 2000, 2000, heads=3, w=np.arange(3)), q_tile=16, k_tile=16)
    last = seen[-1][0]
    assert seen[-1] == (last, last)
    middle = next(total for done, total in seen if done > 0.3 * last)
    assert 0.8 * last < middle < 1.2 * last


def test_trying_orders_of_the_tokens_counts_on() -> None:
    seen = watched(*plain_case("residues of sums", 700, 700), q_tile=16, k_tile=16, layout="auto")
    done = [d for d, _ in seen]
    assert done == sorted(done)


def test_masks_that_are_solved_cost_little() -> None:
    seen = watched(*plain_case("causal", 4096, 4096))
    assert seen[-1][0] < 4096


@pytest.mark.parametrize("name", ["hash", "documents"])
def test_interrupted_planning_leaves_nothing_broken(name: str) -> None:
    case = plain_case(name, 200, 200) if name in MASKS else input_case(name, 200, 200, 1)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_plan(*case, q_tile=16, k_tile=16, watch=interrupt)
    plan = make_plan(*case, q_tile=16, k_tile=16)
    np.testing.assert_array_equal(plan.kinds(), brute_kinds(*case, 16, 16))


def test_a_budget_is_not_gone_beyond() -> None:
    budget = Budget(100)
    budget.spend(60, "boxes")
    with pytest.raises(MaskcError, match=r"about 1e\+02 evaluations of it \(boxes\); the limit is 1e\+02") as error:
        budget.spend(60, "boxes")
    assert error.value.codes == ("E801",)


@pytest.mark.parametrize("block", [16, 32, 64])
@pytest.mark.parametrize("tokens", [4096, 4000])
def test_blocks_that_are_smaller_than_a_tile_are_not_looked_at_point_by_point(block: int, tokens: int) -> None:
    text = "pattern p(n: int, block: int, keep: bool[head, n, n]) { attend keep[h, q // block, k // block] }"
    n = -(-tokens // block)
    keep = np.random.default_rng(0).random((1, n, n)) < 0.3 * (block / 128) ** 2
    program = lower_text(text)[0]
    binding = make_binding(program, tokens, tokens, heads=1, n=n, block=block, keep=keep)
    plan = make_plan(program, binding, budget=2_000_000)
    by_block = np.pad(keep[0], (0, -n % (128 // block)))
    tiles = by_block.reshape(len(by_block) * block // 128, 128 // block, -1, 128 // block)
    expected = tiles.any(axis=(1, 3)).astype(np.uint8)  # 128 x 128 tiles, of which none is full
    np.testing.assert_array_equal(plan.kinds(), expected)


REFUSED = [
    "hash(q, k) % 2 == 0",
    "q * k % 7 == 0",
    "causal & hash(q, k) % 100000 == 0",
    "sin(float(q) * 0.1) * cos(float(k) * 0.2) > 0.5",
    "(q // 16 + k // 16) % 50 < 20",  # many tiles are decided, but no box around them
]


@pytest.mark.parametrize("text", REFUSED)
def test_what_most_tiles_leave_open_is_refused_by_a_sample(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, n = lower_text(text)[0], 1 << 20
    boxes, inner = 0, Classifier.classify

    def counted(c: Classifier, asked: Boxes) -> Verdict:
        nonlocal boxes
        boxes += asked.q0.size
        return inner(c, asked)

    monkeypatch.setattr(Classifier, "classify", counted)
    with pytest.raises(MaskcError, match="E801"):
        make_plan(program, make_binding(program, n, n))
    assert boxes < 1 << 18


def test_what_rows_leave_open_is_refused_by_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles with marks that are above the diagonal, too: two clauses touch nearly each below it."""
    text = "pattern p(lab: int[token], mark: bool[token]) { attend causal & same(lab) | mark[k] }"
    program, n, rng = lower_text(text)[0], 1 << 17, np.random.default_rng(0)
    binding = make_binding(program, n, n, lab=rng.integers(0, 8, n), mark=rng.random(n) < 0.01)
    boxes, inner = list[int](), Classifier.classify

    def counted(c: Classifier, asked: Boxes) -> Verdict:
        boxes.append(asked.q0.size)
        return inner(c, asked)

    monkeypatch.setattr(Classifier, "classify", counted)
    with pytest.raises(MaskcError, match="E801"):
        make_plan(program, binding, budget=1 << 23)
    assert max(boxes) <= 1 << 14  # that was 101,349, of all rows


def test_what_is_little_more_than_the_budget_is_refused_by_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    program, n = lower_text("hash(q, k) % 2 == 0")[0], 1 << 17
    spent = watched(program, make_binding(program, n, n))[-1][0]

    def asked(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Budget, "ask", asked)
    with pytest.raises(MaskcError, match="E801"):
        make_plan(program, make_binding(program, n, n), budget=spent * 95 // 100)


@pytest.mark.parametrize(
    "text", [*REFUSED, "hash(q // 16, k // 16) % 3 == 0", "q * k < 300000", "window(9) & q * k % 7 == 0"]
)
def test_what_a_budget_suffices_for_is_planned(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much of the budget a sample would take, and however little is left."""
    program = lower_text(text)[0]
    binding = make_binding(program, 2000, 2000)
    spent = watched(program, binding, q_tile=16, k_tile=16)[-1][0]
    monkeypatch.setattr(subdivide_module, "_MARGIN", 0)
    plan = make_plan(program, binding, q_tile=16, k_tile=16, budget=spent)
    np.testing.assert_array_equal(plan.kinds(), brute_kinds(program, binding, 16, 16))
    with pytest.raises(MaskcError, match="E801"):
        make_plan(program, binding, q_tile=16, k_tile=16, budget=spent - 1)


@pytest.mark.parametrize(
    "text",
    [
        "q // 128 % 2 == k // 128 % 2",
        "causal & k // 128 % 2 == 0",
        "(q - k) % 300 == 0",
        "q // 64 % 5 == k // 64 % 5 & k // 4096 % 3 < 2",
    ],
)
def test_intervals_that_are_too_many_are_counted_first(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, n = lower_text(text)[0], 1 << 18

    def made(*_: object) -> None:
        raise AssertionError

    seen: list[tuple[int, int]] = []
    make_plan(program, make_binding(program, n, n), watch=lambda done, total: seen.append((done, total)))
    assert make_plan(program, make_binding(program, n, n), budget=seen[-1][0]).rows == n // 128
    monkeypatch.setattr(_Fragments, "entries", made)
    with pytest.raises(MaskcError, match=r"E801.*intervals of keys") as error:
        make_plan(program, make_binding(program, n, n), budget=seen[-1][0] // 4)
    assert "very many stretches of keys" in str(error.value)
    assert "varies within nearly every tile" not in str(error.value)


def test_intervals_of_several_digits_are_counted_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """And boxes, which may take less, are foreseen to take too long as well."""

    def made(*_: object) -> None:
        raise AssertionError

    program, n = lower_text("q // 64 % 5 == k // 64 % 5 & ~((q - k) % 4096 < 1024)")[0], 1 << 20
    monkeypatch.setattr(_Fragments, "entries", made)
    with pytest.raises(MaskcError, match="E801"):
        make_plan(program, make_binding(program, n, n))


@pytest.mark.parametrize(
    "text", ["q % 30 == k % 50 & k % 77 < 3 & causal", "k % 64 == 0 & k % 63 == q % 2", "k % 1000 < 3 & q % 7 == k % 7"]
)
def test_counting_intervals_is_counted(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is gone through, though hardly anything is found there; and never much at once."""
    listed, within = list[int](), Pieces.within

    def counted(pieces: Pieces, *how: Any, **more: Any) -> Pieces:
        found = within(pieces, *how, **more)
        listed.append(found.owner.size)
        return found

    monkeypatch.setattr(Pieces, "within", counted)
    program, n, budget = lower_text(text)[0], 1 << 20, 1 << 26
    with pytest.raises(MaskcError, match="E801"):
        make_plan(program, make_binding(program, n, n), budget=budget)
    assert max(listed, default=0) < 1 << 18
    assert sum(listed) <= budget // 8


@pytest.mark.parametrize(
    "text", ["q % 2 == k % 2 & (k % 3 == 1 | q - k < 1000) & causal", "q % 3 == k % 5 & k % 7 < 3 & causal"]
)
def test_intervals_that_every_tile_has_some_of_are_left_to_boxes(text: str) -> None:
    program, n, spent = lower_text(text)[0], 1 << 16, list[int]()
    plan = make_plan(program, make_binding(program, n, n), watch=lambda done, total: spent.append(done))
    assert spent[-1] < 7_000_000
    np.testing.assert_array_equal(plan.kinds(), np.tri(n // 128, dtype=np.uint8) * PARTIAL)


@pytest.mark.parametrize("length", [1 << 13, 1 << 16])
def test_intervals_are_not_found_one_by_one_where_boxes_take_less(length: int) -> None:
    program, spent = lower_text("q % 3 == k % 5 & k % 7 < 3 & causal")[0], list[int]()
    plan = make_plan(program, make_binding(program, length, length), watch=lambda done, total: spent.append(done))
    np.testing.assert_array_equal(plan.kinds(), np.tri(length // 128, dtype=np.uint8) * PARTIAL)
    assert spent[-1] < 250_000


@pytest.mark.parametrize(
    "text",
    [
        "(q % 3 == k % 5) & (k % 7 < 3)",
        "((q % 3 == k % 5) | (q % 9 == k % 4)) & (k % 7 < 3)",
        "(q % 3 == k % 5) & (k % 7 < 3) & ((q - k) % 11 != 2)",
        "((q + k) % 3 == 1) & (k % 50 < 30) & (q % 20 < 11)",
        "((q + k) % 2 == 0) & (q % 2 == 0) & (k % 2 == 1)",
    ],
)
def test_conditions_that_repeat_are_known_together(text: str) -> None:
    """Whatever their common period, which may be longer than a tile: all of a tile's length hold both, or hold none."""
    program, n, tile, spent = lower_text(f"causal & {text}")[0], 333, 48, list[int]()
    q, k = np.arange(n)[:, None], np.arange(n)
    pairs = np.pad((k <= q) & eval(text, {"q": q, "k": k}), (0, -n % tile))
    there = np.pad(np.ones((n, n), np.bool_), (0, -n % tile))
    tiles = [x.reshape(len(x) // tile, tile, -1, tile) for x in (pairs, pairs | ~there)]
    wanted = tiles[0].any((1, 3)).astype(np.uint8) + tiles[1].all((1, 3))
    plan = make_plan(program, make_binding(program, n, n), q_tile=tile, k_tile=tile)
    np.testing.assert_array_equal(plan.kinds(), wanted)
    n = 1 << 16
    plan = make_plan(program, make_binding(program, n, n), watch=lambda done, total: spent.append(done))
    some = PARTIAL if wanted.any() else 0
    np.testing.assert_array_equal(plan.kinds(), np.tri(n // 128, dtype=np.uint8) * some)
    assert spent[-1] < 1_200_000  # of 131,328 tiles; at most a point of each, and where they are all empty


@pytest.mark.parametrize(
    "text",
    [
        "causal & (q - k) % 5000 < 1000",
        "(k - q + 7) % 4000 >= 1186 | k < 100000",
        "q // 1024 % 3 != (k - 128) // 1024 % 3",
    ],
)
def test_stretches_of_differences_are_solved(text: str) -> None:
    """By the runs that there are, not tile by tile."""
    program, n = lower_text(text)[0], 1 << 18
    plan = make_plan(program, make_binding(program, n, n), budget=6_000_000)
    assert plan.groups[0].runs.start.size < 500_000


def test_what_is_refused_is_not_held_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row of tiles has thousands of intervals: they are found for some rows at a time."""
    monkeypatch.setattr(_Fragments, "least", lambda *_: 0)
    program, n = lower_text("q // 16 % 2 == k // 16 % 2")[0], 1 << 17
    tracemalloc.start()
    with pytest.raises(MaskcError, match=r"E801.*about 5e\+08 .*intervals of keys"):
        make_plan(program, make_binding(program, n, n), q_tile=16, k_tile=16, budget=1 << 25)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 27, peak


@pytest.mark.parametrize(
    ("text", "times"), [("causal & (q - k) % 200 == 0", 11), ("q // 64 % 3 != k // 64 % 3", 11), ("mark[k]", 6)]
)
def test_planning_holds_a_few_times_what_the_plan_has(text: str, times: int) -> None:
    """Whether its runs come from intervals or from conditions on the key."""
    program, n = lower_text(f"pattern p(mark: bool[token]) {{ attend {text} }}")[0], 1 << 18
    mark = np.random.default_rng(0).random(n) < 0.005
    binding = make_binding(program, n, n, mark=mark)
    tracemalloc.start()
    plan = make_plan(program, binding, q_tile=64, k_tile=64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert plan.nbytes > 2 << 20
    assert peak < times * plan.nbytes, peak / plan.nbytes

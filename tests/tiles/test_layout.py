"""Plans in an order of their own equal brute force in that order, and take fewer tiles."""

from __future__ import annotations

import re
import tracemalloc

import numpy as np
import pytest

from maskc.diagnostics import MaskcError
from maskc.ir.binding import Binding
from maskc.ir.evaluate import dense
from maskc.ir.program import Program
from maskc.lower import lower_text
from maskc.tiles import columns, make_plan, planner
from maskc.tiles.binding import make_binding
from maskc.tiles.layouts.suggest import LEAST_GAIN
from maskc.tiles.plan import TilePlan
from maskc.tiles.tiling import EMPTY, FULL, PARTIAL

from .corpus import GRIDS, grid_case, input_case, plain_case


def check(program: Program, binding: Binding, q_tile: int, k_tile: int, layout: str) -> TilePlan:
    plan = make_plan(program, binding, q_tile=q_tile, k_tile=k_tile, layout=layout)
    q = np.arange(binding.q_len) if plan.q_order.index is None else plan.q_order.index
    k = np.arange(binding.k_len) if plan.k_order.index is None else plan.k_order.index
    assert sorted(q) == list(range(binding.q_len))
    assert sorted(k) == list(range(binding.k_len))
    for group in plan.groups:
        kept = np.zeros((plan.rows * q_tile, plan.cols * k_tile), np.bool_)
        kept[: binding.q_len, : binding.k_len] = dense(program, binding, group.heads[0], group.batches[0])[q][:, k]
        inside = np.zeros_like(kept)
        inside[: binding.q_len, : binding.k_len] = True
        cells = kept.reshape(plan.rows, q_tile, plan.cols, k_tile)
        every = (kept | ~inside).reshape(cells.shape).all(axis=(1, 3))
        expected = np.where(every, 2, cells.any(axis=(1, 3)))
        np.testing.assert_array_equal(plan.kinds(group), expected)
        rows, cols = np.nonzero(expected == PARTIAL)
        np.testing.assert_array_equal(plan.tile_mask(group, rows, cols), cells.transpose(0, 2, 1, 3)[rows, cols])
    return plan


def tiles(plan: TilePlan) -> int:
    return sum(int((g.runs.end - g.runs.start).sum()) for g in plan.groups)


@pytest.mark.parametrize("name", ["dilated", "dilated by more than a tile", "strided", "residues of sums"])
@pytest.mark.parametrize("shape", [(500, 500, 16, 16), (301, 511, 16, 32)], ids=str)
def test_residues(name: str, shape: tuple[int, int, int, int]) -> None:
    q_len, k_len, q_tile, k_tile = shape
    check(*plain_case(name, q_len, k_len), q_tile, k_tile, "residues")


def test_a_dilation_in_residue_classes_is_a_window() -> None:
    program = lower_text("dilated(16, 8)")[0]
    binding = make_binding(program, 1024, 1024)
    plan = check(program, binding, 16, 16, "auto")
    assert plan.q_order.name.startswith("residues")
    assert 4 * tiles(plan) < tiles(make_plan(program, binding, q_tile=16, k_tile=16))
    assert "instead of" in plan.q_order.reason


@pytest.mark.parametrize("name", ["documents", "head and documents"])
def test_sorted_by_label(name: str) -> None:
    check(*input_case(name, 301, 333, 1), 16, 16, "sorted")


@pytest.mark.parametrize("layout", ["sorted", "residues"])
def test_queries_from_the_middle_in_another_order(layout: str) -> None:
    text = "pattern p(lab: int[token], mark: bool[token]) { attend same(lab) & (q - k) % 8 == 0 | mark[q] & causal }"
    rng, program = np.random.default_rng(0), lower_text(text)[0]
    inputs = {"lab": rng.integers(0, 20, 536), "mark": rng.random(536) < 0.05}
    check(program, make_binding(program, 114, 536, q_start=311, **inputs), 16, 24, layout)


def test_scattered_labels_are_sorted() -> None:
    program = lower_text("pattern p(doc: int[token]) { attend same(doc) }")[0]
    binding = make_binding(program, 640, 640, doc=np.arange(640) % 10)
    plan = check(program, binding, 32, 32, "auto")
    assert plan.q_order.name.startswith("sorted")
    assert tiles(plan) == 10 * 4


@pytest.mark.parametrize(
    ("mask", "most"),
    [
        ("causal on rank", 20 * 21 // 2),
        ("rank[k] < rank[q]", 20 * 21 // 2),
        ("window(40, 40) on rank", 20 * 5),
        ("same(rank // 64)", 10 * 4),
        ("causal & (sliding_window(2) on rank // 32)", 20 * 2),
    ],
)
def test_scattered_ranks_are_sorted(mask: str, most: int) -> None:
    program = lower_text(f"pattern p(rank: int(0..)[token]) {{ attend {mask} }}")[0]
    rank = np.random.default_rng(0).permutation(640)
    binding = make_binding(program, 640, 640, rank=rank)
    plan = check(program, binding, 32, 32, "auto")
    assert plan.q_order.name == "sorted:rank"
    assert tiles(plan) <= most
    assert make_plan(program, make_binding(program, 640, 640, rank=np.arange(640)), layout="auto").q_order.index is None


@pytest.mark.parametrize("name", GRIDS)
def test_blocks(name: str) -> None:
    check(*grid_case(name), 24, 16, "blocks")


@pytest.mark.parametrize(("extents", "tile"), [((6, 8, 12), 16), ((10, 12, 8), 32), ((5, 8, 8), 64)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
def test_blocks_of_a_neighbourhood(extents: tuple[int, int, int], tile: int, stride: int) -> None:
    text = f"neighborhood(t, 3, stride = {stride}) & neighborhood(y, 5, stride = {stride}) & neighborhood(x, 5)"
    program = lower_text(f"pattern p() over grid(t, y, x) {{ attend {text} }}")[0]
    length = int(np.prod(extents))
    binding = make_binding(program, length, length, sizes=dict(zip("tyx", extents, strict=True)))
    plan = check(program, binding, tile, tile, "blocks")
    if plan.q_order.index is not None:
        assert tiles(plan) <= tiles(make_plan(program, binding, q_tile=tile, k_tile=tile))


def test_an_order_that_does_not_help_is_not_taken() -> None:
    for name in ("causal", "window", "chunk"):
        assert check(*plain_case(name, 400, 400), 32, 32, "auto").q_order.index is None


def test_an_unknown_layout() -> None:
    with pytest.raises(MaskcError, match="E502"):
        make_plan(*plain_case("causal", 10, 10), layout="diagonal")


def test_the_tokens_own_order_is_not_planned_in_full_where_another_is_much_better(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = lower_text("pattern p(doc: int[token]) { attend same(doc) }")[0]
    n = 1 << 16
    doc = np.random.default_rng(0).permutation(n) // 64
    binding, rows = make_binding(program, n, n, doc=doc), []
    kinds = columns._Join.kinds
    monkeypatch.setattr(columns._Join, "kinds", lambda self, r, a, b: rows.append(r.size) or kinds(self, r, a, b))
    plan = make_plan(program, binding, q_tile=32, k_tile=32, layout="auto")
    assert sum(rows) < n // 32 // 4  # of the rows of tiles in the tokens' own order
    found = re.fullmatch(r"4,096 tiles instead of at least ([\d,]+) in the tokens' own order", plan.q_order.reason)
    assert plan.q_order.name == "sorted:doc" and found
    full = make_plan(program, binding, q_tile=32, k_tile=32)
    assert LEAST_GAIN * tiles(plan) <= int(found[1].replace(",", "")) < tiles(full)
    assert sum(rows) > n // 32


CUBES = """pattern p(chosen: bool[32, 32]) over grid(t, y, x) {
    let cube = (t // 2 * 4 + y // 4) * 2 + x // 8
    attend chosen[cube[q], cube[k]]
}"""


@pytest.mark.parametrize("trials", [100_000_000, 1])
def test_blocks_that_a_table_is_by_are_found(trials: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the tokens' own order takes too long, whatever planning in theirs takes."""
    program, sizes = lower_text(CUBES)[0], {"t": 8, "y": 16, "x": 16}
    chosen = np.random.default_rng(0).random((32, 32)) < 0.1
    binding = make_binding(program, 2048, 2048, sizes=sizes, chosen=chosen)
    monkeypatch.setattr(planner, "_TRIALS", trials)
    plan = make_plan(program, binding, q_tile=64, k_tile=64, layout="auto", budget=100_000)
    assert plan.q_order.name == plan.k_order.name == "blocks:2x4x8"
    assert (plan.stats.full, plan.stats.partial) == (np.count_nonzero(chosen), 0)
    assert plan.q_order.reason.endswith("(the tokens' own order takes too long to plan)")
    twice = make_plan(program, binding, q_tile=128, k_tile=64, layout="blocks")
    assert twice.q_order.name == "blocks:2x4x16,2x4x8"
    with pytest.raises(MaskcError, match=r"try blocks of the grid \(layout=\"auto\"\)"):
        make_plan(program, binding, q_tile=64, k_tile=64, budget=100_000)


@pytest.mark.parametrize("heads", [1, 3])
def test_of_blocks_that_a_table_is_by_one_token_each_is_looked_at(heads: int) -> None:
    """Two of them in a tile, which lie within each other; in the tokens' own order some twenty."""
    text = """pattern p(chosen: bool[head, 384, 384]) over grid(t, y, x) {
        let cube = (t // 4 * 8 + y // 4) * 12 + x // 4
        attend chosen[h, cube[q], cube[k]]
    }"""
    program, n, spent = lower_text(text)[0], 16 * 32 * 48, list[int]()
    chosen = np.random.default_rng(0).random((heads, 384, 384)) < 0.1
    binding = make_binding(program, n, n, heads=heads, sizes={"t": 16, "y": 32, "x": 48}, chosen=chosen)
    plan = make_plan(program, binding, layout="blocks", watch=lambda done, total: spent.append(done))
    assert plan.q_order.name == "blocks:4x4x8"
    tiles = chosen.reshape(heads, 192, 2, 192, 2)
    wanted = np.where(tiles.all((2, 4)), FULL, np.where(tiles.any((2, 4)), PARTIAL, EMPTY))
    np.testing.assert_array_equal([plan.kinds(group) for group in plan.groups], wanted)
    assert spent[-1] < heads * 500_000  # of 36,864 tiles


def test_runs_of_scattered_labels_are_found_some_at_a_time() -> None:
    program = lower_text("pattern p(doc: int[token]) { attend same(doc) }")[0]
    n = 1 << 16
    binding = make_binding(program, n, n, doc=np.random.default_rng(0).permutation(n) // 32)
    tracemalloc.start()
    with pytest.raises(MaskcError, match="E801"):
        make_plan(program, binding, q_tile=32, k_tile=32, budget=1 << 23)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 26, peak  # all of them at once: 149 MiB

"""The plan as kernels read it holds each live tile once, and as full only tiles that are whole."""

from __future__ import annotations

import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskc.backends.triton import tiles as tiles_module
from maskc.backends.triton.tiles import KernelPlan, joined, kernel_plan
from maskc.ir.binding import Binding
from maskc.lower import lower_text
from maskc.tiles import make_plan
from maskc.tiles.plan import TilePlan
from maskc.tiles.tiling import FULL, PARTIAL, Group, Runs

TILE = 4


def runs_of(kinds: npt.NDArray[np.uint8]) -> Runs:
    """Runs of a dense array of kinds, one tile each where it is not the same as before."""
    offsets, start, end, kind = [0], [], [], []
    for row in kinds:
        for c, value in enumerate(row):
            if value and c and row[c - 1] == value:
                end[-1] = c + 1
            elif value:
                start.append(c)
                end.append(c + 1)
                kind.append(value)
        offsets.append(len(start))
    return Runs(*(np.array(x, np.int32) for x in (offsets, start, end)), np.array(kind, np.uint8))


def dense(plan: KernelPlan, which: int, columns: int) -> npt.NDArray[np.uint8]:
    """The kinds that a kernel would visit; fails where a tile comes twice."""
    out = np.zeros((plan.rows, columns), np.uint8)
    for value, (first, last, tiles, skips) in ((FULL, plan.full), (PARTIAL, plan.part)):
        for row in range(plan.rows):
            for i in range(first[which * plan.rows + row], last[which * plan.rows + row]):
                column = i if tiles is None else tiles[i]
                if skips is not None:
                    cut, gap = skips[which * plan.rows + row]
                    column += gap * (i >= cut)
                assert out[row, column] == 0
                out[row, column] = value
    return out


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 18),
    st.integers(1, 18),
    st.booleans(),
    st.lists(st.lists(st.integers(0, 2), min_size=5, max_size=5), min_size=10, max_size=10),
)
def test_every_tile_is_there_once(q_len: int, k_len: int, by_keys: bool, cells: list[list[int]]) -> None:
    rows, columns = -(-q_len // TILE), -(-k_len // TILE)
    every = [np.array(cells[i : i + 5], np.uint8)[:rows, :columns] for i in (0, 5)]
    program = lower_text("causal")[0]
    binding = Binding(q_len, k_len, heads=2, batch=1)
    groups = tuple(Group((h,), (0,), runs_of(kinds)) for h, kinds in enumerate(every))
    found = kernel_plan(TilePlan(program, binding, TILE, TILE, groups), by_keys=by_keys)
    assert found.plan_of.tolist() == [0, 1]
    for h, kinds in enumerate(every):
        wanted = kinds.T if by_keys else kinds
        length = q_len if by_keys else k_len
        if length % TILE:
            wanted = wanted.copy()
            wanted[:, -1] = np.minimum(wanted[:, -1], PARTIAL)
        assert np.array_equal(dense(found, h, wanted.shape[1]), wanted)
        order = found.row_order[h * found.rows : (h + 1) * found.rows]
        assert sorted(order.tolist()) == list(range(found.rows))
    one = joined(found)
    assert one is not None
    lines = np.stack([*one.full[:2], *one.part[:2]], axis=1)
    for h in range(2):
        kinds = dense(found, h, rows if by_keys else columns)
        for row, line in zip(kinds, lines[h * found.rows :], strict=False):
            assert in_order(one, *line) == [(int(tile), row[tile] == PARTIAL) for tile in np.flatnonzero(row)]


def in_order(one: KernelPlan, full_a: int, full_z: int, tile_a: int, tile_z: int) -> list[tuple[int, bool]]:
    """The tiles that a kernel would visit of a row of a joined plan, and whether it takes them for partial ones."""
    if one.part.tiles is None:
        return [(i, i < full_a or i >= full_z) for i in range(tile_a, tile_z)]
    return [(int(tile) >> 1, bool(tile & 1)) for tile in one.part.tiles[tile_a:tile_z]]


def test_a_list_that_takes_long_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = np.array([[1, 0, 1]] * 3, np.uint8)
    plan = TilePlan(lower_text("causal")[0], Binding(12, 12), TILE, TILE, (Group((0,), (0,), runs_of(kinds)),))
    assert joined(kernel_plan(plan)) is not None
    monkeypatch.setattr(tiles_module, "_MOST_JOINED", 5)
    assert joined(kernel_plan(plan)) is None


def test_contiguous_runs_need_no_list() -> None:
    kinds = np.array([[1, 0, 0], [2, 1, 0], [2, 2, 1]], np.uint8)
    plan = TilePlan(lower_text("causal")[0], Binding(12, 12), TILE, TILE, (Group((0,), (0,), runs_of(kinds)),))
    found = kernel_plan(plan)
    assert found.full.tiles is None
    assert found.part.tiles is None
    assert found.row_order.tolist() == [2, 1, 0]  # most work first


@pytest.mark.parametrize("by_keys", [False, True])
@pytest.mark.parametrize(
    ("text", "full", "part"),
    [
        ("causal", 1, 1),
        ("prefix(100) | causal", 1, 1),
        ("causal & window(100)", 1, 2),
        ("window(64, 64)", 1, 2),
        ("pattern p(doc: int[token]) { attend same(doc) & causal }", 1, 2),
        ("(q - k) % 64 == 0", 1, 0),
        ("~window(64, 64)", 2, 2),
        ("causal & ~(q - k >= 100 & q - k < 200)", 2, 0),
        ("(q // 16 - k // 16) % 2 == 0", 0, 1),
    ],
)
def test_runs_that_need_no_list(text: str, full: int, part: int, by_keys: bool) -> None:
    program = lower_text(text)[0]
    binding = Binding(512, 512, tables={"doc": np.arange(512) // 100} if "doc" in text else {})
    plan = make_plan(program, binding, q_tile=16, k_tile=16)
    found = kernel_plan(plan, by_keys=by_keys)
    for kind, runs in ((found.full, full), (found.part, part)):
        assert (kind.tiles is None, kind.skips is None) == (runs > 0, runs != 2)
    kinds = plan.kinds()
    assert np.array_equal(dense(found, 0, 32), kinds.T if by_keys else kinds)
    one = joined(found)
    assert one is not None
    assert (one.part.tiles is None) == (full == 1 and part > 0)  # full and partial tiles of a row touch


@pytest.mark.parametrize("by_keys", [False, True])
def test_groups_with_one_mask_share_its_runs(by_keys: bool) -> None:
    runs = runs_of(np.full((2, 2), 2, np.uint8))
    groups = (Group((0, 2), (0, 1), runs), Group((1,), (0, 1), runs_of(np.full((2, 2), 1, np.uint8))))
    plan = TilePlan(lower_text("causal")[0], Binding(8, 8, heads=3, batch=2), TILE, TILE, groups)
    found = kernel_plan(plan, by_keys=by_keys)
    assert found.plan_of.tolist() == [0, 1, 0, 0, 1, 0]
    assert found.full.first.size == 4


def test_full_tiles_are_listed_in_the_width_that_kernels_read() -> None:
    """Where rows have three full runs, their tiles are most of a dense mask's: nothing of that size is wider."""
    program, n = lower_text("q - k > 1000 & ~(q - k > 2000 & q - k < 3000) | k - q > 5000")[0], 1 << 15
    plan = make_plan(program, Binding(n, n, heads=1, batch=1), q_tile=8, k_tile=8)
    tracemalloc.start()
    found = kernel_plan(plan).full.tiles
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found is not None
    assert found.dtype == np.int32
    assert found.size > 1 << 23
    assert peak < found.nbytes + (1 << 24), peak


@pytest.mark.parametrize("by_keys", [False, True])
def test_full_tiles_on_both_sides_of_a_window_need_no_memory(by_keys: bool) -> None:
    """Of a million tokens they are 67 million."""
    program, n = lower_text("pattern p(w: int[head]) { attend abs(q - k) > w[h] }")[0], 1 << 20
    binding = Binding(n, n, heads=8, tables={"w": 1000 * np.arange(8)})
    plan = make_plan(program, binding, q_tile=128, k_tile=128)
    tracemalloc.start()
    found = kernel_plan(plan, by_keys=by_keys)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert int((found.full.last.astype(np.int64) - found.full.first).sum()) > 8 * 60_000_000
    assert peak < 100 * plan.rows * 8 * 8, peak


@pytest.mark.parametrize("at_once", [1, 3, 7, 1 << 18])
def test_tiles_are_listed_some_at_a_time(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(tiles_module, "_AT_ONCE", at_once)
    kinds = []
    for seed, rows in ((0, 5), (1, 0), (2, 9)):
        start = np.random.default_rng(seed).integers(0, 40, 3 * rows)
        kinds.append((np.arange(rows).repeat(3), start, start + 1 + start % 4, rows))
    expected = [np.arange(a, b) for _, start, end, _ in kinds for a, b in zip(start, end, strict=True)]
    found = tiles_module._listed(kinds, sum(x.size for x in expected))
    np.testing.assert_array_equal(found, np.concatenate(expected))


def test_intervals_of_many_masks_are_held_once() -> None:
    text = "pattern p(doc: int[token], w: int[head]) { attend same(doc) & causal & q - k < w[h] }"
    program, n, heads = lower_text(text)[0], 1 << 15, 24
    doc, w = np.arange(n) // 777, 40 * np.arange(heads) + 1
    plan = make_plan(program, Binding(n, n, heads=heads, tables={"doc": doc, "w": w}))
    tracemalloc.start()
    both = [kernel_plan(plan, by_keys=by_keys, intervals=True) for by_keys in (False, True)]
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 1.5 * 8 * heads * n, held
    q = np.arange(n)
    low = np.maximum(np.maximum(q - w[:, None] + 1, q // 777 * 777), 0)
    for found in both:
        assert found.intervals is not None
        np.testing.assert_array_equal(found.intervals[0].reshape(heads, n), low)
        np.testing.assert_array_equal(found.intervals[1].reshape(heads, n), np.tile(q + 1, (heads, 1)))
    ((lo, hi),) = plan.intervals(plan.groups[3]) or ()
    np.testing.assert_array_equal((lo, hi), (low[3], q + 1))

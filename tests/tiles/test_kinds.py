"""Plans equal brute force: the kind of every tile, for every kind of mask."""

from __future__ import annotations

import numpy as np
import pytest

from maskc.diagnostics import MaskcError
from maskc.ir.binding import Binding
from maskc.ir.evaluate import dense
from maskc.ir.program import Program
from maskc.lower import lower_text
from maskc.tiles import make_plan, ranges
from maskc.tiles.binding import make_binding
from maskc.tiles.tiling import PARTIAL

from .corpus import GRIDS, INPUTS, MASKS, brute_kinds, grid_case, input_case, plain_case

#: Queries, keys, query tile, key tile.
SHAPES = [(500, 500, 64, 64), (317, 611, 32, 48), (1, 700, 16, 128), (130, 130, 16, 16), (90, 333, 128, 24)]


def compare(program: Program, binding: Binding, q_tile: int, k_tile: int, layout: str = "none") -> None:
    plan = make_plan(program, binding, q_tile=q_tile, k_tile=k_tile, layout=layout)
    for head in range(binding.heads):
        for batch in range(binding.batch):
            group = plan.group_of(head, batch)
            expected = brute_kinds(program, binding, q_tile, k_tile, head, batch)
            np.testing.assert_array_equal(plan.kinds(group), expected, err_msg=f"{head=} {batch=}")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", MASKS)
def test_plain(name: str, shape: tuple[int, int, int, int]) -> None:
    q_len, k_len, q_tile, k_tile = shape
    compare(*plain_case(name, q_len, k_len), q_tile, k_tile)


@pytest.mark.parametrize("name", ["causal", "window | sinks", "dilated", "BigBird", "chunk"])
def test_long(name: str) -> None:
    compare(*plain_case(name, 2011, 2048), 128, 128)


@pytest.mark.parametrize("tiles", [(32, 32), (48, 20), (128, 128)], ids=str)
@pytest.mark.parametrize("name", GRIDS)
def test_grids(name: str, tiles: tuple[int, int]) -> None:
    compare(*grid_case(name), *tiles)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", INPUTS)
def test_inputs(name: str, seed: int) -> None:
    compare(*input_case(name, 301, 333, seed), 32, 24)


@pytest.mark.parametrize(
    "text",
    [
        "1 // hash(k, q) < q",
        "1 // hash(k, q) <= 0",
        "q // hash(k, q) < 1",
        "1 // (hash(k, q) % 2) < q",
        "7 // (k % 3) < q",
        "-5 // hash(q, k) + k < q",
        "abs(-hash(k, q)) // 16777216 < q",
        "abs(hash(q, k) - 1073741824) // 8388608 < k",
    ],
)
def test_functions_of_what_is_bounded_alike_everywhere(text: str) -> None:
    """A hash has the same bounds in every box: numbers, where those of other expressions are arrays."""
    program = lower_text(text)[0]
    compare(program, make_binding(program, 200, 200), 64, 64)


@pytest.mark.parametrize(
    "text",
    [
        "q - floor(log(float(k - 150))) > 3",
        "floor(1e300 * float(q - k)) < 7",
        "floor(exp(float(q))) * 2 > k",
        "floor(min(log(float(k - 150)), -5.5)) < -3",
        "k <= q & floor(float(q) / float(k - 3)) >= 2",
        "floor(-exp2(float(q * 30))) + k < 0",
    ],
)
def test_floats_that_have_no_integer_below(text: str) -> None:
    program = lower_text(text)[0]
    with np.errstate(all="ignore"):  # of the brute force
        compare(program, make_binding(program, 200, 200), 64, 64)


_MOST = (1 << 62) - 1


@pytest.mark.parametrize("ends", [(-_MOST, _MOST), (0, _MOST), (-_MOST, 0), (_MOST, _MOST - 200)])
def test_integers_as_large_as_they_may_be(ends: tuple[int, int]) -> None:
    """Boxes took all beyond 2**61 for 2**61: a full tile was called empty."""
    x = np.repeat(ends, 4)
    for text, mask in {
        "x[q] < x[k]": x[:, None] < x,
        "x[q] <= x[k]": x[:, None] <= x,
        "-x[q] == -x[k] & k < 9": x[:, None] == x,
    }.items():
        program = lower_text(f"pattern p(x: int[token]) {{ attend {text} }}")[0]
        plan = make_plan(program, make_binding(program, 8, 8, x=x), q_tile=4, k_tile=4)
        np.testing.assert_array_equal(plan.kinds(), 2 * mask[::4, ::4])


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("ends", [(-np.inf, 0.0), (0.0, np.inf), (-np.inf, -np.inf), (-np.inf, np.inf), (np.nan, 0.0)])
@pytest.mark.parametrize(
    "text",
    [
        "x[q] <= x[k]",
        "x[q] < x[k]",
        "~(x[k] <= x[q])",
        "x[q] <= y[k]",
        "y[q] <= x[k]",
        "x[q] - x[k] < 5.0",
        "x[q] * x[k] <= 0.0",
        "0.0 * x[q] < 1.0",
    ],
)
def test_infinite_floats_are_compared(text: str, ends: tuple[float, float]) -> None:
    """A tile in which all is at least -inf was called mixed, and so was one in which nothing is a number."""
    x, y = np.repeat(ends, 4), np.tile([np.inf, -np.inf], 4)
    masks = {
        "x[q] <= x[k]": x[:, None] <= x,
        "x[q] < x[k]": x[:, None] < x,
        "~(x[k] <= x[q])": ~(x <= x[:, None]),
        "x[q] <= y[k]": x[:, None] <= y,
        "y[q] <= x[k]": y[:, None] <= x,
        "x[q] - x[k] < 5.0": x[:, None] - x < 5,
        "x[q] * x[k] <= 0.0": x[:, None] * x <= 0,
        "0.0 * x[q] < 1.0": np.tile(0 * x[:, None] < 1, 8),
    }
    program = lower_text(f"pattern p(x: float[token], y: float[token]) {{ attend {text} }}")[0]
    plan = make_plan(program, make_binding(program, 8, 8, x=x, y=y), q_tile=4, k_tile=4)
    tiles = masks[text].reshape(2, 4, 2, 4)
    np.testing.assert_array_equal(plan.kinds(), tiles.any((1, 3)).astype(np.uint8) + tiles.all((1, 3)))


def test_cross_attention() -> None:
    program = lower_text("pattern p() over decoder -> encoder { attend k <= 2 * q }")[0]
    compare(program, make_binding(program, 150, 401), 32, 32)


@pytest.mark.parametrize("lengths", [(0, 10), (10, 0), (0, 0)])
def test_nothing(lengths: tuple[int, int]) -> None:
    program = lower_text("pattern p() over one -> two { attend true }")[0]
    plan = make_plan(program, make_binding(program, *lengths))
    assert plan.groups[0].runs.start.size == 0
    assert plan.kinds().shape == (plan.rows, plan.cols)


def test_tile_mask_is_the_mask() -> None:
    program, binding = plain_case("window | many sinks", 317, 611)
    plan = make_plan(program, binding, q_tile=32, k_tile=48)
    group = plan.groups[0]
    rows, cols = np.nonzero(plan.kinds(group) == PARTIAL)
    tiles = plan.tile_mask(group, rows, cols)
    kept = np.zeros((plan.rows * 32, plan.cols * 48), np.bool_)
    kept[:317, :611] = dense(program, binding)
    for tile, r, c in zip(tiles, rows, cols, strict=True):
        np.testing.assert_array_equal(tile, kept[r * 32 : r * 32 + 32, c * 48 : c * 48 + 48])


def test_heads_with_one_mask_share_a_group() -> None:
    program = lower_text("pattern p(w: int[head]) { attend sliding_window(w[h]) }")[0]
    plan = make_plan(program, make_binding(program, 300, 300, heads=4, w=[32, 64, 32, 64]), q_tile=32, k_tile=32)
    assert [g.heads for g in plan.groups] == [(0, 2), (1, 3)]


def test_batch_entries_differ_only_where_their_inputs_do() -> None:
    program = lower_text("pattern p(doc: int[token]) { attend same(doc) }")[0]
    doc = np.array([[0] * 40 + [1] * 60, [0] * 50 + [1] * 50, [0] * 40 + [1] * 60])
    plan = make_plan(program, make_binding(program, 100, 100, batch=3, doc=doc), q_tile=16, k_tile=16)
    assert sorted(g.batches for g in plan.groups) == [(0, 2), (1,)]


def test_a_mask_that_defeats_planning_is_refused_with_its_cost() -> None:
    program, binding = plain_case("hash", 1 << 20, 1 << 20)
    with pytest.raises(MaskcError) as refused:
        make_plan(program, binding, budget=20_000_000)
    assert refused.value.codes == ("E801",)
    message = str(refused.value)
    assert "2e+07" in message
    assert "would take about 1e+09 evaluations" in message
    assert "help:" in message


@pytest.mark.parametrize(
    ("name", "most"), [("causal", 16384), ("window", 4 * 8192), ("window | sinks", 5 * 8192), ("dilated", 8192)]
)
def test_a_plan_is_as_large_as_the_boundary(name: str, most: int) -> None:
    program, binding = plain_case(name, 1 << 20, 1 << 20)
    runs = make_plan(program, binding).groups[0].runs
    assert runs.start.size <= most
    assert runs.start.dtype == runs.end.dtype == runs.offsets.dtype == np.int32


@pytest.mark.parametrize(
    "text", ["(2 * q - 2 * k) % 31 == 4", "3 * k % 32 == 4", "6 * q % 9 == 3 & (4 * k - 4 * q) % 10 == 3"]
)
@pytest.mark.parametrize("tile", [2, 4, 8])
def test_steps_that_a_modulus_does_not_share_are_kept_in_mind(text: str, tile: int) -> None:
    program = lower_text(text)[0]
    case = program, make_binding(program, 333, 333, heads=1)
    plan = make_plan(*case, q_tile=tile, k_tile=tile)
    np.testing.assert_array_equal(plan.kinds(), brute_kinds(*case, tile, tile))


@pytest.mark.parametrize(
    "mask",
    [
        "max(t[q] - t[k], 0.0) >= 0.0",
        "min(t[q] - t[k], 3.0) < 4.0",
        "abs(t[q] - t[k]) >= 0.0",
        "max(log2(t[q]), -1.0) >= -1.0 & k <= q",
        "abs(sin(t[q])) >= 0.0",
        "cos(t[k]) < 2.0",
        "sigmoid(log(t[k])) >= -1.0",
        "tanh(t[q] - t[k]) > -2.0",
        "~(max(t[q] / t[k], 1.0) < 0.0)",
    ],
)
def test_what_may_be_no_number_satisfies_no_comparison_for_sure(mask: str) -> None:
    """Bounds of a function hold for numbers, and a NaN is none: it compares false."""
    program = lower_text(f"pattern p(t: float[token]) {{ attend {mask} }}")[0]
    t = np.where(np.arange(80) % 16 < 12, np.linspace(-2, 2, 80), np.inf)
    t[:40:5] *= -1
    compare(program, make_binding(program, 80, 80, t=t), 4, 4)


def test_a_sum_of_which_one_bound_is_no_number_has_none() -> None:
    boxes = ranges.Boxes(*(np.zeros(1, np.int64) for _ in range(6)), np.ones(1, bool))
    one, other = (
        ranges.Range(np.array([np.inf]), np.array([np.inf])),
        ranges.Range(np.array([-np.inf]), np.array([0.5])),
    )
    found = ranges.apply_op(boxes, "min", [ranges.apply_op(boxes, "add", [one, other]), ranges.constant(-2.0)])
    assert [float(found.lo[0]), float(found.hi[0])] == [-np.inf, np.inf]

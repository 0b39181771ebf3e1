"""Blocks of digits: plans in them equal brute force, whatever the extents, the borders and the segments."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskc.diagnostics import MaskcError
from maskc.ir.binding import Binding
from maskc.ir.program import Program
from maskc.lower import lower_text
from maskc.tiles import make_plan
from maskc.tiles.analysis import analyse
from maskc.tiles.binding import make_binding
from maskc.tiles.budget import BUDGET, Budget
from maskc.tiles.classify import Classifier
from maskc.tiles.grid import Grid
from maskc.tiles.layouts.digits import Axes, balanced, decompose, factorizations, index_of
from maskc.tiles.layouts.orders import Spec, arrange, block_tiles
from maskc.tiles.layouts.separate import separate
from maskc.tiles.tiling import Order

from .corpus import GRIDS, grid_case, plain_case
from .test_layout import check, tiles

#: Masks over grids that the corpus has not, and extents that no block divides.
MORE: dict[str, tuple[str, dict[str, int]]] = {
    "token order": ("over grid(y, x) { attend causal & window(2, 2) on x }", {"y": 11, "x": 13}),
    "token window": ("over grid(y, x) { attend sliding_window(40) | same(x) }", {"y": 11, "x": 13}),
    "dilated axes": (
        "over grid(y, x) { attend neighborhood(y, 3, dilation = 3) & neighborhood(x, 5, dilation = 2) }",
        {"y": 17, "x": 23},
    ),
    "transposed": ("over grid(y, x) { attend y[q] == x[k] | x[q] < 3 }", {"y": 9, "x": 14}),
    "two grids": (
        "over one: grid(t, y) ++ text ++ two: grid(u, x) { attend causal | q in two & k in one & u[q] == t[k] }",
        {"t": 7, "y": 6, "text": 21, "u": 5, "x": 11},
    ),
    "heads": ("over grid(y, x) { attend window(h, 2 * h) on y & window(3, 3) on x }", {"y": 12, "x": 19}),
}


def more_case(name: str, heads: int = 1) -> tuple[Program, Binding]:
    body, sizes = MORE[name]
    program = lower_text("pattern p() " + body)[0]
    if name == "two grids":
        length = sizes["t"] * sizes["y"] + sizes["text"] + sizes["u"] * sizes["x"]
    else:
        length = int(np.prod(list(sizes.values())))
    return program, make_binding(program, length, length, heads=heads, sizes=sizes)


@pytest.mark.parametrize("layout", ["blocks:2x8,4x6", "blocks:4x4,1x24%1x1@1x3", "blocks:8x2,3x8%2x3", "auto"])
@pytest.mark.parametrize("name", [n for n in GRIDS if n != "3-D neighbourhood"])
def test_grids(name: str, layout: str) -> None:
    check(*grid_case(name), 16, 24, layout)


@pytest.mark.parametrize("layout", ["blocks:2x2x4,4x2x3", "blocks:1x4x4,2x3x4%1x2x1@0x0x2", "auto"])
def test_3d(layout: str) -> None:
    check(*grid_case("3-D neighbourhood"), 16, 24, layout)


@pytest.mark.parametrize("layout", ["blocks:2x8,4x6", "blocks:4x4,2x12%1x2@3x0", "auto"])
@pytest.mark.parametrize("name", MORE)
def test_more_grids(name: str, layout: str) -> None:
    check(*more_case(name, heads=3 if name == "heads" else 1), 16, 24, layout)


@pytest.mark.parametrize("modulus", [2, 7, 50])
@pytest.mark.parametrize("name", ["dilated", "strided", "stripes", "causal", "prefix", "residues of sums", "chunk"])
@pytest.mark.parametrize("shape", [(500, 500, 16, 32), (301, 511, 24, 16), (20, 400, 16, 16)], ids=str)
def test_residues_of_tokens(name: str, modulus: int, shape: tuple[int, int, int, int]) -> None:
    q_len, k_len, q_tile, k_tile = shape
    check(*plain_case(name, q_len, k_len), q_tile, k_tile, f"residues:{modulus}")


def test_fewer_queries_than_keys_over_text_and_a_grid() -> None:
    body, sizes = GRIDS["text and grid"]
    program = lower_text("pattern p() " + body)[0]
    binding = make_binding(program, 200, 37 + 15 * 21, sizes=sizes)
    for layout in ("blocks:4x4,2x12", "auto"):
        check(program, binding, 16, 24, layout)


def test_cross_attention_between_grids() -> None:
    text = "pattern p() over low: grid(y, x) -> high: grid(v, u) { attend abs(2 * y[q] - v[k]) < 3 }"
    program = lower_text(text)[0]
    binding = make_binding(program, 6 * 8, 12 * 16, sizes={"y": 6, "x": 8, "v": 12, "u": 16})
    assert check(program, binding, 8, 16, "blocks:2x4,2x8").q_order.index is not None


def _block_tiles(program: Program, binding: Binding, spec: Spec, tile: tuple[int, int]) -> object:
    grid = Grid(binding.q_len, binding.k_len, *tile, binding.offset)
    bound = analyse(program, binding).program
    c = Classifier(bound.mask, binding, bound.params)
    return block_tiles(c, arrange((program.q_space, program.k_space), binding, grid, spec), grid, Budget(BUDGET))


@pytest.mark.parametrize("name", [*GRIDS, *MORE])
def test_masks_over_grids_are_planned_without_looking_at_pairs(name: str) -> None:
    program, binding = grid_case(name) if name in GRIDS else more_case(name)
    rank = 3 if "3-D" in name else 2
    shapes = balanced((5, 9, 11)[-rank:], 16), balanced((5, 9, 11)[-rank:], 16)
    assert _block_tiles(program, binding, Spec(*shapes, (1,) * rank, (0,) * rank), (16, 16)) is not None


def test_a_dilation_comes_apart_into_residues_and_a_window() -> None:
    program, binding = plain_case("dilated", 500, 500)
    found = separate(analyse(program, binding).program.mask, *(Axes(0, (500,), (3,)),) * 2)
    assert found is not None
    assert {(g.q, g.k) for g in found.groups} == {((0,), (0,)), ((1,), (1,))}


ATOMS = [
    "same(y)", "same(x)", "same(t)", "window({a}, {b}) on y", "causal on x", "window({b}, {a}) on t", "causal",
    "halo(x, {c}, 1)", "shifted_window(y, {c}, 1)", "neighborhood(x, {c})", "k < {n}", "q - k < {n}", "t[q] < 2",
    "neighborhood(y, {c}, dilation = 2)", "x[k] % {c} == 1", "q - k != {n}", "(y[q] + y[k]) % {c} == 0",
]  # fmt: skip


@st.composite
def masks(draw: st.DrawFn) -> str:
    """A Boolean combination of conditions on the axes and positions of a grid."""
    number = st.integers(0, 3)
    parts = [
        draw(st.sampled_from(ATOMS)).format(
            a=draw(number), b=draw(number), c=2 + draw(number), n=draw(st.integers(1, 150))
        )
        for _ in range(draw(st.integers(1, 4)))
    ]
    text = ""
    for part in parts:
        part = f"~({part})" if draw(st.integers(0, 3)) == 0 else f"({part})"
        text = part if not text else f"({text} {draw(st.sampled_from('&|'))} {part})"
    return text


@settings(max_examples=60, deadline=None)
@given(
    mask=masks(),
    extents=st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 11)),
    tile=st.sampled_from([(8, 8), (16, 12), (6, 16)]),
    pick=st.integers(0, 1000),
    moduli=st.tuples(st.just(1), st.integers(1, 3), st.integers(1, 3)),
    shift=st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 3)),
)
def test_random_masks_over_random_grids(
    mask: str,
    extents: tuple[int, int, int],
    tile: tuple[int, int],
    pick: int,
    moduli: tuple[int, int, int],
    shift: tuple[int, int, int],
) -> None:
    program = lower_text(f"pattern p() over grid(t, y, x) {{ attend {mask} }}")[0]
    length = int(np.prod(extents))
    binding = make_binding(program, length, length, sizes=dict(zip("tyx", extents, strict=True)))
    q, k = (factorizations(n, 3) for n in tile)
    spec = Spec(q[pick % len(q)], k[pick // 7 % len(k)], moduli, shift)
    check(program, binding, *tile, f"blocks:{spec.name}")


def test_orders_are_their_index_arithmetic() -> None:
    program, binding = more_case("dilated axes")
    plan = make_plan(program, binding, q_tile=16, k_tile=16, layout="blocks:4x4,2x8%3x2")
    for order in (plan.q_order, plan.k_order):
        assert order.index is not None
        place = 0
        for s in order.stretches:
            assert s.first == place
            for i in range(s.size):
                token, rest = s.base, i
                for n, stride in zip(reversed(s.extents), reversed(s.strides), strict=True):
                    rest, digit = divmod(rest, n)
                    token += digit * stride
                assert order.index[place + i] == token
            place += s.size
        assert place == binding.q_len


def test_ranges_of_numbers_are_boxes_of_digits() -> None:
    for first, last in ((0, 60), (7, 8), (7, 53), (13, 14), (0, 1), (19, 41), (5, 5)):
        boxes = decompose(first, last, (3, 4, 5))
        found = [20 * t + 5 * y + x for b in boxes for t in range(*b[0]) for y in range(*b[1]) for x in range(*b[2])]
        assert found == list(range(first, last))


def test_video_neighbourhoods() -> None:
    """The best shapes for the neighbourhoods of video models: twice as good as rows of 128 tokens."""
    text = "pattern p() over grid(t, y, x) { attend neighborhood(t, 18) & neighborhood(y, 24) & neighborhood(x, 24) }"
    program = lower_text(text)[0]
    binding = make_binding(program, 115_200, 115_200, sizes={"t": 30, "y": 48, "x": 80})
    plan = make_plan(program, binding, layout="blocks:8x4x4,4x8x4")
    useful = 115_200 * 18 * 24 * 24
    assert plan.rows == 900
    assert tiles(plan) * 128 * 128 < 1.7 * useful
    assert len(plan.q_order.stretches) == 2


def test_tiles_that_are_not_blocks() -> None:
    check(*grid_case("halo"), 16, 24, "blocks:4x8,2x4")


def test_names_are_layouts() -> None:
    program, binding = grid_case("shifted windows")
    plan = make_plan(program, binding, q_tile=64, k_tile=64, layout="auto")
    again = make_plan(program, binding, q_tile=64, k_tile=64, layout=plan.q_order.name)
    assert plan.q_order.name == "blocks:8x8@4x4"
    assert " tiles instead of " in plan.q_order.reason
    np.testing.assert_array_equal(again.kinds(), plan.kinds())


@pytest.mark.parametrize(
    "layout", ["blocks:0x4", "blocks:4x8,4x8%2", "blocks:x", "residues:-1", "sorted:doc", "sorted:", "tiles", "auto:1"]
)
def test_layouts_that_there_are_not(layout: str) -> None:
    program, binding = grid_case("halo")
    with pytest.raises(MaskcError, match="E502"):
        make_plan(program, binding, q_tile=32, k_tile=32, layout=layout)


def test_no_index_is_made_twice() -> None:
    program, binding = more_case("two grids")
    grid = Grid(binding.q_len, binding.k_len, 16, 16, 0)
    blocks = arrange((program.q_space, program.k_space), binding, grid, Spec((4, 4), (2, 8), (1, 2), (1, 1)))
    index = index_of(blocks.k.stretches, grid.k_len, 0)
    assert sorted(index) == list(range(grid.k_len))
    assert Order().stretches == ()

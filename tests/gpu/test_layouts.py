"""Tokens in another order than their own: where kernels find them, and what that costs of a chip."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskc.backends.triton import aot
from maskc.backends.triton.aot import Shape, compile_kernel
from maskc.backends.triton.configs import Config, config, parse_target
from maskc.backends.triton.emit import STAGES
from maskc.backends.triton.masks import pair_values
from maskc.backends.triton.places import places_of
from maskc.backends.triton.spec import Form, KernelSpec, specialised
from maskc.lower import lower_text
from maskc.tiles import make_plan
from maskc.tiles.binding import bind
from maskc.tiles.tiling import Order, Stretch
from tests.gpu.golden_cases import kernel_of
from tests.gpu.types import check_kernel

GRID = "pattern p over grid(y, x) { attend neighborhood(y, 9) & neighborhood(x, 9) }"


def tokens(arguments: dict[str, int], place: int) -> int:
    """What a kernel computes for a place of the queries."""
    found = arguments["q_start"] + place * arguments["q_step"]
    for i in range(1, len(arguments) // 2):
        found += place // arguments[f"q_size_{i}"] * arguments[f"q_step_{i}"]
    return found


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 50)), min_size=1, max_size=4), st.integers(0, 9))
def test_arithmetic_gives_the_order(digits: list[tuple[int, int]], base: int) -> None:
    extents, strides = zip(*digits, strict=True)
    each = np.indices(extents).reshape(len(extents), -1)
    index = (np.array(strides)[:, None] * each).sum(axis=0).astype(np.int32)
    places = places_of("q", Order("blocks", index, "", (Stretch(0, base, extents, strides),)), 1, 0)
    assert places.steps
    assert [tokens(dict(places.arguments), i) for i in range(index.size)] == (index + base).tolist()


@pytest.mark.parametrize(
    ("text", "length", "q_len", "layout", "computed"),
    [
        ("dilated(8, 4) & causal", 512, 512, "residues", True),
        ("dilated(8, 4) & causal", 512, 256, "residues", True),
        ("dilated(3, 4) & causal", 40, 40, "residues", False),  # what is left at the end follows
        (GRID, 256, 256, "blocks", True),
        (GRID, 256, 100, "blocks", False),
    ],
)
def test_orders_of_plans(text: str, length: int, q_len: int, layout: str, computed: bool) -> None:
    program = lower_text(text)[0]
    sizes = {"y": 16, "x": 16} if "grid" in text else {}
    binding = bind(program, q_len, length, heads=1, layer=0, batch=1, sizes=sizes, values={})
    order = make_plan(program, binding, q_tile=16, k_tile=16, layout=layout).q_order
    assert order.index is not None
    places = places_of("q", order, 16, binding.offset)
    arguments = dict(places.arguments)
    assert bool(places.steps) == computed
    if computed:
        assert [tokens(arguments, i) for i in range(q_len)] == order.index.tolist()
        # A tile is the one at place 0, moved: the loops rely on it.
        for first in range(0, q_len, 16):
            moved = [tokens(arguments, first + i) - tokens(arguments, first) for i in range(16)]
            assert moved == [tokens(arguments, i) - tokens(arguments, 0) for i in range(16)]
    else:
        assert arguments["q_index"][:q_len].tolist() == order.index.tolist()
        assert arguments["q_index"].size % 16 == 0


def test_tiles_that_are_not_moved_ones_are_listed() -> None:
    stretch = Stretch(0, 0, (2, 24), (1, 2))  # the second tile of 16 starts within a class and ends in the next
    places = places_of("k", Order("residues", np.arange(48, dtype=np.int32), "", (stretch,)), 16, 0)
    assert places.steps == 0


def test_loop_over_full_tiles_computes_where_a_tile_is_and_no_more() -> None:
    text = kernel_of("laid-out-grid-forward").text
    full = text[text.index("# Full tiles") : text.index("# Partial tiles")]
    assert re.findall(r"k_\w+ = ", full) == ["k_first = ", "k_shift = "]
    assert "k_pos" not in full


FORMS = [
    Form(q_steps=3, k_steps=3),
    Form(q_steps=0, k_steps=0),
    Form(q_steps=1, k_steps=0, packed=True),
    Form(clauses=2, q_steps=0, k_steps=2, packed=True),
    Form(packed=True),
]


@pytest.mark.parametrize("ones", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_types(form: Form, ones: bool) -> None:
    program = lower_text(
        "pattern p(doc: int[token], w: int[head], sink: float[head], gate: float[q, head]) {\n"
        " attend same(doc) & q - k < w[h]\n score s - 0.1 * abs(q - k)\n normalize softmax(sink = sink[h])\n"
        " output o * gate[q, h] }"
    )[0]
    spec = KernelSpec(specialised(program, {}), **form._asdict())
    target, chosen = parse_target("cuda:90"), Config(64, 32, 4, 2)
    shape = Shape("float16", 32, 32, ragged=True, one_run=ones, ones=ones)
    for stage in ["forward"] if form.packed else ["forward", "dq", "dkv"]:
        assert "tt.dot" in check_kernel(STAGES[stage](spec), program, target, chosen, shape)


@pytest.mark.parametrize("stage", ["forward", "dq", "dkv"])  # the others have no lists, or others
def test_types_of_two_runs(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = aot._constants
    program = lower_text("causal & window(100)")[0]
    kernel = STAGES[stage](KernelSpec(specialised(program, {})))
    loads = {}
    for runs in (1, 2):
        more = {"FULL_RUN": runs, "PART_RUN": runs}
        monkeypatch.setattr(aot, "_constants", lambda *given, more=more: {**constants(*given), **more})
        shape = Shape("float16", 32, 32)
        loads[runs] = check_kernel(kernel, program, parse_target("cuda:90"), Config(64, 32, 4, 2), shape).count(
            "tt.load"
        )
    assert loads[2] == loads[1] + 4  # the ends of the second run, of full tiles and of partial ones


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "stage"),
    [(form, stage) for form in FORMS for stage in ("forward", "dq", "dkv")[: 1 if form.packed else 3]],
)
@pytest.mark.parametrize("dim", [64, 128])
def test_next_to_nothing_spills_on_hopper(
    form: Form, stage: str, dim: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    program = lower_text("dilated(64, 16) & causal")[0]
    spec = KernelSpec(specialised(program, {}), **form._replace(steady=True)._asdict())
    target, shape = parse_target("cuda:90"), Shape(head_dim=dim, value_dim=dim)
    chosen = config(stage, target, dim, shape.dtype, pair_values(spec.program, None))
    found = compile_kernel(STAGES[stage](spec), program, target, chosen, shape)
    # The digits of a place take registers in the tiles of dK and dV that were the fastest on an H100.
    assert found.spilled is not None
    assert found.spilled <= (64 if (form, stage, dim) == (FORMS[0], "dkv", 128) else 0)
    assert "wgmma.mma_async" in found.tensor_cores

"""Boxes of keys as integers, beside the dense mask."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from maskc.backends.triton.boxes import box_of, packed
from maskc.backends.triton.masks import is_box, mask_form
from maskc.backends.triton.spec import specialised
from maskc.backends.triton.tiles import distinct_groups
from maskc.ir.evaluate import dense
from maskc.lower import lower_text
from maskc.tiles import make_plan
from maskc.tiles.binding import make_binding

_GRID = "pattern p over grid(t, y, x) {{ attend {} }}"
_LABELS = np.random.default_rng(3).integers(-4, 9, 60)

#: Text, queries, sizes, values.
BOXES: dict[str, tuple[str, int, dict[str, int], dict[str, Any]]] = {
    "neighbourhood": (
        _GRID.format("neighborhood(t, 3) & neighborhood(y, 3) & neighborhood(x, 4)"),
        60,
        {"t": 3, "y": 4, "x": 5},
        {},
    ),
    "strides": (
        _GRID.format("neighborhood(t, 2, stride = 2) & window(1, 1) on y // 2 & causal on x"),
        60,
        {"t": 3, "y": 4, "x": 5},
        {},
    ),
    "documents": ("pattern p(doc: int[token]) { attend same(doc) & causal }", 60, {}, {"doc": _LABELS}),
    "dilation": ("causal & q - k < 40 & (q - k) % 7 == 0 & q % 5 > 0 & k % 4 < 3", 60, {}, {}),
    "fewer queries": ("causal & q // 6 % 5 == k // 6 % 5", 13, {}, {}),
    "by head": ("pattern p(w: int[head]) { attend causal & (q - k) % 3 == 0 & q - k < w[h] }", 60, {}, {"w": [9, 2]}),
    "by batch": ("pattern p(doc: int[token]) { attend same(doc) & causal }", 60, {}, {"doc": [_LABELS, _LABELS[::-1]]}),
    "nothing": ("causal & k // 4 > 2 + q // 4 & q % 3 == k % 3", 60, {}, {}),
}


@pytest.mark.parametrize("layout", ["none", "auto"])
@pytest.mark.parametrize("name", BOXES)
def test_boxes_are_the_mask(name: str, layout: str) -> None:
    text, queries, sizes, values = BOXES[name]
    program = lower_text(text)[0]
    binding = make_binding(program, queries, 60, heads=2, sizes=sizes, **values)
    plan = make_plan(program, binding, q_tile=16, k_tile=16, layout=layout)
    text_program = specialised(program, binding.args)
    box = box_of(text_program)
    assert box is not None
    groups = distinct_groups(plan)
    found = packed(box, text_program, plan, groups)
    assert found is not None
    low, high = (x.reshape(len(groups), queries, 1) for x in (found.low, found.high))
    point = found.point.reshape(len(groups), 1, 60)
    keep = ((point - low) & (high - point) & found.guard) == found.guard
    for each, group in zip(keep, groups, strict=True):
        wanted = dense(program, binding, group.heads[0], group.batches[0])
        rows = slice(None) if plan.q_order.index is None else plan.q_order.index
        columns = slice(None) if plan.k_order.index is None else plan.k_order.index
        assert (each == wanted[rows][:, columns]).all()


@pytest.mark.parametrize(
    "text",
    [
        "causal | q % 3 == k % 3",
        "hash(q, k) % 2 == 0 & causal",
        "q != k",
        "pattern p(a: float[k]) { attend a[k] < 0.5 }",
    ],
)
def test_other_masks_are_no_boxes(text: str) -> None:
    assert box_of(specialised(lower_text(text)[0], {})) is None


def test_digits_that_do_not_fit_are_left_to_the_mask() -> None:
    program = lower_text("pattern p(a: int[token], c: int[token]) { attend a[q] <= a[k] & c[k] <= c[q] & causal }")[0]
    wide = np.array([0, 1 << 14, 5, 70] * 10)
    binding = make_binding(program, 40, 40, a=wide, c=wide)
    plan = make_plan(program, binding, q_tile=16, k_tile=16)
    text_program = specialised(program, {})
    assert is_box(text_program)
    assert mask_form(text_program, plan) == (None, None)
    near = make_binding(program, 40, 40, a=wide % 9, c=wide % 9)
    assert mask_form(text_program, make_plan(program, near, q_tile=16, k_tile=16))[1] is not None


def test_boxes_of_many_heads_take_the_memory_of_their_result() -> None:
    text = "pattern p(w: int[head]) { attend causal & q - k < w[h] & q % 3 == k % 3 }"
    program = lower_text(text)[0]
    binding = make_binding(program, 4000, 4000, heads=64, w=np.arange(64) + 8)
    plan, text_program = make_plan(program, binding), specialised(program, binding.args)
    box, groups = box_of(text_program), distinct_groups(plan)
    assert box is not None
    assert len(groups) == 64
    tracemalloc.start()
    try:
        found = packed(box, text_program, plan, groups)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found is not None
    assert peak < 1.5 * (found.low.nbytes + found.high.nbytes + found.point.nbytes)

"""What kernels are told of a mask: how partial tiles are masked, and that no row is empty."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from maskc.backends.triton.masks import every_query_keeps_a_key, mask_form, pair_values
from maskc.backends.triton.spec import specialised
from maskc.backends.triton.tiles import kernel_plan
from maskc.ir.binding import Binding
from maskc.ir.evaluate import dense
from maskc.ir.program import Program
from maskc.lower import lower_text
from maskc.tiles import make_plan
from tests.strategies import bindings, programs


@settings(max_examples=60, deadline=None)
@given(programs(scores=False), bindings())
def test_no_row_is_called_full_that_is_empty(program: Program, binding: Binding) -> None:
    if every_query_keeps_a_key(program, binding):
        for h in range(binding.heads):
            for b in range(binding.batch):
                assert dense(program, binding, h, b).any(axis=1).all()


@pytest.mark.parametrize(
    ("text", "proved"),
    [
        ("causal", True),
        ("causal & window(9)", True),
        ("sinks(4) | sliding_window(9)", True),
        ("dilated(4, 4) & causal", True),
        ("k < q", False),  # the first query keeps nothing
        ("causal & q % 3 == 1", False),
        ("k < q | h % 2 == 1", False),  # of one head
        ("hash(q, k) % 64 == 0", False),
    ],
)
def test_rows_that_cannot_be_empty(text: str, proved: bool) -> None:
    assert every_query_keeps_a_key(lower_text(text)[0], Binding(40, 40, heads=2)) == proved


def test_documents() -> None:
    program = lower_text("pattern p(doc: int[token]) { attend same(doc) & causal }")[0]
    doc = np.arange(40) // 7
    assert every_query_keeps_a_key(program, Binding(40, 40, tables={"doc": doc}))


@pytest.mark.parametrize(
    ("text", "clauses", "boxed"),
    [
        ("causal", None, False),  # one comparison, where an interval takes two
        ("causal & window(9)", None, False),
        ("pattern p(doc: int[token]) { attend same(doc) & causal }", 1, False),
        ("pattern p(doc: int[token]) { attend same(doc) & causal | k < 2 }", 2, False),
        ("pattern p(doc: int[token]) { attend same(doc) & (q - k) % 2 == 0 }", None, True),  # too many of them
        ("sin(0.1 * q) < 0.5 & causal", None, False),  # what speaks of the query alone costs nothing a pair
        ("cos(0.03 * k) < 0.5", 1, False),
        ("hash(q, k) % 3 == 0", None, False),
    ],
)
def test_partial_tiles_are_masked_the_cheaper_way(text: str, clauses: int | None, boxed: bool) -> None:
    program = lower_text(text)[0]
    binding = Binding(96, 96, tables={"doc": np.arange(96) // 17} if "doc" in text else {})
    plan = make_plan(program, binding, q_tile=16, k_tile=16)
    found, boxes = mask_form(specialised(program, {}), plan)
    assert (found, boxes is not None) == (clauses, boxed)


def test_intervals_are_those_of_the_mask() -> None:
    program = lower_text("pattern p(doc: int[token]) { attend same(doc) & causal | k < 2 }")[0]
    binding = Binding(40, 48, tables={"doc": np.arange(48) // 17})
    plan = make_plan(program, binding, q_tile=16, k_tile=16)
    for by_keys in (False, True):  # the same lists serve the kernels of both directions
        found = kernel_plan(plan, by_keys=by_keys, intervals=True)
        assert found.intervals is not None
        low, high = (x.reshape(found.clauses, 40)[:, :, None] for x in found.intervals)
        key = np.arange(48)
        assert np.array_equal(((low <= key) & (key < high)).any(axis=0), dense(program, binding))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("causal", 1),
        ("window(64, 64)", 3),  # two comparisons, and both of them
        ("dilated(64, 16) & causal", 4),  # a box
        ("dilated(64, 16) | causal", 8),  # four comparisons, joined by three, and the remainders of keys
        ("pattern p over grid(y, x) { attend neighborhood(y, 24) & neighborhood(x, 24) }", 4),
    ],
)
def test_values_of_a_pair(text: str, values: int) -> None:
    assert pair_values(specialised(lower_text(text)[0], {}), None) == values

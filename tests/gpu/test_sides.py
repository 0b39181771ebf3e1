"""Comparisons with the query and the key on sides of their own mean what they meant."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskc.backends.triton.sides import apart, ends_with_queries
from maskc.ir.binding import Binding
from maskc.ir.evaluate import dense
from maskc.ir.program import Program
from maskc.ir.text import print_node
from maskc.lower import lower_text
from maskc.passes import normalise
from tests.strategies import bindings, programs


def normal(text: str) -> Program:
    return normalise(lower_text(text)[0])


@settings(max_examples=60, deadline=None)
@given(programs(scores=False), bindings())
def test_random_programs_keep_their_meaning(program: Program, binding: Binding) -> None:
    form = normalise(program)
    assert np.array_equal(dense(form, binding, 1, 0), dense(apart(form), binding, 1, 0))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["<", "<=", "==", "!=", ">", ">="]),
    st.lists(st.integers(-3, 3), min_size=6, max_size=6),
    st.integers(1, 5),
    st.integers(-2, 6),
)
def test_comparisons_keep_their_meaning(op: str, factors: list[int], modulus: int, wanted: int) -> None:
    a, b, c, d, e, f = factors
    left = f"({a}) * q + ({b}) * k + ({c}) * (q // 3)"
    for text in (
        f"{left} {op} ({d}) * k + ({e}) * (k % 4) + ({f})",
        f"({left} + ({d}) * (k // 2) + ({f})) % {modulus} {op} {wanted}",
    ):
        form = normal(text)
        assert np.array_equal(dense(form, Binding(9, 14)), dense(apart(form), Binding(9, 14))), text


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("q - k < 5", "q - 5 < k"),
        ("(q - k) % 4 == 0", "q % 4 == k % 4"),
        ("(k - q) % 4 == 1", "q % 4 == (k + 3) % 4"),
        ("q * k < 5", "q * k < 5"),  # no sides
        ("any(i in 0..3: q - k == i * i)", "any(i0 in 0..3: q == k + i0 * i0)"),  # an index may be on either side
        ("pattern p(w: int[head]) { attend q - k < w[h] }", "q - k < w[h]"),  # q - w[h] may need 64 bits
        ("pattern p(w: int(0..99)[head]) { attend q - k < w[h] }", "q - w[h] < k"),
    ],
)
def test_sides(text: str, meant: str) -> None:
    assert print_node(apart(normal(text)).mask) == meant


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("causal", True),
        ("k < q - 2 & q % 3 == 0", True),
        ("k < q + 1", True),
        ("k < q + 2", False),
        ("causal | k < 2", False),
        ("window(3, 3)", False),
        ("pattern p over left -> right { attend k <= q }", False),
    ],
)
def test_ends_with_queries(text: str, ends: bool) -> None:
    program = apart(normal(text))
    assert ends_with_queries(program) == ends
    if ends:
        kept = dense(program, Binding(6, 9))
        assert not kept[:, 3:][np.triu_indices(6, 1)].any()

"""Every pass keeps the meaning of every program, and the normal form is a fixed point."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskc.diagnostics import MaskcError
from maskc.ir.alternatives import constant_cases, written_out
from maskc.ir.binding import Binding
from maskc.ir.evaluate import dense, evaluate
from maskc.ir.interval import intervals, ranges_under
from maskc.ir.nodes import postorder
from maskc.ir.ops import disjunction
from maskc.ir.program import Program
from maskc.ir.size import MAX_WRITTEN
from maskc.ir.verify import verify
from maskc.lower import lower_text
from maskc.passes import PIPELINE, Pass, normalise
from maskc.passes.rows import rows
from maskc.passes.specialise import bind, unroll
from tests.strategies import bindings, programs

few = settings(deadline=None, max_examples=30)


def score(program: Program, binding: Binding, h: int, b: int) -> np.ndarray:
    q = binding.offset + np.arange(binding.q_len)[:, None]
    k = np.arange(binding.k_len)[None, :]
    s = np.linspace(-2, 2, binding.q_len * binding.k_len).reshape(binding.q_len, binding.k_len)
    value = evaluate(program.score, binding, q=q, k=k, h=h, b=b, s=s, params=program.params)
    return np.broadcast_to(value, s.shape)


def assert_same(before: Program, after: Program, binding: Binding, h: int, b: int) -> None:
    np.testing.assert_array_equal(dense(before, binding, h, b), dense(after, binding, h, b))
    np.testing.assert_allclose(score(before, binding, h, b), score(after, binding, h, b), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("step", PIPELINE, ids=lambda p: p.name)
@few
@given(programs(), bindings(), st.integers(0, 2), st.integers(0, 1))
def test_a_pass_keeps_the_meaning_and_is_idempotent(
    step: Pass, program: Program, binding: Binding, h: int, b: int
) -> None:
    after = step.run(program)
    verify(after)
    assert_same(program, after, binding, h, b)
    assert step.run(after) == after


@few
@given(programs(), bindings(), st.integers(0, 2), st.integers(0, 1))
def test_the_normal_form_keeps_the_meaning_and_is_a_fixed_point(
    program: Program, binding: Binding, h: int, b: int
) -> None:
    after = normalise(program)
    verify(after, "normal")
    assert_same(program, after, binding, h, b)
    assert normalise(after) == after


@few
@given(programs(), bindings(), st.integers(0, 2), st.integers(0, 1))
def test_binding_agrees_with_evaluation(program: Program, binding: Binding, h: int, b: int) -> None:
    known = {"args": binding.args, "layer": binding.layer, "tables": binding.tables, "sizes": binding.sizes}
    bound = bind(program, heads=3, head=h, **known)
    verify(bound, "bound")
    assert_same(program, bound, binding, h, b)


@few
@given(programs(scores=False), bindings(), st.integers(0, 2), st.integers(0, 1))
def test_the_clauses_are_the_mask(program: Program, binding: Binding, h: int, b: int) -> None:
    clauses = rows(normalise(program).mask)
    union = program.replace(mask=disjunction(c.node() for c in clauses))
    np.testing.assert_array_equal(dense(program, binding, h, b), dense(union, binding, h, b))


@few
@given(programs(scores=False), bindings(), st.integers(0, 2), st.integers(0, 1))
def test_values_are_within_their_intervals(program: Program, binding: Binding, h: int, b: int) -> None:
    low, high = intervals([program.mask], ranges_under(program, binding))[program.mask]
    kept = dense(program, binding, h, b).astype(int)
    assert low <= kept.min()
    assert kept.max() <= high


def test_too_many_alternatives_are_refused() -> None:
    program = lower_text("any(i in 0..100: any(j in 0..100: q - k == hash(i, j) % 999))")[0]
    with pytest.raises(MaskcError) as caught:
        bind(program)
    assert caught.value.codes == ("E508",)


@pytest.mark.parametrize(
    "text",
    [
        "any(i in 0..4096: " + " | ".join(f"hash(i, q, {j}) % 99 == k" for j in range(100)) + ")",
        "any(i in 0..64: any(j in 0..60: " + " | ".join(f"hash(i, j, {n}) % 99 == k" for n in range(9)) + "))",
        "any(i in 0..64: any(j in 0..60: " + " | ".join(f"hash(i, q, {n}) % 99 == k + j" for n in range(9)) + "))",
    ],
)
def test_large_alternatives_are_not_written_out(text: str) -> None:
    """Few enough of them, but each of so many operators and operands that a normal form would take minutes."""
    program = lower_text(text)[0]
    with pytest.raises(MaskcError, match="more than 16384 operators and operands") as caught:
        bind(program)
    assert caught.value.codes == ("E508",)


def test_what_is_written_out_is_counted_by_its_parts_that_vary() -> None:
    """What does not speak of an index is shared by all its cases."""
    shared = " & ".join(f"hash(q, {j}) % 7 < 5" for j in range(300))
    mask = lower_text(f"any(i in 0..3000: k == i * 2 & {shared})")[0].mask
    assert written_out(mask, constant_cases) <= MAX_WRITTEN
    for text in (
        f"any(i in 0..300: k == i * 2 & {shared})",
        "any(i in 0..9: any(j in 0..7: hash(i, q) % 9 == hash(j, i) % 5 | k == i) & k < q) | q < 4",
        "any(i in 0..9: any(j in 0..7: hash(i, q) % 9 == k) & any(j in 0..7: hash(j, q) % 9 == k))",
    ):
        mask = lower_text(text)[0].mask
        whole = len(list(postorder([unroll(mask)])))
        assert whole / 2 <= written_out(mask, constant_cases)
        assert whole <= 2 * written_out(mask, constant_cases)

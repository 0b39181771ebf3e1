"""What the evaluator does that everything else is compared with: against formulas written in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from maskc.ir.binding import Binding
from maskc.ir.evaluate import dense, evaluate
from maskc.ir.nodes import FALSE, Const, Lookup, Symbol, Type
from maskc.ir.ops import OPS, apply, negation
from maskc.ir.program import Program
from maskc.lower import lower_text
from tests.strategies import bindings, programs


def grid(binding: Binding) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(binding.q_len)[:, None] + binding.offset, np.arange(binding.k_len)[None, :]


def test_fewer_queries_than_keys_are_the_last_ones() -> None:
    binding = Binding(3, 7)
    q, k = grid(binding)
    (program,) = lower_text("sliding_window(4)")
    np.testing.assert_array_equal(dense(program, binding), (k <= q) & (q - k < 4))
    np.testing.assert_array_equal(dense(program, binding, q_range=(5, 6), k_range=(1, 4)), [[False, True, True]])


def test_per_query_inputs_start_at_the_first_query_and_indices_are_clamped() -> None:
    (program,) = lower_text("pattern p(a: int[q], d: int[token]) { attend a[q] == k | d[q + 100] == k }")
    binding = Binding(2, 4, tables={"a": np.array([0, 1]), "d": np.array([9, 9, 9, 3])})
    np.testing.assert_array_equal(dense(program, binding), [[True, False, False, True], [False, True, False, True]])


def test_a_batch_entry_sees_its_own_input() -> None:
    (program,) = lower_text("pattern p(d: int[token]) { attend same(d) }")
    tables = {"d": np.array([[0, 0, 1], [0, 1, 1]])}
    binding = Binding(3, 3, batch=2, tables=tables, batched=frozenset({"d"}))
    for b in range(2):
        np.testing.assert_array_equal(dense(program, binding, b=b), np.equal.outer(tables["d"][b], tables["d"][b]))


def test_any_may_nest_and_may_be_empty() -> None:
    (program,) = lower_text("any(i in 0..3: any(j in 0..i: q == i & k == j)) | any(i in 0..-1: true)")
    np.testing.assert_array_equal(
        dense(program, Binding(4, 4)), np.tril(np.ones((4, 4), bool), -1) & (np.arange(4) < 3)[:, None]
    )


@pytest.mark.parametrize("xp", [np, torch])
def test_division_floors_and_by_zero_gives_zero(xp: object) -> None:
    q = np.array([-7, 7, -7, 7]) if xp is np else torch.tensor([-7, 7, -7, 7])
    k = np.array([2, -2, 0, 0]) if xp is np else torch.tensor([2, -2, 0, 0])
    for op, wanted in (("floordiv", [-4, -4, 0, 0]), ("mod", [1, -1, 0, 0])):
        node = apply(op, Symbol("q"), Symbol("k"))
        assert evaluate(node, Binding(1, 1), q=q, k=k, xp=xp).tolist() == wanted
    assert bool(evaluate(negation(FALSE), Binding(1, 1), q=q, k=k, xp=xp)) is True


@pytest.mark.parametrize("xp", [np, torch])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_float_has_an_integer_below(xp: Any, dtype: str) -> None:
    """As a kernel's does, whose numbers have 32 bits: at most 2**30 from 0, and 0 of NaN."""
    given = {-1.5: -2, 2.75: 2, -0.0: 0, 1e9: 10**9, 1.5e9: 1 << 30, 1e300: 1 << 30, -3e38: -(1 << 30)}
    given |= {float("inf"): 1 << 30, float("-inf"): -(1 << 30), float("nan"): 0}
    with np.errstate(over="ignore"):
        found = OPS["floor"].meaning(xp, xp.asarray(np.array([*given], dtype)))
    assert found.tolist() == [*given.values()]


def test_floats_have_the_dtype_of_the_scores_and_tables_a_gradient() -> None:
    bias = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    (program,) = lower_text("pattern p(bias: float[3]) { attend all\n score s * 2 + bias[k] }")
    q, k = torch.arange(2)[:, None], torch.arange(3)[None, :]
    s = torch.zeros(2, 3, dtype=torch.float64)
    value = evaluate(
        program.score, Binding(2, 3), q=q, k=k, s=s, params=program.params, tables={"bias": bias}, xp=torch
    )
    assert value.dtype is torch.float64
    value.sum().backward()
    assert bias.grad is not None
    assert bias.grad.tolist() == [2.0, 2.0, 2.0]


def test_a_missing_table_is_named() -> None:
    with pytest.raises(KeyError, match="ghost"):
        evaluate(Lookup("ghost", Type.INT, (Const(0),)), Binding(1, 1), q=np.arange(1), k=np.arange(1))


@settings(deadline=None, max_examples=30)
@given(programs(scores=False), bindings())
def test_torch_and_numpy_agree(program: Program, binding: Binding) -> None:
    q, k = (torch.from_numpy(x) for x in grid(binding))
    value = evaluate(program.mask, binding, q=q, k=k, params=program.params, xp=torch, float_dtype=torch.float64)
    np.testing.assert_array_equal(value.expand(binding.q_len, binding.k_len).numpy(), dense(program, binding))

"""The order of computing: few values at once, whatever the mask; and how much work it says there is."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import maskc
from maskc.diagnostics import MaskcError
from maskc.ir import evaluate as evaluation
from maskc.ir.alternatives import check_alternatives, most_cases
from maskc.ir.evaluate import dense, evaluate, kept
from maskc.ir.nodes import Const, Exists, Lookup, Node, Symbol, Type, postorder
from maskc.ir.ops import apply
from maskc.ir.program import Parameter
from maskc.ir.schedule import schedule
from maskc.tiles.binding import make_binding

_MANY = " | ".join(f"hash(q, k, {i}) % 1000 == 0" for i in range(500))
_NESTED = "any(i in 0..64: any(j in 0..64: hash(q, k, i, j) % 100000 == 0))"


def test_many_terms_need_few_values_at_once() -> None:
    program = maskc.parse(_MANY).program
    assert schedule(program.mask).live < 12
    tracemalloc.start()
    dense(program, make_binding(program, 256, 256))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 8 * 256 * 256


def test_what_is_computed_is_dropped_but_never_too_early() -> None:
    """A value that is shared is there as long as anything needs it."""
    text = "any(i in 0..3: (q % 5 == i) & (q - k < 4 * i)) | (q % 5 == 1) & (k % 3 == 0) & any(j in 0..2: q % 5 == j)"
    program = maskc.parse(text).program
    q, k = np.arange(40)[:, None], np.arange(40)[None]
    wanted = np.zeros((40, 40), bool)
    for i in range(3):
        wanted |= (q % 5 == i) & (q - k < 4 * i)
    wanted |= (q % 5 == 1) & (k % 3 == 0)
    np.testing.assert_array_equal(dense(program, make_binding(program, 40, 40)), wanted)
    for step in schedule(program.mask).steps:
        assert program.mask not in step.last


def test_every_value_is_computed_once_outside_loops() -> None:
    program = maskc.parse("(hash(q, k) % 2 == 0) & (hash(q, k) % 3 == 0) | (hash(q, k) % 5 == 0)").program
    steps = [s.node for s in schedule(program.mask).steps if s.operand is None]
    assert len(steps) == len(set(steps))
    assert set(steps) | {program.mask} >= set(postorder([program.mask])) - {
        s.node for s in schedule(program.mask).steps if s.operand is not None
    }


def test_work_counts_the_cases() -> None:
    program = maskc.parse(_NESTED).program
    binding = make_binding(program, 4, 4)
    assert schedule(program.mask).work(most_cases(program.mask, program, binding)) > 4096 * 30
    assert schedule(maskc.parse("causal").program.mask).work(lambda n: 1) == 1


def test_points_are_taken_in_parts_where_there_are_many_values(monkeypatch: pytest.MonkeyPatch) -> None:
    program = maskc.parse("(q * k) % 7 == 3").program
    binding = make_binding(program, 50, 70)
    whole, sizes = dense(program, binding, q_range=(20, 70)), list[int]()
    monkeypatch.setattr(evaluation, "_VALUES", 64)
    inner = evaluation.evaluate

    def counted(node: Node, *args: object, q: np.ndarray, k: np.ndarray, **more: object) -> object:
        sizes.append(np.broadcast(q, k).size)
        return inner(node, *args, q=q, k=k, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(evaluation, "evaluate", counted)
    np.testing.assert_array_equal(dense(program, binding, q_range=(20, 70)), whole)
    assert max(sizes) <= 64
    q, k = np.arange(20, 70).reshape(50, 1, 1), np.arange(70).reshape(1, 10, 7)
    assert kept(program.mask, binding, q=q, k=k).shape == (50, 10, 7)
    np.testing.assert_array_equal(kept(program.mask, binding, q=q, k=k).reshape(50, 70), whole)


@pytest.mark.parametrize(
    "text", ["any(i in 0..floor(1e18): k == i)", "any(i in 0..floor(sqrt(1e12) * 5.0): k == q - i)"]
)
def test_a_count_without_bounds_is_computed_before_it_is_believed(text: str) -> None:
    program = maskc.parse(text).program
    with pytest.raises(MaskcError) as error:
        make_binding(program, 8, 8)
    assert error.value.codes == ("E508",)


def test_a_count_that_is_rounded_from_floats_may_be_small() -> None:
    program = maskc.parse("pattern p(x: float[head]) { attend any(i in 0..floor(x[h]): k == i * i) }").program
    binding = make_binding(program, 20, 20, heads=2, x=[1.5, 3.9])
    assert [np.flatnonzero(dense(program, binding, h)[5]).tolist() for h in (0, 1)] == [[0], [0, 1, 4]]
    with pytest.raises(MaskcError):
        make_binding(program, 20, 20, heads=2, x=[1.5, 1e9])


def test_evaluating_ends_whatever_the_count() -> None:
    """Where a table is not part of a binding, no bound is known before."""
    index, table = Symbol("i0"), Lookup("w", Type.INT, (Symbol("h"),))
    node = Exists(index, table, apply("eq", Symbol("k"), apply("mul", index, Const(2))))
    program = maskc.parse("causal").program.replace(params=(Parameter("w", Type.INT, ("head",)),))
    binding = make_binding(program, 4, 4)
    at = {"q": np.zeros(1, np.int64), "k": np.arange(9), "params": program.params}
    check_alternatives(program.replace(mask=node), binding)
    assert evaluate(node, binding, tables={"w": np.array([3])}, **at).tolist() == [1, 0, 1, 0, 1, 0, 0, 0, 0]
    with pytest.raises(MaskcError) as error:
        evaluate(node, binding, tables={"w": np.array([10**15])}, **at)
    assert error.value.codes == ("E508",)

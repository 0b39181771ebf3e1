"""Kernels under Triton's interpreter give what the reference gives in float64."""

from __future__ import annotations

import pytest

from tests.gpu.cases import CASES
from tests.gpu.conftest import Interpreter

#: Largest difference, relative to the largest element: a few roundings of the dtype.
TOLERANCE = {"float32": 1e-5, "float16": 4e-3}


#: What others show as well, and what takes the interpreter many seconds.
SLOW = {"bias-of-all-heads", "bias-by-step", "biases-together", "laid-out-blocks"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in CASES])
def test_case(interpreter: Interpreter, name: str) -> None:
    found = interpreter.call("differences", name)
    assert found.pop("not deterministic", 0.0) == 0.0
    bound = TOLERANCE[CASES[name].dtype]
    assert {k: v for k, v in found.items() if not v <= bound} == {}


@pytest.mark.parametrize(
    ("name", "kernels"),
    [
        ("hash", [[False, False], [True, False]]),
        ("random-blocks", [[False, True], [True, True]]),
        ("causal", []),  # its last tile is ragged
    ],
)
def test_full_and_partial_tiles_are_one_sequence(
    interpreter: Interpreter, name: str, kernels: list[list[bool]]
) -> None:
    assert interpreter.call("joined_kernels", name) == kernels


@pytest.mark.parametrize("name", ["documents-batch", "packed-by-head"])
def test_more_batch_entries_than_an_axis_of_the_grid_holds(interpreter: Interpreter, name: str) -> None:
    found = interpreter.call("flat_differences", name)
    assert {k: v for k, v in found.items() if not v <= TOLERANCE[CASES[name].dtype]} == {}


def test_tokens_before_batch_entries_give_the_same_results(interpreter: Interpreter) -> None:
    """Their strides depend on the batch size: they are no constants of a kernel."""
    found = interpreter.call("other_strides")
    assert len(found) == 6
    assert set(found.values()) == {0.0}


@pytest.mark.parametrize(
    ("text", "tile"),
    [
        ("pattern p { attend causal & k < 21 }", 16),
        ("pattern p { attend causal & k < 21 }", 8),  # full and partial tiles are one sequence
        ("pattern p { attend causal & k < 21 & q < 21 }", 16),
        ("pattern p { attend causal & k < 21 & q < 21\n normalize softmax(sink = 0.5) }", 8),
        ("pattern p { attend window(4, 4) & k < 21 & q < 21\n normalize sigmoid }", 8),
        ("pattern p(bias: float[k], m: float[q]) { attend causal & k < 21 & q < 21\n score s * m[q] + bias[k] }", 16),
    ],
)
def test_nan_in_tokens_that_nobody_sees_reaches_nothing(interpreter: Interpreter, text: str, tile: int) -> None:
    assert not interpreter.call("nan_reaches", text, 21, tile)


def test_random_programs(interpreter: Interpreter) -> None:
    assert interpreter.call("random_masks", 9) >= 3


@pytest.mark.slow
def test_many_random_programs(interpreter: Interpreter) -> None:
    assert interpreter.call("random_masks", 400) >= 200


def test_backend(interpreter: Interpreter) -> None:
    found = interpreter.call("backend_call")
    assert max(found["gradients"]) < 1e-5
    assert found["graph"] < 1e-5
    assert "the gradient of 'bias'" in found["refusal"]
    assert "use backend=" in found["refusal"]
    assert found["frozen"] == [1, 4, 24, 32]
    assert "bfloat16" in found["bfloat16"]


@pytest.mark.parametrize("start", [0, 500, 1026])
def test_few_queries_are_where_the_call_says(interpreter: Interpreter, start: int) -> None:
    assert max(interpreter.call("few_queries_at", start)) < 1e-5


def test_nothing_in_a_call(interpreter: Interpreter) -> None:
    interpreter.call("empty_calls")

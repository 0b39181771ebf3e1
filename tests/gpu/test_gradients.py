"""Whole calls under Triton's interpreter: gradients of random programs and of the gallery, dimensions, torch's checks,
and check mode."""

from __future__ import annotations

import pytest

from tests.gpu.conftest import ROOT, Interpreter


@pytest.mark.parametrize(
    ("text", "floats"),
    [
        ("causal", {}),
        ("pattern p(bias: float[head, 9]) { attend sliding_window(9)\n score s + bias[h, q - k] }", {"bias": [2, 9]}),
        ("pattern p(t: float[head]) { attend causal\n score s * t[h]\n output o * t[h] }", {"t": [2]}),
    ],
)
def test_opcheck(interpreter: Interpreter, text: str, floats: dict[str, list[int]]) -> None:
    interpreter.call("gradients.opcheck", text, floats)


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("k_pos <= q_pos", "k_pos < q_pos"),
        ("acc * (1.0 / total)[:, None]", "acc * (1.0 / (total + 0.01))[:, None]"),
        ("weight, value.dtype)", "weight * 1.01, value.dtype)"),
    ],
)
def test_check_mode_finds_a_wrong_kernel(interpreter: Interpreter, was: str, becomes: str) -> None:
    assert "check mode" in interpreter.call("gradients.broken", was, becomes)


@pytest.mark.parametrize(
    ("stage", "was", "becomes", "of"),
    [
        ("dq", "k_pos <= q_pos", "k_pos < q_pos", "q"),
        ("dkv", "keep = k_pos <= q_pos", "keep = k_pos < q_pos", "k"),
        ("dkv", "grad_value = tl.dot(tl.cast(weight,", "grad_value = tl.dot(tl.cast(weight * 1.01,", "v"),
    ],
)
def test_check_mode_finds_wrong_gradients(
    interpreter: Interpreter, stage: str, was: str, becomes: str, of: str
) -> None:
    assert f"check mode: the gradient of {of}" in interpreter.call("gradients.broken", was, becomes, stage)


@pytest.mark.parametrize("stage", ["dq", "dkv"])
def test_check_mode_lets_right_gradients_pass(interpreter: Interpreter, stage: str) -> None:
    assert interpreter.call("gradients.broken", "k_pos <= q_pos", "q_pos >= k_pos", stage) == ""


def test_check_mode_lets_a_right_kernel_pass(interpreter: Interpreter) -> None:
    assert interpreter.call("gradients.broken", "k_pos <= q_pos", "q_pos >= k_pos") == ""


def test_only_inputs_that_need_a_gradient_get_one(interpreter: Interpreter) -> None:
    assert interpreter.call("gradients.only_wanted") == [True, True, True]


def test_gradients_of_distances_survive_an_output_of_16_bits(interpreter: Interpreter) -> None:
    """With a delta from the rounded output the error is as large as the gradient."""
    assert interpreter.call("gradients.distance_error", "float16") < 2e-3


def test_weights_beside_a_sink_however_small_have_gradients(interpreter: Interpreter) -> None:
    found = interpreter.call("gradients.beside_sinks")
    assert {name: error for name, error in found.items() if not error < 1e-5} == {}


def test_masks_compare_all_bits_of_numbers(interpreter: Interpreter) -> None:
    """Triton rounds a number that a tensor is compared with to 32 bits."""
    assert interpreter.call("gradients.numbers_in_masks") == []


def test_negated_views_are_what_they_mean(interpreter: Interpreter) -> None:
    found = interpreter.call("gradients.negated_views")
    assert {name: error for name, error in found.items() if not error < 1e-5} == {}


def test_sinks_have_the_gradient_of_the_log_sum_exp_of_padding(interpreter: Interpreter) -> None:
    found = interpreter.call("gradients.sinks_of_padding")
    assert {name: error for name, error in found.items() if not error < 1e-5} == {}


def test_what_no_kept_pair_needs_reaches_nothing(interpreter: Interpreter) -> None:
    found = interpreter.call("gradients.padding_stays_apart")
    assert [name for name, finite in found.items() if not finite] == []
    assert len(found) == 6


@pytest.mark.parametrize(("dim", "value_dim"), [(16, 40), (72, 24)])
def test_dimensions(interpreter: Interpreter, dim: int, value_dim: int) -> None:
    assert interpreter.call("gradients.dimension", dim, value_dim) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("dim", [8, 24, 40, 56, 80, 96, 112, 144, 160, 192, 256])
def test_many_dimensions(interpreter: Interpreter, dim: int) -> None:
    assert interpreter.call("gradients.dimension", dim, max(8, 256 - dim)) < 1e-5


def test_random_programs(interpreter: Interpreter) -> None:
    assert interpreter.call("gradients.random_programs", 12) >= 3


@pytest.mark.slow
def test_many_random_programs(interpreter: Interpreter) -> None:
    assert interpreter.call("gradients.random_programs", 120) >= 40


@pytest.mark.slow
@pytest.mark.parametrize("share", range(12))
def test_gallery(interpreter: Interpreter, share: int) -> None:
    found = interpreter.call("gradients.gallery", share, 12)
    assert {name: error for name, error in found.items() if not error < 1e-4} == {}
    assert sum(error > 0 for error in found.values()) >= len(found) // 2 > 0


MODELS = sorted(path.stem for path in (ROOT / "examples" / "models").glob("*.mask"))
SOME = ("bigbird_drawn", "gpt_oss", "llama4_packed", "t5_encoder")


@pytest.mark.parametrize("name", [n if n in SOME else pytest.param(n, marks=pytest.mark.slow) for n in MODELS])
def test_models(interpreter: Interpreter, name: str) -> None:
    found = interpreter.call("gradients.models", [name], [0] if name in SOME else [0, 3, 5])
    assert {where: error for where, error in found.items() if not 0 < error < 1e-4} == {}

"""Sizes that a stranger may ask for: each has a limit, and says which."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import maskc
from maskc.diagnostics import MaskcError
from maskc.ir.binding import MAX_HEADS, MAX_LAYERS
from maskc.ir.interval import MAX_TOKENS
from maskc.ir.nodes import Const, Node, Symbol
from maskc.ir.ops import apply
from maskc.lower.context import MAX_AXES, MAX_SEGMENTS
from maskc.setting import _factors, make_setting
from maskc.tiles import make_plan
from maskc.tiles.binding import check_limits, make_binding

_CAUSAL = "causal"


@pytest.mark.parametrize(
    "given",
    [
        {"q_len": MAX_TOKENS + 1, "k_len": MAX_TOKENS + 1},
        {"q_len": 10**12, "k_len": 10**12},
        {"q_len": 8, "k_len": 10**5000},
        {"q_len": 8, "k_len": 8, "heads": MAX_HEADS + 1},
        {"q_len": 8, "k_len": 8, "layer": MAX_LAYERS},
        {"q_len": 8, "k_len": 8, "batch": 10**9},
    ],
)
def test_lengths_heads_layers_and_entries_have_limits(given: dict[str, int]) -> None:
    with pytest.raises(MaskcError) as error:
        make_binding(maskc.parse(_CAUSAL).program, **given)  # type: ignore[arg-type]
    assert error.value.codes == ("E504",)
    assert "at most" in str(error.value)


def test_made_up_settings_have_the_same_limits() -> None:
    program = maskc.parse(_CAUSAL).program
    for given in ({"q": 10**9}, {"q": 8, "heads": 10**8}, {"q": 8, "layer": 10**8}, {"q": 8, "head": 10**8}):
        with pytest.raises(MaskcError) as error:
            make_setting([program], **given)  # type: ignore[arg-type]
        assert error.value.codes == ("E504",)
    with pytest.raises(MaskcError):
        check_limits(layers=MAX_LAYERS + 1)


def test_extents_have_limits() -> None:
    program = maskc.parse("pattern p() over grid(y, x) { attend same(y) }").program
    with pytest.raises(MaskcError) as error:
        make_binding(program, 0, 0, sizes={"y": 10**15, "x": 0})
    assert error.value.codes == ("E504",)


def test_the_longest_sequence_is_planned_by_its_boundary() -> None:
    program = maskc.parse("sliding_window(1000)").program
    plan = make_plan(program, make_binding(program, MAX_TOKENS, MAX_TOKENS), q_tile=1024, k_tile=1024)
    assert plan.groups[0].runs.start.size < 4 * plan.rows


def test_heads_and_entries_that_do_not_matter_are_one_mask() -> None:
    program = maskc.parse(_CAUSAL).program
    plan = make_plan(program, make_binding(program, 8, 8, heads=MAX_HEADS, batch=1 << 16))
    assert len(plan.groups) == 1


def test_tables_that_are_made_up_have_a_limit() -> None:
    program = maskc.parse("pattern p(t: int[4096, 4096, 4096]) { attend k < t[0, 0, 0] }").program
    with pytest.raises(MaskcError) as error:
        make_setting([program], q=8)
    assert error.value.codes == ("E504",)
    with pytest.raises(MaskcError) as error:
        maskc.parse("pattern p(t: int[2000000000]) { attend k < t[0] }")
    assert error.value.codes == ("E104",)
    assert error.value.diagnostics[0].span is not None


def test_a_space_has_few_axes_and_segments() -> None:
    axes = ", ".join(f"a{i}" for i in range(MAX_AXES + 1))
    parts = " ++ ".join(f"a{i}" for i in range(MAX_SEGMENTS + 1))
    for space in (f"grid({axes})", parts):
        with pytest.raises(MaskcError) as error:
            maskc.parse(f"pattern p() over {space} {{ attend causal }}")
        assert error.value.codes == ("E901",)
        assert error.value.diagnostics[0].span is not None


def test_factors_need_no_stack() -> None:
    found = _factors(2**20, 5000)
    assert len(found) == 5000
    assert np.prod(found) == 2**20
    assert _factors(360, 3) == [6, 6, 10]


def test_integers_that_may_overflow_are_refused_when_binding() -> None:
    text = "pattern p(doc: int[token]) { attend doc[q] * 2147483647 * 2147483647 < doc[k] }"
    program = maskc.parse(text).program
    make_binding(program, 4, 4, doc=[0, 0, 0, 0])
    with pytest.raises(MaskcError, match="or reduce them") as error:
        make_binding(program, 4, 4, doc=[3, 5, 66, 3])
    assert error.value.codes == ("E507",)
    small = maskc.parse("pattern p(doc: int(0..64)[token]) { attend doc[q] * 2147483647 < doc[k] }").program
    make_binding(small, 4, 4, doc=[0, 1, 2, 63])


def test_the_values_of_inputs_decide_on_overflow() -> None:
    """Of two inputs without a declared range the product may reach 2**62, and mostly does not."""
    text = "pattern p(a: int[token], c: int[token]) { attend a[q] * c[k] <= a[k] * c[q] }"
    program = maskc.parse(text).program
    a, c = [1, 2, 3, -4], [2**31 - 1, -(2**31), 5, 6]
    make_binding(program, 4, 4, a=a, c=c)
    make_binding(program, 4, 4, a=c, c=a)
    with pytest.raises(MaskcError) as error:
        make_binding(program, 4, 4, a=[-(2**31)] * 4, c=c)
    assert error.value.codes == ("E507",)
    found = maskc.dense_mask(text, 4, 4, a=a, c=c)
    wanted = [[a[q] * c[k] <= a[k] * c[q] for k in range(4)] for q in range(4)]
    assert found.reshape(4, 4).tolist() == wanted


def test_inputs_without_values_may_hold_whatever_they_are_declared_to() -> None:
    declared = "pattern p(a: int{}[token], c: int[token]) {{ attend a[q] * c[k] <= 0 }}"
    x = torch.zeros(1, 1, 4, 8, device="meta")
    a = torch.zeros(4, device="meta", dtype=torch.int64)
    maskc.compile(declared.format("(0..1000)"), heads=1)(x, x, x, a=a, c=a)
    with pytest.raises(MaskcError, match="declare the range") as error:
        maskc.compile(declared.format(""), heads=1)(x, x, x, a=a, c=a)
    assert error.value.codes == ("E507",)


def test_the_message_of_an_overflow_is_short() -> None:
    """An expression that shares its parts has exponentially more text than nodes."""
    node: Node = Symbol("q")
    for _ in range(40):
        node = apply("mul", node, node)
    program = maskc.parse(_CAUSAL).program.replace(mask=apply("lt", node, Symbol("k")))
    with pytest.raises(MaskcError) as error:
        make_binding(program, 4, 4)
    assert error.value.codes == ("E507",)
    long = apply("add", Symbol("q"), Const(1))
    for _ in range(40):
        long = apply("add", long, apply("mul", long, Const(0)))
    wrong = apply("mul", apply("mul", long, Const(2**31)), Const(2**31))
    with pytest.raises(MaskcError) as error:
        make_binding(program.replace(mask=apply("lt", wrong, Symbol("k"))), 4, 4)
    assert len(str(error.value)) < 1000

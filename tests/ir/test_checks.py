"""Verification, intervals, overflow and hashes."""

from __future__ import annotations

import math

import pytest

from maskc.diagnostics import MaskcError
from maskc.ir.binding import Binding
from maskc.ir.interval import check_overflow, intervals
from maskc.ir.nodes import TRUE, Const, Lookup, Node, Param, Symbol, Type, index_symbol
from maskc.ir.ops import apply
from maskc.ir.program import Program, Space
from maskc.ir.rewrite import rewrite
from maskc.ir.verify import VerifyError, verify
from maskc.lower import lower_text
from maskc.passes.canonical import program_hash

Q, K = Symbol("q"), Symbol("k")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mask": Q}, "`q`: the mask is int"),
        ({"output": apply("float", K)}, "`k`: the output may not speak of it"),
        ({"mask": apply("lt", index_symbol(0), K)}, "`i0`: no `any`"),
        ({"mask": Lookup("t", Type.BOOL, (Q,))}, "`t[q]`: the signature does not declare it"),
        ({"mask": apply("lt", Param("n", Type.INT), K)}, "`n`: the signature"),
    ],
)
def test_what_no_stage_may_produce_is_named(changes: dict[str, Node], said: str) -> None:
    program = Program("p", (), Space(), Space(), False, TRUE)
    verify(program)
    with pytest.raises(VerifyError) as caught:
        verify(program.replace(**changes))
    assert said in str(caught.value)


@pytest.mark.parametrize("op", ["add", "sub", "mul", "floordiv", "mod", "min", "max", "lt", "le", "eq", "ne"])
def test_intervals_hold_all_values_and_are_open_where_nothing_is_known(op: str) -> None:
    from maskc.ir.ops import OPS
    from maskc.passes.fold import operators

    node = apply(op, Q, K)
    boxes = [(-7, -3), (-2, 5), (0, 0), (0, 6), (3, 4)]
    for a in boxes:
        for b in boxes:
            low, high = intervals([node], {Q: a, K: b})[node]
            for x in range(a[0], a[1] + 1):
                for y in range(b[0], b[1] + 1):
                    value = operators(apply(op, Const(x), Const(y)))
                    assert isinstance(value, Const)
                    assert low <= value.value <= high, (OPS[op].symbol, a, b, x, y)
    if op in ("add", "sub", "mul"):
        assert intervals([node], {})[node] == (-math.inf, math.inf)


def test_integers_that_may_overflow_are_refused() -> None:
    (program,) = lower_text("pattern p(d: int[token]) { attend d[q] * d[k] * d[q] == k }")
    with pytest.raises(MaskcError) as caught:
        check_overflow(program, Binding(4, 4))
    assert caught.value.codes == ("E507",)
    (ranged,) = lower_text("pattern p(d: int(0..1000)[token]) { attend d[q] * d[k] * d[q] == k }")
    check_overflow(ranged, Binding(4, 4))


def test_hashes_tell_meanings_apart_and_not_names() -> None:
    one, two, three = lower_text(
        "## A doc.\npattern one(n: int = 4) { attend sliding_window(n) }\n"
        "pattern two(n: int = 4) { attend k <= q & k > q - n }\n"
        "pattern three(n: int = 5) { attend sliding_window(n) }"
    )
    assert program_hash(one) == program_hash(two)
    assert program_hash(one) != program_hash(three)


def test_rules_that_go_in_a_circle_are_found() -> None:
    def swap(node: Node) -> Node | None:
        return {Q: K, K: Q}.get(node)

    with pytest.raises(RuntimeError, match="swap"):
        rewrite(Q, (swap,))


def test_messages_show_the_beginning_of_what_is_used_over_and_over() -> None:
    node: Node = Q
    for _ in range(100):
        node = apply("hash", node, node)
    node = apply("mul", apply("mul", node, node), node)
    program = Program("p", (), Space(), Space(), False, apply("lt", node, K))
    with pytest.raises(MaskcError) as caught:
        check_overflow(program, Binding(4, 4, 0, 1, 1))
    assert len(str(caught.value)) < 500
    with pytest.raises(VerifyError) as wrong:
        verify(program.replace(mask=node))
    assert len(str(wrong.value)) < 500

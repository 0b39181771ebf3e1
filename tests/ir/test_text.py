"""Text that lowers back to the identical graph."""

from __future__ import annotations

from hypothesis import given, settings

from maskc.ir.nodes import Const, Symbol, Type
from maskc.ir.ops import apply
from maskc.ir.program import Assertion, Normalizer, Parameter, Program, Segment, Space
from maskc.ir.text import print_node, print_program
from maskc.lower import lower_text
from maskc.passes import normalise
from tests.strategies import programs

GOLDEN = """\
## Everything.
pattern all_of_it(w: int(1..) = 4, mode: {full, sparse} = sparse, slope: float[head]) over text ++ image: grid(y, x) {
    attend mode == full | q - k < w
    score tanh(s / 50.0) * 50.0 + slope[h] * float(k - q)
    normalize softmax(sink = slope[h])
    output -o
    assert k <= q
    assert some k
}
"""


def test_a_whole_program_as_text() -> None:
    (program,) = lower_text(GOLDEN)
    assert print_program(program) == GOLDEN
    assert program.normalizer == Normalizer("softmax", program.normalizer.sink)
    assert [a.kind for a in program.assertions] == ["all", "some_key"]


def test_brackets_stand_where_precedence_asks_for_them() -> None:
    q, k, s = Symbol("q"), Symbol("k"), Symbol("s")
    assert print_node(apply("sub", q, apply("sub", k, q))) == "q - (k - q)"
    assert print_node(apply("mul", apply("add", q, Const(-1)), k)) == "(q + -1) * k"
    assert print_node(apply("eq", apply("lt", q, k), apply("le", q, k))) == "(q < k) == (q <= k)"
    assert print_node(apply("not", apply("or", apply("lt", q, k), apply("eq", q, k)))) == "~(q < k | q == k)"
    assert print_node(apply("pow", apply("neg", s), apply("pow", s, Const(2.0)))) == "(-s) ** (s ** 2.0)"


def test_what_is_used_twice_is_named() -> None:
    long = apply("floordiv", apply("add", Symbol("q"), Const(1000)), Const(64))
    mask = apply("and", apply("lt", long, Symbol("k")), apply("ne", apply("mul", long, long), Symbol("k")))
    program = Program("p", (Parameter("v1", Type.INT),), Space(), Space(), False, mask)
    text = print_program(program)
    assert "let v_0 = (q + 1000) // 64\n    attend v_0 < k & v_0 * v_0 != k" in text  # v1 is taken
    assert lower_text(text) == (program,)


def test_cross_attention_and_claims() -> None:
    sides = Space((Segment("decoder"),)), Space((Segment("encoder"), Segment(None, ("y",))))
    claim = Assertion("all", apply("le", Symbol("k"), Symbol("q")))
    program = Program("p", (), *sides, True, claim.claim, assertions=(claim, Assertion("some_query")))
    text = print_program(program)
    assert text.startswith("pattern p over decoder -> encoder ++ grid(y) {")
    assert text.endswith("assert k <= q\n    assert some q\n}\n")
    assert lower_text(text) == (program,)


@settings(deadline=None, max_examples=40)
@given(programs())
def test_text_lowers_back_to_the_identical_program(program: Program) -> None:
    for each in (program, normalise(program)):
        assert lower_text(print_program(each)) == (each,)

"""Text that lowers back to the identical graph."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskc.diagnostics import MaskcError
from maskc.ir.nodes import Const, Exists, Node, Size, Symbol, Type, index_symbol
from maskc.ir.ops import apply
from maskc.ir.program import Assertion, Normalizer, Parameter, Program, Segment, Space
from maskc.ir.text import print_node, print_program, shortened
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


@pytest.mark.parametrize(
    "mask",
    [
        # Names of the signature and of spaces that an index would have.
        "any(j in 0..3: any(l in 0..n: k == q + j * n + l * i0 - i1[j]))",
        "any(j in 0..3: k in i2 & i2[k] == j + i0)",
        # Enumerations by way of a match, and mixed with integers.
        "(match q { 1: m[q]; else: m[k] }) == text",
        "(match q { 1: m[q]; 2: m[k]; else: one }) != image",
        "(match q { 1: m[q]; else: 1 }) == 1",
        "match (match q { 1: one; else: m[k] }) { text: causal; image: all }",
    ],
)
def test_names_and_values_are_told_apart(mask: str) -> None:
    signature = "i0: int, i1: int[3], n: int, m: {text, image}[token], one: {text, image}"
    (program,) = lower_text(f"pattern p({signature}) over i2 ++ grid(y, x) {{ attend {mask} }}")
    for each in (program, normalise(program)):
        assert lower_text(print_program(each)) == (each,)


@settings(deadline=None, max_examples=40)
@given(programs(), st.integers(3, 120))
def test_a_text_that_is_broken_off_is_the_beginning_of_the_whole_one(program: Program, most: int) -> None:
    for root in program.roots():
        whole = print_node(root)
        for limit in (most, max(3, len(whole) - 1), len(whole) + 3):
            assert print_node(root, most=limit) == shortened(whole, limit)


def doubled(node: Node, levels: int) -> Node:
    for _ in range(levels):
        node = apply("hash", node, node)
    return node


def test_what_is_used_over_and_over_costs_no_more_than_what_is_shown() -> None:
    node = doubled(Symbol("q"), 2000)  # written out it has more characters than there are atoms
    assert print_node(node, most=200) == "hash(" * 39 + "ha..."
    sums = Symbol("q")
    for _ in range(2000):
        sums = apply("add", sums, sums)  # the first character stands 2000 levels below
    assert print_node(sums, most=200) == "..."


def test_a_deep_expression_takes_memory_by_its_length() -> None:
    node: Node = Symbol("k")
    for i in range(4000):
        node = apply("min", node, Const(i))
    program = Program("p", (), Space(), Space(), False, apply("eq", node, Symbol("q")))
    tracemalloc.start()
    text = print_program(program)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(text) > 40_000
    assert peak < 20e6  # the texts of all parts together are 80 million characters


def test_a_program_whose_text_would_be_too_long_has_none() -> None:
    index = index_symbol(0)
    body = apply(
        "eq", doubled(apply("add", index, Symbol("q")), 40), Symbol("k")
    )  # no name for it outside of the `any`
    program = Program("p", (), Space(), Space(), False, Exists(index, Const(2), body))
    with pytest.raises(MaskcError, match="more than 131072 characters") as raised:
        print_program(program)
    assert raised.value.codes == ("E901",)


@pytest.mark.parametrize(
    "taken", [("v__x", "let_v1"), ("v1", "v_1", "v__1", "let_v", *(f"let_v{n}_" for n in range(50)))]
)
def test_a_name_is_found_whatever_is_taken(taken: tuple[str, ...]) -> None:
    long = apply("floordiv", apply("add", Symbol("q"), Size("k")), Const(64))
    mask = apply("and", apply("lt", long, Symbol("k")), apply("ne", apply("mul", long, long), Symbol("k")))
    program = Program("p", tuple(Parameter(name, Type.INT) for name in taken), Space(), Space(), False, mask)
    text = print_program(program)
    assert text.count("    let let_v") == 1
    assert lower_text(text) == (program,)

"""Everything that a program is applied to is checked, and said plainly where it is wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import maskc
from maskc import MaskcError, make_binding

TEXT = """
pattern p(
    w: int(1..100) = 4, x: float = 0.5, flag: bool = true, mode: {full, sparse} = full, n: int = 3,
    table: int[head], flags: bool[layer, head], fixed: int[2], named: int[n],
    doc: int(0..10)[token], kind: {text, image}[token], a: int[q], c: bool[k], length: int[batch], see: bool[q, k]
) {
    attend k < table[h] + fixed[0] + named[0] + doc[q] + a[q] + length[b] + w + n + match mode { full: 0; sparse: 1 }
    | flags[layer, h] | c[k] | see[q, k] | flag | x < 1.0 | kind[q] == kind[k]
}
"""


@pytest.fixture(scope="module")
def program():
    return maskc.parse(TEXT).program


def values(**changes):
    given = {
        "table": [1, 2],
        "flags": [[True, False], [False, True]],
        "fixed": (3, 4),
        "named": np.array([1, 2, 3], np.int32),
        "doc": torch.tensor([0, 0, 1, 1]),
        "kind": ["text", "image", "text", "image"],
        "a": [5, 6, 7],
        "c": [True] * 4,
        "length": [4],
        "see": np.ones((3, 4), bool),
    }
    return {name: value for name, value in {**given, **changes}.items() if value is not None}


def bind(program, heads=2, layer=1, **changes):
    return make_binding(program, 3, 4, heads=heads, layer=layer, **values(**changes))


def test_values_come_out_typed(program):
    b = bind(program, mode="sparse", x=2)
    assert b.args == {"w": 4, "x": 2.0, "flag": True, "mode": 1, "n": 3}
    assert type(b.args["x"]) is float
    assert type(b.args["flag"]) is bool
    assert b.tables["kind"].tolist() == [0, 1, 0, 1]
    dtypes = {name: str(t.dtype) for name, t in b.tables.items()}
    assert dtypes["named"] == "int64"
    assert dtypes["flags"] == dtypes["see"] == "bool"
    assert (b.batch, b.batched, b.offset) == (1, frozenset(), 1)


def test_the_batch_follows_from_the_inputs(program):
    b = bind(program, doc=np.zeros((2, 4), int), length=[4, 4])
    assert (b.batch, b.batched) == (2, {"doc"})


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"doc": None}, "E501", "needs the input 'doc'"),
        ({"table": None}, "E501", "needs the argument 'table'"),
        ({"table": None}, "E501", "what differs from call to call is declared by batch entry: `int[batch, head]`"),
        ({"dock": [1]}, "E502", "did you mean 'doc'?"),
        ({"device": "cuda"}, "E502", "lengths and the device follow from q and k"),
        ({"is_causal": True}, "E502", "the pattern itself says which keys are kept"),
        ({"enable_gqa": True}, "E502", "follows from the shapes"),
        ({"w": 1.5}, "E503", "expected an integer, found 1.5\n  help: give a whole number"),
        ({"w": True}, "E503", "expected an integer, found True"),
        ({"w": "4"}, "E503", "found '4'"),
        ({"flag": 1}, "E503", "expected a Boolean, found 1"),
        ({"w": object()}, "E503", "found an object"),
        ({"doc": [0.0] * 4}, "E503", "expected integers, found floats"),
        ({"c": [1, 0, 1, 0]}, "E503", "x != 0"),
        ({"w": 100}, "E504", "between 1 and 99, found 100"),
        ({"w": 0}, "E504", "found 0"),
        ({"n": 2**63}, "E504", "fit 64 bits"),
        ({"doc": [0, 0, 10, 0]}, "E504", "found 10 at [2]"),
        ({"kind": [0, 1, 2, 0]}, "E504", "between 0 and 1, found 2 at [2]"),
        ({"mode": "fulll"}, "E303", "did you mean 'full'?"),
        ({"kind": ["text", "imag", "text", "text"]}, "E303", "did you mean 'image'?"),
        ({"w": [1, 2]}, "E505", "expected one value"),
        ({"table": [1, 2, 3]}, "E505", "expected the shape (2,), found (3,)"),
        ({"flags": [[True, True]]}, "E505", "layer 1 is outside its 1 layers"),
        ({"flags": [[True], [True, False]]}, "E505", "do not form an array"),
        ({"fixed": [1]}, "E505", "expected the shape (2,)"),
        ({"named": [1]}, "E505", "expected the shape (3,)"),
        ({"doc": [0] * 3}, "E505", "expected the shape (4,) or (1, 4), found (3,)"),
        ({"a": [0] * 4}, "E505", "expected the shape (3,) or (1, 3), found (4,)"),
        ({"see": np.ones((4, 4), bool)}, "E505", "expected the shape (3, 4)"),
        ({"doc": np.zeros((2, 4), int), "length": [1, 2, 3]}, "E505", "found (3,)"),
    ],
)
def test_what_is_wrong_is_said(program, changes, code, words):
    with pytest.raises(MaskcError) as error:
        bind(program, **changes)
    assert error.value.codes == (code,)
    assert words in str(error.value)


def test_all_that_is_wrong_is_said_at_once(program):
    with pytest.raises(MaskcError) as error:
        bind(program, doc=None, w=0, extra=1, table=[1])
    assert sorted(error.value.codes) == ["E501", "E502", "E504", "E505"]


@pytest.mark.parametrize(("lengths", "code"), [((5, 4), "E506"), ((-1, 4), "E504"), ((1.5, 4), "E503")])
def test_lengths(program, lengths, code):
    with pytest.raises(MaskcError) as error:
        make_binding(program, *lengths, heads=2, layer=1, **values())
    assert error.value.codes == (code,)


def test_what_the_mask_does_not_read_may_be_left_out():
    program = maskc.parse("pattern p(bias: float[head], x: float) { attend causal; score s * x + bias[h] }").program
    assert make_binding(program, 2, 2).args == {}
    assert make_binding(program, 2, 2, bias=[0.5], x=1).tables["bias"].dtype == np.float64


GRID = "pattern p() over text ++ image: grid(y, x) { attend y[q] == y[k] | k in text }"


@pytest.mark.parametrize("sizes", [{"text": 2, "y": 3}, {"y": 3, "x": 4}, {"text": 2, "y": 3, "x": 4}])
def test_the_missing_extent_follows(sizes):
    b = make_binding(maskc.parse(GRID).program, 14, 14, sizes=sizes)
    assert b.sizes == {"text": 2, "y": 3, "x": 4, "image": 12}


@pytest.mark.parametrize(
    ("sizes", "code", "words"),
    [
        ({}, "E506", 'sizes={"text": ..., "y": ...}'),
        ({"text": 2, "y": 5}, "E506", "text 2 + y 5 * x cannot be 14"),
        ({"text": 20, "y": 5}, "E506", "no x fits"),
        ({"text": 2, "y": 3, "x": 5}, "E506", "text 2 + y 3 * x 5 = 17, but there are 14 tokens"),
        ({"text": 2, "z": 3}, "E502", "no segment or axis 'z'"),
        ({"text": 2, "y": "3"}, "E503", "y must be an integer"),
        ({"text": 2, "y": -3}, "E504", "at least 0"),
    ],
)
def test_sizes_that_do_not_fit(sizes, code, words):
    with pytest.raises(MaskcError) as error:
        make_binding(maskc.parse(GRID).program, 14, 14, sizes=sizes)
    assert error.value.codes == (code,)
    assert words in str(error.value)


def test_an_extent_found_on_one_side_serves_the_other():
    program = maskc.parse("pattern p() over grid(y, x) -> text ++ grid(y, x) { attend y[q] == y[k] }").program
    assert make_binding(program, 12, 17, sizes={"y": 3}).sizes == {"y": 3, "x": 4, "text": 5}
    assert make_binding(program, 12, 17, sizes={"text": 5, "x": 4}).sizes["y"] == 3
    # A side without tokens fits any other extent: the other side says which.
    for text, lengths in (("grid(y, x) -> grid(x)", (0, 3)), ("grid(x) -> grid(y, x)", (3, 0))):
        program = maskc.parse(f"pattern p() over {text} {{ attend x[q] == x[k] }}").program
        assert make_binding(program, *lengths, sizes={"y": 0}).sizes == {"y": 0, "x": 3}


def test_cross_attention_counts_from_zero():
    program = maskc.parse("pattern p() over decoder -> encoder { attend k < q }").program
    b = make_binding(program, 5, 3)
    assert (b.cross, b.offset, dict(b.sizes)) == (True, 0, {"decoder": 5, "encoder": 3})


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("any(i in 0..2000000000: k == i * i)", {}),
        ("any(i in 0..100: any(j in 0..100: k == i * j))", {}),
        ("pattern p(n: int[head]) { attend any(i in 0..n[h]: k == i) }", {"n": [1, 2_000_000_000]}),
    ],
)
def test_loops_that_would_not_end_are_refused(text: str, given: dict[str, object]) -> None:
    with pytest.raises(MaskcError) as error:
        maskc.make_binding(maskc.parse(text).program, 3, 3, heads=2, **given)
    assert error.value.codes == ("E508",)
    smaller = {name: [x % 5 for x in value] for name, value in given.items()}
    if given:
        maskc.make_binding(maskc.parse(text).program, 3, 3, heads=2, **smaller)

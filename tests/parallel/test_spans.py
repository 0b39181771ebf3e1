"""What a rank keeps of the keys, and whether a mask says the same of tokens counted from elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import maskc
from maskc.ir.binding import Binding
from maskc.ir.evaluate import dense
from maskc.ir.nodes import Const, Lookup, Node, Symbol, Type
from maskc.ir.ops import apply
from maskc.ir.program import Parameter, Program, Space
from maskc.parallel import partition
from maskc.parallel.needs import Needs, needs_of
from maskc.parallel.spans import kept, reads_tokens_alone, same_from
from maskc.passes.specialise import bind

from .masks import MASKS


def normal(op: Any) -> Program:
    return bind(op.program, args=op.compiled.args, layer=op.layer, heads=op.heads, tables=op.compiled.tables)


def divided(op: Any, length: int, ranks: int, **options: Any) -> Needs:
    return needs_of(op.plan(length, length), partition(op, length, ranks, **options))


@pytest.mark.parametrize("name", ["window", "window of both sides", "windows by head"])
def test_windows_keep_what_they_see(name: str) -> None:
    case = MASKS[name]
    op = maskc.compile(case.text, heads=4, **case.arguments)
    needs = divided(op, 65536, 8, method="contiguous")
    for rank in range(8):
        found = kept(needs, rank, normal(op))
        assert found.length <= 65536 // 8 + 2 * 128
        (view,) = found.views
        assert view.first <= max(0, view.chunk.start - 100 + 1) or name == "window of both sides"
        np.testing.assert_array_equal(found.at(np.arange(view.first, view.end)), np.arange(found.length))


def test_stretches_lie_side_by_side() -> None:
    op = maskc.compile("causal & sliding_window(50)", heads=1)
    needs = divided(op, 8192, 4, method="balanced", parts=4, exchange=0)
    for rank in range(4):
        found, chunks = kept(needs, rank, normal(op)), needs.division.chunks[rank]
        assert [v.chunk for v in found.views] == list(chunks)
        assert found.length <= 2048 + 128 * len(chunks)
        for view in found.views:
            here = found.at(np.arange(view.first, view.end))
            np.testing.assert_array_equal(here, view.place + np.arange(view.end - view.first))
            assert 0 <= view.place <= found.length - (view.end - view.first)


SAME = {
    "causal & sliding_window(40)": True,
    "(q - k) % 8 < 3": True,
    "q // 64 == k // 64": True,
    "q // 96 == k // 96": False,
    "pattern p(doc: int[token]) { attend same(doc) & causal\n score s - 0.1 * float(q - k) }": True,
    "pattern p(w: int[head]) { attend q - k < w[h] }": True,
    "pattern p(own: int[q], mark: bool[k]) { attend own[q] == 3 | mark[k] }": True,
    "causal & (sliding_window(40) | sinks(2))": False,
    "hash(q, k) % 2 == 0": False,
    "pattern p(parent: int[token]) { attend k == parent[q] }": False,
    "pattern p { attend causal\n score s + 0.01 * float(k) }": False,
    "pattern p { attend causal\n output o * float(q) }": False,
    "pattern p(a: float[q]) { attend causal\n normalize softmax(sink = a[q]) }": True,
    "pattern p { attend causal\n normalize softmax(sink = float(q)) }": False,
}


@pytest.mark.parametrize("text", SAME)
def test_what_only_compares_positions_is_the_same_from_anywhere(text: str) -> None:
    op = maskc.compile(text, heads=2, **({"w": [3, 90]} if "w: int" in text else {}))
    program = normal(op)
    assert reads_tokens_alone(program)
    assert same_from(program, 128) is SAME[text]


ALONE = [
    ("causal & q - k < size(k) // 4", False),
    ("pattern p over grid(y, x) { attend y[q] == y[k] }", False),
    ("pattern p(doc: int[token]) { attend doc[k] == doc[q - 1] }", False),
    ("pattern p(doc: int[token]) { attend doc[k] == doc[max(q, k)] }", False),
    ("pattern p(a: int[4]) { attend a[q % 4] == k % 3 }", True),
]


@pytest.mark.parametrize(("text", "alone"), ALONE)
def test_lengths_and_other_tokens(text: str, alone: bool) -> None:
    more = {"a": [0, 1, 2, 1]} if "a: int[4]" in text else {}
    program = maskc.compile(text, heads=2, **more).program
    assert reads_tokens_alone(program) is alone


Q, K = Symbol("q"), Symbol("k")
PARAMS = (
    Parameter("doc", Type.INT, ("token",)),
    Parameter("mark", Type.BOOL, ("k",)),
    Parameter("own", Type.INT, ("q",)),
)


@st.composite
def numbers(draw: st.DrawFn, depth: int = 2) -> Node:
    """Integers of which many speak of differences and of inputs at the tokens alone."""
    if depth == 0 or draw(st.integers(0, 2)) == 0:
        looked_up = [Lookup("doc", Type.INT, (Q,)), Lookup("doc", Type.INT, (K,)), Lookup("own", Type.INT, (Q,))]
        leaves = [Q, K, apply("sub", Q, K), apply("sub", K, Q), *looked_up, Const(draw(st.integers(-3, 40)))]
        return draw(st.sampled_from(leaves))
    op = draw(st.sampled_from(["add", "sub", "min", "max", "mul", "mod", "floordiv", "abs"]))
    if op == "abs":
        return apply(op, draw(numbers(depth - 1)))
    less = draw(numbers(depth - 1))
    return (
        apply(op, less, Const(draw(st.sampled_from([1, 2, 4, 8]))))
        if op in ("mul", "mod", "floordiv")
        else apply(op, less, draw(numbers(depth - 1)))
    )


@st.composite
def masks(draw: st.DrawFn) -> Node:
    compared = st.builds(apply, st.sampled_from(["lt", "le", "eq"]), numbers(), numbers())
    parts = draw(st.lists(st.one_of(compared, st.just(Lookup("mark", Type.BOOL, (K,)))), min_size=1, max_size=3))
    return apply(draw(st.sampled_from(["and", "or"])), *parts) if len(parts) > 1 else parts[0]


@settings(max_examples=200, deadline=None)
@given(masks(), st.integers(1, 3), st.integers(0, 5), st.integers(0, 99))
def test_random_masks_are_the_same_where_it_says_so(mask: Node, eighths: int, cut: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    program = bind(Program("random", PARAMS, Space(), Space(), False, mask))
    assert reads_tokens_alone(program)
    first, end = 8 * eighths, 48 - cut
    if not same_from(program, first):
        first = 0
    tables = {"doc": rng.integers(0, 4, 48), "mark": rng.random(48) < 0.5, "own": rng.integers(-3, 9, 48)}
    kept_of_all = dense(program, Binding(48, 48, tables=tables))
    some = Binding(end - first, end - first, tables={n: x[first:end] for n, x in tables.items()})
    np.testing.assert_array_equal(dense(program, some), kept_of_all[first:end, first:end])

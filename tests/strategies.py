"""Random programs over every construct, with something to apply them to."""

from __future__ import annotations

import functools

import numpy as np
from hypothesis import strategies as st

from maskc.ir.binding import Binding
from maskc.ir.nodes import FALSE, TRUE, Const, Exists, Lookup, Node, Param, Size, Symbol, Type, index_symbol
from maskc.ir.ops import apply, negation
from maskc.ir.program import Parameter, Program, Segment, Space

__all__ = ["PARAMS", "bindings", "floats", "integers", "masks", "programs"]

#: The signature of every random program.
PARAMS = (
    Parameter("n", Type.INT),
    Parameter("active", Type.BOOL, default=Const(True)),
    Parameter("mode", Type.INT, labels=("full", "sparse", "none"), low=0, high=3),
    Parameter("w", Type.INT, ("head",)),
    Parameter("far", Type.BOOL, ("layer", "head")),
    Parameter("doc", Type.INT, ("token",), low=0, high=4),
    Parameter("mark", Type.BOOL, ("token",)),
    Parameter("own", Type.INT, ("q",)),
    Parameter("length", Type.INT, ("batch",)),
    Parameter("slope", Type.FLOAT, ("head",)),
)
_BY_NAME = {p.name: p for p in PARAMS}
_GRID = Space((Segment(None, ("y", "x")),))


def look_up(name: str, *indices: Node) -> Node:
    """An element of one of the inputs of ``PARAMS``."""
    return Lookup(name, _BY_NAME[name].type, indices)


def _leaves(depth: int) -> st.SearchStrategy[Node]:
    names = [Symbol(n) for n in ("q", "k", "h", "b", "layer", "heads")] + [index_symbol(i) for i in range(depth)]
    position = st.sampled_from([Symbol("q"), Symbol("k")])
    return st.one_of(
        position,
        st.sampled_from([*names, Size("q"), Size("k"), Size("x"), Param("n", Type.INT)]),
        st.integers(-6, 9).map(Const),
        position.map(lambda p: look_up("doc", p)),
        st.just(look_up("own", Symbol("q"))),
        st.just(look_up("w", Symbol("h"))),
        st.just(look_up("length", Symbol("b"))),
    )


@functools.cache
def integers(depth: int = 0, size: int = 2) -> st.SearchStrategy[Node]:
    """Integers; ``depth``: how many ``any`` stand around."""
    if size == 0:
        return _leaves(depth)
    less = integers(depth, size - 1)
    two = st.tuples(less, less)
    return st.one_of(
        _leaves(depth),
        st.tuples(st.sampled_from(["add", "sub", "sub", "min", "max", "hash"]), two).map(lambda t: apply(t[0], *t[1])),
        st.tuples(st.sampled_from(["floordiv", "mod", "mul"]), less, st.sampled_from([-2, -1, 1, 2, 3, 4, 6])).map(
            lambda t: apply(t[0], t[1], Const(t[2]))
        ),
        # A literal 0 as a divisor is refused by the language; what comes out as 0 is not.
        st.tuples(st.sampled_from(["floordiv", "mod", "mul"]), two.filter(lambda t: t[1] is not Const(0))).map(
            lambda t: apply(t[0], *t[1])
        ),
        st.tuples(st.sampled_from(["neg", "abs"]), less).map(lambda t: apply(*t)),
        less.map(lambda i: look_up("doc", i)),
        st.builds(lambda a, b, x, y: apply("select", apply("lt", a, b), x, y), less, less, less, less),
    )


@functools.cache
def _comparisons(depth: int, size: int) -> st.SearchStrategy[Node]:
    number = integers(depth, size)
    difference = apply("sub", Symbol("q"), Symbol("k"))
    name = st.sampled_from(["lt", "le", "eq", "ne"])
    return st.one_of(
        st.builds(apply, name, number, number),
        st.builds(apply, name, st.sampled_from([difference, Symbol("k")]), st.integers(-4, 8).map(Const)),
        st.builds(apply, name, floats(1), floats(1)),
        st.sampled_from([Symbol("q"), Symbol("k")]).map(lambda p: look_up("mark", p)),
        st.just(look_up("far", Symbol("layer"), Symbol("h"))),
        st.integers(0, 2).map(lambda i: apply("eq", Param("mode", Type.INT), Const(i))),
        st.sampled_from([TRUE, FALSE, Param("active", Type.BOOL)]),
    )


@functools.cache
def masks(depth: int = 0, size: int = 2) -> st.SearchStrategy[Node]:
    """Masks; ``depth``: how many ``any`` stand around."""
    if size == 0:
        return _comparisons(depth, 1)
    less = masks(depth, size - 1)
    found = [
        _comparisons(depth, size - 1),
        st.builds(
            lambda op, ms: apply(op, *ms), st.sampled_from(["and", "or"]), st.lists(less, min_size=2, max_size=4)
        ),
        less.map(negation),
        st.builds(lambda c, a, b: apply("select", c, a, b), less, less, less),
        st.builds(apply, st.sampled_from(["eq", "ne"]), less, less),
    ]
    if depth < 2:
        count = st.one_of(st.integers(-1, 3).map(Const), st.just(Param("n", Type.INT)))
        found.append(st.builds(lambda n, m: Exists(index_symbol(depth), n, m), count, masks(depth + 1, size - 1)))
    return st.one_of(found)


@functools.cache
def floats(size: int = 2) -> st.SearchStrategy[Node]:
    """Floats without the score."""
    leaves = st.one_of(
        st.sampled_from([-2.0, -0.0, 0.0, 0.5, 1.0, 3.25]).map(Const),
        integers(0, 1).filter(lambda i: not isinstance(i, Const)).map(lambda i: apply("float", i)),
        st.just(look_up("slope", Symbol("h"))),
    )
    if size == 0:
        return leaves
    less = floats(size - 1)
    return st.one_of(
        leaves,
        st.builds(apply, st.sampled_from(["add", "sub", "mul", "div", "min", "max"]), less, less),
        st.builds(apply, st.sampled_from(["neg", "abs", "tanh", "sigmoid", "exp2", "sqrt", "sin"]), less),
    )


@st.composite
def programs(draw: st.DrawFn, scores: bool = True) -> Program:
    """Programs with the signature ``PARAMS``."""
    mask = draw(masks())
    score: Node = Symbol("s")
    if scores and draw(st.booleans()):
        score = apply("add", apply("mul", Symbol("s"), draw(floats(1))), draw(floats()))
    return Program("random", PARAMS, _GRID, _GRID, False, mask, score)


@st.composite
def bindings(draw: st.DrawFn) -> Binding:
    """Bindings of the programs of ``programs``."""
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    q_len, k_len = draw(st.sampled_from([(6, 6), (5, 9), (1, 8), (12, 12)]))
    q_start = draw(st.one_of(st.none(), st.integers(0, k_len - q_len)))
    batched = draw(st.booleans())
    tables = {
        "w": rng.integers(0, 5, 3),
        "far": rng.integers(0, 2, (2, 3)).astype(bool),
        "doc": rng.integers(0, 4, (2, k_len) if batched else k_len),
        "mark": rng.integers(0, 2, k_len).astype(bool),
        "own": rng.integers(-3, 9, q_len),
        "length": rng.integers(0, k_len + 1, 2),
        "slope": rng.standard_normal(3),
    }
    args = {"n": draw(st.integers(-1, 4)), "active": draw(st.booleans()), "mode": draw(st.integers(0, 2))}
    sizes = {"y": k_len // 2 or 1, "x": 2}
    return Binding(
        q_len,
        k_len,
        heads=3,
        layer=draw(st.integers(0, 1)),
        batch=2,
        sizes=sizes,
        args=args,
        tables=tables,
        batched=frozenset({"doc"} if batched else ()),
        q_start=q_start,
    )

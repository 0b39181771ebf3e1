"""Random masks: plans equal brute force, and verdicts on boxes are sound."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from maskc.ir.binding import Binding
from maskc.ir.evaluate import dense
from maskc.ir.nodes import Const, Exists, Lookup, Node, Symbol, Type, index_symbol
from maskc.ir.ops import apply
from maskc.ir.program import Parameter, Program, Space
from maskc.tiles import make_plan
from maskc.tiles.boxes import Boxes
from maskc.tiles.classify import Classifier

from .corpus import brute_kinds

_LENGTH = 150
# Queries, keys, those of a tile, and where the queries start.
_SHAPES = [
    (150, 150, 16, 16, None),
    (70, 150, 8, 24, None),
    (1, 150, 4, 32, None),
    (70, 150, 8, 24, 37),
    (9, 150, 4, 32, 0),
]
_PARAMS = (
    Parameter("label", Type.INT, ("token",)),
    Parameter("mark", Type.BOOL, ("token",)),
    Parameter("table", Type.INT, (7, 5)),
)


def _tables(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, _LENGTH) if seed % 2 else np.sort(rng.integers(0, 6, _LENGTH))
    return {"label": labels, "mark": rng.random(_LENGTH) < 0.1, "table": rng.integers(-20, 90, (7, 5))}


@st.composite
def integers(draw: st.DrawFn, depth: int, bound: int) -> Node:
    """An integer expression in which the indices of ``bound`` enclosing ``Exists`` may occur."""
    kind = draw(st.integers(0, 12 if depth else 2))
    if kind == 0:
        return Const(draw(st.integers(-20, 160)))
    if kind <= 2:
        return draw(st.sampled_from([Symbol("q"), Symbol("k"), *(index_symbol(i) for i in range(bound))]))
    below = integers(depth - 1, bound)
    if kind <= 5:
        return apply(draw(st.sampled_from(["add", "sub", "min", "max"])), draw(below), draw(below))
    if kind <= 8:
        divisor = Const(draw(st.sampled_from([-7, -1, 0, 1, 2, 3, 8, 16, 50])))
        return apply(draw(st.sampled_from(["floordiv", "mod", "mul"])), draw(below), divisor)
    if kind == 9:
        return apply(draw(st.sampled_from(["floordiv", "mod", "mul"])), draw(below), draw(below))
    if kind == 10:
        return apply(draw(st.sampled_from(["abs", "neg", "hash"])), draw(below))
    if kind == 11:
        return apply("select", draw(masks(depth - 1, bound)), draw(below), draw(below))
    if draw(st.booleans()):
        return Lookup("label", Type.INT, (draw(below),))
    return Lookup("table", Type.INT, (draw(below), draw(below)))


@st.composite
def masks(draw: st.DrawFn, depth: int, bound: int = 0) -> Node:
    kind = draw(st.integers(0, 9 if depth else 3))
    if kind <= 3:
        number = integers(max(0, depth - 1), bound)
        return apply(draw(st.sampled_from(["lt", "le", "eq", "ne"])), draw(number), draw(number))
    below = masks(depth - 1, bound)
    if kind <= 6:
        return apply(draw(st.sampled_from(["and", "or"])), *draw(st.lists(below, min_size=2, max_size=3)))
    if kind == 7:
        return apply("not", draw(below)) if draw(st.booleans()) else apply("eq", draw(below), draw(below))
    if kind == 8:
        return Lookup("mark", Type.BOOL, (draw(integers(depth - 1, bound)),))
    index = index_symbol(bound)
    return Exists(
        index, draw(integers(0, 0).map(lambda n: apply("min", n, Const(4)))), draw(masks(depth - 1, bound + 1))
    )


def _program(mask: Node) -> Program:
    return Program("random", _PARAMS, Space(), Space(), False, mask)


@settings(max_examples=150, deadline=None)
@given(masks(3), st.integers(0, 3), st.sampled_from(_SHAPES))
def test_plans_equal_brute_force(mask: Node, seed: int, shape: tuple[int, int, int, int, int | None]) -> None:
    q_len, k_len, q_tile, k_tile, q_start = shape
    binding = Binding(q_len, k_len, tables=_tables(seed), q_start=q_start)
    plan = make_plan(_program(mask), binding, q_tile=q_tile, k_tile=k_tile)
    expected = brute_kinds(plan.program, binding, q_tile, k_tile)
    np.testing.assert_array_equal(plan.kinds(), expected)


@settings(max_examples=150, deadline=None)
@given(masks(4), st.integers(0, 3), st.integers(0, 10**6))
def test_verdicts_on_boxes_are_sound(mask: Node, seed: int, drawn: int) -> None:
    binding = Binding(_LENGTH, _LENGTH, tables=_tables(seed))
    rng = np.random.default_rng(drawn)
    tile = int(rng.integers(1, 20))
    tiles = -(-_LENGTH // tile)
    r0, c0 = rng.integers(0, tiles, (2, 30))
    r1 = np.minimum(tiles, r0 + rng.integers(1, 5, 30))
    c1 = np.minimum(tiles, c0 + rng.integers(1, 5, 30))
    q0, k0, q1, k1 = r0 * tile, c0 * tile, np.minimum(r1 * tile, _LENGTH), np.minimum(c1 * tile, _LENGTH)
    last = _LENGTH - (tiles - 1) * tile
    single = (r1 - r0 == 1) & (c1 - c0 == 1)
    widths = (np.where(r1 == tiles, last, tile), np.where(c1 == tiles, last, tile))
    boxes = Boxes(q0, q1 - 1, k0, k1 - 1, *widths, single)
    found = Classifier(mask, binding, _PARAMS).classify(boxes)
    kept = dense(_program(mask), binding)
    for i in range(30):
        box = kept[q0[i] : q1[i], k0[i] : k1[i]]
        assert found.some[i] or not box.any()
        assert found.gap[i] or box.all()
        parts = [
            kept[r * tile : (r + 1) * tile, c * tile : (c + 1) * tile]
            for r in range(r0[i], r1[i])
            for c in range(c0[i], c1[i])
        ]
        assert not found.hit[i] or all(p.any() for p in parts)
        assert not found.miss[i] or not any(p.all() for p in parts)


@st.composite
def _of_query(draw: st.DrawFn) -> Node:
    """What a bound on the key, or on a digit of it, is like in real masks."""
    q: Node = Symbol("q")
    kind = draw(st.integers(0, 5))
    if kind == 1:
        q = apply("floordiv", q, Const(draw(st.sampled_from([4, 10, 25]))))
    elif kind == 2:
        q = apply("mod", q, Const(draw(st.sampled_from([10, 25, 30]))))
    elif kind == 3:
        q = apply("mod", apply("floordiv", q, Const(5)), Const(draw(st.sampled_from([4, 6]))))
    elif kind == 4:
        q = apply("mod", apply("hash", apply("floordiv", q, Const(draw(st.sampled_from([1, 8]))))), Const(40))
    elif kind == 5:
        n = Const(draw(st.sampled_from([4, 10])))
        q = apply("mul", apply("floordiv", q, n), n)
    low, high = sorted(draw(st.lists(st.integers(-5, 150), min_size=2, max_size=2)))
    if draw(st.booleans()):
        q = apply("max", apply("min", apply("sub", q, Const(draw(st.integers(-9, 40)))), Const(high)), Const(low))
    return q


@st.composite
def _bound(draw: st.DrawFn) -> Node:
    """An interval of the key, or of a digit of it, that moves with the query."""
    k: Node = Symbol("k")
    kind = draw(st.integers(0, 3))
    if kind == 1:
        k = apply("mod", k, Const(draw(st.sampled_from([10, 25, 30, 40]))))
    elif kind == 2:
        k = apply("mod", apply("floordiv", k, Const(5)), Const(draw(st.sampled_from([4, 6]))))
    elif kind == 3:
        k = apply("floordiv", k, Const(draw(st.sampled_from([4, 10, 30]))))
    start = draw(_of_query())
    end = apply("add", start, Const(draw(st.integers(1, 30)))) if draw(st.booleans()) else draw(_of_query())
    parts = [apply("le", start, k), apply("lt", k, end)]
    return apply("and", *parts) if draw(st.integers(0, 3)) else draw(st.sampled_from(parts))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(_bound(), min_size=1, max_size=3), min_size=1, max_size=3),
    st.sampled_from([(150, 150, 16, 16), (70, 150, 8, 24), (143, 143, 20, 7), (150, 150, 64, 32)]),
    st.booleans(),
)
def test_unions_of_moving_intervals_equal_brute_force(
    clauses: list[list[Node]], shape: tuple[int, int, int, int], documents: bool
) -> None:
    q_len, k_len, q_tile, k_tile = shape
    label = apply("eq", Lookup("label", Type.INT, (Symbol("q"),)), Lookup("label", Type.INT, (Symbol("k"),)))
    whole = [apply("and", *c) if len(c) > 1 else c[0] for c in clauses]
    mask = apply("or", *whole) if len(whole) > 1 else whole[0]
    mask = apply("and", mask, label) if documents else mask
    binding = Binding(q_len, k_len, tables=_tables(0))
    plan = make_plan(_program(mask), binding, q_tile=q_tile, k_tile=k_tile)
    np.testing.assert_array_equal(plan.kinds(), brute_kinds(plan.program, binding, q_tile, k_tile))

"""The page's evaluator, run under node, says what ``maskc.ir.evaluate`` says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from maskc.ir.binding import Binding
from maskc.ir.evaluate import evaluate
from maskc.ir.nodes import Const, Node, Symbol
from maskc.ir.ops import OPS, apply
from maskc.ir.program import Program
from maskc.lower import lower_text
from maskc.picture.encode import Arrays, encode_nodes, encode_runs, encode_tables
from maskc.tiles import make_plan
from maskc.tiles.binding import make_binding
from tests.picture.node import NODE, run_node
from tests.strategies import bindings, programs
from tests.tiles.corpus import MASKS

pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed")


def job(roots: list[Node], program: Program, binding: Binding) -> dict[str, Any]:
    arrays = Arrays()
    nodes, numbers = encode_nodes(roots, binding)
    tables = encode_tables(roots, program.params, binding, arrays)
    return {"nodes": nodes, "tables": tables, "block": arrays.text(), "roots": [numbers[r] for r in roots]}


def positions(binding: Binding, most: int = 40) -> tuple[np.ndarray, np.ndarray]:
    q = binding.offset + np.unique(np.linspace(0, binding.q_len - 1, min(most, binding.q_len)).astype(np.int64))
    return q, np.unique(np.linspace(0, binding.k_len - 1, min(most, binding.k_len)).astype(np.int64))


def compare(node: Node, program: Program, binding: Binding, h: int = 0, b: int = 0) -> None:
    q, k = positions(binding)
    if not q.size or not k.size:
        return
    work = job([node], program, binding)
    at = {"h": h, "b": b, "layer": binding.layer}
    work["questions"] = [{"root": work["roots"][0], "q": q.tolist(), "k": k.tolist(), "at": at}]
    (got,) = run_node(work)
    want = evaluate(node, binding, q=q[:, None], k=k[None], h=h, b=b, params=program.params)
    want = np.broadcast_to(want, (q.size, k.size)).astype(np.float64).ravel()
    if isinstance(got, dict):  # Refused for the size of an intermediate integer; never answered wrongly.
        assert got["error"].startswith("Inexact")
        return
    np.testing.assert_array_equal(np.array(got, dtype=np.float64), want)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(program=programs(), binding=bindings())
def test_random_masks(program: Program, binding: Binding) -> None:
    compare(program.mask, program, binding, h=binding.heads - 1, b=binding.batch - 1)


@pytest.mark.parametrize("name", ["__proto__", "constructor", "hasOwnProperty"])
def test_an_input_may_be_called_as_what_every_object_has(name: str) -> None:
    program = lower_text(f"pattern p({name}: bool[k]) {{ attend {name}[k] | k == q }}")[0]
    compare(program.mask, program, make_binding(program, 7, 7, **{name: np.arange(7) % 3 == 0}))


def test_every_mask_of_the_corpus() -> None:
    roots, wanted, questions = [], [], []
    q, k = np.arange(0, 300, 7), np.arange(0, 300, 11)
    binding = make_binding(lower_text("causal")[0], 300, 300)
    for text in MASKS.values():
        (program,) = lower_text(text)
        roots.append(program.mask)
        value = evaluate(program.mask, binding, q=q[:, None], k=k[None])
        wanted.append(np.broadcast_to(value, (q.size, k.size)).ravel())
    nodes, numbers = encode_nodes(roots, binding)
    questions = [{"root": numbers[r], "q": q.tolist(), "k": k.tolist()} for r in roots]
    answers = run_node({"nodes": nodes, "tables": {}, "block": Arrays().text(), "questions": questions})
    for name, got, want in zip(MASKS, answers, wanted, strict=True):
        assert np.array_equal(np.array(got), want), name


def operands(type_: str) -> list[list[float]]:
    if type_ == "int":
        small = [-7, -4, -1, 0, 1, 2, 3, 5, 8, 1000003, 2**31 - 1, -(2**31)]
        return [[a, b] for a in small for b in small]
    some = [-2.5, -1.0, -0.0, 0.0, 0.3, 1.0, 7.75, 1e30]
    return [[a, b] for a in some for b in some]


@pytest.mark.parametrize("name", sorted(OPS))
def test_every_operator(name: str) -> None:
    """On numbers at the edges: signs, zeros, divisors of both signs."""
    op = OPS[name]
    (program,) = lower_text("causal")
    binding = make_binding(program, 1, 1)
    roots: list[Node] = []
    for type_ in op.takes:
        if type_.value == "bool":
            values: list[list[Any]] = [[False, True], [True, True], [False, False], [True, False]]
        else:
            values = operands(type_.value)
        for pair in values:
            args = [Const(type(pair[0])(x)) for x in pair]
            if name == "select":
                roots += [apply(name, Const(c), *args) for c in (True, False)]
            elif name != "neg":  # A negated constant is a constant.
                roots.append(apply(name, *args[: op.arity or 2]))
    if name == "neg":
        roots = [apply("neg", Symbol("q"))]
    work = job(roots, program, binding)
    work["questions"] = [{"root": r, "q": [0], "k": [0]} for r in work["roots"]]
    zero = np.zeros((1, 1), np.int64)
    for node, (got,) in zip(roots, [a if isinstance(a, list) else [a] for a in run_node(work)], strict=True):
        want = float(np.asarray(evaluate(node, binding, q=zero, k=zero)).ravel()[0])
        if isinstance(got, dict):
            assert got["error"].startswith("Inexact"), node
            assert abs(want) > 2**53 or not np.isfinite(want) or name == "floor", node
        elif name in ("exp", "exp2", "log", "log2", "sin", "cos", "tanh", "sigmoid", "pow"):
            np.testing.assert_allclose(float(got), want, rtol=1e-13, err_msg=repr(node))
        else:
            np.testing.assert_array_equal(float(got), want, err_msg=repr(node))


def test_integers_that_are_not_exact_are_refused() -> None:
    (program,) = lower_text("q * q * q * q < k")
    binding = make_binding(program, 10000, 10000)
    work = job([program.mask], program, binding)
    work["questions"] = [{"root": work["roots"][0], "q": [q], "k": [1]} for q in (1, 2, 9999)]
    first, second, third = run_node(work)
    assert (first, second) == ([0], [0])
    assert third["error"].startswith("Inexact")


def test_what_is_no_operator_is_refused() -> None:
    work: dict[str, Any] = {"tables": {}, "block": Arrays().text()}
    work["nodes"] = [["c", 1, "i"], ["a", "constructor", [0], "i"]]
    work["questions"] = [{"root": 1, "q": [0], "k": [0]}]
    (answer,) = run_node(work)
    assert "no meaning for a constructor" in answer["error"]


def test_tables_arrive_as_they_were() -> None:
    rng = np.random.default_rng(0)
    tables = [
        rng.integers(-5, 5, 100),
        rng.integers(-(2**40), 2**40, 33),
        np.array([2**31 - 1, -(2**31), 0]),
        rng.standard_normal((3, 7)),
        np.array([np.inf, -np.inf, 0.0]),
        rng.random(77) < 0.5,
        np.zeros(0, np.int64),
    ]
    arrays = Arrays()
    references = [arrays.add(t) for t in tables]
    work = {"nodes": [], "tables": {}, "block": arrays.text(), "questions": [{"array": r} for r in references]}
    for got, want in zip(run_node(work), tables, strict=True):
        np.testing.assert_array_equal(np.array(got, dtype=np.float64), want.astype(np.float64).ravel())


def test_integers_beyond_doubles_are_refused() -> None:
    with pytest.raises(ValueError, match="2\\*\\*53"):
        Arrays().add(np.array([2**60]))


@pytest.mark.parametrize("text", ["causal", "sliding_window(40) | sinks(4)", "none", "hash(q // 16, k // 16) % 3 == 0"])
def test_runs_arrive_as_they_were(text: str) -> None:
    (program,) = lower_text(text)
    plan = make_plan(program, make_binding(program, 200, 230), q_tile=16, k_tile=16)
    arrays, runs = Arrays(), plan.groups[0].runs
    reference = encode_runs(runs, arrays)
    (got,) = run_node({"nodes": [], "tables": {}, "block": arrays.text(), "questions": [{"runs": reference}]})
    for name in ("offsets", "start", "end", "kind"):
        assert got[name] == getattr(runs, name).tolist(), name


def test_bands_are_nearly_free() -> None:
    """What makes a page of a million tokens small: a band is the same row again and again."""
    (program,) = lower_text("sliding_window(4096)")
    plan = make_plan(program, make_binding(program, 1 << 20, 1 << 20))
    arrays = Arrays()
    encode_runs(plan.groups[0].runs, arrays)
    assert plan.groups[0].runs.start.size > 16000
    assert len(arrays.text()) < 2000

"""Derivatives as expressions are autograd's, for every operator of floats."""

from __future__ import annotations

import pytest
import torch

from maskc.ir.derivative import derivative, float_lookups
from maskc.ir.evaluate import evaluate
from maskc.ir.nodes import Const, Lookup, Symbol, Type
from maskc.ir.ops import OPS, apply
from maskc.ir.program import Parameter
from maskc.tiles.binding import Binding

S, TABLE = Symbol("s"), Lookup("t", Type.FLOAT, [Symbol("q")])
POSITIVE = apply("add", Const(1.5), apply("mul", S, S))
FLOATS = [op for op in OPS.values() if Type.FLOAT in op.takes and op.gives in (None, Type.FLOAT)]


def expression(name: str) -> object:
    if name == "select":
        return apply("select", apply("lt", S, TABLE), apply("mul", S, S), apply("mul", TABLE, Const(3.0)))
    if name == "pow":
        return apply("pow", POSITIVE, apply("mul", TABLE, S))
    if OPS[name].arity == 1:
        return apply(name, apply("mul", POSITIVE, TABLE) if name == "abs" else POSITIVE)
    if OPS[name].arity is None:
        return apply(name, S, TABLE, apply("neg", S))
    return apply(name, apply("mul", S, TABLE), POSITIVE)


@pytest.mark.parametrize("name", [op.name for op in FLOATS])
def test_every_operator(name: str) -> None:
    node = expression(name)
    s = torch.linspace(-2, 2, 41, dtype=torch.float64).requires_grad_()
    table = torch.linspace(1, -1, 41, dtype=torch.float64).requires_grad_()
    given = {
        "binding": Binding(41, 41), "q": torch.arange(41), "k": torch.zeros(1, dtype=torch.int64), "xp": torch,
        "params": [Parameter("t", Type.FLOAT, ("token",))], "tables": {"t": table}, "s": s,
    }  # fmt: skip
    value = evaluate(node, **given)
    wanted = torch.autograd.grad(value.sum(), [s, table], allow_unused=True)
    for by, w in zip((S, TABLE), wanted, strict=True):
        found = evaluate(derivative(node, by), **given).expand(41)
        torch.testing.assert_close(found, torch.zeros(41, dtype=torch.float64) if w is None else w)


def test_operands_that_are_equal_share_the_derivative() -> None:
    node = apply("max", S, apply("mul", S, Const(1.0)))
    given = {"binding": Binding(1, 1), "q": torch.zeros(1, dtype=torch.int64), "xp": torch, "s": torch.ones(1)}
    assert evaluate(derivative(node, S), k=given["q"], **given).item() == 1.0


def test_look_ups_are_listed_once() -> None:
    node = apply("add", TABLE, apply("mul", TABLE, S))
    assert float_lookups(node) == (TABLE,)

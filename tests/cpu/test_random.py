"""Random programs, and the gallery's patterns: the CPU backend computes what the reference does."""

from __future__ import annotations

import pytest
import torch
from gallery.cases import Case, Formula
from gallery.test_gallery import FORMULAS, PROGRAMS
from hypothesis import given, settings
from strategies import bindings, programs

from maskc.backends import Compiled, cpu, reference
from maskc.ir.binding import Binding
from maskc.ir.nodes import Type
from maskc.ir.program import Program
from maskc.op import Op
from maskc.pattern import Pattern


def _tensors(batch: int, heads: int, q_len: int, k_len: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = [(batch, heads, n, 16) for n in (q_len, k_len, k_len)]
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def _same(ours: torch.Tensor, theirs: torch.Tensor, inputs: list[torch.Tensor]) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-8)
    weight = torch.linspace(-1, 1, ours.numel(), dtype=ours.dtype).reshape(ours.shape)
    grads = [torch.autograd.grad((x * weight).sum(), inputs, allow_unused=True) for x in (ours, theirs)]
    for a, b, x in zip(*grads, inputs, strict=True):
        zero = torch.zeros_like(x)
        torch.testing.assert_close(zero if a is None else a, zero if b is None else b, atol=1e-9, rtol=1e-7)


@settings(max_examples=60, deadline=None)
@given(programs(scores=False), bindings())
def test_random_programs(program: Program, binding: Binding) -> None:
    q, k, v = _tensors(binding.batch, binding.heads, binding.q_len, binding.k_len)
    static = {p.name: binding.tables[p.name] for p in program.params if p.when == "compile" and not p.is_scalar}
    compiled = Compiled(program, binding.heads, binding.layer, binding.args, static, binding.sizes)
    more = {"binding": binding, "floats": {}, "scale": 0.25, "return_lse": True}
    ours, lse = cpu.run(compiled, q, k, v, **more)  # type: ignore[arg-type]
    theirs, wanted = reference.run(compiled, q, k, v, **more)  # type: ignore[arg-type]
    torch.testing.assert_close(lse, wanted, atol=1e-10, rtol=1e-8)
    _same(ours, theirs, [q, k, v])


@pytest.mark.parametrize("formula", FORMULAS, ids=lambda f: f.key)
def test_gallery(formula: Formula) -> None:
    """The last case of each pattern: those come with ragged sizes."""
    program, case = PROGRAMS[formula.key], formula.cases[-1]
    q, k, v = _tensors(case.batch, case.heads, case.q_len, case.k_len)
    outs = [_run(program, case, backend, q, k, v) for backend in ("cpu", "reference")]
    _same(*outs, [q, k, v])


def _run(program: Program, case: Case, backend: str, *qkv: torch.Tensor) -> torch.Tensor:
    def given(name: str) -> object:
        value = case.values[name]
        is_float = program.parameter(name).type is Type.FLOAT and not program.parameter(name).is_scalar
        return torch.as_tensor(value, dtype=torch.float64) if is_float else value

    static = {n: given(n) for n in case.values if program.parameter(n).when == "compile"}
    inputs = {n: given(n) for n in case.values if n not in static}
    pattern = Pattern(program, {}).with_args(**static)
    op = Op(pattern, heads=case.heads, layer=case.layer, sizes=case.sizes, backend=backend)
    out = op(*qkv, inputs=inputs)
    assert isinstance(out, torch.Tensor)
    return out

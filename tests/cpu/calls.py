"""Calls of the CPU backend on a brute plan, and the reference beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import torch

import maskc
from maskc.backends import library
from maskc.backends.cpu import tiles
from maskc.backends.cpu.entry import Entry
from maskc.backends.handles import handle_of
from maskc.reference.attention import attention as reference
from tests.cpu.brute import BrutePlan, brute_plan

Tensor = torch.Tensor


@dataclasses.dataclass
class Case:
    """A program with tensors for it."""

    entry: Entry
    q: Tensor
    k: Tensor
    v: Tensor
    floats: dict[str, Tensor]
    scale: float = 0.3

    @property
    def leaves(self) -> list[Tensor]:
        return [self.q, self.k, self.v, *self.floats.values()]

    def run(self) -> tuple[Tensor, Tensor]:
        handle = handle_of(self.entry)
        out, lse, _ = library.attention(self.q, self.k, self.v, list(self.floats.values()), handle, None, self.scale)
        return out, lse

    def reference(self) -> tuple[Tensor, Tensor | None]:
        program, binding = self.entry.program, self.entry.binding
        return reference(program, binding, self.q, self.k, self.v, scale=self.scale, floats=self.floats)


def case(
    text: str,
    n: int = 75,
    m: int | None = None,
    *,
    heads: int = 4,
    kv_heads: int = 2,
    batch: int = 2,
    dim: int = 16,
    value_dim: int | None = None,
    dtype: torch.dtype = torch.float64,
    floats: Mapping[str, tuple[int, ...]] | None = None,
    plan: dict[str, Any] | None = None,
    **inputs: Any,
) -> Case:
    """A case with a brute plan. ``floats``: shape of every float input."""
    torch.manual_seed(0)
    program = maskc.parse(text).program
    m = n if m is None else m
    binding = maskc.make_binding(program, n, m, heads=heads, batch=batch, **inputs)
    given = {name: torch.randn(shape, dtype=dtype, requires_grad=True) for name, shape in (floats or {}).items()}
    batched = {name for name, x in given.items() if x.ndim > len(program.parameter(name).domain)}
    binding = binding.replace(batched=binding.batched | batched)
    shapes = [(batch, heads, n, dim), (batch, kv_heads, m, dim), (batch, kv_heads, m, value_dim or dim)]
    q, k, v = (torch.randn(s, dtype=dtype, requires_grad=True) for s in shapes)
    entry = Entry(program, binding, tuple(given), made=brute_plan(program, binding, **(plan or {})))
    return Case(entry, q, k, v, given)


def assert_same(one: Case, *, with_lse: bool = True, tolerance: float = 1e-9) -> None:
    """Output, log-sum-exp and all gradients are the reference's."""
    out, lse = one.run()
    wanted, wanted_lse = one.reference()
    torch.testing.assert_close(out, wanted, rtol=tolerance, atol=tolerance)
    results, expected = [out], [wanted]
    grads = [torch.randn_like(out)]
    if wanted_lse is not None:
        torch.testing.assert_close(lse, wanted_lse, rtol=tolerance, atol=tolerance)
        if with_lse and wanted_lse.requires_grad:
            results, expected = [out, lse], [wanted, wanted_lse]
            grads.append(torch.randn_like(lse).masked_fill(lse == -torch.inf, 0.0))
    found = torch.autograd.grad(results, one.leaves, grads)
    right = torch.autograd.grad(expected, one.leaves, grads, allow_unused=True)
    for a, b in zip(found, right, strict=True):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b, rtol=tolerance, atol=tolerance)


def use(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Cut masks by key intervals ("rows") or by tiles ("tiles"), whatever it costs."""
    if way == "tiles":
        monkeypatch.setattr(BrutePlan, "intervals", lambda plan, group: None)
    else:
        monkeypatch.setattr(tiles, "_cost", lambda jobs: 0)

"""Attention of one program under one binding: layouts, precision, sinks and outputs around the schedule."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from maskc.backends.cpu.blocks import Given
from maskc.backends.cpu.execute import attend, attend_backward
from maskc.backends.cpu.expressions import Expressions
from maskc.backends.cpu.few import few_queries
from maskc.backends.cpu.jobs import Schedule
from maskc.backends.cpu.kernels import FlashKernel, GeneralKernel, Kernel
from maskc.backends.cpu.products import LOG2_E
from maskc.backends.cpu.tiles import schedule
from maskc.ir.nodes import Symbol
from maskc.tiles.budget import BUDGET
from maskc.tiles.tiling import Order

if TYPE_CHECKING:
    from maskc.backends.cpu.jobs import Ints
    from maskc.ir.binding import Binding
    from maskc.ir.program import Program
    from maskc.tiles.plan import TilePlan

__all__ = ["Entry", "add_sink", "dense", "finite", "same_width"]

Tensor = torch.Tensor
_TILE = 128
_OWN = Order()
_PRODUCTS = 1 << 18  # numbers that are held at once


@dataclass(frozen=True, eq=False)
class Entry:
    """A program, a binding, and the names of its float inputs: all that a call needs but tensors.

    ``layout``: the order of the tokens, as ``make_plan`` takes it. A single row of tiles is computed in the tokens' own
    order: gathering all keys would cost more than any order saves. The plan is made when it is first needed.
    ``budget``: what that may cost, as ``make_plan`` takes it.
    """

    program: Program
    binding: Binding
    names: tuple[str, ...]
    layout: str = "none"
    budget: int = BUDGET
    made: TilePlan | None = None

    @property
    def plain_output(self) -> bool:
        """Whether the program has no output expression."""
        return self.program.output is Symbol("o")

    @functools.cached_property
    def plan(self) -> TilePlan:
        """The tiles of the mask."""
        if self.made is not None:
            return self.made
        from maskc.tiles import make_plan

        layout = "none" if self.binding.q_len <= _TILE else self.layout
        program, binding, budget = self.program, self.binding, self.budget
        # No more queries a tile than there are: partial tiles are evaluated whole.
        q_tile = min(_TILE, max(1, binding.q_len))
        return make_plan(program, binding, q_tile=q_tile, k_tile=_TILE, layout=layout, budget=budget)

    @functools.cached_property
    def schedules(self) -> tuple[tuple[Schedule, ...], tuple[Schedule, ...]]:
        """The jobs of the forward and of the backward pass."""
        few = few_queries(self.program, self.binding) if self.made is None else None
        return schedule(self.plan) if few is None else (few, few)

    @functools.cached_property
    def orders(self) -> tuple[Order, Order]:
        """The order of queries and of keys."""
        if self.made is None and (self.layout == "none" or self.binding.q_len <= _TILE):
            return _OWN, _OWN  # without a plan, which few queries do not need
        return self.plan.q_order, self.plan.k_order

    @functools.cached_property
    def positions(self) -> tuple[Ints, Ints]:
        """Absolute position of every laid-out query and key."""
        binding = self.binding
        queries = _order(self.orders[0], binding.q_len) + binding.offset
        return queries, _order(self.orders[1], binding.k_len)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, floats: Sequence[Tensor], scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Output (B, H, Nq, Dv) in the dtype of ``q``, log-sum-exp (B, H, Nq), and the output before the
        output expression (without elements if there is none)."""
        work = _Work(self, q, k, v, floats, scale)
        out, lse = work.attend()
        if work.expressions.plain_output:
            return out.to(q.dtype), lse, q.new_empty(0)
        return work.expressions.output(out).to(q.dtype), lse, out.to(q.dtype)

    @torch.no_grad()
    def backward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        floats: Sequence[Tensor],
        out: Tensor,
        lse: Tensor,
        grad: Tensor,
        grad_lse: Tensor | None,
        scale: float,
        wanted: Sequence[bool] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Gradients of q, k, v and ``floats``. ``out``: before the output expression. ``wanted``: which of ``floats``
        need theirs, by default all; the others get 0."""
        work = _Work(self, q, k, v, floats, scale)
        some = frozenset(n for i, n in enumerate(self.names) if wanted is None or wanted[i])
        if q.dtype != work.dtype and work.expressions.learns_scores(some):
            # Rounded to 16 bits it makes the average that gradients of weights are compared with inexact by more than
            # their sums into a table can bear: of a slope times a distance of thousands.
            out, _ = work.attend()
        given = (out.to(work.dtype), lse, grad.to(work.dtype), grad_lse)
        grads, tables = work.backward(*given, some, careful=False)
        if not all(finite(g) for g in (*grads, *tables.values())) and work.leave_out_unseen():
            grads, tables = work.backward(*given, some, careful=False)
        if not all(finite(g) for g in (*grads, *tables.values())):
            grads, tables = work.backward(*given, some, careful=True)
        dq, dk, dv = (g.to(x.dtype) for g, x in zip(grads, (q, k, v), strict=True))
        pairs = zip(self.names, floats, strict=True)
        return dq, dk, dv, [tables[n].to(x.dtype) if n in tables else torch.zeros_like(x) for n, x in pairs]


def finite(x: Tensor) -> bool:
    """Whether every element is."""
    # A sum costs less than looking at every element, and is finite if they are (but for overflow).
    return bool(x.sum().isfinite()) or bool(x.isfinite().all())


def dense(x: Tensor) -> Tensor:
    """``x`` with the elements of a head side by side, which the flash kernel takes for granted."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _order(order: Order, length: int) -> Ints:
    return np.arange(length) if order.index is None else np.asarray(order.index, dtype=np.int64)


def _laid_out(x: Tensor, order: Order) -> Tensor:
    return x if order.index is None else x.index_select(2, torch.from_numpy(order.index).long())


def _in_place(x: Tensor, order: Order) -> Tensor:
    """Undo ``_laid_out``."""
    if order.index is None:
        return x
    return x.index_select(2, torch.from_numpy(np.argsort(order.index)))


class _Work:
    """One call: the tensors in the precision of the computation."""

    def __init__(self, entry: Entry, q: Tensor, k: Tensor, v: Tensor, floats: Sequence[Tensor], scale: float) -> None:
        self.entry, self.scale = entry, scale
        self.dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
        q_order, k_order = entry.orders
        self.q = _laid_out(dense(q.to(self.dtype)), q_order)
        self.k, self.v = (_laid_out(dense(x.to(self.dtype)), k_order) for x in (k, v))
        self.floats = {name: x.to(self.dtype) for name, x in zip(entry.names, floats, strict=True)}
        self.expressions = Expressions(entry.program, entry.binding, self.floats, entry.positions)
        self.additive = self.expressions.kind != "softmax"
        self.flash = self.expressions.plain_score and not self.additive

    def _kernel(self, careful: bool, flash: bool, into: Mapping[str, Tensor]) -> functools.partial[Kernel]:
        def make(one: Schedule) -> Kernel:
            if flash and not careful:
                return FlashKernel(self.scale)
            return GeneralKernel(self.scale, self.expressions, one.heads, one.batches, into, careful)

        return functools.partial(make)

    def leave_out_unseen(self) -> bool:
        """Put 0 into keys that are not finite and that no query keeps; whether there were any."""
        from maskc.backends.cpu.unseen import without_unseen

        found = without_unseen(self.entry.plan, self.q.shape[1], self.k, self.v)
        if found is not None:
            self.k, self.v = found
        return found is not None

    def attend(self) -> tuple[Tensor, Tensor]:
        """Output, before the output expression, and log-sum-exp; with as much care as its numbers ask for."""
        out, lse = self.forward(careful=False)
        if not finite(out) and self.leave_out_unseen():
            out, lse = self.forward(careful=False)
        if not finite(out):
            out, lse = self.forward(careful=True)
        return self.with_sink(out, lse)

    def forward(self, careful: bool) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp in the order of the tokens, without the sink."""
        q, k, v = self.q, self.k, self.v
        if 0 in q.shape or 0 in k.shape or 0 in v.shape:
            lse = q.new_full(q.shape[:3], -torch.inf)
            return q.new_zeros((*q.shape[:3], v.shape[3])), lse
        width = v.shape[3]
        if self.flash and not careful:
            q, k, v = same_width(q, k, v)
        out, lse = attend(self.entry.schedules[0], self._kernel(careful, self.flash, {}), q, k, v, self.additive)
        order = self.entry.orders[0]
        return _in_place(out[..., :width], order), _in_place(lse, order)

    def with_sink(self, out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
        """The sink's term in the denominator."""
        return add_sink(out, lse, self.expressions.sink(self.dtype))

    def backward(
        self, out: Tensor, lse: Tensor, grad: Tensor, grad_lse: Tensor | None, wanted: frozenset[str], careful: bool
    ) -> tuple[tuple[Tensor, Tensor, Tensor], dict[str, Tensor]]:
        """Gradients of q, k and v in the order of the tokens, and of the float inputs called ``wanted``."""
        some = {name: x for name, x in self.floats.items() if name in wanted}
        tables = {name: torch.zeros_like(x, memory_format=torch.contiguous_format) for name, x in some.items()}
        grad = self.expressions.pull_output(grad, out, tables)
        delta = _inner(out, grad)
        if grad_lse is not None:
            delta = delta - grad_lse
        sink = self.expressions.sink(self.dtype)
        if sink is not None and tables:
            share = (sink - lse).exp().masked_fill(lse == -torch.inf, 0.0)
            self.expressions.pull_sink(-share * delta, tables)
        if 0 in self.q.shape or 0 in self.k.shape or 0 in self.v.shape:
            return (torch.zeros_like(self.q), torch.zeros_like(self.k), torch.zeros_like(self.v)), tables
        order, k_order = self.entry.orders
        lse = lse.masked_fill(lse == -torch.inf, 0.0) * LOG2_E
        grad, lse, delta = (_laid_out(x, order) for x in (dense(grad), lse[..., None], delta[..., None]))
        same = grad_lse is None and self.q.shape[3] == self.v.shape[3]
        given = Given(self.q, self.k, self.v, grad, lse, delta, _laid_out(dense(out), order) if same else None)
        found = attend_backward(self.entry.schedules[1], self._kernel(careful, self.flash, tables), given)
        return (_in_place(found.q, order), _in_place(found.k, k_order), _in_place(found.v, k_order)), tables


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of (B, H, N, D) along the last dimension, without memory for all products at once."""
    result = a.new_empty(a.shape[:3])
    step = max(1, _PRODUCTS // max(1, a.numel() // max(1, a.shape[2])))
    for i in range(0, a.shape[2], step):
        torch.sum(a[:, :, i : i + step] * b[:, :, i : i + step], dim=-1, out=result[:, :, i : i + step])
    return result


def same_width(*tensors: Tensor) -> list[Tensor]:
    """The tensors with their last dimension filled up with zeros to the widest: the flash kernel has one."""
    widest = max(x.shape[3] for x in tensors)
    return [x if x.shape[3] == widest else torch.nn.functional.pad(x, (0, widest - x.shape[3])) for x in tensors]


def add_sink(out: Tensor, lse: Tensor, sink: Tensor | None) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp with the term of a sink's logit (B, H, Nq) in the denominator."""
    if sink is None:
        return out, lse
    total = torch.logaddexp(lse, sink)
    share = (lse - total).exp_().masked_fill_(lse == -torch.inf, 0.0)
    return out * share[..., None], total

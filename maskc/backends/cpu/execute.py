"""Run a schedule: blocks one after another, merged by log-sum-exp; gradients summed in the same order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from maskc.backends.cpu.blocks import Block, Given, Gradients, Pick, add_at, pick, split, take
from maskc.backends.cpu.jobs import Schedule
from maskc.backends.cpu.kernels import Kernel

__all__ = ["MakeKernel", "attend", "attend_backward"]

Tensor = torch.Tensor
#: The kernel for a group of heads and batch entries.
MakeKernel = Callable[[Schedule], Kernel]


def attend(
    schedules: Sequence[Schedule], make: MakeKernel, q: Tensor, k: Tensor, v: Tensor, additive: bool
) -> tuple[Tensor, Tensor]:
    """Output (B, H, Nq, Dv) and log-sum-exp (B, H, Nq) of laid-out tensors.

    ``additive``: results of blocks are summed (sigmoid, relu), not merged as softmaxes.
    """
    if len(schedules) == 1 and _everything(schedules[0], q):
        return _attend_group(schedules[0], make(schedules[0]), q, k, v, additive)
    out, lse = _result(q, v.shape[3])
    for one in schedules:
        choice = _Choice(one, q, k)
        part = _attend_group(one, make(one), choice.queries(q), choice.keys(k), choice.keys(v), additive)
        for whole, piece in zip((out, lse), part, strict=True):
            choice.put(whole, piece)
    return out, lse


def attend_backward(schedules: Sequence[Schedule], make: MakeKernel, given: Given) -> Gradients:
    """Gradients of laid-out q, k and v."""
    into = Gradients(*(torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (given.q, given.k, given.v)))
    for one in schedules:
        kernel, choice = make(one), _Choice(one, given.q, given.k)
        chosen = choice.of(given)
        if choice.viewed:
            part = Gradients(choice.queries(into.q), choice.keys(into.k), choice.keys(into.v))
        else:
            part = Gradients(*(torch.zeros_like(x) for x in (chosen.q, chosen.k, chosen.v)))
        for job in one.jobs:
            kernel.add_gradients(job, chosen, part)
        if not choice.viewed:
            choice.add((into.q, into.k, into.v), (part.q, part.k, part.v))
    return into


def _everything(one: Schedule, q: Tensor) -> bool:
    return one.heads == tuple(range(q.shape[1])) and one.batches == tuple(range(q.shape[0]))


def _result(q: Tensor, value_dim: int, fill: bool = True) -> tuple[Tensor, Tensor]:
    """Output 0 and log-sum-exp minus infinity, laid out as the flash kernel does: heads inside tokens."""
    batch, heads, rows, _ = q.shape
    out = q.new_empty((batch, rows, heads, value_dim)).transpose(1, 2)
    lse = q.new_empty((batch, rows, heads)).transpose(1, 2)
    return (out.zero_(), lse.fill_(-torch.inf)) if fill else (out, lse)


def _attend_group(
    one: Schedule, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, additive: bool
) -> tuple[Tensor, Tensor]:
    if len(one.jobs) == 1 and one.covered and one.jobs[0].count == 1:
        block = Block(one.jobs[0], 0, 1)
        return kernel.forward(block, q, block.keys(k), block.keys(v))
    out, lse = _result(q, v.shape[3], fill=not one.covered)
    for job in one.jobs:
        for block in split(job, q.shape[0], kernel.blocks_at_once(job, q)):
            part, part_lse = kernel.forward(block, block.queries(q), block.keys(k), block.keys(v))
            _merge(block, out, lse, part, part_lse, additive)
    return out, lse


def _merge(block: Block, out: Tensor, lse: Tensor, part: Tensor, part_lse: Tensor, additive: bool) -> None:
    out, lse = block.queries(out), block.queries(lse[..., None])[..., 0]
    if block.job.fresh:
        out.copy_(part)
        lse.copy_(part_lse)
    elif additive:
        out.add_(part)
    else:
        top = torch.maximum(lse, part_lse)
        top = top.masked_fill_(top == -torch.inf, 0.0)  # no key so far: exp(-inf - 0) is 0, without a NaN
        old, new = (lse - top).exp_(), (part_lse - top).exp_()
        total = old.add_(new)
        lse.copy_(total.log().add_(top))
        share = new.div_(total.masked_fill_(total == 0, 1.0))
        out.lerp_(part, share[..., None])


class _Choice:
    """The heads and batch entries of a schedule, as views where possible."""

    def __init__(self, one: Schedule, q: Tensor, k: Tensor) -> None:
        group = q.shape[1] // k.shape[1]
        self._batch: Pick = pick(one.batches, q.shape[0])
        self._heads: Pick = pick(one.heads, q.shape[1])
        self._kv_heads: Pick = _kv_pick(one.heads, group, k.shape[1])

    @property
    def viewed(self) -> bool:
        """Whether what is chosen are views."""
        return not any(isinstance(x, torch.Tensor) for x in (self._batch, self._heads, self._kv_heads))

    def of(self, given: Given) -> Given:
        """What is chosen of everything."""
        q, grad, lse, delta = (self.queries(x) for x in (given.q, given.grad, given.lse, given.delta))
        out = None if given.out is None else self.queries(given.out)
        return Given(q, self.keys(given.k), self.keys(given.v), grad, lse, delta, out)

    def queries(self, x: Tensor) -> Tensor:
        return take(take(x, 0, self._batch), 1, self._heads)

    def keys(self, x: Tensor) -> Tensor:
        return take(take(x, 0, self._batch), 1, self._kv_heads)

    def put(self, whole: Tensor, part: Tensor) -> None:
        """Write a result of the chosen queries into the whole."""
        if isinstance(self._heads, torch.Tensor) or isinstance(self._batch, torch.Tensor):
            rows = torch.arange(whole.shape[0]) if self._batch is None else _indices(self._batch, whole.shape[0])
            heads = torch.arange(whole.shape[1]) if self._heads is None else _indices(self._heads, whole.shape[1])
            whole[rows[:, None], heads[None, :]] = part
        else:
            self.queries(whole).copy_(part)

    def add(self, wholes: Sequence[Tensor], parts: Sequence[Tensor]) -> None:
        """Add gradients of the chosen q, k and v to the whole."""
        for whole, part, heads in zip(wholes, parts, (self._heads, self._kv_heads, self._kv_heads), strict=True):
            if isinstance(self._batch, torch.Tensor):
                for i, b in enumerate(self._batch.tolist()):
                    add_at(whole[b], 0, heads, part[i])
            else:
                add_at(take(whole, 0, self._batch), 1, heads, part)


def _indices(which: slice | Tensor, total: int) -> Tensor:
    return torch.arange(total)[which]


def _kv_pick(heads: tuple[int, ...], group: int, kv_heads: int) -> Pick:
    """The key heads of query heads: each once where they repeat equally (the kernels share them), else one each."""
    wanted = [h // group for h in heads]
    once = sorted(set(wanted))
    share = len(heads) // len(once)
    if wanted == [h for h in once for _ in range(share)]:
        return pick(tuple(once), kv_heads)
    return torch.tensor(wanted)

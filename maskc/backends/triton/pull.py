"""What kernels leave to torch: expressions of queries alone (sinks, outputs), and gradients into float inputs."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch

from maskc.ir.derivative import derivative, float_lookups
from maskc.ir.evaluate import evaluate
from maskc.ir.nodes import Lookup, Node, Symbol

if TYPE_CHECKING:
    from maskc.ir.binding import Binding
    from maskc.ir.program import Program

__all__ = ["Values"]

Tensor = torch.Tensor


class Points(NamedTuple):
    """Batch entries, heads and absolute positions, int64, that broadcast."""

    b: Tensor
    h: Tensor
    q: Tensor
    k: Tensor


class Values:
    """Values of expressions at every (batch entry, head, query, 1), or (batch entry, head, 1, key), in float32.

    ``tables``: all that the expressions read, on the device.
    """

    def __init__(self, program: Program, binding: Binding, tables: Mapping[str, Tensor], device: torch.device) -> None:
        self._program, self._binding, self._tables, self._device = program, binding, tables, device

    @functools.cached_property
    def _points(self) -> Points:
        """Every one; made when they are first asked for, since most programs leave nothing to torch."""
        b = self._binding
        points = []
        for axis, (extent, start) in enumerate(((b.batch, 0), (b.heads, 0), (b.q_len, b.offset), (b.k_len, 0))):
            shape = [1, 1, 1, 1]
            shape[axis] = extent
            points.append(torch.arange(start, start + extent, device=self._device).view(shape))
        return Points(*points)

    def of(self, node: Node, out: Tensor | None = None, at: Points | None = None) -> Tensor:
        """The value, with axes of length 1 where it does not vary. ``out``: output elements (B, H, Nq, Dv).
        ``at``: points to take in place of every one."""
        b, h, q, k = at or self._points
        value: Tensor = evaluate(
            node,
            self._binding,
            q=q,
            k=k,
            h=h,
            b=b,
            o=out,
            params=self._program.params,
            tables=self._tables,
            xp=torch,
            float_dtype=torch.float32,
        )
        return value

    def pull(self, node: Node, grad: Tensor, sums: Mapping[str, Tensor], out: Tensor | None = None) -> None:
        """Add to ``sums`` the gradients of the float inputs that ``node`` reads; ``grad`` is that of its value."""
        for lookup in float_lookups(node):
            if lookup.name in sums:
                slope = self.of(derivative(node, lookup), out)
                self._scatter(lookup, grad * slope, sums[lookup.name])

    def pull_out(self, node: Node, grad: Tensor, out: Tensor) -> Tensor:
        """The gradient of the output elements ``out`` through the output expression ``node``."""
        return grad * self.of(derivative(node, Symbol("o")), out)

    def pull_blocks(
        self,
        lookup: Lookup,
        grad: Tensor,
        first: tuple[Tensor, Tensor, Tensor, Tensor],
        by_difference: bool,
        sums: Mapping[str, Tensor],
    ) -> None:
        """Add to ``sums`` the gradient ``grad`` of what the look-up reads in blocks of pairs, (blocks, rows, columns).

        ``first``: batch entry, head, and places of the first query and key, of each block. ``by_difference``: the
        look-up depends on ``q - k`` alone, and blocks are square.
        """
        b, h, q, k = (x[:, None].long() for x in first)
        q = q + self._binding.offset
        if by_difference:
            side = grad.shape[1]
            ahead = torch.arange(1 - side, side, device=grad.device)
            self._scatter(lookup, _along_diagonals(grad), sums[lookup.name], Points(b, h, q + ahead, k))
            return
        rows, columns = (torch.arange(n, device=grad.device) for n in grad.shape[1:])
        points = Points(b[..., None], h[..., None], (q + rows)[..., None], (k + columns)[:, None])
        self._scatter(lookup, grad, sums[lookup.name], points)

    def _scatter(self, lookup: Lookup, grad: Tensor, into: Tensor, at: Points | None = None) -> None:
        """Add every element of ``grad`` to the element of the table that the look-up reads there."""
        if into.numel() == 0:
            return
        domain = self._program.parameter(lookup.name).domain
        indices = [self.of(i, at=at) for i in lookup.indices]
        places = [i - self._binding.offset if d == "q" else i for d, i in zip(domain, indices, strict=True)]
        if lookup.name in self._binding.batched:
            places = [(at or self._points).b, *places]
        places = [
            p.clamp(0, n - 1).expand((1,) * (grad.ndim - p.ndim) + p.shape)
            for p, n in zip(places, into.shape, strict=True)
        ]
        # First over the axes along which the same element is read; what is left is summed in a fixed order.
        shape = [max(p.shape[axis] for p in places) for axis in range(grad.ndim)]
        into.index_put_(tuple(p.expand(shape) for p in places), grad.sum_to_size(shape).float(), accumulate=True)


def _along_diagonals(blocks: Tensor) -> Tensor:
    """Sums (blocks, 2 * side - 1) of square blocks over the pairs whose row is so many after their column, from
    ``1 - side`` to ``side - 1``."""
    count, side, _ = blocks.shape
    # Row r of the view starts r elements before row r of the padded blocks does: it is moved right by r.
    padded = torch.nn.functional.pad(blocks.flip(2), (0, side)).view(count, -1)
    return padded[:, : side * (2 * side - 1)].view(count, side, 2 * side - 1).sum(dim=1)

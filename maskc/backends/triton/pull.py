"""What kernels leave to torch: expressions of queries alone (sinks, outputs), and gradients into float inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from maskc.ir.derivative import derivative, float_lookups
from maskc.ir.evaluate import evaluate
from maskc.ir.nodes import Lookup, Node, Symbol

if TYPE_CHECKING:
    from maskc.ir.binding import Binding
    from maskc.ir.program import Program

__all__ = ["Values"]

Tensor = torch.Tensor


class Values:
    """Values of expressions at every (batch entry, head, query, 1), or (batch entry, head, 1, key), in float32.

    ``tables`` go before those of the binding, which should be on the device already.
    """

    def __init__(self, program: Program, binding: Binding, tables: Mapping[str, Tensor], device: torch.device) -> None:
        self._program, self._binding, self._tables = program, binding, tables
        axes = (binding.batch, 0), (binding.heads, 0), (binding.q_len, binding.offset), (binding.k_len, 0)
        self._points = []
        for axis, (extent, start) in enumerate(axes):
            shape = [1, 1, 1, 1]
            shape[axis] = extent
            self._points.append(torch.arange(start, start + extent, device=device).view(shape))

    def of(self, node: Node, out: Tensor | None = None) -> Tensor:
        """The value, with axes of length 1 where it does not vary. ``out``: output elements (B, H, Nq, Dv)."""
        b, h, q, k = self._points
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

    def _scatter(self, lookup: Lookup, grad: Tensor, into: Tensor) -> None:
        """Add every element of ``grad`` to the element of the table that the look-up reads there."""
        if into.numel() == 0:
            return
        domain = self._program.parameter(lookup.name).domain
        indices = [self.of(i) for i in lookup.indices]
        places = [i - self._binding.offset if d == "q" else i for d, i in zip(domain, indices, strict=True)]
        if lookup.name in self._binding.batched:
            places = [self._points[0], *places]
        places = [
            p.clamp(0, n - 1).expand((1,) * (grad.ndim - p.ndim) + p.shape)
            for p, n in zip(places, into.shape, strict=True)
        ]
        # First over the axes along which the same element is read; what is left is summed in a fixed order.
        shape = [max(p.shape[axis] for p in places) for axis in range(grad.ndim)]
        into.index_put_(tuple(p.expand(shape) for p in places), grad.sum_to_size(shape).float(), accumulate=True)

"""A program's float expressions on torch tensors: score, sink and output, with gradients of float inputs.

Gradients are the derivatives as expressions, not autograd's: operators run below autograd, and sums
into a table are in a fixed order.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from maskc.backends.cpu.blocks import Block
from maskc.ir.derivative import derivative, float_lookups
from maskc.ir.evaluate import evaluate
from maskc.ir.nodes import Const, Lookup, Node, Symbol

if TYPE_CHECKING:
    from maskc.backends.cpu.jobs import Ints
    from maskc.ir.binding import Binding
    from maskc.ir.program import Program

__all__ = ["Expressions", "Points"]

Tensor = torch.Tensor
_SCORE, _OUTPUT = Symbol("s"), Symbol("o")
_ONE, _ZERO = Const(1.0), Const(0.0)


@dataclass(frozen=True)
class Points:
    """Absolute positions (blocks, rows) and (blocks, keys), heads, and batch entries of some scores."""

    queries: Tensor
    keys: Tensor
    heads: tuple[int, ...]
    batches: tuple[int, ...]

    def symbols(self) -> dict[str, Tensor]:
        """The symbols as tensors that broadcast to (leading, heads, rows, keys)."""
        return {
            "q": self.queries[:, None, :, None],
            "k": self.keys[:, None, None, :],
            "h": torch.tensor(self.heads)[None, :, None, None],
            "b": torch.tensor(self.batches)[:, None, None, None],
        }


class Expressions:
    """The expressions of a program for one call.

    Args:
        program, binding: as given.
        floats: the float inputs, in the dtype of the computation.
        orders: absolute position of every laid-out query and key.
    """

    def __init__(
        self, program: Program, binding: Binding, floats: Mapping[str, Tensor], orders: tuple[Ints, Ints]
    ) -> None:
        self.program, self.binding = program, binding
        self.kind = program.normalizer.kind
        self.floats = floats
        self._orders = orders
        self._params = {p.name: p for p in program.params}

    @property
    def plain_score(self) -> bool:
        """Whether the score is the scaled product itself."""
        return self.program.score is _SCORE

    @property
    def plain_output(self) -> bool:
        """Whether the output is taken as it is."""
        return self.program.output is _OUTPUT

    def learns_scores(self, names: Collection[str]) -> bool:
        """Whether scores under a softmax read a float input called one of ``names``."""
        return self.kind == "softmax" and any(n.name in names for n in float_lookups(self.program.score))

    def positions(self, block: Block) -> tuple[Tensor, Tensor]:
        """Absolute positions of a block's queries and keys, (blocks, rows) and (blocks, keys)."""
        queries, keys = self._orders
        job, some = block.job, slice(block.first, block.last)
        return torch.from_numpy(queries[job.queries()[some]]), torch.from_numpy(keys[_some(job.keys(), some)])

    def score(self, s: Tensor, points: Points, kept: Tensor | None) -> Tensor:
        """The modified score; with ``kept`` it is evaluated at kept pairs only, and 0 elsewhere."""
        if self.plain_score:
            return s
        symbols = points.symbols()
        if kept is None:
            return self._value(self.program.score, s=s, **symbols).expand(s.shape)
        pairs, listed = _listed(s, kept, symbols)
        value = self._value(self.program.score, **listed).expand(listed["s"].shape)
        return torch.zeros_like(s).index_put(pairs, value)

    def pull_score(
        self, grad: Tensor, s: Tensor, points: Points, kept: Tensor | None, into: Mapping[str, Tensor]
    ) -> Tensor:
        """From the gradient of the modified score to that of the score; those of float inputs are added to ``into``."""
        if self.plain_score:
            return grad
        symbols = points.symbols()
        if kept is None:
            return self._pull(self.program.score, _SCORE, grad, into, {"s": s, **symbols})
        pairs, listed = _listed(s, kept, symbols)
        return torch.zeros_like(s).index_put(pairs, self._pull(self.program.score, _SCORE, grad[pairs], into, listed))

    def sink(self, dtype: torch.dtype) -> Tensor | None:
        """The sink's logit, broadcast to (B, H, Nq), if there is a sink."""
        node = self.program.normalizer.sink
        if node is None:
            return None
        binding = self.binding
        value = self._value(node, float_dtype=dtype, **self._rows())
        return value.expand(binding.batch, binding.heads, binding.q_len, 1).squeeze(-1)

    def pull_sink(self, grad: Tensor, into: Mapping[str, Tensor]) -> None:
        """Add what the gradient (B, H, Nq) of the sink's logit gives the float inputs."""
        node = self.program.normalizer.sink
        if node is not None:
            self._pull(node, None, grad[..., None], into, self._rows())

    def output(self, o: Tensor) -> Tensor:
        """The output (B, H, Nq, Dv) after the program's output expression."""
        return self._value(self.program.output, o=o, **self._rows()).expand(o.shape)

    def pull_output(self, grad: Tensor, o: Tensor, into: Mapping[str, Tensor]) -> Tensor:
        """From the gradient of the output to that before the output expression; also as ``pull_score``."""
        return (
            grad
            if self.plain_output
            else self._pull(self.program.output, _OUTPUT, grad, into, {"o": o, **self._rows()})
        )

    def _rows(self) -> dict[str, Tensor]:
        binding = self.binding
        return {
            "q": (torch.arange(binding.q_len) + binding.offset)[None, None, :, None],
            "k": torch.zeros(1, 1, 1, 1, dtype=torch.int64),  # of which none of these speaks
            "h": torch.arange(binding.heads)[None, :, None, None],
            "b": torch.arange(binding.batch)[:, None, None, None],
        }

    def _value(self, node: Node, **given: Any) -> Tensor:
        return torch.as_tensor(
            evaluate(node, self.binding, params=self.program.params, tables=self.floats, xp=torch, **given)
        )

    def _pull(
        self, node: Node, by: Symbol | None, grad: Tensor, into: Mapping[str, Tensor], given: Mapping[str, Tensor]
    ) -> Tensor:
        """``grad`` times the derivative of ``node`` by ``by``; float inputs' shares are added to ``into``."""
        for lookup in float_lookups(node):
            slope = derivative(node, lookup)
            if lookup.name in into and slope is not _ZERO:
                self._scatter(lookup, self._times(grad, slope, given), into[lookup.name], given)
        return grad if by is None else self._times(grad, derivative(node, by), given)

    def _times(self, grad: Tensor, slope: Node, given: Mapping[str, Tensor]) -> Tensor:
        if slope is _ONE:
            return grad
        if slope is _ZERO:
            return torch.zeros_like(grad)
        return grad * self._value(slope, float_dtype=grad.dtype, **given)

    def _scatter(self, lookup: Lookup, grad: Tensor, total: Tensor, given: Mapping[str, Tensor]) -> None:
        """Add ``grad`` to the elements of a table that a look-up read."""
        if total.numel() == 0:
            return
        domain: tuple[str | int, ...] = self._params[lookup.name].domain
        indices = [self._value(i, float_dtype=grad.dtype, **given) for i in lookup.indices]
        if lookup.name in self.binding.batched:
            domain, indices = ("batch", *domain), [given["b"], *indices]
        flat = torch.zeros((), dtype=torch.int64)
        for d, index, size in zip(domain, indices, total.shape, strict=True):
            at = index - self.binding.offset if d == "q" else index
            flat = flat * size + at.clamp(0, size - 1)
        # Where the place is the same along a dimension, the sum along it comes first.
        flat = flat.reshape((1,) * (grad.ndim - flat.ndim) + tuple(flat.shape))
        same = [d for d in range(grad.ndim) if flat.shape[d] == 1 and grad.shape[d] != 1]
        grad = grad.sum(dim=same, keepdim=True) if same else grad
        total.view(-1).index_add_(0, flat.expand(grad.shape).reshape(-1), grad.reshape(-1))


def _listed(s: Tensor, kept: Tensor, symbols: Mapping[str, Tensor]) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """The kept pairs, and the symbols at them."""
    pairs = kept.expand(s.shape).nonzero(as_tuple=True)
    return pairs, {"s": s[pairs], **{name: x.expand(s.shape)[pairs] for name, x in symbols.items()}}


def _some(rows: np.ndarray[Any, Any], which: slice) -> np.ndarray[Any, Any]:
    return rows if len(rows) == 1 else rows[which]

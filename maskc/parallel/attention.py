"""Attention over a sequence that is divided among ranks: each computes for its own queries."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Literal, overload

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.weak import WeakIdKeyDictionary

from maskc.arguments import by_name, expect, mapping_of
from maskc.autocast import autocast_dtype, converted
from maskc.bindings import Bindings
from maskc.devices import holds_values
from maskc.diagnostics import fail
from maskc.ir.binding import Binding
from maskc.ir.program import Parameter
from maskc.op import Op
from maskc.parallel.divide import EXCHANGE, one_sequence, partition, tile_for
from maskc.parallel.exchange import Routes, exchange, routes_of
from maskc.parallel.needs import Needs, needs_of
from maskc.parallel.partitions import Partition
from maskc.parallel.spans import View, kept
from maskc.passes.specialise import bind as specialised
from maskc.tensors import check_tensors, is_transformed
from maskc.tiles import make_plan
from maskc.tiles.binding import names_read
from maskc.tiles.inputs import content_key
from maskc.tiles.values import declaration

__all__ = ["ContextParallel"]

Tensor = torch.Tensor
_REMEMBERED = 16  # routes that are kept
_MASKS = 64  # of which a partition remembers what is needed
_PLAIN = "call it on plain tensors: there are gradients by backward() and torch.autograd.grad"
_WHOLE = "for shapes alone call the op: maskc.compile(...)(q, k, v)"


class ContextParallel:
    """Self-attention by an op, over sequences that are divided among the processes of a group.

    Every process holds some tokens, and calls this with their queries, keys and values. Keys that its queries see
    elsewhere are sent to it, and no others; their gradients go back. What comes out is exactly what the op gives for
    the whole sequence.

    Attributes:
        op: the op.
        group: the process group; None is the default one.
    """

    def __init__(self, op: Op, group: dist.ProcessGroup | None = None) -> None:
        """Raises TypeError, and E702 for attention of one sequence over another. ``torch.distributed`` need not be
        set up before the first call."""
        expect("op", op, Op, "an op of maskc.compile")
        one_sequence(op)
        self.op, self.group = op, group
        self._params = {p.name: p for p in op.program.params}
        static = op.compiled
        self._program = specialised(op.program, args=static.args, layer=op.layer, heads=op.heads, tables=static.tables)
        self._in_mask = names_read(op.program, (op.program.mask,))
        self._of_chunks = op.without_assertions()  # they are made about the whole sequence
        self._bindings = Bindings()
        self._routes: OrderedDict[Any, tuple[tuple[View, ...], Routes]] = OrderedDict()
        self._slices: Any = WeakIdKeyDictionary()

    def __repr__(self) -> str:
        return f"<context-parallel {self.op!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return ContextParallel, (self.op, self.group)

    def partition(
        self,
        length: int,
        *,
        method: str = "auto",
        parts: int | None = None,
        exchange: float = EXCHANGE,
        batch: int | None = None,
        sizes: Mapping[str, int] | None = None,
        inputs: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Partition:
        """How ``length`` tokens are divided among the processes of the group: see ``maskc.parallel.partition``.

        The same in every process that is given the same inputs, without communication. It may serve other ops too.
        """
        options: dict[str, Any] = {"method": method, "parts": parts, "exchange": exchange}
        known: dict[str, Any] = {"batch": batch, "sizes": sizes, "inputs": by_name("inputs", inputs, more)}
        return partition(self.op, length, dist.get_world_size(self.group), **options, **known)

    @overload
    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        division: Partition,
        *,
        scale: float | None = None,
        return_lse: Literal[False] = False,
        sizes: Mapping[str, int] | None = None,
        inputs: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Tensor: ...

    @overload
    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        division: Partition,
        *,
        scale: float | None = None,
        return_lse: Literal[True],
        sizes: Mapping[str, int] | None = None,
        inputs: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> tuple[Tensor, Tensor]: ...

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # collective calls, and plans, are no part of a graph
    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        division: Partition,
        *,
        scale: float | None = None,
        return_lse: bool = False,
        sizes: Mapping[str, int] | None = None,
        inputs: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attention of this process's queries over all keys that the pattern keeps.

        Every process of the group has to make the same calls, in the same order, with the same ``division``.

        Args:
            q: (B, Hq, n, D), the queries of this rank's n tokens, in the order of ``division.index(rank)``.
            k: (B, Hkv, n, D), the keys of the same tokens.
            v: (B, Hkv, n, Dv).
            division: which tokens each rank holds.
            scale, return_lse, sizes: as for the op.
            inputs, more: as for the op, of the whole sequence and the same in every process. The gradient of a float
                input is of this rank's queries alone: the ranks' are to be added, as those of parameters are.

        Returns:
            As the op: the output (B, Hq, n, Dv), and the log-sum-exp (B, Hq, n), of the same tokens.

        Raises MaskcError as the op does, before anything is sent; E504 for a division among another number of ranks;
        E505 where inputs are not of the whole sequence; E510 where the tensors do not have this rank's tokens; E512 of
        tensors without values; E702 under transforms of ``torch.func``.
        """
        expect("division", division, Partition, "a partition")
        rank = self._rank(division)
        whole = self.op.given(inputs, more)
        self._check(q, k, v, int(division.tokens[rank]), whole)
        self._check_lengths(whole, division.length)
        length = division.length
        as_whole = (_repeated(q, length), _repeated(k, length), _repeated(v, length))
        self.op.check_call(*as_whole, whole, scale=scale, return_lse=return_lse)
        dtype = autocast_dtype(q)
        if dtype is not None:  # what is sent is what is computed with
            q, k, v = (converted(x, dtype) for x in (q, k, v))
        needs = self._needs(division, self._bound(division, q.shape[0], sizes, whole))
        views, routes = self._routes_of(needs, rank, q.device)
        keys, values = exchange(k, v, routes, self.group)
        options: dict[str, Any] = {"scale": scale, "return_lse": return_lse, "sizes": sizes}
        found, at = [], 0
        for view in views:
            end, stop = at + view.chunk.end - view.chunk.start, view.place + view.end - view.first
            tensors = q[:, :, at:end], keys[:, :, view.place : stop], values[:, :, view.place : stop]
            given = {name: self._part(name, x, view) for name, x in whole.items()}
            result = self._of_chunks(*tensors, **options, q_start=view.chunk.start - view.first, inputs=given)
            found.append(result if return_lse else (result,))
            at = end
        results = [torch.cat(x, dim=2) if len(x) > 1 else x[0] for x in zip(*found, strict=True)]
        return (results[0], results[1]) if return_lse else results[0]

    def _rank(self, division: Partition) -> int:
        ranks = dist.get_world_size(self.group)
        if division.ranks != ranks:
            hint = f"divide it among {ranks}: attend.partition(length)"
            raise fail("E504", f"the sequence is divided among {division.ranks} ranks, but there are {ranks}", hint)
        return dist.get_rank(self.group)

    def _check(self, q: Tensor, k: Tensor, v: Tensor, tokens: int, whole: Mapping[str, Any]) -> None:
        """What the op would find too late, when keys have been sent already. Raises E510, E511, E512, and E702 where
        nothing can be sent."""
        check_tensors(q, k, v, self.op.heads)
        if is_transformed((q, k, v, *whole.values())):
            raise fail("E702", "attention over a divided sequence cannot run under transforms of torch.func", _PLAIN)
        if not holds_values(q):
            raise fail("E512", "q holds no values that could be sent: it is fake, or on meta", _WHOLE)
        for name, x in (("q", q), ("k", k), ("v", v)):
            if x.shape[2] != tokens:
                message = f"{name} has {x.shape[2]} tokens, but this rank holds {tokens}"
                raise fail("E510", message, f"{name} = division.shard({name}, rank)")

    def _bound(
        self, division: Partition, batch: int, sizes: Mapping[str, int] | None, whole: Mapping[str, Any]
    ) -> Binding:
        """The mask over the whole sequence: the same object for equal inputs. Raises as the op does."""
        inputs, extents = self.op.call_inputs, mapping_of("sizes", sizes)
        read = {n: x for n, x in whole.items() if n not in inputs.floats or n in inputs.needed}
        length, known = division.length, {"batch": batch, "sizes": extents, "inputs": read}

        def make() -> Binding:
            return self.op.bind(length, length, **known)  # type: ignore[arg-type]

        head = length, batch, tuple(sorted(extents.items()))
        return self._bindings.find(head, read, make, self.op.check_binding)

    def _needs(self, division: Partition, binding: Binding) -> Needs:
        """What ranks need of one another; found once for all layers that have the same mask."""
        read = {n: x for n, x in binding.tables.items() if n in self._in_mask}
        contents = [(n, x.shape, content_key(x) or x.tobytes()) for n, x in sorted(read.items())]
        sizes = sorted(binding.sizes.items())
        key = self._program.mask, binding.heads, binding.batch, tuple(sizes), tuple(contents)
        if key not in division.memory:
            tile = tile_for(division.length, division.ranks)
            plan = make_plan(self.op.program, binding, q_tile=tile, k_tile=tile, budget=self.op.budget)
            if len(division.memory) >= _MASKS:
                division.memory.clear()
            # The key names arrays by numbers that are theirs while they live: the binding holds them.
            division.memory[key] = needs_of(plan, division), binding
        needs: Needs = division.memory[key][0]
        return needs

    def _routes_of(self, needs: Needs, rank: int, device: torch.device) -> tuple[tuple[View, ...], Routes]:
        key = needs.digest, device
        found = self._routes.pop(key, None)
        if found is None or self.op.checks:
            self._agree(needs, device)
        if found is None:
            keeps = kept(needs, rank, self._program)
            found = keeps.views, routes_of(needs, rank, keeps).to(device)
        self._routes[key] = found
        while len(self._routes) > _REMEMBERED:
            self._routes.popitem(last=False)
        return found

    def _agree(self, needs: Needs, device: torch.device) -> None:
        """Raises RuntimeError in every process where not all have the same division and masks."""
        mine = torch.frombuffer(bytearray(needs.digest), dtype=torch.uint8).to(device)
        theirs = [torch.empty_like(mine) for _ in range(needs.division.ranks)]
        dist.all_gather(theirs, mine, group=self.group)
        unlike = [rank for rank, x in enumerate(theirs) if not torch.equal(x, theirs[0])]
        if unlike:
            raise RuntimeError(
                f"ranks {unlike} divide the sequence otherwise than rank 0, or have another mask: every process has to "
                "give the same lengths, inputs and options to partition() and to the call"
            )

    def _check_lengths(self, given: Mapping[str, Any], length: int) -> None:
        for name, x in given.items():
            p = self._params.get(name)
            if p is None or all(np.shape(x)[axis] == length for axis in _token_axes(p, x)):
                continue
            message = f"{declaration(p)}: expected the whole sequence of {length} tokens, found {np.shape(x)}"
            raise fail("E505", message, "inputs are given as for the whole sequence, in every process")

    def _part(self, name: str, value: Any, view: View) -> Any:
        """What a chunk's call takes of an input of the whole sequence."""
        p = self._params.get(name)
        axes = _token_axes(p, value) if p is not None else ()
        if p is None or not axes:
            return value
        # The same tensor again for the same tensor, so that one on a device need not be looked at each time.
        known = isinstance(value, Tensor) and not (value.requires_grad and torch.is_grad_enabled())
        parts = self._slices.setdefault(value, {}) if known else {}
        key = name, view
        if key not in parts:
            # Parts share what a tensor holds and the count of its changes, and do not keep the tensor itself.
            part = value.detach() if known else value if hasattr(value, "shape") else np.asarray(value)
            for axis, domain in axes.items():
                start, end = (view.chunk.start, view.chunk.end) if domain == "q" else (view.first, view.end)
                at = [slice(None)] * part.ndim
                at[axis] = slice(start, end)
                part = part[tuple(at)]
            parts[key] = part
        return parts[key]


def _repeated(x: Tensor, length: int) -> Tensor:
    """What has the shape of the whole sequence, of which ``x`` is a rank's part."""
    return x[:, :, :1].expand(-1, -1, length, -1)


def _token_axes(p: Parameter, value: Any) -> dict[int, str]:
    """The axes of ``value`` along which there are tokens, each with what they are."""
    before = len(np.shape(value)) - len(p.domain)  # a batch dimension may stand in front
    return {before + i: d for i, d in enumerate(p.domain) if d in ("token", "q", "k")}

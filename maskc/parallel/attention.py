"""Attention over a sequence that is divided among ranks: each computes for its own queries."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Literal, overload

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.weak import WeakIdKeyDictionary

from maskc.arguments import by_name, expect, integer, mapping_of
from maskc.autocast import autocast_dtype, converted
from maskc.bindings import Bindings
from maskc.devices import holds_values
from maskc.diagnostics import fail
from maskc.ir.binding import Binding
from maskc.ir.program import Parameter
from maskc.op import Op
from maskc.parallel.agree import agreed_of
from maskc.parallel.divide import one_sequence, partition, tile_for
from maskc.parallel.exchange import Routes, exchange, routes_of
from maskc.parallel.needs import Needs, needs_of
from maskc.parallel.overlap import groups_of, heads_are_alike
from maskc.parallel.partitions import EXCHANGE, Partition
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
        overlap: in how many groups of heads keys are sent at most; None: what takes least by the model of costs.
    """

    def __init__(self, op: Op, group: dist.ProcessGroup | None = None, *, overlap: int | None = None) -> None:
        """``overlap``: heads are computed in as many groups as their number allows up to this one, while keys of the
        next groups are on their way; 1: all keys are waited for. None: as many as pay.

        Raises TypeError, E503 and E504, and E702 for attention of one sequence over another. ``torch.distributed``
        need not be set up before the first call."""
        expect("op", op, Op, "an op of maskc.compile")
        one_sequence(op)
        self.op, self.group = op, group
        self.overlap = None if overlap is None else integer("overlap", overlap, 1)
        self._params = {p.name: p for p in op.program.params}
        static = op.compiled
        self._program = specialised(op.program, args=static.args, layer=op.layer, heads=op.heads, tables=static.tables)
        self._in_mask = names_read(op.program, (op.program.mask,))
        self._alike, self._pattern = heads_are_alike(op.program), op.pattern.hash
        self._of_chunks = {op.heads: op.without_assertions()}  # they are made about the whole sequence
        self._bindings = Bindings()
        self._routes: OrderedDict[Any, tuple[tuple[View, ...], Routes]] = OrderedDict()
        self._slices: Any = WeakIdKeyDictionary()

    def __repr__(self) -> str:
        return f"<context-parallel {self.op!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _make, (self.op, self.group, self.overlap)

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
        tensors without values; E702 under transforms of ``torch.func``. RuntimeError in every process where they do
        not make the same call, or one of them raises, as far as they compare: what is new, in check mode all.
        """
        expect("division", division, Partition, "a partition")
        agreed, device = agreed_of(self.group), q.device if isinstance(q, Tensor) and holds_values(q) else None
        with agreed.failures_told(division.digest, device, again=self.op.checks):
            rank, whole = self._rank(division), self.op.given(inputs, more)
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
            parts = self._parts(needs, q, k)
        options: dict[str, Any] = {"scale": scale, "return_lse": return_lse, "sizes": sizes}
        said = division.digest, self._pattern, needs.digest.hex(), _described(q, k, v, scale, parts)
        agreed.on(said, q.device, again=self.op.checks)
        heads, found = self.op.heads // parts, []
        for part, (keys, values) in enumerate(exchange(k, v, routes, self.group, parts)):
            own = slice(part * heads, (part + 1) * heads)
            found.append(self._attended(q[:, own], keys, values, views, own, whole, options))
        results = [torch.cat(x, dim=1) if len(x) > 1 else x[0] for x in zip(*found, strict=True)]
        return (results[0], results[1]) if return_lse else results[0]

    def _attended(
        self,
        q: Tensor,
        keys: Tensor,
        values: Tensor,
        views: tuple[View, ...],
        heads: slice,
        whole: Mapping[str, Any],
        options: dict[str, Any],
    ) -> tuple[Tensor, ...]:
        """What these heads of this rank's queries find in the keys that it keeps: the results of the op."""
        found, at, op = [], 0, self._of_chunks[q.shape[1]]
        for view in views:
            end, stop = at + view.chunk.end - view.chunk.start, view.place + view.end - view.first
            tensors = q[:, :, at:end], keys[:, :, view.place : stop], values[:, :, view.place : stop]
            given = {name: self._part(name, x, view, heads) for name, x in whole.items()}
            result = op(*tensors, **options, q_start=view.chunk.start - view.first, inputs=given)
            found.append(result if options["return_lse"] else (result,))
            at = end
        return tuple(torch.cat(x, dim=2) if len(x) > 1 else x[0] for x in zip(*found, strict=True))

    def _parts(self, needs: Needs, q: Tensor, k: Tensor) -> int:
        """In how many groups heads are computed."""
        parts = groups_of(needs, q.shape[0], q.shape[1], k.shape[1], self.overlap) if self._alike else 1
        heads = self.op.heads // parts
        if heads not in self._of_chunks:
            self._of_chunks[heads] = self._of_chunks[self.op.heads].with_heads(heads)
        return parts

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
        if found is None:
            keeps = kept(needs, rank, self._program)
            found = keeps.views, routes_of(needs, rank, keeps).to(device)
        self._routes[key] = found
        while len(self._routes) > _REMEMBERED:
            self._routes.popitem(last=False)
        return found

    def _check_lengths(self, given: Mapping[str, Any], length: int) -> None:
        for name, x in given.items():
            p = self._params.get(name)
            if p is None or all(np.shape(x)[axis] == length for axis in _token_axes(p, x)):
                continue
            message = f"{declaration(p)}: expected the whole sequence of {length} tokens, found {np.shape(x)}"
            raise fail("E505", message, "inputs are given as for the whole sequence, in every process")

    def _part(self, name: str, value: Any, view: View, heads: slice) -> Any:
        """What a chunk's call for some heads takes of an input of the whole sequence and of all heads."""
        p = self._params.get(name)
        axes = dict(_token_axes(p, value)) if p is not None else {}
        if p is not None and heads.stop - heads.start < self.op.heads:
            axes |= _axes(p, value, ("head",))
        if not axes:
            return value
        # The same tensor again for the same tensor, so that one on a device need not be looked at each time.
        known = isinstance(value, Tensor) and not (value.requires_grad and torch.is_grad_enabled())
        parts = self._slices.setdefault(value, {}) if known else {}
        key = name, view, heads.start, heads.stop
        if key not in parts:
            # Parts share what a tensor holds and the count of its changes, and do not keep the tensor itself.
            part = value.detach() if known else value if hasattr(value, "shape") else np.asarray(value)
            of_queries, of_keys = slice(*view.chunk), slice(view.first, view.end)
            for axis, domain in axes.items():
                at = [slice(None)] * part.ndim
                at[axis] = {"head": heads, "q": of_queries}.get(domain, of_keys)
                part = part[tuple(at)]
            parts[key] = part
        return parts[key]


def _make(op: Op, group: dist.ProcessGroup | None, overlap: int | None) -> ContextParallel:
    return ContextParallel(op, group, overlap=overlap)


def _described(q: Tensor, k: Tensor, v: Tensor, scale: Any, parts: int) -> str:
    """What all ranks have to have alike, of their tensors."""
    back = torch.is_grad_enabled() and (k.requires_grad or v.requires_grad)
    return (
        f"{q.shape[0]} batch entries, {q.shape[1]} heads and {k.shape[1]} of keys in {parts} groups, {q.shape[3]} and "
        f"{v.shape[3]} channels, {q.dtype}, scale {'by default' if scale is None else float(scale)}, "
        f"{'with' if back else 'without'} gradients of keys or values"
    )


def _repeated(x: Tensor, length: int) -> Tensor:
    """What has the shape of the whole sequence, of which ``x`` is a rank's part."""
    one = x[:, :, :1] if x.shape[2] else x.new_zeros((*x.shape[:2], 1, x.shape[3]))
    return one.expand(-1, -1, length, -1)


def _token_axes(p: Parameter, value: Any) -> dict[int, str]:
    """The axes of ``value`` along which there are tokens, each with what they are."""
    return _axes(p, value, ("token", "q", "k"))


def _axes(p: Parameter, value: Any, domains: tuple[str, ...]) -> dict[int, str]:
    before = len(np.shape(value)) - len(p.domain)  # a batch dimension may stand in front
    return {before + i: str(d) for i, d in enumerate(p.domain) if d in domains}

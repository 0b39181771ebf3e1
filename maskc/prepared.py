"""A pattern prepared for calls, below the operators of torch: which of them finds it by its handle, when a graph runs.

``maskc.Op``, which users call, is one that can be called too. A graph needs no more than what stands here, and so makes
no op where it has to make again what it was traced through.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from maskc.arguments import by_name, expect, integer, mapping_of
from maskc.backends import Compiled, Request, choose
from maskc.backends.entries import LSE, Q_START
from maskc.backends.handles import handle_of
from maskc.bindings import Bindings
from maskc.identity import content_of, recipe_of
from maskc.inputs import CallInputs
from maskc.ir.nodes import Symbol
from maskc.ir.program import Program
from maskc.pattern import Pattern
from maskc.tensors import LEARNED_SCALE, check_tensors, is_exporting, learned_scale
from maskc.tiles.binding import bind, static_values
from maskc.tiles.budget import BUDGET
from maskc.tiles.extents import check_extents
from maskc.tiles.layouts.suggest import check_layout
from maskc.tiles.values import fail

if TYPE_CHECKING:
    from maskc.backends import Backend
    from maskc.backends.entries import Entry
    from maskc.ir.binding import Binding

__all__ = ["Prepared"]

_KINDS = 256  # of calls that an op has checked, and remembers
# What calls take beside tensors: inputs so named are in ``inputs``.
_OWN = {"scale", "return_lse", "sizes", "q_start", "inputs"}


class Prepared:
    """A pattern with all that is known of it before calls, and what calls have found out: checks, bindings, plans.

    Its attributes are told where users meet them, in ``maskc.Op``.
    """

    def __init__(
        self,
        pattern: Pattern,
        *,
        heads: int,
        layer: int = 0,
        sizes: Mapping[str, int] | None = None,
        backend: str = "auto",
        layout: str = "none",
        inputs: Mapping[str, Any] | None = None,
        check: bool = False,
        budget: int = BUDGET,
    ) -> None:
        expect("pattern", pattern, Pattern, "a maskc.Pattern")
        check_layout(layout, pattern.program)
        self.pattern = pattern
        self.heads = heads
        self.layer = layer
        self.sizes = check_extents(pattern.program, mapping_of("sizes", sizes))
        self.backend = backend
        self.layout = layout
        self.budget = integer("budget", budget, 0)
        self._inputs = mapping_of("inputs", inputs)
        self._check = check
        args, tables = static_values(pattern.program, heads, layer, pattern.args)
        self.compiled = Compiled(pattern.program, heads, layer, args, tables, self.sizes, layout, self.budget)
        self._bindings = Bindings()
        self._chosen: dict[Hashable, Backend] = {}  # of the kinds of calls that have been made
        self._recipe = recipe_of(pattern, self._options(), inputs=sorted(self._inputs))
        # What graphs that are traced through this op call it.
        self.handle = handle_of(self, content_of(pattern.name, self._recipe))
        self.call_inputs = CallInputs(pattern, self.compiled)
        if backend != "auto":
            choose(backend, pattern.program, Request(heads=heads, layout=layout, args=tuple(args.items())))

    @property
    def program(self) -> Program:
        """The program, un-optimised."""
        return self.pattern.program

    def _options(self) -> dict[str, Any]:
        options = {"heads": self.heads, "layer": self.layer, "sizes": self.sizes, "backend": self.backend}
        return {**options, "layout": self.layout, "check": self._check, "budget": self.budget}

    @property
    def stored_recipe(self) -> str:
        """What a graph that is traced now has to hold of the op: its recipe where ``torch.export`` makes one, which may
        run where there is no such op."""
        return self._recipe if is_exporting() else ""

    @property
    def plain_output(self) -> bool:
        """Whether there is no output expression."""
        return self.program.output is Symbol("o")

    def given(self, inputs: Mapping[str, Any] | None, more: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs of a call by name: those that were given when compiling, in ``inputs``, and by their names. Raises
        E501 for one that a call can only have taken for its own argument."""
        found = {**self._inputs, **by_name("inputs", inputs, more)}
        for name in sorted((_OWN & self.call_inputs.read).difference(found)):
            hint = f"give inputs={{{name!r}: ...}} with the call: it has an argument of its own called {name}"
            raise fail("E501", f"{self.pattern.name!r} needs the input {name!r}", hint)
        return found

    def entry_of(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        inputs: Mapping[str, torch.Tensor],
        sizes: Mapping[str, int],
        wishes: Collection[str] = (),
    ) -> tuple[Entry, tuple[str, ...]]:
        """What computes a call inside a graph, found when the graph runs, and which of the inputs are its floats, in
        order. ``wishes``: what was seen of the call when it was traced, and is refused here, if at all: ``LSE``,
        ``maskc.tensors.LEARNED_SCALE``.

        Raises as a call does; E702 where the backend has no operator of torch.
        """
        check_tensors(q, k, v, self.heads)
        given, return_lse = {**self._inputs, **inputs}, LSE in wishes
        self._check_wishes(return_lse, given)
        if LEARNED_SCALE in wishes:
            raise learned_scale()
        floats, rest = self.call_inputs.split(given, q, k.shape[2])
        lengths = q.shape[2], k.shape[2], sizes.get(Q_START)
        extents = {name: extent for name, extent in sizes.items() if name != Q_START}
        binding = self._bind(lengths, q.shape[0], extents, rest, self.call_inputs.batched(floats))
        row, chosen = choose(self.backend, self.program, self._request(q, k, v, floats, return_lse))
        if not hasattr(chosen, "entry_for"):
            raise fail("E702", f"the backend {row.name!r} cannot run inside a compiled graph", "call the op outside it")
        entry = self._entry(chosen, binding, tuple(floats), return_lse)
        return entry, tuple(floats)

    def _entry(self, chosen: Any, binding: Binding, floats: tuple[str, ...], return_lse: bool) -> Entry:
        """What operators call of a backend that has ``entry_for``; remembered."""
        entry: Entry = chosen.entry_for(self.compiled, binding, floats)
        if not self._check:
            return entry
        from maskc.checked import CheckedEntry

        return self.compiled.remember(
            ("checked", entry, return_lse),
            binding,
            lambda: CheckedEntry(entry, self.program, binding, floats, return_lse),
        )

    def _check_lse(self) -> None:
        """Raises E702 where there is no log-sum-exp."""
        normalizer = self.program.normalizer.kind
        if normalizer != "softmax":
            message = f"{self.pattern.name!r} normalises by {normalizer}, which has no log-sum-exp"
            raise fail("E702", message, "drop return_lse")

    def _check_wishes(self, return_lse: bool, given: Mapping[str, Any]) -> None:
        """Raises E702 for what no backend computes."""
        if return_lse:
            self._check_lse()
        for name in ("dropout", "dropout_p"):
            if name in given and name not in self.call_inputs.read:
                raise fail("E702", "attention dropout is not computed", "drop out of the output, or of nothing")

    def _remember(self, kind: Hashable, chosen: Backend) -> None:
        """Calls of this kind have been checked, and have a backend."""
        if len(self._chosen) >= _KINDS:
            self._chosen.clear()
        self._chosen[kind] = chosen

    def _request(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, floats: Mapping[str, torch.Tensor], return_lse: bool
    ) -> Request:
        grads = torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v, *floats.values()))
        return Request(
            device=q.device.type,
            dtype=str(q.dtype).removeprefix("torch."),
            head_dim=q.shape[3],
            value_dim=v.shape[3],
            q_len=q.shape[2],
            k_len=k.shape[2],
            batch=q.shape[0],
            heads=q.shape[1],
            kv_heads=k.shape[1],
            needs_grad=grads,
            return_lse=return_lse,
            layout=self.layout,
            args=tuple(self.compiled.args.items()),
        )

    def _bind(
        self,
        lengths: tuple[int, int, int | None],
        batch: int,
        sizes: Mapping[str, int],
        inputs: Mapping[str, Any],
        batched: frozenset[str],
    ) -> Binding:
        """The binding of a call: the same object for equal lengths and inputs, so that plans are found again.
        ``lengths``: the number of queries and of keys, and the position of the first query."""
        extents, (q_len, k_len, q_start) = {**self.sizes, **sizes}, lengths
        q_start = None if q_start is None else integer("q_start", q_start, 0)

        def make() -> Binding:
            binding = bind(
                self.program,
                q_len,
                k_len,
                heads=self.heads,
                layer=self.layer,
                batch=batch,
                sizes=extents,
                values={**self.pattern.args, **inputs},
                needed=self.call_inputs.needed,
                q_start=q_start,
            )
            return binding.replace(batched=binding.batched | batched)

        head = (q_len, k_len, q_start, batch, tuple(sorted(extents.items())), batched)
        return self._bindings.find(head, inputs, make, self.check_binding)

    def check_binding(self, binding: Binding) -> None:
        """In check mode, prove the pattern's assertions. Raises E513."""
        if self._check:
            from maskc.assertions import check

            check(self.program, binding)

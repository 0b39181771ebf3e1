"""The inputs of an op's calls: those that backends get as they are, and those that the mask is planned from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from maskc.arguments import shown
from maskc.devices import holds_values
from maskc.ir.nodes import Type
from maskc.ir.program import Parameter, Program
from maskc.tensors import check_float_input, check_hidden_input, traced_input
from maskc.tiles.binding import bind, by_call, given_as, mask_roots, names_read, positions
from maskc.tiles.values import fail, no_such_name, unwrapped

if TYPE_CHECKING:
    from maskc.backends import Compiled
    from maskc.pattern import Pattern

__all__ = ["CallInputs"]


class CallInputs:
    """What calls of a pattern may bring, and have to.

    Attributes:
        floats: float inputs: they go to the backend as they are, and into a binding only where the mask reads them.
        read: all that the program reads. needed: of that, what has to be in a binding.
    """

    def __init__(self, pattern: Pattern, compiled: Compiled) -> None:
        self._pattern, self._program, self._compiled = pattern, pattern.program, compiled
        self._in_mask = names_read(self._program, mask_roots(self._program))
        self._params = {p.name: p for p in self._program.params}
        self._floats = [p for p in self._program.params if _is_float(p)]
        self.floats = {p.name for p in self._floats}
        self.read = names_read(self._program, self._program.roots())
        self.needed = self.read - (self.floats - self._in_mask)

    def split(
        self, given: Mapping[str, Any], q: torch.Tensor, k_len: int
    ) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The float inputs, checked, and the values that go into the binding. Raises E501 to E503, E505, E511, E512."""
        name_of = self._pattern.name
        for name in given:
            p = self._params.get(name)
            if p is None:
                names = [p.name for p in self._program.params if p.when == "call"]
                hint = no_such_name(name, names, (self._program.q_space, self._program.k_space))
                raise fail("E502", f"{name_of!r} takes no input called {name!r}", hint)
            if p.when == "compile":
                hint = f"give it to compile{by_call(p)}"
                raise fail("E502", f"{name!r} is an argument of {name_of!r}, no input", hint)
        floats: dict[str, torch.Tensor] = {}
        for p in self._floats:
            if p.name in given:
                heads, cross = self._compiled.heads, self._program.cross
                floats[p.name] = check_float_input(p, given[p.name], q, k_len, heads, cross, self._compiled)
            elif p.name in self.read:
                raise fail("E501", f"{name_of!r} needs the input {p.name!r}", f"give {given_as(p.name)} with the call")
        return floats, {n: v for n, v in given.items() if n not in floats or n in self._in_mask}

    def batched(self, floats: Mapping[str, torch.Tensor]) -> frozenset[str]:
        """Those of ``floats`` that have a batch dimension in front."""
        return frozenset(n for n, t in floats.items() if t.ndim > len(self._program.parameter(n).domain))

    def check_without_values(
        self,
        q: torch.Tensor,
        k_len: int,
        sizes: Mapping[str, int],
        inputs: Mapping[str, Any],
        *,
        program: Program | None = None,
        fewer_keys: bool = False,
        q_start: int | None = None,
    ) -> dict[str, torch.Tensor]:
        """The checks of a call of tensors without values: of all but the values of inputs that have none, which are
        returned. ``program``: what is bound, by default the pattern's. Raises as a call does."""
        compiled, batch, q_len = self._compiled, q.shape[0], q.shape[2]
        hidden = {n: x for n, x in inputs.items() if isinstance(x, torch.Tensor) and not holds_values(x)}
        known: dict[str, Any] = {"heads": compiled.heads, "layer": compiled.layer, "batch": batch, "sizes": sizes}
        known |= {"values": {**self._pattern.args, **{n: x for n, x in inputs.items() if n not in hidden}}}
        needed = self.needed - hidden.keys()
        known |= {"needed": needed, "fewer_keys": fewer_keys, "q_start": q_start}
        bind(program or self._program, q_len, k_len, **known)
        dims: dict[str, int | None] = {"head": compiled.heads, "layer": compiled.layer, "batch": batch}
        dims |= positions(self._program.cross, q_len, k_len)
        for name in hidden:
            unwrapped(name, hidden[name])
        for p in self._program.params:
            if p.name in hidden and not _is_float(p):
                check_hidden_input(p, hidden[p.name], dims, compiled.args)
        return hidden

    def traced(self, q: torch.Tensor, given: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The inputs of a call as an operator takes them. What cannot be handed to one is refused here, the rest when
        the operator runs. Raises E502, E503 and E512."""
        self._check_names(given)
        return {name: traced_input(name, x, q, name in self.floats) for name, x in given.items()}

    def traced_sizes(self, sizes: Mapping[str, Any]) -> dict[str, Any]:
        """The sizes of a call as an operator takes them: an extent that is a symbol stays one, so that one graph serves
        them all. Raises E502 and E503."""
        self._check_names(sizes)
        for name, extent in sizes.items():
            if isinstance(extent, bool) or not isinstance(extent, (int, np.integer, torch.SymInt)):
                raise fail("E503", f"sizes: {name} must be an integer, not {shown(extent)}")
        return {name: int(x) if isinstance(x, np.integer) else x for name, x in sizes.items()}

    def _check_names(self, names: Iterable[str]) -> None:
        for name in names:
            if not name.isidentifier():
                raise fail("E502", f"{self._pattern.name!r} takes no input and has no axis called {name!r}")


def _is_float(p: Parameter) -> bool:
    return p.type is Type.FLOAT and p.when == "call"

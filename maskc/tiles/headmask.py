"""The mask of one head and one batch entry, and what is found out once about its nodes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from maskc.ir.binding import Binding
from maskc.ir.evaluate import evaluate, kept
from maskc.ir.nodes import Node, Symbol, postorder
from maskc.ir.program import Parameter
from maskc.ir.schedule import free_indices
from maskc.tiles.budget import Budget

__all__ = ["HeadMask"]

Array = npt.NDArray[Any]
T = TypeVar("T")


@dataclass(eq=False)
class HeadMask:
    """The mask of one head and one batch entry under a binding. ``budget``: what pays for what is found out once and
    for all."""

    mask: Node
    binding: Binding
    params: tuple[Parameter, ...]
    head: int = 0
    batch: int = 0
    _fields: dict[Any, Any] = field(default_factory=dict)
    budget: Budget | None = None

    @functools.cached_property
    def order(self) -> list[Node]:
        return list(postorder([self.mask]))

    @functools.cached_property
    def domains(self) -> Mapping[str, tuple[str | int, ...]]:
        return {p.name: p.domain for p in self.params}

    @functools.cached_property
    def free(self) -> dict[Node, frozenset[Node]]:
        return free_indices([self.mask])

    def points(self, q: Array, k: Array) -> Array:
        """The mask at absolute positions that broadcast; bool."""
        return kept(self.mask, self.binding, q=q, k=k, h=self.head, b=self.batch, params=self.params)

    def points_of(self, node: Node, positions: Array, name: str) -> Array:
        """A node that speaks of the query alone (``name`` "q") or of the key alone, at positions, (n,)."""
        zero = np.zeros(1, np.int64)
        q, k = (positions, zero) if name == "q" else (zero, positions)
        value = evaluate(node, self.binding, q=q, k=k, h=self.head, b=self.batch, params=self.params)
        return np.broadcast_to(value, positions.shape)

    @functools.cached_property
    def uses(self) -> dict[Node, frozenset[str]]:
        """The variables among q and k that each node depends on."""
        uses: dict[Node, frozenset[str]] = {}
        for node in self.order:
            own = {node.name} & {"q", "k"} if isinstance(node, Symbol) else set()
            uses[node] = frozenset(own).union(*(uses[c] for c in node.children))
        return uses

    def uses_of(self, node: Node) -> frozenset[str]:
        """As ``uses``, for any node."""
        if node not in self.uses:
            for each in postorder([node]):
                own = {each.name} & {"q", "k"} if isinstance(each, Symbol) else set()
                self.uses[each] = frozenset(own).union(*(self.uses[c] for c in each.children))
        return self.uses[node]

    def free_of(self, node: Node) -> frozenset[Node]:
        """The indices of ``Exists`` that a node speaks of."""
        if node not in self.free:
            self.free.update(free_indices([node]))
        return self.free[node]

    def size_of(self, node: Node) -> int:
        """How many nodes there are below a node."""
        return self._once(("size", node), lambda: sum(1 for _ in postorder([node])))

    def _once(self, key: Any, make: Callable[[], T]) -> T:
        """``make()``, kept as long as the plan is made."""
        if key not in self._fields:
            self._fields[key] = make()
        return self._fields[key]  # type: ignore[no-any-return]

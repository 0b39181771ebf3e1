"""By what masks differ beside the positions of a query and a key: what a proof or a comparison speaks of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from maskc.ir.nodes import Lookup, Node, Size, Symbol, postorder

if TYPE_CHECKING:
    from maskc.ir.program import Program

__all__ = ["varying"]


def varying(program: Program, roots: Iterable[Node]) -> frozenset[str]:
    """What the masks ``roots`` of a program may differ by: any of "head", "layer", "batch", "lengths" (of queries and
    of keys), and "inputs", whose values may be others in another batch entry."""
    found: set[str] = set()
    for node in postorder(tuple(roots)):
        if isinstance(node, Symbol):
            found.add({"h": "head", "b": "batch"}.get(node.name, node.name))
        elif isinstance(node, Size) and node.name in ("q", "k"):
            found.add("lengths")
        elif isinstance(node, Lookup):
            p = program.parameter(node.name)
            found.update(d for d in p.domain if isinstance(d, str))
            found.update(["inputs"] if p.when == "call" else [])
    return frozenset(found) & {"head", "layer", "batch", "lengths", "inputs"}

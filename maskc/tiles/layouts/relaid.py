"""The tiles of a mask in an order of the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.ir.nodes import Apply, Const, Lookup, Node, Symbol, Type, postorder
from maskc.ir.ops import apply
from maskc.ir.program import Parameter
from maskc.ir.rewrite import rebuild, substitute
from maskc.passes.linear import Linear, linear, linear_node
from maskc.tiles.budget import Budget
from maskc.tiles.classify import Classifier
from maskc.tiles.grid import Grid, Rectangles
from maskc.tiles.layouts.classes import tiles_by_class
from maskc.tiles.layouts.orders import block_tiles
from maskc.tiles.layouts.suggest import Layout
from maskc.tiles.subdivide import subdivide

__all__ = ["tiles_in_order"]

Array = npt.NDArray[Any]


def tiles_in_order(c: Classifier, layout: Layout, grid: Grid, budget: Budget) -> Rectangles:
    """The FULL and PARTIAL tiles of the mask in a layout's order."""
    found = None if layout.blocks is None else block_tiles(c, layout.blocks, grid, budget)
    if found is not None:
        return found
    relaid, grid = _relaid(c, layout, grid), Grid(grid.q_len, grid.k_len, grid.q_tile, grid.k_tile, 0)
    found = tiles_by_class(relaid, grid, budget)
    return subdivide(relaid, grid, None, budget) if found is None else found


def _relaid(c: Classifier, layout: Layout, grid: Grid) -> Classifier:
    """The mask over laid-out positions: all that it says of the query alone, or of the key alone, becomes a
    table over positions."""
    mask = rebuild(c.mask, _apart)
    indices = {"q": layout.q_index + grid.offset, "k": layout.k_index}
    tables: dict[str, Array] = {}
    params: list[Parameter] = []
    mapping: dict[Node, Node] = {}
    for node, name in _one_sided(mask):
        place = indices[name].astype(np.int64)
        values = Classifier(node, c.binding, c.params, c.head, c.batch).points_of(node, place, name)
        table = f"{name}{len(tables)}"
        tables[table] = values
        params.append(Parameter(table, node.type, (name,)))
        mapping[node] = Lookup(table, node.type, (Symbol(name),))
    mask = _from_first_query(substitute(mask, mapping), c.params, grid.offset)
    known = {n.name for n in postorder([mask]) if isinstance(n, Lookup)}
    rest = {n: t for n, t in c.binding.tables.items() if n in known and n not in tables}
    binding = c.binding.replace(cross=True, q_start=None, tables={**rest, **tables})
    return Classifier(mask, binding, (*params, *(p for p in c.params if p.name not in tables)), c.head, c.batch)


def _from_first_query(mask: Node, params: Sequence[Parameter], offset: int) -> Node:
    """The mask for positions of queries that count from the first one given: what is left to look up by query, along
    with something else, has indices that count from the first token."""
    by_query = {p.name: p.domain for p in params if "q" in p.domain}

    def moved(node: Node) -> Node:
        if not (isinstance(node, Lookup) and node.name in by_query):
            return node
        pairs = zip(by_query[node.name], node.indices, strict=True)
        indices = tuple(apply("sub", i, Const(offset)) if d == "q" else i for d, i in pairs)
        return Lookup(node.name, node.type, indices)

    return rebuild(mask, moved) if offset and by_query else mask


def _apart(node: Node) -> Node:
    """``(a - b) % m == c`` as ``a % m == (b + c) % m``, where ``a`` speaks of the query and ``b`` of the key."""
    if not (isinstance(node, Apply) and node.op in ("eq", "ne") and node.args[0].type is Type.INT):
        return node
    for x, y in (node.args, node.args[::-1]):
        if not (isinstance(x, Apply) and x.op == "mod" and isinstance(x.args[1], Const) and isinstance(y, Const)):
            continue
        modulus, wanted = int(x.args[1].value), int(y.value)
        form = linear(x.args[0])
        sides = [(term, _names(term[0])) for term in form.terms]
        if modulus <= 0 or not 0 <= wanted < modulus or any(len(n) > 1 for _, n in sides):
            continue
        q = Linear(tuple(t for t, n in sides if "q" in n))
        k = form.plus(q, -1)
        left = apply("mod", linear_node(q), Const(modulus))
        right = apply("mod", linear_node(k.times(-1).plus(Linear((), wanted))), Const(modulus))
        return apply(node.op, left, right)
    return node


def _names(node: Node) -> set[str]:
    return {n.name for n in postorder([node]) if isinstance(n, Symbol) and n.name in ("q", "k")}


def _one_sided(mask: Node) -> list[tuple[Node, str]]:
    """The largest expressions that speak of the query alone or of the key alone."""
    names: dict[Node, set[str]] = {}
    for node in postorder([mask]):
        own = {node.name} if isinstance(node, Symbol) else set()
        names[node] = own.union(*(names[c] for c in node.children))
    found: dict[Node, str] = {}
    stack = [mask]
    seen: set[Node] = set()
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        free = {n for n in names[node] if n[:1] == "i"}
        positions = names[node] & {"q", "k"}
        if len(positions) == 1 and not free:
            found[node] = positions.pop()
        else:
            stack.extend(node.children)
    return list(found.items())

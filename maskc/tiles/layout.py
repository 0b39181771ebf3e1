"""Token orders that make tiles dense: residue classes, blocks of grids, tokens sorted by label.

An order is chosen by counting, exactly, the tiles that are left to compute. It is applied to q, k and v, and undone on
the output: position ``i`` of the laid-out sequence holds token ``index[i]``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskc.diagnostics import Diagnostic, MaskcError
from maskc.ir.nodes import Apply, Const, Lookup, Node, Symbol, Type, postorder
from maskc.ir.ops import apply
from maskc.ir.program import Parameter, Space
from maskc.ir.rewrite import rebuild, substitute
from maskc.passes.linear import Linear, linear, linear_node
from maskc.tiles.blocks import BlockOrder, Relations, best_orders, block_tiles, relations
from maskc.tiles.classify import Classifier
from maskc.tiles.plan import Order
from maskc.tiles.subdivide import Budget, Grid, Rectangles, subdivide

if TYPE_CHECKING:
    from maskc.tiles.plan import TilePlan

__all__ = ["LAYOUTS", "Layout", "best_layout", "candidates", "tiles_in_order"]

Array = npt.NDArray[Any]
#: What ``layout=`` may say, besides "none" and "auto".
LAYOUTS = ("residues", "sorted", "blocks")


@dataclass(frozen=True, eq=False)
class Layout:
    """A pair of token orders, and, for blocks of a grid, what makes planning in it cheap."""

    kind: str
    detail: str
    q_index: Array
    k_index: Array
    blocks: tuple[BlockOrder, BlockOrder] | None = None

    @property
    def name(self) -> str:
        return f"{self.kind}({self.detail})"

    def orders(self, reason: str) -> tuple[Order, Order]:
        return (
            Order(self.name, self.q_index.astype(np.int32), reason),
            Order(self.name, self.k_index.astype(np.int32), reason),
        )


def candidates(c: Classifier, grid: Grid, spaces: tuple[Space, Space], kinds: tuple[str, ...]) -> Iterator[Layout]:
    """The orders that the mask suggests."""
    if "residues" in kinds:
        for modulus in _moduli(c.mask):
            if 1 < modulus <= min(grid.q_len, grid.k_len) // 2:
                q = np.argsort((np.arange(grid.q_len) + grid.offset) % modulus, kind="stable")
                yield Layout("residues", str(modulus), q, np.argsort(np.arange(grid.k_len) % modulus, kind="stable"))
    if "sorted" in kinds:
        for name in _labels(c):
            values = np.asarray(c.binding.tables[name])
            if (values[1:] < values[:-1]).any():
                shown = values[grid.offset : grid.offset + grid.q_len]
                yield Layout("sorted", name, np.argsort(shown, kind="stable"), np.argsort(values, kind="stable"))
    if "blocks" in kinds:
        extents = _grid_extents(c, spaces)
        found = relations(c, extents) if extents else None
        orders = best_orders(found, grid.q_tile, grid.k_tile) if found else None
        if orders and extents:
            detail = " / ".join("x".join(map(str, o.shape)) for o in orders)
            yield Layout("blocks", detail, orders[0].index(extents), orders[1].index(extents), orders)


def _moduli(mask: Node) -> list[int]:
    """Moduli of differences of the query's and the key's position."""
    found = set()
    for node in postorder([mask]):
        if isinstance(node, Apply) and node.op == "mod" and isinstance(node.args[1], Const):
            names = {n.name for n in postorder([node.args[0]]) if isinstance(n, Symbol)}
            if names >= {"q", "k"}:
                found.add(int(node.args[1].value))
    return sorted(found)


def _labels(c: Classifier) -> list[str]:
    """Per-token inputs that are compared between the query and the key, the same for all batch entries."""
    found = set()
    for node in postorder([c.mask]):
        if isinstance(node, Apply) and node.op == "eq" and all(isinstance(a, Lookup) for a in node.args):
            a, b = node.args
            assert isinstance(a, Lookup)
            assert isinstance(b, Lookup)
            places = {i for x in (a, b) for i in x.indices}
            if a.name == b.name and a.name not in c.binding.batched and places == {Symbol("q"), Symbol("k")}:
                found.add(a.name)
    return sorted(n for n in found if c.domains[n] == ("token",))


def _grid_extents(c: Classifier, spaces: tuple[Space, Space]) -> tuple[int, ...] | None:
    """The extents if queries and keys run over all of the same grid."""
    b = c.binding
    if spaces[0] != spaces[1] or len(spaces[0].segments) != 1 or b.q_len != b.k_len:
        return None
    axes = spaces[0].segments[0].axes
    extents = tuple(b.size(a) for a in axes)
    return extents if len(axes) > 1 and int(np.prod(extents)) == b.k_len else None


def tiles_in_order(c: Classifier, layout: Layout, grid: Grid, budget: Budget) -> Rectangles:
    """The FULL and PARTIAL tiles of the mask in a layout's order."""
    if layout.blocks is not None:
        found = _relations_of(c, grid, layout)
        if found is not None:
            return block_tiles(found, *layout.blocks)
    return subdivide(_relaid(c, layout, grid), Grid(grid.q_len, grid.k_len, grid.q_tile, grid.k_tile, 0), None, budget)


def _relations_of(c: Classifier, grid: Grid, layout: Layout) -> Relations | None:
    assert layout.blocks is not None
    extents = _extents_of(layout.blocks[0])
    return relations(c, extents) if int(np.prod(extents)) == grid.k_len else None


def _extents_of(order: BlockOrder) -> tuple[int, ...]:
    n = len(order.shape)
    return tuple(max(r.start[i] + r.count[i] * r.block[i] for r in order.regions) for i in range(n))


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
    mask = substitute(mask, mapping)
    known = {n.name for n in postorder([mask]) if isinstance(n, Lookup)}
    rest = {n: t for n, t in c.binding.tables.items() if n in known and n not in tables}
    binding = c.binding.replace(cross=True, tables={**rest, **tables})
    return Classifier(mask, binding, (*params, *(p for p in c.params if p.name not in tables)), c.head, c.batch)


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


def unknown_layout(name: str) -> MaskcError:
    words = ", ".join(("none", "auto", *LAYOUTS))
    return MaskcError(Diagnostic("E502", f"no layout is called {name!r}", hint=f"there are: {words}"))


def best_layout(plan: TilePlan, budget: int) -> tuple[str, float] | None:
    """The layout that "auto" takes and how many times fewer pairs it executes; None if it leaves the order."""
    from maskc.tiles.planner import make_plan
    from maskc.tiles.statistics import tile_counts

    def executed(p: TilePlan) -> int:
        return sum(sum(tile_counts(g.runs)) * len(g.heads) * len(g.batches) for g in p.groups)

    try:
        other = make_plan(
            plan.program, plan.binding, q_tile=plan.q_tile, k_tile=plan.k_tile, layout="auto", budget=budget
        )
    except MaskcError:
        return None
    if other.q_order.name == "none" or not executed(other):
        return None
    return other.q_order.name, executed(plan) / executed(other)

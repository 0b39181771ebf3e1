"""What is known when compiling is put in: scalars, sizes, the layer, heads and look-ups in tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from maskc.ir.alternatives import alternatives, constant_cases, written_out
from maskc.ir.nodes import Const, Exists, Lookup, Node, Param, Size, Symbol, Type, postorder
from maskc.ir.ops import disjunction
from maskc.ir.program import Parameter, Program
from maskc.ir.rewrite import map_program, rebuild, substitute
from maskc.ir.size import MAX_ALTERNATIVES, MAX_WRITTEN, too_many
from maskc.passes import normalise
from maskc.passes.fold import fold_node

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Tables = Mapping[str, npt.NDArray[np.generic]]

__all__ = ["Left", "bind", "unroll"]


def bind(
    program: Program,
    *,
    args: Mapping[str, bool | int | float] = {},
    layer: int | None = None,
    heads: int | None = None,
    head: int | None = None,
    sizes: Mapping[str, int] = {},
    tables: Tables | None = None,
) -> Program:
    """The normal form of the program with everything that is given put in; the rest stays open.

    Args:
        args: scalar parameters, enumerations as integers. They leave the signature.
        layer, heads, head: values of ``layer``, ``heads`` and ``h``.
        sizes: values of ``Size``: ``q`` and ``k`` too, if they are to be fixed.
        tables: compile-time tables; look-ups whose indices come out constant are put in.

    Raises:
        MaskcError: E508 if ``any`` has more than 4096 alternatives in all, or more than 16,384 operators and operands
            when they are written out.
    """
    known: dict[Node, Node] = {Size(name): Const(int(value)) for name, value in sizes.items()}
    for name, value in (("layer", layer), ("heads", heads), ("h", head)):
        if value is not None:
            known[Symbol(name)] = Const(int(value))
    for p in program.params:
        if p.is_scalar and p.name in args:
            known[Param(p.name, p.type)] = _constant(args[p.name], p.type)
    given = tables or {}
    static = {p.name: given[p.name] for p in program.params if p.when == "compile" and p.name in given}
    left = Left()

    def specialise(node: Node) -> Node:
        node = substitute(node, known)
        while True:
            before = node
            node = fold_node(unroll(_look_up(fold_node(node), static), left))
            if node is before:
                return node

    bound = map_program(program, specialise)
    return normalise(bound.replace(params=tuple(_without(p, args) for p in program.params if p.name not in args)))


def _without(p: Parameter, args: Mapping[str, Any]) -> Parameter:
    """The declaration with the extents that are known now as numbers."""
    from dataclasses import replace

    domain = tuple(int(args[d]) if isinstance(d, str) and d in args else d for d in p.domain)
    return replace(p, domain=domain) if domain != p.domain else p


def _constant(value: Any, type_: Type) -> Const:
    return Const({Type.BOOL: bool, Type.INT: int, Type.FLOAT: float}[type_](value))


def _look_up(node: Node, tables: Tables) -> Node:
    def read(n: Node) -> Node:
        if not (isinstance(n, Lookup) and n.name in tables and all(isinstance(i, Const) for i in n.indices)):
            return n
        table = tables[n.name]
        if 0 in table.shape:
            return _constant(0, n.type)
        wanted = [int(i.value) for i in n.indices if isinstance(i, Const)]
        place = tuple(min(max(i, 0), extent - 1) for i, extent in zip(wanted, table.shape, strict=True))
        return _constant(table[place], n.type)

    return rebuild(node, read)


@dataclass
class Left:
    """How many alternatives there may still be, and how many operators and operands of them."""

    alternatives: int = MAX_ALTERNATIVES
    written: int = MAX_WRITTEN


def unroll(node: Node, left: Left | None = None) -> Node:
    """``node`` with every ``any`` of a constant count as an ``|`` of its alternatives, the innermost first.

    ``left`` is counted down. Raises MaskcError E508.
    """
    if not any(isinstance(n, Exists) and isinstance(n.count, Const) for n in postorder([node])):
        return node
    budget = Left() if left is None else left
    budget.alternatives -= int(alternatives(node, constant_cases))
    if budget.alternatives < 0:
        raise too_many()
    budget.written -= int(written_out(node, constant_cases))
    if budget.written < 0:
        raise too_many(written=True)

    def expand(n: Node) -> Node:
        if not isinstance(n, Exists) or not isinstance(n.count, Const):
            return n
        return disjunction(substitute(n.body, {n.index: Const(i)}) for i in range(int(n.count.value)))

    return rebuild(node, expand)

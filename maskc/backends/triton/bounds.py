"""How large the integers of a program can get, whatever the lengths: what decides on 32 or 64 bits and on signs."""

from __future__ import annotations

from collections.abc import Iterable

from maskc.ir.interval import MAX_TOKENS, Interval, intervals
from maskc.ir.nodes import Apply, Node, Size, Symbol, Type, postorder
from maskc.ir.program import Program

__all__ = ["fits_int32", "integer_bounds"]

_INT32 = (-(1 << 31), (1 << 31) - 1)
_SYMBOLS: dict[str, Interval] = {
    "q": (0, MAX_TOKENS - 1),
    "k": (0, MAX_TOKENS - 1),
    "h": (0, (1 << 16) - 1),
    "heads": (1, 1 << 16),
    "b": (0, (1 << 24) - 1),
    "layer": (0, (1 << 16) - 1),
}


def fits_int32(bounds: Interval) -> bool:
    """Whether 32 bits with sign hold every value."""
    return bounds[0] >= _INT32[0] and bounds[1] <= _INT32[1]


def integer_bounds(roots: Iterable[Node], program: Program) -> dict[Node, Interval]:
    """Bounds of every node below ``roots``. Inputs are taken to be int32 unless their range is declared."""
    roots = tuple(roots)
    known: dict[Node | str, Interval] = {Symbol(name): range_ for name, range_ in _SYMBOLS.items()}
    # A kernel runs where there are queries and keys: then no axis of a grid that is all of them is empty.
    alone = {s.segments[0].axes for s in (program.q_space, program.k_space) if len(s.segments) == 1}
    some = {axis for axes in alone for axis in axes} | {"q", "k"}
    sizes = [n for n in postorder(roots) if isinstance(n, Size)]
    known.update({n: (int(n.name in some), MAX_TOKENS) for n in sizes})
    for p in program.params:
        if p.type is Type.INT:
            low = _INT32[0] if p.low is None else p.low
            high = _INT32[1] if p.high is None else p.high - 1
            known[p.name] = (0, len(p.labels) - 1) if p.labels else (low, high)
    found = intervals(roots, known)
    grids = [frozenset(s.axes) for s in (*program.q_space.segments, *program.k_space.segments)]
    # What a grid holds is no more than the sequence does, though each of its axes might be as long.
    found.update(
        {n: (found[n][0], MAX_TOKENS) for n in found if (axes := _product(n)) and any(axes <= grid for grid in grids)}
    )
    return found


def _product(node: Node) -> frozenset[str]:
    """The names of distinct sizes that ``node`` is the product of; none if it is anything else."""
    if isinstance(node, Size):
        return frozenset({node.name})
    if isinstance(node, Apply) and node.op == "mul":
        a, b = (_product(x) for x in node.args)
        return a | b if a and b and not a & b else frozenset()
    return frozenset()

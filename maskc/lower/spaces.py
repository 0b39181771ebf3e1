"""The coordinates that a space gives: segments and grid axes as functions of the position."""

from __future__ import annotations

from collections.abc import Mapping

from maskc.ir.nodes import Const, Node, Size, Symbol
from maskc.ir.ops import apply, conjunction, disjunction
from maskc.ir.program import Segment, Space
from maskc.lower.values import Coord, Value

__all__ = ["space_coordinates", "token_coordinate"]


def token_coordinate(cross: bool) -> Coord:
    """The position itself."""
    return Coord(lambda e: Value(e), (lambda: None) if cross else (lambda: Size("k")))


def space_coordinates(q_space: Space, k_space: Space) -> Mapping[str, Coord]:
    """Every segment name and axis of either space. A position of the query's is read in the
    query's space, any other in the key's; they differ only in cross-attention."""
    names = dict.fromkeys(n for s in (q_space, k_space) for seg in s.segments for n in (seg.name, *seg.axes) if n)
    return {name: _coordinate(name, q_space, k_space) for name in names}


def _coordinate(name: str, q_space: Space, k_space: Space) -> Coord:
    def at(e: Node) -> Value:
        return _read(name, q_space if _speaks_of_query(e) else k_space, e)

    return Coord(at, lambda: _extent(name, q_space, k_space))


def _speaks_of_query(e: Node) -> bool:
    stack = [e]
    while stack:
        node = stack.pop()
        if node is Symbol("q"):
            return True
        stack.extend(node.children)
    return False


def _product(sizes: tuple[Node, ...]) -> Node:
    total = sizes[0]
    for size in sizes[1:]:
        total = apply("mul", total, size)
    return total


def _extent(name: str, *spaces: Space) -> Node | None:
    for space in spaces:
        for segment in space.segments:
            if name == segment.name:
                return _product(segment.extents)
    return Size(name)


def _read(name: str, space: Space, e: Node) -> Value:
    """The coordinate's value at position ``e``, defined where the segments that have it are."""
    found: list[tuple[Node | None, Node]] = []
    start: Node | None = None
    for i, segment in enumerate(space.segments):
        end = _product(segment.extents) if start is None else apply("add", start, _product(segment.extents))
        if name == segment.name or name in segment.axes:
            here = e if start is None else apply("sub", e, start)
            inside = _inside(e, start, end, last=i == len(space.segments) - 1)
            found.append((inside, here if name == segment.name else _digit(name, segment, here)))
        start = end
    if not found:
        return Value(Const(0), Const(False))
    value = found[-1][1]
    for inside, here in reversed(found[:-1]):
        value = here if inside is None else apply("select", inside, here, value)
    known = [inside for inside, _ in found]
    return Value(value, None if None in known else disjunction([n for n in known if n is not None]))


def _inside(e: Node, start: Node | None, end: Node, last: bool) -> Node | None:
    """Whether ``e`` lies in the segment; what holds of every query and key is left out."""
    is_token = e in (Symbol("q"), Symbol("k"))
    bounds: list[Node] = []
    if start is not None or not is_token:
        bounds.append(apply("le", Const(0) if start is None else start, e))
    if not (last and is_token):
        bounds.append(apply("lt", e, end))
    return conjunction(bounds) if bounds else None


def _digit(axis: str, segment: Segment, e: Node) -> Node:
    """One digit of a row-major index."""
    at = segment.axes.index(axis)
    below = segment.extents[at + 1 :]
    value = apply("floordiv", e, _product(below)) if below else e
    return apply("mod", value, segment.extents[at]) if at else value

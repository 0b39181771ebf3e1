"""The coordinates that a space gives: segments and grid axes as functions of the position."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from maskc.ir.nodes import Const, Node, Size, Symbol, postorder
from maskc.ir.ops import apply, conjunction, disjunction
from maskc.ir.program import Segment, Space
from maskc.lower.values import Coord, Value, defined_value

__all__ = ["space_coordinates", "token_coordinate"]


def token_coordinate(cross: bool) -> Coord:
    """The position itself."""
    return Coord(lambda e: Value(e), (lambda: None) if cross else (lambda: Size("k")))


def space_coordinates(q_space: Space, k_space: Space, wants_number: Callable[[], bool]) -> Mapping[str, Coord]:
    """Every segment name and axis of either space. A position of the query's is read in the
    query's space, any other in the key's; they differ only in cross-attention.

    ``wants_number``: whether what is lowered is a score or another number, in which a coordinate counts as 0 where it
    is not defined; comparisons within it are false there all the same.
    """
    names = dict.fromkeys(n for s in (q_space, k_space) for seg in s.segments for n in (seg.name, *seg.axes) if n)
    q_places, k_places = _places(q_space), _places(k_space)
    known: dict[Node, bool] = {}

    def coordinate(name: str) -> Coord:
        def at(e: Node) -> Value:
            value = _read(name, q_places if _speaks_of_query(e, known) else k_places, e)
            return Value(defined_value(value), value.defined) if wants_number() else value

        return Coord(at, lambda: _extent(name, q_space, k_space))

    return {name: coordinate(name) for name in names}


def _speaks_of_query(e: Node, known: dict[Node, bool]) -> bool:
    """``known`` remembers the answers of all nodes below those that were asked about."""
    for node in postorder([e], known.__contains__):
        known[node] = node is Symbol("q") or any(known[c] for c in node.children)
    return known[e]


@dataclass(frozen=True)
class _Place:
    """Where a segment starts (None: at 0) and ends, and whether none follows."""

    segment: Segment
    start: Node | None
    end: Node
    last: bool


def _places(space: Space) -> tuple[_Place, ...]:
    made: list[_Place] = []
    start: Node | None = None
    for i, segment in enumerate(space.segments):
        size = _product(segment.extents)
        end = size if start is None else apply("add", start, size)
        made.append(_Place(segment, start, end, i == len(space.segments) - 1))
        start = end
    return tuple(made)


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


def _read(name: str, places: tuple[_Place, ...], e: Node) -> Value:
    """The coordinate's value at position ``e``, defined where the segments that have it are."""
    found: list[tuple[Node | None, Node]] = []
    for place in places:
        if name == place.segment.name or name in place.segment.axes:
            here = e if place.start is None else apply("sub", e, place.start)
            inside = _inside(e, place.start, place.end, place.last)
            found.append((inside, here if name == place.segment.name else _digit(name, place.segment, here)))
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

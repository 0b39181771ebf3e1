"""What an expression may be while it is lowered: a value, a coordinate, or a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from maskc.diagnostics import Span
from maskc.ir.nodes import TRUE, Const, Node, Type
from maskc.ir.ops import apply, conjunction
from maskc.ir.program import Parameter

__all__ = [
    "INDICES",
    "POISON",
    "Coord",
    "Frame",
    "Poison",
    "Table",
    "Value",
    "Valued",
    "both",
    "defined_value",
    "mask_of",
    "to_float",
    "where_defined",
]

#: What a place in each domain is called in an expression: a table over heads is read at `h`.
INDICES = {"head": "h", "layer": "layer", "batch": "b", "token": "q", "q": "q", "k": "k"}


@dataclass(frozen=True)
class Value:
    """A node, and where it means anything: ``defined`` is None where that is everywhere.

    ``labels`` are the enumerators' names if the value is one of an enumeration.
    """

    node: Node
    defined: Node | None = None
    labels: tuple[str, ...] = ()

    @property
    def type(self) -> Type:
        return self.node.type

    @property
    def kind(self) -> str:
        """How messages call it."""
        if self.labels:
            return "one of {" + ", ".join(self.labels) + "}"
        return {Type.INT: "an integer", Type.FLOAT: "a float", Type.BOOL: "a mask"}[self.type]


@dataclass(frozen=True)
class Coord:
    """A function of one position. ``extent`` gives one more than its largest value, if that is known."""

    at: Callable[[Node], Valued]
    extent: Callable[[], Node | None] = lambda: None
    kind: str = "a coordinate"


@dataclass(frozen=True)
class Table:
    """A table or input that is not yet indexed."""

    parameter: Parameter
    kind: str = "a table"


class Poison:
    """The value of an expression that was already reported; it makes no further errors."""

    kind = "an error"


POISON = Poison()
Valued = Value | Coord | Table | Poison


def both(*defined: Node | None) -> Node | None:
    """Where all are defined."""
    known = tuple(dict.fromkeys(d for d in defined if d is not None))
    return conjunction(known) if known else None


def mask_of(value: Value) -> Node:
    """A Boolean value as a mask: false where it is undefined."""
    return conjunction((value.defined, value.node)) if value.defined is not None else value.node


def defined_value(value: Value) -> Node:
    """A number with 0 where it is undefined."""
    if value.defined is None:
        return value.node
    zero: bool | int | float = {Type.INT: 0, Type.FLOAT: 0.0, Type.BOOL: False}[value.type]
    return apply("select", value.defined, value.node, Const(zero))


def to_float(value: Value) -> Value:
    """An integer as a float; a float as it is."""
    node = value.node
    if node.type is Type.INT:
        node = Const(float(node.value)) if isinstance(node, Const) else apply("float", node)
    return Value(node, value.defined)


def where_defined(defined: Node | None) -> Node:
    """Where something is defined, as a mask."""
    return TRUE if defined is None else defined


@dataclass(frozen=True)
class Frame:
    """A call being expanded: where it stands and what it calls."""

    name: str
    span: Span

"""All the nodes of the intermediate representation, on one page.

A node is immutable and interned: two nodes with equal fields are one object, so that
equality is ``is`` and every analysis may be memoised by identity.

=============  =====================================================================
``Const``      a Boolean, an integer or a float
``Symbol``     a quantity that the point being asked about fixes: see ``SYMBOLS``
``Size``       how many queries (``"q"``), keys (``"k"``), or positions along a named
               segment or grid axis there are
``Param``      a scalar parameter of the pattern, given when compiling
``Lookup``     an element of a table or of a per-token input
``Apply``      an operator of the ``OPS`` table on arguments
``Exists``     true if the body holds for some value of a bound index
=============  =====================================================================
"""

from __future__ import annotations

import enum
import hashlib
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, TypeVar, cast

from maskc.forks import new_lock

__all__ = [
    "FALSE",
    "SYMBOLS",
    "TRUE",
    "Apply",
    "Const",
    "Exists",
    "Lookup",
    "Node",
    "Param",
    "Size",
    "Symbol",
    "Type",
    "index_symbol",
    "postorder",
]


class Type(enum.Enum):
    """The type of a node's value. Enumerations are integers numbered in order of declaration."""

    INT = "int"
    FLOAT = "float"
    BOOL = "bool"


#: The symbols a program may speak of, with their types. ``q`` and ``k`` are absolute positions,
#: ``h`` the query head, ``b`` the batch entry, ``s`` the scaled score, ``o`` an output element.
SYMBOLS: dict[str, Type] = {
    "q": Type.INT,
    "k": Type.INT,
    "h": Type.INT,
    "b": Type.INT,
    "layer": Type.INT,
    "heads": Type.INT,
    "s": Type.FLOAT,
    "o": Type.FLOAT,
}

_interned: weakref.WeakValueDictionary[tuple[Any, ...], Node] = weakref.WeakValueDictionary()
_lock = new_lock()
_N = TypeVar("_N", bound="Node")


class Node:
    """Base of all nodes. ``type`` is the value's type, ``children`` the operands in order, ``depth`` how many nodes
    stand within one another at most, this one counted."""

    __slots__ = ("__weakref__", "_digest", "children", "depth", "type")
    fields: ClassVar[tuple[str, ...]] = ()
    type: Type
    children: tuple[Node, ...]
    depth: int
    _digest: str | None

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return _unpacked, (_packed(self),)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __copy__(self: _N) -> _N:
        return self

    def __deepcopy__(self: _N, memo: dict[int, Any]) -> _N:
        return self

    def __bool__(self) -> bool:
        raise TypeError("a node has no truth value; compare nodes with 'is'")

    @property
    def digest(self) -> str:
        """A hash of the structure, equal across processes; orders commutative operands."""
        for node in postorder([self], lambda n: n._digest is not None):
            leaf = [_leaf_key(getattr(node, f)) for f in node.fields if f not in _OPERAND_FIELDS]
            text = repr((type(node).__name__, leaf, [c._digest for c in node.children]))
            object.__setattr__(node, "_digest", hashlib.sha256(text.encode()).hexdigest())
        return cast(str, self._digest)

    def __repr__(self) -> str:
        inner = ", ".join(repr(getattr(self, f)) for f in self.fields)
        return f"{type(self).__name__}({inner})"


#: Fields that the operands' own digests stand for.
_OPERAND_FIELDS = frozenset({"args", "indices", "body", "count"})


def _packed(root: Node) -> tuple[tuple[Any, ...], ...]:
    """Every node below ``root``, operands first: its class and fields, with places in this list for the operands.
    Flat, so that pickling a deep graph does not exhaust the stack, and takes each shared node once."""
    places: dict[Node, int] = {}
    packed = []
    for node in postorder([root]):
        leaves = tuple(getattr(node, f) for f in node.fields if f not in _OPERAND_FIELDS)
        packed.append((type(node), leaves, tuple(places[c] for c in node.children)))
        places[node] = len(places)
    return tuple(packed)


def _unpacked(packed: tuple[tuple[Any, ...], ...]) -> Node:
    made: list[Node] = []
    for cls, leaves, places in packed:
        operands = tuple(made[p] for p in places)
        if cls is Exists:
            made.append(Exists(*leaves, *operands))
        elif cls is Apply:
            made.append(Apply(leaves[0], operands, leaves[1]))
        else:
            made.append(cls(*leaves, *([operands] if cls is Lookup else [])))
    return made[-1]


def _leaf_key(value: object) -> object:
    if isinstance(value, float):
        return ("float", value.hex())
    return (type(value).__name__, str(value))


def _intern(cls: type[_N], key: tuple[Any, ...], type_: Type, children: tuple[Node, ...], **fields: Any) -> _N:
    full = (cls, *key)
    with _lock:
        found = _interned.get(full)
        if found is None:
            found = object.__new__(cls)
            for name, value in fields.items():
                object.__setattr__(found, name, value)
            object.__setattr__(found, "type", type_)
            object.__setattr__(found, "children", children)
            object.__setattr__(found, "depth", 1 + max((c.depth for c in children), default=0))
            object.__setattr__(found, "_digest", None)
            _interned[full] = found
    return cast(_N, found)


class Const(Node):
    """A constant; its type is that of the Python value (``bool``, ``int`` or ``float``)."""

    __slots__ = ("value",)
    fields = ("value",)
    value: bool | int | float

    def __new__(cls, value: bool | int | float) -> Const:
        if isinstance(value, bool):
            type_: Type = Type.BOOL
        else:
            type_ = Type.INT if isinstance(value, int) else Type.FLOAT
        key = value.hex() if isinstance(value, float) else value
        return _intern(cls, (type_, key), type_, (), value=value)


class Symbol(Node):
    """One of ``SYMBOLS``, or the bound index ``i0``, ``i1``, ... of an ``Exists`` by depth."""

    __slots__ = ("name",)
    fields = ("name",)
    name: str

    def __new__(cls, name: str) -> Symbol:
        type_ = SYMBOLS.get(name)
        if type_ is None:
            if not (name[:1] == "i" and name[1:].isdigit()):
                raise ValueError(f"no symbol is called {name!r}")
            type_ = Type.INT
        return _intern(cls, (name,), type_, (), name=name)


def index_symbol(depth: int) -> Symbol:
    """The index bound by an ``Exists`` that has ``depth`` others around it."""
    return Symbol(f"i{depth}")


class Size(Node):
    """An extent: of the queries (``"q"``), of the keys (``"k"``), or of a named segment or axis."""

    __slots__ = ("name",)
    fields = ("name",)
    name: str

    def __new__(cls, name: str) -> Size:
        return _intern(cls, (name,), Type.INT, (), name=name)


class Param(Node):
    """A scalar parameter of the signature. Replaced by a ``Const`` when the pattern is bound."""

    __slots__ = ("name",)
    fields = ("name", "type")
    name: str

    def __new__(cls, name: str, type: Type) -> Param:
        return _intern(cls, (name, type), type, (), name=name)


class Lookup(Node):
    """``name[indices]``: an element of a table or input declared in the signature.

    Each index is clamped to its range (so that the language is total). A domain of ``token``,
    ``q`` or ``k`` is indexed by the absolute position; the batch entry is implied.
    """

    __slots__ = ("indices", "name")
    fields = ("name", "type", "indices")
    name: str
    indices: tuple[Node, ...]

    def __new__(cls, name: str, type: Type, indices: Iterable[Node]) -> Lookup:
        indices = tuple(indices)
        return _intern(cls, (name, type, indices), type, indices, name=name, indices=indices)


class Apply(Node):
    """An operator of ``maskc.ir.ops.OPS`` on arguments. Use ``maskc.ir.ops.apply`` to build one."""

    __slots__ = ("args", "op")
    fields = ("op", "args", "type")
    op: str
    args: tuple[Node, ...]

    def __new__(cls, op: str, args: Iterable[Node], type: Type) -> Apply:
        args = tuple(args)
        return _intern(cls, (op, args, type), type, args, op=op, args=args)


class Exists(Node):
    """True if ``body`` holds for some ``index`` in ``0 <= index < count``; false where ``count <= 0``."""

    __slots__ = ("body", "count", "index")
    fields = ("index", "count", "body")
    index: Symbol
    count: Node
    body: Node

    def __new__(cls, index: Symbol, count: Node, body: Node) -> Exists:
        return _intern(cls, (index, count, body), Type.BOOL, (count, body), index=index, count=count, body=body)


TRUE = Const(True)
FALSE = Const(False)


def postorder(roots: Iterable[Node], skip: Callable[[Node], bool] | None = None) -> Iterator[Node]:
    """Every node below ``roots``, each once, operands before the nodes that use them; but neither those that are to
    be skipped nor what is below them only.

    Iterative, so that a deep graph does not exhaust Python's stack.
    """
    seen: set[Node] = set()
    for root in roots:
        stack: list[tuple[Node, bool]] = [(root, False)]
        while stack:
            node, ready = stack.pop()
            if node in seen or (skip is not None and not ready and skip(node)):
                continue
            if ready:
                seen.add(node)
                yield node
            else:
                stack.append((node, True))
                stack.extend((c, False) for c in reversed(node.children) if c not in seen)

"""Expressions of the intermediate representation as Triton text.

An expression is written in two places. What depends only on the token that a program instance works
for (the queries of a forward kernel, the keys of dK and dV) is hoisted before the loop over tiles;
the rest stands in the loop. Rows and columns are shaped (n, 1) and (1, n), so that all broadcast.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from maskc.backends.triton.bounds import fits_int32, integer_bounds
from maskc.backends.triton.spelling import SPELLING, literal, literal_in_64_bits, single
from maskc.ir.interval import MAX_TOKENS
from maskc.ir.nodes import Apply, Const, Exists, Lookup, Node, Size, Symbol, Type, postorder
from maskc.ir.program import Parameter, Program

__all__ = ["Block", "Expressions", "Unsupported", "extent_name", "table_name", "without_brackets"]

_LONG = 64  # an expression whose text is longer gets a name of its own
_LOOP_NAMES = {"q": "row", "k": "column"}


class Unsupported(Exception):
    """An expression that cannot be written; the message is a clause for a ``Refusal``."""


@dataclass
class Block:
    """Lines of code at one place. ``names``: what is computed here already, and with floats of which type, "" where it
    has none; a nested block sees its parent's."""

    indent: int = 1
    parent: Block | None = None
    hoisted: bool = False
    lines: list[str] = field(default_factory=list)
    names: dict[tuple[Node, str], str] = field(default_factory=dict)

    def find(self, key: tuple[Node, str]) -> str | None:
        """The name of a node, if it is computed here or around here with floats of the type that is asked for."""
        found = self.names.get(key)
        return found if found is not None or self.parent is None else self.parent.find(key)

    def add(self, line: str) -> None:
        """One more line."""
        self.lines.append("    " * self.indent + line if line else "")

    def nested(self) -> Block:
        """A block inside this one; its lines are not yet part of it."""
        return Block(self.indent + 1, self, self.hoisted)


def table_name(name: str, params: Sequence[Parameter]) -> str:
    """The kernel's argument for a table: made from its name where that is ASCII, else from its place."""
    if re.fullmatch(r"[A-Za-z0-9_]{1,40}", name):
        return f"in_{name}"
    return f"in_{[p.name for p in params].index(name)}_"


def extent_name(name: str, dimension: int, params: Sequence[Parameter]) -> str:
    """The kernel's argument for an extent of a table: no table's own name starts like it."""
    return f"n{dimension}_of_{table_name(name, params)}"


class Expressions:
    """Writes expressions for one kernel.

    Args:
        program: for the signature; its scalar parameters are constants already.
        batched: names of the inputs with a batch dimension in front.
        outer: "q" or "k": the positions that a program instance works for.
        roots: everything that will be written, to see what is shared.
        head_by_row: the query head differs between the rows of a tile.
        by_entry: lengths differ between batch entries; look-ups by token end at the entry's own last one.

    ``used`` collects the kernel arguments that were mentioned, ``helpers`` the functions called.
    """

    def __init__(
        self,
        program: Program,
        batched: Iterable[str],
        outer: str,
        roots: Iterable[Node],
        head_by_row: bool = False,
        by_entry: bool = False,
    ) -> None:
        self._by_entry = by_entry
        self._program, self.params = program, program.params
        self.batched = frozenset(batched)
        self.outer = outer
        self.used: dict[str, None] = {}
        self.helpers: dict[str, None] = {}
        self.tables: dict[str, None] = {}
        self._head = frozenset({"q"}) if head_by_row else frozenset[str]()
        roots = list(roots)
        self._bounds = integer_bounds(roots, program)
        self._uses = Counter(c for n in postorder(roots) for c in n.children)
        self._float = "tl.float32"
        self._floats: dict[Node, bool] = {}
        self._depends: dict[Node, frozenset[str]] = {}
        for node in postorder(roots):
            self._depends[node] = self._joined(node)
        self._temporaries = 0

    def depends(self, node: Node) -> frozenset[str]:
        """Which of "q", "k", "o" and the indices of ``Exists`` the node's value depends on."""
        if node not in self._depends:
            for each in postorder([node]):
                self._depends.setdefault(each, self._joined(each))
        return self._depends[node]

    def write(self, node: Node, block: Block, before: Block, *, double: bool = False) -> str:
        """The text of ``node`` at the end of ``block``; hoisted parts go to ``before``.

        ``double``: floats are computed in 64 bits, as masks are compared. Raises Unsupported.
        """
        self._float = "tl.float64" if double else "tl.float32"
        self._before = before
        if node not in self._bounds:
            self._bounds.update(integer_bounds([node], self._program))
        return self._text(node, block)

    def write_array(self, node: Node, block: Block, before: Block) -> str:
        """As ``write``, of a float that Triton is to broadcast, which it does not with a number in its text."""
        text = self.write(node, block, before)
        return f"tl.cast({text}, tl.float32)" if isinstance(node, Const) else text

    def write_pairs(self, node: Node, block: Block, before: Block) -> str:
        """As ``write``, with a float for every pair of a tile, though ``node`` may speak of one side only, or of
        none."""
        text = self.write_array(node, block, before)
        if {"q", "k"} <= self.depends(node):
            return text
        return f"tl.broadcast_to({text}, {self._shape({'q', 'k'})})"

    def shape(self, node: Node) -> str:
        """The shape of the node's value as text, with both axes."""
        return self._shape(self.depends(node))

    def _shape(self, depends: Collection[str]) -> str:
        sides = [("q", "Q_TILE"), ("k", "K_TILE")]
        if self.outer == "k":
            sides.reverse()
        return "(" + ", ".join(tile if axis in depends else "1" for axis, tile in sides) + ")"

    def _joined(self, node: Node) -> frozenset[str]:
        depends = self._direct(node).union(*(self._depends[c] for c in node.children))
        return depends - {node.index.name} if isinstance(node, Exists) else depends

    def _direct(self, node: Node) -> frozenset[str]:
        if isinstance(node, Symbol):
            if node.name in ("h", "b", "layer", "heads"):
                return self._head if node.name == "h" else frozenset()
            return frozenset({"q", "k"}) if node.name == "s" else frozenset({node.name})
        return frozenset()

    def _key(self, node: Node) -> tuple[Node, str]:
        """What ``node`` is remembered by: a mask computes its floats in 64 bits, and a score the same ones in 32."""
        if node not in self._floats:
            for each in postorder([node]):
                self._floats[each] = each.type is Type.FLOAT or any(self._floats[c] for c in each.children)
        return node, self._float if self._floats[node] else ""

    def _text(self, node: Node, block: Block) -> str:
        found = block.find(self._key(node))
        if found is not None:
            return found
        if not node.children and not isinstance(node, Lookup):
            return self._leaf(node)
        if not block.hoisted and self.depends(node) <= {self.outer}:
            return self._hoist(node)
        text = self._raw(node, block)
        if self._uses[node] > 1 or len(text) > _LONG:
            return self._name(node, text, block, "pair" if {"q", "k"} <= self.depends(node) else "part")
        return text

    def _hoist(self, node: Node) -> str:
        block = self._before
        found = block.find(self._key(node))
        if found is not None:
            return found
        text = self._raw(node, block)
        stem = _LOOP_NAMES[self.outer] if self.depends(node) else "uniform"
        return self._name(node, text, block, stem)

    def _name(self, node: Node, text: str, block: Block, stem: str) -> str:
        if text.isidentifier():
            return text
        name = f"{stem}_{self._temporaries}"
        if isinstance(node, Lookup) and re.fullmatch(r"[A-Za-z0-9_]{1,40}", node.name):
            name = f"{node.name}_{stem}_{self._temporaries}"
        self._temporaries += 1
        block.add(f"{name} = {without_brackets(text)}")
        block.names[self._key(node)] = name
        return name

    def _leaf(self, node: Node) -> str:
        if isinstance(node, Const):
            return literal_in_64_bits(node.value) if self._float == "tl.float64" else literal(single(node.value))
        if isinstance(node, Size):
            return self._argument({"q": "q_len", "k": "k_len"}.get(node.name, f"size_{node.name}"))
        assert isinstance(node, Symbol)
        names = {"q": "q_pos", "k": "k_pos", "s": "score", "o": "out", "b": "b", "h": "h"}
        if node.name in ("layer", "heads"):
            return self._argument(node.name)
        return names.get(node.name, node.name)

    def _argument(self, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_]{1,60}", name):
            raise Unsupported(f"the name {name!r} has letters that kernels cannot spell")
        self.used[name] = None
        return name

    def _raw(self, node: Node, block: Block) -> str:
        if isinstance(node, Exists):
            return self._exists(node, block)
        if isinstance(node, Lookup):
            return self._lookup(node, block)
        assert isinstance(node, Apply)
        special = _SPECIAL.get(node.op)
        if special is not None:
            return special(self, node, block)
        operands = [self._text(a, block) for a in node.args]
        if node.type is Type.INT and node.op != "select" and not fits_int32(self._bounds[node]):
            operands = [self._wide(a, t) for a, t in zip(node.args, operands, strict=True)]
        if node.op in ("min", "max") and node.type is Type.FLOAT:
            return SPELLING[f"{node.op} of floats"](*operands)
        return SPELLING[node.op](*operands)

    def _wide(self, node: Node, text: str) -> str:
        return text if isinstance(node, Const) else f"tl.cast({text}, tl.int64)"

    def _division(self, node: Apply, block: Block) -> str:
        a, b = node.args
        x, y = self._text(a, block), self._text(b, block)
        if not (fits_int32(self._bounds[a]) and fits_int32(self._bounds[b])):
            x, y = self._wide(a, x), self._wide(b, y)
        low, divisor = self._bounds[a][0], self._bounds[b]
        zero = divisor[0] <= 0 <= divisor[1]
        if zero and divisor == (0, 0):
            return "0"
        safe = f"tl.where({y} == 0, 1, {y})" if zero else y
        if low >= 0 and divisor[0] >= 0:
            text = SPELLING[node.op](x, safe)
        elif (bits := _power_of_two(b)) is not None:
            # A shift and a mask of bits floor by themselves.
            text = f"({x} >> {bits})" if node.op == "floordiv" else f"({x} & {(1 << bits) - 1})"
        else:
            self.helpers[node.op] = None
            text = f"{node.op}({x}, {safe})"
        return f"tl.where({y} == 0, 0, {text})" if zero else text

    def _equal(self, node: Apply, block: Block) -> str:
        a, b = node.args
        if isinstance(b, Apply) and not isinstance(a, Apply):
            a, b = b, a
        divides = isinstance(a, Apply) and a.op == "mod" and isinstance(b, Const) and b.value == 0
        if divides and isinstance(a, Apply) and block.find(self._key(a)) is None and self._uses[a] == 1:
            positive = self._bounds[a.args[1]][0] > 0
            if positive and not self.depends(a) <= {self.outer}:
                # Whether a remainder is 0 does not depend on the rounding.
                x, y = (self._text(c, block) for c in a.args)
                return SPELLING[node.op](SPELLING["mod"](x, y), "0")
        return SPELLING[node.op](*(self._text(c, block) for c in node.args))

    def _hash(self, node: Apply, block: Block) -> str:
        self.helpers["mix"] = None
        state = "tl.cast(0x9E3779B9, tl.uint32)"
        for a in node.args:
            text = self._text(a, block)
            text = literal(int(a.value) & 0xFFFFFFFF) if isinstance(a, Const) else text
            state = f"mix({state}, {text})"
        return f"tl.cast({state} >> 1, tl.int32)"

    def _float_of(self, node: Apply, block: Block) -> str:
        return f"tl.cast({self._text(node.args[0], block)}, {self._float})"

    def _floor(self, node: Apply, block: Block) -> str:
        self.helpers["whole"] = None
        return f"whole({self._text(node.args[0], block)})"

    def _tanh(self, node: Apply, block: Block) -> str:
        self.helpers["tanh"] = None
        return f"tanh({self._text(node.args[0], block)})"

    def _pow(self, node: Apply, block: Block) -> str:
        base, exponent = (a.value if isinstance(a, Const) else None for a in node.args)
        if isinstance(exponent, float) and exponent == int(exponent) and 0 < abs(exponent) <= 8:
            x = self._text(node.args[0], block)
            product = "(" + " * ".join([x] * int(abs(exponent))) + ")"
            return product if exponent > 0 else f"(1.0 / {product})"
        if isinstance(base, float) and base > 0:
            return f"tl.exp2({literal(math.log2(base))} * {self._text(node.args[1], block)})"
        raise Unsupported("it raises to a power where neither the base nor a small whole exponent is a constant")

    def _exists(self, node: Exists, block: Block) -> str:
        if self.depends(node.count):
            raise Unsupported("an `any` has a number of cases that differs between tokens")
        count = self._text(node.count, block)
        name = f"any_{self._temporaries}"
        self._temporaries += 1
        inner = block.nested()
        body = self._text(node.body, inner)
        block.add(f"{name} = tl.full({self.shape(node)}, 0, tl.int1)")
        block.add(f"for {node.index.name} in range({count}):")
        block.lines.extend(inner.lines)
        inner.lines.clear()
        inner.add(f"{name} = {name} | {body}")
        block.lines.extend(inner.lines)
        block.names[self._key(node)] = name
        return name

    def _lookup(self, node: Lookup, block: Block) -> str:
        parameter = next(p for p in self.params if p.name == node.name)
        domain: tuple[str | int, ...] = parameter.domain
        indices: list[Node] = list(node.indices)
        if node.name in self.batched:
            domain, indices = ("batch", *domain), [Symbol("b"), *indices]
        self.tables[node.name] = None
        wide = not fits_int32((0, _largest(domain)))
        address = ""
        for d, (axis, index) in enumerate(zip(domain, indices, strict=True)):
            place = self._place(node.name, d, axis, index, block)
            place = f"tl.cast({place}, tl.int64)" if wide and d == 0 else place
            extent = self._argument(extent_name(node.name, d, self.params))
            address = f"({address} * {extent} + {place})" if address else place
        text = f"tl.load({self._argument(table_name(node.name, self.params))} + {address})"
        if node.type is Type.FLOAT:
            return f"tl.cast({text}, {self._float})"
        return f"({text} != 0)" if node.type is Type.BOOL else text

    def _place(self, name: str, dimension: int, axis: str | int, index: Node, block: Block) -> str:
        text = self._text(index, block)
        if isinstance(index, Symbol) and (axis, index.name) in (("head", "h"), ("batch", "b"), ("layer", "layer")):
            return text
        low = self._bounds.get(index, (0, 0))[0]
        if axis == "q":
            text, low = f"({text} - {self._argument('offset')})", -1
            if isinstance(index, Symbol) and index.name == "q":
                low = 0  # the position of a query that is present
        last = f"{self._argument(extent_name(name, dimension, self.params))} - 1"
        if self._by_entry and axis in ("token", "k"):
            last = f"tl.minimum(k_end, {last.removesuffix(' - 1')}) - 1"
        elif self._by_entry and axis == "q":  # the queries of a short entry are the last ones of the input
            text, low = f"tl.maximum({text}, -offset)", -1
        text = f"tl.minimum({text}, {last})"
        return text if low >= 0 else f"tl.maximum({text}, 0)"


def _largest(domain: tuple[str | int, ...]) -> int:
    sizes = {"head": 1 << 10, "layer": 1 << 10, "batch": 1 << 16}
    product = 1
    for d in domain:
        product *= d if isinstance(d, int) else sizes.get(d, MAX_TOKENS)
    return product


def _power_of_two(node: Node) -> int | None:
    """Of which power of 2 the node is the constant."""
    if isinstance(node, Const) and isinstance(node.value, int) and node.value > 0:
        return node.value.bit_length() - 1 if node.value & (node.value - 1) == 0 else None
    return None


def without_brackets(text: str) -> str:
    """``text`` without a pair of brackets around all of it."""
    depth = 0
    for i, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if depth == 0:
            return text[1:-1] if text.startswith("(") and i == len(text) - 1 else text
    return text


_SPECIAL = {
    "floordiv": Expressions._division,
    "mod": Expressions._division,
    "eq": Expressions._equal,
    "ne": Expressions._equal,
    "hash": Expressions._hash,
    "float": Expressions._float_of,
    "floor": Expressions._floor,
    "tanh": Expressions._tanh,
    "pow": Expressions._pow,
}

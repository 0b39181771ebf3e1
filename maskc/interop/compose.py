"""Programs put into a batch: padding, packed documents, caches that drop keys, and what a model adds to scores.

A pattern says what one text does. In a batch a text may start anywhere in its row, share the row
with others, and have lost its first keys to a cache. ``fit`` writes the program for that: positions
are counted from the start of each text, and keys of padding and of other texts are not kept.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from maskc.ir.nodes import Apply, Const, Lookup, Node, Size, Symbol, Type, postorder
from maskc.ir.ops import apply, conjunction
from maskc.ir.program import Parameter, Program
from maskc.ir.rewrite import map_program, rebuild, remake, substitute
from maskc.passes.fold import fold_node
from maskc.passes.linear import linear

__all__ = ["Fit", "at_layer", "caps", "fit", "is_relative", "looks_back", "numbers_heads", "reads_layer", "reads_sizes"]

_Q, _K, _B, _H, _S = (Symbol(name) for name in ("q", "k", "b", "h", "s"))


@dataclass(frozen=True)
class Fit:
    """How a text lies in its row. What is true adds the inputs named after it.

    Attributes:
        origin: position 0 of entry b's text is at key ``-origin[b]``: ``origin: int[batch]``.
        packed: several texts in a row: ``doc: int[token]`` and ``position: int[token]``.
        bounded: the keys from ``first[b]`` to ``last[b]`` (not included) are real.
        scattered: the keys where ``real: bool[token]`` are real.
        softcap: scores become ``softcap * tanh(s / softcap)`` first.
        sink: a softmax has the logits ``sink_logit: float[head]`` in its denominator.
        bias: ``bias: float[head, q, k]`` is added to the scores.
    """

    origin: bool = False
    packed: bool = False
    bounded: bool = False
    scattered: bool = False
    softcap: float | None = None
    sink: bool = False
    bias: bool = False


#: The inputs that ``fit`` adds are called so; the two underscores keep them apart from those of patterns.
PREFIX = "row__"

_DECLARED: dict[str, tuple[Type, tuple[str, ...]]] = {
    "origin": (Type.INT, ("batch",)),
    "doc": (Type.INT, ("token",)),
    "position": (Type.INT, ("token",)),
    "first": (Type.INT, ("batch",)),
    "last": (Type.INT, ("batch",)),
    "real": (Type.BOOL, ("token",)),
    "sink_logit": (Type.FLOAT, ("head",)),
    "bias": (Type.FLOAT, ("head", "q", "k")),
}


@functools.lru_cache(maxsize=256)
def fit(program: Program, how: Fit) -> Program:
    """The program that does to a row what ``program`` does to a text."""
    if how.packed:
        program = _move(program, lambda at: _input("position", at))
    elif how.origin:
        program = _move(program, lambda at: apply("add", at, _input("origin", _B)))
    clauses: list[Node] = []
    if how.packed:
        clauses.append(apply("eq", _input("doc", _Q), _input("doc", _K)))
    if how.bounded:
        clauses += [apply("le", _input("first", _B), _K), apply("lt", _K, _input("last", _B))]
    if how.scattered:
        clauses.append(_input("real", _K))
    mask = conjunction([program.mask, *clauses]) if clauses else program.mask
    return _declare(_scored(program.replace(mask=mask), how))


def _scored(program: Program, how: Fit) -> Program:
    first: Node = _S
    if how.softcap is not None:
        cap = Const(float(how.softcap))
        first = apply("mul", cap, apply("tanh", apply("div", first, cap)))
    if how.bias:
        first = apply("add", first, _input("bias", _H, _Q, _K))
    if first is not _S:
        program = program.replace(score=substitute(program.score, {_S: first}))
    if how.sink:
        program = program.replace(normalizer=replace(program.normalizer, sink=_input("sink_logit", _H)))
    return program


def _input(name: str, *indices: Node) -> Node:
    return Lookup(PREFIX + name, _DECLARED[name][0], indices)


def _declare(program: Program) -> Program:
    known = {p.name for p in program.params}
    used = {n.name for n in postorder(program.roots()) if isinstance(n, Lookup)}
    added = [
        Parameter(PREFIX + name, type_, domain)
        for name, (type_, domain) in _DECLARED.items()
        if PREFIX + name in used and PREFIX + name not in known
    ]
    return program.replace(params=(*program.params, *added))


def _move(program: Program, place: Callable[[Node], Node]) -> Program:
    """The program with positions counted from the start of the text. Inputs by token stay indexed by the row's."""
    moved = {_Q: place(_Q), _K: place(_K)}
    places = _places(program)

    def move(root: Node) -> Node:
        done: dict[Node, Node] = {}
        for node in postorder([root]):
            if isinstance(node, Lookup):
                fixed = places.get(node.name, ())
                done[node] = remake(node, tuple(i if d in fixed else done[i] for d, i in enumerate(node.indices)))
            else:
                done[node] = moved[node] if node in moved else remake(node, tuple(done[c] for c in node.children))
        return done[root]

    return map_program(program, move)


def _places(program: Program) -> dict[str, tuple[int, ...]]:
    """The dimensions of each input that are indexed by a place in the row."""
    return {p.name: tuple(i for i, d in enumerate(p.domain) if d in ("token", "q", "k")) for p in program.params}


def _symbols(nodes: Iterable[Node]) -> set[str]:
    return {n.name for n in postorder(nodes) if isinstance(n, Symbol)}


@functools.lru_cache(maxsize=256)
def is_relative(program: Program) -> bool:
    """Whether everything depends on ``q - k`` alone, so that it is the same wherever a text starts."""
    places = _places(program)
    return all(_relative(root, places) for root in program.roots())


def _relative(root: Node, places: dict[str, tuple[int, ...]]) -> bool:
    pending, seen = [root], set[Node]()
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        if isinstance(node, Lookup):
            # An input by token is indexed by the place in the row, which does not move.
            fixed = places.get(node.name, ())
            pending += [i for d, i in enumerate(node.indices) if d not in fixed]
        elif node.type is Type.INT:
            form = linear(node)
            if sum(f for a, f in form.terms if a in (_Q, _K)):
                return False
            atoms = [a for a, _ in form.terms if a not in (_Q, _K)]
            pending += node.children if atoms == [node] else atoms
        elif len(node.children) == 2 and all(c.type is Type.INT for c in node.children) and isinstance(node, Apply):
            pending.append(apply("sub", *node.children))
        else:
            pending += node.children
    return True


def reads_layer(program: Program) -> bool:
    """Whether layers differ."""
    return "layer" in _symbols(program.roots())


@functools.lru_cache(maxsize=1024)
def at_layer(program: Program, layer: int) -> Program:
    """What the program does in one layer, without speaking of it: the same program for layers that do the same."""
    known: dict[Node, Node] = {Symbol("layer"): Const(layer)}
    return map_program(program, lambda node: fold_node(substitute(node, known)))


@functools.lru_cache(maxsize=256)
def numbers_heads(program: Program) -> bool:
    """Whether heads differ otherwise than by what calls give for each of them, such as learned sinks."""

    def given(node: Node) -> Node:
        if isinstance(node, Lookup) and program.parameter(node.name).when == "call":
            return remake(node, tuple(Const(0) if i == _H else i for i in node.indices))
        return node

    roots = map_program(program, lambda root: rebuild(root, given)).roots()
    return bool(_symbols(roots) & {"h", "heads"})


def reads_sizes(program: Program) -> bool:
    """Whether the number of queries or keys matters, or a space does."""
    sized = any(isinstance(n, Size) for n in postorder(program.roots()))
    return sized or bool(program.q_space.segments or program.k_space.segments)


@functools.lru_cache(maxsize=256)
def looks_back(program: Program) -> bool:
    """Whether an input by token is looked up elsewhere than at the query or the key, or a fixed number behind them.

    Once a cache has dropped keys there are inputs for those alone that are left: a place before them is clamped to
    the first of these, and a place that counts from the start of the row is another one.
    """
    return any(
        domain == "token" and not _at_or_behind(place)
        for node in postorder(program.roots())
        if isinstance(node, Lookup)
        for domain, place in zip(program.parameter(node.name).domain, node.indices, strict=True)
    )


def _at_or_behind(place: Node) -> bool:
    form = linear(place)
    return form.constant >= 0 and form.terms in (((_Q, 1),), ((_K, 1),))


def caps(program: Program) -> bool:
    """Whether the scores are capped smoothly (by ``tanh``) already."""
    return any(getattr(n, "op", "") == "tanh" for n in postorder([program.score]))

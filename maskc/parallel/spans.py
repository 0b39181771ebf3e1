"""Which stretches of the keys a rank keeps beside one another, so that each of its chunks attends over one of them.

A chunk attends over keys from the first of the sequence on, where the mask knows them by their position. Where it only
compares positions, or inputs at them, it says the same of tokens that are counted from the first key that is seen; so a
window takes as many keys as it is long, wherever it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from maskc.ir.nodes import Const, Lookup, Node, Size, Symbol, postorder
from maskc.ir.ops import apply
from maskc.ir.program import Parameter, Program
from maskc.ir.rewrite import map_program, rebuild, substitute
from maskc.parallel.needs import Needs
from maskc.parallel.partitions import Chunk
from maskc.passes import normalise

__all__ = ["Kept", "View", "kept", "reads_tokens_alone", "same_from"]

Array = npt.NDArray[Any]
_POSITIONS = ("token", "q", "k")
_TOKENS = {Symbol("q"), Symbol("k")}


class View(NamedTuple):
    """A chunk attends over keys ``first`` to ``end`` (excluded), which are kept from ``place`` on."""

    chunk: Chunk
    first: int
    end: int
    place: int


@dataclass(frozen=True, eq=False)
class Kept:
    """The keys that a rank keeps: those of all ``views``, ``length`` in all, of which ``starts`` and ``places`` say
    where each stretch starts in the sequence and where it is kept."""

    views: tuple[View, ...]
    length: int
    starts: Array
    places: Array

    def at(self, position: Array) -> Array:
        """Where keys at these positions are kept."""
        stretch = np.searchsorted(self.starts, position, "right") - 1
        return np.asarray(position - self.starts[stretch] + self.places[stretch])


def kept(needs: Needs, rank: int, program: Program) -> Kept:
    """What ``rank`` keeps. ``program``: in its normal form, with its arguments put in."""
    # A rank without tokens attends for no query: it takes part in what is sent, in backward passes too.
    chunks, length = needs.division.chunks[rank] or (Chunk(0, 0),), needs.division.length
    spans = needs.spans[rank] or ((0, 0),)
    wanted = [_keys_of(c, span, length, program) for c, span in zip(chunks, spans, strict=True)]
    stretches: list[tuple[int, int]] = []
    for first, end in sorted(wanted):
        if stretches and first <= stretches[-1][1]:
            stretches[-1] = stretches[-1][0], max(end, stretches[-1][1])
        else:
            stretches.append((first, end))
    starts = np.array([first for first, _ in stretches], np.int64)
    sizes = np.array([end - first for first, end in stretches], np.int64)
    found = Kept((), int(sizes.sum()), starts, np.cumsum(sizes) - sizes)
    places = found.at(np.array([first for first, _ in wanted], np.int64)).tolist()
    views = [View(c, *keys, place) for c, keys, place in zip(chunks, wanted, places, strict=True)]
    return Kept(tuple(views), found.length, found.starts, found.places)


def _keys_of(chunk: Chunk, span: tuple[int, int], length: int, program: Program) -> tuple[int, int]:
    if not reads_tokens_alone(program):
        return 0, length
    first, end = chunk
    if span[1]:
        first, end = min(first, span[0]), max(end, span[1])
    return first if first and same_from(program, first) else 0, end


def reads_tokens_alone(program: Program) -> bool:
    """Whether the program knows a token by its position and by inputs there: nothing of how many there are, or of other
    tokens."""
    if program.k_space.segments or any(isinstance(n, Size) for n in postorder(_meaning(program))):
        return False
    params = {p.name: p for p in program.params}
    looked_up = (n for n in postorder(_meaning(program)) if isinstance(n, Lookup))
    return all(i in _TOKENS for n in looked_up for i in _at_tokens(params[n.name], n))


def same_from(program: Program, first: int) -> bool:
    """Whether the program, which ``reads_tokens_alone``, says the same of tokens that are counted from ``first`` on."""
    later: dict[Node, Node] = {token: apply("add", token, Const(first)) for token in _TOKENS}
    params, back = {p.name: p for p in program.params}, {moved: token for token, moved in later.items()}

    def move(root: Node) -> Node:
        return rebuild(substitute(root, later), lambda n: _read_from(n, params, back))

    moved = normalise(map_program(program, move))
    return _meaning(moved) == _meaning(program)


def _read_from(node: Node, params: dict[str, Parameter], back: dict[Node, Node]) -> Node:
    """Look-ups of tokens in inputs that begin where tokens are counted from."""
    if not isinstance(node, Lookup):
        return node
    domain = params[node.name].domain
    indices = (back.get(i, i) if d in _POSITIONS else i for d, i in zip(domain, node.indices, strict=True))
    return Lookup(node.name, node.type, indices)


def _meaning(program: Program) -> tuple[Node, ...]:
    """What computes results; claims do not."""
    sink = () if program.normalizer.sink is None else (program.normalizer.sink,)
    return (program.mask, program.score, *sink, program.output)


def _at_tokens(p: Parameter, node: Lookup) -> Iterable[Node]:
    return [i for d, i in zip(p.domain, node.indices, strict=True) if d in _POSITIONS]

"""How a sequence is divided among ranks, so that all hold as many tokens and are done at the same time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskc.arguments import by_name, expect, integer, shown
from maskc.diagnostics import fail
from maskc.parallel.assign import balanced, contiguous
from maskc.parallel.partitions import EXCHANGE, Chunk, Partition
from maskc.parallel.seen import Seen, costs_of
from maskc.tiles.plan import TilePlan

if TYPE_CHECKING:
    from maskc.op import Op

__all__ = ["METHODS", "divide", "one_sequence", "partition", "tile_for"]

Array = npt.NDArray[Any]

#: How chunks are given to ranks; "auto" takes the best.
METHODS = ("auto", "contiguous", "balanced")
_PARTS = (1, 2, 4, 8, 16)  # chunks for each rank that are tried
_BETTER = 0.99  # more chunks are taken where they cost no more than this share


def partition(
    ops: Op | Sequence[Op],
    length: int,
    ranks: int,
    *,
    method: str = "auto",
    parts: int | None = None,
    exchange: float = EXCHANGE,
    batch: int | None = None,
    sizes: Mapping[str, int] | None = None,
    inputs: Mapping[str, Any] | None = None,
    **more: Any,
) -> Partition:
    """Divide the tokens of a sequence among ranks, for self-attention by one op or by those of a model's layers.

    Each rank gets as many tokens as the others (or one more, where the length is no multiple), in a few chunks. All is
    known from the plans of the masks: nothing is measured, and every process comes to the same.

    Args:
        ops: what attends; of a model, the op of each layer, whose work is added up.
        length: number of tokens.
        ranks: among how many they are divided, at most ``length``.
        method: "contiguous": one stretch for each rank, which exchange least; "balanced": chunks such that all ranks
            have nearly the same work; "auto": what takes least by the cost model.
        parts: chunks for each rank; None: what takes least, up to 16.
        exchange: what receiving a key costs, in pairs that a query head computes in that time.
        batch, sizes, inputs, more: as for ``Op.plan``; inputs are of the whole sequence, and each op gets those that it
            has.

    Raises MaskcError: E503, E504 of what ranks, parts and so on cannot be; E702 for attention of one sequence over
    another; and as ``Op.plan`` does.
    """
    from maskc.op import Op

    length = integer("length", length, 1)
    ranks = integer("ranks", ranks, 1, length)
    every = [ops] if isinstance(ops, Op) else ops
    expect("ops", every, Sequence, "an op of maskc.compile, or a sequence of them")
    for op in every:
        expect("ops", op, Op, "an op of maskc.compile, or a sequence of them")
        one_sequence(op)
    tile, given = tile_for(length, ranks), by_name("inputs", inputs, more)
    own = {id(op): {p.name for p in op.program.params} for op in every}
    unknown = given.keys() - set().union(*own.values())  # by any op: an error of the first
    plans: dict[int, TilePlan] = {}
    for op in every:
        if id(op) not in plans:
            mine = {n: x for n, x in given.items() if n in own[id(op)] | unknown}
            known: dict[str, Any] = {"batch": batch, "sizes": sizes, "inputs": mine}
            plans[id(op)] = op.plan(length, length, q_tile=tile, k_tile=tile, layout="none", **known)
    if not plans:
        raise fail("E504", "there is no op to divide a sequence for")
    return divide([plans[id(op)] for op in every], ranks, method=method, parts=parts, exchange=exchange)


def one_sequence(op: Op) -> None:
    """Raises E702 for an op of cross-attention."""
    if op.program.cross:
        hint = "give every rank all keys and its share of the queries: op(q, k, v)"
        raise fail("E702", f"queries and keys of {op.pattern.name!r} are two sequences, and one is divided", hint)


def tile_for(length: int, ranks: int) -> int:
    """The tiles of the plan by which ``length`` tokens are divided: small ones where ranks have few tokens."""
    tile = 128
    while tile > 8 and -(-length // tile) < 4 * ranks:
        tile //= 2
    return tile


def divide(
    plans: Sequence[TilePlan],
    ranks: int,
    *,
    method: str = "auto",
    parts: int | None = None,
    exchange: float = EXCHANGE,
) -> Partition:
    """Divide the tokens of ``plans``: each of as many queries as keys, in their own order. Arguments as for
    ``partition``."""
    length = plans[0].binding.k_len
    if any(p.binding.cross or p.binding.q_len != length or p.q_order.index is not None for p in plans):
        raise fail("E702", "only whole sequences, in the tokens' own order, are divided among ranks")
    ranks, price = integer("ranks", ranks, 1, max(1, length)), _price(exchange)
    if method not in METHODS:
        raise fail("E503", f"method must be one of {', '.join(METHODS)}, not {shown(method)}")
    if parts is not None:
        parts = integer("parts", parts, 1, max(1, length // ranks))
    tried = _PARTS if parts is None else (parts,)
    if method == "contiguous" and parts is None:
        tried = (1,)
    best: tuple[float, Partition] | None = None
    for count in tried:
        if best is not None and count * ranks > min(plans[0].rows, length):
            break
        found = _Chunked(plans, ranks, count)
        for name in ("contiguous", "balanced") if method == "auto" else (method,):
            if name == "balanced" and method == "auto" and count == 1:
                continue  # whatever rank has which: the same
            owner = found.owner(name)
            takes = found.takes(owner, price)
            if best is None or takes < best[0] * _BETTER:
                best = takes, found.partition(owner, name, price)
    assert best is not None
    return best[1]


def _price(exchange: Any) -> float:
    """Raises E503 and E504."""
    if isinstance(exchange, bool) or not isinstance(exchange, (int, float, np.integer, np.floating)):
        raise fail("E503", f"exchange must be a number, not {shown(exchange)}")
    if not 0 <= exchange < math.inf:
        raise fail("E504", f"exchange must be finite, and 0 or more, not {shown(exchange)}")
    return float(exchange)


class _Chunked:
    """Plans whose queries are divided into chunks of one size, give or take a token."""

    def __init__(self, plans: Sequence[TilePlan], ranks: int, parts: int) -> None:
        self._ranks, self._length = ranks, plans[0].binding.k_len
        self._bounds = np.arange(ranks * parts + 1, dtype=np.int64) * self._length // (ranks * parts)
        unlike = list({id(p): p for p in plans}.values())
        times = [sum(p is x for x in plans) for p in unlike]
        self._cost = np.zeros(ranks * parts)
        self._seen = []
        for plan, count in zip(unlike, times, strict=True):
            self._cost += costs_of(plan, self._bounds) * count
            copies = sum(len(g.heads) * len(g.batches) for g in plan.groups) * count
            self._seen.append((Seen(plan, self._bounds), copies))

    def owner(self, method: str) -> Array:
        """The rank of each chunk."""
        if method == "contiguous":
            return contiguous(self._cost.size, self._ranks)
        return balanced(self._cost, np.diff(self._bounds), self._ranks)

    def _mine(self, owner: Array) -> list[Array]:
        return [np.flatnonzero(owner == rank) for rank in range(self._ranks)]

    def _work(self, owner: Array) -> Array:
        return np.bincount(owner, weights=self._cost, minlength=self._ranks)

    def takes(self, owner: Array, price: float) -> float:
        """What the slowest rank takes, in pairs."""
        received = [sum(copies * seen.received(mine) for seen, copies in self._seen) for mine in self._mine(owner)]
        return float((self._work(owner) + price * np.array(received)).max())

    def partition(self, owner: Array, method: str, price: float) -> Partition:
        """The partition in which chunk ``i`` is held by rank ``owner[i]``."""
        mine = self._mine(owner)
        received = [max(seen.received(chunks) for seen, _ in self._seen) for chunks in mine]
        chunks = tuple(self._merged(each) for each in mine)
        return Partition(self._length, chunks, self._work(owner), np.array(received, np.int64), method, price)

    def _merged(self, chunks: Array) -> tuple[Chunk, ...]:
        """Chunks, of which neighbours are one."""
        groups = np.split(chunks, np.flatnonzero(np.diff(chunks) > 1) + 1)
        return tuple(Chunk(int(self._bounds[g[0]]), int(self._bounds[g[-1] + 1])) for g in groups)

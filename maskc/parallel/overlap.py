"""In how many groups of heads keys are sent: those of the next ones are on their way while a group is computed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from maskc.ir.nodes import Const, Lookup, Node, Symbol, postorder
from maskc.ir.program import Parameter, Program
from maskc.ir.rewrite import rebuild
from maskc.parallel.needs import Needs

__all__ = ["groups_of", "heads_are_alike"]

#: What a call of an op costs beside its pairs, in pairs that a query head computes in that time: 100 microseconds of
#: the host's, at 400 TFLOP/s and 512 operations a pair. Not measured.
_CALL = 8e7
#: Queries times heads that a GPU is left without half of, on average, when a call ends: 132 multiprocessors have a tile
#: of 128 each.
_AT_ONCE = 132 * 128


def heads_are_alike(program: Program) -> bool:
    """Whether nothing tells heads apart but inputs that come with calls, which can be divided as heads are."""
    params = {p.name: p for p in program.params}
    if any(p.when == "compile" and "head" in p.domain for p in program.params):
        return False
    roots = [rebuild(root, lambda n: _of_any_head(n, params)) for root in program.roots()]
    return not {Symbol("h"), Symbol("heads")}.intersection(postorder(roots))


def _of_any_head(node: Node, params: Mapping[str, Parameter]) -> Node:
    if not isinstance(node, Lookup):
        return node
    indexed = zip(params[node.name].domain, node.indices, strict=True)
    return Lookup(node.name, node.type, (Const(0) if d == "head" and i is Symbol("h") else i for d, i in indexed))


def groups_of(needs: Needs, batch: int, heads: int, kv_heads: int, most: int | None) -> int:
    """The number of groups, a divisor of ``kv_heads``: what takes least by the model of costs, the same for every rank;
    with ``most`` the greatest up to this."""
    able = [count for count in range(1, kv_heads + 1) if kv_heads % count == 0]
    if most is not None:
        return max(count for count in able if count <= most)
    return min(able, key=lambda count: _takes(needs, batch * heads, count))


def _takes(needs: Needs, heads: int, groups: int) -> float:
    """What the slowest rank takes, in pairs: the first group arrives, and then what is slower of computing and of
    what else arrives. ``heads``: of all batch entries."""
    division, sent = needs.division, needs.received * (needs.division.exchange * heads)
    calls = np.array([len(chunks) for chunks in division.chunks]) * groups
    each = needs.work / (division.tokens * heads).clip(1)  # pairs of a query of a head
    computing = needs.work + calls * (_CALL + _AT_ONCE / 2 * each)
    first = sent / groups
    return float((first + np.maximum(computing, sent - first + computing / groups)).max())

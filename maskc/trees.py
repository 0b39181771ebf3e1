"""Trees and graphs as inputs of patterns: who is whose ancestor, and who is whose neighbour.

enter, exit = maskc.trees.tree_intervals(parents)
op = maskc.compile("pattern p(enter: int[token], exit: int[token]) { attend ancestor(enter, exit) }", heads=8)
out = op(q, k, v, enter=enter, exit=exit)
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from maskc.arguments import shown
from maskc.diagnostics import Diagnostic, MaskcError, fail

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Int = npt.NDArray[np.int64]

__all__ = ["adjacency", "neighbours", "parents_of", "tree_intervals"]


def tree_intervals(tree: Any, nodes: Sequence[Hashable] | None = None) -> tuple[Int, Int]:
    """When a depth-first walk enters and leaves every token's node: int64 arrays (N,), (N,).

    Token ``a`` is an ancestor of token ``d``, or ``d`` itself, exactly where
    ``enter[a] <= enter[d] < exit[a]``; ``exit[a] - enter[a]`` is the size of the subtree.

    Args:
        tree: the parent of each token as a sequence of integers, -1 for a root (there may be several);
            or a directed networkx graph whose edges lead from parent to child.
        nodes: the graph's node of each token, in the order of the tokens; by default the graph's order.

    Raises MaskcError: E503 and E505 where parents are no integers, E504 where it is not a forest or a parent is out of
    range.
    """
    import numpy as np

    parents = parents_of(tree, nodes) if hasattr(tree, "pred") or hasattr(tree, "adj") else _parent_list(tree)
    children: list[list[int]] = [[] for _ in parents]
    stack: list[int] = []
    for token, parent in enumerate(parents):
        (stack if parent < 0 else children[parent]).append(token)
    stack.reverse()
    enter = np.full(len(parents), -1, np.int64)
    order: list[int] = []
    while stack:
        token = stack.pop()
        enter[token] = len(order)
        order.append(token)
        stack.extend(reversed(children[token]))
    if len(order) < len(parents):
        token = int(np.flatnonzero(enter < 0)[0])
        raise fail("E504", f"token {token} is its own ancestor", "a tree has no cycles; the parent of a root is -1")
    size = np.ones(len(parents), np.int64)
    for token in reversed(order):
        if parents[token] >= 0:
            size[parents[token]] += size[token]
    return enter, enter + size


def parents_of(tree: Any, nodes: Sequence[Hashable] | None = None) -> list[int]:
    """The parent's token of every token, -1 for roots, of a directed networkx graph from parent to child.

    Raises MaskcError: E504 where a node has two parents or the graph is undirected.
    """
    if not tree.is_directed():
        raise fail(
            "E504", "an undirected graph says nothing of parents", "give a networkx.DiGraph from parent to child"
        )
    index = _index(tree, nodes)
    parents = [-1] * len(index)
    for node, token in index.items():
        above = [p for p in tree.predecessors(node) if p in index]
        if len(above) > 1:
            raise fail("E504", f"the node {node!r} has {len(above)} parents", "in a tree it has one at most")
        if above:
            parents[token] = index[above[0]]
    return parents


def adjacency(graph: Any, nodes: Sequence[Hashable] | None = None, *, loops: bool = True) -> npt.NDArray[np.bool_]:
    """The edges as a bool array (N, N), for an input ``bool[q, k]``: [q, k] is true where an edge leads from q to k.

    Args:
        graph: a networkx graph; an undirected one leads both ways.
        nodes: the graph's node of each token, in order; by default the graph's order.
        loops: whether every token sees itself.
    """
    import numpy as np

    out = np.zeros((len(_index(graph, nodes)),) * 2, np.bool_)
    for token, others in enumerate(_successors(graph, nodes)):
        out[token, others] = True
    if loops:
        np.fill_diagonal(out, True)
    return out


def neighbours(graph: Any, nodes: Sequence[Hashable] | None = None, *, loops: bool = True, width: int = 0) -> Int:
    """The neighbours of every token as an int64 array (N, width), padded with -1, for an input ``int[token, n]``.

    Args:
        graph, nodes, loops: as for ``adjacency``.
        width: the number of columns; 0: as many as the largest neighbourhood needs (at least one).

    Raises MaskcError: E505 where a neighbourhood has more than ``width`` tokens.
    """
    import numpy as np

    rows = [sorted({*others, *([token] if loops else [])}) for token, others in enumerate(_successors(graph, nodes))]
    most = max((len(r) for r in rows), default=0)
    if width and most > width:
        raise fail("E505", f"a token has {most} neighbours, more than width={width}")
    out = np.full((len(rows), width or max(most, 1)), -1, np.int64)
    for token, row in enumerate(rows):
        out[token, : len(row)] = row
    return out


def _successors(graph: Any, nodes: Sequence[Hashable] | None) -> Iterable[list[int]]:
    index = _index(graph, nodes)
    for node in index:
        yield [index[other] for other in graph.adj[node] if other in index]


def _index(graph: Any, nodes: Sequence[Hashable] | None) -> dict[Hashable, int]:
    if not hasattr(graph, "nodes"):
        raise TypeError(f"the graph must be one of networkx, not {shown(graph)}")
    listed = list(graph.nodes) if nodes is None else list(nodes)
    index = {node: token for token, node in enumerate(listed)}
    if len(index) < len(listed):
        raise fail("E504", "a node stands for two tokens", "list every node once")
    for node in listed:
        if node not in graph:
            raise fail("E504", f"the graph has no node {node!r}", "list nodes of the graph")
    return index


def _parent_list(tree: Any) -> list[int]:
    from maskc.tiles.values import integers

    found = integers("tree", list(tree) if isinstance(tree, Iterable) and not hasattr(tree, "ndim") else tree)
    if found.ndim != 1:
        raise MaskcError(Diagnostic("E505", f"tree: expected the parent of each token, (N,), found {found.shape}"))
    parents: list[int] = found.tolist()
    for token, parent in enumerate(parents):
        if not -1 <= parent < len(parents):
            raise fail(
                "E504", f"the parent of token {token} is {parent}", f"it must be a token below {len(parents)}, or -1"
            )
    return parents

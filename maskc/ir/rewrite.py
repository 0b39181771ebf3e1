"""Changing expressions: every traversal is iterative and works on each shared node once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from maskc.ir.nodes import Apply, Exists, Lookup, Node, Symbol, postorder
from maskc.ir.ops import apply
from maskc.ir.program import Program

__all__ = ["Rule", "Trace", "map_program", "mentions", "rebuild", "remake", "rewrite", "substitute"]

#: A rule gives the node to put in place of another, or None where it does not apply.
Rule = Callable[[Node], "Node | None"]
#: Called with the rule's name, the node before and the node after.
Trace = Callable[[str, Node, Node], None]


def remake(node: Node, children: tuple[Node, ...]) -> Node:
    """The same node with other operands; ``and`` and ``or`` stay flat."""
    if children == node.children:
        return node
    if isinstance(node, Apply):
        return apply(node.op, *children)
    if isinstance(node, Lookup):
        return Lookup(node.name, node.type, children)
    if isinstance(node, Exists):
        return Exists(node.index, children[0], children[1])
    raise TypeError(f"{node!r} has no operands")


def rebuild(root: Node, fn: Callable[[Node], Node], known: dict[Node, Node] | None = None) -> Node:
    """``fn`` applied to every node bottom-up, operands first. ``known`` remembers the results between calls."""
    done = {} if known is None else known
    for node in postorder([root]):
        if node not in done:
            done[node] = fn(remake(node, tuple(done[c] for c in node.children)))
    return done[root]


def substitute(root: Node, mapping: Mapping[Node, Node]) -> Node:
    """``root`` with every node that is a key of ``mapping`` replaced; what is put in is not searched again."""
    done: dict[Node, Node] = {}
    for node in postorder([root]):
        done[node] = mapping[node] if node in mapping else remake(node, tuple(done[c] for c in node.children))
    return done[root]


def rewrite(root: Node, rules: Iterable[Rule], *, fuel: int = 64, trace: Trace | None = None) -> Node:
    """``root`` with the first rule that applies put to work at each node, bottom-up, until none applies anywhere.

    ``fuel`` bounds the rounds: rules that go round in a circle raise RuntimeError.
    """
    rules = tuple(rules)

    def step(node: Node) -> Node:
        for rule in rules:
            after = rule(node)
            if after is not None and after is not node:
                if trace is not None:
                    trace(rule.__name__, node, after)
                return after
        return node

    for _ in range(fuel):
        after = rebuild(root, step)
        if after is root:
            return root
        root = after
    raise RuntimeError(f"the rules do not come to rest: {[r.__name__ for r in rules]}")


def mentions(roots: Iterable[Node]) -> dict[Node, frozenset[str]]:
    """For every node below ``roots`` the names of the symbols that it speaks of."""
    found: dict[Node, frozenset[str]] = {}
    for node in postorder(roots):
        own = frozenset({node.name}) if isinstance(node, Symbol) else frozenset()
        found[node] = own.union(*(found[c] for c in node.children))
    return found


def map_program(program: Program, fn: Callable[[Node], Node]) -> Program:
    """The program with ``fn`` applied to each of its expressions."""
    from dataclasses import replace

    sink = program.normalizer.sink
    return program.replace(
        mask=fn(program.mask),
        score=fn(program.score),
        normalizer=program.normalizer if sink is None else replace(program.normalizer, sink=fn(sink)),
        output=fn(program.output),
        assertions=tuple(a if a.claim is None else replace(a, claim=fn(a.claim)) for a in program.assertions),
    )

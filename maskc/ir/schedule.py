"""In which order an expression is computed, how many values it takes at once, and how much work it is.

Values are dropped after their last use, and the operands of ``&`` and ``|`` are folded in one by one, so that a mask
of thousands of terms needs the memory of a few. What a loop of ``Exists`` says without its index is computed before it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from maskc.ir.nodes import Apply, Exists, Node, Symbol, postorder
from maskc.ir.ops import OPS

__all__ = ["Schedule", "Step", "free_indices", "outside_exists", "schedule"]


@dataclass(frozen=True)
class Step:
    """Compute ``node``; or, if ``operand`` is not None, fold that operand into what there is of it.

    ``body``: of an ``Exists``, what is done for each case. ``last``: what is not needed after this. ``pairs``: whether
    the node speaks of both the query and the key.
    """

    node: Node
    operand: int | None = None
    body: Schedule | None = None
    last: tuple[Node, ...] = ()
    pairs: bool = True

    @property
    def op(self) -> str:
        assert isinstance(self.node, Apply)
        return self.node.op


@dataclass(frozen=True)
class Schedule:
    """The steps that compute ``root`` from the nodes ``given``. ``live``: values that there are at once, at most."""

    root: Node
    steps: tuple[Step, ...]
    given: tuple[Node, ...]
    live: int

    def work(self, cases: Callable[[Node], int]) -> int:
        """Array operations in all. ``cases``: of an ``Exists``, from its count."""
        return sum(_weight(s) if s.body is None else _cases(s, cases) * (2 + s.body.work(cases)) for s in self.steps)


def _cases(step: Step, cases: Callable[[Node], int]) -> int:
    assert isinstance(step.node, Exists)
    return max(0, cases(step.node.count))


#: Operations of a step, where it is not one, by what NumPy takes: a hash mixes each of its operands in, a look-up
#: clips each index and gathers, integers are divided without vectors, and a sine of a large angle reduces it first.
_HASH, _LOOKUP = 8, 4
_OTHERS = {"floordiv": 8, "mod": 8, "abs": 4, "div": 4, "sqrt": 4, "log": 4, "log2": 4}
_OTHERS |= {"exp": 8, "exp2": 8, "tanh": 8, "sigmoid": 8, "pow": 8, "floor": 8, "sin": 48, "cos": 48}


#: And what speaks of one position takes so much less: once a row or a column, where all pairs of a tile are evaluated.
_ALONE = 4


def _weight(step: Step) -> int:
    node = step.node
    if not isinstance(node, Apply):
        whole = _LOOKUP * len(node.children)
    else:
        whole = _HASH * len(node.args) if node.op == "hash" else _OTHERS.get(node.op, 1)
    return whole if step.pairs else -(-whole // _ALONE)


@functools.lru_cache(maxsize=32)
def schedule(root: Node) -> Schedule:
    """How to compute ``root``."""
    return _schedule(root, (), free_indices([root]), frozenset())


def _schedule(
    root: Node, given: tuple[Node, ...], free: Mapping[Node, frozenset[Node]], bound: frozenset[Node]
) -> Schedule:
    """``given``: what is known before; ``bound``: the indices of the loops around."""
    ordered, bodies = list[tuple[Node, int | None]](), dict[Node, Schedule]()
    stack: list[tuple[Node, int | None, bool]] = [(root, None, False)]
    seen = set(given) | bound
    while stack:
        node, operand, ready = stack.pop()
        if ready:
            ordered.append((node, operand))
            if operand is None or operand == len(node.children) - 1:
                seen.add(node)
        elif node in seen:
            continue
        elif _folds(node):
            for i in range(len(node.children) - 1, -1, -1):
                stack += [(node, i, True), (node.children[i], None, False)]
        else:
            if isinstance(node, Exists):
                outer = _outer(node, free, bound)
                bodies[node] = _schedule(node.body, outer, free, bound | {node.index})
            stack.append((node, None, True))
            stack.extend((c, None, False) for c in reversed(_needs(node, bodies)) if c not in seen)
    return _with_last_uses(root, ordered, bodies, given, bound)


def _folds(node: Node) -> bool:
    """Whether the operands may be taken one by one."""
    if not isinstance(node, Apply) or len(node.args) < 3:
        return False
    op = OPS[node.op]
    return op.arity is None and "associative" in op.laws


def _needs(node: Node, bodies: Mapping[Node, Schedule]) -> tuple[Node, ...]:
    return (node.count, *bodies[node].given) if isinstance(node, Exists) else node.children


def _outer(node: Exists, free: Mapping[Node, frozenset[Node]], bound: frozenset[Node]) -> tuple[Node, ...]:
    """The largest parts of the body that speak of no index but those of the loops around ``node``."""
    found: dict[Node, None] = {}
    stack, seen = [node.body], set[Node]()
    while stack:
        each = stack.pop()
        if each in seen:
            continue
        seen.add(each)
        if node.index not in free[each] and free[each] <= bound:
            found[each] = None
        else:
            stack.extend(each.children)
    return tuple(found)


def _is_wide(node: Node) -> bool:
    """Whether a leaf has a value for every point: constants, sizes and indices have one in all."""
    return isinstance(node, Symbol) and node.name[:1] != "i" and node.name not in ("layer", "heads")


def _with_last_uses(
    root: Node,
    ordered: list[tuple[Node, int | None]],
    bodies: Mapping[Node, Schedule],
    given: tuple[Node, ...],
    bound: frozenset[Node],
) -> Schedule:
    steps: list[Step] = []
    uses = _positions([root])
    kept = {root, *given, *bound}
    for node, operand in reversed(ordered):
        used = _needs(node, bodies) if operand is None else (node.children[operand],)
        last = tuple(dict.fromkeys(n for n in used if n not in kept))
        kept.update(last)
        steps.append(Step(node, operand, bodies.get(node), last, uses[node] == {"q", "k"}))
    steps.reverse()
    wide = {n for n in postorder([root]) if _is_wide(n)}
    for node in postorder([root]):
        if any(c in wide for c in node.children):
            wide.add(node)
    alive, most = 0, 1
    for step in steps:
        alive += step.operand in (None, 0) and step.node in wide
        # A loop holds what it has found beside what its body takes, of which the given values are counted already.
        inner = 0 if step.body is None else 2 + step.body.live
        most = max(most, alive + inner)
        alive -= sum(n in wide for n in step.last)
    return Schedule(root, tuple(steps), given, most)


def _positions(roots: Iterable[Node]) -> dict[Node, frozenset[str]]:
    """For every node below ``roots``: which of the query and the key it speaks of."""
    uses: dict[Node, frozenset[str]] = {}
    for node in postorder(roots):
        own = {node.name} & {"q", "k"} if isinstance(node, Symbol) else set()
        uses[node] = frozenset(own).union(*(uses[c] for c in node.children))
    return uses


def free_indices(roots: Iterable[Node]) -> dict[Node, frozenset[Node]]:
    """For every node below ``roots``: the indices of enclosing ``Exists`` nodes that it speaks of."""
    free: dict[Node, frozenset[Node]] = {}
    for node in postorder(roots):
        if isinstance(node, Symbol):
            free[node] = frozenset({node}) if node.name[:1] == "i" else frozenset()
        elif isinstance(node, Exists):
            free[node] = free[node.count] | (free[node.body] - {node.index})
        else:
            free[node] = frozenset().union(*(free[c] for c in node.children))
    return free


def outside_exists(root: Node, known: Mapping[Node, object]) -> Iterable[Node]:
    """What is needed for ``root`` and not known, operands first, without entering bodies of ``Exists``."""
    seen: set[Node] = set()
    stack = [(root, False)]
    while stack:
        node, ready = stack.pop()
        if node in seen or node in known:
            continue
        if ready:
            seen.add(node)
            yield node
            continue
        stack.append((node, True))
        below = (node.count,) if isinstance(node, Exists) else node.children
        stack.extend((child, False) for child in below)

"""A mask as a Boolean combination of conditions that each speak of one digit of the query and one of the key.

Positions are replaced by sums of digits, and algebra does the rest: ``q // 80 % 48`` comes out as one digit, and
``q - k < 4000`` falls apart by carrying: the high digits decide, or are equal and the low digits do.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from maskc.ir.interval import Interval, intervals
from maskc.ir.nodes import FALSE, TRUE, Apply, Const, Exists, Node, Symbol, Type, postorder
from maskc.ir.ops import apply, conjunction, disjunction, negation
from maskc.ir.rewrite import rebuild, rewrite, substitute
from maskc.passes.fold import branches, operators
from maskc.passes.linear import Linear, bound_of, interval_of, linear, linear_node
from maskc.passes.simplify import quotients, sums
from maskc.tiles.layouts.digits import Axes

__all__ = ["Group", "Separated", "digit", "separate"]

_T = TypeVar("_T")
#: High digits that may differ by carrying; beyond that a comparison is left whole.
_MOST_CARRIES = 6
_AXIS = 500  # where the names of undivided axes start


def digit(side: str, j: int) -> Symbol:
    """The ``j``-th digit of the query's or the key's position."""
    return Symbol(f"i{(1000 if side == 'q' else 2000) + j}")


@dataclass(frozen=True)
class Group:
    """Digits of the query and of the key that atoms speak of together."""

    q: tuple[int, ...]
    k: tuple[int, ...]
    atoms: tuple[Node, ...]


@dataclass(frozen=True)
class Separated:
    """``mask``: a Boolean combination of the atoms of ``groups``, which are conditions on digits."""

    mask: Node
    groups: tuple[Group, ...]


@functools.lru_cache(maxsize=512)
def separate(mask: Node, q_axes: Axes, k_axes: Axes) -> Separated | None:
    """The mask between two segments, in their digits; None if it speaks of positions in another way.

    ``mask``: in normal form, with sizes and scalars put in.
    """
    if any(isinstance(n, Exists) for n in postorder([mask])):
        return None
    known: dict[Node | str, Interval] = {}
    axes_of = {"q": q_axes, "k": k_axes}
    whole, split = dict[Node, Node](), dict[Node, Node]()
    for side, axes in axes_of.items():
        whole[Symbol(side)] = _sum(axes.start, [(digit(side, _AXIS + a), s) for a, s in enumerate(axes.axis_strides)])
        for a, n in enumerate(axes.extents):
            known[digit(side, _AXIS + a)] = (0, n - 1)
            parts = [(j, s // axes.axis_strides[a]) for j, (s, _, axis) in enumerate(axes.digits) if axis == a]
            split[digit(side, _AXIS + a)] = _sum(0, [(digit(side, j), s) for j, s in parts])
        known.update({digit(side, j): (0, n - 1) for j, (_, n, _) in enumerate(axes.digits)})
    solver = _Solver(known)
    inner = solver.simple(substitute(solver.simple(substitute(mask, whole)), split))
    made = solver.apart(inner)
    return Separated(made, _groups(made, axes_of))


def _sum(start: int, terms: Sequence[tuple[Node, int]]) -> Node:
    return linear_node(Linear(tuple(terms), start))


class _Solver:
    """Algebra under known ranges of the digits."""

    def __init__(self, known: Mapping[Node | str, Interval]) -> None:
        self.known = known
        self.ranges: dict[Node, Interval] = {}

    def range(self, node: Node) -> Interval:
        if node not in self.ranges:
            self.ranges.update(intervals([node], self.known))
        return self.ranges[node]

    def simple(self, node: Node) -> Node:
        return rewrite(node, (operators, branches, self._by_range, sums, quotients, self._remainder))

    def _by_range(self, node: Node) -> Node | None:
        if isinstance(node, Const) or node.type is Type.FLOAT or not isinstance(node, Apply):
            return None
        low, high = self.range(node)
        if low == high and not math.isinf(low):
            return Const(bool(low) if node.type is Type.BOOL else int(low))
        if node.type is Type.BOOL:
            return self._decided(node)
        if node.op in ("floordiv", "mod") and isinstance(node.args[1], Const):
            least, most = self.range(node.args[0])
            if least >= 0 and most < node.args[1].value:
                return node.args[0] if node.op == "mod" else Const(0)
        return self._extreme(node) if node.op in ("min", "max") else None

    def _extreme(self, node: Apply) -> Node | None:
        """``min`` and ``max`` of two where the ranges say which."""
        if len(node.args) != 2:
            return None
        a, b = node.args
        low, high = self.form_range(linear(b).plus(linear(a), -1))
        less, more = (a, b) if node.op == "min" else (b, a)
        return less if low >= 0 else more if high <= 0 else None

    def _decided(self, node: Apply) -> Node | None:
        if node.op in ("and", "or"):
            absorber, neutral = Const(node.op == "or"), Const(node.op == "and")
            left = tuple(dict.fromkeys(a for a in node.args if a is not neutral))
            if absorber in left:
                return absorber
            if len(left) < len(node.args):
                return apply(node.op, *left) if len(left) > 1 else left[0] if left else neutral
            return None
        bound = bound_of(node)
        if bound is None or isinstance(bound, bool):
            return None if bound is None else Const(bound)
        low, high = self.form_range(bound.form)
        if bound.kind in ("low", "high"):
            ends = {value >= bound.limit for value in (low, high)}
            return Const((True in ends) is (bound.kind == "low")) if len(ends) == 1 else None
        return None if low <= bound.limit <= high else Const(bound.kind == "ne")

    def _remainder(self, node: Node) -> Node | None:
        """``(a + n * b) % n`` loses ``n * b`` of any factors, and factors are reduced: ``(3 * x) % 2`` is ``x % 2``."""
        if not (isinstance(node, Apply) and node.op == "mod" and isinstance(node.args[1], Const)):
            return None
        n = int(node.args[1].value)
        if n <= 1:
            return None
        form = linear(node.args[0])
        terms = []
        for atom, factor in form.terms:
            small = factor % n
            terms.append((atom, small - n if 2 * small > n else small))
        less = Linear((), form.constant % n)
        for atom, factor in terms:
            less = less.plus(Linear(((atom, factor),))) if factor else less
        after = apply("mod", linear_node(less), node.args[1])
        return after if less != form else None

    def form_range(self, form: Linear) -> Interval:
        return interval_of(form, self.range)

    def apart(self, mask: Node) -> Node:
        """The mask with comparisons of several digits replaced by ones of few."""

        def split(node: Node) -> Node:
            bound = bound_of(node)
            if bound is None or isinstance(bound, bool):
                return node
            if bound.kind in ("eq", "ne"):
                found = self._equal(bound.form, bound.limit)
                return found if bound.kind == "eq" else negation(found)
            below = self._at_most(bound.form, bound.limit - 1)
            return below if bound.kind == "high" else negation(below)

        return self._folded(rebuild(mask, split))

    def _folded(self, mask: Node) -> Node:
        def fold(node: Node) -> Node | None:
            if isinstance(node, Apply) and node.op == "not" and isinstance(node.args[0], Const):
                return Const(not node.args[0].value)
            return self._decided(node) if isinstance(node, Apply) and node.op in ("and", "or") else None

        return rewrite(mask, (operators, branches, fold))

    def _at_most(self, form: Linear, limit: int) -> Node:
        low, high = self.form_range(form)
        if high <= limit or low > limit:
            return Const(bool(high <= limit))
        found = self._carried(form, limit)
        if found is None:
            return _compared("le", form, limit)
        top, factor, rest, values = found
        return disjunction(
            conjunction([self._at_most(top, v), self._at_most(rest, limit - factor * v)]) for v in values
        )

    def _equal(self, form: Linear, limit: int) -> Node:
        low, high = self.form_range(form)
        if not low <= limit <= high:
            return FALSE
        if low == high:
            return TRUE
        found = self._carried(form, limit)
        if found is None:
            return _compared("eq", form, limit)
        top, factor, rest, values = found
        return disjunction(conjunction([self._equal(top, v), self._equal(rest, limit - factor * v)]) for v in values)

    def _carried(self, form: Linear, limit: int) -> tuple[Linear, int, Linear, list[int]] | None:
        """``factor * top + rest`` with the most significant digits in ``top``, and the values of ``(limit - rest) //
        factor`` that matter; None if the form is of one digit, or there are too many."""
        parts = _components(form)
        if len(parts) < 2:
            return None
        part = max(parts, key=lambda p: math.gcd(*(f for _, f in p)))
        factor = math.gcd(*(f for _, f in part))
        top = Linear(tuple((a, f // factor) for a, f in part))
        rest = form.plus(Linear(tuple(part)), -1)
        low, high = self.form_range(rest)
        least, most = self.form_range(top)
        if math.isinf(low) or math.isinf(high):
            return None
        first = max((limit - int(high)) // factor, int(least) - 1 if not math.isinf(least) else -(1 << 60))
        last = min((limit - int(low)) // factor, int(most) if not math.isinf(most) else 1 << 60)
        values = list(range(first, last + 1)) if last - first < _MOST_CARRIES else []
        return (top, factor, rest, values) if values else None


def _compared(op: str, form: Linear, limit: int) -> Node:
    """``form <= limit`` or ``form == limit`` with the key alone on one side: tables then need one comparison a cell."""
    key = [(a, f) for a, f in form.terms if any(isinstance(n, Symbol) and n.name[:2] == "i2" for n in postorder([a]))]
    if len(key) in (0, len(form.terms)):
        return apply(op, linear_node(form), Const(limit))
    of_key = Linear(tuple(key))
    return apply(op, linear_node(of_key), linear_node(Linear((), limit).plus(form.plus(of_key, -1), -1)))


def _components(form: Linear) -> list[list[tuple[Node, int]]]:
    """The terms by the digits that they speak of: those of one digit of the query and the same of the key together."""
    return [terms for _, terms in _together((set(map(_place, _symbols(t[0]))), t) for t in form.terms)]


def _symbols(node: Node) -> set[str]:
    return {n.name for n in postorder([node]) if isinstance(n, Symbol)}


def _together(named: Iterable[tuple[set[str], _T]]) -> list[tuple[set[str], list[_T]]]:
    """What has a name in common, be it by way of others, with all the names that it has."""
    found: list[tuple[set[str], list[_T]]] = []
    for names, one in named:
        members, apart = [one], []
        for other, theirs in found:
            if other & names:
                names, members = names | other, theirs + members
            else:
                apart.append((other, theirs))
        found = [*apart, (names, members)]
    return found


def _place(name: str) -> str:
    """The digit that a symbol stands for, of either side."""
    return name if not name[1:].isdigit() else f"i{int(name[1:]) % 1000}"


def _groups(mask: Node, axes: Mapping[str, Axes]) -> tuple[Group, ...]:
    groups = []
    for names, members in _together((_symbols(atom), atom) for atom in atoms_of(mask)):
        places = {s: tuple(j for j in range(len(axes[s].digits)) if digit(s, j).name in names) for s in "qk"}
        groups.append(Group(places["q"], places["k"], tuple(members)))
    return tuple(groups)


def atoms_of(mask: Node) -> list[Node]:
    """The conditions that a mask is a Boolean combination of."""
    out: dict[Node, None] = {}
    stack, seen = [mask], set[Node]()
    while stack:
        node = stack.pop()
        if node in seen or isinstance(node, Const):
            continue
        seen.add(node)
        if is_connective(node):
            stack.extend(node.children)
        else:
            out[node] = None
    return sorted(out, key=lambda n: n.digest)


def is_connective(node: Node) -> bool:
    """Whether a mask is an operator on masks."""
    return isinstance(node, Apply) and all(a.type is Type.BOOL for a in node.args)

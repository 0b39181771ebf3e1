"""Masks as a union of row intervals: for each query a few stretches of keys, and what is left to test in them."""

from __future__ import annotations

from dataclasses import dataclass

from maskc.ir.nodes import FALSE, TRUE, Apply, Const, Node, Symbol, Type
from maskc.ir.ops import apply, conjunction, disjunction
from maskc.ir.rewrite import mentions
from maskc.passes.linear import Linear, linear, linear_node
from maskc.passes.negate import opposite

__all__ = ["MAX_CLAUSES", "Clause", "conjuncts", "rows"]

#: Clauses at most; what would make more stays in a residual.
MAX_CLAUSES = 32
_KEY = Symbol("k")


@dataclass(frozen=True)
class Clause:
    """``lo <= k < hi & residual``. ``lo`` and ``hi`` are integers that do not speak of ``k``; None is open."""

    lo: Node | None
    hi: Node | None
    residual: Node

    def node(self) -> Node:
        """The clause as a mask."""
        parts = [apply("le", self.lo, _KEY)] if self.lo is not None else []
        parts += [apply("lt", _KEY, self.hi)] if self.hi is not None else []
        return conjunction([*parts, *([] if self.residual is TRUE else [self.residual])])


_WHOLE = Clause(None, None, TRUE)
Clauses = tuple[Clause, ...]


def rows(mask: Node, limit: int = MAX_CLAUSES) -> Clauses:
    """Clauses whose union is the mask; none if it is false. They may overlap.

    Pass a normalised mask. At most ``limit`` clauses come out: a part that would make more is a residual.
    """
    return _Rows(limit).clauses(mask)


class _Rows:
    """One conversion; remembers for every node whether it speaks of the key, and its clauses."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._spoken: dict[Node, bool] = {}
        self._known: dict[Node, Clauses] = {}  # What is shared is asked for wherever it is used.

    def varies(self, node: Node) -> bool:
        if node not in self._spoken:
            self._spoken.update({n: "k" in names for n, names in mentions([node]).items()})
        return self._spoken[node]

    def clauses(self, node: Node) -> Clauses:
        if node not in self._known:
            self._known[node] = self._found(node)
        return self._known[node]

    def _found(self, node: Node) -> Clauses:
        if node is FALSE:
            return ()
        if node is TRUE:
            return (_WHOLE,)
        if isinstance(node, Apply) and self.varies(node):
            if node.op == "or":
                parts = [c for a in node.args for c in self.clauses(a)]
                return tuple(dict.fromkeys(parts)) if len(parts) <= self._limit else self._rest(node)
            if node.op == "and":
                return self._all(node)
            if node.op == "select":
                c, yes, no = node.args
                either = disjunction([apply("and", c, yes), apply("and", opposite(c), no)])
                found = self.clauses(either)
                return found if len(found) <= self._limit else self._rest(node)
            solved = self._solve(node)
            if solved is not None:
                return solved
        return self._rest(node)

    def _rest(self, node: Node) -> Clauses:
        return (Clause(None, None, node),)

    def _all(self, node: Apply) -> Clauses:
        """The product of the operands' clauses, those with fewer first; what does not fit stays whole."""
        parts = sorted(((self.clauses(a), a) for a in node.args), key=lambda p: len(p[0]))
        total: Clauses = (_WHOLE,)
        for found, whole in parts:
            if len(found) * len(total) > self._limit:
                found = self._rest(whole)
            total = tuple(dict.fromkeys(_meet(a, b) for a in total for b in found))
        return total

    def _solve(self, node: Apply) -> Clauses | None:
        """A comparison of integers for ``k``, where it stands on one side only."""
        if node.op not in ("lt", "le", "eq", "ne") or node.args[0].type is not Type.INT:
            return None
        a, b = node.args
        if node.op == "ne":
            return self._apart(self._solve_room(a, b, True), self._solve_room(b, a, True))
        if node.op == "eq":
            low, high = self._solve_room(a, b, False), self._solve_room(b, a, False)
            if low is None or high is None or len(low) != 1 or len(high) != 1:
                return None
            return (_meet(low[0], high[0]),)
        return self._solve_room(a, b, node.op == "lt")

    def _apart(self, below: Clauses | None, above: Clauses | None) -> Clauses | None:
        return None if below is None or above is None else (*below, *above)

    def _solve_room(self, small: Node, large: Node, strict: bool) -> Clauses | None:
        """``small < large`` or ``small <= large``, as ``0 <= room``."""
        room = linear(large).plus(linear(small), -1).plus(Linear((), -1 if strict else 0))
        keyed = [(atom, factor) for atom, factor in room.terms if self.varies(atom)]
        if len(keyed) != 1:
            return None
        (atom, factor), rest = keyed[0], room.plus(Linear((keyed[0],)), -1)
        if factor > 0:  # atom >= ceil(-rest / factor)
            return self._at_least(atom, _ceil(rest.times(-1), factor))
        return self._below(atom, _floor(rest, -factor).plus(Linear((), 1)))

    def _at_least(self, atom: Node, least: Linear) -> Clauses | None:
        """``least <= atom`` solved for the key."""
        if atom is _KEY:
            return (Clause(linear_node(least), None, TRUE),)
        inner = self._quotient(atom)
        if inner is not None:
            dividend, divisor = inner
            return self._solve_room(linear_node(least.times(divisor)), dividend, False)
        if isinstance(atom, Apply) and atom.op in ("min", "max", "abs"):
            bound = linear_node(least)
            sides = [apply("le", bound, a) for a in _sides(atom)]
            return self.clauses(apply("and" if atom.op == "min" else "or", *sides))
        return None

    def _below(self, atom: Node, end: Linear) -> Clauses | None:
        """``atom < end`` solved for the key."""
        if atom is _KEY:
            return (Clause(None, linear_node(end), TRUE),)
        inner = self._quotient(atom)
        if inner is not None:
            dividend, divisor = inner
            return self._solve_room(dividend, linear_node(end.times(divisor)), True)
        if isinstance(atom, Apply) and atom.op in ("min", "max", "abs"):
            bound = linear_node(end)
            sides = [apply("lt", a, bound) for a in _sides(atom)]
            return self.clauses(apply("or" if atom.op == "min" else "and", *sides))
        return None

    def _quotient(self, atom: Node) -> tuple[Node, int] | None:
        """Dividend and divisor, where the divisor is a positive constant."""
        if isinstance(atom, Apply) and atom.op == "floordiv" and isinstance(atom.args[1], Const):
            divisor = int(atom.args[1].value)
            return (atom.args[0], divisor) if divisor > 0 else None
        return None


def _sides(atom: Apply) -> tuple[Node, ...]:
    return (atom.args[0], apply("neg", atom.args[0])) if atom.op == "abs" else atom.args


def _floor(form: Linear, divisor: int) -> Linear:
    """``form // divisor``; exact where the factors divide."""
    if divisor == 1:
        return form
    if all(f % divisor == 0 for _, f in form.terms):
        return Linear(tuple((a, f // divisor) for a, f in form.terms), form.constant // divisor)
    return Linear(((apply("floordiv", linear_node(form), Const(divisor)), 1),))


def _ceil(form: Linear, divisor: int) -> Linear:
    return _floor(form.plus(Linear((), divisor - 1)), divisor)


def _meet(a: Clause, b: Clause) -> Clause:
    parts = dict.fromkeys(p for c in (a, b) if c.residual is not TRUE for p in conjuncts(c.residual))
    return Clause(_tighter("max", a.lo, b.lo), _tighter("min", a.hi, b.hi), conjunction(parts) if parts else TRUE)


def conjuncts(node: Node) -> tuple[Node, ...]:
    """The masks whose conjunction a mask is; none if it is true."""
    if node is TRUE:
        return ()
    return node.args if isinstance(node, Apply) and node.op == "and" else (node,)


def _tighter(op: str, a: Node | None, b: Node | None) -> Node | None:
    if a is None or b is None or a is b:
        return b if a is None else a
    return apply(op, a, b)

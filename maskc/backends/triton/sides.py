"""Comparisons with the query on one side and the key on the other.

``q - k < 100`` subtracts once for every pair; ``q - 100 < k`` subtracts once for every query, before the loop.
"""

from __future__ import annotations

from maskc.backends.triton.bounds import fits_int32, integer_bounds
from maskc.ir.nodes import Apply, Const, Node, Symbol, Type, postorder
from maskc.ir.ops import apply
from maskc.ir.program import Program
from maskc.ir.rewrite import map_program, rebuild
from maskc.passes.linear import Linear, linear, linear_node

__all__ = ["apart", "ends_with_queries", "put_apart"]


def apart(program: Program) -> Program:
    """The program with its comparisons of integers rewritten so, where no side then needs more than 32 bits."""

    def rewritten(node: Node) -> Node:
        found = put_apart(node)
        return node if found is None or found is node or not _fits(found, program) else found

    return map_program(program, lambda root: rebuild(root, rewritten))


def put_apart(node: Node) -> Node | None:
    """A comparison of integers with the query on one side and the key on the other, however many bits that needs; None
    if it has no such form, or is no comparison of integers."""
    if not (isinstance(node, Apply) and node.op in ("lt", "le", "eq", "ne") and node.args[0].type is Type.INT):
        return None
    a, b = node.args
    if not _closed(node):
        return None
    if _one_sided(a) and _one_sided(b):
        return node
    found = _congruence(node)
    return _compared(node.op, linear(b).plus(linear(a), -1)) if found is None else found


def _tokens(node: Node) -> frozenset[str]:
    return frozenset(n.name for n in postorder([node]) if isinstance(n, Symbol) and n.name in ("q", "k"))


def ends_with_queries(program: Program) -> bool:
    """Whether no query keeps a key after itself, in a sequence of both."""
    mask = program.mask
    parts = mask.args if isinstance(mask, Apply) and mask.op == "and" else (mask,)
    return not program.cross and any(_ends_with_query(part) for part in parts)


def _ends_with_query(node: Node) -> bool:
    """Whether it is ``k <= q``, or ``k < q - 3``."""
    if not (isinstance(node, Apply) and node.op in ("lt", "le") and node.args[0].type is Type.INT):
        return False
    form = linear(node.args[1]).plus(linear(node.args[0]), -1)
    return dict(form.terms) == {Symbol("q"): 1, Symbol("k"): -1} and form.constant <= 0


def _closed(node: Node) -> bool:
    """Whether it speaks of no index of an `any`, whose range is not known here."""
    known = ("q", "k", "h", "b", "heads", "layer")
    return all(n.name in known for n in postorder([node]) if isinstance(n, Symbol))


def _one_sided(node: Node) -> bool:
    return len(_tokens(node)) <= 1


def _sides(form: Linear) -> tuple[Linear, Linear] | None:
    """``form`` as what speaks of the query, or of neither, and what speaks of the key; None if something speaks of
    both, or all of one."""
    if any(len(_tokens(atom)) == 2 for atom, _ in form.terms):
        return None
    k = Linear(tuple(t for t in form.terms if _tokens(t[0]) == {"k"}))
    q = form.plus(k, -1)
    return (q, k) if k.terms and any(_tokens(atom) for atom, _ in q.terms) else None


def _compared(op: str, difference: Linear) -> Node | None:
    """``0 op difference``."""
    found = _sides(difference)
    if found is None:
        return None
    q, k = found
    if k.terms[0][1] < 0:
        return apply(op, linear_node(k.times(-1)), linear_node(q))
    return apply(op, linear_node(q.times(-1)), linear_node(k))


def _congruence(node: Apply) -> Node | None:
    """``(q - k) % n == c`` as ``q % n == (k + c) % n``."""
    for x, y in (node.args, node.args[::-1]):
        if not (node.op in ("eq", "ne") and isinstance(x, Apply) and x.op == "mod" and isinstance(y, Const)):
            continue
        modulus, wanted = x.args[1], int(y.value)
        found = _sides(linear(x.args[0]))
        if found is None or not isinstance(modulus, Const) or not 0 <= wanted < int(modulus.value):
            continue
        q, k = found
        if q.terms[0][1] < 0:
            q, k, wanted = q.times(-1), k.times(-1), -wanted
        rest = k.times(-1).plus(Linear((), wanted))
        # The constant is the least that keeps the key's side from going below 0, where remainders are corrected.
        rest = Linear(rest.terms, rest.constant % int(modulus.value))
        return apply(node.op, apply("mod", linear_node(q), modulus), apply("mod", linear_node(rest), modulus))
    return None


def _fits(node: Node, program: Program) -> bool:
    bounds = integer_bounds([node], program)
    return all(fits_int32(bounds[n]) for n in postorder([node]) if n in bounds)

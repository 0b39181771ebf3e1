"""Algebra: identities and absorbers, sums in one order, comparisons in one spelling."""

from __future__ import annotations

from maskc.ir.nodes import Apply, Const, Exists, Node, Type, postorder
from maskc.ir.ops import OPS, apply, negation
from maskc.ir.program import Program
from maskc.ir.rewrite import map_program, rewrite, substitute
from maskc.ir.size import MAX_WRITTEN
from maskc.passes.fold import branches, operators
from maskc.passes.linear import Linear, bound_node, bound_of, linear, linear_node, order_key
from maskc.passes.negate import inward, truths

__all__ = ["RULES", "simplify"]


def simplify(program: Program) -> Program:
    """The pass."""
    return map_program(program, lambda node: rewrite(node, RULES))


def operands(node: Node) -> Node | None:
    """``true & a``, ``a | a``, ``b & a``: neutral and repeated operands go, the others stand in order."""
    if not isinstance(node, Apply) or node.op not in ("and", "or"):
        return None
    op = OPS[node.op]
    absorber = Const(op.absorber is True)
    kept = sorted({a for a in node.args if a is not Const(op.identity is True)}, key=order_key)
    if absorber in kept:
        return absorber
    return apply(node.op, *kept) if len(kept) > 1 else kept[0] if kept else Const(op.identity is True)


def choices(node: Node) -> Node | None:
    """A ``match`` with a constant Boolean branch is ``&`` or ``|``; a negated condition swaps the branches."""
    if not isinstance(node, Apply) or node.op != "select":
        return None
    c, yes, no = node.args
    if node.type is Type.BOOL:
        for branch, other, holds in ((yes, no, c), (no, yes, negation(c))):
            if isinstance(branch, Const):
                return apply("or", holds, other) if branch.value else apply("and", negation(holds), other)
    opposite = inward(negation(c)) if isinstance(c, Apply) and c.op in ("not", "ne") else None
    if opposite is not None:
        return apply("select", opposite, no, yes)
    return None


def sums(node: Node) -> Node | None:
    """Sums of integers collect equal terms: ``q + 2 - k - q`` is ``2 - k``; and digits, as ``_joined`` does."""
    if not (isinstance(node, Apply) and node.op in ("add", "sub", "neg", "mul") and node.type is Type.INT):
        return None
    if node.op == "mul" and not any(isinstance(a, Const) for a in node.args):
        # A product of two factors that vary: nothing to collect, but they stand in order.
        ordered = sorted(node.args, key=order_key)
        return apply("mul", *ordered)
    form = linear(node)
    return linear_node(_joined(form) or form)


def _joined(form: Linear) -> Linear | None:
    """``k % 80 + k // 80 % 48 * 80`` is ``k % 3840``: two neighbouring digits of one number are one digit, which the
    place within a frame is, say. None where the sum has no such two."""
    digits = [(atom, factor, *digit) for atom, factor in form.terms if (digit := _digit(atom))]
    for low, factor, number, n in digits:
        for high, other, quotient, m in digits:
            if other != factor * n or len(quotient.terms) != 1 or n * m > MAX_WRITTEN:
                continue
            ((atom, once),) = quotient.terms
            if once != 1 or not (isinstance(atom, Apply) and atom.op == "floordiv" and atom.args[1] is Const(n)):
                continue
            # The number may have an offset: (k + c) // n is spelt (k + c % n) // n + c // n.
            whole = linear(atom.args[0]).plus(Linear((), quotient.constant * n))
            apart = number.plus(whole, -1)
            if not apart.terms and apart.constant % n == 0:
                joined = apply("mod", linear_node(whole), Const(n * m))
                return form.plus(Linear(((low, factor), (high, other))), -1).plus(Linear(((joined, factor),)))
    return None


def _digit(node: Node) -> tuple[Linear, int] | None:
    """``x`` and ``n`` of ``x % n``."""
    if not (isinstance(node, Apply) and node.op == "mod" and isinstance(node.args[1], Const)):
        return None
    n = int(node.args[1].value)
    return (linear(node.args[0]), n) if n > 0 and node.type is Type.INT else None


def quotients(node: Node) -> Node | None:
    """``(a * n + b) // n`` is ``a + b // n``, and ``(a * n + b) % n`` is ``b % n``."""
    if not (isinstance(node, Apply) and node.op in ("floordiv", "mod") and isinstance(node.args[1], Const)):
        return None
    n = int(node.args[1].value)
    if n == 0 or n == 1:
        return Const(0) if n == 0 or node.op == "mod" else node.args[0]
    if n < 0:
        return None
    form = linear(node.args[0])
    whole = Linear(tuple((a, f // n) for a, f in form.terms if f % n == 0), form.constant // n)
    rest = form.plus(whole, -n)
    if not whole.terms and not whole.constant:
        return None
    remainder = apply(node.op, linear_node(rest), node.args[1])
    return remainder if node.op == "mod" else apply("add", linear_node(whole), remainder)


def comparisons(node: Node) -> Node | None:
    """Comparisons of integers: what varies to the left, lower bounds by ``<=``, upper bounds by ``<``."""
    bound = bound_of(node)
    if bound is None or isinstance(bound, bool):
        return None if bound is None else Const(bound)
    return bound_node(bound)


def remainders(node: Node) -> Node | None:
    """``(k - q) % n == 0`` is ``(q - k) % n == 0``."""
    if not (isinstance(node, Apply) and node.op in ("eq", "ne") and node.args[1] is Const(0)):
        return None
    inner = node.args[0]
    if isinstance(inner, Apply) and inner.op == "mod":
        form = linear(inner.args[0])
        if form.terms and form.terms[0][1] < 0:
            return apply(node.op, apply("mod", linear_node(form.times(-1)), inner.args[1]), Const(0))
    return None


def distances(node: Node) -> Node | None:
    """``abs(k - q)`` is ``abs(q - k)``; ``abs(x) <= n`` is two bounds."""
    if not isinstance(node, Apply):
        return None
    if node.op == "abs" and node.type is Type.INT:
        form = linear(node.args[0])
        return apply("abs", linear_node(form.times(-1))) if form.terms and form.terms[0][1] < 0 else None
    if node.op not in ("lt", "le") or node.args[0].type is not Type.INT:
        return None
    room = linear(node.args[1]).plus(linear(node.args[0]), -1)
    for atom, factor in room.terms:
        if isinstance(atom, Apply) and atom.op == "abs" and factor in (1, -1):
            inner = linear(atom.args[0])
            rest = room.plus(Linear(((atom, factor),)), -1)
            sides = [linear_node(rest.plus(inner, sign)) for sign in (1, -1)]
            return apply("and" if factor < 0 else "or", *(apply(node.op, Const(0), side) for side in sides))
    return None


def extremes(node: Node) -> Node | None:
    """``min`` and ``max`` of several: each once, in order, constants last and as one."""
    if not (isinstance(node, Apply) and node.op in ("min", "max") and node.type is Type.INT):
        return None
    found: set[Node] = set()
    stack: list[Node] = [node]
    while stack:
        n = stack.pop()
        if isinstance(n, Apply) and n.op == node.op:
            stack.extend(n.args)
        else:
            found.add(n)
    constants = [int(n.value) for n in found if isinstance(n, Const)]
    parts = sorted((n for n in found if not isinstance(n, Const)), key=order_key)
    if constants:
        parts.append(Const(min(constants) if node.op == "min" else max(constants)))
    total = parts[0]
    for part in parts[1:]:
        total = apply(node.op, total, part)
    return total


def orders(node: Node) -> Node | None:
    """Operands of commutative operators on floats and Booleans stand in order."""
    if isinstance(node, Apply) and node.op in ("add", "mul", "eq", "ne") and node.args[0].type is not Type.INT:
        return apply(node.op, *sorted(node.args, key=order_key))
    return None


def neutral_floats(node: Node) -> Node | None:
    """``x * 1.0`` and ``x / 1.0``; but not ``x + 0.0``, which turns -0.0 to 0.0."""
    if isinstance(node, Apply) and node.op in ("mul", "div") and node.args[1] is Const(1.0):
        return node.args[0]
    return None


def same_sides(node: Node) -> Node | None:
    """``a == a`` of Booleans."""
    if isinstance(node, Apply) and node.op in ("eq", "ne") and node.args[0].type is Type.BOOL:
        return Const(node.op == "eq") if node.args[0] is node.args[1] else None
    return None


def single_alternative(node: Node) -> Node | None:
    """``any(i in 0..1: m)`` is ``m`` at 0, and so is any with a body that the index does not touch."""
    if not isinstance(node, Exists) or not isinstance(node.count, Const) or node.count.value < 1:
        return None
    below = list(postorder([node.body]))
    if any(isinstance(n, Exists) for n in below):  # Their indices tell how deep they stand.
        return None
    if node.count.value == 1 or not any(n is node.index for n in below):
        return substitute(node.body, {node.index: Const(0)})
    return None


def alternatives_in_order(node: Node) -> Node | None:
    """``any(i in 0..n: true)``: it holds where there is a case at all."""
    if isinstance(node, Exists) and node.body is Const(True):
        return apply("lt", Const(0), node.count)
    return None


RULES = (
    operators, branches, truths, same_sides, inward, operands, choices, sums, quotients, distances, remainders,
    comparisons, extremes, orders, neutral_floats, single_alternative, alternatives_in_order,
)  # fmt: skip

"""The operators: one row each, and nothing about them anywhere else.

A row says how an operator is written, what types it takes, what it means on arrays (NumPy's
and torch's alike), and which algebraic laws it obeys. Printing, evaluation, rewriting, the
documentation and the tests are all driven by this table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from maskc.ir.nodes import Apply, Const, Node, Type

__all__ = ["MOST_FLOOR", "OPS", "Op", "apply", "conjunction", "disjunction", "flat_length", "negation"]

_INT, _FLOAT, _BOOL = Type.INT, Type.FLOAT, Type.BOOL
#: Array modules (NumPy, torch) share the few names used here; the module comes first.
Meaning = Callable[..., Any]
_MASK32 = 0xFFFFFFFF
#: How far from 0 the integer is that a float becomes, at most: exact in every float that scores are computed in, and
#: far beyond positions.
MOST_FLOOR = 1 << 30


@dataclass(frozen=True)
class Op:
    """One operator.

    Attributes:
        name: key in ``OPS`` and in ``Apply.op``.
        symbol: how the language writes it.
        form: "infix", "prefix", "call", or "match" (the conditional).
        arity: number of operands; None: two or more.
        takes: the admissible operand types (all operands alike), in order of preference.
            For "select" they are those of the two branches.
        gives: the type of the value; None: that of the operands.
        meaning: ``meaning(xp, *operands)`` on arrays of the module ``xp``.
        precedence: of infix and prefix forms; higher binds tighter.
        laws: any of "commutative", "associative", "idempotent".
        identity: the operand that changes nothing, if there is one.
        absorber: the operand that decides the value alone, if there is one.
        doc: one sentence.
    """

    name: str
    symbol: str
    form: str
    arity: int | None
    takes: tuple[Type, ...]
    gives: Type | None
    meaning: Meaning
    doc: str
    precedence: int = 0
    laws: frozenset[str] = frozenset()
    identity: bool | int | None = None
    absorber: bool | int | None = None


def _floordiv(xp: Any, a: Any, b: Any) -> Any:
    return xp.where(b == 0, a * 0, a // xp.where(b == 0, b * 0 + 1, b))


def _mod(xp: Any, a: Any, b: Any) -> Any:
    return xp.where(b == 0, a * 0, a % xp.where(b == 0, b * 0 + 1, b))


def _mix(x: Any) -> Any:
    """A bijective mixing of 32 bits; the factors are below 2**31, so int64 products never overflow."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _MASK32
    x = x ^ (x >> 15)
    x = (x * 0x5BD1E995) & _MASK32
    return x ^ (x >> 16)


def _hash(xp: Any, *args: Any) -> Any:
    state: Any = 0x9E3779B9
    for a in args:
        state = _mix(state ^ (a & _MASK32))
    return state >> 1


def _sigmoid(xp: Any, x: Any) -> Any:
    # By tanh, which neither overflows nor loses the gradient.
    return 0.5 * (xp.tanh(0.5 * x) + 1.0)


def _to_float(xp: Any, x: Any) -> Any:
    # `float_dtype` is the evaluator's choice; a bare array module falls back to its own.
    if hasattr(x, "astype"):
        return x.astype(getattr(xp, "float_dtype", "float64"))
    return x.to(getattr(xp, "float_dtype", None) or xp.get_default_dtype())


def _floor(xp: Any, x: Any) -> Any:
    most = float(MOST_FLOOR)
    y = xp.floor(xp.clip(xp.nan_to_num(x, nan=0.0, posinf=most, neginf=-most), -most, most))
    return y.astype("int64") if hasattr(y, "astype") else y.to(xp.int64)


_COMMUTES = frozenset({"commutative", "associative"})
_LATTICE = frozenset({"commutative", "associative", "idempotent"})
_NUM = (_INT, _FLOAT)

# fmt: off
_ROWS = (
    Op("or", "|", "infix", None, (_BOOL,), _BOOL, lambda xp, a, b: a | b, "Either mask.", 1, _LATTICE, False, True),
    Op("and", "&", "infix", None, (_BOOL,), _BOOL, lambda xp, a, b: a & b, "Both masks.", 2, _LATTICE, True, False),
    Op("not", "~", "prefix", 1, (_BOOL,), _BOOL, lambda xp, a: ~a, "The other pairs.", 3),
    Op("lt", "<", "infix", 2, _NUM, _BOOL, lambda xp, a, b: a < b, "Less than.", 4),
    Op("le", "<=", "infix", 2, _NUM, _BOOL, lambda xp, a, b: a <= b, "At most.", 4),
    Op("eq", "==", "infix", 2, (_INT, _FLOAT, _BOOL), _BOOL, lambda xp, a, b: a == b, "Equal.", 4,
       frozenset({"commutative"})),
    Op("ne", "!=", "infix", 2, (_INT, _FLOAT, _BOOL), _BOOL, lambda xp, a, b: a != b, "Different.", 4,
       frozenset({"commutative"})),
    Op("add", "+", "infix", 2, _NUM, None, lambda xp, a, b: a + b, "Sum.", 5, _COMMUTES, 0),
    Op("sub", "-", "infix", 2, _NUM, None, lambda xp, a, b: a - b, "Difference.", 5),
    Op("mul", "*", "infix", 2, _NUM, None, lambda xp, a, b: a * b, "Product.", 6, _COMMUTES, 1, 0),
    Op("floordiv", "//", "infix", 2, (_INT,), _INT, _floordiv, "Quotient, floored; 0 if the divisor is 0.", 6),
    Op("mod", "%", "infix", 2, (_INT,), _INT, _mod, "Remainder of `//`; 0 if the divisor is 0.", 6),
    Op("div", "/", "infix", 2, (_FLOAT,), _FLOAT, lambda xp, a, b: a / b, "Quotient of floats.", 6),
    Op("neg", "-", "prefix", 1, _NUM, None, lambda xp, a: -a, "Negative.", 7),
    Op("pow", "**", "infix", 2, (_FLOAT,), _FLOAT, lambda xp, a, b: a**b, "Power of floats.", 8),
    Op("min", "min", "call", 2, _NUM, None, lambda xp, a, b: xp.minimum(a, b), "The smaller.", 0, _LATTICE),
    Op("max", "max", "call", 2, _NUM, None, lambda xp, a, b: xp.maximum(a, b), "The larger.", 0, _LATTICE),
    Op("abs", "abs", "call", 1, _NUM, None, lambda xp, a: xp.abs(a), "Absolute value."),
    Op("hash", "hash", "call", None, (_INT,), _INT, _hash,
       "A number below 2**31 that depends on all the integers given, the same everywhere."),
    Op("select", "match", "match", 3, (_BOOL, _INT, _FLOAT), None, lambda xp, c, a, b: xp.where(c, a, b),
       "The second operand where the first is true, else the third."),
    Op("float", "float", "call", 1, (_INT,), _FLOAT, _to_float, "An integer as a float."),
    Op("floor", "floor", "call", 1, (_FLOAT,), _INT, _floor,
       "The largest integer that is not above, at most 2**30 from 0; 0 of NaN."),
    Op("exp", "exp", "call", 1, (_FLOAT,), _FLOAT, lambda xp, a: xp.exp(a), "e to the power."),
    Op("exp2", "exp2", "call", 1, (_FLOAT,), _FLOAT, lambda xp, a: xp.exp2(a), "2 to the power."),
    Op("log", "log", "call", 1, (_FLOAT,), _FLOAT, lambda xp, a: xp.log(a), "Natural logarithm."),
    Op("log2", "log2", "call", 1, (_FLOAT,), _FLOAT, lambda xp, a: xp.log2(a), "Logarithm to base 2."),
    Op("sqrt", "sqrt", "call", 1, (_FLOAT,), _FLOAT, lambda xp, a: xp.sqrt(a), "Square root."),
    Op("sin", "sin", "call", 1, (_FLOAT,), _FLOAT, lambda xp, a: xp.sin(a), "Sine."),
    Op("cos", "cos", "call", 1, (_FLOAT,), _FLOAT, lambda xp, a: xp.cos(a), "Cosine."),
    Op("tanh", "tanh", "call", 1, (_FLOAT,), _FLOAT, lambda xp, a: xp.tanh(a), "Hyperbolic tangent."),
    Op("sigmoid", "sigmoid", "call", 1, (_FLOAT,), _FLOAT, _sigmoid, "1 / (1 + exp(-x))."),
)
# fmt: on

OPS: dict[str, Op] = {row.name: row for row in _ROWS}


def apply(name: str, *args: Node) -> Node:
    """Apply an operator, checking operand types; ``and`` and ``or`` come out flat.

    A negated constant is a constant; beyond that nothing is simplified here: that is the passes' work.
    Raises TypeError on a wrong use, which is a defect of the caller: user errors are found when lowering.
    """
    op = OPS[name]
    if op.laws >= {"associative", "idempotent"} and op.arity is None:
        flat: list[Node] = []
        for a in args:
            flat.extend(a.args if isinstance(a, Apply) and a.op == name else (a,))
        args = tuple(flat)
    valued = args[1:] if name == "select" else args
    types = {a.type for a in valued}
    short = len(args) < (1 if name == "hash" else 2) if op.arity is None else len(args) != op.arity
    if short or len(types) != 1 or not types <= set(op.takes) or (name == "select" and args[0].type is not _BOOL):
        raise TypeError(f"{name} cannot take {[a.type.value for a in args]}")
    if name == "neg" and isinstance(args[0], Const):  # `-1` is a literal.
        return Const(-args[0].value)
    return Apply(name, args, op.gives or valued[0].type)


def flat_length(name: str, args: Iterable[Node]) -> int:
    """How many operands an ``and`` or ``or`` of these has, those within others of the same name counted."""
    return sum(len(a.children) if isinstance(a, Apply) and a.op == name else 1 for a in args)


def conjunction(masks: Iterable[Node]) -> Node:
    """All of ``masks``; true if there are none."""
    masks = tuple(masks)
    return apply("and", *masks) if len(masks) > 1 else masks[0] if masks else Const(True)


def disjunction(masks: Iterable[Node]) -> Node:
    """Any of ``masks``; false if there are none."""
    masks = tuple(masks)
    return apply("or", *masks) if len(masks) > 1 else masks[0] if masks else Const(False)


def negation(mask: Node) -> Node:
    """The pairs that ``mask`` leaves out."""
    return apply("not", mask)

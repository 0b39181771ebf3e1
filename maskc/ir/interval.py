"""Which values an expression can have: exact intervals in Python's integers, and overflow decided by them.

An interval is ``(low, high)``, both ends included; an open end is ``-inf`` or ``inf``. Of a Boolean it is
``(0, 0)``: never, ``(1, 1)``: always, or ``(0, 1)``: either.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from maskc.ir.nodes import Apply, Const, Exists, Lookup, Node, Param, Size, Symbol, Type, postorder
from maskc.ir.ops import MOST_FLOOR
from maskc.ir.program import Parameter, Program

if TYPE_CHECKING:
    from maskc.ir.binding import Binding

__all__ = ["Interval", "Intervals", "check_overflow", "intervals", "ranges_of", "ranges_under"]

Interval = tuple["int | float", "int | float"]
#: What is known of leaves: symbols, sizes and parameters by node, tables and inputs by name.
Ranges = Mapping["Node | str", Interval]

ANY: Interval = (-math.inf, math.inf)
UNKNOWN: Interval = (0, 1)
#: Tokens at most, and the bound that no integer may reach.
MAX_TOKENS = 1 << 24
MAX_INT = 1 << 62
#: Bounds beyond this are open: products of products would have numbers of exponential length.
_FAR = 1 << 128
_INT32: Interval = (-(1 << 31), (1 << 31) - 1)


def ranges_of(program: Program) -> dict[Node | str, Interval]:
    """What is known of a program under every binding."""
    known: dict[Node | str, Interval] = {Symbol(n): (0, math.inf) for n in ("q", "k", "h", "b", "layer")}
    known[Symbol("heads")] = (1, math.inf)
    for p in program.params:
        known[p.name] = _declared(p)
        if p.is_scalar:
            known[Param(p.name, p.type)] = known[p.name]
    return known


def ranges_under(program: Program, binding: Binding) -> dict[Node | str, Interval]:
    """What is known of a program under one binding, whatever the query, the key, the head and the batch entry."""
    known = ranges_of(program)
    known[Symbol("q")] = (binding.offset, max(binding.offset, binding.offset + binding.q_len - 1))
    known[Symbol("k")] = (0, max(0, binding.k_len - 1))
    known[Symbol("h")], known[Symbol("b")] = (0, binding.heads - 1), (0, max(0, binding.batch - 1))
    known[Symbol("layer")], known[Symbol("heads")] = (binding.layer,) * 2, (binding.heads,) * 2
    known.update({Size(n): (v, v) for n, v in (("q", binding.q_len), ("k", binding.k_len), *binding.sizes.items())})
    for p in program.params:
        if p.name in binding.args and p.type is not Type.FLOAT:
            known[Param(p.name, p.type)] = (int(binding.args[p.name]),) * 2
        if p.name in binding.tables and p.type is not Type.FLOAT and binding.tables[p.name].size:
            table = binding.tables[p.name]
            known[p.name] = (int(table.min()), int(table.max()))
    return known


def _declared(p: Parameter) -> Interval:
    if p.type is Type.BOOL:
        return UNKNOWN
    if p.labels:
        return 0, len(p.labels) - 1
    return (-math.inf if p.low is None else p.low), (math.inf if p.high is None else p.high - 1)


def intervals(roots: Iterable[Node], ranges: Ranges) -> dict[Node, Interval]:
    """The interval of every node below ``roots``; of floats nothing is known."""
    roots = tuple(roots)
    return _intervals(roots, {**ranges, **_index_ranges(roots, ranges)}, {})


def _intervals(roots: Iterable[Node], ranges: Ranges, found: dict[Node, Interval]) -> dict[Node, Interval]:
    for node in postorder(roots, found.__contains__):
        found[node] = _loosened(_interval(node, ranges, found))
    return found


def _loosened(a: Interval) -> Interval:
    """Ends far beyond all integers that may be computed with as open ones: a product has as many digits as its
    factors together, and squares of squares would fill the memory."""
    low, high = a
    low = -math.inf if low < -_FAR else min(low, _FAR)
    return low, math.inf if high > _FAR else max(high, -_FAR)


def _index_ranges(roots: tuple[Node, ...], ranges: Ranges) -> dict[Node | str, Interval]:
    """An index runs below the largest count that any ``Exists`` gives it."""
    tops: dict[Node | str, Interval] = {}
    fixed: dict[Node, Interval] = {}
    for node in postorder(roots):
        if isinstance(node, Exists):
            # Those within the count come before it, so that the ranges of their indices are known.
            within = any(isinstance(n, Symbol) and n.name[0] == "i" for n in postorder([node.count]))
            known = ({**ranges, **tops}, {}) if within else (ranges, fixed)
            top = _intervals([node.count], *known)[node.count][1] - 1
            tops[node.index] = (0, max(0, top, tops.get(node.index, (0, 0))[1]))
    return tops


class Intervals:
    """``intervals`` of one node after another. What has no ``Exists`` below is looked at once, whoever asks."""

    def __init__(self, ranges: Ranges) -> None:
        self._ranges = ranges
        self._found: dict[Node, Interval] = {}
        self._plain: dict[Node, bool] = {}

    def of(self, node: Node) -> Interval:
        for n in postorder([node], self._plain.__contains__):
            self._plain[n] = not isinstance(n, Exists) and all(self._plain[c] for c in n.children)
        if self._plain[node]:
            return _intervals([node], self._ranges, self._found)[node]
        return intervals([node], self._ranges)[node]


def _interval(node: Node, ranges: Ranges, found: Mapping[Node, Interval]) -> Interval:
    if node.type is Type.FLOAT:
        return ANY
    unknown = UNKNOWN if node.type is Type.BOOL else ANY
    if isinstance(node, Const):
        return int(node.value), int(node.value)
    if isinstance(node, Lookup):
        return ranges.get(node.name, unknown)
    if isinstance(node, Size):
        return ranges.get(node, (0, math.inf))
    if isinstance(node, (Symbol, Param)):
        return ranges.get(node, (0, math.inf) if isinstance(node, Symbol) and node.name[0] == "i" else unknown)
    if isinstance(node, Exists):
        count, body = found[node.count], found[node.body]
        return (1 if count[0] >= 1 and body[0] == 1 else 0), (0 if count[1] <= 0 or body[1] == 0 else 1)
    assert isinstance(node, Apply)
    if node.op == "floor":
        return -MOST_FLOOR, MOST_FLOOR
    if any(a.type is Type.FLOAT for a in node.args):
        return unknown
    rule = _RULES.get(node.op)
    return rule(*(found[a] for a in node.args)) if rule else unknown


def _lt(a: Interval, b: Interval) -> Interval:
    return int(a[1] < b[0]), int(a[0] < b[1])


def _le(a: Interval, b: Interval) -> Interval:
    return int(a[1] <= b[0]), int(a[0] <= b[1])


def _eq(a: Interval, b: Interval) -> Interval:
    return int(a[0] == a[1] == b[0] == b[1]), int(a[0] <= b[1] and b[0] <= a[1])


def _not(a: Interval) -> Interval:
    return 1 - a[1], 1 - a[0]


def _times(a: int | float, b: int | float) -> int | float:
    return 0 if a == 0 or b == 0 else a * b


def _mul(a: Interval, b: Interval) -> Interval:
    corners = [_times(x, y) for x in a for y in b]
    return min(corners), max(corners)


def _quotient(a: int | float, b: int | float) -> int | float:
    if math.isinf(b):
        return 0 if a == 0 or (a > 0) == (b > 0) else -1
    return a * (1 if b > 0 else -1) if math.isinf(a) else a // b


def _floordiv(a: Interval, b: Interval) -> Interval:
    # The divisor's nearest and farthest values of either sign; dividing by 0 gives 0.
    divisors = [d for d in (b[0], b[1], 1, -1) if b[0] <= d <= b[1] and d != 0]
    corners = [_quotient(x, d) for x in a for d in divisors] + ([0] if b[0] <= 0 <= b[1] else [])
    return min(corners), max(corners)


def _mod(a: Interval, b: Interval) -> Interval:
    if a[0] >= 0 and b[0] > a[1]:
        return a
    low = min(0, b[0] + 1)
    high = max(0, b[1] - 1)
    if a[0] >= 0 and b[0] >= 0:
        high = min(high, a[1])
    return low, high


def _abs(a: Interval) -> Interval:
    return max(a[0], -a[1], 0), max(-a[0], a[1])


def _select(c: Interval, a: Interval, b: Interval) -> Interval:
    if c[0] == c[1]:
        return a if c[0] else b
    return _hull(a, b)


_RULES: dict[str, Callable[..., Interval]] = {
    "or": lambda *xs: (max(x[0] for x in xs), max(x[1] for x in xs)),
    "and": lambda *xs: (min(x[0] for x in xs), min(x[1] for x in xs)),
    "not": _not,
    "lt": _lt,
    "le": _le,
    "eq": _eq,
    "ne": lambda a, b: _not(_eq(a, b)),
    "add": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "sub": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "neg": lambda a: (-a[1], -a[0]),
    "mul": _mul,
    "floordiv": _floordiv,
    "mod": _mod,
    "min": lambda a, b: (min(a[0], b[0]), min(a[1], b[1])),
    "max": lambda a, b: (max(a[0], b[0]), max(a[1], b[1])),
    "abs": _abs,
    "hash": lambda *xs: (0, (1 << 31) - 1),
    "select": _select,
}


def _span(table: Any) -> Interval:
    return int(table.min()), int(table.max())


def check_overflow(program: Program, binding: Binding, span: Callable[[Any], Interval] = _span) -> None:
    """Whether all integers fit under a binding.

    Inputs that it holds have the values that they have; others are taken to be int32 unless a range is declared.
    ``span``: the least and the greatest value of a table. Raises MaskcError E507 if some integer may reach 2**62.
    """
    known: dict[Node | str, Interval] = dict(_TOKENS)
    known[_H], known[_B] = (0, binding.heads - 1), (0, max(0, binding.batch - 1))
    known[_LAYER], known[_HEADS] = (binding.layer,) * 2, (binding.heads,) * 2
    known.update({Size(n): (v, v) for n, v in binding.sizes.items()})
    given: dict[Node | str, Interval] = {}
    for p in program.params:
        if p.type is Type.FLOAT:
            continue
        if p.is_scalar:
            value = binding.args.get(p.name)
            known[Param(p.name, p.type)] = _within_32(p) if value is None else (int(value),) * 2
        elif p.type is Type.INT:
            table, known[p.name] = binding.tables.get(p.name), _within_32(p)
            if table is not None:
                here = given[p.name] = span(table) if table.size else (0, 0)  # an empty one reads as zeros
                known[p.name] = here if p.when == "compile" else _hull(known[p.name], here)
    # First whatever the lengths and the values of inputs, which is known from earlier calls; only then with this one's
    # lengths, and then with its values too.
    lengths = dict.fromkeys(_TOKENS, (0, max(binding.q_len, binding.k_len)))
    for more in ({}, lengths, given):
        known.update(more)
        wrong = _reaching(program.roots(), tuple(known.items()))
        if wrong is None:
            return
    from maskc.diagnostics import Diagnostic, MaskcError

    missing = [p for p in program.params if p.when == "call" and p.type is Type.INT and p.name not in given]
    hint = "use smaller numbers, or reduce them with `%` on the way"
    if missing:
        hint = "declare the range of what it is made of, such as `doc: int(0..1000)[token]`, or use smaller numbers"
    raise MaskcError(Diagnostic("E507", f"the integer {wrong} may reach 2**62", None, hint=hint))


_H, _B, _LAYER, _HEADS = (Symbol(n) for n in ("h", "b", "layer", "heads"))
_TOKENS: dict[Node | str, Interval] = dict.fromkeys((Symbol("q"), Symbol("k"), Size("q"), Size("k")), (0, MAX_TOKENS))


def _hull(a: Interval, b: Interval) -> Interval:
    return min(a[0], b[0]), max(a[1], b[1])


def _within_32(p: Parameter) -> Interval:
    """What a parameter is declared to hold, of 32 bits where it is not."""
    low, high = _declared(p)
    return max(low, _INT32[0]), min(high, _INT32[1])


@functools.lru_cache(maxsize=256)
def _reaching(roots: tuple[Node, ...], known: tuple[tuple[Node | str, Interval], ...]) -> str | None:
    """An integer that may reach 2**62, as text; kept, since every call binds and nothing of this changes with calls."""
    from maskc.ir.text import MOST_SHOWN, print_node

    # No segment or axis is longer than a sequence, where its extent is not known yet.
    sizes: dict[Node | str, Interval] = {n: (0, MAX_TOKENS) for n in postorder(roots) if isinstance(n, Size)}
    found = intervals(roots, {**sizes, **dict(known)})
    # Of an index without a known end nothing can be promised.
    indices = (n for n in found if isinstance(n, Symbol) and n.name[0] == "i")
    open_ended: set[Node] = {n for n in indices if found[n][1] == math.inf}
    for node in postorder(roots):
        if any(c in open_ended for c in node.children):
            open_ended.add(node)
        elif node not in open_ended and node.type is Type.INT and max(-found[node][0], found[node][1]) >= MAX_INT:
            return f"`{print_node(node, most=MOST_SHOWN)}`"
    return None

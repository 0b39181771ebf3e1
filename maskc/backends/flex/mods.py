"""Functions of torch tensors, written from expressions: what FlexAttention calls ``mask_mod`` and ``score_mod``.

Plain functions over a list of steps, which torch traces without meeting any class of ours.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from maskc.ir.binding import Binding
from maskc.ir.evaluate import evaluate
from maskc.ir.interval import Interval, intervals, ranges_under
from maskc.ir.nodes import Apply, Const, Lookup, Node, Symbol, Type, postorder
from maskc.ir.ops import OPS
from maskc.ir.program import Program

__all__ = ["function", "tensors_for"]

Array = Any
Step = tuple[Callable[..., Array], tuple[int, ...]]
_POINT = ("s", "b", "h", "q", "k")  # what the first slots hold
_INT32 = (-(1 << 31), (1 << 31) - 1)
_DTYPES = {Type.BOOL: torch.bool, Type.INT: torch.int64, Type.FLOAT: torch.float32}
_PLAIN: dict[str, Callable[..., Array]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "neg": operator.neg,
    "div": operator.truediv,
    "pow": operator.pow,
    "lt": operator.lt,
    "le": operator.le,
    "eq": operator.eq,
    "ne": operator.ne,
}


def function(
    program: Program, binding: Binding, node: Node, tables: Mapping[str, torch.Tensor]
) -> Callable[..., Array]:
    """``f(s, b, h, q_index, k_index)`` with the value of ``node``; indices as FlexAttention counts them.

    Args:
        program: bound: parameters, sizes and the layer are constants, and no ``any`` is left.
        tables: the value of everything that ``node`` looks up, on the device of the call.
    """
    slots: dict[Node, int] = {Symbol(name): i for i, name in enumerate(_POINT)}
    steps: list[Step] = []
    bounds = intervals([node], ranges_under(program, binding))
    fixed: set[Node] = set()  # speak of constants alone, of which torch's functions are not defined
    for n in postorder([node]):
        if isinstance(n, Const | Apply) and all(c in fixed for c in n.children):
            fixed.add(n)
        if n not in slots:
            slots[n] = len(_POINT) + len(steps)
            fn, args = _constant(n, binding) if n in fixed else _step(program, binding, n, slots, tables)
            steps.append((_in_64_bits(fn) if _is_long(n, bounds) else fn, args))
    at, first, plan, dtype = slots[node], binding.offset, tuple(steps), _DTYPES[node.type]

    def run(s: Array, b: Array, h: Array, q: Array, k: Array) -> Array:
        values = [s, b, h, q + first, k]
        for fn, args in plan:
            values.append(fn(*[values[i] for i in args]))
        # An expression of constants and look-ups alone still has a value for every pair.
        found = values[at]
        return found if isinstance(found, torch.Tensor) else torch.full_like(q, found, dtype=dtype)

    return run


def _constant(n: Node, binding: Binding) -> Step:
    nowhere = np.zeros((), np.int64)
    value = n.value if isinstance(n, Const) else evaluate(n, binding, q=nowhere, k=nowhere).item()
    if isinstance(value, float) and abs(value) > torch.finfo(torch.float32).max:
        value = math.copysign(math.inf, value)  # which torch refuses to round to
    return (lambda: value), ()


def _step(
    program: Program, binding: Binding, n: Node, slots: Mapping[Node, int], tables: Mapping[str, torch.Tensor]
) -> Step:
    if isinstance(n, Lookup):
        return _look_up(program, binding, n, slots, tables)
    if not isinstance(n, Apply):
        raise TypeError(f"not bound: {n!r}")
    args = tuple(slots[c] for c in n.args)
    if n.op in ("and", "or"):
        join = operator.and_ if n.op == "and" else operator.or_
        return (lambda *xs: _fold(join, xs)), args
    return _OPERATORS.get(n.op, _PLAIN.get(n.op)) or _meaning(n.op), args


def _is_long(n: Node, bounds: Mapping[Node, Interval]) -> bool:
    """Whether an operator gives or takes integers that 32 bits do not hold: positions and tables have no more."""
    if not isinstance(n, Apply):
        return False
    ends = [x for each in (n, *n.args) if each.type is Type.INT for x in bounds[each]]
    return any(not _INT32[0] <= x <= _INT32[1] for x in ends)


def _in_64_bits(fn: Callable[..., Array]) -> Callable[..., Array]:
    return lambda *xs: fn(*[_wide(x) for x in xs])


def _wide(x: Array) -> Array:
    integers = isinstance(x, torch.Tensor) and not x.is_floating_point() and x.dtype is not torch.bool
    return x.to(torch.int64) if integers else x


def _meaning(op: str) -> Callable[..., Array]:
    meaning = OPS[op].meaning
    return lambda *xs: meaning(torch, *xs)


def _fold(join: Callable[[Array, Array], Array], xs: tuple[Array, ...]) -> Array:
    found = xs[0]
    for x in xs[1:]:
        found = join(found, x)
    return found


def _not(x: Array) -> Array:
    return not x if isinstance(x, bool) else ~x


def _floordiv(a: Array, b: Array) -> Array:
    if isinstance(b, int):
        return a // b if b else a * 0
    return torch.where(b == 0, 0, a // torch.where(b == 0, 1, b))


def _mod(a: Array, b: Array) -> Array:
    if isinstance(b, int):
        return a % b if b else a * 0
    return torch.where(b == 0, 0, a % torch.where(b == 0, 1, b))


def _bounded(a: Array, b: Array, least: bool) -> Array:
    if not isinstance(a, torch.Tensor):
        a, b = b, a
    if not isinstance(b, torch.Tensor):
        return torch.clamp(a, max=b) if least else torch.clamp(a, min=b)
    return torch.minimum(a, b) if least else torch.maximum(a, b)


def _hash(*xs: Array) -> Array:
    return OPS["hash"].meaning(torch, *(_wide(x) for x in xs))


def _float(x: Array) -> Array:
    return x.to(torch.float32) if isinstance(x, torch.Tensor) else float(x)


_OPERATORS: dict[str, Callable[..., Array]] = {
    "not": _not,
    "floordiv": _floordiv,
    "mod": _mod,
    "min": lambda a, b: _bounded(a, b, True),
    "max": lambda a, b: _bounded(a, b, False),
    "abs": abs,
    "select": lambda c, a, b: torch.where(c, a, b),
    "hash": _hash,
    "float": _float,
}


def _look_up(
    program: Program, binding: Binding, n: Lookup, slots: Mapping[Node, int], tables: Mapping[str, torch.Tensor]
) -> Step:
    """``table[indices]``, each clamped; an input with a batch dimension is read at the batch entry.

    What is looked up at a constant is taken beforehand: torch reads an index of integers and tensors together by
    the tensors' values, which there are none of while it traces.
    """
    table, domain = tables[n.name], program.parameter(n.name).domain
    batched = n.name in binding.batched
    if table.numel() == 0:  # a look-up in an empty table gives 0
        table = table.new_zeros([max(1, extent) for extent in table.shape])
    moving: list[tuple[Node, int, int]] = []
    for index, d in zip(n.indices, domain, strict=True):
        axis = batched + len(moving)
        shift, extent = binding.offset if d == "q" else 0, table.shape[axis]
        if isinstance(index, Const):
            table = table.select(axis, _clamped(index.value, shift, extent))
        else:
            moving.append((index, shift, extent))
    limits = tuple((shift, extent) for _, shift, extent in moving)

    def read(b: Array, *indices: Array) -> Array:
        at = tuple(_clamped(i, *limit) for i, limit in zip(indices, limits, strict=True))
        where = (b, *at) if batched else at
        return table[where] if where else table

    return read, (_POINT.index("b"), *(slots[index] for index, _, _ in moving))


def _clamped(i: Array, shift: int, extent: int) -> Array:
    if isinstance(i, torch.Tensor):
        return torch.clamp(i - shift, min=0, max=extent - 1)
    return max(0, min(i - shift, extent - 1))


def tensors_for(
    program: Program, binding: Binding, floats: Mapping[str, torch.Tensor], device: torch.device
) -> dict[str, torch.Tensor]:
    """Everything that can be looked up, on a device: integers as int32 where they fit, floats as given."""
    found: dict[str, torch.Tensor] = {}
    for name, array in binding.tables.items():
        tensor = torch.as_tensor(array if array.flags.writeable else array.copy())
        small = tensor.dtype is torch.int64 and bool((tensor.abs() < 2**31).all())
        found[name] = (tensor.to(torch.int32) if small else tensor).to(device)
    for p in program.params:
        if p.type is Type.FLOAT and p.name in floats:
            found[p.name] = floats[p.name]
    return found

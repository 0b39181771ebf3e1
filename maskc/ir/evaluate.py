"""What programs mean: every expression on arrays of positions. This defines the language.

Slow where it pleases and obvious throughout: whatever else computes a mask or a score is wrong
if it differs from what is computed here.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from maskc.ir.nodes import Apply, Const, Exists, Lookup, Node, Param, Size, Symbol, Type
from maskc.ir.ops import OPS
from maskc.ir.program import Parameter, Program
from maskc.ir.schedule import Schedule, schedule
from maskc.ir.size import MAX_ALTERNATIVES, too_many

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from maskc.ir.binding import Binding

__all__ = ["dense", "evaluate", "kept"]

#: An array of the module in use: ``numpy.ndarray`` or ``torch.Tensor``.
Array = Any
#: Values that ``kept`` holds at once: 256 MiB of integers, so that a mask of any size fits a small machine. Masks of
#: ordinary size stay below at the numbers of points that callers ask about together.
_VALUES = 1 << 25


def evaluate(
    node: Node,
    binding: Binding,
    *,
    q: Array,
    k: Array,
    h: int | Array = 0,
    b: int | Array = 0,
    s: Array | None = None,
    o: Array | None = None,
    params: Iterable[Parameter] = (),
    tables: Mapping[str, Array] | None = None,
    xp: Any = None,
    float_dtype: Any = None,
) -> Array:
    """The value of ``node`` at the given points.

    Args:
        q, k: int64 arrays of absolute positions that broadcast, such as ``(rows, 1)`` and ``(1, cols)``.
        h, b: the query head and the batch entry: integers, or int64 arrays that broadcast too.
        s, o: scaled scores or output elements, of the broadcast shape; needed where ``node`` speaks of them.
        params: the program's signature; needed where ``node`` looks anything up.
        tables: values that go before those of ``binding.tables``, such as tensors that need a gradient.
        xp: the array module, numpy (the default) or torch.
        float_dtype: of all floats; by default that of ``s`` or ``o``, else float64 (torch: its default dtype).

    Returns:
        An array (int64, bool, or the float dtype) that broadcasts to the shape of the points: what does not
        depend on ``k`` has no axis for it but one of length 1, and a constant has no axes at all.

    Raises:
        KeyError: an argument, a size, a table, or the symbol ``s`` or ``o`` is missing.
        MaskcError: E508 if an ``any`` has more cases than there may be, which a binding tells beforehand.
    """
    if xp is None:
        import numpy as xp
    if float_dtype is None:
        float_dtype = next((x.dtype for x in (s, o) if x is not None), None)
    arrays = _Arrays(xp, float_dtype, getattr(q, "device", None))
    symbols = {"q": q, "k": k, "h": h, "b": b, "layer": binding.layer, "heads": binding.heads}
    values = {name: arrays.of(value, Type.INT) for name, value in symbols.items()}
    values.update({name: value for name, value in (("s", s), ("o", o)) if value is not None})
    scope = _Scope(binding, arrays, values, {p.name: p for p in params}, tables or {})
    with arrays.quiet():
        return scope.value(schedule(node), {}, 1)


def kept(
    mask: Node,
    binding: Binding,
    *,
    q: npt.NDArray[np.int64],
    k: npt.NDArray[np.int64],
    h: int = 0,
    b: int = 0,
    params: Iterable[Parameter] = (),
) -> npt.NDArray[np.bool_]:
    """A mask at the given points, of the shape that ``q`` and ``k`` broadcast to; perhaps a view, not to be written to.

    As ``evaluate``, but some points after others where all at once would take much memory.
    """
    import numpy as np

    shape, params = np.broadcast_shapes(q.shape, k.shape), tuple(params)
    parts = -(-math.prod(shape) * schedule(mask).live // _VALUES)
    axis = max(range(len(shape)), key=lambda i: shape[i], default=0)
    if parts <= 1 or shape[axis] <= 1:
        return np.broadcast_to(evaluate(mask, binding, q=q, k=k, h=h, b=b, params=params), shape)
    out = np.empty(shape, np.bool_)
    step = max(1, shape[axis] // parts)
    for first in range(0, shape[axis], step):
        part = tuple(slice(first, first + step) if i == axis else slice(None) for i in range(len(shape)))
        some_q, some_k = (_part(x, part) for x in (q, k))
        out[part] = kept(mask, binding, q=some_q, k=some_k, h=h, b=b, params=params)
    return out


def _part(x: Array, part: tuple[slice, ...]) -> Array:
    """A part of an array that broadcasts: axes of length 1 stay."""
    own = part[len(part) - x.ndim :]
    return x[tuple(s if n > 1 else slice(None) for s, n in zip(own, x.shape, strict=True))]


def dense(
    program: Program,
    binding: Binding,
    h: int = 0,
    b: int = 0,
    q_range: tuple[int, int] | None = None,
    k_range: tuple[int, int] | None = None,
) -> npt.NDArray[np.bool_]:
    """The mask of one head and one batch entry as a bool array (rows, cols): True is kept.

    ``q_range`` and ``k_range`` are absolute positions, ends not included; by default all that the binding has.
    """
    import numpy as np

    q_lo, q_hi = q_range or (binding.offset, binding.offset + binding.q_len)
    k_lo, k_hi = k_range or (0, binding.k_len)
    q = np.arange(q_lo, q_hi, dtype=np.int64)[:, None]
    k = np.arange(k_lo, k_hi, dtype=np.int64)[None, :]
    return np.array(kept(program.mask, binding, q=q, k=k, h=h, b=b, params=program.params), dtype=np.bool_)


class _Arrays:
    """An array module with a device and a float dtype of its own. Anything else it has is looked up there."""

    def __init__(self, xp: Any, float_dtype: Any, device: Any) -> None:
        self._xp, self._torch = xp, hasattr(xp, "get_default_dtype")
        self._device = device
        self.float_dtype = float_dtype or (xp.get_default_dtype() if self._torch else xp.float64)
        boolean = xp.bool if self._torch else xp.bool_
        self._dtypes = {Type.INT: xp.int64, Type.BOOL: boolean, Type.FLOAT: self.float_dtype}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._xp, name)

    def of(self, value: Any, type_: Type) -> Array:
        """``value`` as an array of the dtype that stands for ``type_``; differentiable in torch."""
        dtype = self._dtypes[type_]
        if self._torch:
            if isinstance(value, float) and abs(value) > self._xp.finfo(dtype).max:
                value = math.copysign(math.inf, value)  # which torch refuses to round to
            if isinstance(value, (bool, int, float)):
                # Filled in on the device: a copy to it would wait for it, and cannot be part of a CUDA graph.
                return self._xp.full((), value, dtype=dtype, device=self._device)
            if getattr(getattr(value, "flags", None), "writeable", True) is False:
                value = value.copy()  # torch warns of arrays that may not be written to
            return self._xp.as_tensor(value, device=self._device).to(dtype)
        return self._xp.asarray(value, dtype=dtype)

    def quiet(self) -> contextlib.AbstractContextManager[Any]:
        """Without NumPy's warnings: overflow to infinity and logarithms of 0 are the language's meaning."""
        return contextlib.nullcontext() if self._torch else self._xp.errstate(all="ignore")


@dataclass(frozen=True, eq=False)
class _Scope:
    """Everything that an expression speaks of, but the indices of ``Exists``."""

    binding: Binding
    xp: _Arrays
    symbols: Mapping[str, Array]
    params: Mapping[str, Parameter]
    tables: Mapping[str, Array]

    def value(self, steps: Schedule, known: dict[Node, Array], copies: int) -> Array:
        """The value of a schedule's root. ``known`` holds what it takes as known, and what is still needed of the rest;
        ``copies``: how often this is done, for all indices of ``Exists`` around it."""
        for step in steps.steps:
            node = step.node
            if step.operand is None:
                known[node] = self._exists(node, step.body, known, copies) if step.body else self._one(node, known)
            elif step.operand == 0:
                known[node] = known[node.children[0]]
            else:
                known[node] = OPS[step.op].meaning(self.xp, known[node], known[node.children[step.operand]])
            for each in step.last:
                del known[each]
        return known[steps.root]

    def _one(self, node: Node, known: dict[Node, Array]) -> Array:
        if isinstance(node, Const):
            return self.xp.of(node.value, node.type)
        if isinstance(node, Symbol):
            return self.symbols[node.name]
        if isinstance(node, Size):
            return self.xp.of(self.binding.size(node.name), Type.INT)
        if isinstance(node, Param):
            return self.xp.of(self.binding.args[node.name], node.type)
        if isinstance(node, Lookup):
            return self._lookup(node, [known[i] for i in node.indices])
        if isinstance(node, Apply):
            return OPS[node.op].meaning(self.xp, *[known[a] for a in node.args])
        raise TypeError(f"not a node: {node!r}")

    def _lookup(self, node: Lookup, indices: list[Array]) -> Array:
        name, domain = node.name, self.params[node.name].domain
        given = self.tables[name] if name in self.tables else self.binding.tables[name]
        table = self.xp.of(given, node.type)
        if name in self.binding.batched:
            domain, indices = ("batch", *domain), [self.symbols["b"], *indices]
        # A per-query input holds the queries that are present, not the whole sequence.
        places = [i - self.binding.offset if d == "q" else i for d, i in zip(domain, indices, strict=True)]
        if 0 in table.shape:  # an empty table reads as zeros
            return self.xp.of(sum(places) != sum(places), node.type)
        return table[tuple(self.xp.clip(i, 0, n - 1) for i, n in zip(places, table.shape, strict=True))]

    def _exists(self, node: Node, body: Schedule, known: dict[Node, Array], copies: int) -> Array:
        assert isinstance(node, Exists)
        count = known[node.count]
        found, copies = count < count, copies * self._largest(node.count, count)
        if copies > MAX_ALTERNATIVES:
            raise too_many()
        for i in range(self._largest(node.count, count)):
            inside = {n: known[n] for n in body.given} | {node.index: self.xp.of(i, Type.INT)}
            found = found | ((i < count) & self.value(body, inside, copies))
        return found

    def _largest(self, node: Node, value: Array) -> int:
        """The largest number of cases; that of a constant is known without looking at the device."""
        if isinstance(node, Const):
            return int(node.value)
        if isinstance(node, Param):
            return int(self.binding.args[node.name])
        return int(value.max()) if 0 not in value.shape else 0

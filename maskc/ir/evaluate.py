"""What programs mean: every expression on arrays of positions. This defines the language.

Slow where it pleases and obvious throughout: whatever else computes a mask or a score is wrong
if it differs from what is computed here.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from maskc.ir.nodes import Apply, Const, Exists, Lookup, Node, Param, Size, Symbol, Type, postorder
from maskc.ir.ops import OPS
from maskc.ir.program import Parameter, Program

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from maskc.ir.binding import Binding

__all__ = ["dense", "evaluate", "free_indices"]

#: An array of the module in use: ``numpy.ndarray`` or ``torch.Tensor``.
Array = Any


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
        return scope.value(node, {})


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
    kept = evaluate(program.mask, binding, q=q, k=k, h=h, b=b, params=program.params)
    return np.array(np.broadcast_to(kept, (q_hi - q_lo, k_hi - k_lo)), dtype=np.bool_)


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

    def value(self, node: Node, known: dict[Node, Array]) -> Array:
        """The value of ``node``; ``known`` holds what is already computed, and grows."""
        for each in _pending(node, known):
            known[each] = self._one(each, known)
        return known[node]

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
        if isinstance(node, Exists):
            return self._exists(node, known)
        if isinstance(node, Apply):
            return self._apply(node, [known[a] for a in node.args])
        raise TypeError(f"not a node: {node!r}")

    def _apply(self, node: Apply, args: list[Array]) -> Array:
        op = OPS[node.op]
        if op.arity is None and "associative" in op.laws:
            return functools.reduce(functools.partial(op.meaning, self.xp), args)
        return op.meaning(self.xp, *args)

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

    def _exists(self, node: Exists, known: dict[Node, Array]) -> Array:
        free, count = free_indices([node]), known[node.count]
        # What does not depend on the index is computed once, before the loop.
        for each in postorder([node.body]):
            if all(index in known for index in free[each] - {node.index}) and node.index not in free[each]:
                self.value(each, known)
        outside = {n: v for n, v in known.items() if node.index not in free.get(n, ())}
        found = count < count
        for i in range(self._largest(node.count, count)):
            inside = {**outside, node.index: self.xp.of(i, Type.INT)}
            found = found | ((i < count) & self.value(node.body, inside))
        return found

    def _largest(self, node: Node, value: Array) -> int:
        """The largest number of cases; that of a constant is known without looking at the device."""
        if isinstance(node, Const):
            return int(node.value)
        if isinstance(node, Param):
            return int(self.binding.args[node.name])
        return int(value.max()) if 0 not in value.shape else 0


def _pending(root: Node, known: Mapping[Node, Array]) -> Iterator[Node]:
    """What ``root`` needs and is not known, operands first; the bodies of ``Exists`` are left to the loop."""
    stack, seen = [(root, False)], set(known)
    while stack:
        node, ready = stack.pop()
        if node in seen:
            continue
        if ready:
            seen.add(node)
            yield node
        else:
            stack.append((node, True))
            needs = (node.count,) if isinstance(node, Exists) else node.children
            stack.extend((c, False) for c in reversed(needs) if c not in seen)

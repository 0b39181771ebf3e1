"""What a page carries of a mask, in few bytes: expressions as data, arrays as one compressed block."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from maskc.ir.nodes import Apply, Const, Exists, Lookup, Node, Param, Size, Symbol, Type, postorder
from maskc.ir.ops import OPS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from maskc.ir.binding import Binding
    from maskc.ir.program import Parameter
    from maskc.tiles.tiling import Runs

    Array = npt.NDArray[Any]

__all__ = ["Arrays", "encode_nodes", "encode_runs", "encode_tables"]

#: Doubles hold integers exactly up to here; the page's evaluator refuses what goes beyond.
EXACT = 2**53
_INT32 = 2**31


class Arrays:
    """Arrays one after another in one block of bytes, compressed as a whole. ``add`` gives a JSON-safe reference."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, array: Array) -> dict[str, Any]:
        """Store a bool, integer or float array of any shape.

        Integers are kept as differences in four planes of bytes, which compress well; those beyond
        32 bits, and floats, as doubles. Raises ValueError for integers that a double does not hold.
        """
        import numpy as np

        shape, flat = list(array.shape), np.ascontiguousarray(array).reshape(-1)
        if flat.dtype == np.bool_:
            kind, data = "bits", np.packbits(flat, bitorder="little").tobytes()
        elif flat.dtype.kind in "iu":
            kind, data = self._integers(flat.astype(np.int64))
        else:
            kind, data = "f8", _planes(flat.astype("<f8"), 8)
        reference = {"at": self._size, "bytes": len(data), "kind": kind, "n": int(flat.size), "shape": shape}
        self._parts.append(data)
        self._size += len(data)
        return reference

    def _integers(self, flat: npt.NDArray[np.int64]) -> tuple[str, bytes]:
        import numpy as np

        if flat.size and (flat.min() < -EXACT or flat.max() > EXACT):
            raise ValueError("integers beyond 2**53")
        steps = np.diff(flat, prepend=np.int64(0))
        if flat.size and (steps.min() < -_INT32 or steps.max() >= _INT32):
            return "f8", _planes(flat.astype("<f8"), 8)
        return "d4", _planes(steps.astype("<i4"), 4)

    def text(self) -> str:
        """The block: zlib's deflate, in base64."""
        return base64.b64encode(zlib.compress(b"".join(self._parts), 9)).decode("ascii")


def _planes(array: Array, width: int) -> bytes:
    import numpy as np

    return np.ascontiguousarray(array.view(np.uint8).reshape(-1, width).T).tobytes()


def encode_runs(runs: Runs, arrays: Arrays) -> dict[str, Any]:
    """The runs of a plan: how many a row has, and for each its start relative to the run of the same
    rank in the row before (a band then is the same number again and again), length and kind."""
    import numpy as np

    offsets = runs.offsets.astype(np.int64)
    count = np.diff(offsets)
    row = np.repeat(np.arange(count.size), count)
    rank = np.arange(runs.start.size) - offsets[row]
    above = np.where(row > 0, offsets[np.maximum(row - 1, 0)] + rank, -1)
    has = (row > 0) & (rank < count[np.maximum(row - 1, 0)])
    start = runs.start.astype(np.int64)
    step = start - np.where(has, start[np.maximum(np.where(has, above, 0), 0)], 0) if start.size else start
    length = runs.end.astype(np.int64) - start
    parts = {"count": count, "step": step, "span": length * 2 + (runs.kind == 2)}
    return {name: arrays.add(values) for name, values in parts.items()}


def encode_nodes(roots: Iterable[Node], binding: Binding) -> tuple[list[list[Any]], dict[Node, int]]:
    """Every node below ``roots`` as a JSON-safe list, operands by number and before their users.

    Parameters, sizes and the number of heads become constants; ``h``, ``b`` and ``layer`` stay
    variables. Only operators of ``OPS`` come out, by name.
    """
    rows: list[list[Any]] = []
    numbers: dict[Node, int] = {}
    for node in postorder(roots):
        numbers[node] = len(rows)
        rows.append([*_row(node, binding, numbers), node.type.value[0]])
    return rows, numbers


def _row(node: Node, binding: Binding, numbers: Mapping[Node, int]) -> list[Any]:
    if isinstance(node, Const):
        return ["c", _number(node.value)]
    if isinstance(node, Size):
        return ["p", binding.size(node.name)]
    if isinstance(node, Param):
        return ["p", _number(binding.args[node.name])]
    if isinstance(node, Symbol):
        return ["p", binding.heads] if node.name == "heads" else ["s", node.name]
    if isinstance(node, Lookup):
        return ["l", node.name, [numbers[i] for i in node.indices]]
    if isinstance(node, Exists):
        return ["e", node.index.name, numbers[node.count], numbers[node.body]]
    if isinstance(node, Apply) and node.op in OPS:
        return ["a", node.op, [numbers[a] for a in node.args]]
    raise TypeError(f"not a node: {node!r}")


def _number(value: bool | int | float) -> int | float | str:
    """JSON has no infinity and no NaN: they go as text."""
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    return int(value)


def encode_tables(
    roots: Iterable[Node], params: Iterable[Parameter], binding: Binding, arrays: Arrays
) -> dict[str, dict[str, Any]]:
    """The tables and inputs that ``roots`` look anything up in: the array, what each of its axes counts from
    (domain "q": the first query present), and whether the batch stands in front.

    Raises KeyError if one is missing, ValueError as ``Arrays.add`` does.
    """
    declared = {p.name: p for p in params}
    found: dict[str, dict[str, Any]] = {}
    for node in postorder(roots):
        if isinstance(node, Lookup) and node.name not in found:
            import numpy as np

            table = np.asarray(binding.tables[node.name])
            if node.type is Type.BOOL:
                table = table.astype(np.bool_)
            batched = node.name in binding.batched
            shifts = [binding.offset if d == "q" else 0 for d in declared[node.name].domain]
            found[node.name] = {"array": arrays.add(table), "shifts": shifts, "batched": batched}
    return found

"""Which tiles of (query, key) are computed, as runs of key tiles a query-tile row: the data of a plan."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from maskc.ir.binding import Binding
    from maskc.ir.program import Program

    Int32 = npt.NDArray[np.int32]

__all__ = ["EMPTY", "FULL", "PARTIAL", "Group", "Order", "Runs", "Stretch", "Tiling", "TransposedPlan"]

#: Kinds of tile: no pair kept, some, all.
EMPTY, PARTIAL, FULL = 0, 1, 2
_ARRAYS = ("offsets", "start", "end", "kind")


@dataclass(frozen=True)
class Stretch:
    """A stretch of a token order as index arithmetic: laid-out position ``first + i`` holds token ``base +
    sum(digit[j] * strides[j])``, where the digits of ``i`` have the radices ``extents``, the first digit being the
    most significant."""

    first: int
    base: int
    extents: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of tokens."""
        return math.prod(self.extents)


@dataclass(frozen=True, eq=False)
class Order:
    """A token order: position ``i`` of the laid-out sequence holds token ``index[i]`` (of queries: counted from
    the first one present).

    ``index`` is None for the identity. ``name`` says which layout it is, ``reason`` why it was chosen.
    ``stretches``: the same order as index arithmetic with absolute positions, in a few stretches that cover all
    places in turn; empty where it is none, such as for an order sorted by an input.
    """

    name: str = "none"
    index: Int32 | None = None
    reason: str = ""
    stretches: tuple[Stretch, ...] = ()


@dataclass(frozen=True, eq=False)
class Runs:
    """Runs of key tiles for every query-tile row: row ``r`` owns runs ``offsets[r]:offsets[r + 1]``,
    ordered by key. Run ``i`` covers key tiles ``start[i]`` to ``end[i]`` (excluded), all of ``kind[i]``
    (PARTIAL or FULL); EMPTY tiles are in no run. Arrays are int32 (``kind`` uint8)."""

    offsets: Int32
    start: Int32
    end: Int32
    kind: npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Group:
    """Heads and batch entries that share one mask, and its runs. Groups of a plan that hold the same runs (the same
    object) share one mask, too: their heads and batch entries are no product."""

    heads: tuple[int, ...]
    batches: tuple[int, ...]
    runs: Runs


@dataclass(frozen=True, eq=False)
class Tiling:
    """The exact tiles of a program's mask under a binding. Equal if they are of the same masks by the same runs.

    Rows are query tiles of ``q_tile`` laid-out queries (counted from the first query present, so that the
    first row holds absolute positions ``binding.offset`` and on), columns are key tiles of ``k_tile``.
    """

    program: Program
    binding: Binding
    q_tile: int
    k_tile: int
    groups: tuple[Group, ...]
    q_order: Order = Order()
    k_order: Order = Order()

    @property
    def rows(self) -> int:
        """Number of query-tile rows."""
        return -(-self.binding.q_len // self.q_tile)

    @property
    def cols(self) -> int:
        """Number of key-tile columns."""
        return -(-self.binding.k_len // self.k_tile)

    def group_of(self, head: int, batch: int = 0) -> Group:
        """The group that a head and a batch entry belong to; raises KeyError."""
        for group in self.groups:
            if head in group.heads and batch in group.batches:
                return group
        raise KeyError((head, batch))

    @property
    def nbytes(self) -> int:
        """Size of the runs and the token orders."""
        runs = {id(g.runs): g.runs for g in self.groups}.values()
        arrays = [a for r in runs for a in (r.offsets, r.start, r.end, r.kind)]
        arrays += [o.index for o in (self.q_order, self.k_order) if o.index is not None]
        return sum(a.nbytes for a in arrays)

    @property
    def digest(self) -> str:
        """A hash of all that the plan holds, equal across processes."""
        import numpy as np

        b = self.binding
        known = (
            self.program.mask.digest,
            (b.q_len, b.k_len, b.offset, b.cross, b.heads, b.layer, b.batch, sorted(b.batched)),
            (sorted(b.sizes.items()), sorted(b.args.items())),
            (self.q_tile, self.k_tile, self.q_order.name, self.k_order.name),
            [(g.heads, g.batches) for g in self.groups],
        )
        found = hashlib.sha256(repr(known).encode())
        arrays = [np.asarray(b.tables[name]) for name in sorted(b.tables)]
        arrays += [getattr(g.runs, name) for g in self.groups for name in _ARRAYS]
        arrays += [o.index for o in (self.q_order, self.k_order) if o.index is not None]
        for array in arrays:
            found.update(repr((array.dtype.str, array.shape)).encode())
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def to(self, device: Any) -> dict[str, Any]:
        """The runs and orders as torch tensors on a device: "groups" holds for each group its heads and batches,
        and "offsets", "start", "end" (int32) and "kind" (uint8); "q_index" and "k_index" are int32 or None."""
        import numpy as np
        import torch

        def tensor(array: Any) -> Any:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        def index(order: Order) -> Any:
            return None if order.index is None else tensor(order.index)

        groups = [
            {"heads": g.heads, "batches": g.batches, **{n: tensor(getattr(g.runs, n)) for n in _ARRAYS}}
            for g in self.groups
        ]
        return {"groups": groups, "q_index": index(self.q_order), "k_index": index(self.k_order)}


@dataclass(frozen=True, eq=False)
class TransposedPlan(Tiling):
    """A plan by key tiles: the runs of row ``c`` are those of the query tiles that key-tile column ``c`` meets."""

"""What a program is applied to: lengths, sizes, arguments and inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["MAX_BATCH", "MAX_HEADS", "MAX_LAYERS", "Binding"]

#: Query heads, layers and batch entries at most. Masks are planned a head, and looked at a layer, at a time: models
#: have a tenth of these, and more would only be a way to make maskc work for hours.
MAX_HEADS, MAX_LAYERS, MAX_BATCH = 1 << 12, 1 << 10, 1 << 20


@dataclass(frozen=True, eq=False)
class Binding:
    """Everything a program leaves open, given a value.

    Attributes:
        q_len, k_len: number of queries and of keys.
        cross: whether queries and keys are two sequences.
        heads: number of query heads.
        layer: the layer.
        batch: number of batch entries.
        sizes: extent of each named segment and grid axis.
        args: value of each scalar parameter (defaults filled in; enumerations as integers).
        tables: value of each table and input, int64, bool or float64; an input whose declared
            domain holds token, q or k may have a batch dimension in front (see ``batched``).
        batched: names of the inputs that do have the batch dimension.
        q_start: absolute position of the first query, where the queries are not the last positions.
    """

    q_len: int
    k_len: int
    cross: bool = False
    heads: int = 1
    layer: int = 0
    batch: int = 1
    sizes: Mapping[str, int] = field(default_factory=dict)
    args: Mapping[str, bool | int | float] = field(default_factory=dict)
    tables: Mapping[str, npt.NDArray[np.generic]] = field(default_factory=dict)
    batched: frozenset[str] = frozenset()
    q_start: int | None = None

    @property
    def offset(self) -> int:
        """Absolute position of the first query."""
        if self.q_start is not None:
            return self.q_start
        return 0 if self.cross else self.k_len - self.q_len

    def size(self, name: str) -> int:
        """The value of ``Size(name)``."""
        if name in ("q", "k"):
            return self.q_len if name == "q" else self.k_len
        return self.sizes[name]

    def replace(self, **changes: Any) -> Binding:
        import dataclasses

        return dataclasses.replace(self, **changes)

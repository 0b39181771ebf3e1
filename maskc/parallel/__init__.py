"""Context parallelism: a long sequence divided among ranks, each of which attends for its own queries.

from maskc.parallel import ContextParallel
attend = ContextParallel(op)                       # in every process of a torch.distributed group
division = attend.partition(1 << 20, doc=doc)      # which tokens each rank holds, the same everywhere
q, k, v = (division.shard(x, rank) for x in (q, k, v))
out = attend(q, k, v, division, doc=doc)           # of the rank's own tokens
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskc.parallel.attention import ContextParallel
    from maskc.parallel.divide import partition
    from maskc.parallel.partitions import Chunk, Partition

__all__ = ["Chunk", "ContextParallel", "Partition", "partition"]

#: Where each public name is: what needs torch is loaded when it is used.
_HOMES = {
    "Chunk": "maskc.parallel.partitions",
    "ContextParallel": "maskc.parallel.attention",
    "Partition": "maskc.parallel.partitions",
    "partition": "maskc.parallel.divide",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'maskc.parallel' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)

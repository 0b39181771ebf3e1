"""The handle that stands for a mask between Transformers' mask function and its attention function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from maskc.interop.transformers.demand import Demand
from maskc.pattern import Pattern
from maskc.tiles.values import fail

__all__ = ["MaskHandle", "Request"]


@dataclass
class Request:
    """What a mask was asked for.

    Attributes:
        demand: the mask of the model's own code.
        pattern: what the config's ``attention_pattern`` says, or None.
        q_len, k_len: queries, and keys that the cache gives (a static one gives more than are written).
        q_offset, k_offset: absolute position of the first query, and of the first key there is.
        real: (B, N) bool by absolute position, False for padding; None where nothing is padding.
        remembered: inputs that were worked out, which the layers share.
    """

    demand: Demand
    pattern: Pattern | None
    batch: int
    q_len: int
    k_len: int
    q_offset: int
    k_offset: int
    real: torch.Tensor | None
    config: Any = None
    remembered: dict[Any, Any] = field(default_factory=dict)

    def remember(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self.remembered:
            self.remembered[key] = make()
        return self.remembered[key]


#: What Transformers does to a mask on its way to the attention function, which leaves a handle as it is.
_PASSED_ON = frozenset({"contiguous", "to", "clone", "detach", "cpu", "cuda"})
#: What may be asked of a handle.
_ASKED = frozenset(
    {"__get__", "dim", "size", "ndimension", "is_contiguous", "is_floating_point", "__len__", "__repr__", "stride"}
)


class MaskHandle(torch.Tensor):
    """A tensor by type only, of the shape (B, 1, queries, keys) that a mask would have, holding ``request``.

    It takes no memory. Transformers takes it for a mask that is ready and passes it on; whoever
    computes with it is told that there is no dense mask.
    """

    request: Request

    @staticmethod
    def __new__(cls, request: Request, device: Any = "cpu") -> MaskHandle:
        shape = (request.batch, 1, request.q_len, request.k_len)
        made: MaskHandle = torch.Tensor._make_subclass(
            cls, torch.zeros((), dtype=torch.bool, device=device).expand(shape)
        )
        made.request = request
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"<maskc mask {tuple(self.shape)}>"

    def __deepcopy__(self, memo: dict[int, Any]) -> MaskHandle:
        return self

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in _PASSED_ON and isinstance(args[0], MaskHandle):
            return args[0]
        if name in _ASKED:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        raise fail(
            "E702",
            f"this model computes with its attention masks itself ({name}), but maskc has none that is dense",
            'use attn_implementation="eager" for it; it does not leave attention to the implementation that is chosen',
        )

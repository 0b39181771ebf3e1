"""The handle that stands for a mask between Transformers' mask function and its attention function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from maskc.interop.stored import Stored
from maskc.interop.transformers.demand import Demand
from maskc.tiles.values import fail

__all__ = ["MaskHandle", "Request"]


@dataclass
class Request:
    """What a mask was asked for.

    Attributes:
        demand: the mask of the model's own code.
        stored: what the config's ``attention_pattern`` says, or None.
        q_len, k_len: queries, and keys that the cache gives (a static one gives more than are written).
        q_offset, k_offset: absolute position of the first query, and of the first key there is.
        real: (B, N) bool by absolute position, False for padding; None where nothing is padding.
        masked: whether the model was given an ``attention_mask`` at all.
        remembered: inputs that were worked out, which the layers share.
    """

    demand: Demand
    stored: Stored | None
    batch: int
    q_len: int
    k_len: int
    q_offset: int
    k_offset: int
    real: torch.Tensor | None
    masked: bool = False
    remembered: dict[Any, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if any(isinstance(n, torch.SymInt) for n in (self.q_len, self.k_len)):
            hint = 'export it for one number, or with attn_implementation="sdpa"; the batch may be of any size'
            raise fail("E702", "torch.export of a model for any number of tokens", hint)

    def remember(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self.remembered:
            self.remembered[key] = make()
        return self.remembered[key]


class MaskHandle:
    """Holds the ``request`` of a mask of the shape (B, 1, queries, keys), where a dense mask would stand.

    It is no tensor, so that graphs which torch traces hold it as a constant. What Transformers does to
    a mask on its way leaves it as it is; whoever computes with it is told that there is no dense mask.
    """

    ndim = 4
    dtype = torch.bool

    def __init__(self, request: Request, device: Any = "cpu") -> None:
        self.request = request
        self.device = device
        self.shape = torch.Size((request.batch, 1, request.q_len, request.k_len))

    def dim(self) -> int:
        return self.ndim

    def contiguous(self, *_: Any, **__: Any) -> MaskHandle:
        return self

    def to(self, *_: Any, **__: Any) -> MaskHandle:
        return self

    def clone(self, *_: Any, **__: Any) -> MaskHandle:
        return self

    def __repr__(self) -> str:
        return f"<maskc mask {tuple(self.shape)}>"

    def __getitem__(self, _: Any) -> Any:
        raise _computing("indexing")

    def __add__(self, _: Any) -> Any:
        raise _computing("addition")

    __radd__ = __mul__ = __rmul__ = __and__ = __or__ = __add__

    def __getattr__(self, name: str) -> Any:
        # What a tensor has, and a handle has not; nothing else, so that whoever asks for it gets an answer.
        if hasattr(torch.Tensor, name) and not name.startswith("__"):
            raise _computing(name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise _computing(getattr(func, "__name__", "a function of torch"))


def _computing(what: str) -> Exception:
    return fail(
        "E702",
        f"this model computes with its attention masks itself ({what}), but maskc has none that is dense",
        'use attn_implementation="eager" for it; it does not leave attention to the implementation that is chosen',
    )

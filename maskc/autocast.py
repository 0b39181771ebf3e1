"""Attention under ``torch.autocast``: what torch's own does there."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

__all__ = ["autocast_dtype", "converted", "without_autocast"]

# Asked once: this is called in every call, and older versions of torch cannot trace the question.
_DEVICES = frozenset(kind for kind in ("cpu", "cuda", "xpu", "mps") if torch.amp.is_autocast_available(kind))
_AS_IT_IS: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()


def autocast_dtype(x: Any) -> torch.dtype | None:
    """The dtype that a ``torch.autocast`` region computes in on the device of ``x``; None outside of one."""
    if not isinstance(x, torch.Tensor):
        return None
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if kind in _DEVICES and torch.is_autocast_enabled(kind) else None


def converted(x: Any, dtype: torch.dtype) -> Any:
    """``x`` as autocast hands it to an operator in low precision: float64, and what is no tensor of floats, stay."""
    stays = not isinstance(x, torch.Tensor) or not x.is_floating_point() or x.dtype == torch.float64
    return x if stays else x.to(dtype)


def without_autocast(x: Any) -> contextlib.AbstractContextManager[Any]:
    """Where what is computed keeps its own precision, float32 in most places, whatever region the caller is in."""
    if autocast_dtype(x) is None:
        return _AS_IT_IS
    return torch.autocast(x.device.type, enabled=False)

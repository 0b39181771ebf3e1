"""Tensors that maskc makes for itself lie in main memory, or where it says."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

__all__ = ["in_main_memory"]

_AS_IT_IS: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()


def in_main_memory() -> contextlib.AbstractContextManager[Any]:
    """Where a tensor that is made without a device lies in main memory, whatever the caller's default device is
    (``torch.set_default_device``, ``with torch.device(...)``).

    Nothing may be left to that default: to copy from a tensor on "meta" leaves what was there before, without an error.
    """
    return torch.device("cpu") if torch._C._len_torch_function_stack() else _AS_IT_IS

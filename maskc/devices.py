"""Where tensors lie, and whether they hold values: those that maskc makes for itself lie in main memory, or where it
says."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch._subclasses.fake_tensor import is_fake

__all__ = ["holds_values", "in_main_memory"]

_AS_IT_IS: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()


def in_main_memory() -> contextlib.AbstractContextManager[Any]:
    """Where a tensor that is made without a device lies in main memory, whatever the caller's default device is
    (``torch.set_default_device``, ``with torch.device(...)``).

    Nothing may be left to that default: to copy from a tensor on "meta" leaves what was there before, without an error.
    """
    return torch.device("cpu") if torch._C._len_torch_function_stack() else _AS_IT_IS


def holds_values(tensor: torch.Tensor) -> bool:
    """Whether a tensor can be looked at: it is neither on the device "meta" nor one of ``FakeTensorMode``, which has
    the device of what it stands for; nor a wrapper of such a one, as transforms of ``torch.func`` hand on."""
    plain = type(tensor) is torch.Tensor and not torch._C._are_functorch_transforms_active()
    return not tensor.is_meta and (plain or not is_fake(tensor))

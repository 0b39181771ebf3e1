"""Locks in processes that are forked from this one, as the workers of a DataLoader are."""

from __future__ import annotations

import os
import threading
from typing import Any

__all__ = ["new_lock"]


def new_lock() -> Any:
    """A lock, as of ``threading.RLock``, that is free in every child, as those of ``logging`` are: a thread that holds
    it just then is no thread of the child, where nobody would ever let it go."""
    lock: Any = threading.RLock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lock._at_fork_reinit)
    return lock

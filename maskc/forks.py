"""Processes that are forked from this one, as the workers of a DataLoader are."""

from __future__ import annotations

import os
from collections.abc import Callable

__all__ = ["in_children"]


def in_children(renew: Callable[[], None]) -> None:
    """Call ``renew`` first of all in every child: to make locks anew. One that another thread holds just then would
    be held in the child for ever, where that thread is no more."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=renew)

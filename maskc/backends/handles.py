"""Names by which operators of torch find what they compute: an operator takes tensors, numbers and strings.

A name lasts as long as what it is of. One that says what it is of (its *content*) is the same in every process: a graph
that was stored, or kept by a compiler, finds an equal op or none, and never another one. A graph to be stored holds the
op's recipe too, of which it is made again where there is none (``maskc.backends.finding``).
"""

from __future__ import annotations

import itertools
import os
import secrets
import weakref
from collections.abc import Iterable
from typing import Any

from maskc.forks import new_lock

__all__ = ["handle_of", "known", "name_call", "of_content"]

#: What has a name and lives, by its name.
known: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
_handles: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
_numbers = itertools.count()
_lock = new_lock()  # a dictionary of weak references is neither searched nor written to in one step
_process = secrets.token_hex(6)  # in containers, every process may have the same number


def handle_of(what: Any, content: str = "") -> str:
    """The name by which operators find ``what`` for as long as it lives.

    ``content``: what it computes; whatever has the same may stand for it. Without one it is found in this process
    alone.
    """
    handle = _handles.get(what)
    if handle is not None:
        return handle
    with _lock:
        handle = _handles.get(what)
        if handle is None:
            # Of a content the first number that is free: the same in every process that makes the same things in order.
            numbers, content = (itertools.count(), content) if content else (_numbers, f"{os.getpid()}-{_process}")
            handle = next(name for i in numbers if known.setdefault(name := f"{content}.{i}", what) is what)
            _handles[what] = handle
    return handle


def of_content(content: str) -> Any:
    """Something that lives and has this content, if anything does."""
    with _lock:
        return next((x for name, x in [*known.items()] if name.rpartition(".")[0] == content), None)


def name_call(
    handle: str, inputs: Iterable[str], sizes: Iterable[str], wishes: Iterable[str] = (), recipe: str = ""
) -> str:
    """A handle with the names of a call's inputs and sizes, its wishes and, to be stored, its recipe: what
    ``find_source`` reads. Extents are no part of it: they may be symbols."""
    return f"{handle}|{','.join(inputs)}|{','.join(sizes)}|{','.join(wishes)}|{recipe}"

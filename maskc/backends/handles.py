"""Names by which operators of torch find what they compute: an operator takes tensors, numbers and strings.

A name lasts as long as what it is of. One that says what it is of (its *content*) is the same in every process: a graph
that was stored, or kept by a compiler, finds an equal op or none, and never another one.
"""

from __future__ import annotations

import itertools
import os
import secrets
import weakref
from collections.abc import Iterable
from typing import Any, NamedTuple

from maskc.forks import new_lock

__all__ = ["Named", "find", "find_source", "handle_of", "name_call"]

_known: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
_handles: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
_numbers = itertools.count()
_lock = new_lock()  # a dictionary of weak references is neither searched nor written to in one step
_process = secrets.token_hex(6)  # in containers, every process may have the same number


class Named(NamedTuple):
    """What the handle of a call says: what computes it, the names of its inputs and sizes, in order, and its wishes."""

    source: Any
    inputs: list[str]
    sizes: list[str]
    wishes: list[str]


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
            handle = next(name for i in numbers if _known.setdefault(name := f"{content}.{i}", what) is what)
            _handles[what] = handle
    return handle


def find(handle: str) -> Any:
    """What is called ``handle``, or has the same content. Raises RuntimeError where there is nothing."""
    found = _known.get(handle)
    if found is None:
        content, _, _ = handle.rpartition(".")
        with _lock:
            found = next((x for name, x in [*_known.items()] if name.rpartition(".")[0] == content), None)
    if found is None:
        raise RuntimeError(
            f"the maskc op that this graph was made from ({handle}) no longer exists in this process; keep a reference "
            "to it, and before running a graph that was stored, compile the same pattern again with the same options"
        )
    return found


def name_call(handle: str, inputs: Iterable[str], sizes: Iterable[str], wishes: Iterable[str] = ()) -> str:
    """A handle with the names of a call's inputs and sizes and its wishes: what ``find_source`` reads. Extents are no
    part of it: they may be symbols."""
    return f"{handle}|{','.join(inputs)}|{','.join(sizes)}|{','.join(wishes)}"


def find_source(named: str) -> Named:
    """What a name by ``name_call`` says. Raises RuntimeError where the source no longer lives."""
    handle, inputs, sizes, wishes = named.split("|")
    return Named(find(handle), _words(inputs), _words(sizes), _words(wishes))


def _words(text: str) -> list[str]:
    return text.split(",") if text else []

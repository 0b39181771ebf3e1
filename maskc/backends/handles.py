"""Names by which operators of torch find what they compute: an operator takes tensors, numbers and strings.

A name lasts as long as what it is of. One that says what it is of (its *content*) is the same in every process: a graph
that was stored, or kept by a compiler, finds an equal op or none, and never another one. A graph to be stored holds the
op's recipe too, of which it is made again where there is none.
"""

from __future__ import annotations

import itertools
import os
import secrets
import weakref
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, NamedTuple

from maskc.forks import new_lock

__all__ = ["Named", "find", "find_source", "handle_of", "name_call"]

_known: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
_handles: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
_numbers = itertools.count()
_lock = new_lock()  # a dictionary of weak references is neither searched nor written to in one step
_remade: OrderedDict[str, Any] = OrderedDict()  # ops made of recipes, by their content: nobody else holds them
_MOST = 512
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


def find(handle: str, recipe: str = "") -> Any:
    """What is called ``handle``, or has the same content, or is made of the recipe. Raises RuntimeError where there is
    nothing, and as ``maskc.compile``."""
    found = _known.get(handle)
    if found is None:
        content, _, _ = handle.rpartition(".")
        with _lock:
            found = _remade.get(content) or next(
                (x for name, x in [*_known.items()] if name.rpartition(".")[0] == content), None
            )
            if found is None and recipe:
                found = _make_again(content, recipe)
    if found is None:
        raise RuntimeError(
            f"the maskc op that this graph was made from ({handle}) no longer exists in this process; keep a reference "
            "to it, and before running a graph that was stored, compile the same pattern again with the same options"
        )
    return found


def _make_again(content: str, recipe: str) -> Any:
    # The one import against the flow: torch calls an operator with nothing but strings, and in a process that has no
    # such op, somebody down here has to make it. Ops call operators, so that whoever makes ops stands above.
    from maskc.identity import said_by
    from maskc.op import Op

    pattern, options = said_by(content, recipe)
    made = _remade[content] = Op(pattern, **options)
    while len(_remade) > _MOST:
        _remade.popitem(last=False)
    return made


def name_call(
    handle: str, inputs: Iterable[str], sizes: Iterable[str], wishes: Iterable[str] = (), recipe: str = ""
) -> str:
    """A handle with the names of a call's inputs and sizes, its wishes and, to be stored, its recipe: what
    ``find_source`` reads. Extents are no part of it: they may be symbols."""
    return f"{handle}|{','.join(inputs)}|{','.join(sizes)}|{','.join(wishes)}|{recipe}"


def find_source(named: str) -> Named:
    """What a name by ``name_call`` says. Raises RuntimeError where the source no longer lives."""
    handle, inputs, sizes, wishes, recipe = named.split("|", 4)
    return Named(find(handle, recipe), _words(inputs), _words(sizes), _words(wishes))


def _words(text: str) -> list[str]:
    return text.split(",") if text else []

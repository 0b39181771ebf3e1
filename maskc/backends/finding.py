"""What a name stands for, found when an operator of torch runs: what is called so, what does the same, or one made
again of the recipe that a stored graph holds."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

from maskc.backends.handles import known, of_content
from maskc.forks import new_lock
from maskc.identity import said_by
from maskc.prepared import Prepared

__all__ = ["Named", "find", "find_source"]

_remade: OrderedDict[str, Prepared] = OrderedDict()  # made of recipes, by their content: nobody else holds them
_MOST = 512
_lock = new_lock()  # two threads make one


class Named(NamedTuple):
    """What the handle of a call says: what computes it, the names of its inputs and sizes, in order, and its wishes."""

    source: Prepared
    inputs: list[str]
    sizes: list[str]
    wishes: list[str]


def find(handle: str, recipe: str = "") -> Any:
    """What is called ``handle``, or has the same content, or is made of the recipe. Raises RuntimeError where there is
    nothing, and as ``maskc.compile``."""
    found = known.get(handle)
    if found is None:
        content, _, _ = handle.rpartition(".")
        with _lock:
            found = _remade.get(content) or of_content(content)
            if found is None and recipe:
                found = _make_again(content, recipe)
    if found is None:
        raise RuntimeError(
            f"the maskc op that this graph was made from ({handle}) no longer exists in this process; keep a reference "
            "to it, and before running a graph that was stored, compile the same pattern again with the same options"
        )
    return found


def _make_again(content: str, recipe: str) -> Prepared:
    pattern, options = said_by(content, recipe)
    made = _remade[content] = Prepared(pattern, **options)
    while len(_remade) > _MOST:
        _remade.popitem(last=False)
    return made


def find_source(named: str) -> Named:
    """What a name by ``name_call`` says. Raises RuntimeError where the source no longer lives."""
    handle, inputs, sizes, wishes, recipe = named.split("|", 4)
    return Named(find(handle, recipe), _words(inputs), _words(sizes), _words(wishes))


def _words(text: str) -> list[str]:
    return text.split(",") if text else []

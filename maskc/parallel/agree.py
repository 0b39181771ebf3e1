"""Whether all processes make the same call: they tell one another what is new, or that they will not make it."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist

__all__ = ["Agreed", "agreed_of"]

_BYTES = 1024  # of a message
_DIVISIONS, _CALLS = 64, 1024  # that are remembered, and of each division
_FAILED = "failed"
_ADVICE = "every process has to give the same lengths, inputs and options to partition() and to the call"
#: What follows "ranks [1] ", of each line of what ranks say of a call.
_UNLIKE = (
    "divide the sequence otherwise than rank 0",
    "attend by another pattern than rank 0",
    "have another mask than rank 0",
    "call with other tensors or options than rank 0: {theirs}, and not {first}",
)


class Agreed:
    """The calls of a group that its processes agree on. What one remembers all do: they make the same calls."""

    def __init__(self, group: dist.ProcessGroup, calls: OrderedDict[str, set[Any]]) -> None:
        self._group, self._calls = group, calls

    def on(self, call: Sequence[str], device: torch.device, *, again: bool) -> None:
        """Have all processes compare ``call``, what there is to say of one, its division first; where they have not
        already, or ``again``. Raises RuntimeError in all of them where they differ, or one fails."""
        known, what = self._calls.pop(call[0], set()), tuple(call[1:])
        if what not in known or again:
            _compare(self._told("\n".join(call), device))
            if len(known) >= _CALLS:
                known.clear()
            known.add(what)
        self._calls[call[0]] = known
        while len(self._calls) > _DIVISIONS:
            self._calls.popitem(last=False)

    @contextlib.contextmanager
    def failures_told(self, division: str, device: torch.device | None, *, again: bool) -> Iterator[None]:
        """Tell the others of what is raised, where they compare calls of this division for the first time (or
        ``again``); later ones do not wait for it. ``device``: None where nothing can be sent from."""
        try:
            yield
        except Exception as error:
            if device is not None and (again or division not in self._calls):
                with contextlib.suppress(RuntimeError):  # the other error is the one to see
                    self._told(f"{_FAILED}\n{error}", device)
            raise

    def _told(self, mine: str, device: torch.device) -> list[list[str]]:
        """What every process says, by lines."""
        ranks = dist.get_world_size(self._group)
        if ranks == 1:
            return [mine.split("\n")]
        text = mine.encode()[:_BYTES].ljust(_BYTES, b"\0")
        sent = torch.frombuffer(bytearray(text), dtype=torch.uint8).to(device)
        found = [torch.empty_like(sent) for _ in range(ranks)]
        dist.all_gather(found, sent, group=self._group)
        texts = (x.cpu().numpy().tobytes().rstrip(b"\0") for x in found)
        return [x.decode(errors="replace").split("\n") for x in texts]


def _compare(said: list[list[str]]) -> None:
    for rank, lines in enumerate(said):
        if lines[0] == _FAILED:
            raise RuntimeError(f"rank {rank} does not make the call: {' '.join(lines[1:])}")
    for i, unlike in enumerate(_UNLIKE):
        ranks = [rank for rank, lines in enumerate(said) if lines[i] != said[0][i]]
        if ranks:
            message = unlike.format(theirs=said[ranks[0]][i], first=said[0][i])
            raise RuntimeError(f"ranks {ranks} {message}: {_ADVICE}")


#: Of each group of this process, what is agreed of each division.
_AGREED: WeakKeyDictionary[Any, OrderedDict[str, set[Any]]] = WeakKeyDictionary()


def agreed_of(group: dist.ProcessGroup | None) -> Agreed:
    """What the processes of ``group`` (None: the default one) agree on. Raises ValueError where there is none, and
    RuntimeError in a process that is not of it."""
    if dist.get_rank(group) < 0:
        raise RuntimeError("this process is not in the group among whose ranks the sequence is divided")
    found = dist.group.WORLD if group is None else group
    assert found is not None
    return Agreed(found, _AGREED.setdefault(found, OrderedDict()))

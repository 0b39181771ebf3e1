"""The inputs of a layer's op: where texts start and end in their rows, documents, sinks and biases."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils.import_utils import is_torchdynamo_exporting

from maskc.devices import holds_values
from maskc.interop.compose import PREFIX
from maskc.interop.transformers.handle import Request
from maskc.ir.nodes import Lookup, postorder
from maskc.ir.program import Program
from maskc.ir.text import declaration
from maskc.tiles.binding import names_read
from maskc.tiles.values import fail

__all__ = [
    "Bounds",
    "Documents",
    "bounds_of",
    "check_given",
    "documents_of",
    "find_documents",
    "floats_of",
    "has_values",
    "inputs_of",
    "real_keys",
    "sink_name",
]

Bounds = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Documents:
    """Several documents in a row: ``doc`` and ``position`` are (B, N), indexed by the absolute position of the key."""

    doc: torch.Tensor
    position: torch.Tensor


def has_values(tensor: torch.Tensor) -> bool:
    """Whether a tensor can be looked at: not where it holds nothing, nor while ``torch.export`` makes a graph for any
    values. What depends on values is then an input of the op, as if they asked for it."""
    return holds_values(tensor) and not is_torchdynamo_exporting()


def documents_of(request: Request) -> Documents | None:
    """The documents of the rows; None where each row holds a single text."""
    demand = request.demand
    if demand.doc is not None:
        # Older masks tell documents apart, and say nothing of positions in them.
        return Documents(demand.doc, _counted(demand.doc) if demand.position is None else demand.position)
    found: Documents | None = request.remembered.get("documents")
    return found


def _counted(documents: torch.Tensor) -> torch.Tensor:
    """The positions within documents that lie one after another, from 0."""
    at = torch.arange(documents.shape[1], device=documents.device)
    starts = torch.nn.functional.pad(documents.diff(dim=1) != 0, (1, 0))
    return at - torch.where(starts, at, 0).cummax(1).values


def find_documents(request: Request, positions: Any) -> None:
    """Take the documents of a request from its queries' positions, where Transformers has not done so itself.

    Transformers looks for documents only where there is no cache, but models make one by default (``use_cache``).
    Position ids mean the same with an empty one. As there, an ``attention_mask`` says that each row is one text.
    Raises E702 where documents before these lie in the cache: it does not say where they start.
    """
    request.remember("documents", lambda: _documents(request, positions))


def _documents(request: Request, positions: Any) -> Documents | None:
    demand, past = request.demand, request.q_offset
    if request.masked or not demand.causal or demand.doc is not None or not isinstance(positions, torch.Tensor):
        return None
    if positions.ndim != 2 or positions.shape[1] != request.q_len or not positions.numel():
        return None  # positions of other kinds, as those of pictures, say nothing about documents
    steps = positions.diff(dim=1) != 1
    behind, restarts = False, True
    if has_values(positions):  # together, so that a device is waited for only once
        behind, restarts = torch.stack([(positions[:, 0] < past).any(), steps.any()]).tolist()
    if past and behind:
        raise fail(
            "E702",
            f"position_ids start at {int(positions[:, 0].min())}, but the cache holds {past} keys: other documents, "
            "whose places nobody knows any more",
            "give all documents in one call, or a cache to each; keys of padding: give the attention_mask",
        )
    if not restarts:
        return None
    before = positions[:, :1] + torch.arange(-past, 0, device=positions.device)
    numbers = torch.nn.functional.pad(steps.cumsum(1), (past + 1, 0))
    return Documents(*(x.expand(request.batch, -1) for x in (numbers, torch.cat([before, positions], 1))))


def real_keys(request: Request, start: int, length: int) -> torch.Tensor | None:
    """(B, length) bool, False for padding, of the keys from ``start`` on; None where all are real."""

    def find() -> torch.Tensor | None:
        if request.real is None:
            return None
        real = request.real[:, start : start + length]
        missing = length - real.shape[1]
        real = torch.nn.functional.pad(real, (0, missing)) if missing > 0 else real
        return None if has_values(real) and bool(real.all()) else real

    found: torch.Tensor | None = request.remember(("real", start, length), find)
    return found


def bounds_of(request: Request, start: int, length: int) -> Bounds | None:
    """The first real key of each row and the end of the last one; None where padding lies in between too."""

    def find() -> Bounds | None:
        real = real_keys(request, start, length)
        assert real is not None
        if not has_values(real):
            return None
        count, first = real.sum(1), real.int().argmax(1)
        last = torch.where(count > 0, length - real.flip(1).int().argmax(1), first)
        return (first, last) if bool((last - first == count).all()) else None

    found: Bounds | None = request.remember(("bounds", start, length), find)
    return found


def origin_of(request: Request, start: int) -> torch.Tensor:
    """(B,) what is added to the index of a key from ``start`` on to give its position in its text."""

    def find() -> torch.Tensor:
        if request.real is None:
            return torch.full((request.batch,), start)
        left = (request.real.int().cumsum(1) == 0).sum(1)
        return start - left

    found: torch.Tensor = request.remember(("origin", start), find)
    return found


def inputs_of(
    program: Program, request: Request, start: int, length: int, given: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The inputs of a fitted program that all layers share, for the keys from position ``start`` on: those that come
    of the batch, and those that the caller has given. Raises E702 for unknown ones."""
    user = dict(given or {})
    found: dict[str, Any] = {}
    for p in (p for p in program.params if p.when == "call"):
        if p.name in user:
            found[p.name] = _cropped(user.pop(p.name), "token" in p.domain, start, length)
        elif p.name != sink_name(program):
            value = _standard(p.name, request, start, length)
            if value is not None:
                found[p.name] = value
    unknown = sorted(set(user) - {p.name for p in program.params})
    if unknown:
        raise fail("E702", f"maskc_inputs holds {unknown}, which the pattern does not declare")
    return found


def check_given(program: Program, inputs: Collection[str], *, sink: bool, bias: bool) -> None:
    """Refuse a call without an input that a fitted program reads, where no layer has it of its own. Raises E501."""
    own = {sink_name(program) if sink else None, PREFIX + "bias" if bias else None}
    for name in sorted(_read(program) - set(inputs) - own):
        hint = f'give it with the call: model(..., maskc_inputs={{"{name}": ...}})'
        hint += f"; it is declared `{declaration(program.parameter(name))}`"
        raise fail("E501", f"{program.name!r} needs the input {name!r}", hint)


@functools.lru_cache(256)
def _read(program: Program) -> frozenset[str]:
    """The inputs that a program reads."""
    return frozenset(n for n in names_read(program, program.roots()) if program.parameter(n).when == "call")


def floats_of(program: Program, sink: torch.Tensor | None, bias: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """The inputs that a layer has of its own: (H,) logits of sinks, (B, H, Nq, Nk) or (H, Nq, Nk) biases."""
    found = {} if bias is None else {PREFIX + "bias": bias}
    name = None if sink is None else sink_name(program)
    return found if name is None or sink is None else {**found, name: sink}


def _cropped(value: Any, by_token: bool, start: int, length: int) -> Any:
    if not by_token:
        return value
    tensor = torch.as_tensor(value)
    return tensor[..., start : start + length] if tensor.shape[-1] > length else tensor


def _standard(name: str, request: Request, start: int, length: int) -> Any:
    """The inputs that come of the batch itself; None for those that do not."""
    demand, documents = request.demand, documents_of(request)
    match name.removeprefix(PREFIX):
        case "first" | "last" if name.startswith(PREFIX):
            bounds = bounds_of(request, start, length)
            assert bounds is not None
            return bounds[name.endswith("last")]
        case "origin" if name.startswith(PREFIX):
            return origin_of(request, start)
        case "padding" if "padding" in demand.padding:
            # Positions of packed documents do not count from the first key that there is.
            return demand.padding["padding"] - (start if documents is None else 0)
        case "real":
            real = real_keys(request, start, length)
            return torch.ones(request.batch, length, dtype=torch.bool) if real is None else real
        case "doc":
            if documents is not None:
                return documents.doc[:, start : start + length]
            # Encoders are not told by position ids where documents end: the caller must say so.
            return None if demand.bidirectional else torch.zeros(length, dtype=torch.long)
        case "position":
            if documents is not None:
                return documents.position[:, start : start + length].expand(request.batch, -1)
            return torch.arange(length)[None] + origin_of(request, start)[:, None].cpu()
        case "block":
            if demand.block is None:
                return torch.full((length,), -1)
            return demand.block[:, start : start + length]
    return None


@functools.lru_cache(maxsize=256)
def sink_name(program: Program) -> str | None:
    """The input that gives each head's sink: a float by head that the softmax looks up; None if there is none."""
    if program.normalizer.sink is None:
        return None
    for node in postorder([program.normalizer.sink]):
        if isinstance(node, Lookup) and program.parameter(node.name).domain == ("head",):
            return node.name
    return None

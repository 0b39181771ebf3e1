"""Where the tokens of a tile are when a plan lays them out in another order than their own.

Tensors stay as they are: a kernel works in laid-out order and reads and writes each token at its own place. An order
that is mixed-radix arithmetic is computed, from numbers that are arguments, so that one text serves all lengths. The
digits of a position with strides ``t`` and extents ``e`` sum up to ``i * t[-1] + sum(i // size * step)``, where a
digit's step is its stride less what the digit below it wraps back. Any other order is listed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from maskc.backends.triton.launch import on_device
from maskc.backends.triton.spec import Argument
from maskc.tiles.tiling import Order, Stretch

__all__ = ["InnerText", "OuterText", "Places", "inner_text", "outer_text", "place_arguments", "places_of"]

#: Divisions a tile at most; orders with more are listed.
_MOST_STEPS = 8


@dataclass(frozen=True)
class Places:
    """How kernels find the tokens of one side. ``steps``: the number of steps of the arithmetic, 0 where tokens are
    listed, None where they are in their own order; the rest are the kernel's arguments."""

    steps: int | None = None
    arguments: tuple[tuple[str, Any], ...] = ()

    def on(self, device: torch.device) -> dict[str, Any]:
        """The arguments, with lists on a device."""
        return {n: x if isinstance(x, int) else on_device(x, device) for n, x in self.arguments}


def places_of(side: str, order: Order, tile: int, first: int) -> Places:
    """The places of an order in tiles of ``tile`` tokens; ``first``: absolute position of the first token."""
    if order.index is None:
        return Places()
    if len(order.stretches) == 1:
        start, terms = _terms(order.stretches[0])
        if len(terms) <= _MOST_STEPS and all(size % tile == 0 or tile % size == 0 for size, _ in terms):
            (_, step), *more = terms
            values: list[tuple[str, Any]] = [(f"{side}_start", start - first), (f"{side}_step", step)]
            for i, (size, each) in enumerate(more, 1):
                values += [(f"{side}_size_{i}", size), (f"{side}_step_{i}", each)]
            return Places(len(terms), tuple(values))
    padded = np.zeros(-(-order.index.size // tile) * tile, np.int32)
    padded[: order.index.size] = order.index
    return Places(0, ((f"{side}_index", padded),))


def _terms(stretch: Stretch) -> tuple[int, list[tuple[int, int]]]:
    """The first token, and (size, step) by size; the first size is 1."""
    steps: dict[int, int] = {1: 0}
    size = 1
    for extent, stride in zip(reversed(stretch.extents), reversed(stretch.strides), strict=True):
        steps[size] = steps.get(size, 0) + stride
        size *= extent
        steps[size] = steps.get(size, 0) - stride * extent
    del steps[size]  # no place is that large
    kept = [(1, steps.get(1, 0)), *sorted((s, t) for s, t in steps.items() if t and s > 1)]
    return stretch.base, kept


def place_arguments(side: str, steps: int | None) -> list[Argument]:
    """The arguments of a kernel that finds tokens by so many steps (see ``Places``)."""
    if steps is None:
        return []
    if steps == 0:
        return [Argument(f"{side}_index", "int32")]
    names = [f"{side}_start", f"{side}_step"]
    for i in range(1, steps):
        names += [f"{side}_size_{i}", f"{side}_step_{i}"]
    return [Argument(name, "int") for name in names]


def _token(side: str, steps: int, place: str, *, near: bool = False) -> str:
    """The token at a place as text; ``near``: how far it is from the token at place 0."""
    terms = [] if near else [f"{side}_start"]
    terms.append(f"{place} * {side}_step")
    terms += [f"{place} // {side}_size_{i} * {side}_step_{i}" for i in range(1, steps)]
    return " + ".join(terms)


#: The width of a token, as it is loaded.
_WIDTHS = {"q": "D_PAD", "k": "D_PAD", "v": "DV_PAD", "o": "DV_PAD", "do": "DV_PAD"}
_WIDTHS |= {"dq": "D_PAD", "dk": "D_PAD", "dv": "DV_PAD"}


@dataclass(frozen=True)
class OuterText:
    """The text of the tile that a program instance works for.

    Attributes:
        tokens: lines that set the position of every token, as a column.
        row: the name of the tokens' places in the tensors.
        shift: lines that set where the tile starts.
        start: what is added to a pointer, with "{}" for the name of the tensor.
        rows: how far a tensor's tokens are from there, as a column, with "{0}" for its name and "{1}" for their width.
    """

    tokens: str
    row: str
    shift: str
    start: str
    rows: str

    def fill(self, template: str, **more: str) -> str:
        """A template of lines with these texts, and a start and rows for every tensor that it names, such as
        "{q_start}" and "{q_rows}"."""
        starts = {f"{name}_start": self.start.format(name) for name in _WIDTHS}
        rows = {f"{name}_rows": self.rows.format(name, width) for name, width in _WIDTHS.items()}
        return template.format(tokens=self.tokens, row=self.row, shift=self.shift, **starts, **rows, **more)


def outer_text(side: str, steps: int | None, near: str, tile: str, steady: bool) -> OuterText:
    """The text for an order of ``steps``; ``near``: the text of places within a tile, ``tile``: of its size.
    ``steady``: how far apart tokens lie is a constant, and a tile has one head."""
    offset = "offset + " if side == "q" else ""
    if steps is None:
        shift = f"    {side}_shift = tl.cast(tile_row * {tile}, tl.int64)\n"
        start = f" + {side}_shift * {{}}_sn"
        rows = _rows(near, tile, "[:, None]", steady)
        return OuterText(f"    {side}_pos = {offset}{side}_idx[:, None]\n", f"{side}_idx", shift, start, rows)
    found = f"tl.load({side}_index + {side}_idx)" if steps == 0 else _token(side, steps, f"{side}_idx")
    tokens = (
        "    # Tokens are laid out in another order than their own: where each of them is.\n"
        f"    {side}_token = {found}\n"
        f"    {side}_pos = {offset}{side}_token[:, None]\n"
    )
    rows = _rows(f"tl.cast({side}_token, tl.int64)", tile, "[:, None]", False)
    return OuterText(tokens, f"{side}_token", "", "", rows)


def _rows(places: str, tile: str, orient: str, steady: bool) -> str:
    """How far the tokens at ``places`` are from the first, with "{0}" for the name of the tensor and "{1}" for their
    width; ``orient``: how a vector is given two axes. ``steady``: they are the places of a whole tile, in order, and
    the distance of two is a constant."""
    return f"spread({tile}, {{0}}_sn, AT_ONCE // {{1}}){orient}" if steady else f"{places}{orient} * {{0}}_sn"


@dataclass(frozen=True)
class InnerText:
    """The text of the tiles that a loop runs over.

    Attributes:
        before: lines before the loop; those that set ``{}_at`` are among them where addresses only move by tile.
        inside: lines in the loop that say where the tile ``tile`` is.
        positions: lines after these that set the positions of its tokens, as a row.
        pointer: of the tile of a tensor, with "{}" for its name.
        row: the name of the tokens' places in the tensors, where ``positions`` stand.
    """

    before: tuple[str, ...]
    inside: tuple[str, ...]
    positions: tuple[str, ...]
    pointer: str
    row: str


def inner_text(side: str, steps: int | None, addresses: Sequence[tuple[str, str]], steady: bool) -> InnerText:
    """The text for an order of ``steps``; ``addresses``: names of tensors, and which axis of a tile its tokens are, as
    "[:, None]" or "[None, :]". ``steady``: how far apart tokens lie is a constant."""

    def at(places: str, regular: bool) -> tuple[str, ...]:
        return tuple(f"{name}_at = {_address(name, orient, places, size, regular)}" for name, orient in addresses)

    size = f"{side.upper()}_TILE"
    offset = "offset + " if side == "q" else ""
    places = f"{side}_in = tl.arange(0, {size})"
    moved, shift = "{0}_base + shift * {0}_sn + {0}_at", f"shift = tl.cast(tile * {size}, tl.int64)"
    if steps is None:
        index = f"{side}_idx" if side == "k" else f"{side}_idx[None, :]"
        before = (places, *at(f"{side}_in", steady))
        return InnerText(before, (shift,), (f"{side}_pos = {offset}{index}",), moved, f"{side}_idx")
    if steps == 0:
        token = f"{side}_token = tl.load({side}_index + tile * {size} + {side}_in)"
        position = f"{side}_pos = {offset}{side}_token[None, :]"
        inside = (token, *at(f"tl.cast({side}_token, tl.int64)", False))
        return InnerText((places,), inside, (position,), "{0}_base + {0}_at", f"{side}_token")
    near = f"{side}_near = {_token(side, steps, f'{side}_in', near=True)}"
    first = (f"{side}_first = tile * {size}", f"{side}_shift = {_token(side, steps, f'{side}_first')}")
    inside = (*first, f"shift = tl.cast({side}_shift, tl.int64)")
    positions = (f"{side}_token = {side}_shift + {side}_near", f"{side}_pos = {offset}{side}_token[None, :]")
    before = (places, near, *at(f"tl.cast({side}_near, tl.int64)", False))
    return InnerText(before, inside, positions, moved, f"{side}_token")


def _address(name: str, orient: str, places: str, tile: str, regular: bool) -> str:
    """Where the elements of a tile of the tensor ``name`` are, seen from its first token."""
    width = _WIDTHS[name]
    rows = _rows(places, tile, orient, regular).format(name, width)
    across = "[None, :]" if orient == "[:, None]" else "[:, None]"
    return f"{rows} + {'d' if width == 'D_PAD' else 'dv'}{across} * {name}_sd"

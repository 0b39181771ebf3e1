"""Token orders that make tiles dense: residue classes, blocks of grids, tokens sorted by label.

An order is chosen by counting, exactly, the tiles that are left to compute. It is applied to q, k and v, and undone on
the output: position ``i`` of the laid-out sequence holds token ``index[i]``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.arguments import shown
from maskc.diagnostics import Diagnostic, MaskcError
from maskc.ir.interval import MAX_TOKENS
from maskc.ir.nodes import Apply, Lookup, Symbol, postorder
from maskc.ir.program import Program, Space
from maskc.tiles.classify import Classifier
from maskc.tiles.grid import Grid
from maskc.tiles.layouts.digits import index_of
from maskc.tiles.layouts.orders import Blocks, Spec, arrange
from maskc.tiles.layouts.search import block_specs, residue_specs
from maskc.tiles.tiling import Order

__all__ = ["LAYOUTS", "LEAST_GAIN", "Layout", "candidates", "check_layout"]

Array = npt.NDArray[Any]
#: Kinds of orders: what ``layout=`` may say, besides "none" and "auto".
LAYOUTS = ("residues", "sorted", "blocks")
#: "auto" lays tokens out only if that leaves this many times fewer tiles: gathering q, k, v and o costs something.
LEAST_GAIN = 1.1


@dataclass(frozen=True, eq=False)
class Layout:
    """A pair of token orders, and, for blocks of digits, what makes planning in it cheap."""

    name: str
    q_index: Array
    k_index: Array
    blocks: Blocks | None = None

    def orders(self, reason: str) -> tuple[Order, Order]:
        stretches = ((), ()) if self.blocks is None else (self.blocks.q.stretches, self.blocks.k.stretches)
        return (
            Order(self.name, self.q_index.astype(np.int32), reason, stretches[0]),
            Order(self.name, self.k_index.astype(np.int32), reason, stretches[1]),
        )


def check_layout(layout: str, program: Program | None = None) -> None:
    """Raises MaskcError E502 unless the layout is "none", "auto", or a kind, alone or with what it is to be; E503 where
    it is no string. ``program``: whose tokens are sorted, where that is known."""
    if not isinstance(layout, str):
        raise MaskcError(Diagnostic("E503", f"layout must be a string, not {shown(layout)}", hint='such as "none"'))
    kind, _, detail = layout.partition(":")
    if layout in ("none", "auto", *LAYOUTS):
        return
    if kind in LAYOUTS and detail:
        if kind != "sorted":
            _spec(kind, detail, 1, 1)
        elif program is not None:
            _check_label(program, detail)
        return
    words = ", ".join(("none", "auto", *LAYOUTS, "residues:64", "sorted:doc", "blocks:8x4x4,4x8x4"))
    raise MaskcError(Diagnostic("E502", f"no layout is called {layout!r}", hint=f"there are, for example: {words}"))


def _check_label(program: Program, label: str) -> None:
    declared = [p.name for p in program.params if p.domain == ("token",)]
    if label not in declared:
        message = f"layout: tokens of {program.name!r} cannot be sorted by {label!r}"
        hint = f"inputs over tokens that it declares: {', '.join(declared) or 'none'}"
        raise MaskcError(Diagnostic("E502", message, hint=hint))


def candidates(c: Classifier, grid: Grid, spaces: tuple[Space, Space], layout: str) -> Iterator[Layout]:
    """The orders that the mask suggests; or the one that ``layout`` asks for. Raises E502."""
    kind, _, detail = layout.partition(":")
    if detail:
        labels = [detail] if kind == "sorted" else []
        specs = [] if labels else [_spec(kind, detail, grid.q_tile, grid.k_tile, grid.k_len)]
        if kind == "sorted" and detail not in _per_token(c):
            raise _unsorted(c, detail)
    else:
        every = layout == "auto"
        labels = _labels(c) if every or kind == "sorted" else []
        specs = [*residue_specs(c, spaces, grid)] if every or kind == "residues" else []
        specs += block_specs(c, spaces, grid) if every or kind == "blocks" else ()
    for spec in dict.fromkeys(specs):
        yield _blocks(c, spaces, grid, spec)
    for label in labels:
        values = np.asarray(c.binding.tables[label])
        if detail or (values[1:] < values[:-1]).any():
            shown = values[grid.offset : grid.offset + grid.q_len]
            yield Layout(f"sorted:{label}", np.argsort(shown, kind="stable"), np.argsort(values, kind="stable"))


def _blocks(c: Classifier, spaces: tuple[Space, Space], grid: Grid, spec: Spec) -> Layout:
    blocks = arrange(spaces, c.binding, grid, spec)
    name = f"blocks:{spec.name}"
    if len(spec.moduli) == 1 and (spec.q_shape, spec.k_shape, spec.shift) == ((grid.q_tile,), (grid.k_tile,), (0,)):
        name = f"residues:{spec.moduli[0]}"
    q = index_of(blocks.q.stretches, grid.q_len, grid.offset)
    same = blocks.q.stretches == blocks.k.stretches and not grid.offset
    return Layout(name, q, q if same else index_of(blocks.k.stretches, grid.k_len, 0), blocks)


#: What a layout may say beyond the length of the sequence: blocks and classes are counted before they are cut to it.
_MOST = 1 << 16
#: Numbers of nine digits, and of eight axes at most: no sequence is as long.
_NUMBER = "0*[0-9]{1,9}"
_SHAPE = f"{_NUMBER}(?:x{_NUMBER}){{0,7}}"
_BLOCKS = re.compile(f"(?P<q>{_SHAPE})(,(?P<k>{_SHAPE}))?(%(?P<m>{_SHAPE}))?(@(?P<s>{_SHAPE}))?")
_RESIDUES = re.compile("0*[1-9][0-9]{0,8}")


def _spec(kind: str, detail: str, q_tile: int, k_tile: int, k_len: int = MAX_TOKENS) -> Spec:
    """``residues:64``, or ``blocks:8x4x4,4x8x4%2x2x1@4x0x0``: shapes for queries and keys, moduli, first block."""
    most = max(k_len, _MOST)
    if any(len(n.lstrip("0")) > 9 or int(n) > most for n in re.findall("[0-9]+", detail)):
        message = f"layout: {shown(f'{kind}:{detail}')} has numbers beyond the sequence"
        raise MaskcError(Diagnostic("E502", message, hint=f"numbers up to {most} are taken"))
    if kind == "residues" and _RESIDUES.fullmatch(detail):
        return Spec((q_tile,), (k_tile,), (int(detail),), (0,))
    found = _BLOCKS.fullmatch(detail) if kind == "blocks" else None
    if found is None:
        hint = "write residues:64, or blocks:8x4x4,4x8x4 with shapes for queries and keys (%2x2x1 for residue classes)"
        raise MaskcError(Diagnostic("E502", f"layout: cannot read {shown(f'{kind}:{detail}')}", hint=hint))
    q, k, m, s = (tuple(map(int, found[n].split("x"))) if found[n] else None for n in "qkms")
    assert q is not None
    spec = Spec(q, k or q, m or (1,) * len(q), s or (0,) * len(q))
    same_rank = len({len(x) for x in (q, spec.k_shape, spec.moduli, spec.shift)}) == 1
    if not same_rank or min(*q, *spec.k_shape, *spec.moduli) < 1:
        message = f"layout: blocks:{detail} has not one extent of at least 1 for each axis"
        raise MaskcError(Diagnostic("E502", message, hint="as in blocks:8x4x4,4x8x4"))
    return spec


def _per_token(c: Classifier) -> list[str]:
    """Inputs over tokens that are the same for all batch entries."""
    given = c.binding.tables
    return sorted(n for n, d in c.domains.items() if d == ("token",) and n in given and n not in c.binding.batched)


def _unsorted(c: Classifier, label: str) -> MaskcError:
    message = f"layout: tokens cannot be sorted by {label!r}"
    known = ", ".join(_per_token(c)) or "none"
    hint = f"per-token inputs that are the same for all batch entries: {known}"
    if label in c.binding.batched:
        message += ", which differs between the batch entries: a plan has one order for all of them"
        hint = "plan each batch entry by itself, or lay them one after another in one sequence"
    return MaskcError(Diagnostic("E502", message, hint=hint))


def _labels(c: Classifier) -> list[str]:
    """Per-token inputs that are compared between the query and the key, the same for all batch entries: labels that
    are equal (``same(doc)``), and ranks that are in order (``causal on rank``) or close to one another."""
    known, found = {*_per_token(c)}, set[str]()
    for node in postorder([c.mask]) if known else ():
        if isinstance(node, Apply) and node.op in ("eq", "lt", "le"):
            read = {(n.name, n.indices[0]) for n in postorder([node]) if isinstance(n, Lookup) and n.name in known}
            found |= {name for name, place in read if place == Symbol("q") and (name, Symbol("k")) in read}
    return sorted(found)

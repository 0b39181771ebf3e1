"""What is known of a mask before lengths and inputs are: made once a pattern, and kept."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from maskc.diagnostics import MaskcError
from maskc.ir.binding import Binding
from maskc.ir.nodes import Node
from maskc.ir.program import Parameter, Program, Space
from maskc.passes.specialise import bind as specialise
from maskc.tiles.rowform import RowForm, row_form

__all__ = ["Analysis", "analyse"]


@dataclass(frozen=True)
class Analysis:
    """A program of the mask alone, whether it is in normal form, and the mask's row form, if it has one."""

    program: Program
    normal: bool
    form: RowForm | None


def analyse(program: Program, binding: Binding) -> Analysis:
    """The analysis of a program under the scalars, sizes and the layer of a binding."""
    args = tuple(sorted(binding.args.items()))
    sizes = tuple(sorted(binding.sizes.items()))
    return _analyse(program.mask, program.params, args, sizes, binding.layer, binding.heads)


@functools.lru_cache(maxsize=256)
def _analyse(
    mask: Node,
    params: tuple[Parameter, ...],
    args: tuple[tuple[str, bool | int | float], ...],
    sizes: tuple[tuple[str, int], ...],
    layer: int,
    heads: int,
) -> Analysis:
    bare = Program("mask", params, Space(), Space(), False, mask)
    try:
        bound = specialise(bare, args=dict(args), layer=layer, heads=heads, sizes=dict(sizes))
    except MaskcError:  # More alternatives than the normal form unrolls: `any` is analysed as it is.
        return Analysis(bare, False, None)
    return Analysis(bound, True, row_form(bound.mask))

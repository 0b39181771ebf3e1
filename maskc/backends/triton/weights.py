"""From scores to weights and back, in the kernels of the backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from maskc.backends.triton.expressions import Block, Expressions
from maskc.backends.triton.spec import KernelSpec
from maskc.backends.triton.writer import origin
from maskc.ir.derivative import derivative
from maskc.ir.nodes import Const, Node, Symbol
from maskc.ir.rewrite import rebuild
from maskc.passes.fold import fold_node

__all__ = [
    "Hidden",
    "derivatives",
    "is_softmax",
    "slope_lines",
    "statistic_line",
    "times",
    "weigh",
]

_S = Symbol("s")
Hidden = Literal["never", "if CAREFUL", "always"]


def is_softmax(spec: KernelSpec) -> bool:
    return spec.program.normalizer.kind == "softmax"


def derivatives(spec: KernelSpec, lookups: Sequence[Node]) -> list[Node]:
    """By the scaled dot product, and by each look-up."""
    return [rebuild(derivative(spec.program.score, by), fold_node) for by in (_S, *lookups)]


def statistic_line(name: str, place: str, orient: str, whole: bool = False) -> str:
    """What the kernel of dQ left of the queries of a tile, "level" or "delta"; ``whole``: all of them are there."""
    pointer = f"{name}_ptr + {place}"
    return f"{name} = tl.load({pointer}){orient}" if whole else f"{name} = load({pointer}, q_there, RAGGED_Q){orient}"


def weigh(spec: KernelSpec, used: Expressions, block: Block, before: Block, partial: bool) -> None:
    """From ``score`` to ``weight``, 0 for pairs that are not kept.

    No product comes between ``keep`` and its use: what it says of every pair does not fit the registers for such
    bits, and to put it elsewhere takes longer than to compute it.
    """
    program = spec.program
    if not (spec.plain_score and is_softmax(spec)):
        block.add("score = score * scale")
    for line in [] if spec.plain_score else origin(("score", program.score)):
        block.add(line)
    logit = "score" if spec.plain_score else used.write_pairs(program.score, block, before)
    unit = "(scale * LOG2E)" if spec.plain_score else "LOG2E"
    if partial:
        block.add(f'logit = tl.where(keep, {logit}, float("-inf"))')
        logit = "logit"
    kind = program.normalizer.kind
    if kind == "softmax":
        block.add(f"weight = tl.exp2({logit} * {unit} - level)")
    else:
        block.add(f"weight = {f'tl.sigmoid({logit})' if kind == 'sigmoid' else f'tl.maximum({logit}, 0.0)'}")


def slope_lines(spec: KernelSpec, block: Block, hidden: Hidden = "never") -> None:
    """From ``weight`` and ``grad_weight`` to ``grad_score``, the gradient of the modified score: 0 for pairs that are
    not kept, but NaN where ``grad_weight`` is not finite. ``hidden``: when it is 0 even then.
    """
    slope = {
        "softmax": "weight * (grad_weight - delta)",
        "sigmoid": "weight * (1.0 - weight) * grad_weight",
        "relu": "tl.where(weight > 0.0, grad_weight, 0.0)",
    }[spec.program.normalizer.kind]
    block.add(f"grad_score = {slope}")
    if hidden == "if CAREFUL":
        block.add("if CAREFUL:")
        block.add("    grad_score = tl.where(keep, grad_score, 0.0)")
    elif hidden == "always":
        block.add("grad_score = tl.where(keep, grad_score, 0.0)")


def times(used: Expressions, factor: Node, block: Block, before: Block, partial: bool, of: str = "grad_score") -> str:
    """What is called ``of`` times ``factor``, 0 for pairs that are not kept."""
    if isinstance(factor, Const):
        return of if factor.value == 1.0 else f"{of} * {factor.value!r}"
    text = f"{of} * {used.write(factor, block, before)}"
    return f"tl.where(keep, {text}, 0.0)" if partial else text

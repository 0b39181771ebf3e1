"""From scores to weights and back, in the kernels of the backward pass."""

from __future__ import annotations

from collections.abc import Sequence

from maskc.backends.triton.expressions import Block, Expressions
from maskc.backends.triton.spec import KernelSpec
from maskc.backends.triton.writer import origin
from maskc.ir.derivative import derivative
from maskc.ir.nodes import Const, Node, Symbol
from maskc.ir.rewrite import rebuild
from maskc.passes.fold import fold_node

__all__ = [
    "delta_line",
    "derivatives",
    "is_softmax",
    "lse_lines",
    "row_statistics",
    "slope_lines",
    "times",
    "weigh",
]

_S = Symbol("s")


def is_softmax(spec: KernelSpec) -> bool:
    return spec.program.normalizer.kind == "softmax"


def derivatives(spec: KernelSpec, lookups: Sequence[Node]) -> list[Node]:
    """By the scaled dot product, and by each look-up."""
    return [rebuild(derivative(spec.program.score, by), fold_node) for by in (_S, *lookups)]


def lse_lines(place: str, orient: str, whole: bool = False) -> list[str]:
    """Log-sum-exp of the queries of a tile; ``whole``: all are there, and none is empty."""
    if whole:
        return [f"lse = tl.load(lse_ptr + {place}){orient} * LOG2E"]
    return [
        f'lse = tl.load(lse_ptr + {place}, mask=q_there, other=float("inf")){orient} * LOG2E',
        "# The weights of a row that keeps nothing are 0.",
        'lse = tl.where(lse == float("-inf"), float("inf"), lse)',
    ]


def delta_line(place: str, orient: str, whole: bool) -> str:
    """Delta of the queries of a tile."""
    mask = "" if whole else ", mask=q_there, other=0.0"
    return f"delta = tl.load(delta_ptr + {place}{mask}){orient}"


def row_statistics(spec: KernelSpec, place: str, orient: str, whole: bool = False) -> list[str]:
    """Log-sum-exp and delta of the queries of a tile, where the score's gradient reads them."""
    if not is_softmax(spec):
        return []
    return [*lse_lines(place, orient, whole), delta_line(place, orient, whole)]


def weigh(spec: KernelSpec, used: Expressions, block: Block, before: Block, partial: bool) -> None:
    """From ``score`` to ``weight``."""
    program = spec.program
    if not (spec.plain_score and is_softmax(spec)):
        block.add("score = score * scale")
    for line in [] if spec.plain_score else origin(("score", program.score)):
        block.add(line)
    logit = "score" if spec.plain_score else used.write(program.score, block, before)
    unit = "(scale * LOG2E)" if spec.plain_score else "LOG2E"
    kind = program.normalizer.kind
    if kind == "softmax":
        block.add(f"weight = tl.exp2({logit} * {unit} - lse)")
    else:
        block.add(f"weight = {f'tl.sigmoid({logit})' if kind == 'sigmoid' else f'tl.maximum({logit}, 0.0)'}")
    if partial:
        block.add("weight = tl.where(keep, weight, 0.0)")


def slope_lines(spec: KernelSpec, block: Block, partial: bool) -> None:
    """From ``weight`` and ``grad_weight`` to ``grad_score``, the gradient of the modified score."""
    slope = {
        "softmax": "weight * (grad_weight - delta)",
        "sigmoid": "weight * (1.0 - weight) * grad_weight",
        "relu": "tl.where(weight > 0.0, grad_weight, 0.0)",
    }[spec.program.normalizer.kind]
    block.add(f"grad_score = {slope}")
    if partial:
        # Not only weights of 0: what is computed of pairs that are not kept may be NaN.
        block.add("grad_score = tl.where(keep, grad_score, 0.0)")


def times(used: Expressions, factor: Node, block: Block, before: Block, partial: bool, of: str = "grad_score") -> str:
    """What is called ``of`` times ``factor``, 0 for pairs that are not kept."""
    if isinstance(factor, Const):
        return of if factor.value == 1.0 else f"{of} * {factor.value!r}"
    text = f"{of} * {used.write(factor, block, before)}"
    return f"tl.where(keep, {text}, 0.0)" if partial else text

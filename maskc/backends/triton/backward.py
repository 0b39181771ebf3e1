"""The backward kernels: dQ by rows of tiles (``backward_dq``), dK with dV by columns (``backward_dkv``), and here what
both go by. Nothing is accumulated by atomics.

Under softmax the gradient of a score is the weight times the difference between its own dot product and *delta*, the
average of all of them in its row. The kernel of dQ computes delta from the output and leaves it for the others, and
with it the *level* of a row: its log-sum-exp in units of log 2, or infinity where it keeps nothing, so that its weights
are 0.

Gradients of the float tensors in a score: what a look-up reads is taken for a variable, and the sum of its
derivative over a row (or a column) is written to a buffer of its own; where each element of the tensor is
read, and how often, is left to the caller. An output of 16 bits makes delta inexact by more than such sums can bear:
a slope times a distance of thousands adds up thousands of times that error. So where there are any, delta is summed
again from the weights, and what the sums took from the inexact one is put right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from maskc.backends.triton.expressions import Block, Expressions
from maskc.backends.triton.spec import KernelSpec
from maskc.backends.triton.weights import Hidden, derivatives, is_softmax, slope_lines, times
from maskc.backends.triton.writer import loop_lines
from maskc.ir.derivative import float_lookups
from maskc.ir.nodes import Const, Lookup, Node

__all__ = [
    "ScoreLookups",
    "buffers",
    "clears_empty_rows",
    "expressions_of",
    "grad_score",
    "indented",
    "indented_lines",
    "joins_dkv",
    "loop_head",
    "score_lookups",
    "sums_delta_again",
    "tensors",
    "text_lines",
]


class ScoreLookups(NamedTuple):
    """The look-ups in a score that receive a gradient, by what their derivatives are summed over: a query's row,
    a key's column, or neither, since they differ between the pairs of both."""

    rows: tuple[Lookup, ...]
    columns: tuple[Lookup, ...]
    pairs: tuple[Lookup, ...]


def score_lookups(spec: KernelSpec) -> ScoreLookups:
    """The look-ups of ``spec.grad_tables`` in the score."""
    used = Expressions(spec.program, spec.batched, "q", [spec.program.score])
    found: tuple[list[Lookup], ...] = ([], [], [])
    for node in float_lookups(spec.program.score):
        if node.name in spec.grad_tables:
            depends = used.depends(node)
            found[0 if depends <= {"q"} else 1 if depends <= {"k"} else 2].append(node)
    return ScoreLookups(*map(tuple, found))


def clears_empty_rows(spec: KernelSpec) -> bool:
    """Whether the caller sets queries, and gradients of outputs, to 0 where a query keeps no key.

    The log-sum-exp tells which those are, beside a sink that of the sink; where it does not, the kernel of dK and dV
    takes care in every partial tile, at the cost of registers.
    """
    return is_softmax(spec) and (spec.cleared or spec.program.normalizer.sink is None)


def sums_delta_again(spec: KernelSpec) -> bool:
    """Whether the kernel of dQ leaves a delta that it has summed from the weights: see the head of this file."""
    return is_softmax(spec) and any(score_lookups(spec))


def joins_dkv(spec: KernelSpec) -> bool:
    """Whether the kernel of dK and dV can have full and partial tiles as one sequence: nothing that follows the weights
    asks which pairs are kept."""
    return spec.plain_score and is_softmax(spec) and clears_empty_rows(spec)


def text_lines(text: str) -> list[str]:
    return text.strip("\n").split("\n")


def indented(lines: Sequence[str], indent: int) -> str:
    return "\n".join(indented_lines(lines, indent))


def indented_lines(lines: Sequence[str], indent: int) -> list[str]:
    return [f"{'    ' * indent}{line}" for line in lines]


def tensors(spec: KernelSpec, grads: str) -> list[tuple[str, str]]:
    out = [(f"{name}_ptr", "data") for name in ("q", "k", "v", "do")]
    if is_softmax(spec):
        out += [("level_ptr", "float32"), ("delta_ptr", "float32")]
    return out + [(f"{name}_ptr", "data") for name in grads.split()]


def buffers(lookups: Sequence[Node]) -> list[tuple[str, str]]:
    return [(f"table_{i}_ptr", "float32") for i in range(len(lookups))]


def expressions_of(spec: KernelSpec, outer: str, lookups: Sequence[Node]) -> Expressions:
    roots = [spec.program.score, *derivatives(spec, lookups)]
    if not spec.masked_by_plan:
        roots.append(spec.program.mask)
    return Expressions(spec.program, spec.batched, outer, roots)


def loop_head(kind: str, indent: int) -> list[str]:
    note = "Full tiles: every pair is kept." if kind == "full" else "Partial tiles."
    return ["", *indented_lines([f"# {note}", *loop_lines(kind)], indent)]


def grad_score(
    spec: KernelSpec,
    used: Expressions,
    block: Block,
    before: Block,
    lookups: Sequence[Node],
    partial: bool,
) -> str:
    """From ``weight`` and ``grad_weight`` to the gradient by the dot product; its name."""
    hidden: Hidden = "never"
    if partial and used.outer == "q":
        hidden = "if CAREFUL"
    elif partial and (lookups or not clears_empty_rows(spec)):
        hidden = "always"
    slope_lines(spec, block, hidden)
    by_score, *by_lookups = derivatives(spec, lookups)
    for i, node in enumerate(by_lookups):
        block.add(f"table_{i} += tl.sum({times(used, node, block, before, partial)}, 1)")
    if isinstance(by_score, Const) and by_score.value == 1.0:
        return "grad_score"
    block.add(f"grad_dot = {times(used, by_score, block, before, partial)}")
    return "grad_dot"

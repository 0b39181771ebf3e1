"""The passes that bring a program to its normal form: one file each, in one order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from maskc.ir.program import Program
from maskc.ir.size import check_depth
from maskc.passes.absorb import absorb
from maskc.passes.decide import decide
from maskc.passes.fold import fold
from maskc.passes.negate import negate
from maskc.passes.simplify import simplify

__all__ = ["PIPELINE", "Pass", "normalise"]

#: Rounds of the pipeline at most; two or three are what it takes.
MAX_ROUNDS = 32


@dataclass(frozen=True)
class Pass:
    """A step that keeps the meaning. ``sentence`` says what it does, for ``docs/passes.md``."""

    name: str
    sentence: str
    run: Callable[[Program], Program]


PIPELINE: tuple[Pass, ...] = (
    Pass("fold", "Operators on constants are carried out.", fold),
    Pass("negate", "Negation moves inward to comparisons, which it reverses.", negate),
    Pass(
        "simplify",
        "Sums collect their terms, comparisons take one spelling, neutral and repeated operands go.",
        simplify,
    ),
    Pass("decide", "Comparisons that the ranges of their operands decide become constants.", decide),
    Pass(
        "absorb",
        "Bounds on one quantity become one, masks that others contain go, and what alternatives share stands once.",
        absorb,
    ),
)


def normalise(program: Program, *, check: bool = False) -> Program:
    """The program in its normal form, which has the same meaning; two spellings of it meet there.

    Idempotent. ``check`` verifies the program after every pass (see ``maskc.ir.verify``). Raises MaskcError E103
    where the program comes out too deep for the stages to come.
    """
    for _ in range(MAX_ROUNDS):
        before = program
        for each in PIPELINE:
            program = each.run(program)
            check_depth(program)  # Every round: sums of sums may grow deeper with each.
            if check:
                from maskc.ir.verify import verify

                verify(program)
        if program == before:
            return program
    raise RuntimeError(f"the passes do not come to rest on {program.name!r}")

"""What ``MASKC_DUMP`` prints: the stages of every pattern that is compiled, on standard error."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from maskc import knobs
from maskc.diagnostics import plain

if TYPE_CHECKING:
    from maskc.ir.program import Program
    from maskc.tiles.plan import TilePlan

__all__ = ["dump_kernel", "dump_plan", "dump_program"]


def dump_program(program: Program) -> None:
    """The typed program and its normal form, each if it is asked for."""
    stages = knobs.DUMP.value()
    if not stages & {"typed", "normal"}:
        return
    from maskc.ir.text import print_program
    from maskc.passes import normalise

    if "typed" in stages:
        _write("typed", print_program(program))
    if "normal" in stages:
        _write("normal", print_program(normalise(program)))


def dump_plan(plan: TilePlan) -> None:
    """The plan, if it is asked for."""
    if "plan" in knobs.DUMP.value():
        _write("plan", str(plan))


def dump_kernel(name: str, source: str) -> None:
    """The text of a kernel, if it is asked for."""
    if "kernel" in knobs.DUMP.value():
        _write(f"kernel {name}", source)


def _write(stage: str, text: str) -> None:
    sys.stderr.write(f"--- maskc: {stage}\n{plain(text).rstrip()}\n")

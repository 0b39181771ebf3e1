"""Kernels as files to read and to take along: sources, assembly, machine code, and what they take of the chip."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from maskc.backends.triton.aot import Compiled, Shape, compile_kernel, disassembly
from maskc.backends.triton.backward import joins_dkv, score_lookups
from maskc.backends.triton.cached import lists_pay
from maskc.backends.triton.configs import Config, Rows, Target, config, joins, shared_memory
from maskc.backends.triton.expressions import Unsupported
from maskc.backends.triton.launch import pad
from maskc.backends.triton.masks import is_box, pair_values
from maskc.backends.triton.origin import origin_of
from maskc.backends.triton.spec import Kernel, KernelSpec, specialised
from maskc.backends.triton.stages import STAGES, kernel_of
from maskc.diagnostics import Diagnostic, MaskcError

if TYPE_CHECKING:
    from maskc.ir.program import Program

__all__ = ["STAGES", "Emitted", "Written", "emit", "written"]


@dataclass(frozen=True)
class Written:
    """One kernel, and the configuration that it gets by default."""

    stage: str
    kernel: Kernel
    config: Config


@dataclass(frozen=True)
class Emitted:
    """One kernel: its source, the configuration it was compiled with, and the result."""

    stage: str
    kernel: Kernel
    source: str
    config: Config
    compiled: Compiled
    limit: int

    def files(self) -> dict[str, bytes]:
        """Contents by the end of a file name."""
        amd = self.compiled.assembly.lstrip().startswith(".text") or ".amdgcn_target" in self.compiled.assembly
        sass = None if amd else disassembly(self.compiled.binary)
        return {
            f"{self.stage}.py": self.source.encode(),
            **({} if sass is None else {f"{self.stage}.sass": sass.encode()}),
            f"{self.stage}.{'amdgcn' if amd else 'ptx'}": self.compiled.assembly.encode(),
            f"{self.stage}.{'hsaco' if amd else 'cubin'}": self.compiled.binary,
        }

    def row(self) -> dict[str, object]:
        """A row of a table of resources."""
        c = self.config
        return {
            "kernel": self.stage,
            "tile": f"{c.q_tile} x {c.k_tile}",
            "warps": c.warps,
            "stages": c.stages,
            "registers": self.compiled.registers,
            "spilled": self.compiled.spilled,
            "shared": self.compiled.shared,
            "limit": self.limit,
            "matrix": " ".join(sorted(self.compiled.tensor_cores)) or "none",
        }


def emit(
    program: Program,
    args: Mapping[str, bool | int | float],
    target: Target,
    shape: Shape,
    stages: tuple[str, ...] = ("forward",),
    batched: frozenset[str] = frozenset(),
    show: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Emitted, ...]:
    """Write and compile kernels of a pattern: see ``written``. ``show`` is told how many are done, and of how many.

    Raises MaskcError E702, also where the chip's compiler fails.
    """
    found, out = written(program, args, target, shape, stages, batched), []
    for i, each in enumerate(found):
        show(i, len(found))
        try:
            compiled = compile_kernel(each.kernel, program, target, each.config, shape)
        except Exception as why:  # compilers raise whatever they like
            reason = f"{type(why).__name__}: {why}".split("\n")[0][:300]
            message = f"the kernel {each.stage!r} of {program.name!r} does not compile for {target}: {reason}"
            raise MaskcError(Diagnostic("E702", message, hint="try another chip, dimension or dtype")) from why
        source = with_origin(each.kernel, program, args)
        out.append(Emitted(each.stage, each.kernel, source, each.config, compiled, shared_memory(target)))
    show(len(found), len(found))
    return tuple(out)


def written(
    program: Program,
    args: Mapping[str, bool | int | float],
    target: Target,
    shape: Shape,
    stages: tuple[str, ...] = ("forward",),
    batched: frozenset[str] = frozenset(),
    rows: Rows = "usual",
) -> tuple[Written, ...]:
    """Write kernels of a pattern.

    Args:
        program: the pattern as lowered.
        args: values of its scalar parameters.
        target: the chip.
        shape: dtype and dimensions.
        stages: keys of ``STAGES``; "pairs" is left out where no float input is read by query and key together.
        batched: names of the inputs that have a batch dimension in front.
        rows: what the rows of tiles are like, which calls know of their plan, and no file does.

    Raises MaskcError E702 where the pattern has no kernel.
    """
    text_program = specialised(program, args)
    values = pair_values(text_program, None)
    tables = frozenset(p.name for p in program.params)
    spec = KernelSpec(text_program, batched, None, tables, boxed=is_box(text_program), steady=True)
    out = []
    for stage in stages:
        if stage == "pairs" and not score_lookups(spec).pairs:
            continue
        width = max(pad(shape.head_dim), pad(shape.value_dim))
        chosen = config("decode" if stage == "merge" else stage, target, width, shape.dtype, values, rows)
        listed = stage == "decode" and lists_pay(text_program)
        boxed = spec.boxed and stage in ("forward", "dq", "dkv")
        of_stage = replace(spec, listed=listed, boxed=boxed)
        if joins(stage, target, chosen, width):
            of_stage = replace(
                of_stage, joined=rows == "short" if stage == "forward" else joins_dkv(spec) and not boxed
            )
        try:
            kernel = kernel_of(stage, of_stage)
        except Unsupported as why:
            message = f"the backend 'triton' cannot compute {program.name!r}: {why}"
            raise MaskcError(Diagnostic("E702", message, hint="emit without --backward, if that is enough")) from why
        out.append(Written(stage, kernel, chosen))
    return tuple(out)


def with_origin(kernel: Kernel, program: Program, args: Mapping[str, bool | int | float]) -> str:
    """The source below the pattern that it was written from."""
    return origin_of(program, args) + "\n" + kernel.text

"""Compiling kernels ahead of time, for a chip that need not be there, and what they take of it."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from maskc.backends.triton.configs import Config, Target
from maskc.backends.triton.launch import at_once, pad
from maskc.backends.triton.loading import load_kernel
from maskc.backends.triton.spec import Kernel
from maskc.ir.nodes import Type
from maskc.ir.program import Program

__all__ = ["Compiled", "Shape", "compile_kernel", "disassembly"]

_POINTERS = {"float32": "*fp32", "int32": "*i32"}
_DTYPES = {"bfloat16": "*bf16", "float16": "*fp16", "float32": "*fp32"}
_TENSOR_CORES = re.compile(r"wgmma\.mma_async|tcgen05\.mma|mma\.sync|v_mfma")


@dataclass(frozen=True)
class Shape:
    """What a compiled kernel is for: dtype and dimensions; whether lengths are multiples of the tiles; ``one_run``:
    whether a row's full and partial tiles are one run each, and all heads have one mask;
    ``ones``: all integers are 1, which Triton makes constants; ``page``: keys a page of a cache, 0 where it has no
    pages; ``careful``: as it is started for rows with a NaN."""

    dtype: str = "bfloat16"
    head_dim: int = 128
    value_dim: int = 128
    ragged: bool = False
    one_run: bool = False
    ones: bool = False
    page: int = 16
    careful: bool = False


@dataclass(frozen=True)
class Compiled:
    """A kernel as machine code.

    Attributes:
        assembly: PTX, or AMD assembly.
        binary: cubin or hsaco.
        shared: bytes of shared memory a block.
        registers: a thread. spilled: bytes a thread of registers kept in memory. None: not known.
        tensor_cores: the kinds of matrix instruction in the assembly.
        ttir: Triton's intermediate code.
    """

    assembly: str
    binary: bytes
    shared: int
    registers: int | None
    spilled: int | None
    tensor_cores: frozenset[str]
    ttir: str


def compile_kernel(kernel: Kernel, program: Program, target: Target, chosen: Config, shape: Shape) -> Compiled:
    """Compile ``kernel``. Pointers and strides are taken to be multiples of 16, as tensors of torch have them."""
    source, gpu = _source(kernel, program, target, chosen, shape)
    options = {"num_warps": chosen.warps, "num_stages": chosen.stages}
    return _read(triton.compile(source, target=gpu, options=options), target)


def _source(
    kernel: Kernel, program: Program, target: Target, chosen: Config, shape: Shape
) -> tuple[ASTSource, GPUTarget]:
    function = load_kernel(kernel, interpret=False)
    constants = _constants(chosen, shape, target)
    signature: dict[str, str] = {}
    constexprs: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for i, a in enumerate(kernel.arguments):
        if a.kind == "constexpr" or (a.kind == "int" and shape.ones) or a.name.endswith("_sd"):
            signature[a.name] = "constexpr"
            constexprs[i,] = constants.get(a.name, 1)
            continue
        signature[a.name] = _type(a.kind, a.table, program, shape.dtype)
        if signature[a.name].startswith("*") or re.fullmatch(r"[a-z]+_s[bhn]", a.name):
            attributes[i,] = [["tt.divisibility", 16]]
    gpu = GPUTarget(target.kind, target.arch, target.warp_size)
    if "constexprs" in inspect.signature(ASTSource).parameters:
        return ASTSource(function, signature=signature, constexprs=constexprs, attrs=attributes), gpu
    # Triton 3.2.
    names = [a.name for a in kernel.arguments]
    plain = {name: kind for name, kind in signature.items() if kind != "constexpr"}
    fixed = {names[i]: value for (i,), value in constexprs.items()}
    aligned = triton.backends.compiler.AttrsDescriptor.from_hints({i: 16 for (i,) in attributes})
    return ASTSource(function, signature=plain, constants=fixed, attrs=aligned), gpu


def _constants(chosen: Config, shape: Shape, target: Target) -> dict[str, Any]:
    return {
        "AT_ONCE": at_once(chosen, 4 if shape.dtype == "float32" else 2, target),
        "D": shape.head_dim,
        "D_PAD": pad(shape.head_dim),
        "DV": shape.value_dim,
        "DV_PAD": pad(shape.value_dim),
        "Q_TILE": chosen.q_tile,
        "K_TILE": chosen.k_tile,
        "RAGGED_Q": shape.ragged,
        "RAGGED_K": shape.ragged,
        "FULL_RUN": shape.one_run,
        "PART_RUN": shape.one_run,
        "ONE_RUN": shape.one_run,
        "ONE_PLAN": shape.one_run,
        "PRECISION": "ieee",
        "CAREFUL": shape.careful,
        "FLAT": False,
        "LSE_GRAD": False,
        "PACK": 4,
        "PAGE": shape.page,
        "STARTED": shape.ragged,
        **{f"{name}_sn": shape.head_dim for name in ("q", "k", "dq", "dk")},
        **{f"{name}_sn": shape.value_dim for name in ("v", "o", "do", "dv")},
    }


def _type(kind: str, table: str | None, program: Program, dtype: str) -> str:
    if kind == "data":
        return _DTYPES[dtype]
    if kind == "table":
        assert table is not None
        return {Type.INT: "*i32", Type.BOOL: "*i8", Type.FLOAT: "*fp32"}[program.parameter(table).type]
    return _POINTERS.get(kind, "fp32" if kind == "float" else "i32")


def _read(found: Any, target: Target) -> Compiled:
    if target.kind == "hip":
        text, binary = found.asm["amdgcn"], found.asm["hsaco"]
        registers = _number(r"\.vgpr_count:\s*(\d+)", text)
        # Not .vgpr_spill_count: it counts those, too, that are kept in free accumulators, which takes no memory.
        spilled = _number(r"\.private_segment_fixed_size:\s*(\d+)", text)
    else:
        text, binary = found.asm["ptx"], found.asm["cubin"]
        registers, spilled = _resources(binary)
    kinds = frozenset(m.group(0) for m in _TENSOR_CORES.finditer(text))
    return Compiled(text, binary, int(found.metadata.shared), registers, spilled, kinds, found.asm["ttir"])


def _number(pattern: str, text: str) -> int | None:
    found = re.search(pattern, text)
    return int(found.group(1)) if found else None


def _resources(cubin: bytes) -> tuple[int | None, int | None]:
    """Registers a thread, and bytes of stack that spilling takes."""
    said = _of_tool("cuobjdump", "-res-usage", cubin) or ""
    return _number(r"REG:(\d+)", said), _number(r"STACK:(\d+)", said)


def disassembly(cubin: bytes) -> str | None:
    """The machine code (SASS) as text; None where there is no tool for it."""
    return _of_tool("nvdisasm", "--print-code", cubin)


def _of_tool(tool: str, option: str, cubin: bytes) -> str | None:
    """What Triton's own copy of a tool of CUDA's says of a cubin."""
    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / tool
    handle, name = tempfile.mkstemp(suffix=".cubin")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(cubin)
        done = subprocess.run([str(path), option, name], capture_output=True, text=True, check=False)
    except OSError:
        return None
    finally:
        Path(name).unlink(missing_ok=True)
    return done.stdout if done.returncode == 0 else None

"""The quick half of compiling a kernel for a chip that need not be there: it finds every error of types."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import triton
from triton._C.libtriton import ir

from maskc.backends.triton.aot import Shape, _source
from maskc.backends.triton.configs import Config, Target
from maskc.backends.triton.spec import Kernel
from maskc.ir.program import Program


def check_kernel(kernel: Kernel, program: Program, target: Target, chosen: Config, shape: Shape) -> str:
    """Triton's intermediate code of ``kernel``."""
    source, gpu = _source(kernel, program, target, chosen, shape)
    backend = triton.compiler.compiler.make_backend(gpu)
    options = backend.parse_options({"num_warps": chosen.warps, "num_stages": chosen.stages})
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    given = {"options": options, "module_map": backend.get_module_map(), "context": context}
    given["codegen_fns"] = _called(backend.get_codegen_implementation, {"options": options})
    return str(_called(source.make_ir, {"target": gpu, **given}))


def _called(function: Callable[..., Any], given: dict[str, Any]) -> Any:
    """The function's answer to what it takes of ``given``: Triton 3.2 takes less."""
    return function(**{name: given[name] for name in inspect.signature(function).parameters})

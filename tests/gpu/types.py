"""The quick half of compiling a kernel for a chip that need not be there: it finds every error of types."""

from __future__ import annotations

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
    functions, modules = backend.get_codegen_implementation(options), backend.get_module_map()
    return str(source.make_ir(gpu, options, functions, modules, context))

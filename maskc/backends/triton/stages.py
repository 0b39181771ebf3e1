"""The kernels that there are, one row each, and their texts."""

from __future__ import annotations

import functools

from maskc.backends.triton.backward_dkv import write_dkv
from maskc.backends.triton.backward_dq import write_dq
from maskc.backends.triton.cached import write_cached, write_merge
from maskc.backends.triton.expressions import Unsupported
from maskc.backends.triton.forward import write_forward
from maskc.backends.triton.pairs import write_pairs
from maskc.backends.triton.spec import Kernel, KernelSpec
from maskc.dump import dump_kernel
from maskc.ir.program import Program

__all__ = ["STAGES", "kernel_of", "refusal_of"]

#: What writes a kernel, in the order in which they are listed.
STAGES = {
    "forward": write_forward,
    "decode": write_cached,
    "merge": write_merge,
    "dq": write_dq,
    "dkv": write_dkv,
    "pairs": write_pairs,
}


@functools.lru_cache(maxsize=256)
def kernel_of(stage: str, spec: KernelSpec) -> Kernel:
    """The kernel, written once for all calls of patterns that say the same. Raises Unsupported."""
    kernel = STAGES[stage](spec)
    dump_kernel(stage, kernel.text)
    return kernel


def refusal_of(program: Program, batched: frozenset[str], needs_grad: bool) -> str | None:
    """Why kernels for ``program`` cannot be written, or None."""
    tables = frozenset(p.name for p in program.params) if needs_grad else frozenset[str]()
    spec = KernelSpec(program, batched, None, tables)
    try:
        for stage in ("forward", "dq", "dkv", "pairs") if needs_grad else ("forward",):
            STAGES[stage](spec)
    except Unsupported as why:
        return str(why)
    return None

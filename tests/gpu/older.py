"""What Triton 3.2 cannot do, though later versions can."""

from __future__ import annotations

from typing import Any

import triton

__all__ = ["TRITON_3_2", "compiles", "mend"]

TRITON_3_2 = triton.__version__.startswith("3.2.")


def compiles(target: str) -> bool:
    """Whether Triton compiles for a chip by itself: 3.2 knows no Blackwell, and asks for ROCm's linker."""
    return not TRITON_3_2 or target in ("cuda:80", "cuda:90")


def mend() -> None:
    """Let the interpreter of this process take tiles of any size, and constants of one bit, as devices do."""
    if not TRITON_3_2:
        return
    from triton.runtime import interpreter

    given: Any = interpreter
    builder = given.interpreter_builder
    builder.codegen_fns["min_dot_size"] = lambda *types: (1, 1, 1)
    bit, ones = given.tl.int1, builder.get_all_ones_value
    builder.get_int1_ty = lambda: bit
    builder.get_all_ones_value = lambda kind: builder.get_int1(True) if kind == bit else ones(kind)

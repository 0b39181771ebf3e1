"""Kernels compiled side by side: Triton takes seconds for each, and lets go of Python's lock meanwhile."""

from __future__ import annotations

import contextlib
import contextvars
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import triton

from maskc.backends.triton.launch import Job, current, interpreting
from maskc.backends.triton.loading import load_kernel

__all__ = ["compile_together", "side_by_side"]


def side_by_side() -> int:
    """How many kernels can be compiled at once; 1 by Triton before 3.5, and under its interpreter."""
    return (os.cpu_count() or 1) if hasattr(triton, "AsyncCompileMode") and not interpreting() else 1


def compile_together(jobs: Sequence[Job]) -> None:
    """Compile kernels for one device, for whoever starts them next. What fails here fails there again, and says why:
    nothing is raised."""
    threads = min(len(jobs), side_by_side())
    if threads > 1:
        # Whatever becomes of the mode, it ends with this context.
        contextvars.copy_context().run(_compile, jobs, threads)


def _compile(jobs: Sequence[Job], threads: int) -> None:
    # Where the caller compiles in such a mode already, this raises, and his own has the kernels.
    with (
        contextlib.suppress(Exception),
        current(jobs[0].device),
        ThreadPoolExecutor(threads) as pool,
        triton.AsyncCompileMode(pool, ignore_errors=True),
    ):
        for job in jobs:
            function = load_kernel(job.kernel, interpret=False)
            function.warmup(grid=job.grid, **job.given, num_warps=job.config.warps, num_stages=job.config.stages)

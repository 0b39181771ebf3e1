"""Called in the interpreter's process: the autotuner with kernels."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import torch

from maskc.backends.triton.entry import Entry
from maskc.cli.app import run
from maskc.lower import lower_text
from maskc.tiles.binding import bind


def command(words: list[str]) -> list[Any]:
    """A command line's exit code and what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = run(words)
    return [code, printed.getvalue()]


def tune_everything() -> dict[str, Any]:
    """Tune forward and backward of a window, and compute with what was found, and again from what is stored."""
    program = lower_text("causal & window(9)")[0]
    binding = bind(program, 48, 48, heads=2, layer=0, batch=1, sizes={}, values={})
    generator = torch.Generator().manual_seed(0)
    q, k, v, grad = (torch.randn(1, 2, 48, 16, generator=generator) for _ in range(4))

    def results(entry: Entry) -> list[torch.Tensor]:
        out, lse, _ = entry.forward(q, k, v, [], 0.25)
        return [out, lse, *entry.backward(q, k, v, [], out, lse, grad, None, 0.25)[:3]]

    first, second = (Entry(program, binding, (), autotune="on", budget=3.0) for _ in range(2))
    wanted = results(Entry(program, binding, ()))
    found, again = results(first), results(second)
    return {
        "sources": {c.stage: c.source for c in first.choices},
        "configs": {c.stage: repr(c.config) for c in first.choices},
        "sources again": {c.stage: c.source for c in second.choices},
        "again": {c.stage: repr(c.config) for c in second.choices},
        "differences": [float((a - b).abs().max()) for x in (found, again) for a, b in zip(x, wanted, strict=True)],
        "device plans": sum(key[0] == "device" for key in first._memory),
    }

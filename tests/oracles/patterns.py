"""Dense masks of the patterns under ``examples/models``, as the language defines them."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.ir.evaluate import dense
from maskc.ir.program import Program
from maskc.lower import lower_text
from maskc.tiles.binding import make_binding

MODELS = Path(__file__).parents[2] / "examples" / "models"
Mask = npt.NDArray[np.bool_]


@cache
def model_text(name: str) -> str:
    return (MODELS / f"{name}.mask").read_text(encoding="utf-8")


@cache
def model(name: str) -> Program:
    """The program of ``examples/models/NAME.mask``."""
    (program,) = lower_text(model_text(name), f"{name}.mask")
    return program


@cache
def with_clause(name: str, declarations: str, clause: str) -> Program:
    """The model's pattern as a user would edit it for a batch: more inputs, and one more condition on a pair."""
    text = model_text(name)
    head = f"pattern {name}"
    declared = f"{head}({declarations}, " if f"{head}(" in text else f"{head}({declarations})"
    text = text.replace(f"{head}(", declared) if f"{head}(" in text else text.replace(head, declared)
    end = r"(?=\n    (?:let|score|normalize|output|assert) |\n})"
    text, found = re.subn(rf"\n    attend (.*?){end}", rf"\n    attend (\1) & {clause}", text, flags=re.DOTALL)
    assert found == 1
    (program,) = lower_text(text, f"{name}.mask")
    return program


@cache
def expression(text: str) -> Program:
    """A bare mask expression, or a file of one pattern, as a program."""
    (program,) = lower_text(text)
    return program


def visible(
    program: Program,
    q_len: int,
    k_len: int | None = None,
    *,
    heads: int = 1,
    layer: int = 0,
    batch: int = 1,
    sizes: dict[str, int] | None = None,
    h: int = 0,
    b: int = 0,
    **values: Any,
) -> Mask:
    """(q_len, k_len) bool: True where the query keeps the key."""
    k_len = q_len if k_len is None else k_len
    binding = make_binding(program, q_len, k_len, heads=heads, layer=layer, batch=batch, sizes=sizes or {}, **values)
    # Queries are named by their absolute positions.
    start = binding.offset
    return dense(program, binding, h, b, (start, start + q_len), (0, k_len))

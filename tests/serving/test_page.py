"""The examples of ``docs/serving.md`` run, one after another."""

from __future__ import annotations

import re
from pathlib import Path

import torch

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"


def test_examples_run() -> None:
    blocks = re.findall(r"(?:^ {4}.*\n(?:\n(?= {4}))?)+", PAGE.read_text(), re.M)
    code = "\n".join(line[4:] for block in blocks for line in block.split("\n"))
    names: dict[str, object] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    out = names["out"]
    assert isinstance(out, torch.Tensor)
    assert out.shape == (3, 8, 1, 64)
    assert len(blocks) == 7

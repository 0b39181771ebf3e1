"""What the documents show is what the language reads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from maskc.ir.ops import OPS
from maskc.ir.program import DOMAINS
from maskc.syntax.parse import parse

ROOT = Path(__file__).parents[1]


def _blocks(page: str) -> list[str]:
    """Indented blocks of a page, without their indentation."""
    text = (ROOT / "docs" / page).read_text()
    found = re.findall(r"(?:^ {4}.*\n(?:\n(?= {4}))?)+", text, re.M)
    return ["\n".join(line[4:] for line in block.split("\n")) for block in found]


@pytest.mark.parametrize("block", _blocks("language.md"))
def test_code_parses(block: str) -> None:
    if re.match(r"score|normalize|output|assert", block):
        lines = [f"{line}\n" for line in block.split("\n") if line]
        block = "pattern p { attend all\n" + "".join(lines) + "}"
    assert parse(block).items


def test_language_page_names_the_core() -> None:
    text = (ROOT / "docs" / "language.md").read_text()
    for op in OPS.values():
        if op.form == "call":
            assert re.search(rf"\b{op.symbol}\b", text), op.symbol
    for domain in DOMAINS:
        assert re.search(rf"\[[^\]]*\b{domain}\b", text), domain

"""What the README shows is what maskc prints, and every file that it links to is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _transcript() -> list[tuple[list[str], str]]:
    """The commands of the first console block, each with what follows it."""
    block = re.search(r"```console\n(.*?)```", README, re.DOTALL)
    assert block is not None
    parts = re.split(r"(?m)^\$ maskc ", block[1])[1:]
    return [(part.split("\n", 1)[0].split(), part.split("\n", 1)[1]) for part in parts]


@pytest.mark.parametrize(("words", "printed"), _transcript(), ids=lambda x: x[0] if isinstance(x, list) else "")
def test_a_command_prints_what_the_readme_shows(maskc: Any, write: Any, words: list[str], printed: str) -> None:
    pattern = re.search(r"```text\n(.*?)```", README, re.DOTALL)
    assert pattern is not None
    write("streaming.mask", pattern[1])
    result = maskc(*words)
    assert result.code == 0
    assert result.out == printed


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []

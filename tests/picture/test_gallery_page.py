"""docs/gallery.md speaks of the patterns that there are, as they are."""

from __future__ import annotations

import importlib.util
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from maskc.pattern import Pattern
from maskc.tiles import make_plan

SCRIPT = Path(__file__).parents[2] / "docs" / "make_gallery.py"
HINT = "python docs/make_gallery.py"


def _script() -> Any:
    spec = importlib.util.spec_from_file_location("make_gallery", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


gallery = _script()
INDEX: dict[str, dict[str, Any]] = json.loads(gallery.INDEX.read_text(encoding="utf-8"))
PROGRAMS = {key: program for key, _, program, _ in gallery.patterns()}


def test_every_pattern_is_there_and_means_what_was_measured() -> None:
    assert list(INDEX) == list(PROGRAMS), HINT
    changed = [key for key, program in PROGRAMS.items() if Pattern(program).hash != INDEX[key]["hash"]]
    assert changed == [], HINT


def test_the_page_is_written_from_the_index() -> None:
    assert gallery.PAGE.read_text(encoding="utf-8") == gallery.page(INDEX), HINT


def test_every_pattern_has_a_thumbnail_and_no_other() -> None:
    assert {p.name for p in gallery.PICTURES.glob("*.svg")} == {gallery.picture_of(key).name for key in PROGRAMS}
    sizes = [p.stat().st_size for p in gallery.PICTURES.glob("*.svg")]
    assert sum(sizes) < 1_500_000
    for path in gallery.PICTURES.glob("*.svg"):
        assert ET.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"


SOME = [
    "classics/longt5_local.mask",
    "language/duo_attention.mask",
    "vision/axial_attention.mask",
    "classics/swin.mask",
]


@pytest.mark.parametrize("file", SOME)
def test_figures_and_thumbnails_are_those_of_today(file: str) -> None:
    """Of a few patterns; the speed-up is left to the cost model's own tests."""
    key = next(k for k in PROGRAMS if k.startswith(f"{file}::"))
    program, row = PROGRAMS[key], INDEX[key]
    assert gallery.picture_of(key).read_text(encoding="utf-8") == gallery.picture(program), HINT
    binding = gallery.given(program, gallery.MEASURED).bind(program)
    assert [binding.q_len, binding.k_len] == row["lengths"]
    plan = make_plan(program, binding)
    kinds = [0, 0, 0]
    for head in range(binding.heads):
        found = plan.kinds(plan.group_of(head))
        kinds = [n + int((found == kind).sum()) for n, kind in zip(kinds, (2, 1, 0), strict=True)]
    assert kinds == row["tiles"], HINT

"""What every pattern file under ``examples`` must satisfy, whoever adds one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from maskc.check import check_source
from maskc.diagnostics import Diagnostic, render
from maskc.ir.program import Program
from maskc.ir.text import print_program
from maskc.lower import Lowered, lower_file, lower_text
from maskc.syntax.format import format_text
from maskc.syntax.parse import read_source

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(EXAMPLES.rglob("*.mask"))
MODELS = [f for f in FILES if f.parent.name == "models"]

every_file = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(EXAMPLES).with_suffix("")))
every_model = pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)


def checked(path: Path) -> Lowered:
    return check_source(read_source(path))


def programs(path: Path) -> tuple[Program, ...]:
    found = lower_file(path)
    assert found, f"{path} holds no program"
    return found


def test_there_are_examples() -> None:
    assert len(MODELS) >= 30


@every_file
def test_formats_to_itself(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert format_text(text, str(path)) == text, "run: maskc fmt"


@every_file
def test_checks_without_warnings(path: Path) -> None:
    warnings: tuple[Diagnostic, ...] = checked(path).warnings
    assert not warnings, render(warnings)


@every_file
def test_prints_and_lowers_back_identically(path: Path) -> None:
    for program in programs(path):
        text = print_program(program)
        (again,) = lower_text(text, f"{program.name} as printed")
        assert again == program, text
        assert print_program(again) == text


@every_file
def test_says_what_it_is_and_where_it_comes_from(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("## "), "a file opens with a sentence about what it describes"
    assert re.search(r"^##.*\bsource: \S", text, re.MULTILINE | re.IGNORECASE), "name the source: `## Source: ...`"


@every_model
def test_a_model_file_holds_one_pattern_of_its_name(path: Path) -> None:
    (program,) = programs(path)
    assert program.name == path.stem


@every_model
def test_a_model_explains_every_parameter(path: Path) -> None:
    (program,) = programs(path)
    assert "Source: " in program.doc
    for parameter in program.params:
        explained = rf"^(\w+, )*{parameter.name}(, \w+)*: "
        assert re.search(explained, program.doc, re.MULTILINE), f"{parameter.name} is not explained"


def fenced(path: Path) -> list[str]:
    """The indented patterns of a README, one text each."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.startswith("    pattern ")]


def test_the_readme_of_the_models_lists_every_file() -> None:
    text = (EXAMPLES / "models" / "README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`(\w+)`", text))
    assert {f.stem for f in MODELS} <= listed


def test_the_patterns_in_the_readme_of_the_models_lower() -> None:
    base = (EXAMPLES / "models" / "mistral.mask").read_text(encoding="utf-8")
    patterns = fenced(EXAMPLES / "models" / "README.md")
    assert len(patterns) >= 3
    for pattern in patterns:
        assert len(lower_text(f"{base}\n{pattern}\n")) == 2

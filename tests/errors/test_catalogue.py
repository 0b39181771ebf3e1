"""Every row of the catalogue has its explanation and a faulty program or call, and says what it always said."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import maskc
from maskc.check import check_source
from maskc.cli.explain import said
from maskc.diagnostics import MaskcError, Source, render
from maskc.errors import ERRORS, ErrorRow

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PROGRAMS = [row for row in ERRORS.values() if not row.is_call]
#: Calls that are commands, or too long to be written out; each has a test of its own below.
APART = ("E001", "E002", "E003", "E103", "E703")
CALLS = [row for row in ERRORS.values() if row.is_call and row.code not in APART]


def _id(row: ErrorRow) -> str:
    return row.code


@pytest.mark.parametrize("row", ERRORS.values(), ids=_id)
def test_a_row_explains_itself(row: ErrorRow) -> None:
    assert row.explanation.endswith(".")
    assert row.example
    assert 1 <= len(re.findall(r"[.!?](?: |$)", row.explanation)) <= 4
    assert bool(row.report) is row.is_call


@pytest.mark.parametrize("row", PROGRAMS, ids=_id)
def test_a_faulty_program_gets_its_code_and_report(row: ErrorRow, golden: Any) -> None:
    golden.check(HERE / f"{row.code}.mask", row.example)
    source = Source(row.example, f"{row.code}.mask")
    if row.code.startswith("W"):
        found = check_source(source).warnings
    else:
        with pytest.raises(MaskcError) as raised:
            check_source(source)
        found = raised.value.diagnostics
    assert [d.code for d in found] == [row.code]
    golden.check(HERE / f"{row.code}.txt", render(found) + "\n")


@pytest.mark.parametrize("row", CALLS, ids=_id)
def test_a_faulty_call_gets_its_code_and_report(row: ErrorRow) -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(MaskcError) as raised:
        exec(row.example, {"maskc": maskc, "torch": torch})
    assert raised.value.codes == (row.code,)
    assert str(raised.value) == row.report


def _report(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    from maskc.cli import main

    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code != 0
    return capsys.readouterr().err.partition("\n\n")[0].rstrip("\n")


@pytest.mark.parametrize("code", ["E001", "E002", "E003"])
def test_a_file_that_cannot_be_read(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _, command, name = ERRORS[code].example.split()
    if code == "E001":
        Path(name).write_bytes(b"\x89PNG\r\n\x1a\n")
    elif code == "E002":
        Path(name).write_bytes(b"# x\n" * (25 << 20))
    assert _report(capsys, command, name) == ERRORS[code].report


def test_nesting_without_end() -> None:
    with pytest.raises(MaskcError) as raised:
        maskc.parse("~" * 10_000 + "causal")
    assert raised.value.codes == ("E103",)
    assert str(raised.value).startswith(ERRORS["E103"].report)


def test_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    from maskc.picture.png import save_png

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MaskcError) as raised:
        save_png([("", SimpleNamespace())], "unused.png")  # type: ignore[list-item]
    assert str(raised.value) == ERRORS["E703"].report


def test_every_code_that_is_used_is_in_the_catalogue_and_the_other_way_round() -> None:
    used: set[str] = set()
    for path in (ROOT / "maskc").rglob("*.py"):
        if path.name != "errors.py":
            used |= set(re.findall(r'"([EW]\d{3})"', path.read_text(encoding="utf-8")))
    assert used == set(ERRORS)


def test_the_page_of_errors_is_the_catalogue(golden: Any) -> None:
    golden.check(ROOT / "docs" / "errors.md", page())


def page() -> str:
    """``docs/errors.md``."""
    parts = [
        "# Errors and warnings\n\n`maskc explain CODE` prints any of these. Codes that start with W are warnings.\n",
        "A command that prints JSON (`--json`) prints its errors as JSON too, on standard output, with the same exit "
        'code:\n`{"maskc": 1, "diagnostics": [...]}`, each with its `code`, `severity`, `message`, `hint`, `place` and '
        "`notes`.\n`maskc check` has such diagnostics by file. Options that a command does not have, and values that "
        "an option does not take,\nare reported with its usage, as text on standard error.\n",
    ]
    for row in ERRORS.values():
        blocks = "\n\nmaskc says:\n\n".join(f"```text\n{text.rstrip()}\n```" for text in (row.example, said(row)))
        parts.append(f"## {row.code}: {row.title}\n\n{row.explanation}\n\n{blocks}\n")
    return "\n".join(parts)

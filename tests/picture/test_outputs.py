"""``maskc show`` writes what it is asked for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from maskc.cli.app import run

GRID = "pattern g(r: int = 1) over text ++ image: grid(y, x) {\n    attend q in text & causal | window(r, r) on x\n"
GRID += "    score s - 0.5 * abs(x[q] - x[k])\n}\n"


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "g.mask"
    path.write_text(GRID)
    return str(path)


SIZES = ["--size", "text=4", "--size", "y=5", "--size", "x=6"]


@pytest.mark.parametrize(
    "words", [[], ["--score"], ["--reach", "--layers", "3"], ["--token", "2,3"], ["--head", "all"]]
)
@pytest.mark.parametrize("ending", ["svg", "png", "html"])
def test_files(file: str, tmp_path: Path, words: list[str], ending: str, capsys: pytest.CaptureFixture[str]) -> None:
    if ending == "png":
        pytest.importorskip("matplotlib")
    out = tmp_path / "out" / f"picture.{ending}"
    code = run(["show", file, *SIZES, "--heads", "2", *words, f"--{ending}", str(out)])
    if ending == "html" and words[:1] in (["--reach"], ["--token"]):  # A page has no such view.
        assert (code, out.exists()) == (2, False)
        return
    assert code == 0
    start = {"svg": b"<svg ", "png": b"\x89PNG", "html": b"<!doctype html>"}[ending]
    assert out.read_bytes().startswith(start)
    assert "written" in capsys.readouterr().out


def test_the_difference_of_two_files(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.mask"
    other.write_text(GRID.replace("pattern g", "pattern wider").replace("r, r", "2, r"))
    out = tmp_path / "d.svg"
    assert run(["show", file, *SIZES, "--diff", str(other), "--svg", str(out)]) == 0
    assert "g and wider: 34 queries × 34 keys" in out.read_text()
    assert run(["show", file, *SIZES, "--diff", str(other)]) == 0
    shown = capsys.readouterr().out
    assert "only wider" in shown
    assert ">>" in shown


def test_a_theme_is_forced(file: str, tmp_path: Path) -> None:
    out = tmp_path / "d.svg"
    assert run(["show", file, *SIZES, "--theme", "dark", "--svg", str(out)]) == 0
    assert "prefers-color-scheme" not in out.read_text()


def test_the_neighbourhood_of_a_token_in_the_terminal(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", file, *SIZES, "--token", "2,3"]) == 0
    by_coordinates = capsys.readouterr().out
    assert run(["show", file, *SIZES, "--token", str(4 + 2 * 6 + 3)]) == 0
    by_position = capsys.readouterr().out
    assert by_coordinates.split("\n")[1:] == by_position.split("\n")[1:]
    assert len(re.findall("@@|◆◆", by_coordinates)) == 2  # the query, and the legend


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--theme", "green"], "E503"),
        (["--token", "9,9"], "E504"),
        (["--token", "x"], "E503"),
        (["--token", "999"], "E504"),
        (["--svg", "/proc/none/x.svg"], "E003"),
    ],
)
def test_wrong_options(file: str, words: list[str], code: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", file, *SIZES, *words]) == 2
    assert f"error[{code}]" in capsys.readouterr().err


def test_there_must_be_a_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.mask"
    path.write_text("causal\n")
    assert run(["show", str(path), "--score", "--q", "8"]) == 2
    assert "has no score expression" in capsys.readouterr().err

"""maskc check, fmt and explain."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from maskc.cli.style import styled

GOOD = "sliding_window(4)\n"
BAD = "causl & sinks(4)\n"


def test_a_good_file_is_counted(maskc: Any, write: Any) -> None:
    result = maskc("check", write("good.mask", GOOD))
    assert (result.code, result.out, result.err) == (0, "1 file checked\n", "")


def test_a_bad_file_is_reported_on_standard_error(maskc: Any, write: Any) -> None:
    result = maskc("check", write("good.mask", GOOD), write("bad.mask", BAD))
    assert result.code == 1
    assert result.out == ""
    assert result.err.startswith("bad.mask:1:1: error[E201]")
    assert "did you mean `causal`?" in result.err
    assert "maskc explain E201" in result.err


def test_a_constant_mask_is_warned_of_where_it_is_written(maskc: Any, write: Any) -> None:
    text = "pattern p {\n    attend window(-1)\n}\ndef f = all\n"
    result = maskc("check", write("p.mask", text), write("bare.mask", "# nothing\nsliding_window(0)\n"))
    assert result.code == 0
    assert "p.mask:2:12: warning[W403]: the mask of `p` keeps no pair" in result.err
    assert "bare.mask:2:1: warning[W403]: this mask keeps no pair" in result.err


def test_a_missing_file_and_an_unknown_option_are_wrong_use(maskc: Any, write: Any) -> None:
    assert maskc("check", "missing.mask").code == 2
    assert maskc("check", write("good.mask", GOOD), "--jsn").code == 2
    assert maskc("check").code == 2
    assert maskc("chekc").code == 2


def test_warnings_count_when_strict(maskc: Any, write: Any) -> None:
    file = write("unused.mask", "pattern p(n: int = 4) {\n    attend causal\n}\n")
    assert maskc("check", file).code == 0
    assert maskc("check", file, "--strict").code == 1


def test_json_gives_places(maskc: Any, write: Any) -> None:
    result = maskc("check", "--json", write("good.mask", GOOD), write("bad.mask", BAD))
    files = json.loads(result.out)["files"]
    assert [f["ok"] for f in files] == [True, False]
    found = files[1]["diagnostics"][0]
    assert (found["code"], found["severity"]) == ("E201", "error")
    assert found["place"] == {"file": "bad.mask", "line": 1, "column": 1, "end_line": 1, "end_column": 6}


@pytest.mark.parametrize(
    "words",
    [
        ["check", "-", "-"],
        ["diff", "bad.mask", "causal & all"],
        ["emit", "bad.mask"],
        ["explain", "E000"],
        ["export", "good.mask", "--to", "magic"],
        ["plan", "bad.mask"],
        ["prove", "good.mask", "--arg", "n=1"],
        ["run", "missing.mask"],
        ["show", "good.mask", "--layer", "3", "--arg", "x"],
        ["tune"],
        ["tune", "bad.mask"],
        ["why", "good.mask", "9", "9", "--q", "4"],
    ],
)
def test_errors_are_json_where_results_are(words: list[str], maskc: Any, write: Any) -> None:
    write("good.mask", GOOD), write("bad.mask", BAD)
    text, found = maskc(*words), maskc(*words, "--json")
    assert (text.out, found.err, found.code) == ("", "", text.code)
    document = json.loads(found.out)
    assert document.keys() == {"maskc", "diagnostics"}
    for d in document["diagnostics"]:
        assert d.keys() == {"code", "severity", "message", "hint", "place", "notes"}
        assert f"error[{d['code']}]: {d['message']}" in text.err
        assert d["code"] != "E201" or d["place"]["file"] == "bad.mask"


def test_every_command_with_json_is_among_these() -> None:
    from maskc.cli.app import COMMANDS

    tested = {words[0] for mark in test_errors_are_json_where_results_are.pytestmark for words in mark.args[1]}
    assert tested == {name for name, function in COMMANDS if "as_json" in inspect.signature(function).parameters}


def test_both_paths_to_check_say_the_same(maskc: Any, write: Any) -> None:
    """The path without typer, and the one that typer's help needs."""
    from maskc.cli.app import run
    from maskc.cli.checking import is_plain

    words = ["check", write("bad.mask", BAD)]
    assert is_plain(words[1:])
    assert not is_plain(["--help"])
    plain = maskc(*words)
    assert run(words) == plain.code


def test_check_needs_neither_numpy_nor_torch_nor_typer(tmp_path: Path) -> None:
    (tmp_path / "good.mask").write_text(GOOD)
    heavy = "{'numpy', 'torch', 'triton', 'typer', 'rich', 'networkx'}"
    code = (
        "import sys, maskc.cli\n"
        "try: maskc.cli.main(['check', 'good.mask'])\n"
        f"finally: print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "1 file checked\n[]\n"


def test_standard_input(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "maskc", "check", "-"]
    done = subprocess.run(words, input=BAD, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("<stdin>:1:1: error[E201]")


@pytest.mark.parametrize("text", ["causal \x1b[31m", "ca\x1b]0;owned\x07usal", "[bold]causal[/bold]"])
def test_nothing_of_a_pattern_commands_the_terminal(maskc: Any, write: Any, text: str) -> None:
    result = maskc("check", write("evil.mask", text))
    assert result.code == 1
    assert not {c for c in result.out + result.err if not c.isprintable()} - {"\n"}
    assert "\x1b[31m" not in styled(text, True)


def test_colour_marks_severity_caret_and_hint() -> None:
    text = "a.mask:1:1: error[E201]: nothing\n 1 | causl\n   | ^^^^^\n  help: write `causal`"
    lines = styled(text, True).split("\n")
    assert lines[0] == "a.mask:1:1: \x1b[1;31merror[E201]\x1b[0m: nothing"
    assert lines[1] == " 1 | causl"
    assert lines[2] == "   | \x1b[1;31m^^^^^\x1b[0m"
    assert lines[3].startswith("\x1b[36m")
    assert styled(text, False) == text


def test_fmt_rewrites_checks_and_shows(maskc: Any, write: Any, tmp_path: Path) -> None:
    file = write("a.mask", "sliding_window( 4 )|sinks(2)\n")
    assert maskc("fmt", "--check", file).code == 1
    shown = maskc("fmt", "--diff", file)
    assert shown.code == 1
    assert "+sliding_window(4) | sinks(2)" in shown.out
    assert (tmp_path / file).read_text() == "sliding_window( 4 )|sinks(2)\n"
    assert maskc("fmt", file).code == 0
    assert (tmp_path / file).read_text() == "sliding_window(4) | sinks(2)\n"
    assert maskc("fmt", "--check", file).code == 0


def test_fmt_leaves_a_file_that_it_cannot_parse(maskc: Any, write: Any, tmp_path: Path) -> None:
    file = write("bad.mask", "causal (\n")
    assert maskc("fmt", file).code == 1
    assert (tmp_path / file).read_text() == "causal (\n"


def test_explain(maskc: Any) -> None:
    result = maskc("explain", "e201")
    assert result.code == 0
    assert result.out.startswith("E201: unknown name\n")
    assert "example.mask:1:1: error[E201]" in result.out
    assert maskc("explain", "E999").code == 2
    assert len(maskc("explain").out.splitlines()) == len(json.loads(maskc("explain", "--json").out)["codes"])


def test_help_lists_every_command(maskc: Any) -> None:
    from maskc.cli.app import COMMANDS

    shown = maskc("--help")
    assert shown.code == 0
    for name, _ in COMMANDS:
        assert f" {name} " in shown.out
        assert maskc(name, "--help").code == 0


def test_help_breaks_lines_at_the_edge_only(maskc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    assert "Exit code 0 if no difference is found, 1 if there is one." in maskc("--help").out
    assert "as the planner finds live tiles, so that a million tokens" in maskc("prove", "--help").out


def test_an_environment_variable_that_makes_no_sense(monkeypatch: pytest.MonkeyPatch) -> None:
    from maskc import knobs

    for knob in knobs.KNOBS:
        monkeypatch.delenv(knob.name, raising=False)
        knob.value()
        assert knob.doc.endswith(".")
    monkeypatch.setenv("MASKC_DUMP", "normal, plan")
    assert knobs.DUMP.value() == {"normal", "plan"}
    monkeypatch.setenv("MASKC_DUMP", "everything")
    with pytest.raises(ValueError, match=r"MASKC_DUMP.*no stage is called everything"):
        knobs.DUMP.value()
    monkeypatch.setenv("MASKC_CHECK", "perhaps")
    with pytest.raises(ValueError, match="expected 1 or 0"):
        knobs.CHECK.value()

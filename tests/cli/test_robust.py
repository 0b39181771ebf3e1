"""No command ends in a traceback: odd options, files that are not what they say, and places that take no output."""

from __future__ import annotations

import io
import json
import math
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskc.cli import main
from maskc.cli.trial import MAX_PAIRS
from maskc.setting import MAX_HEADS, MAX_LENGTH, MAX_MADE_UP

CAUSAL = "causal\n"
GRID = "pattern g over grid(y, x) {\n    attend same(y)\n}\n"
PAIRS = "pattern d(near: bool[q, k]) {\n    attend near[q, k]\n}\n"
DOCUMENTS = "pattern d(doc: int[token], w: int = 4) {\n    attend sliding_window(w) & same(doc)\n}\n"
MANY_DIGITS = "9" * 30


def _refused(result: Any, code: str, *words: str, as_json: bool = False) -> None:
    text, nothing = (result.out, result.err) if as_json else (result.err, result.out)
    assert (result.code, nothing) == (2, "")
    assert (f'"code": "{code}"' if as_json else f"error[{code}]") in text
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize(
    "words",
    [
        ["show", "d.mask", "--seed", "-1"],
        ["show", "d.mask", "--seed", MANY_DIGITS],
        ["run", "d.mask", "--seed", MANY_DIGITS],
        ["diff", "d.mask", "d.mask", "--seed", "-1"],
        ["diff", "d.mask", "d.mask", "--up-to", MANY_DIGITS],
        ["show", "d.mask", "--q", MANY_DIGITS],
        ["show", "d.mask", "--q", str(MAX_LENGTH + 1)],
        ["show", "d.mask", "--layer", MANY_DIGITS],
        ["show", "d.mask", "--reach", "--layers", MANY_DIGITS],
        ["plan", "d.mask", "--k", MANY_DIGITS],
        ["plan", "d.mask", "--q-tile", MANY_DIGITS],
        ["plan", "d.mask", "--k-tile", MANY_DIGITS],
        ["plan", "d.mask", "--workers", MANY_DIGITS],
        ["plan", "d.mask", "--head-dim", MANY_DIGITS],
        ["plan", "d.mask", "--heads", str(MAX_HEADS + 1)],
        ["plan", "d.mask", "--layers", MANY_DIGITS],
        ["why", "d.mask", "3", MANY_DIGITS],
        ["why", "d.mask", MANY_DIGITS, "3"],
        ["why", "d.mask", "3", "3", "--head", MANY_DIGITS],
        ["run", "d.mask", "--dim", MANY_DIGITS],
        ["run", "d.mask", "--batch", MANY_DIGITS],
        ["run", "d.mask", "--kv-heads", MANY_DIGITS],
    ],
    ids=" ".join,
)
def test_a_number_that_nothing_can_hold_is_wrong_use(maskc: Any, write: Any, words: list[str]) -> None:
    write("d.mask", DOCUMENTS)
    result = maskc(*words)
    assert (result.code, result.out) == (2, "")
    assert "Invalid value" in result.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (PAIRS, ["show", "d.mask", "--q", str(MAX_LENGTH)]),
        (PAIRS, ["plan", "d.mask", "--q", str(math.isqrt(MAX_MADE_UP) + 1)]),
        ("pattern t(n: int[16777216, 16777216]) {\n    attend k < n[q, k]\n}\n", ["show", "d.mask", "--q", "4"]),
        (
            "pattern t(m: int = 2147483647, n: int[m]) {\n    attend k < n[q]\n}\n",
            ["prove", "d.mask", "--claim", "all"],
        ),
        ("pattern t(n: bool[4, 16777216]) {\n    attend n[h, q]\n}\n", ["why", "d.mask", "3", "3"]),
        (GRID, ["show", "d.mask", "--size", "y=999999999999999999", "--size", "x=999999999999999999"]),
        (CAUSAL, ["show", "d.mask", "--head", f"0,{MAX_HEADS}"]),
    ],
    ids=range(7),
)
def test_nothing_is_made_up_beyond_bounds(maskc: Any, write: Any, text: str, words: list[str]) -> None:
    write("d.mask", text)
    _refused(maskc(*words), "E504")


def test_lists_of_unlike_lengths_are_no_table(maskc: Any, write: Any) -> None:
    write("t.mask", "pattern t(w: int[head]) {\n    attend sliding_window(w[h])\n}\n")
    _refused(maskc("show", "t.mask", "--arg", "w=[[1], [1, 2]]"), "E505")


def _header(shape: str) -> bytes:
    text = f"{{'descr': '<i8', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


# NumPy 1 takes -1 for however many there are.
READS_WHAT_IS_LEFT = pytest.mark.skipif(np.__version__ < "2", reason="no error in NumPy 1")


def _archive() -> bytes:
    file = io.BytesIO()
    np.savez(file, doc=np.arange(4))
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 and no archive",
        b"\x93NUMPY",
        _archive(),
        _header("(1000000000000000000,)"),
        pytest.param(_header("(-1,)"), marks=READS_WHAT_IS_LEFT),
        _header("-" * 9000 + "1"),
        b"causal\n",
    ],
    ids=["empty", "zip", "start", "npz", "huge", "negative", "deep", "text"],
)
def test_files_that_hold_no_array(maskc: Any, write: Any, tmp_path: Path, content: bytes) -> None:
    write("d.mask", DOCUMENTS)
    (tmp_path / "doc.npy").write_bytes(content)
    _refused(maskc("show", "d.mask", "--q", "4", "--input", "doc=@doc.npy"), "E503", "doc.npy")


def test_an_archive_is_called_one(maskc: Any, write: Any, tmp_path: Path) -> None:
    write("d.mask", DOCUMENTS)
    (tmp_path / "doc.npy").write_bytes(_archive())
    assert ".npz" in maskc("show", "d.mask", "--input", "doc=@doc.npy").err


def test_grids_are_compared_with_plain_tokens(maskc: Any, write: Any) -> None:
    grid, plain = write("g.mask", GRID), write("p.mask", "same(token // 8)\n")
    assert maskc("diff", grid, plain, "--size", "x=8").code == 0
    assert maskc("diff", plain, grid, "--size", "x=8", "--size", "y=3").code == 0
    result = maskc("diff", grid, plain, "--json")
    found = json.loads(result.out)["counterexample"]
    assert result.code == 1
    assert found["sizes"]["y"] * found["sizes"]["x"] == found["k_len"]
    assert ", y=" in maskc("diff", grid, plain).out
    shown = maskc("show", plain, "--diff", grid, "--size", "x=8", "--size", "y=3")
    assert shown.code == 0 and "24 queries" in shown.out


def test_a_size_that_neither_pattern_has(maskc: Any, write: Any) -> None:
    grid, plain = write("g.mask", GRID), write("p.mask", "same(token // 8)\n")
    _refused(maskc("diff", grid, plain, "--size", "z=8"), "E502", "neither pattern", "there are: x, y")
    _refused(maskc("show", plain, "--size", "z=8"), "E502", "takes no sizes")
    assert maskc("diff", grid, plain, "--size", "y=9999", "--size", "x=999").code == 1


@pytest.mark.parametrize("words", [["--q", "0"], ["--q", "0", "--k", "5"], ["--q", "0", "--backend", "cpu"]])
@pytest.mark.parametrize("text", [CAUSAL, "pattern n {\n    attend causal\n    normalize sigmoid\n}\n"])
def test_a_run_without_queries(maskc: Any, write: Any, words: list[str], text: str) -> None:
    pytest.importorskip("torch")
    result = maskc("run", write("c.mask", text), "--json", *words)
    data = json.loads(result.out)
    assert (result.code, data["ok"]) == (0, True)
    assert {"grad q", "grad k", "grad v"} <= set(data["errors"])


def test_a_run_of_a_constant_output(maskc: Any, write: Any) -> None:
    pytest.importorskip("torch")
    file = write("c.mask", "pattern c {\n    attend causal\n    output 1.0\n}\n")
    assert maskc("run", file, "--q", "4").code == 0


def test_devices_that_are_not_there(maskc: Any, write: Any) -> None:
    torch = pytest.importorskip("torch")
    file = write("c.mask", CAUSAL)
    _refused(maskc("run", file, "--device", "foo"), "E503", "--device cuda")
    _refused(maskc("run", file, "--device", "cuda:x"), "E503")
    _refused(maskc("run", file, "--device", "meta"), "E702", "--device cpu")
    if not torch.cuda.is_available():
        _refused(maskc("run", file, "--device", "cuda"), "E702", "--device cpu")


def test_runs_that_would_take_too_long(maskc: Any, write: Any) -> None:
    pytest.importorskip("torch")
    file = write("c.mask", CAUSAL)
    _refused(maskc("run", file, "--q", "100000"), "E504", f"{MAX_PAIRS:,}")
    _refused(maskc("run", file, "--q", "4", "--dim", "60000", "--batch", "60000"), "E504", "numbers in a tensor")


def test_inputs_are_no_constants_of_kernels(maskc: Any, write: Any, tmp_path: Path) -> None:
    file = write("d.mask", DOCUMENTS)
    _refused(maskc("emit", file, "--arg", "doc=[1, 2]"), "E502", "leave out --arg doc=...")
    assert not (tmp_path / "out").exists()


CONFIG = json.dumps({"model_type": "mistral", "sliding_window": 4})


@pytest.mark.parametrize("place", ["missing/x", "."])
@pytest.mark.parametrize(
    "words",
    [["import", "config.json", "-o"], ["tune", "--export"], ["show", "c.mask", "--svg"], ["show", "c.mask", "--html"]],
    ids=" ".join,
)
def test_places_that_take_no_file(maskc: Any, write: Any, words: list[str], place: str) -> None:
    if words[0] == "tune":
        pytest.importorskip("triton")
    write("config.json", CONFIG)
    write("c.mask", CAUSAL)
    write("missing", "") if words[0] == "show" else None  # pictures make the directories that they need
    _refused(maskc(*words, place), "E003", "cannot write")


def test_emitted_files_ask_for_another_directory(maskc: Any, write: Any, tmp_path: Path) -> None:
    from maskc.cli.emit import _write
    from maskc.diagnostics import MaskcError

    (tmp_path / "kernel.ptx").mkdir()
    for place in (tmp_path, Path("/dev/null")):
        with pytest.raises(MaskcError, match=r"E003(.|\n)*--out DIR"):
            _write(place, {"kernel.ptx": b""})


def test_a_missing_config_asks_for_one(maskc: Any) -> None:
    result = maskc("import", "missing.json")
    _refused(result, "E003", "config.json")
    assert ".mask" not in result.err


def test_fmt_names_the_file(maskc: Any, write: Any) -> None:
    write("empty.mask", "")
    write("space.mask", "causal\u00a0& all\n")
    result = maskc("fmt", "--check", "space.mask", "empty.mask")
    assert result.code == 1
    assert "space.mask:1:7: error[E102]" in result.err and "nothing in empty.mask" in result.err
    assert "<text>" not in result.err
    _refused(maskc("fmt", "missing.mask"), "E003")
    assert maskc("fmt", "empty.mask", "missing.mask").code == 2


def test_fmt_writes_all_or_nothing(maskc: Any, write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "sliding_window( 4 )\n"
    path = tmp_path / write("a.mask", text)
    path.chmod(0o640)
    (tmp_path / "link.mask").symlink_to(path)

    def full(old: Any, new: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        _refused(maskc("fmt", "a.mask"), "E003", "cannot write a.mask: No space left")
    assert path.read_text() == text
    assert maskc("fmt", "link.mask").code == 0
    assert path.read_text() == "sliding_window(4)\n"
    assert (tmp_path / "link.mask").is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mask", "link.mask"]


def test_fmt_leaves_a_file_that_it_may_not_write(maskc: Any, write: Any, tmp_path: Path) -> None:
    path = tmp_path / write("a.mask", "sliding_window( 4 )\n")
    path.chmod(0o444)
    if os.access(path, os.W_OK):
        pytest.skip("root may write to any file")
    _refused(maskc("fmt", "a.mask"), "E003", "Permission denied")
    assert path.read_text() == "sliding_window( 4 )\n"


class _Full(io.StringIO):
    """Takes nothing. It has a file descriptor, which may be led elsewhere."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self._error, self._file = error, open(os.devnull, "w")  # noqa: SIM115

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()

    def write(self, text: str) -> int:
        raise self._error


@pytest.mark.parametrize(
    "words", [["show", "c.mask"], ["plan", "c.mask"], ["check", "c.mask"], ["explain"]], ids=" ".join
)
def test_output_that_goes_nowhere(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write("c.mask", CAUSAL)
    for error, code, said in (
        (OSError(28, "No space left on device"), 2, "maskc: No space left on device\n"),
        (BrokenPipeError(32, "Broken pipe"), 141, ""),
    ):
        monkeypatch.setattr(sys, "stdout", _Full(error))
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert (ended.value.code, capsys.readouterr().err) == (code, said)


@pytest.mark.skipif(os.name == "nt", reason="asks a shell")
def test_a_process_whose_output_is_closed(tmp_path: Path) -> None:
    (tmp_path / "c.mask").write_text(CAUSAL)
    command = f"'{sys.executable}' -m maskc explain"
    for script, code in ((f"({command}; echo $? >&2) | true", "141\n"), (f"{command} >&-; echo $? >&2", "0\n")):
        done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.stderr == code


def test_too_little_memory_is_said(monkeypatch: pytest.MonkeyPatch, maskc: Any) -> None:
    def full(words: list[str]) -> int:
        raise MemoryError

    monkeypatch.setattr("maskc.cli.app.run", full)
    result = maskc("show", "c.mask")
    assert (result.code, result.err) == (2, "maskc: there is not enough memory for this\n")


@pytest.mark.parametrize(
    "layout",
    ["residues:²", f"residues:{MANY_DIGITS}", f"blocks:{MANY_DIGITS}", "blocks:٣", "residues:999999999", "x" * 99],
)
def test_layouts_that_cannot_be_read(maskc: Any, write: Any, layout: str) -> None:
    _refused(maskc("plan", write("c.mask", CAUSAL), "--q", "64", "--layout", layout), "E502")


def test_a_layout_of_more_classes_than_an_axis_is_long(maskc: Any, write: Any) -> None:
    file = write("g.mask", GRID)
    assert maskc("plan", file, "--q", "1000", "--layout", "blocks:3x3%65536x7@1x65536").code == 0


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("causal & layer < 8", "layers below 8"),
        ("causal & b < 1", "batch entry 0"),
        ("causal & k < size(q)", "as many queries as keys"),
        ("causal & h < 4", "heads below 4"),
    ],
)
def test_what_was_not_looked_at_is_said(maskc: Any, write: Any, other: str, words: str) -> None:
    result = maskc("diff", write("a.mask", "causal\n"), write("b.mask", f"{other}\n"))
    assert (result.code, "no difference at any pair" in result.out) == (0, True)
    assert words in result.out
    assert result.out.rstrip().endswith("no proof for others")


def test_what_was_made_up_for_a_comparison_is_said(maskc: Any, write: Any) -> None:
    text = "pattern p(mark: bool[k], w: int[head]) { attend mark[k] & k < w[h] }\n"
    files = write("a.mask", text), write("b.mask", text.replace("mark[k] &", "mark[q] &"))
    result = maskc("diff", *files, "--up-to", "6")
    assert result.out.endswith("made-up mark and w (seed 0); that is no proof for others\n")
    result = maskc("diff", *files, "--up-to", "6", "--arg", "w=[0, 0, 0, 0]")
    assert result.out.endswith("made-up mark (seed 0); that is no proof for others\n")


@pytest.mark.parametrize("option", [["--q", "5"], ["--arg", "w=3"], ["--backward"], ["--seed", "0"], ["--name", "x"]])
@pytest.mark.parametrize("what", [["--list"], ["--list", "--json"], ["--export", "out.json"], ["--import", "in.json"]])
def test_options_of_a_call_choose_no_results(maskc: Any, option: list[str], what: list[str]) -> None:
    found = maskc("tune", *what, *option)
    _refused(found, "E503", f"{option[0]} is for a pattern FILE", as_json="--json" in what)


@pytest.mark.parametrize("words", [["--arg", "widnow=3"], ["--size", "y=3"]])
def test_names_that_equal_patterns_do_not_have(maskc: Any, write: Any, words: list[str]) -> None:
    _refused(maskc("diff", write("c.mask", CAUSAL), "c.mask", *words), "E502")


@pytest.mark.parametrize("words", [["check"], ["check", "--json"], ["fmt"], ["fmt", "--check"], ["diff"]])
def test_standard_input_is_read_once(maskc: Any, words: list[str]) -> None:
    _refused(maskc(*words, "-", "-"), "E503", "standard input can be read once only", as_json="--json" in words)


def test_a_directory_is_no_mask_of_one_word(maskc: Any, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "causal").mkdir()
    for name in ("masks", "causal"):
        assert f"cannot read {name}: Is a directory" in maskc("show", name).err


def test_a_word_that_is_a_mask_needs_no_brackets(maskc: Any, write: Any) -> None:
    shown = maskc("show", "causal", "--q", "5")
    assert (shown.code, shown.out) == (0, maskc("show", "(causal)", "--q", "5").out)
    assert maskc("check", "all", "none", "self").code == 0
    assert maskc("diff", "causal", "k <= q").code == 0
    for words in (["show", "sinks"], ["show", "casual"], ["fmt", "causal"]):
        _refused(maskc(*words), "E003", "cannot read")
    write("causal", "self\n")
    assert maskc("diff", "causal", "self").code == 0


LENGTHS = {"64k": 65536, "1M": 1048576, "1m": 1048576, "1e6": 1000000, "65_536": 65536, "65,536": 65536, "007": 7}


@pytest.mark.parametrize("text", LENGTHS)
def test_lengths_are_written_as_people_write_them(maskc: Any, text: str) -> None:
    found = json.loads(maskc("plan", "causal", "--q", "3", "--k", text, "--json").out)
    assert (found["q_len"], found["k_len"]) == (3, LENGTHS[text])
    found = json.loads(maskc("diff", "causal", "k < q", "--q", text, "--json").out)
    assert found["counterexample"]["q_len"] == LENGTHS[text]


@pytest.mark.parametrize(
    "text", ["64K tokens", "1,5", "6,55,36", "1.5k", "2g", "-1", "1e9", "17M", "9" * 30, "", "k", "_1"]
)
@pytest.mark.parametrize("option", ["--q", "--k", "--up-to"])
def test_lengths_that_are_none(maskc: Any, text: str, option: str) -> None:
    result = maskc("diff", "causal", "self", option, text)
    assert (result.code, result.out) == (2, "")
    assert option in result.err


def test_a_longest_sequence_has_a_token(maskc: Any) -> None:
    assert maskc("diff", "causal", "self", "--up-to", "0").code == 2

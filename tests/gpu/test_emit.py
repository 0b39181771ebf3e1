"""maskc emit: everything that it writes, and what it says where something is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from maskc.backends.triton import emit as emit_module
from maskc.backends.triton.configs import parse_target
from maskc.cli.app import run

WINDOW = "pattern window_of(w: int) { attend causal & window(w) }\n"


@pytest.fixture(autouse=True)
def _not_interpreting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    file = tmp_path / "window.mask"
    file.write_text(WINDOW)
    return ["emit", str(file), "--arg", "w=64", "--dim", "64", "--out", str(tmp_path / "out")]


def test_everything_is_written(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words, "--decode", "--standalone", "--json"]) == 0
    told, out = json.loads(capsys.readouterr().out), tmp_path / "out"
    assert [row["kernel"] for row in told["kernels"]] == ["forward", "decode", "merge"]
    assert sorted(p.name for p in out.iterdir()) == told["files"]
    ends = [f"{stage}.{end}" for stage in ("forward", "decode", "merge") for end in ("py", "ptx", "cubin", "sass")]
    assert set(told["files"]) == {*ends, "attention.py", "resources.json"}
    assert "# pattern window_of(w: int) {" in (out / "forward.py").read_text()
    assert ".target sm_90a" in (out / "forward.ptx").read_text()
    assert "HGMMA" in (out / "forward.sass").read_text()
    row = json.loads((out / "resources.json").read_text())["kernels"][0]
    assert 0 < row["registers"] <= 255
    assert 0 < row["shared"] <= row["limit"]


@pytest.mark.slow
def test_backward(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words, "--backward"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["kernel", "forward", "dq", "dkv"]


@pytest.mark.parametrize(
    ("text", "target"),
    [("sm_90", "cuda:90"), ("sm_90a", "cuda:90"), ("SM80", "cuda:80"), ("h100", "cuda:90"), ("H100", "cuda:90"),
     ("a100", "cuda:80"), ("L40S", "cuda:89"), ("B200", "cuda:100"), ("mi300", "hip:gfx942"), ("MI300X", "hip:gfx942"),
     ("gfx90a", "hip:gfx90a"), ("hip:gfx942", "hip:gfx942")],
)  # fmt: skip
def test_chips_have_the_names_that_others_call_them_by(text: str, target: str) -> None:
    assert str(parse_target(text)) == target


@pytest.mark.parametrize(
    "target",
    [
        "sm_10",
        "sm_",
        "smart",
        "gfx",
        "h1000",
        "cuda:10",
        "cuda:99",
        "cuda:",
        "cuda:90a",
        "hip:gfx000",
        "metal:1",
        "",
        "cuda:²",
    ],
)
def test_chips_that_compilers_do_not_know(words: list[str], target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words, "--target", target]) == 2
    assert "expected one of cuda:80, cuda:86" in capsys.readouterr().err
    with pytest.raises(ValueError, match="hip:gfx942"):
        parse_target(target)


def test_what_is_wrong_is_said(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run([*words[:2], "--out", str(tmp_path / "out")]) == 2
    assert "needs the argument 'w'" in capsys.readouterr().err

    def fails(*args: Any) -> Any:
        raise RuntimeError("PassManager::run failed\nand much more")

    monkeypatch.setattr(emit_module, "compile_kernel", fails)
    assert run(words) == 2
    said = capsys.readouterr().err
    assert "the kernel 'forward' of 'window_of' does not compile for cuda:90: RuntimeError: PassManager" in said
    assert "much more" not in said


def test_a_directory_that_cannot_be_written(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emit_module, "emit", lambda *args, **more: ())
    (tmp_path / "out").write_text("a file")
    assert run(words) == 2
    assert "cannot write to" in capsys.readouterr().err


def test_progress_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from maskc.backends.triton.aot import Compiled, Shape
    from maskc.lower import lower_text

    nothing = Compiled("", b"", 0, None, None, frozenset(), "")
    monkeypatch.setattr(emit_module, "compile_kernel", lambda *args: nothing)
    told: list[tuple[int, int]] = []
    program, target = lower_text("causal")[0], parse_target("cuda:90")
    found = emit_module.emit(program, {}, target, Shape(), ("forward", "dq"), show=lambda *now: told.append(now))
    assert [each.stage for each in found] == ["forward", "dq"]
    assert told == [(0, 2), (1, 2), (2, 2)]


def test_inputs_may_have_a_batch_dimension_in_front(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "pattern p(doc: int[token], n: int[batch], w: int[head]) { attend same(doc) & q - k < w[h] & k < n[b] }"
    words = ["emit", text, "--standalone", "--out", str(tmp_path), "--dim", "64", "--batched"]
    assert run([*words, "doc"]) == 0
    alone = (tmp_path / "attention.py").read_text()
    assert "n1_of_in_doc" in alone  # (batch, token)
    assert 'DOMAINS = {"doc": ["batch", "token"]' in alone
    for name, hint in (("n", "inputs over token"), ("w", "inputs over token"), ("dco", "did you mean 'doc'")):
        assert run([*words, name]) == 2
        said = capsys.readouterr().err
        assert "E502" in said
        assert hint in said

"""``maskc export``, and what its files hold."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import maskc
from maskc.cli.app import run
from tests.exports.rules import RULES

WINDOW = "sliding_window(5)"


def test_files_hold_arrays_and_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for ending in ("npz", "json", "safetensors"):
        path = tmp_path / f"mask.{ending}"
        assert run(["export", WINDOW, "--q", "24", "--to", "varlen", "--out", str(path)]) == 0
        assert f"written to {path}" in capsys.readouterr().out
        if ending == "npz":
            found = dict(np.load(path, allow_pickle=False))
        elif ending == "json":
            found = {n: np.asarray(x) for n, x in json.loads(path.read_text()).items() if n != "format"}
        else:
            safetensors = pytest.importorskip("safetensors")
            with safetensors.safe_open(path, "np") as file:
                options = {n: json.loads(x) for n, x in file.metadata().items() if n != "format"}
                found = {n: file.get_tensor(n) for n in file.keys()} | {n: np.asarray(x) for n, x in options.items()}  # noqa: SIM118
        said = RULES["varlen"](found, 24, 24, 1)[0, 0]
        distance = np.subtract.outer(np.arange(24), np.arange(24))
        np.testing.assert_array_equal(said, (distance >= 0) & (distance < 5))


def test_flash_attention_4_has_no_number_for_no_bound() -> None:
    """To it, -1 is a window that ends before a query's own key."""
    for text, causal, window in (
        ("(all)", False, (None, None)),
        ("(causal)", True, (None, 0)),
        ("q - k < 4", False, (3, None)),
        ("k - q < 4", False, (None, 3)),
    ):
        assert maskc.export(text, "varlen_cute", 8).options == {"causal": causal, "window_size": window}


def test_without_a_format_all_are_tried(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", "causal & (sinks(2) | sliding_window(3))", "--q", "256"]) == 0
    out = capsys.readouterr().out
    assert "no   varlen       FlashAttention lets a query see consecutive keys alone, and query 5 keeps 2" in out
    assert "yes  flashmask    startend_row_indices (1, 1, 256, 1) int32; causal = True" in out
    assert "yes  magi " in out
    assert run(["export", "causal & (sinks(2) | sliding_window(3))", "--q", "256", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["formats"]
    assert [found[n]["exact"] for n in ("varlen", "flashmask", "magi", "flashinfer")] == [False, True, True, True]
    assert found["flashinfer"]["arrays"]["mask"] == {"shape": [3, 128, 128], "dtype": "bool"}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--q", "8", "--to", "magic"], "E503"),
        (["--q", "8", "--out", "x.npz"], "say which: --to FORMAT"),
        (["--q", "8", "--to", "magi", "--out", "x.txt"], "end it in .npz"),
        (["--to", "magi", "--out", "x.npz"], "say how many queries there are"),
        (["--q", "9", "--to", "flashinfer", "--k-tile", "4"], "9 keys are none of 4"),
        (["--q", "3000000", "--to", "flashmask", "--out", "x.json"], "too many for JSON"),
    ],
)
def test_refusals(words: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", WINDOW, *words]) == 2
    assert why in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pattern p(w: int) { attend sliding_window(w) }", ["--arg", "w=4"]),
        ("pattern p(w: int[head]) { attend sliding_window(w[h]) }", ["--arg", "w=[3, 5]"]),
        ("pattern p(n: int[batch]) { attend causal & k < n[b] }", ["--arg", "n=[3, 5]"]),
        ("pattern p over text ++ grid(y, x) { attend causal }", ["--size", "y=4", "--size", "x=4"]),
    ],
)
def test_a_length_that_nothing_tells_is_asked_for(
    text: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mask.npz"
    assert run(["export", text, *words, "--to", "flashmask", "--out", str(path)]) == 2
    assert "say how many queries there are: --q 4096" in capsys.readouterr().err
    assert not path.exists()


def test_a_length_that_nothing_tells_is_the_usual_one_where_nothing_is_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["export", WINDOW]) == 0
    found = capsys.readouterr()
    assert "256 queries x 256 keys" in found.out
    assert found.err == "note: no length is given: this is of 256 queries, and may differ for more\n"
    assert run(["export", WINDOW, "--q", "256"]) == 0
    assert capsys.readouterr() == (found.out, "")


def test_lengths_follow_from_inputs_and_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    documents = "pattern p(doc: int[token]) { attend same(doc) }"
    for text, words in (
        (documents, ["--arg", "doc=[0, 0, 1, 1, 2, 2]"]),
        ("pattern p over text ++ grid(y, x) { attend causal }", ["--size=text=2", "--size=y=2", "--size=x=2"]),
        ("causal & k < 3", ["--k", "6"]),
    ):
        assert run(["export", text, *words]) == 0
        assert "6 queries x 6 keys" in capsys.readouterr().out


def test_nothing_is_made_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "packed.mask"
    path.write_text("pattern packed(doc: int[token]) { attend causal & same(doc) }")
    assert run(["export", str(path), "--q", "8"]) == 2
    assert "an export holds what is given, and not everything is: doc" in capsys.readouterr().err
    given = ["--q", "8", "--arg", "doc=[0, 0, 0, 1, 1, 1, 1, 2]", "--to", "varlen", "--json"]
    assert run(["export", str(path), *given]) == 0
    found = json.loads(capsys.readouterr().out)["formats"]["varlen"]
    assert found["options"] == {"max_seqlen_q": 4, "max_seqlen_k": 4, "causal": True, "window_size": [-1, 0]}


def test_from_python() -> None:
    packed = "pattern packed(doc: int[token]) { attend causal & same(doc) }"
    found = maskc.export(packed, "varlen", 8, doc=[0, 0, 0, 1, 1, 1, 1, 2])
    assert found.arrays["cu_seqlens_q"].tolist() == [0, 3, 7, 8]
    tensors = found.tensors()
    assert tensors["cu_seqlens_k"].tolist() == [0, 3, 7, 8]
    assert tensors["causal"] is True


def test_options_are_what_the_engines_take() -> None:
    """MagiAttention takes lengths of ranges no longer, and refuses them by name (its issue 193)."""

    def flex_flash_attn_func(q: int, k: int, v: int, q_ranges: object, k_ranges: object, attn_type_map: object) -> int:
        return q

    assert flex_flash_attn_func(1, 2, 3, **maskc.export("causal & sinks(4)", "magi", 8).tensors()) == 1
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    q = torch.zeros(8, 2, 16)
    found = maskc.export("causal & q - k < 4", "varlen_attn", 8).tensors()
    inspect.signature(varlen.varlen_attn).bind(q, q, q, **found)
    assert found["window_size"] == (3, 0)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("FlashAttention", "take varlen"), ("flex", "docs/flexattention.md"), ("magi2", "did you mean 'magi'?"),
     ("xformers", "there are: varlen, varlen_cute")],
)  # fmt: skip
def test_what_others_call_a_format_is_answered(name: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", "(causal)", "--q", "8", "--to", name]) == 2
    said = capsys.readouterr().err
    assert hint in said
    assert said.count("varlen_cute") <= 1

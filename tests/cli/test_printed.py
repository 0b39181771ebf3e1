"""What commands print of a stranger's file: how much, in which words, and without what steers a terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from maskc import clauses
from maskc.clauses import Examiner, source_texts
from maskc.diagnostics import Source
from maskc.lower import lower_source
from maskc.picture.html import html_page
from maskc.tiles.binding import make_binding

LETS = "    let c0 = hash(q, k)\n" + "".join(f"    let c{i} = hash(c{i - 1}, c{i - 1})\n" for i in range(1, 41))
#: Written out, the mask and the claim have 2**40 operands.
MASK = f"pattern p {{\n{LETS}    attend c40 % 2 == 0\n}}\n"
CLAIM = f"pattern p {{\n{LETS}    attend causal\n    assert c40 % 2 == 0\n}}\n"
MODES = """pattern p(mode: {full, sparse} = sparse) {
    attend mode == full | mode == sparse & causal
    assert mode == sparse | k < 3
}
"""


def test_why_shows_the_beginning_of_a_long_clause(maskc: Any, write: Any) -> None:
    result = maskc("why", write("p.mask", MASK), "3", "2")
    assert result.code == 0
    assert "where `hash(hash(hash(" in result.out
    assert len(result.out) < 1000


def test_a_page_carries_the_beginning_of_a_long_clause(maskc: Any, write: Any, tmp_path: Path) -> None:
    assert maskc("show", write("p.mask", MASK), "--q", "8", "--html", "p.html").code == 0
    assert (tmp_path / "p.html").stat().st_size < 200_000


def test_prove_shows_the_beginning_of_a_long_claim(maskc: Any, write: Any) -> None:
    result = maskc("prove", write("p.mask", CLAIM), "--q", "8")
    assert result.code == 1
    assert len(result.out) < 1500
    assert "hash(hash(" in result.out


@pytest.mark.parametrize("command", ["ir", "spec"])
def test_a_text_that_would_be_too_long_is_refused(maskc: Any, write: Any, command: str) -> None:
    defs = "def c0(x) = hash(x, x)\n" + "".join(f"def c{i}(x) = c0(c{i - 1}(x))\n" for i in range(1, 41))
    result = maskc(command, write("p.mask", f"{defs}pattern p {{ attend any(i in 0..2: c40(i + q) == k) }}\n"))
    assert result.code == 1
    assert "error[E901]" in result.err


def test_values_of_enumerations_have_their_names(maskc: Any, write: Any) -> None:
    file = write("p.mask", MODES)
    assert "mode == full" in maskc("why", file, "3", "2").out
    assert "mode == 0" not in maskc("why", file, "3", "2").out
    assert maskc("prove", file, "--q", "8").out.startswith("holds: mode == sparse | k < 3 (")
    program = lower_source(Source(MODES)).programs[0]
    page = html_page(program, make_binding(program, 8, 8))
    assert '"mode == full"' in page
    assert "mode == 0" not in page


def test_a_comment_is_no_part_of_a_clause() -> None:
    text = "pattern p {\n  attend window(1,1) # k < 9 holds\n    & (same(token // 4) # is this\n | q < 3) # end\n}\n"
    source = Source(text)
    texts = source_texts(source, lower_source(source).programs[0])
    assert set(texts.values()) == {
        "window(1,1) & (same(token // 4) | q < 3)",
        "window(1,1)",
        "same(token // 4) | q < 3",
        "same(token // 4)",
        "q < 3",
    }


def test_finding_out_how_clauses_are_written_is_bounded_work(monkeypatch: pytest.MonkeyPatch) -> None:
    beside = "pattern other { attend " + " | ".join(f"q == {i}" for i in range(300)) + " }"
    source = Source("pattern p { attend " + " | ".join(f"k == {i}" for i in range(30)) + f" }}\n{beside}\n")
    lowered = lower_source(source)
    assert len(source_texts(source, lowered.programs[0])) == 31
    assert lowered.steps > 900
    monkeypatch.setattr(clauses, "_MOST_WORK", 3 * (len(source.text) + lowered.steps))
    assert len(source_texts(source, lowered.programs[0])) <= 4


def test_each_shared_part_of_a_mask_is_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from maskc.ir import evaluate

    done: list[object] = []
    real = evaluate.evaluate
    monkeypatch.setattr(evaluate, "evaluate", lambda node, *a, **k: done.append(node) or real(node, *a, **k))
    source = Source(f"pattern p {{\n{LETS}    attend {' | '.join(f'c40 == -{i}' for i in range(1, 101))}\n}}\n")
    program = lower_source(source).programs[0]
    whole = Examiner(program, make_binding(program, 8, 8), 0, 3, 2, {}).examine()
    assert len(whole.parts) == 100
    assert not whole.holds
    assert len(done) < 350  # not 100 times the 40 levels


def test_a_sentence_lists_some_clauses(maskc: Any, write: Any) -> None:
    text = "pattern p { attend " + " | ".join(f"q * 3 == k + {i}" for i in range(100, 500)) + " }"
    why = json.loads(maskc("why", write("p.mask", text), "3", "2", "--json").out)["why"]
    assert why.endswith("; and 360 more.")


EVIL = "a\x1b[31m\nb.mask"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["fmt", "--check", EVIL], 1),
        (["fmt", "--diff", EVIL], 1),
        (["fmt", EVIL], 0),
        (["show", EVIL, "--q", "4", "--svg", EVIL + ".svg"], 0),
        (["show", EVIL, "--q", "4", "--html", EVIL + ".html"], 0),
        (["check", EVIL + "x"], 2),
        (["import", "config.json", "-o", EVIL], 0),
        (["why", EVIL, "1", "x\x1b"], 2),
    ],
)
def test_the_name_of_a_file_steers_no_terminal(maskc: Any, write: Any, words: list[str], code: int) -> None:
    write(EVIL, "causal   | sinks( 1)\n")
    write("config.json", '{"model_type": "mistral", "sliding_window": 8}')
    result = maskc(*words)
    assert result.code == code
    assert (result.out + result.err).replace("\n", "").isprintable()
    assert "\nb.mask" not in result.out + result.err


def test_the_difference_of_a_long_file_is_one_change(maskc: Any, write: Any) -> None:
    text = "".join(f"def a{i} =  {i % 90}\n" for i in range(3000)) + "causal\n"
    result = maskc("fmt", "--diff", write("p.mask", text))
    lines = result.out.splitlines()
    assert result.code == 1
    assert lines[:4] == ["--- p.mask", "+++ p.mask (formatted)", "@@ -1,3001 +1,3002 @@", "-def a0 =  0"]
    assert (lines[-1], len(lines)) == ("+causal", 3 + 3001 + 3002)


@pytest.mark.parametrize("value", ["@deep.json", "[" * 100_000])
def test_an_argument_that_is_nested_deeply(maskc: Any, write: Any, value: str) -> None:
    write("deep.json", "[" * 100_000 + "]" * 100_000)
    file = write("p.mask", "pattern p(doc: int[token]) {\n    attend same(doc)\n}\n")
    result = maskc("show", file, "--q", "4", "--arg", f"doc={value}")
    assert result.code == 2
    assert "error[E503]" in result.err
    assert len(result.err) < 500

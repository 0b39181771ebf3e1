"""One fixture a pass: masks, and what the pass makes of each; and the page that lists the passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskc.ir.text import print_node
from maskc.lower import lower_text
from maskc.passes import PIPELINE, Pass, normalise

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "passes.md"


@pytest.mark.parametrize("step", PIPELINE, ids=lambda p: p.name)
def test_a_pass_does_what_its_fixture_says(step: Pass) -> None:
    lines = (HERE / f"{step.name}.mask").read_text(encoding="utf-8").splitlines()
    pairs = list(zip(lines[::2], lines[1::2], strict=True))
    assert pairs
    for before, after in pairs:
        assert f"    => {print_node(step.run(lower_text(before)[0]).mask)}" == after, before


def test_the_page_is_written_from_the_table() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = [f"| `{p.name}` | {p.sentence} |" for p in PIPELINE]
    listed = [line for line in text.splitlines() if line.startswith("| `")]
    assert listed == rows


@pytest.mark.parametrize(
    "spellings",
    [
        ("q - k < 4 & k <= q", "0 <= q - k < 4", "k > q - 4 & ~(k > q)", "sliding_window(4)", "causal & window(3, 9)"),
        ("abs(q - k) <= 3", "window(3, 3)", "abs(k - q) < 4", "-4 < k - q & k - q < 4"),
        ("~(causal | k < 4)", "q < k & 4 <= k"),
        ("match q < 4 { true: all; else: causal }", "q < 4 | causal"),
        ("chunk(16)", "chunk(16) | (window(0, 0) on token // 16)", "chunk(16) & (window(0, 0) on token // 16)"),
        ("k % 5 + k // 5 % 6 * 5 < q % 5", "k % 30 < q % 5"),
        ("(k - 7) % 5 + (k - 7) // 5 % 6 * 5 < 4", "(k - 7) % 30 < 4"),
        ("k % 5 + k // 5 % 6 * 5 + k // 30 % 2 * 30 < 4", "k % 60 < 4"),
    ],
)
def test_spellings_of_one_mask_meet(spellings: tuple[str, ...]) -> None:
    assert len({normalise(lower_text(s)[0]).mask for s in spellings}) == 1


@pytest.mark.parametrize(("both", "either", "least"), [("&", "|", "=="), ("|", "&", "!=")])
def test_long_chains_of_masks_that_tell_the_next_come_to_rest(both: str, either: str, least: str) -> None:
    """``a & (~a | b) & (~b | c)`` is ``a & b & c``, however long; likewise with the two exchanged."""
    most = {"==": "!=", "!=": "=="}[least]
    links = [f"(hash(q, {i}) % 7 {most} 1 {either} hash(q, {i + 1}) % 7 {least} 1)" for i in range(150)]
    chain = f" {both} ".join([f"hash(q, 0) % 7 {least} 1", *links])
    plain = f" {both} ".join(f"hash(q, {i}) % 7 {least} 1" for i in range(151))
    assert normalise(lower_text(chain)[0]).mask is normalise(lower_text(plain)[0]).mask


def test_floats_keep_their_negation() -> None:
    # ~(x < y) is not y <= x where either is NaN.
    mask = normalise(lower_text("pattern p(x: float) { attend ~(x * 1.0 < x * x) }")[0]).mask
    assert print_node(mask) == "~x < x * x"

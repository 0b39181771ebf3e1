"""What a report shows of a stranger's text: never so that it steers the terminal, and never very much."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskc.diagnostics import Diagnostic, MaskcError, Note, Source, Span, in_line, plain


@given(st.text("ab\n", max_size=30), st.integers(0, 35))
def test_places(text: str, offset: int) -> None:
    source = Source(text)
    before = text[: min(offset, len(text))]
    assert source.locate(offset) == (before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)
    lines = text.split("\n")
    assert [source.line(n) for n in range(len(lines) + 2)] == ["", *lines, ""]


def test_nothing_in_a_report_steers_the_terminal() -> None:
    evil = "x\x1b[31m\n\u202e.mask"
    span = Span(Source("causal \x1b[0m\n", evil), 0, 6)
    text = str(MaskcError(Diagnostic("E101", evil, span, evil, (Note(evil, span),))))
    assert text.replace("\n", "").isprintable()
    assert len(text.split("\n")) == 7  # what is wrong, the hint, and the note; two of them with two lines of source
    assert text.startswith("x\ufffd[31m\ufffd\ufffd.mask:1:1: error[E101]: x\ufffd[31m\ufffd\ufffd.mask\n")


@pytest.mark.parametrize("text", ["", "a b", "a\nb", "a\x1b\nb\u202e", "\n\n"])
def test_plain_text_keeps_its_lines_only(text: str) -> None:
    expected = "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)
    assert plain(text) == expected
    assert in_line(text) == expected.replace("\n", "\ufffd")


def test_a_long_message_is_cut() -> None:
    labels = ", ".join(f"label{i}" for i in range(100_000))
    text = str(MaskcError(Diagnostic("E303", labels, hint=labels)))
    assert len(text) < 2100
    assert text.endswith("...")


def test_a_report_of_many_places_reads_the_text_once() -> None:
    source = Source("a\n" * 200_000)
    found = [Diagnostic("W404", "never used", Span(source, 2 * i, 2 * i + 1)) for i in range(0, 200_000, 40)]
    assert str(MaskcError(found)).count("never used") == 5000
    assert len(source._starts) == 200_001

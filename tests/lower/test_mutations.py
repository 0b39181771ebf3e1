"""Example programs with words deleted, replaced and doubled: they lower, or end in diagnostics."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from maskc.check import check_source
from maskc.diagnostics import MaskcError, Source
from maskc.syntax.format import format_text
from maskc.syntax.tokens import Token, tokenize

_TEXTS = [p.read_text() for p in sorted(Path("examples/models").glob("*.mask"))]
_TOKENS: list[list[Token]] = [tokenize(Source(text))[0] for text in _TEXTS]
_WORDS = sorted({t.text for tokens in _TOKENS for t in tokens})


@st.composite
def _mutants(draw: st.DrawFn) -> str:
    at = draw(st.integers(0, len(_TEXTS) - 1))
    text, tokens = _TEXTS[at], _TOKENS[at]
    places = draw(st.lists(st.integers(0, len(tokens) - 1), min_size=1, max_size=3, unique=True))
    for place in sorted(places, reverse=True):  # From the end, so that earlier places stay where they are.
        span = tokens[place].span
        new = draw(st.sampled_from(["", f"{tokens[place].text} {tokens[place].text}", *_WORDS]))
        text = f"{text[: span.start]} {new} {text[span.end :]}"
    return text


@settings(max_examples=200, deadline=None)
@given(_mutants())
def test_a_mutant_lowers_or_is_diagnosed(text: str) -> None:
    try:
        check_source(Source(text))
    except MaskcError as e:
        assert e.codes
        assert str(e)
    else:
        neat = format_text(text)
        assert format_text(neat) == neat

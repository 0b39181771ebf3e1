"""Formatting: meaning and comments are kept, and twice is once."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskc.lower import lower_text, prelude_files
from maskc.syntax.format import format_text
from maskc.syntax.parse import parse

_MESSY = """maskc   1   # version
# about
def  near( n:int ,m=2)=-n<=q-k<=n   # near


## The pattern.
pattern p(a:int=3,
   m:{text,image}[token], bias : float[head,255]) over text++grid(y,x) { # body
  # first
  let x=near( a )&(causal|near(1)) ; attend match m[q],m[k]{text,_|_,text:x
    image,image:same(y)
    else:none} | k in text & ~ (q in 0..8)
  # last

  score s+bias[h,q-k+127]**2.0
}
# end
"""

_NEAT = """maskc 1  # version

# about
def near(n: int, m = 2) = -n <= q - k <= n  # near

## The pattern.
pattern p(a: int = 3, m: {text, image}[token], bias: float[head, 255]) over text ++ grid(y, x) {
    # body
    # first
    let x = near(a) & (causal | near(1))
    attend match m[q], m[k] {
            text, _ | _, text: x
            image, image: same(y)
            else: none
        }
        | k in text & ~q in 0..8
    # last

    score s + bias[h, q - k + 127] ** 2.0
}
# end
"""


def _comments(text: str) -> list[str]:
    return sorted(c.text for c in parse(text).comments)


def test_layout() -> None:
    neat = format_text(_MESSY)
    assert neat == _NEAT
    assert format_text(neat) == neat
    assert _comments(neat) == _comments(_MESSY)


@pytest.mark.parametrize(
    ("text", "neat"),
    [
        (  # What stands inside goes before the doc comment, which stays one.
            "## Doc.\ndef f(a,  # first\n  b) = a\nf(1, 2)",
            "# first\n## Doc.\ndef f(a, b) = a\n\nf(1, 2)\n",
        ),
        (  # What was no doc comment does not become one.
            "def f(a,  ## first\n  b) = a\nf(1, 2)",
            "## first\n\ndef f(a, b) = a\n\nf(1, 2)\n",
        ),
        (
            "def f = q < k\ndef g = (  # inside\n  f)\ng",
            "def f = q < k\n\n# inside\ndef g = f\n\ng\n",
        ),
        (  # A brace in a comment opens no pattern.
            "pattern p {  # { one\n  # { two\n  attend causal\n}",
            "pattern p {\n    # { one\n    # { two\n    attend causal\n}\n",
        ),
    ],
)
def test_comments_stay_what_they_are(text: str, neat: str) -> None:
    assert format_text(text) == neat
    assert format_text(neat) == neat
    assert [_doc(i) for i in parse(neat).items] == [_doc(i) for i in parse(text).items]


def _doc(item: object) -> str:
    return str(getattr(item, "doc", ""))


def test_long_match_with_open_ranges_is_read_again() -> None:
    text = f"match layer {{ 4..8: {'causal | ' * 12}causal; ..4: none; -2..: all; else: self }}"
    neat = format_text(text)
    assert "\n    ..4: none\n    -2..: all\n" in neat
    assert format_text(neat) == neat
    assert _bare(neat) == _bare(text)


def test_long_sums_are_broken_at_their_operators() -> None:
    """But not where a line that starts with ``-`` is a case."""
    pair, other = "first[q] * second[k]", "third[q] * fourth[k]"
    signature = "pattern p(first: float[q], second: float[k], third: float[q], fourth: float[k]) {\n    attend all\n"
    sums = f"{pair} + {pair} - {other} - ({pair} + {other})"
    neat = format_text(f"{signature}score {sums}\n}}")
    lines = (pair, f"+ {pair}", f"- {other}", f"- ({pair} + {other})")
    assert f"    score {chr(10).join('        ' + line for line in lines).lstrip()}\n}}\n" in neat
    arms = f"true: {pair} + {pair} + {other} + {other}; else: {sums}"
    matched = format_text(f"{signature}score match q < k {{ {arms} }}\n}}")
    assert f"        true: {pair}\n            + {pair}\n            + {other}\n" in matched
    assert f"        else: {sums}\n" in matched
    for text, laid_out in (
        (f"{signature}score {sums}\n}}", neat),
        (f"{signature}score match q < k {{ {arms} }}\n}}", matched),
    ):
        assert format_text(laid_out) == laid_out
        assert lower_text(laid_out) == lower_text(text)


def test_prelude_is_formatted() -> None:
    for path in prelude_files():
        assert format_text(path.read_text()) == path.read_text(), path


@pytest.mark.parametrize("path", sorted(Path("examples").rglob("*.mask")), ids=str)
def test_examples_keep_their_meaning(path: Path) -> None:
    text = path.read_text()
    neat = format_text(text)
    assert format_text(neat) == neat
    assert lower_text(neat) == lower_text(text)


_ATOMS = st.sampled_from(
    ["q", "k", "a", "3", "0.5", "true", "t[q]", "f(a, n = 2)", "q in 0..4", "any(i in 0..3: i == k)"]
)


def _grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    binary = st.sampled_from(["|", "&", "+", "-", "*", "//", "%", "/", "**", "<", "==", "on"])
    return st.one_of(
        st.tuples(inner, binary, inner).map(lambda x: f"({x[0]}) {x[1]} ({x[2]})"),
        inner.map(lambda x: f"~({x})"),
        inner.map(lambda x: f"-({x})"),
        st.tuples(inner, inner).map(lambda x: f"match {x[0]} {{ 1: {x[1]}; 2..3 | ..0: {x[0]}; else: {x[1]} }}"),
        st.tuples(inner, inner).map(lambda x: f"({x[0]})[{x[1]}]"),
    )


@settings(max_examples=200, deadline=None)
@given(st.recursive(_ATOMS, _grow, max_leaves=12))
def test_parentheses_are_kept_where_they_matter(text: str) -> None:
    neat = format_text(text)
    assert format_text(neat) == neat
    assert _bare(text) == _bare(neat)


def _bare(text: str) -> object:
    """The tree without places."""

    def strip(x: object) -> object:
        if isinstance(x, tuple) and hasattr(x, "_fields"):
            fields = [(f, strip(getattr(x, f))) for f in x._fields if f not in ("span", "text")]
            return (type(x).__name__, *fields)
        return tuple(strip(y) for y in x) if isinstance(x, tuple) else x

    return strip(parse(text).items)

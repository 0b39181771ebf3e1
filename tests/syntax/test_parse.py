"""Parsing: what is accepted, and that whatever is not ends in a diagnostic."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskc.diagnostics import MaskcError
from maskc.syntax import tree as t
from maskc.syntax.parse import parse, read_source
from maskc.syntax.tokens import KEYWORDS, MAX_DEPTH, MAX_TEXT


def _expr(text: str) -> t.Expr:
    (item,) = parse(text).items
    assert not isinstance(item, (t.Definition, t.Pattern))
    return item


def _shape(e: object) -> object:
    """The expression as nested tuples, without places."""
    if isinstance(e, t.Name):
        return e.id
    if isinstance(e, t.Literal):
        return e.value
    if isinstance(e, t.Unary):
        return (e.op, _shape(e.operand))
    if isinstance(e, t.Binary):
        return (e.op, _shape(e.left), _shape(e.right))
    if isinstance(e, t.Chain):
        return (e.op, *map(_shape, e.operands))
    if isinstance(e, t.Comparison):
        return (*e.ops, *map(_shape, e.operands))
    if isinstance(e, t.Pullback):
        return ("on", _shape(e.mask), _shape(e.coordinate))
    raise AssertionError(e)


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("a | b & c | d", ("|", "a", ("&", "b", "c"), "d")),
        ("~a & b", ("&", ("~", "a"), "b")),
        ("~a on y", ("~", ("on", "a", "y"))),
        ("a on y // 2 & b", ("&", ("on", "a", ("//", "y", 2)), "b")),
        ("q < k on t", ("on", ("<", "q", "k"), "t")),
        ("(a | b) on t on y", ("on", ("on", ("|", "a", "b"), "t"), "y")),
        ("-1 <= q - k < n", ("<=", "<", ("-", 1), ("-", "q", "k"), "n")),
        ("a - b - c * d % e < 0", ("<", ("-", ("-", "a", "b"), ("%", ("*", "c", "d"), "e")), 0)),
        ("-a ** -b < 0", ("<", ("-", ("**", "a", ("-", "b"))), 0)),
        ("1_000_000 == 1e-3", ("==", 1_000_000, 1e-3)),
    ],
)
def test_precedence(text: str, shape: object) -> None:
    assert _shape(_expr(text)) == shape


def test_lines_end_statements_unless_they_go_on() -> None:
    cases = "1: x\n -1: y\n ..4: w; else: z"
    text = f"pattern p {{\n  let a = q\n    - k\n  attend a <\n    3 &\n    match a {{ {cases} }}\n}}"
    (p,) = parse(text).items
    assert isinstance(p, t.Pattern)
    assert [s.kind for s in p.statements] == ["let", "attend"]
    value = p.statements[1].value
    assert isinstance(value, t.Chain)
    match = value.operands[1]
    assert isinstance(match, t.Match)
    assert len(match.arms) == 4


@pytest.mark.parametrize("bad", [*"\x00\x1b\x7f\x9b\r\x0b\x0c\x85\u2028\u202e\u2066\u200f\u061c\ud800"])
def test_comments_hold_nothing_that_changes_how_text_looks(bad: str) -> None:
    for text in (f"causal # a{bad}b", f"## a{bad}b\npattern p {{ attend causal }}"):
        with pytest.raises(MaskcError) as raised:
            parse(text)
        assert raised.value.codes == ("E102",)
        assert str(raised.value).replace("\n", "").isprintable()
        (found,) = raised.value.diagnostics
        assert found.span
        assert text[found.span.start : found.span.end] == bad


@pytest.mark.parametrize("good", ["\t", "é", "\u05d0", "\u4e2d", "\U0001f468\u200d\U0001f469", "\u00ad"])
def test_comments_hold_any_writing(good: str) -> None:
    (comment,) = parse(f"causal # a{good}b \r\n").comments
    assert comment.text == f"# a{good}b"


def test_doc_comments_belong_to_what_follows() -> None:
    d, p = parse("# no\n\n## One.\n## Two.\ndef a = q == k\n## far\n\npattern p { attend a }").items
    assert isinstance(d, t.Definition)
    assert d.doc == "One.\nTwo."
    assert isinstance(p, t.Pattern)
    assert p.doc == ""


def test_a_range_goes_on_in_the_next_line() -> None:
    (expr,) = parse("q in 0\n  ..4").items
    assert isinstance(expr, t.Member)


def test_every_faulty_statement_is_reported() -> None:
    with pytest.raises(MaskcError) as e:
        parse("pattern p {\n let x = \n attend a = 3\n score s + * 2\n}\npattern r( { attend all }")
    assert "E107" in e.value.codes
    with pytest.raises(MaskcError) as e:
        parse("pattern p {\n attend a = 3\n score s + * 2\n}\ndef f(3) = 3")
    assert e.value.codes == ("E105", "E101", "E101")


@pytest.mark.parametrize("word", ["and", "or", "not", "&&", "||", "!"])
def test_other_languages_are_translated(word: str) -> None:
    text = f"{word} causal" if word in ("not", "!") else f"causal {word} sinks(4)"
    with pytest.raises(MaskcError) as e:
        parse(text)
    assert e.value.codes == ("E105",)
    assert e.value.diagnostics[0].hint in ("use `&`", "use `|`", "use `~`")


def test_every_foreign_word_is_reported() -> None:
    with pytest.raises(MaskcError) as e:
        parse("q >= k and not (k < 3) or k == 7")
    assert [d.hint for d in e.value.diagnostics] == ["use `&`", "use `~`", "use `|`"]


@pytest.mark.parametrize("text", ['{"maskc": 1}', '\n  {\n  "a": [1]}', "[[1, 2]]", '["causal"]', "{}"])
def test_json_is_told_from_a_pattern_at_once(text: str) -> None:
    with pytest.raises(MaskcError) as e:
        parse(text)
    assert e.value.codes == ("E105",)
    assert "maskc import" in (e.value.diagnostics[0].hint or "")


@pytest.mark.parametrize(
    "text",
    [
        "import torch\n\ndef causal(b, h, q, k):\n    return q >= k\n",
        "from torch.nn.attention import flex_attention\nx = 1\n",
        "def causal(b, h, q_idx, kv_idx) -> bool:\r\n    return q_idx >= kv_idx and q_idx < 3\r\n",
        "mask = lambda b, h, q, k: q >= k\n",
    ],
)
def test_python_is_told_from_a_pattern(text: str) -> None:
    with pytest.raises(MaskcError) as e:
        parse(text)
    (found,) = e.value.diagnostics
    assert (found.code, found.message) == ("E105", "this is Python, and no pattern")
    assert found.span is not None
    assert text[found.span.start : found.span.end] == text.splitlines()[0]


def test_a_header_that_breaks_off_is_reported_at_its_brace() -> None:
    text = "pattern p over a -> { attend causal }"
    with pytest.raises(MaskcError) as e:
        parse(text)
    (found,) = e.value.diagnostics
    assert found.message == "`{` cannot stand here after `->`"
    assert found.span is not None
    assert found.span.start == text.index("{")


@pytest.mark.parametrize(
    ("name", "plain"), [("\uff51", "q"), ("\u210e", "h"), ("doc_\ufb01", "doc_fi"), ("\u212a", "K")]
)
def test_names_that_python_reads_as_others_are_refused(name: str, plain: str) -> None:
    """They look like those others, and ``op(q, k, v, name=...)`` gave the other."""
    with pytest.raises(MaskcError) as e:
        parse(f"pattern p({name}: int[token]) {{ attend causal }}")
    (found,) = e.value.diagnostics
    assert (found.code, found.hint) == ("E102", f"write `{plain}`")


def test_names_may_be_of_any_language() -> None:
    parse("pattern p(\u00e9tage: int[token], \u6587: int[token], \u03bc: int) { attend same(\u00e9tage) & k < \u03bc }")


def test_words_of_elsewhere_may_be_names() -> None:
    parse("pattern p(mod: {text, image}[token], div: int) { attend same(mod) & q - k < div }")


def test_words_of_python_may_be_names() -> None:
    parse("pattern import(lambda: int, from: int) {\n  attend k <\n    lambda + from  # lambda x: y\n}")


def test_telling_python_takes_no_time() -> None:
    start = time.perf_counter()
    for text in ("def x(" + ")" * 60_000, "def x(" * 10_000, "lambda(" * 9000, "a " * 30_000, "import\t" * 8000):
        with pytest.raises(MaskcError):
            parse(text)
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize(
    ("character", "hint"),
    [
        ("\u2264", "write `<=`"), ("\u2212", "write `-`"), ("\u00d7", "write `*`"), ("\uff08", "write `(`"),
        ("\u00a0", "write a blank"), ("\ufeff", "leave it out"), ("\x00", "leave it out"), ("\u0663", "write `3`"),
        ("'", "names and values stand without quotes"), ("\u201d", "names and values stand without quotes"),
        ("e\u0301"[1], "write a letter and its accent as one character"),
        (".", "a float has a digit on either side of its point, as in `0.5`"), ("$", None), ("\ud800", None),
    ],
)  # fmt: skip
def test_characters_of_elsewhere_are_translated(character: str, hint: str | None) -> None:
    with pytest.raises(MaskcError) as e:
        parse(f"q < {character} 3")
    (found,) = e.value.diagnostics
    assert (found.code, found.hint) == ("E102", hint)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("attend causal", "statements stand in a pattern: `pattern name { attend ... }`"),
        ("pattern p { attend causal score s }", "a statement ends at the end of its line, or at `;`"),
        ("pattern p(w) { attend causal }", "expected `:` and a type, as in `w: int`"),
        ("pattern p(w, n: int) { attend causal }", "expected `:` and a type, as in `w: int`"),
        ("pattern p p { attend causal }", "expected `{`, `(` or `over`"),
        ("p { attend causal }", "a pattern is written `pattern name { attend ... }`"),
        ("any(i in 3: k == i)", "expected `..`, `-` or `+`"),
        ("k <= q ? true : false", "match"),
        ("if q > k: true", "match"),
        ("causal if q > k else all", "match"),
        ("causal xor sinks(4)", "use `!=`"),
        ("(q - k) mod 2 == 0", "use `%`"),
        ("q div 64 == k div 64", "use `//`"),
        ("// recent tokens\nwindow(4)", "a comment starts with `#`"),
        ("pattern p {\n  /* recent */ attend window(4)\n}", "a comment starts with `#`"),
        ("pattern p(w: int = 4) { sliding_window(w) }", "a mask follows `attend`"),
        ("pattern p { attend causal; return s }", "other statements start with `let`, `score`"),
        ("pattern p over grid(32, 32) { attend all }", "`sizes={"),
        ("w = 5\nwindow(w)", "`def w = ...` gives a name"),
        ("pattern p(on: bool[head]) { attend causal & on[h] }", "choose another name"),
        ("pattern p(doc: int[token], score: float[head]) { attend causal }", "choose another name"),
        ("def match(n) = k < n\ncausal", "choose another name"),
        ("pattern p over some ++ grid(y, x) { attend causal }", "choose another name"),
    ],
)
def test_hints_say_what_to_write(text: str, hint: str) -> None:
    with pytest.raises(MaskcError) as e:
        parse(text)
    assert hint in (e.value.diagnostics[0].hint or "")


@pytest.mark.parametrize(
    "text",
    [
        "(" * 10_000,
        "~" * 10_000 + "a",
        "-" * 10_000 + "1 < 0",
        "(" * 10_000 + "a" + ")" * 10_000,
        "a on b" + " on b" * 10_000,
        "1 + " * 10_000 + "1 < 0",
        "match a { 1: " * 5_000,
        "f(" * 10_000 + ")" * 10_000,
        "t" + "[0]" * 10_000,
        "2.0 ** " * 9_000 + "2.0 < 1.0",
    ],
)
def test_deep_nesting_is_refused(text: str) -> None:
    with pytest.raises(MaskcError) as e:
        parse(text)
    assert set(e.value.codes) <= {"E103", "E107"}


def test_as_deep_as_allowed_is_read() -> None:
    _expr("(" * (MAX_DEPTH - 1) + "a" + ")" * (MAX_DEPTH - 1))
    _expr("~" * (MAX_DEPTH - 2) + "a")
    _expr("a | " * 5_000 + "a")


def test_long_numbers_are_refused() -> None:
    for text in ("1" * 10_000, "q < 2147483648", "q < 1e999", "q < 0." + "1" * 10_000):
        with pytest.raises(MaskcError) as e:
            parse(text)
        assert e.value.codes == ("E104",)


def test_a_large_file_is_not_read_whole(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "large.mask"
    with path.open("wb") as f:
        f.truncate(100_000_000)
    tracemalloc.start()
    with pytest.raises(MaskcError) as e:
        read_source(path)
    assert e.value.codes == ("E002",)
    assert tracemalloc.get_traced_memory()[1] < 8 * MAX_TEXT
    tracemalloc.stop()


def test_bytes_that_are_no_text(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "x.mask"
    path.write_bytes(b"causal \xff")
    with pytest.raises(MaskcError, match="byte 7 is 0xff"):
        read_source(path)
    with pytest.raises(MaskcError) as e:
        read_source(tmp_path / "none.mask")
    assert e.value.codes == ("E003",)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=80))
def test_any_text_parses_or_is_diagnosed(text: str) -> None:
    _only_diagnostics(text)


_WORDS = st.sampled_from(
    [*KEYWORDS, "q", "k", "a", "f", "3", "0.5", "..", "->", "++", "==", "<", "**", "//", *"()[]{}|&~+-*%=:,;\n#"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_WORDS, max_size=40))
def test_any_words_parse_or_are_diagnosed(words: list[str]) -> None:
    _only_diagnostics(" ".join(words))


def _only_diagnostics(text: str) -> None:
    try:
        parse(text)
    except MaskcError as e:
        assert e.codes
        assert str(e)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_parse_or_are_diagnosed(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.mask"
    path.write_bytes(data)
    try:
        parse(read_source(path))
    except MaskcError as e:
        assert e.codes
        assert str(e)

"""Lowering: what names, types and coordinates mean, and what is reported of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskc.diagnostics import MaskcError, Source
from maskc.ir.evaluate import dense, evaluate
from maskc.ir.program import Segment, Space
from maskc.ir.text import print_program
from maskc.lower import lower_source, lower_text
from maskc.lower.context import MAX_STEPS
from maskc.syntax.format import format_text
from maskc.tiles.binding import make_binding


def mask(text: str, n: int = 12, *, q_len: int | None = None, h: int = 0, b: int = 0, **more: object) -> np.ndarray:
    """The dense mask of the last program of a text."""
    program = lower_text(text)[-1]
    return dense(program, make_binding(program, q_len or n, n, **more), h, b)  # type: ignore[arg-type]


def errors(text: str) -> tuple[str, ...]:
    with pytest.raises(MaskcError) as e:
        lower_text(text)
    assert str(e.value)
    return e.value.codes


def warnings(text: str) -> tuple[str, ...]:
    return tuple(w.code for w in lower_source(Source(text)).warnings)


Q, K = np.arange(12)[:, None], np.arange(12)[None, :]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("causal & ~self", K < Q),
        ("causal on token // 3", K // 3 <= Q // 3),
        ("(window(1, 1) on token // 2) on token // 3", abs(Q // 6 - K // 6) <= 1),
        ("same(token // 4) & (token % 2)[q] == 0", (Q // 4 == K // 4) & (Q % 2 == 0)),
        ("def even(c: coord) = c[k] % 2 == 0\ncausal & even(token // 3)", (K <= Q) & (K // 3 % 2 == 0)),
        ("def wide(m: mask, n: int = 2) = m | m on token // n\nwide(self)", (Q == K) | (Q // 2 == K // 2)),
        # A scalar argument is read where it is written, a mask argument where it is used.
        ("def f(m: mask, n) = m on token // 2 & n < 3\nf(q < k, q)", (Q // 2 < K // 2) & (Q < 3)),
        ("def window(n) = k == q + n\nwindow(1) | sliding_window(2)", (K == Q + 1) | ((Q - K >= 0) & (Q - K < 2))),
        ("match q % 3 { 0: all; 1: causal; else: none }", (Q % 3 == 0) | ((Q % 3 == 1) & (K <= Q))),
        ("match q, k { 2..5, ..3 | 8.., _: true; -1, _: false; else: q == k }",
         ((Q >= 2) & (Q < 5) & (K < 3)) | (Q >= 8) | (Q == K)),
        ("k in 2..4 | q in ..1", ((K >= 2) & (K < 4)) | (Q < 1)),
        ("any(i in 1..4: q - k == i * i)", np.isin(Q - K, [1, 4, 9])),
        ("any(i in 0..3: any(j in 0..3: k == 4 * i + j))", K % 4 + 0 * Q < 3),
        ("(match token { ..4: 0; else: token // 4 })[k] == 0", (K < 4) & (Q >= 0)),
        ("min(q, k, 5) == k", np.minimum(np.minimum(Q, K), 5) == K),
        ("q / 2 < k * 0.5 + 1", Q / 2 < K * 0.5 + 1),
        ("-7 // 2 == -4 & -7 % 3 == 2", np.full((12, 12), True)),
        ("k < size(k) - 2 & q >= size(token) - 3", (K < 10) & (Q >= 9)),
        ("k < size(token // 4 * 2 + token % 2) & q < size(2 * (token % 3))", (K < 6) & (Q < 5)),
    ],
)  # fmt: skip
def test_meaning(text: str, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(mask(text), np.broadcast_to(expected, (12, 12)))


def test_queries_are_the_last_positions() -> None:
    np.testing.assert_array_equal(mask("causal", q_len=3), np.arange(9, 12)[:, None] >= K)


def test_enumerations_and_inputs() -> None:
    text = """pattern p(m: {text, image, pad}[token], id: int[token]) {
        attend match m[q], m[k] { pad, _ | _, pad: none; image, image: same(id); else: causal } & m[k] != pad
    }"""
    m = np.array([0, 0, 1, 1, 1, 0, 1, 1, 0, 2, 2, 0])
    i = np.array([0, 0, 3, 3, 3, 0, 4, 4, 0, 0, 0, 0])
    both_image = (m[:, None] == 1) & (m[None] == 1)
    expected = np.where(both_image, i[:, None] == i[None], K <= Q) & (m[:, None] != 2) & (m[None] != 2)
    np.testing.assert_array_equal(mask(text, m=m, id=i), expected)


@pytest.mark.parametrize("signature", ["many: int, t: int[many]", "t: int[many], many: int"])
def test_an_extent_is_declared_before_its_table_or_after_it(signature: str) -> None:
    text = f"pattern p({signature}) {{ attend any(i in 0..many: q - k == t[i]) }}"
    i = np.arange(12)
    expected = (i[:, None] == i) | (i[:, None] == i + 5)
    np.testing.assert_array_equal(mask(text, many=2, t=[0, 5]), expected)
    assert errors(f"pattern p({signature.replace('many: int', 'many: float')}) {{ attend all }}") == ("E201",)


def test_scalar_enumeration() -> None:
    text = "pattern p(mode: {full, local} = local) { attend match mode { full: all; local: self } }"
    np.testing.assert_array_equal(mask(text), Q == K)
    np.testing.assert_array_equal(mask(text, mode="full"), Q == Q + 0 * K)


def test_grids_and_segments() -> None:
    text = (
        "pattern p over text ++ grid(t, y) { attend k in text | same(y) & window(1) on t | q in text & text[k] == 1 }"
    )
    (program,) = lower_text(text)
    assert program.q_space == Space((Segment("text"), Segment(None, ("t", "y"))))
    n_text, t, y = 3, 2, 4
    tok = np.arange(n_text + t * y)
    grid = tok - n_text
    gt, gy = grid // y, grid % y
    ok = tok >= n_text
    q, k = np.ix_(tok, tok)
    both = ok[:, None] & ok[None]
    d = gt[:, None] - gt[None]
    expected = (k < n_text) | (both & (gy[:, None] == gy[None]) & (d >= 0) & (d <= 1)) | ((q < n_text) & (k == 1))
    got = mask(text, 11, sizes={"text": n_text, "t": t, "y": y})
    np.testing.assert_array_equal(got, expected)


def test_undefined_is_false_until_it_is_negated() -> None:
    text = "pattern p over text ++ grid(y, x) { attend %s }"
    sizes = {"text": 2, "y": 2, "x": 5}
    text_token = np.arange(12) < 2
    different = mask(text % "y[q] != y[k]", sizes=sizes)
    assert not different[text_token].any()
    assert not different[:, text_token].any()
    assert mask(text % "~(y[q] == y[k])", sizes=sizes)[text_token].all()
    np.testing.assert_array_equal(mask(text % "(true on y)", sizes=sizes), ~text_token[:, None] & ~text_token)


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        ("s + y[k]", lambda s, y, has: s + y),
        ("s * (1 + (y + 3)[k])", lambda s, y, has: s * (4 + y)),
        ("s + match y[k] { 0: 2; else: y[k] - 1 }", lambda s, y, has: s + np.where(has & (y == 0), 2, y - 1)),
    ],
)
def test_undefined_counts_as_0_in_a_score(score: str, expected: Callable[..., npt.NDArray[np.float64]]) -> None:
    (program,) = lower_text(f"pattern p over text ++ grid(y, x) {{ attend all; score {score} }}")
    binding = make_binding(program, 12, 12, sizes={"text": 2, "y": 2, "x": 5})
    k = np.arange(12)
    s = np.linspace(0.5, 3.0, 12)
    got = evaluate(program.score, binding, q=np.zeros(12, np.int64), k=k, s=s, params=program.params)
    np.testing.assert_allclose(got, expected(s, np.where(k < 2, 0, (k - 2) // 5), k >= 2))


def test_undefined_counts_as_0_in_a_sink_and_an_output() -> None:
    text = """pattern p(sink: float[2]) over text ++ grid(y, x) {
        attend all
        normalize softmax(sink = sink[y[q]])
        output o * (1 + y[q])
    }"""
    (program,) = lower_text(text)
    binding = make_binding(program, 12, 12, sizes={"text": 2, "y": 2, "x": 5}, sink=[0.5, 0.25])
    q = np.arange(12)
    y = np.where(q < 2, 0, (q - 2) // 5)
    at: dict[str, Any] = {"q": q, "k": np.zeros(12, np.int64), "o": np.ones(12), "params": program.params}
    assert program.normalizer.sink is not None
    np.testing.assert_allclose(evaluate(program.normalizer.sink, binding, **at), np.where(y == 0, 0.5, 0.25))
    np.testing.assert_allclose(evaluate(program.output, binding, **at), 1 + y)


def test_cross_attention_has_two_spaces() -> None:
    text = "pattern p over grid(y, x) -> words { attend x[q] == k | k == size(words) - 1 & q < size(q) - 1 }"
    (program,) = lower_text(text)
    assert program.cross
    got = dense(program, make_binding(program, 6, 4, sizes={"y": 2, "x": 3, "words": 4}))
    q, k = np.arange(6)[:, None], np.arange(4)[None]
    np.testing.assert_array_equal(got, (q % 3 == k) | ((k == 3) & (q < 5)))


def test_a_pattern_is_a_mask_of_another() -> None:
    text = """pattern inner(w: int = 2, doc: int[token]) { let near = window(w); attend near & same(doc) }
    pattern outer(doc: int[token]) { attend inner(w = 1) | self }"""
    doc = np.arange(12) // 5
    np.testing.assert_array_equal(
        mask(text, doc=doc), ((Q - K >= 0) & (Q - K <= 1) & (doc[:, None] == doc[None])) | (Q == K)
    )


@pytest.mark.parametrize(
    ("space", "y"), [("y ++ grid(y, x)", [0, 1, 0, 0, 0, 1, 1, 1]), ("grid(y, x) ++ y", [0, 0, 0, 1, 1, 1, 0, 1])]
)
def test_a_segment_may_be_called_as_an_axis_of_a_grid_before_or_after_it(space: str, y: list[int]) -> None:
    text = f"pattern p over {space} {{\n    attend same(y) & k in y & ~q in x\n}}\n"
    at, beside = np.array(y), np.array([space.startswith("y")] * 2 + [False] * 4 + [space.endswith("y")] * 2)
    assert (mask(text, 8, sizes={"x": 3}) == ((at[:, None] == at) & beside[:, None])).all()
    assert format_text(text) == text
    program = lower_text(text)[0]
    assert lower_text(print_program(program)) == (program,)


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("windw(3)", ("E201",)),
        ("causal & qq == 1", ("E201",)),
        ("window()", ("E204",)),
        ("window(1, 2, 3)", ("E204",)),
        ("window(lft = 1)", ("E204",)),
        ("window(1, left = 2)", ("E204",)),
        ("q", ("E301",)),
        ("q & k", ("E301", "E301")),
        ("causal + 1 == 2", ("E301",)),
        ("q == causal", ("E301",)),
        ("causal in token", ("E301",)),
        ("1.5 in token", ("E301",)),
        ("q // 2.5 == 1", ("E301",)),
        ("q // 0 == 1", ("E306",)),
        ("causal on causal", ("E301",)),
        ("causal on 0.5", ("E301",)),
        ("q[k] == 1", ("E301",)),
        ("token == 3", ("E301",)),
        ("s < 1.0", ("E305",)),
        ("size(q + k) == 1", ("E301",)),
        ("size(token - 1) == 1", ("E307",)),
        ("size(token * token) == 1", ("E307",)),
        ("pattern p(doc: int[token]) { attend size(doc + token) == 1 }", ("E307",)),
        ("min(q) == 1", ("E204",)),
        ("hash(0.5) == 1", ("E301",)),
        ("match q { 1: all }", ("E304",)),
        ("match q == k { true: all }", ("E304",)),
        ("match q { 1: all; else: 3 }", ("E301",)),
        ("match q { 1, 2: all; else: none }", ("E204",)),
        ("any(i in 0..q: k == i)", ("E305",)),
        ("def f(x) = f(x)\nf(1)", ("E203",)),
        ("def f(m: mask) = g(m)\ndef g(m: mask) = f(m)\nf(all)", ("E203",)),
        ("def f(m: mask = f()) = m\nf()", ("E203",)),
        ("def f(c: coord = g) = same(c)\ndef g(c: coord = f) = same(c)\nf(token)", ("E203",)),
        ("def f(n: int = misspelt) = k < n\nf(2)", ("E201",)),
        ("def f = 1 == 1\ndef f = all\nf", ("E202",)),
        ("def q = all\nall", ("E206",)),
        ("def f(m: msk) = m\nf(all)", ("E201",)),
        ("def f = nothing(1)\ncausal", ("E201",)),
        ("def f = all", ("E004",)),
        ("causal\nsinks(4)", ("E205",)),
        ("maskc 2\ncausal", ("E005",)),
        ("pattern p { let a = q }", ("E106",)),
        ("pattern p { attend all\n attend none }", ("E106",)),
        ("pattern p(a: int, a: int) { attend k < a }", ("E202",)),
        ("pattern p(a: int = 0.5) { attend k < a }", ("E301",)),
        ("pattern p(a: int(0..3) = 3) { attend k < a }", ("E504",)),
        ("pattern p(a: {x, y} = z) { attend a == x }", ("E303",)),
        ("pattern p(a: {x, y}) { attend a == z }", ("E303",)),
        ("pattern p(a: {x, y}) { attend a < y }", ("E301",)),
        ("pattern p(a: {x, y}) { attend match a { x: all } }", ("E304",)),
        ("pattern p(a: int[hed]) { attend k < a[h] }", ("E201",)),
        ("pattern p(a: int[head]) { attend k < a }", ("E301",)),
        ("pattern p(a: int[head, layer]) { attend k < a[h] }", ("E302",)),
        ("pattern p(a: number) { attend k < a }", ("E201",)),
        ("pattern p over box(y) { attend same(y) }", ("E201",)),
        ("pattern p over grid(y, y) { attend same(y) }", ("E202",)),
        ("pattern p over y: grid(y, x) { attend same(x) }", ("E202",)),
        ("pattern p over y: grid(x) ++ grid(y) { attend same(x) }", ("E202",)),
        ("pattern p over grid(y, x) ++ y ++ y { attend same(y) }", ("E202",)),
        ("pattern p over grid(y, x) ++ y: grid(x) { attend same(y) }", ("E202",)),
        ("pattern p over image: grid(y, x) -> image ++ text { attend k in text }", ("E202",)),
        ("pattern p over image: grid(y, x) -> image: grid(v, u) { attend all }", ("E202",)),
        ("pattern p over grid(y) { attend k in 3 }", ("E301",)),
        ("pattern p over a -> c { attend size(token) < 3 }", ("E307",)),
        ("pattern p(d: int[token]) over a -> c { attend k < d[k] }", ("E301",)),
        ("pattern p { attend all\n normalize hardmax }", ("E201",)),
        ("pattern p { attend all\n normalize relu(sink = 1.0) }", ("E204",)),
        ("pattern p { attend all\n output o * k }", ("E305",)),
        ("pattern p { attend all\n output s }", ("E305",)),
        ("pattern p { attend all\n score causal }", ("E301",)),
        ("pattern p { attend all\n assert some h }", ("E101",)),
        ("pattern i { attend all\n score s * 2 }\npattern p { attend i }", ("E305",)),
        ("pattern i(d: int[token]) { attend same(d) }\npattern p { attend i }", ("E204",)),
        ("pattern p { let a = q\n let a = k\n attend a == 1 }", ("E202",)),
        ("pattern p { let h = q\n attend all }", ("E206",)),
    ],
)
def test_errors(text: str, codes: tuple[str, ...]) -> None:
    assert errors(text) == codes


def test_all_errors_of_a_file_at_once() -> None:
    assert errors("pattern a { attend windw(1) & q }\npattern c(x: it) { attend all }\ncausl") == (
        "E201", "E301", "E201", "E201",
    )  # fmt: skip


def test_an_error_within_a_definition_points_at_the_call() -> None:
    with pytest.raises(MaskcError) as e:
        lower_text("causal &\nsame(3.5 < 1.0, 2)")
    (d,) = e.value.diagnostics
    assert d.span is not None
    assert d.span.source.locate(d.span.start)[0] == 2
    with pytest.raises(MaskcError) as e:
        lower_text("def f(n) = k < n & n\ncausal | f(3)")
    (d,) = e.value.diagnostics
    assert d.span is not None
    assert d.span.source.text[d.span.start : d.span.end] == "f(3)"
    assert "in the definition of `f`" in str(e.value)


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("pattern p(a: int = 1) { attend all }", ("W401",)),
        ("pattern p(a: int = 1) { let x = a\n attend all }", ("W404",)),
        ("pattern p(n: int, t: int[n]) { attend k < t[0] }", ()),
        ("q / 64 == k / 64", ("W405",)),
        ("pattern p(doc: int[token]) { attend causal & doc[q] / 2 != doc[k] }", ("W405",)),
        ("pattern p(doc: int[token]) { attend causal & (doc / 2 == token / 2)[q] }", ("W405",)),
        ("causal & same(token / 64)", ("W405",)),
        ("def block(n) = q / n == k / n\ncausal & block(64)", ("W405",)),
        ("causal & k < q / 2 & q // 64 == k // 64", ()),
        ("pattern p(x: float[token]) { attend x[q] / 2.0 == x[k] / 2.0 }", ()),
        ("pattern p(x: float[token]) { attend x[q] == 1.0 / 3.0 & causal }", ()),
        ("match q { 1: all; 0..5: none; 3: all; else: none }", ("W402",)),
        ("match q { _: all; 3: none; else: none }", ("W402",)),
        ("match q == k { true: all; false: none; else: none }", ("W402",)),
        ("pattern p(a: {x, y}) { attend match a { x: all; x | y: none; else: all } }", ("W402",)),
    ],
)
def test_warnings(text: str, codes: tuple[str, ...]) -> None:
    assert warnings(text) == codes


def test_expansion_is_bounded() -> None:
    text = "def f0(m: mask) = m & (m on token // 2)\n"
    text += "".join(f"def f{i + 1}(m: mask) = f{i}(f{i}(m))\n" for i in range(20))
    assert set(errors(text + "f20(causal)")) <= {"E901", "E103"}
    deep = "def g0 = causal\n" + "".join(f"def g{i + 1} = ~g{i}\n" for i in range(500))
    assert errors(deep + "g500") == ("E103",)
    assert MAX_STEPS < 10**6


_NAMES = st.sampled_from(
    ["q", "k", "h", "token", "causal", "window(1)", "same(token)", "s", "o", "size(k)", "x", "3", "0.5", "true",
     "f", "f(2)", "t", "t[q]", "t[h]", "y", "a", "image", "m", "m[q]"]
)  # fmt: skip


def _grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    binary = st.sampled_from(["|", "&", "+", "//", "%", "/", "**", "<", "==", "on", "in"])
    return st.one_of(
        st.tuples(inner, binary, inner).map(lambda x: f"({x[0]} {x[1]} {x[2]})"),
        inner.map(lambda x: f"~{x}"),
        inner.map(lambda x: f"f({x})"),
        st.tuples(inner, inner).map(lambda x: f"match {x[0]} {{ 1: {x[1]}; image: {x[0]}; else: {x[1]} }}"),
        st.tuples(inner, inner).map(lambda x: f"any(i in 0..2: ({x[0]}) on ({x[1]}))"),
        st.tuples(inner, inner).map(lambda x: f"({x[0]})[{x[1]}]"),
    )


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(_NAMES, _grow, max_leaves=10), st.sampled_from(["attend", "attend all\nscore", "attend all\noutput"])
)
def test_any_program_lowers_or_is_diagnosed(text: str, statement: str) -> None:
    program = "def f(x: mask) = x | x on token // 2\npattern p(a: int, t: int[token], m: {text, image}[token]) "
    try:
        lower_text(program + f"over one ++ grid(y, x) {{\n{statement} {text} }}")
    except MaskcError as e:
        assert str(e)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("pattern p(n: int[batch]) { attend padding(n) }", "index it: `n[b]`"),
        ("pattern p(w: int[layer, head]) { attend q - k < w }", "index it: `w[layer, h]`"),
        ("pattern p(w: int[head, 4]) { attend q - k < w }", "index it: `w[h, i]`"),
        ("pattern p(w: int[head]) { attend q - k < w[head] }", "the head of a pair is called `h`"),
        ("k < length[batch]", "`pattern p(length: int[token]) { ... }`"),
        ("doc[q] == doc[k]", "`pattern p(doc: int[token]) { ... }`"),
        ("q_idx >= 4", "the position of the query is called `q`"),
        ("def near = abs(q - kv_idx) < 4\nnear", "the position of the key is called `k`"),
        ("pattern p { attend causal; score s - inf }", "`attend` says which pairs are kept"),
        ("pattern p { attend causal; score where(q == k, s, s + 1) }", "write `match condition { true: a; else: b }`"),
        ("causal on y", "an axis or segment by `over`"),
        ("causal & True", "write `true`"),
        ("document & causal", "`same(doc)`"),
        ("match h { 0, 3: causal; else: all }", "joined by `|`"),
        ("match h { 0: causal; default: all }", "`else: ...`"),
        ("match h { 0 => causal; else: all }", "a case is written `0: causal`"),
        ("pattern p(doc: int[token]) { attend doc[b, q] == doc[b, k] }", "the batch entry's own"),
        ("k < seq_len - 4", "`size(k)`"),
        ("k < clamp(q, 0, 4)", "`min(max(x, low), high)`"),
        ("torch.tanh(q) > 0", "no modules and no methods"),
        ("pattern p { attend causal; score 2. * s }", "a float has a digit on either side of its point"),
        ("q - k in [1, 4]", "`x == 1 | x == 4`"),
        ("causal & all(i in 0..4: q - k != i)", "`~any(i in 0..n: ~mask)`"),
        ("causal & q % 2", "`... != 0`"),
        ("pattern p { attend causal; score = s + 1 }", "the new score, of which `s` is the old one"),
        ("pattern p { attend causal; score score + 1 }", "the new score, of which `s` is the old one"),
        ("pattern p { attend causal; score s += 1 }", "`score s + 1`"),
        ("pattern p(doc: int[batch, token]) { attend same(doc) }", "declare it by `token` alone"),
        ("causal on token / 64", "`//` divides integers"),
        ("sliding_window(1e3)", "write a whole number"),
        ("pattern p(b: int) { attend causal }", "choose another name"),
        ("causal & window(1, 1) on q // 64", "`on token // 64`"),
        ("same(k // 4) & causal", "leave `q` and `k` out"),
        ("pattern p(doc: int[token]) { attend causal & same(doc[q]) }", "an input is named without `[q]`"),
        ("causal on token // 2 & (causal on k) on token // 2", "leave `q` and `k` out"),
        ("k < N // 2", "`size(k)`"),
        ("k in range(4)", "`x in 0..8`"),
        ("causal - window(3)", "`a & ~b`"),
        ("pattern p(doc: int[token]) { attend doc == doc }", "`same(c)` is `c[q] == c[k]`"),
        ("pattern p(doc: int[B, N]) { attend same(doc) }", "`token` may come for each of them"),
        ("pattern p(doc: int[N]) { attend same(doc) }", "positions are called `token`"),
        ("pattern p { attend causal; score softmax(s) }", "`normalize softmax`"),
        ("pattern p { attend causal; score s / sqrt(head_dim) }", "`s` is scaled already"),
        ("pattern p(H: int) over grid(H, W) { attend causal on H }", "read `size(H)`"),
    ],
)
def test_hints_lead_on(text: str, hint: str) -> None:
    with pytest.raises(MaskcError) as error:
        lower_text(text)
    assert hint in (error.value.diagnostics[0].hint or "")


def test_names_that_are_taken_are_reported_in_their_order() -> None:
    """It was that of a set, which differs from process to process."""
    names = [f"axis_{i}" for i in range(20)]
    declared = ", ".join(f"{n}: int" for n in names)
    with pytest.raises(MaskcError) as error:
        lower_text(f"pattern p({declared}) over grid({', '.join(names)}) {{ attend all }}")
    assert [d.message.split("`")[1] for d in error.value.diagnostics] == names


def test_a_hint_about_a_table_is_right() -> None:
    """It once named the domain, which is no word of an expression."""
    lower_text("pattern p(n: int[batch], w: int[layer, head]) { attend padding(n[b]) & q - k < w[layer, h] }")


def test_more_alternatives_than_any_length_allows_are_an_error_of_the_text() -> None:
    with pytest.raises(MaskcError) as error:
        lower_text("causal & any(i in 0..5000: k == i)")
    assert error.value.codes == ("E508",)
    assert error.value.diagnostics[0].span is not None
    lower_text("causal & any(i in 0..4096: k == i)")


def test_a_call_says_once_what_is_wrong_at_several_places_of_its_definition() -> None:
    with pytest.raises(MaskcError) as error:
        lower_text("random(0) & random(0, seed = 1)")
    assert error.value.codes == ("E306", "E306")

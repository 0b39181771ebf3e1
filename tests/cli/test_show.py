"""maskc show, why, diff, run, ir and spec."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskc.cli.trial import Trial

WINDOW = "pattern w(window: int = 4) {\n    attend sliding_window(window) | sinks(1)\n}\n"
HEADS = "pattern two(width: int[head], doc: int[token]) {\n    attend sliding_window(width[h]) & same(doc)\n}\n"


def test_show_draws_every_pair_of_a_short_sequence(maskc: Any, write: Any) -> None:
    result = maskc("show", write("w.mask", WINDOW), "--q", "6", "--arg", "window=2")
    assert result.code == 0
    assert result.out.splitlines() == [
        "w: 6 queries x 6 keys, layer 0, head 0 of 1",
        "    key 0",
        "    q 0 ██··········",
        "        ████········",
        "        ██████······",
        "        ██··████····",
        "      4 ██····████··",
        "        ██······████",
        "a cell is one pair: ·· not kept  ██ kept  41.67 % of pairs kept",
    ]


def test_show_makes_up_what_is_missing_and_says_so(maskc: Any, write: Any) -> None:
    file = write("two.mask", HEADS)
    result = maskc("show", file, "--q", "8", "--arg", "width=[2, 8]", "--head", "all")
    assert result.code == 0
    assert "note: doc was not given" in result.err
    assert "width" not in result.err
    assert "head 0 of 2" in result.out
    assert "head 1 of 2" in result.out
    assert maskc("show", file, "--q", "8", "--head", "5", "--heads", "2").code == 2


def test_show_takes_inputs_from_files(maskc: Any, write: Any, tmp_path: Path) -> None:
    file = write("two.mask", HEADS)
    np.save(tmp_path / "doc.npy", np.array([0, 0, 1, 1]))
    (tmp_path / "width.json").write_text("[4]")
    result = maskc("show", file, "--q", "4", "--input", "doc=@doc.npy", "--arg", "width=@width.json", "--json")
    assert result.err == ""
    full, empty = "full", "empty"
    assert json.loads(result.out)["heads"][0]["cells"] == [
        [full, empty, empty, empty],
        [full, full, empty, empty],
        [empty, empty, full, empty],
        [empty, empty, full, full],
    ]


CROSS = """pattern x(left: int[q], right: int[k], other: int[k]) over dec -> enc {
    attend left[q] == right[k] & other[k] == 0
}
"""


def test_inputs_say_the_length(maskc: Any, write: Any) -> None:
    two, cross = write("two.mask", HEADS), write("cross.mask", CROSS)
    doc = ("--arg", "doc=[0, 0, 1, 1, 1]")
    assert "5 queries x 5 keys" in maskc("show", two, *doc).out
    assert "5 queries x 5 keys" in maskc("show", two, "--arg", "doc=[[0, 0, 1, 1, 1], [0, 0, 0, 0, 0]]").out
    assert "2 queries x 5 keys" in maskc("show", two, *doc, "--q", "2").out
    assert "of 3" in maskc("show", two, *doc, "--arg", "width=[1, 2, 3]").out
    assert maskc("why", two, "4", "3", *doc).code == 0
    assert "error[E505]" in maskc("show", two, *doc, "--k", "4").err
    assert "proved for 5 queries" in maskc("prove", two, "--claim", "k <= q", *doc).out
    assert "5 queries x 5 keys" in maskc("plan", two, *doc).out
    assert "q [1, 2, 5, 64]" in maskc("run", two, *doc).out
    assert "5 queries x 5 keys" in maskc("diff", two, "causal & same(0)", *doc).out
    assert "error[E503]" in maskc("diff", two, "causal & same(0)", *doc, "--up-to", "9").err
    assert "2 queries x 3 keys" in maskc("show", cross, "--arg", "left=[0, 1]", "--arg", "right=[0, 1, 0]").out
    assert "2 queries x 2 keys" in maskc("show", cross, "--arg", "left=[0, 1]").out
    assert "3 queries x 3 keys" in maskc("show", cross, "--arg", "right=[0, 1, 1]").out


def test_inputs_of_unlike_lengths_are_named(maskc: Any, write: Any) -> None:
    result = maskc("show", write("cross.mask", CROSS), "--arg", "right=[0, 1]", "--arg", "other=[0, 1, 2]")
    assert result.code == 2
    assert "error[E505]: right is for 2 keys, other for 3" in result.err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--arg", "widnow=3"], "E502"),
        (["--arg", "window=wide"], "E503"),
        (["--arg", "window"], "E503"),
        (["--arg", "window=2", "--input", " window=3"], "E503"),
        (["--size", "y=2", "--size", "y=3"], "E503"),
        (["--arg", "window=@missing.json"], "E003"),
        (["--arg", "window=@"], "E503"),
        (["--size", "y=many"], "E503"),
        (["--head", "first"], "E503"),
    ],
)
def test_show_refuses_wrong_arguments(maskc: Any, write: Any, words: list[str], code: str) -> None:
    result = maskc("show", write("w.mask", WINDOW), "--q", "4", *words)
    assert result.code == 2
    assert f"error[{code}]" in result.err


def test_show_asks_which_pattern_is_meant(maskc: Any, write: Any) -> None:
    file = write("both.mask", WINDOW + HEADS)
    assert "error[E205]" in maskc("show", file).err
    assert maskc("show", file, "--name", "w", "--q", "4").code == 0
    assert "error[E205]" in maskc("show", file, "--name", "third").err


def test_show_fills_a_grid_with_the_length(maskc: Any, write: Any) -> None:
    file = write("grid.mask", "pattern g over grid(y, x) {\n    attend same(y)\n}\n")
    made_up = maskc("show", file, "--q", "12")
    assert made_up.code == 0
    assert "y=3, x=4" in made_up.err
    assert "8 queries x 8 keys" in maskc("show", file, "--size", "y=2", "--size", "x=4").out


def test_show_writes_a_png(maskc: Any, write: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert maskc("show", write("w.mask", WINDOW), "--q", "64", "--png", "out/w.png").code == 0
    assert (tmp_path / "out" / "w.png").read_bytes().startswith(b"\x89PNG")


def test_why_names_the_clause_that_decides(maskc: Any, write: Any) -> None:
    file = write("w.mask", WINDOW)
    kept = maskc("why", file, "9", "0")
    assert kept.code == 0
    assert kept.out.startswith("Query 9 sees key 0, for `sinks(1)`, where `k < 1` is 0 < 1 (true).\n")
    left_out = maskc("why", file, "9", "3").out
    assert left_out.startswith("Query 9 does not see key 3. None of these holds: `sliding_window(window)`, where")
    assert "no  q - k < window   6 < 4" in left_out
    answer = json.loads(maskc("why", file, "9", "3", "--json").out)
    assert answer["sees"] is False
    assert maskc("why", file, "9", "3", "--q", "4").code == 2


def test_why_follows_the_case_that_applies(maskc: Any, write: Any) -> None:
    text = "pattern m {\n    attend match layer { 0: causal; else: sliding_window(2) }\n}\n"
    file = write("m.mask", text)
    assert "`causal`" in maskc("why", file, "9", "3").out
    assert (
        "`sliding_window(2)`, where `q - k < 2` is 6 < 2 (false)." in maskc("why", file, "9", "3", "--layer", "1").out
    )


def test_why_leaves_out_what_constants_decide_and_names_coordinates(maskc: Any, write: Any) -> None:
    text = "pattern g over grid(t, y) {\n    attend neighborhood(t * 4 + y, 7)\n}\n"
    said = maskc("why", write("g.mask", text), "3", "30", "--size", "t=8", "--size", "y=4").out
    start = "max(0, min(min(t[q] * 4 + y[q], (size(t) - 1) * 4 + 1 + (size(y) - 1) - 1) - 3, "
    start += "(size(t) - 1) * 4 + 1 + (size(y) - 1) - 7))"
    assert said.splitlines()[2:] == [
        "g, layer 0, head 0",
        "  no  neighborhood(t * 4 + y, 7)   [and]",
        f"    yes {start} <= t[k] * 4 + y[k]   0 <= 30",
        f"    no  t[k] * 4 + y[k] < {start} + 7   30 < 7",
    ]
    both = "pattern p over text ++ image: grid(y, x) { attend q in image & same(y) }"
    tree = maskc("why", both, "9", "8", "--size", "text=4", "--size", "y=2", "--size", "x=3").out.splitlines()[4:]
    assert [line.strip() for line in tree] == [
        "yes q in image   [size(text) <= q]   4 <= 9",
        "yes size(text) <= k   4 <= 8",
        "yes y[q] == y[k]   1 == 1",
    ]


def test_why_names_the_neighborhood_that_decides(maskc: Any, write: Any) -> None:
    """``and`` is flat, and a condition that two of them share stands in it once."""
    file = write("n.mask", "pattern n over grid(y, x) {\n    attend neighborhood(y, 3) & neighborhood(x, 3)\n}\n")
    why = [maskc("why", file, "0", key, "--q", "64", "--size", "x=8").out.splitlines() for key in ("1", "5", "40")]
    assert why[0][0].endswith("All of these hold: `neighborhood(y, 3)` (true); `neighborhood(x, 3)` (true).")
    assert why[1][0].startswith("Query 0 does not see key 5, for `neighborhood(x, 3)`, where `x[k] < ")
    assert why[2][0].startswith("Query 0 does not see key 40, for `neighborhood(y, 3)`, where `y[k] < ")
    assert [line.split("   [")[0].strip() for line in why[1] if "[and]" in line] == [
        "no  neighborhood(y, 3) & neighborhood(x, 3)",
        "yes neighborhood(y, 3)",
        "no  neighborhood(x, 3)",
    ]
    named = "pattern n over grid(y, x) {\n    let near = neighborhood(y, 3) & neighborhood(x, 3)\n    attend near\n}\n"
    again = maskc("why", write("m.mask", named), "0", "5", "--q", "64", "--size", "x=8").out
    assert again.splitlines()[0] == why[1][0]
    assert "  no  near   [and]" in again
    wide = "(neighborhood(token, 3, dilation = 2) & neighborhood(token, 9, dilation = 2) & same(token // 64))"
    said = maskc("why", wide, "20", "26").out.splitlines()[0]
    assert said.startswith("Query 20 does not see key 26, for `neighborhood(token, 3, dilation = 2)`, where ")
    assert "for `neighborhood(token, 9, dilation = 2)`" in maskc("why", wide.replace(", 3,", ", 15,"), "20", "30").out
    assert "for `causal`" in maskc("why", "(same(token // 8) & (causal & sinks(4)))", "1", "2").out


def test_diff_finds_the_smallest_counterexample(maskc: Any, write: Any) -> None:
    a, b = write("a.mask", "sliding_window(4)\n"), write("b.mask", "sliding_window(5)\n")
    result = maskc("diff", a, b)
    assert result.code == 1
    assert result.out.startswith("different: the second keeps query 4, key 0, and the first does not")
    assert (
        "a.mask: Query 4 does not see key 0, for `sliding_window(4)`, where `q - k < 4` is 4 < 4 (false)." in result.out
    )
    assert "b.mask: Query 4 sees key 0. All of these hold: `0 <= q - k`, that is 0 <= 4 (true); " in result.out
    assert re.search(r"^ +(>>|  )(==){4}$", result.out.replace("4 >>", "  >>"), re.M)  # the last row of the picture
    found = json.loads(maskc("diff", a, b, "--json").out)["counterexample"]
    assert (found["k_len"], found["query"], found["key"], found["first_keeps"]) == (5, 4, 0, False)


def test_diff_looks_next_to_the_numbers_of_the_programs(maskc: Any, write: Any) -> None:
    a, b = write("a.mask", "causal\n"), write("b.mask", "sliding_window(700)\n")
    found = json.loads(maskc("diff", a, b, "--json").out)["counterexample"]
    assert (found["k_len"], found["query"], found["key"]) == (701, 700, 0)
    assert maskc("diff", a, b, "--up-to", "500").code == 0


@pytest.mark.parametrize("fixed", ["--q=4", "--k=4", "--size=y=4"])
def test_diff_refuses_a_longest_length_where_there_is_one_length(maskc: Any, fixed: str) -> None:
    result = maskc("diff", "causal & all", "sliding_window(7)", "--up-to", "500", fixed)
    assert (result.code, result.out) == (2, "")
    assert "error[E503]: --up-to is for many lengths" in result.err


@pytest.mark.parametrize("command", ["show", "why", "plan", "prove", "run", "tune"])
def test_help_names_no_option_that_a_command_lacks(maskc: Any, command: str) -> None:
    text = maskc(command, "--help").out
    declared = set(re.findall(r"^\W{1,8}(?:-\w,)?(--[a-z-]+)", text, re.M)) | {"--arg", "--input"}
    assert set(re.findall(r"--[a-z][a-z-]*", text)) <= declared


def test_diff_proves_masks_equal_under_their_arguments(maskc: Any, write: Any) -> None:
    a = write("a.mask", "sliding_window(128)\n")
    b = write("b.mask", "pattern other(left: int = 127) { attend 0 <= q - k <= left }\n")
    assert json.loads(maskc("diff", a, b, "--json").out)["proved"]
    assert maskc("diff", a, b).out == "equal: with these arguments, both have the same normal form\n"
    assert maskc("diff", a, b, "--arg", "left=128").code == 1


def test_a_mask_in_quotes_stands_for_a_file(maskc: Any, write: Any) -> None:
    file = write("a.mask", "causal & sinks(4)\n")
    for words in (["show", "--q", "9"], ["why", "9", "5"], ["plan", "--q", "300", "--json"], ["spec"], ["check"]):
        command, *rest = words
        one, two = (maskc(command, pattern, *rest) for pattern in ("causal & sinks(4)", file))
        assert one.code == two.code == 0
        if "--json" not in words:
            assert one.out == two.out
    assert maskc("diff", "sinks(4) & causal", file).code == 0
    wrong = maskc("check", "causal & sink(4)")
    assert (wrong.code, "<text>:1:10: error[E201]" in wrong.err) == (1, True)


def test_what_is_no_mask_in_quotes_is_a_file(maskc: Any, write: Any) -> None:
    odd = write("my masks & more", "self\n")  # There is such a file.
    assert maskc("show", odd, "--q", "2", "--json").code == 0
    for name in ("casual", "no such file.mask", "masks/none"):
        result = maskc("show", name)
        assert (result.code, "error[E003]" in result.err) == (2, True)
    assert maskc("show", "(causal)", "--q", "2").code == 0
    for words in (["fmt", "causal & self"], ["import", "causal & self"]):  # These read files only.
        assert "error[E003]" in maskc(*words).err


def test_of_several_batch_entries_it_is_said_which_one_is_shown(maskc: Any, write: Any) -> None:
    file = write("n.mask", "pattern p(n: int[batch]) {\n    attend k < n[b]\n}\n")
    for words in (["show", file, "--q", "4"], ["why", file, "3", "1", "--q", "4"]):
        assert maskc(*words, "--arg", "n=[2, 3]").err == "note: this is batch entry 0 of 2\n"
        assert maskc(*words, "--arg", "n=[2]").err == ""


@pytest.mark.parametrize(
    "words", [["show"], ["why", "3", "1"], ["plan"], ["run"], ["prove", "--claim", "k <= q"], ["diff", "causal & all"]]
)
def test_what_is_missing_is_given_by_an_option_that_there_is(maskc: Any, write: Any, words: list[str]) -> None:
    command, *rest = words
    file = write("n.mask", "pattern p(n: int, m: int(1..), doc: int[token]) {\n    attend same(doc) & k < n * m\n}\n")
    assert maskc(command, file, *rest).err.splitlines() == [
        "error[E501]: 'p' needs the argument 'n'",
        "  help: give it: --arg n=...; it is declared `n: int`",
        "",
        "error[E501]: 'p' needs the argument 'm'",
        "  help: give it: --arg m=...; it is declared `m: int(1..)`",
    ]


@pytest.mark.parametrize("option", ["--svg", "--html", "--png"])
def test_a_picture_that_cannot_be_written_says_what_to_give(maskc: Any, tmp_path: Path, option: str) -> None:
    if option == "--png":
        pytest.importorskip("matplotlib")
    result = maskc("show", "(causal)", "--q", "4", option, str(tmp_path))
    assert result.code == 2
    assert "cannot write" in result.err
    assert "help: give another file" in result.err


def test_diff_compares_at_the_lengths_given(maskc: Any, write: Any) -> None:
    a, b = write("a.mask", "causal\n"), write("b.mask", "sliding_window(4)\n")
    assert maskc("diff", a, b, "--q", "4").out == (
        "equal at every pair, for 4 queries x 4 keys: proved, but not for others\n"
    )
    assert maskc("diff", a, b, "--q", "4").code == 0
    found = json.loads(maskc("diff", a, b, "--q", "3", "--k", "7", "--json").out)["counterexample"]
    assert [found[n] for n in ("q_len", "k_len", "query", "key")] == [3, 7, 4, 0]
    cross = "pattern p over words -> image { attend q < 5 | k < 5 }\n"
    c, d = write("c.mask", cross), write("d.mask", cross.replace("q < 5", "q < 6"))
    assert maskc("diff", c, d, "--q", "5", "--k", "9").code == 0
    assert maskc("diff", c, d, "--q", "6", "--k", "9").code == 1
    assert maskc("diff", a, b, "--q", "5", "--k", "4").code == 2


def test_diff_compares_a_million_tokens(maskc: Any) -> None:
    long = ["--q", "1048576"]
    a, b = "(same(token // 8192) & q != 900000)", "(q // 4096 // 2 == k // 8192)"
    assert maskc("diff", "(same(token // 8192))", b, *long).out == (
        "equal at every pair, for 1,048,576 queries x 1,048,576 keys: proved, but not for others\n"
    )
    found = json.loads(maskc("diff", "(same(token // 8192))", b, *long, "--json").out)
    assert (found["same"], found["proved"]) == (True, True)
    assert found["for"] == "1,048,576 queries x 1,048,576 keys"
    result = maskc("diff", a, b, *long)
    first = 900000 // 8192 * 8192
    assert result.code == 1
    assert result.out.startswith(f"different: the second keeps query 900000, key {first}, and the first does not")
    assert f"{a}: Query 900000 does not see key {first}, for `q != 900000`" in result.out
    found = json.loads(maskc("diff", "(causal)", "sliding_window(70000) & causal", "--json").out)["counterexample"]
    assert (found["k_len"], found["query"], found["key"]) == (70001, 70000, 0)


def test_a_table_that_two_patterns_read_otherwise_is_one_for_each(
    maskc: Any, write: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Labels are numbered in the order of their declaration."""
    text = "pattern p(kind: {text, image}[token]) { attend kind[k] == text }\n"
    a, b = write("a.mask", text), write("b.mask", text.replace("text, image", "image, text"))
    (tmp_path / "k.json").write_text(json.dumps(["text", "image"] * 20))
    monkeypatch.setattr("maskc.cli.compare._ONE_BY_ONE", 0)
    assert maskc("diff", a, b, "--arg", "kind=@k.json").out.startswith("equal at every pair, for 40 queries x 40 keys")
    assert "<<" not in maskc("show", a, "--diff", b, "--arg", "kind=@k.json").out.split("neither")[0]
    assert maskc("show", a, "--diff", b, "--arg", "kind=@k.json", "--html", "x.html").code == 0


_N = 700
_PLANNED = {
    "k <= q & k != 300": lambda q, k: (k <= q) & (k != 300),
    "(k <= q)": lambda q, k: k <= q,
    "(q <= k | k == 0)": lambda q, k: (q <= k) | (k == 0),
    "(q + k < 900)": lambda q, k: q + k < 900,
    "k <= q & (h != 2 | q - k < 222)": lambda q, k: k <= q,  # of head 0
    "(k <= q | q == 140 & k == 680 | q == 690 & k == 130)": lambda q, k: (
        (k <= q) | ((q == 140) & (k == 680)) | ((q == 690) & (k == 130))
    ),
}


@pytest.mark.parametrize("lengths", [(_N, _N), (500, _N)])
@pytest.mark.parametrize("pair", [*itertools.combinations(_PLANNED, 2)])
def test_what_is_planned_differs_first_where_it_does(
    maskc: Any, monkeypatch: pytest.MonkeyPatch, pair: tuple[str, str], lengths: tuple[int, int]
) -> None:
    """As NumPy finds it: the smallest larger position, then the smallest query, then the smallest key."""
    monkeypatch.setattr("maskc.cli.compare._ONE_BY_ONE", 0)
    q, k = np.meshgrid(np.arange(lengths[1] - lengths[0], lengths[1]), np.arange(lengths[1]), indexing="ij")
    one, two = (np.broadcast_to(_PLANNED[text](q, k), q.shape) for text in pair)
    differing = sorted(zip(np.maximum(q, k)[one != two], q[one != two], k[one != two], strict=True))
    words = ["--q", str(lengths[0]), "--k", str(lengths[1]), "--json"]
    found = json.loads(maskc("diff", *pair, *words, "--heads", "4").out)
    if not differing:
        assert found["counterexample"]["head"] == 2 if "h" in pair[0] + pair[1] else found["proved"]
        return
    where = found["counterexample"]
    assert (where["head"], where["query"], where["key"]) == (0, *differing[0][1:])
    assert where["first_keeps"] == one[where["query"] - q[0, 0], where["key"]]


def test_diff_of_irregular_masks_looks_at_what_it_can(maskc: Any) -> None:
    a, b = "(hash(q, k) % 2 == 0)", "(hash(q, k) % 2 == 1)"
    found = maskc("diff", a, b, "--q", "1048576")
    assert (found.code, "query 0, key 0" in found.out) == (1, True)
    assert maskc("diff", a, "(hash(q, k) % 2 == 0 & k != 9000)", "--q", "1048576").code == 1  # one hash in both
    refused = maskc("diff", a, "(hash(q, max(k, q - 9000)) % 2 == 0)", "--q", "1048576")
    assert (refused.code, refused.out) == (1, "")
    assert "error[E801]: the masks cannot be compared for 1048576 queries x 1048576 keys: " in refused.err


def test_the_second_pattern_of_two_is_named_by_the_option_that_there_is(maskc: Any, write: Any) -> None:
    one, both = write("w.mask", WINDOW), write("both.mask", WINDOW + HEADS.replace("two", "v"))
    assert "choose one: --name-b w" in maskc("diff", one, both).err
    assert "choose one: --name-a w" in maskc("diff", both, one).err
    assert "choose one: --diff-name w" in maskc("show", one, "--diff", both).err
    shown = maskc("show", both, "--name", "w", "--diff", both, "--diff-name", "v", "--q", "8")
    assert (shown.code, "w and v: 8 queries" in shown.out) == (0, True)
    assert "standard input can be read once only" in maskc("diff", "-", "-").err
    assert "standard input can be read once only" in maskc("show", "-", "--diff", "-").err


def test_a_tree_is_of_the_pattern_that_is_named(maskc: Any, write: Any) -> None:
    both = write("both.mask", "def near = sinks(1)\n" + WINDOW + HEADS)
    heads = [line for line in maskc("ir", both, "--stage", "tree", "--name", "w").out.split("\n") if line[:1].strip()]
    assert heads == ["Definition", "Pattern"]
    assert "error[E205]" in maskc("ir", both, "--stage", "tree", "--name", "third").err


def test_what_one_query_sees_is_drawn_for_every_head(maskc: Any, write: Any) -> None:
    file = write("p.mask", "pattern p(width: int[head]) {\n    attend sliding_window(width[h])\n}\n")
    shown = maskc("show", file, "--arg", "width=[1, 3]", "--token", "3", "--q", "5", "--head", "all").out
    assert "head 0: keys" in shown
    assert "head 1: keys" in shown
    assert "0 ······◆◆··" in shown
    assert "0 ··████◆◆··" in shown


LAYERS = "pattern p(width: int[head]) {\n    attend match layer { 1: causal; else: sliding_window(width[h]) }\n}\n"


def test_layers_and_heads_are_drawn_beside_one_another(maskc: Any, write: Any, tmp_path: Path) -> None:
    file = write("p.mask", LAYERS)
    words = ["show", file, "--arg", "width=[1, 2]", "--q", "4", "--head", "all", "--layers", "2"]
    shown = maskc(*words).out
    assert [f"layer {i}, head {h} of 2" in shown for i in (0, 1) for h in (0, 1)] == [True] * 4
    assert shown.index("layer 0, head 1") < shown.index("layer 1, head 0")
    assert shown.count("0 ██······") == 4
    assert shown.count("██████··") == 2  # three keys of the third query, in layer 1 alone
    picture = tmp_path / "sheet.svg"
    assert maskc(*words, "--svg", str(picture)).code == 0
    assert "layer 1, head 1 of 2" in picture.read_text(encoding="utf-8")
    one = maskc("show", file, "--arg", "width=[1]", "--q", "4", "--layers", "2").out
    assert "layer 1" in one
    assert "head 0" not in one


def test_of_very_many_layers_and_heads_the_first_are_drawn(maskc: Any, write: Any, tmp_path: Path) -> None:
    words = ["--q", "4", "--heads", "8", "--head", "all", "--layers", "9", "--svg", str(tmp_path / "sheet.svg")]
    result = maskc("show", write("p.mask", LAYERS), "--arg", "width=[1, 2, 3, 4, 1, 2, 3, 4]", *words)
    assert result.code == 0
    assert "the first 64 of 72 pictures are drawn" in result.err


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        (["--layers", "3", "--score"], "--reach"),
        (["--layers", "3", "--layer", "1"], "--layer is one layer"),
        (["--layers", "3", "--layer", "1", "--reach"], "--layer is one layer"),
        (["--layers", "3", "--token", "4"], "--reach"),
        (["--layers", "3", "--json"], "--reach"),
        (["--layout", "auto"], "--html"),
        (["--theme", "dark"], "--svg"),
        (["--diff-name", "p"], "--diff"),
        (["--token", "3", "--reach"], "two pictures"),
        (["--score", "--diff", "causal & all"], "two pictures"),
        (["--json", "--diff", "causal & all"], "leave out --json or --diff"),
        (["--json", "--svg", "a.svg"], "leave out --json or --svg"),
        (["--token", "3", "--html", "a.html"], "under the cursor"),
        (["--reach", "--html", "a.html"], "--reach is not for --html"),
    ],
)
def test_options_that_a_picture_has_no_use_for_are_refused(
    maskc: Any, write: Any, words: list[str], needed: str
) -> None:
    result = maskc("show", write("a.mask", "causal\n"), *words)
    assert (result.code, needed in (result.out if "--json" in words else result.err)) == (2, True)


def test_two_halves_of_a_sequence_are_made_alike(maskc: Any, write: Any) -> None:
    file = write("two.mask", "pattern p over noisy ++ clean { attend q in noisy & k in noisy }\n")
    assert "sizes noisy=8, clean=8" in maskc("show", file, "--q", "16").err
    file = write("picture.mask", "pattern p over text ++ grid(y, x) { attend q in text }\n")
    assert "text=16, y=15, x=16" in maskc("show", file, "--q", "256").err


_CROSS = "pattern p over grid(t) -> words ++ image: grid(t, x) { attend t[q] == t[k] | k in words }\n"


@pytest.mark.parametrize("sizes", [[], ["--size", "t=3", "--size", "x=2", "--size", "words=4"]])
def test_cross_attention_has_as_many_queries_as_its_sizes_tell(maskc: Any, write: Any, sizes: list[str]) -> None:
    a, b = write("a.mask", _CROSS), write("b.mask", _CROSS.replace("==", "<="))
    shown = maskc("show", a, *sizes)
    assert shown.code == 0
    assert ("3 queries x 10 keys" if sizes else "15 queries x 256 keys") in shown.out
    found = json.loads(maskc("diff", a, b, "--json", *sizes).out)["counterexample"]
    assert found["q_len"] == found["sizes"]["t"]
    assert maskc("diff", a, a, *sizes).code == 0


@pytest.mark.parametrize("space", ["image ++ clean -> image", "grid(y, x) ++ text -> grid(y)"])
def test_sizes_made_up_fit_both_spaces(maskc: Any, write: Any, space: str) -> None:
    text = f"pattern p over {space} {{ attend q == k }}\n"
    a, b = write("a.mask", text), write("b.mask", text.replace("q == k", "q == k & q != 4"))
    shown = maskc("show", a, "--k", "6")
    assert shown.code == 0
    assert "are chosen" in shown.err
    assert maskc("show", a, "--q", "6", "--k", "3").code == (2 if "x" in space else 0)  # an x: two are open
    assert json.loads(maskc("diff", a, b, "--json").out)["counterexample"]["query"] == 4


def test_diff_passes_over_lengths_that_no_sizes_make_up(maskc: Any, write: Any) -> None:
    """Two grids with the same axes have an even number of tokens."""
    both = "over noisy: grid(y, x) ++ clean: grid(y, x) { attend same(y)"
    a, b, c = (write(f"{i}.mask", f"pattern p {both}{more} }}") for i, more in enumerate(["", " & causal", " & k < 3"]))
    found = maskc("diff", a, b)
    assert found.out.startswith("different: the first keeps query 0, key 1, and the second does not")
    assert "2 queries x 2 keys, y=1, x=1" in found.out
    data = json.loads(maskc("diff", a, c, "--json").out)["counterexample"]
    assert (data["k_len"] % 2, data["query"], data["key"]) == (0, 0, 3)
    assert maskc("diff", a, a).code == 0


def test_diff_of_equal_masks(maskc: Any, write: Any) -> None:
    a, b = write("a.mask", "k <= q & q - k < 4\n"), write("b.mask", "sliding_window(4)\n")
    assert maskc("diff", a, b).code == 0
    c = write("c.mask", "hash(q, k) % 2 == 0 & causal | causal & hash(q, k) % 2 != 0\n")
    result = maskc("diff", c, write("d.mask", "causal\n"), "--up-to", "20")
    assert result.code == 0


def test_ir_prints_stages(maskc: Any, write: Any) -> None:
    file = write("w.mask", WINDOW)
    assert "Pattern" in maskc("ir", file, "--stage", "tree").out
    assert "0 <= q - k" in maskc("ir", file, "--stage", "typed").out
    assert maskc("ir", file).out.startswith("pattern w(")
    assert maskc("ir", file, "--stage", "kernel").code == 2


def test_spec_is_read_back(maskc: Any, write: Any) -> None:
    import maskc as library

    result = maskc("spec", write("w.mask", WINDOW), "--arg", "window=9")
    assert library.from_spec(result.out).args == {"window": 9}


def test_run_compares_with_the_reference(maskc: Any, write: Any) -> None:
    pytest.importorskip("torch")
    text = "pattern r(bias: float[head, 8], doc: int[token]) {\n    attend causal & same(doc)\n"
    text += "    score s + bias[h, q - k]\n}\n"
    result = maskc("run", write("r.mask", text), "--q", "24", "--heads", "2", "--kv-heads", "1", "--dim", "8", "--json")
    data = json.loads(result.out)
    assert result.code == 0
    assert data["ok"]
    assert set(data["errors"]) == {"output", "lse", "grad q", "grad k", "grad v", "grad bias"}
    assert max(data["errors"].values()) < 1e-4
    assert maskc("run", "r.mask", "--q", "8", "--backend", "none-such").code == 2


@pytest.mark.parametrize(
    ("words", "heads"), [([], 2), (["--heads", "1"], 1), (["--arg", "w=[3]"], 1), (["--arg", "w=[3, 4, 5]"], 3)]
)
def test_a_run_has_the_heads_asked_for(maskc: Any, write: Any, words: list[str], heads: int) -> None:
    pytest.importorskip("torch")
    file = write("w.mask", "pattern w(w: int[head]) {\n    attend causal & q - k < w[h]\n}\n")
    result = maskc("run", file, "--q", "8", "--dim", "4", "--json", *words)
    assert result.code == 0
    assert json.loads(result.out)["q_shape"] == [1, heads, 8, 4]
    found = Trial("cpu", (), (), 1.0, 1.0, {"output": float("inf"), "lse": 0.5})
    assert found.data()["errors"] == {"output": None, "lse": 0.5}


@pytest.mark.parametrize(
    ("words", "batch"),
    [
        ([], 1),
        (["--batch", "2"], 2),
        (["--arg", "n=[3, 5, 8]"], 3),
        (["--arg", "n=[2, 1]", "--arg", "doc=[[0, 0], [0, 1]]"], 2),
    ],
)
def test_a_run_has_the_batch_entries_asked_for(maskc: Any, write: Any, words: list[str], batch: int) -> None:
    pytest.importorskip("torch")
    file = write("n.mask", "pattern n(n: int[batch], doc: int[token]) {\n    attend k < n[b] & same(doc)\n}\n")
    result = maskc("run", file, "--dim", "4", "--json", *words)
    assert result.code == 0
    assert json.loads(result.out)["q_shape"][0] == batch


def test_a_long_run_compares_some_queries(maskc: Any, write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from maskc.cli import trial

    text = "pattern r(bias: float[q, 8], doc: int[token]) {\n    attend causal & same(doc)\n"
    text += "    score s + bias[q, q - k]\n}\n"
    words = ("run", write("r.mask", text), "--q", "300", "--k", "320", "--dim", "8", "--kv-heads", "1")
    assert json.loads(maskc(*words, "--json").out)["queries_compared"] == 300
    monkeypatch.setattr(trial, "_COMPARED", 2 * 320 * 40)
    data = json.loads(maskc(*words, "--json").out)
    assert (data["ok"], data["queries_compared"], data["not_compared"]) == (True, 40, [])
    assert set(data["errors"]) == {"output", "lse", "grad q", "grad k", "grad v", "grad bias"}
    assert "compared at 40 of 300 queries" in maskc(*words).out


def test_the_queries_compared_are_spread_and_drawn() -> None:
    from maskc.cli.trial import rows_compared

    assert rows_compared(100, 1, 0) == range(100)
    rows = rows_compared(1 << 20, 1 << 18, 0)
    assert (rows[0], rows[-1], rows) == (0, (1 << 20) - 1, sorted({*rows}))
    assert max(b - a for a, b in itertools.pairwise(rows)) <= (1 << 20) // 60
    assert rows != rows_compared(1 << 20, 1 << 18, 1)
    assert len(rows_compared(1 << 20, 1 << 30, 0)) == 16


def test_a_backend_runs_what_it_can(maskc: Any) -> None:
    torch = pytest.importorskip("torch")
    import maskc as library
    from maskc.cli.trial import _abilities

    op = library.compile("causal & sinks(4)", heads=2, backend="flex")
    assert _abilities(op, torch.zeros(1, 2, 8, 64), 2) == ("flex", False, False)
    result = maskc("run", "causal & sinks(4)", "--backend", "flex", "--dtype", "float64")
    assert result.code == 2
    assert "error[E702]" in result.err
    found = Trial("flex", (1, 2, 8, 64), (1, 2, 8, 64), 1.0, None, {"output": 0.0}, 8, ("lse", "gradients"))
    assert found.data()["not_compared"] == ["lse", "gradients"]


@pytest.mark.slow
def test_a_run_of_flex_says_what_was_not_compared(maskc: Any) -> None:
    pytest.importorskip("torch")
    result = maskc("run", "causal & sinks(4)", "--backend", "flex", "--q", "64")
    assert result.code == 0
    assert "output" in result.out
    assert "not compared: lse and gradients" in result.out

"""Kernel texts: golden ones, what may never be in them, and how integers are written."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest

from maskc.backends.triton.emit import STAGES, with_origin
from maskc.backends.triton.expressions import Unsupported
from maskc.backends.triton.pairs import is_by_difference
from maskc.backends.triton.spec import KernelSpec, specialised
from maskc.backends.triton.spelling import ascii_text, single
from maskc.backends.triton.standalone import write_standalone
from maskc.ir.derivative import float_lookups
from maskc.ir.ops import OPS
from maskc.lower import lower_text
from tests.conftest import Golden
from tests.gpu.golden_cases import GOLDEN, kernel_of

DIRECTORY = Path(__file__).parent / "golden"


def text_of(pattern: str, stage: str = "forward") -> str:
    return STAGES[stage](KernelSpec(specialised(lower_text(pattern)[0], {}))).text


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(golden: Golden, name: str) -> None:
    golden.check(DIRECTORY / f"{name}.txt", kernel_of(name).text)


def test_golden_files_have_rows() -> None:
    assert {f.stem for f in DIRECTORY.glob("*.txt")} == set(GOLDEN)


def test_equal_meaning_gives_equal_text() -> None:
    assert text_of("causal & window(5)") == text_of("q - k <= 5 & k <= q")


def test_loop_over_full_tiles_says_nothing_of_the_mask() -> None:
    text = text_of("causal & same(token // 64)")
    full = text[text.index("# Full tiles") : text.index("# Partial tiles")]
    assert "keep" not in full
    assert "q_pos" not in full


def test_least_and_greatest_float_are_nan_where_one_is() -> None:
    """As everywhere else; Triton's own, and those of integers, say nothing of it."""
    text = text_of("pattern p(t: float[token]) { attend max(t[q], t[k]) >= 0.0\n score min(max(s, -5.0), 5.0) }")
    assert "tl.minimum(tl.maximum(score, (-5.0), tl.PropagateNan.ALL), 5.0, tl.PropagateNan.ALL)" in text
    assert re.search(r"tl.maximum\(t_\w+, t_\w+, tl.PropagateNan.ALL\)", text)
    assert "PropagateNan" not in text_of("max(q % 7, k % 5) < min(q, k) % 11")


def test_division_is_corrected_only_where_it_must_be() -> None:
    assert "floordiv(" not in text_of("q // 7 == k // 7")
    assert ">> 3" in text_of("(q - k) // 8 == 2 & q // 5 == 1")
    assert "def floordiv" in text_of("(q - k) // 7 == 2")
    # Whether a remainder is 0 does not depend on the rounding.
    assert "def mod" not in text_of("(q * h - k) % 3 == 0 & (q - h * k) % 3 == 0")
    assert "def mod" in text_of("(q - k) % 3 < 2")


@pytest.mark.parametrize(
    ("pattern", "outside", "inside"),
    [
        ("causal & window(100)", "row_0 = q_pos - 101", "keep = (k_pos <= q_pos) & (row_0 < k_pos)"),
        ("window(64, 64)", "row_0 = q_pos + 64", "keep = (k_pos <= row_0) & (row_1 < k_pos)"),
        ("(k - q) % 7 == 2", "row_0 = q_pos % 7", "keep = row_0 == ((k_pos + 5) % 7)"),
        ("3 * q - 2 * k < 5", "row_0 = (q_pos * 3) - 5", "keep = row_0 < (k_pos * 2)"),
        ("same(token // 64)", "row_0 = q_pos // 64", "keep = row_0 == (k_pos // 64)"),
        (
            "pattern p(w: int(1..100)[head]) { attend q - k < w[h] }",
            "row_0 = q_pos - tl.load(in_w + h)",
            "keep = row_0 < k_pos",
        ),
    ],
)
def test_pairs_are_compared_once(pattern: str, outside: str, inside: str) -> None:
    text = text_of(pattern)
    before, after = text.split("# Full tiles")
    assert outside in before
    assert inside in after


def test_keys_beyond_the_last_are_asked_for_only_where_a_mask_might_keep_them() -> None:
    for pattern in ("causal", "causal & window(9)", "sliding_window(9)", "k < q - 3"):
        assert "if RAGGED_K:" not in text_of(pattern)
        assert "if RAGGED_Q:" in text_of(pattern, "dkv")
    for pattern in ("window(9, 9)", "causal | k < 4", "k < q + 3", "pattern p over left -> right { attend k <= q }"):
        assert "if RAGGED_K:" in text_of(pattern)


def test_sizes_of_a_grid_are_not_asked_whether_they_are_zero() -> None:
    assert "size_x == 0" not in text_of("pattern p over grid(y, x) { attend neighborhood(y, 3) & neighborhood(x, 3) }")
    both = "pattern p over text ++ grid(y, x) { attend q in text | x[q] == x[k] }"
    assert "size_x == 0" in text_of(both)


def test_large_integers_take_64_bits() -> None:
    assert "int64) * tl.cast(k_pos" in text_of("q * k % 1000 < 5") or "tl.cast(q_pos, tl.int64)" in text_of(
        "q * k % 1000 < 5"
    )
    small = text_of("q + 3 * k < 50")
    keep = next(line for line in small.split("\n") if "keep = " in line)
    assert "int64" not in keep


def test_names_of_a_pattern_cannot_become_code() -> None:
    pattern = "pattern p(dök: int[token], tile: int[token]) { attend same(dök) & same(tile) }"
    program = lower_text(pattern)[0]
    text = with_origin(kernel := STAGES["forward"](KernelSpec(specialised(program, {}))), program, {})
    assert text.isascii()
    function = ast.parse(kernel.text).body[-1]
    assert isinstance(function, ast.FunctionDef)
    assert "in_tile" in [a.arg for a in function.args.args]


def test_names_of_tables_never_meet_those_of_their_extents() -> None:
    pattern = (
        "pattern p(a: int[token], a_n0: int[token], n0_of_in_a: int[token]) { attend a[q] + a_n0[k] < n0_of_in_a[q] }"
    )
    kernel = STAGES["forward"](KernelSpec(specialised(lower_text(pattern)[0], {})))
    names = [a.name for a in kernel.arguments]
    assert len(set(names)) == len(names)


def test_files_say_what_they_have_for_good() -> None:
    params = "w: int = 64, mode: {near, far} = near, f: float = 0.5"
    pattern = f"pattern p({params}) {{ attend q - k < w & mode == far\n score s * f }}"
    program = lower_text(pattern)[0]
    args = {"w": 1024, "mode": 1, "f": 0.25}
    kernel = STAGES["forward"](KernelSpec(specialised(program, args)))
    for text in (with_origin(kernel, program, args), write_standalone(program, args)):
        assert "# with w = 1024, mode = far, f = 0.25\n" in text


def test_what_cannot_be_written_says_why() -> None:
    with pytest.raises(Unsupported, match="power"):
        text_of("pattern p(a: float[head]) { attend causal\n score (s ** a[h]) }")
    text = "pattern p(t: float[9]) { attend causal\n score s + t[floor(s)] }"
    spec = KernelSpec(specialised(lower_text(text)[0], {}), grad_tables=frozenset({"t"}))
    with pytest.raises(Unsupported, match="'t'"):
        STAGES["pairs"](spec)


@pytest.mark.parametrize(
    ("index", "by_difference"),
    [
        ("q - k", True),
        ("k - q + 7", True),
        ("2 * q - 2 * k", True),
        ("min(3, floor(log2(float(max(1, abs(q - k))))))", True),
        ("near[q - k]", True),
        ("match k > q { true: 4; else: min(q - k, 3) }", True),
        ("match abs(q - k) < 8 { true: 1; else: 0 }", True),
        ("match 2 * q > k { true: 1; else: 0 }", False),
        ("match q == 3 { true: 1; else: 0 }", False),
        ("q", False),
        ("q + k", False),
        ("2 * q - k", False),
        ("q // 4 - k // 4", False),
        ("near[q] - k", False),
        ("max(0, q) - k", False),
        ("hash(q - k, k)", False),
    ],
)
def test_what_depends_on_the_difference_alone(index: str, by_difference: bool) -> None:
    text = f"pattern p(t: float[9], near: int[9]) {{ attend causal\n score s + t[{index}] }}"
    (node,) = float_lookups(specialised(lower_text(text)[0], {}).score)
    assert is_by_difference(node) is by_difference


def test_every_operator_has_a_spelling() -> None:
    from maskc.backends.triton.expressions import _SPECIAL
    from maskc.backends.triton.spelling import SPELLING

    assert set(OPS) <= set(SPELLING) | set(_SPECIAL)


def test_comments_show_the_beginning_of_what_is_used_over_and_over() -> None:
    lets = "let c0 = hash(q, k);" + "".join(f"let c{i} = hash(c{i - 1}, c{i - 1});" for i in range(1, 41))
    program = lower_text(f"pattern p {{ {lets} attend c40 % 2 == 0 }}")[0]
    text = text_of(f"pattern p {{ {lets} attend c40 % 2 == 0 }}")
    assert "# attend hash(hash(" in text
    assert max(len(line) for line in text.splitlines()) < 300
    assert len(with_origin(STAGES["forward"](KernelSpec(specialised(program, {}))), program, {})) < 1.5 * len(text)


def test_what_is_quoted_is_printable_ascii() -> None:
    assert ascii_text("a~ é\x1b\n\u202e") == "a~ ????"
    assert ascii_text("é\nb", lines=True) == "?\nb"


def test_numbers_of_scores_have_32_bits() -> None:
    """Triton takes a number beyond their range for one of 64 bits, and with it all that it meets."""
    text = text_of("pattern p { attend causal\n score min(s + 1e-300 * q, 1e300) - max(s, -1e39) }")
    text = re.sub(r"#.*", "", text)
    assert "e+300" not in text
    assert "e-300" not in text
    assert 'float("inf")' in text
    assert 'float("-inf")' in text
    assert "1e+300" in text_of("pattern p { attend q * 1.0 - 1e300 < k }")  # masks are compared in 64
    largest = float(np.finfo(np.float32).max)
    assert [single(x) for x in (largest, -largest, 1e-30, 3, True)] == [largest, -largest, 1e-30, 3, True]

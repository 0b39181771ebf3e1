"""Every pattern of the gallery means what its description says; every system has its file."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import maskc
from gallery import (
    formulas_analysis,
    formulas_blocks,
    formulas_classics,
    formulas_generation,
    formulas_language,
    formulas_multimodal,
    formulas_neighborhoods,
    formulas_scores,
    formulas_selection,
    formulas_steering,
    formulas_systems,
    formulas_vision,
    formulas_weights,
)
from gallery.cases import Case, Formula, Here, formulas_of
from maskc.assertions import check
from maskc.ir.binding import Binding
from maskc.ir.evaluate import dense, evaluate
from maskc.ir.nodes import Symbol
from maskc.ir.program import Normalizer, Program
from maskc.lower import lower_source
from maskc.pattern import Pattern
from maskc.syntax.parse import read_source
from maskc.tiles import make_plan
from maskc.tiles.binding import make_binding
from maskc.tiles.tiling import EMPTY, FULL, PARTIAL

if TYPE_CHECKING:
    from conftest import Golden

HERE = Path(__file__).parent
GALLERY = HERE.parent.parent / "examples" / "gallery"
FILES = sorted(GALLERY.rglob("*.mask"))
FORMULAS = formulas_of(
    formulas_language,
    formulas_vision,
    formulas_generation,
    formulas_multimodal,
    formulas_neighborhoods,
    formulas_classics,
    formulas_blocks,
    formulas_selection,
    formulas_systems,
    formulas_analysis,
    formulas_scores,
    formulas_steering,
    formulas_weights,
)
#: What a line of a header may start with, besides the name of a parameter.
LABELS = {"system", "source", "assumed", "part"}


def name_of(path: Path) -> str:
    return path.relative_to(GALLERY).as_posix()


LOWERED = {name_of(path): lower_source(read_source(path)) for path in FILES}
PROGRAMS = {f"{file}::{p.name}": p for file, lowered in LOWERED.items() for p in lowered.programs}


def sections() -> dict[str, list[str]]:
    """The systems that must be there, by section of ``rows.txt``."""
    found: dict[str, list[str]] = {}
    for line in (HERE / "rows.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            found[line[2:]] = rows = []
        elif line:
            rows.append(line)
    return found


def header(path: Path) -> list[str]:
    """The comment lines that a file starts with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line[3:] for line in lines[: next(i for i, line in enumerate(lines) if not line.startswith("## "))]]


def system_of(path: Path) -> str:
    return next(line.removeprefix("system: ") for line in header(path) if line.startswith("system: "))


@functools.cache
def expected(formula: Formula, case: Case, h: int, b: int) -> np.ndarray:
    """The formula's mask; kept, since several tests compare with it."""
    return formula.dense(case, h, b)


def bound(program: Program, case: Case) -> Binding:
    return make_binding(
        program, case.q_len, case.k_len, heads=case.heads, layer=case.layer, batch=case.batch, sizes=case.sizes,
        **case.values,
    )  # fmt: skip


#: Small, so that few tokens make many tiles; not alike, so that rows and columns cannot be confused.
Q_TILE, K_TILE = 8, 4


def tile_kinds(mask: np.ndarray) -> np.ndarray:
    """The kind of every tile of a mask; what lies beyond its ends does not count."""
    rows = [mask[i : i + Q_TILE] for i in range(0, len(mask), Q_TILE)]
    tiles = [[row[:, j : j + K_TILE] for j in range(0, mask.shape[1], K_TILE)] for row in rows]
    return np.array([[FULL if t.all() else PARTIAL if t.any() else EMPTY for t in row] for row in tiles])


PAIRS = [pytest.param(f, case, id=f"{f.key}-{i}") for f in FORMULAS for i, case in enumerate(f.cases)]


@pytest.mark.parametrize(
    ("section", "count"),
    [
        ("static masks and sparsity", 74),
        ("classics", 34),
        ("visual generation", 5),
        ("data-dependent selection and routing", 25),
        ("kernels, systems and distribution", 12),
        ("analysis and pictures", 15),
        ("scores, normalisers and outputs", 51),
    ],
)
def test_every_system_has_one_file(section: str, count: int) -> None:
    rows = sections()[section]
    assert len(set(rows)) == len(rows) == count
    systems = [system_of(path) for path in FILES]
    assert {row: systems.count(row) for row in rows if systems.count(row) != 1} == {}


def test_every_file_is_of_a_listed_system() -> None:
    listed = {row for rows in sections().values() for row in rows}
    assert {name_of(path) for path in FILES if system_of(path) not in listed} == set()


def test_every_pattern_has_one_formula_with_several_cases() -> None:
    keys = [f.key for f in FORMULAS]
    assert sorted(keys) == sorted(PROGRAMS)
    assert {f.key for f in FORMULAS if len(f.cases) < 2} == set()


def test_formulas_do_not_use_maskc() -> None:
    for path in [*HERE.glob("formulas_*.py"), HERE / "cases.py"]:
        assert not re.search(r"^\s*(import|from) maskc", path.read_text(encoding="utf-8"), re.MULTILINE), path.name


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_headers_say_what_a_reader_needs(path: Path) -> None:
    text, lines = path.read_text(encoding="utf-8"), header(path)
    assert re.match(r"\S.*: .*\.$", lines[0]), "the first line is `Name: one sentence.`"
    assert [line.split(":")[0] for line in lines[1:3]] == ["system", "source"]
    assert "http" not in text
    assert all(len(line) <= 120 for line in text.splitlines())
    notes = re.findall(r"^## ([a-z]\w*(?:, [a-z]\w*)*): ", text.split("\n", 1)[1], re.MULTILINE)
    described = {name for names in notes for name in names.split(", ")}
    parameters = {p.name for program in LOWERED[name_of(path)].programs for p in program.params}
    assert parameters - described == set(), "parameters without a line `## name: meaning`"
    assert described - parameters - LABELS == set(), "lines about no parameter"
    assert LOWERED[name_of(path)].warnings == ()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_headers_give_the_defaults(path: Path) -> None:
    """A default other than 0 or 1 stands in the line about its parameter, unless all are the source's own."""
    head = header(path)
    if "the defaults are its own" in head[2]:
        return
    for program in LOWERED[name_of(path)].programs:
        notes = re.split(r"\n(?=[\w, ]+: )", "\n".join([program.doc, *head]))
        for p in program.params:
            if p.default is None or isinstance(p.default.value, bool) or p.default.value in (0, 1):
                continue
            said = [note for note in notes if p.name in note.split(": ")[0].split(", ")]
            assert re.search(rf"\b{re.escape(str(p.default.value))}\b", "".join(said)), f"{program.name}: {p.name}"


@pytest.mark.parametrize(("formula", "case"), PAIRS)
def test_mask_equals_formula(formula: Formula, case: Case) -> None:
    program = PROGRAMS[formula.key]
    assert program.cross == formula.cross
    binding = bound(program, case)
    for h in range(case.heads):
        for b in range(case.batch):
            want, got = expected(formula, case, h, b), dense(program, binding, h, b)
            assert np.array_equal(want, got), f"head {h}, batch entry {b}: {np.argwhere(want != got)[:5].tolist()}"


@pytest.mark.parametrize(("formula", "case"), PAIRS)
def test_tiles_equal_formula(formula: Formula, case: Case) -> None:
    program = PROGRAMS[formula.key]
    plan = make_plan(program, bound(program, case), q_tile=Q_TILE, k_tile=K_TILE)
    for h in range(case.heads):
        for b in range(case.batch):
            want, got = tile_kinds(expected(formula, case, h, b)), plan.kinds(plan.group_of(h, b))
            assert np.array_equal(want, got), f"head {h}, batch entry {b}:\n{want}\n{got}"


@pytest.mark.parametrize(("formula", "case"), [p for p in PAIRS if PROGRAMS[p.values[0].key].assertions])
def test_assertions_hold(formula: Formula, case: Case) -> None:
    program = PROGRAMS[formula.key]
    check(program, bound(program, case))


def test_formulas_tell_masks_apart() -> None:
    """A formula whose cases were all alike, or all full, would prove little; a dense mask may be so."""
    for formula in FORMULAS:
        masks = [expected(formula, case, h, 0) for case in formula.cases for h in range(case.heads)]
        source = (GALLERY / formula.path).read_text(encoding="utf-8").split(f"pattern {formula.pattern}")[1]
        is_dense = source.split("attend ")[1].startswith("all\n")
        assert is_dense == all(mask.all() for mask in masks), formula.key
        assert any(mask.any() for mask in masks), formula.key


def test_formulas_have_what_patterns_have() -> None:
    for formula in FORMULAS:
        program = PROGRAMS[formula.key]
        plain = program.score is Symbol("s") and program.normalizer == Normalizer()
        assert (formula.score is None and formula.weights is None) == plain, formula.key
        assert (formula.output is None) == (program.output is Symbol("o")), formula.key


@pytest.mark.parametrize(("formula", "case"), [p for p in PAIRS if p.values[0].score or p.values[0].output])
def test_score_and_output_equal_formula(formula: Formula, case: Case) -> None:
    program = PROGRAMS[formula.key]
    binding, rng = bound(program, case), np.random.default_rng(0)
    q = formula.offset(case) + np.arange(case.q_len)
    s, o = rng.normal(size=(case.q_len, case.k_len)), rng.normal(size=(case.q_len, 1))
    for h in range(case.heads):
        for b in range(case.batch):
            here, kept = Here(case, h, b), expected(formula, case, h, b)
            at = {"q": q[:, None], "k": np.arange(case.k_len)[None], "h": h, "b": b, "params": program.params}
            if formula.score:
                got = np.broadcast_to(evaluate(program.score, binding, s=s, **at), s.shape)
                want = [formula.score(here, s[i, k], int(q[i]), int(k)) for i, k in np.argwhere(kept)]
                np.testing.assert_allclose(got[kept], want, rtol=1e-12)
            if formula.output:
                got = np.broadcast_to(evaluate(program.output, binding, o=o, **{**at, "k": 0}), o.shape)
                want = [[formula.output(here, o[i, 0], int(q[i]))] for i in range(case.q_len)]
                np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize(
    ("formula", "case"), [p for p in PAIRS if p.values[0].score or p.values[0].weights or p.values[0].output]
)
def test_attention_equals_formula(formula: Formula, case: Case) -> None:
    """The whole of it, in both precisions: mask, scores, weights and output."""
    rng, dim = np.random.default_rng(0), 4
    q, k, v = (
        rng.normal(size=(case.batch, case.heads, n, dim)) for n in (case.q_len, case.k_len, case.k_len)
    )  # fmt: skip
    s = q @ k.swapaxes(2, 3) / np.sqrt(dim)
    masks = [[expected(formula, case, h, b) for h in range(case.heads)] for b in range(case.batch)]
    if formula.before:
        case = case.given(**formula.before(case, s))
    want = np.zeros(q.shape)
    for b, h in np.ndindex(case.batch, case.heads):
        want[b, h] = formula.attention(case, masks[b][h], s[b, h], v[b, h], h, b)
    program = PROGRAMS[formula.key]
    fixed = {p.name for p in program.params if p.when == "compile"}
    arguments = {name: value for name, value in case.values.items() if name in fixed}
    for backend in ("reference", "cpu"):
        op = maskc.compile(
            Pattern(program), heads=case.heads, layer=case.layer, sizes=case.sizes, backend=backend, arguments=arguments
        )
        for dtype, close in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
            inputs = {
                name: torch.as_tensor(value, dtype=dtype if np.asarray(value).dtype.kind == "f" else None)
                for name, value in case.values.items() if name not in fixed
            }  # fmt: skip
            got = op(*(torch.tensor(x, dtype=dtype) for x in (q, k, v)), inputs=inputs)
            np.testing.assert_allclose(got.numpy(), want, rtol=close, atol=close, err_msg=f"{backend}, {dtype}")


def test_index_lists_every_file(golden: Golden) -> None:
    lines = ["# Gallery", "", *INTRODUCTION, ""]
    for folder in sorted({path.parent for path in FILES}):
        lines += [
            f"## {folder.relative_to(GALLERY).as_posix()}",
            "",
            "| file | system | what it says |",
            "|---|---|---|",
        ]
        for path in (p for p in FILES if p.parent == folder):
            sentence = header(path)[0].split(": ", 1)[1]
            shown = sentence[0].upper() + sentence[1:]
            lines.append(f"| [{path.name}]({name_of(path)}) | {system_of(path)} | {shown} |")
        lines.append("")
    golden.check(GALLERY / "README.md", "\n".join(lines))


HEADINGS = ("| file | system | what it says |", "|---|---|---|")
INTRODUCTION = (
    "One pattern file for each published system: static masks, the classics, what changes scores, weights or outputs,",
    "and selection, routing, kernels and analyses as far as they are masks; what a system selects while it runs comes",
    "as an input. The header of a file says what it is, where it comes from, what its parameters mean and which of",
    "their defaults are published. What the source leaves open is under `assumed`; which part of a system the file is,",
    "where not all is a mask, a score or an output, is under `part`. Try one:",
    "",
    "    maskc show examples/gallery/classics/longformer.mask",
    "",
    "Each pattern is compared with a dense formula that was written from the description (`tests/gallery`): its mask,",
    "and where there is more to it, the attention.",
    "This page is written from the headers: `pytest tests/gallery --update-golden`.",
)

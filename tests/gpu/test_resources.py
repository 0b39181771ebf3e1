"""What kernels take of each chip, as docs/benchmarks/kernels.json says: it is whole, everything fits, nothing
spills, and no kernel takes more than it says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import triton

from maskc.backends.triton.backward import score_lookups
from maskc.backends.triton.spec import KernelSpec, specialised
from maskc.ir.program import SCORE

_FILE = Path(__file__).parents[2] / "benchmarks" / "kernels.py"
_SPEC = importlib.util.spec_from_file_location("benchmark_of_kernels", _FILE)
assert _SPEC is not None
assert _SPEC.loader is not None
kernels: Any = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(kernels)

PROGRAMS: dict[str, Any] = kernels.programs()
MATRIX = {
    "cuda:80": "mma.sync",
    "cuda:90": "wgmma.mma_async",
    "cuda:100": "tcgen05.mma",
    "cuda:120": "mma.sync",
    "hip:gfx942": "v_mfma",
}
Key = tuple[str, str, int, str]
by_its_compiler = pytest.mark.skipif(
    triton.__version__ != kernels.read()[0], reason=f"what Triton {kernels.read()[0]} makes is known"
)


@pytest.fixture(autouse=True)
def _not_interpreting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))


def said() -> dict[Key, dict[str, Any]]:
    """The rows by pattern, chip, head dimension and kernel."""
    return {(r["pattern"], r["chip"], r["dim"], r["kernel"]): r for r in kernels.read()[1]}


def stages(name: str) -> list[str]:
    """The kernels that a pattern has."""
    program = PROGRAMS[name]
    spec = KernelSpec(specialised(program, {}), grad_tables=frozenset(p.name for p in program.params))
    return ["forward", "dq", "dkv", *(["pairs"] if score_lookups(spec).pairs else [])]


def test_every_model_and_every_chip_is_there() -> None:
    found = set(said())
    assert found >= {(n, "cuda:90", 128, s) for n in PROGRAMS for s in kernels.kernels(PROGRAMS[n], "cuda:90", 128)}
    assert found >= {("causal", c, d, s) for s in stages("causal") for c in kernels.TARGETS for d in kernels.DIMS}
    usual = {key for key in found if key[3] not in kernels.BY_ROWS}
    assert usual <= {(n, c, d, s) for n in PROGRAMS for s in stages(n) for c in kernels.TARGETS for d in kernels.DIMS}
    assert {chip for _, chip, _, _ in found - usual} == {"cuda:90"}
    assert kernels.PAGE.read_text(encoding="utf-8") == kernels.page(kernels.read()[1])


def test_everything_fits_and_uses_the_matrix_units() -> None:
    for key, row in said().items():
        assert row["shared"] <= row["limit"], key
        assert row["matrix"] == [MATRIX[key[1]]], key


#: Spills, and is faster than what does not: docs/benchmarks/gpu-tiles.md.
SPILLS = ("cuda:90", 128, "dkv, short rows")


def test_no_kernel_spills() -> None:
    spilled = {key: row["spilled"] for key, row in said().items() if row["spilled"] != 0}
    assert {key: some for key, some in spilled.items() if key[1:] != SPILLS} == {}
    assert max(spilled.values(), default=0) < 256


def test_loops_over_full_tiles_have_no_predicate() -> None:
    for key, row in said().items():
        if PROGRAMS[key[0]].score is SCORE:  # else the score itself may compare
            assert row["predicates"] in (0, None), key


@pytest.mark.parametrize("name", PROGRAMS)
def test_loops_over_full_tiles_say_nothing_of_the_mask(name: str) -> None:
    for each in kernels.kernels(PROGRAMS[name], "cuda:90", 128).values():
        if each.stage != "pairs" and not kernels.one_loop(each):
            text = each.kernel.text
            assert "keep" not in text[text.index("# Full tiles") : text.index("# Partial tiles")]


def assert_no_worse(name: str, target: str, dim: int, only: str | None = None) -> None:
    """Compile, and compare with what is said."""
    known = said()
    for kind, each in kernels.kernels(PROGRAMS[name], target, dim).items():
        if only not in (None, kind):
            continue
        found, where = kernels.compiled(each, PROGRAMS[name], target, dim), (name, target, dim, kind)
        row = known.get(where)
        if row is None:
            assert found["spilled"] == 0, where
            continue
        assert found["matrix"] == row["matrix"], where
        for what in ("registers", "spilled", "shared", "predicates"):
            assert (found[what] is None) == (row[what] is None), (*where, what)
            assert (found[what] or 0) <= (row[what] or 0), (*where, what)


@by_its_compiler
@pytest.mark.parametrize(("name", "stage"), [("causal", "forward"), ("t5_encoder", "pairs")])
def test_a_kernel_takes_no_more_than_is_said(name: str, stage: str) -> None:
    assert_no_worse(name, "cuda:90", 128, stage)


@pytest.mark.slow
@by_its_compiler
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("target", kernels.TARGETS)
def test_no_kernel_takes_more_than_is_said(name: str, target: str) -> None:
    for dim in kernels.DIMS:
        assert_no_worse(name, target, dim)

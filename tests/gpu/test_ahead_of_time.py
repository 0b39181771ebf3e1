"""Kernels compiled for chips that are not here: they fit, use the tensor cores, and do not spill."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskc.backends.triton.aot import Compiled, Shape, check_kernel
from maskc.backends.triton.configs import Config, parse_target
from maskc.backends.triton.emit import STAGES, Emitted, emit
from maskc.backends.triton.spec import KernelSpec, specialised
from maskc.lower import lower_text
from tests.gpu.cases import CASES

MATRIX = {
    "cuda:80": "mma.sync",
    "cuda:90": "wgmma.mma_async",
    "cuda:100": "tcgen05.mma",
    "cuda:120": "mma.sync",
    "hip:gfx942": "v_mfma",
}
GRID = "pattern p over grid(t, y, x) { attend neighborhood(t, 18) & neighborhood(y, 24) & neighborhood(x, 24) }"
PATTERNS = {
    "causal": "causal",
    "sinks and window": "sinks(4) | sliding_window(1024)",
    "documents": "pattern p(doc: int[token]) { attend same(doc) & causal }",
    "3-D grid": GRID,
    "ALiBi, soft cap, sink": "pattern p(slope: float[head], sink: float[head]) { attend causal\n"
    " score s + slope[h] * (k - q)\n score 30.0 * tanh(s / 30.0)\n normalize softmax(sink = sink[h]) }",
}


@pytest.fixture(autouse=True)
def _not_interpreting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))


def compiled(text: str, target: str, stage: str, dim: int, **shape: object) -> Emitted:
    wanted = Shape(head_dim=dim, value_dim=dim, **shape)  # type: ignore[arg-type]
    return emit(lower_text(text)[0], {}, parse_target(target), wanted, (stage,))[0]


def first_loop(ttir: str) -> str:
    """The body of the first loop: that over full tiles."""
    start = ttir.index("scf.for")
    depth = 0
    for i, c in enumerate(ttir[start:], start):
        depth += (c == "{") - (c == "}")
        if c == "}" and depth == 0 and "tt.dot" in ttir[start:i]:
            return ttir[start:i]
    raise AssertionError("no loop with a product")


def check(found: Emitted, target: str) -> None:
    result: Compiled = found.compiled
    assert result.shared <= found.limit
    assert result.spilled == 0
    assert MATRIX[target] in result.tensor_cores


def test_forward_for_hopper_has_no_predicate_in_the_loop_over_full_tiles() -> None:
    found = compiled("causal", "cuda:90", "forward", 128)
    check(found, "cuda:90")
    loop = first_loop(found.compiled.ttir)
    for word in ("arith.cmpi", "arith.cmpf", "arith.select", "arith.andi"):
        assert word not in loop, loop
    assert "arith.cmpi" in found.compiled.ttir[found.compiled.ttir.index(loop) + len(loop) :]


@pytest.mark.slow
@pytest.mark.parametrize("target", MATRIX)
@pytest.mark.parametrize("stage", ["forward", "dq", "dkv"])
@pytest.mark.parametrize("dim", [64, 128])
def test_causal_fits_every_chip(target: str, stage: str, dim: int) -> None:
    check(compiled("causal", target, stage, dim), target)


@pytest.mark.slow
@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("stage", ["forward", "decode", "dq", "dkv"])
def test_patterns_compile_for_hopper(name: str, stage: str) -> None:
    found = compiled(PATTERNS[name], "cuda:90", stage, 128)
    assert found.compiled.shared <= found.limit
    assert found.compiled.tensor_cores
    if stage in ("forward", "dq") and "grid" not in name:
        assert found.compiled.spilled == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dim", "dtype"), [(80, "bfloat16"), (256, "bfloat16"), (64, "float32"), (16, "float16"), (256, "float32")]
)
@pytest.mark.parametrize("stage", ["forward", "dq", "dkv"])
def test_dimensions_and_dtypes_fit(stage: str, dim: int, dtype: str) -> None:
    found = compiled("causal", "cuda:90", stage, dim, dtype=dtype, ragged=True)
    assert found.compiled.shared <= found.limit


@pytest.mark.parametrize("name", CASES)
def test_every_case_has_the_right_types(name: str) -> None:
    """The interpreter lets variables change their shape in a loop; the compiler does not."""
    case = CASES[name]
    program = lower_text(case.text)[0]
    spec = KernelSpec(specialised(program, {}), frozenset(), case.clauses, frozenset(case.floats))
    stages = ["decode", "merge"] if case.splits is not None else ["forward", "dq", "dkv"]
    chosen, target = Config(32, 32, 4, 2), parse_target("cuda:90")
    for i, stage in enumerate(stages):
        ones = (list(CASES).index(name) + i) % 2 == 0  # every other kernel with all lengths 1
        shape = Shape("float16", case.dim, case.value_dim, ragged=True, one_run=ones, ones=ones)
        code = check_kernel(STAGES[stage](spec), program, target, chosen, shape)
        assert ("tt.dot" in code) == (stage != "merge")

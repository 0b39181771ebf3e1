"""Kernels compiled for chips that are not here: they fit, use the tensor cores, and do not spill."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from maskc.backends.triton import aot, configs
from maskc.backends.triton.aot import Compiled, Shape, compile_kernel, disassembly
from maskc.backends.triton.backward import joins_dkv
from maskc.backends.triton.configs import Config, Rows, config, parse_target, shared_memory
from maskc.backends.triton.emit import STAGES, Emitted, emit
from maskc.backends.triton.masks import is_box, pair_values
from maskc.backends.triton.spec import KernelSpec, specialised
from maskc.ir.program import Program
from maskc.ir.text import print_node
from maskc.lower import lower_text
from tests.gpu.cases import CASES
from tests.gpu.older import TRITON_3_2, compiles
from tests.gpu.types import check_kernel

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
    if not compiles(target):
        pytest.skip("needs a later Triton")
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
    assert result.spilled is not None
    assert result.spilled <= (64 if TRITON_3_2 else 0)
    assert MATRIX[target] in result.tensor_cores


def test_forward_for_hopper_has_no_predicate_in_the_loop_over_full_tiles() -> None:
    found = compiled("causal", "cuda:90", "forward", 128)
    check(found, "cuda:90")
    loop = first_loop(found.compiled.ttir)
    for word in ("arith.cmpi", "arith.cmpf", "arith.select", "arith.andi"):
        assert word not in loop, loop
    assert "arith.cmpi" in found.compiled.ttir[found.compiled.ttir.index(loop) + len(loop) :]


def one_loop(text: str, stage: str, dim: int, run: bool, monkeypatch: pytest.MonkeyPatch) -> Compiled:
    """A kernel whose full and partial tiles are one sequence, as it is started on Hopper."""
    usual = aot._constants
    monkeypatch.setattr(aot, "_constants", lambda *of: {**usual(*of), "ONE_RUN": run, "ONE_PLAN": True})
    program, target = lower_text(text)[0], parse_target("cuda:90")
    text_program = specialised(program, {})
    spec = KernelSpec(text_program, boxed=is_box(text_program) and stage == "forward", steady=True, joined=True)
    chosen = config(stage, target, dim, "bfloat16", pair_values(text_program, None), "short")
    return compile_kernel(STAGES[stage](spec), program, target, chosen, Shape(head_dim=dim, value_dim=dim))


@pytest.mark.parametrize("name", ["causal", "documents"])
def test_one_loop_looks_at_pairs_behind_a_branch_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = first_loop(one_loop(PATTERNS[name], "forward", 128, True, monkeypatch).ttir)
    start = loop.index("scf.if")
    branch = loop[start : loop.index("scf.yield", start)]
    pairs = [line for line in loop.split("\n") if re.search(r"arith\.(cmpi|cmpf|select|andi).*tensor<", line)]
    assert pairs
    assert all(line in branch for line in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("run", [False, True], ids=["list", "run"])
@pytest.mark.parametrize("dim", [64, 128])
def test_one_loop_fits_and_does_not_spill(name: str, run: bool, dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = one_loop(PATTERNS[name], "forward", dim, run, monkeypatch)
    assert found.spilled == 0
    assert found.shared <= shared_memory(parse_target("cuda:90"))
    assert MATRIX["cuda:90"] in found.tensor_cores
    code = disassembly(found.binary)
    if code is not None:  # a tile of keys is waited for by itself, and the values later
        assert len(re.findall(r"DEPBAR\.LE SB0, 0x[1-9]", code)) == 2


def loops(found: Emitted) -> list[int]:
    """Instructions of the innermost loops with a product, in machine code: over full tiles, then over partial ones."""
    code = disassembly(found.compiled.binary)
    if code is None:
        pytest.skip("no disassembler")
    lines = [line.strip() for line in code.split("\n")]
    labels = {line[:-1]: i for i, line in enumerate(lines) if line.startswith(".L") and line.endswith(":")}
    spans: list[tuple[int, int]] = []
    for i, line in enumerate(lines):
        to = re.search(r"BRA.*`\((\.L\w+)\)", line)
        if to and labels.get(to.group(1), i) < i:
            spans.append((labels[to.group(1)], i))
    inner = [(a, z) for a, z in spans if not any(a <= b and y <= z and (a, z) != (b, y) for b, y in spans)]
    return [z - a for a, z in inner if any("HGMMA" in line for line in lines[a:z])]


def test_triton_3_2_is_asked_by_names(monkeypatch: pytest.MonkeyPatch) -> None:
    class Source:
        def __init__(self, fn: object, signature: dict[str, str], constants: dict[str, object], attrs: object) -> None:
            self.signature, self.constants, self.attrs = signature, constants, attrs

    class Attributes:
        @classmethod
        def from_hints(cls, hints: dict[int, int]) -> dict[int, int]:
            return hints

    program = lower_text("causal")[0]
    kernel = STAGES["forward"](KernelSpec(specialised(program, {})))
    monkeypatch.setattr(aot, "ASTSource", Source)
    monkeypatch.setattr(aot.triton.backends.compiler, "AttrsDescriptor", Attributes, raising=False)
    found, _ = aot._source(kernel, program, parse_target("cuda:90"), Config(64, 64, 4, 3), Shape())
    assert (found.signature["q_ptr"], found.signature["scale"]) == ("*bf16", "fp32")
    assert (found.constants["Q_TILE"], found.constants["q_sd"]) == (64, 1)
    assert not set(found.signature) & set(found.constants)
    assert set(found.signature) | set(found.constants) == {a.name for a in kernel.arguments}
    assert found.attrs[0] == 16


@pytest.mark.parametrize("stage", ["forward", pytest.param("dq", marks=pytest.mark.slow), "dkv"])
def test_a_list_of_tiles_is_read_ahead(stage: str) -> None:
    """Else the loads of a tile wait for its place, and fewer of them are under way."""
    run, listed = (compiled("causal", "cuda:90", stage, 128, one_run=one) for one in (True, False))
    assert run.compiled.shared <= listed.compiled.shared < run.compiled.shared + 2048


@pytest.mark.parametrize(("stage", "most"), [("forward", 1.5), ("dq", 1.6), ("dkv", 1.6)])
@pytest.mark.parametrize("name", ["causal", "window", pytest.param("3-D grid", marks=pytest.mark.slow)])
def test_a_mask_takes_a_few_instructions_a_pair(name: str, stage: str, most: float) -> None:
    """What is known of pairs must not be kept beside a product: there are few registers for it."""
    text = {**PATTERNS, "window": "sliding_window(1024)"}[name]
    full, part = loops(compiled(text, "cuda:90", stage, 128, one_run=True))
    assert full < part < (most + 0.3 * ("grid" in name)) * full


@pytest.mark.slow
@pytest.mark.parametrize("target", MATRIX)
@pytest.mark.parametrize("stage", ["forward", "dq", "dkv"])
@pytest.mark.parametrize("dim", [64, 128])
def test_causal_fits_every_chip(target: str, stage: str, dim: int) -> None:
    check(compiled("causal", target, stage, dim), target)


@pytest.mark.parametrize("memory", [0, 24])
def test_what_amd_chips_keep_in_accumulators_is_not_spilled(memory: int) -> None:
    """The end of what Triton 3.8 makes of dK and dV for gfx942, and with memory."""
    text = f".agpr_count: 107\n.private_segment_fixed_size: {memory}\n.vgpr_count: 363\n.vgpr_spill_count: 18\n"
    found = SimpleNamespace(asm={"amdgcn": text, "hsaco": b"", "ttir": ""}, metadata=SimpleNamespace(shared=0))
    read = aot._read(found, parse_target("hip:gfx942"))
    assert (read.registers, read.spilled) == (363, memory)


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
@pytest.mark.parametrize("name", ["causal", "documents", "3-D grid"])
@pytest.mark.parametrize(("kind", "stage", "dim"), configs._BY_ROWS)
def test_tiles_for_long_and_for_masked_rows_fit(kind: Rows, stage: str, dim: int, name: str) -> None:
    program, target = lower_text(PATTERNS[name])[0], parse_target("cuda:90")
    text_program = specialised(program, {})
    chosen = config(stage, target, dim, "bfloat16", pair_values(text_program, None), kind)
    assert chosen == configs._BY_ROWS[kind, stage, dim]
    kernel = STAGES[stage](KernelSpec(text_program, boxed=is_box(text_program), steady=True))
    found = compile_kernel(kernel, program, target, chosen, Shape(head_dim=dim, value_dim=dim))
    assert found.shared <= shared_memory(target)
    assert MATRIX["cuda:90"] in found.tensor_cores
    if (kind, stage) == ("masked", "forward"):  # three instances a multiprocessor
        assert found.registers is not None
        assert 3 * 32 * chosen.warps * found.registers <= 1 << 16
        assert 3 * (found.shared + 1024) <= 228 << 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dim", "dtype"), [(80, "bfloat16"), (256, "bfloat16"), (64, "float32"), (16, "float16"), (256, "float32")]
)
@pytest.mark.parametrize("stage", ["forward", "dq", "dkv"])
def test_dimensions_and_dtypes_fit(stage: str, dim: int, dtype: str) -> None:
    found = compiled("causal", "cuda:90", stage, dim, dtype=dtype, ragged=True)
    assert found.compiled.shared <= found.limit


@pytest.mark.parametrize(
    ("target", "dim", "stage"),
    [
        (target, dim, stage)
        if (target, dim) == ("cuda:90", 128)
        else pytest.param(target, dim, stage, marks=pytest.mark.slow)
        for target in ("cuda:80", "cuda:90", "cuda:100", "cuda:120")
        for dim in (64, 128, 256)
        for stage in ("forward", "dq", "dkv", "decode")
    ],
)
def test_exact_products_of_float32_do_not_spill(target: str, dim: int, stage: str) -> None:
    found = compiled("causal", target, stage, dim, dtype="float32")
    assert found.compiled.spilled is not None
    assert found.compiled.spilled <= 16
    assert found.compiled.shared <= found.limit
    assert not found.compiled.tensor_cores  # those of Hopper have 10 bits of a float32


@cache
def gallery() -> list[tuple[Program, dict[str, Any]]]:
    """The gallery's patterns and their arguments; of those that come to the same, as causal ones do, one."""
    found: dict[Any, tuple[Program, dict[str, Any]]] = {}
    for path in sorted((Path(__file__).parents[2] / "examples" / "gallery").rglob("*.mask")):
        for program in lower_text(path.read_text(encoding="utf-8")):
            args = {p.name: 64 if p.default is None else p.default.value for p in program.params if p.is_scalar}
            tables = [(p.name, p.type, len(p.domain)) for p in program.params if not p.is_scalar]
            roots = [print_node(root) for root in specialised(program, args).roots()]
            found.setdefault((*tables, *roots), (program, args))
    return list(found.values())


@pytest.mark.slow
@pytest.mark.parametrize("share", range(16))
def test_the_gallery_compiles_and_fits(share: int) -> None:
    target, shape = parse_target("cuda:90"), Shape(head_dim=128, value_dim=128)
    for program, args in gallery()[share::16]:
        for found in emit(program, args, target, shape, ("forward", "dq", "dkv")):
            assert found.compiled.shared <= found.limit, (program.name, found.stage)
            assert MATRIX["cuda:90"] in found.compiled.tensor_cores, (program.name, found.stage)


@pytest.mark.parametrize("careful", [False, True], ids=["first", "second"])
@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("stage", ["forward", "dq", "dkv"])
def test_types_of_shares_and_boxes(name: str, stage: str, careful: bool) -> None:
    program = lower_text(PATTERNS[name])[0]
    text_program = specialised(program, {})
    spec = KernelSpec(text_program, shared=True, boxed=is_box(text_program))
    target, chosen = parse_target("cuda:90"), Config(64, 64, 4, 2)
    code = check_kernel(STAGES[stage](spec), program, target, chosen, Shape(ragged=True, careful=careful))
    assert code.count("tt.dot") >= 2
    if stage == "forward" or (stage == "dkv" and joins_dkv(spec) and not spec.boxed):
        one = STAGES[stage](replace(spec, joined=True))
        products = check_kernel(one, program, target, chosen, Shape(careful=careful)).count("tt.dot")
        assert products == {"forward": 2, "dkv": 4}[stage]


@pytest.mark.parametrize("stage", ["forward", "dq", "dkv"])
@pytest.mark.parametrize("flat", [False, True], ids=["axes", "flat"])
@pytest.mark.parametrize("runs", [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 2)], ids=str)
def test_types_of_all_ways_to_start(
    stage: str, flat: bool, runs: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a plan and a call may ask of the same text: ``runs`` of full and of partial tiles, a flat grid."""
    asked = {"FLAT": flat, "FULL_RUN": runs[0], "PART_RUN": runs[1], "ONE_PLAN": flat, "LSE_GRAD": not flat}
    usual = aot._constants
    monkeypatch.setattr(aot, "_constants", lambda *of: {**usual(*of), **asked})
    program = lower_text(PATTERNS["documents"])[0]
    kernel = STAGES[stage](KernelSpec(specialised(program, {}), steady=True))
    code = check_kernel(kernel, program, parse_target("cuda:90"), Config(64, 64, 4, 2), Shape())
    assert code.count("tt.dot") >= 2


@pytest.mark.parametrize("stage", ["forward", "dq", "dkv", "pairs"])
def test_a_mask_and_a_score_of_the_same_floats(stage: str) -> None:
    """The mask computes them in 64 bits and the score in 32, whichever of them comes first."""
    program = lower_text(
        "pattern p(m: float[q], n: float[k], bias: float[head, 9]) { attend m[q] + q * 0.7 < n[k] + k * 0.3\n"
        " score s + (m[q] + q * 0.7) * (n[k] + k * 0.3) + bias[h, q - k] }"
    )[0]
    spec = KernelSpec(specialised(program, {}), grad_tables=frozenset({"bias"}))
    for one in (spec, replace(spec, joined=True))[: 2 if stage == "forward" else 1]:
        text = STAGES[stage](one)
        check_kernel(text, program, parse_target("cuda:90"), Config(32, 32, 4, 2), Shape("float16", 32, 32))


@pytest.mark.parametrize("name", CASES)
def test_every_case_has_the_right_types(name: str) -> None:
    """The interpreter lets variables change their shape in a loop; the compiler does not."""
    case = CASES[name]
    program = lower_text(case.text)[0]
    spec = KernelSpec(specialised(program, {}), frozenset(), case.clauses, frozenset(case.floats), boxed=case.boxed)
    stages = ["decode", "merge"] if case.splits is not None else ["forward", "dq", "dkv"]
    chosen, target = Config(32, 32, 4, 2), parse_target("cuda:90")
    for i, stage in enumerate(stages):
        ones = (list(CASES).index(name) + i) % 2 == 0  # every other kernel with all lengths 1
        shape = Shape("float16", case.dim, case.value_dim, ragged=True, one_run=ones, ones=ones)
        one = spec
        if not ones and (stage == "forward" or (stage == "dkv" and joins_dkv(spec) and not spec.masked_by_plan)):
            one, shape = replace(spec, joined=True), replace(shape, ragged=False)
        code = check_kernel(STAGES[stage](one), program, target, chosen, shape)
        assert ("tt.dot" in code) == (stage != "merge")

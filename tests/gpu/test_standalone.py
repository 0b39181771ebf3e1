"""Standalone files: they find the right tiles without looking at every pair, need nothing of maskc, and compute what
the reference computes."""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from maskc.backends.triton.configs import Config, config, parse_target
from maskc.backends.triton.spec import KernelSpec, specialised
from maskc.backends.triton.standalone import write_standalone
from maskc.backends.triton.standalone_gradients import learned_by
from maskc.diagnostics import MaskcError
from maskc.ir.binding import Binding
from maskc.ir.evaluate import dense
from maskc.ir.nodes import Type
from maskc.ir.program import OUTPUT, Program
from maskc.lower import lower_source, lower_text
from maskc.reference.attention import attention
from maskc.setting import make_setting
from maskc.syntax.parse import read_source
from maskc.tiles.binding import bind
from tests.gpu.cases import CASES
from tests.gpu.conftest import ROOT
from tests.strategies import bindings, programs

TILE = 4


def load(text: str, path: Path) -> ModuleType:
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def given_of(binding: Binding) -> dict[str, Any]:
    """What the file's functions are handed."""
    found: dict[str, Any] = {"q_len": binding.q_len, "k_len": binding.k_len, "offset": binding.offset}
    found |= {"layer": binding.layer, "heads": binding.heads}
    found |= {f"size_{name}": n for name, n in binding.sizes.items()}
    return found | {"tables": {name: torch.as_tensor(np.array(x)) for name, x in binding.tables.items()}}


def kinds_of(kept: Any, q_tile: int, k_tile: int) -> list[list[int]]:
    """From the dense mask; a ragged tile is never full."""
    rows, columns = (-(-n // t) for n, t in zip(kept.shape, (q_tile, k_tile), strict=True))
    out = []
    for r in range(rows):
        tiles = [kept[r * q_tile : (r + 1) * q_tile, c * k_tile : (c + 1) * k_tile] for c in range(columns)]
        out.append([int(t.any()) + int(t.shape == (q_tile, k_tile) and t.all()) for t in tiles])
    return out


def exact_tiles_of_a_random_mask(data: st.DataObject, path: Path) -> None:
    program, binding = data.draw(programs(scores=False)), data.draw(bindings())
    try:
        text = write_standalone(program, binding.args, batched=binding.batched)
    except MaskcError:
        assume(False)
    module = load(text, path)
    h, b = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 1))
    q_tile, k_tile = data.draw(st.sampled_from([(1, 1), (2, 3), (4, 4), (3, 8)]))
    found = module.tile_kinds(module.mask, given_of(binding), b, h, q_tile, k_tile, torch.device("cpu"))
    assert found.tolist() == kinds_of(dense(program, binding, h, b), q_tile, k_tile)


ANY_MASK = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@ANY_MASK
@given(st.data())
def test_tiles_of_random_masks_are_exact(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    exact_tiles_of_a_random_mask(data, tmp_path_factory.getbasetemp() / "random_mask.py")


@pytest.mark.slow
@settings(ANY_MASK, max_examples=600)
@given(st.data())
def test_tiles_of_many_random_masks_are_exact(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    exact_tiles_of_a_random_mask(data, tmp_path_factory.getbasetemp() / "random_mask.py")


LONG = {
    "causal": ("causal", 4),
    "window": ("causal & window(64)", 4),
    "documents": ("pattern p(doc: int[token]) { attend causal & same(doc) }", 8),
    "sinks": ("causal & window(100) | k < 8", 4),
    "padding": ("pattern p(n: int) { attend k < n }", 2),
    "chunks": ("q // 256 == k // 256", 1),
}


@pytest.mark.parametrize("name", LONG)
def test_few_pairs_are_evaluated(name: str, tmp_path: Path) -> None:
    text, most = LONG[name]
    n, tile = 4096, 64
    program = lower_text(text)[0]
    module = load(write_standalone(program, {"n": 1000}), tmp_path / "long.py")
    given = {"q_len": n, "k_len": n, "offset": 0, "layer": 0, "heads": 1}
    given["tables"] = {"doc": torch.arange(n) // 700}  # type: ignore[assignment]
    evaluated = [0, 0]

    def mask(q: Any, k: Any, *rest: Any) -> Any:
        ranges = isinstance(q, module.Range)
        evaluated[ranges] += 1 if ranges else torch.broadcast_shapes(q.shape, k.shape).numel()
        return module.mask(q, k, *rest)

    kinds = module.tile_kinds(mask, given, 0, 0, tile, tile, torch.device("cpu"))
    assert int((kinds > 0).sum()) > 64
    assert evaluated[0] <= most * n * tile  # a few tiles a row, of the 64 there are
    assert evaluated[1] == 1


def test_runs_and_lists(tmp_path: Path) -> None:
    module = load(write_standalone(lower_text("causal")[0], {}), tmp_path / "causal.py")
    kinds = torch.tensor([[1, 0, 0], [2, 1, 0], [2, 2, 1]], dtype=torch.int8)
    found = module.plan_tiles([kinds])
    assert (found["FULL_RUN"], found["PART_RUN"], found["ONE_PLAN"]) == (True, True, True)
    # Rows with most work first: the row, and where its full and its partial tiles start and end.
    assert found["schedule"][0, :2, :5].tolist() == [[2, 0, 2, 2, 3], [1, 0, 1, 1, 2]]
    row, first, last, *part = found["schedule"][0, 2, :5].tolist()
    assert (row, last - first, part) == (0, 0, [0, 1])
    found = module.plan_tiles([kinds, torch.tensor([[1, 2, 1]] * 3, dtype=torch.int8)])
    assert (found["FULL_RUN"], found["PART_RUN"], found["ONE_PLAN"]) == (True, False, False)
    ends = found["schedule"][:, :, [0, 3, 4]].flatten(0, 1).tolist()
    listed = [(row, found["part_tiles"][a:z].tolist()) for row, a, z in ends]
    assert listed == [(2, [2]), (1, [1]), (0, [0]), (2, [0, 2]), (1, [0, 2]), (0, [0, 2])]
    assert len(found["part_tiles"]) == 10  # one behind the last: kernels read ahead


def test_plans_are_kept_until_an_input_changes(tmp_path: Path) -> None:
    text = write_standalone(lower_text("pattern p(doc: int[token]) { attend same(doc) }")[0], {})
    module = load(text, tmp_path / "documents.py")
    doc = torch.arange(64) // 20

    def plan(table: torch.Tensor, n: int = 64) -> Any:
        given = {"q_len": n, "k_len": n, "offset": 0, "layer": 0, "heads": 1, "tables": {"doc": table}}
        return module.plan(given, 1, 1, 16, 16, torch.device("cpu"), False)

    first = plan(doc)
    assert plan(doc) is first
    assert plan(doc.clone()) is not first
    doc[:] = 0
    changed = plan(doc)
    assert changed is not first
    full = [(plan["schedule"][:, :, 2] - plan["schedule"][:, :, 1]).sum() for plan in (first, changed)]
    assert full[1] > full[0]
    with torch.inference_mode():
        fixed = torch.zeros(64, dtype=torch.int64)
        assert plan(fixed) is not plan(fixed)
    for n in range(1, 100):
        plan(doc, n)
    assert len(module._plans) <= 32


MAYBE_NAN = [
    "log2(t[q]) <= u[k]",
    "t[q] / t[k] <= u[q]",
    "t[q] - t[k] <= u[k]",
    "min(log2(t[q]), 3.0) <= 3.0",
    "max(t[q] - t[k], 0.0) >= 0.0",
    "abs(sin(t[q])) >= 0.0",
    "sigmoid(log(t[k])) >= 0.0 | u[q] < u[k]",
    "(match q % 2 { 0: log2(t[q]); else: 1.0 }) <= u[q]",
]


@pytest.mark.parametrize("mask", MAYBE_NAN)
def test_comparisons_of_what_may_be_no_number_are_left_open(mask: str, tmp_path: Path) -> None:
    """They are false of a NaN, also where every number would satisfy them."""
    program = lower_text(f"pattern p(t: float[token], u: float[token]) {{ attend {mask} }}")[0]
    t = np.where(np.arange(40) % 8 < 6, np.linspace(-2, 2, 40), np.inf).astype(np.float32)
    u = np.where(np.arange(40) < 24, np.inf, -np.inf).astype(np.float32)
    binding = bind(program, 40, 40, heads=1, layer=0, batch=1, sizes={}, values={"t": t, "u": u})
    module = load(write_standalone(program, {}), tmp_path / "maybe.py")
    found = module.tile_kinds(module.mask, given_of(binding), 0, 0, TILE, TILE, torch.device("cpu"))
    assert found.tolist() == kinds_of(dense(program, binding, 0, 0), TILE, TILE)


CLEAN = ["causal", "grid", "sink-and-gate", "hash", "edges", "float-mask", "by-head", "bias-by-bucket"]


@pytest.mark.parametrize("name", [*CLEAN, "bias-of-pairs"])
def test_files_are_clean_python(name: str, tmp_path: Path) -> None:
    learn = CASES[name].floats if name.startswith("bias") else ()
    text = write_standalone(lower_text(CASES[name].text)[0], {}, decode=name != "hash", learn=learn)
    assert text.isascii()
    assert text.startswith("# pattern ")
    modules = {a.name for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import) for a in n.names}
    assert modules - {"math"} == {"contextlib", "torch", "triton", "triton.language"}
    path = tmp_path / "attention.py"
    path.write_text(text)
    words = ["-m", "ruff", "check", "--isolated", "--select", "E,F,I,B,W", "--ignore", "E501", str(path)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    if "No module named ruff" in done.stderr:
        pytest.skip("the package ruff is not installed")
    assert done.returncode == 0, done.stdout


def test_tables_may_be_called_like_anything(tmp_path: Path) -> None:
    names = ("v", "scale", "tables", "q_start", "class", "doc")
    params = ", ".join(f"{n}: int[token]" for n in names)
    mask = " & ".join(f"{n}[q] == {n}[k]" for n in names)
    text = write_standalone(lower_text(f"pattern p({params}) {{ attend {mask} }}")[0], {})
    others = '{"class": ..., "q_start": ..., "scale": ..., "tables": ...}'
    assert f"out = attention(q, k, v, doc=doc, v=v, tables={others})" in text
    module = load(text, tmp_path / "names.py")
    given: dict[str, Any] = {}
    module.Attention = type("Call", (), {"apply": lambda *args: given.update(args[-1])})
    q, table = torch.zeros(1, 1, 4, 16), torch.arange(4)
    module.attention(q, q, q, v=table, doc=table, tables=dict.fromkeys(("scale", "tables", "q_start", "class"), table))
    assert sorted(given["tables"]) == sorted(names)
    with pytest.raises(TypeError, match=r"needs class, doc, q_start, scale, tables, v"):
        module.attention(q, q, q)


def test_tensors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    pattern = (
        "pattern p(doc: int[token], w: int[head], t: int[4]) { attend same(doc) & causal & q - k < w[h] + t[k % 4] }"
    )
    module = load(write_standalone(lower_text(pattern)[0], {}), tmp_path / "checked.py")
    q, k = torch.zeros(2, 4, 8, 16), torch.zeros(2, 2, 8, 16)
    tables = {n: torch.zeros(extent, dtype=torch.int64) for n, extent in (("doc", 8), ("w", 4), ("t", 4))}

    def refused(why: str, q: torch.Tensor = q, k: torch.Tensor = k, v: torch.Tensor = k, **changed: Any) -> None:
        with pytest.raises(ValueError, match=why):
            module.attention(q, k, v, **{**tables, **changed})

    refused(r"v \(B, Hk, Nk, Dv\), found .*v \(2, 2, 7, 16\)", v=k[:, :, :7])
    refused(r"found .*k \(1, 2, 8, 16\)", k=k[:1], v=k[:1])
    refused("in groups of key heads", q=q[:, :3])
    refused("1 to 256 dimensions", q=torch.zeros(2, 4, 8, 300), k=torch.zeros(2, 2, 8, 300))
    refused("cannot be more of them", k=k[:, :, :5], v=k[:, :, :5])
    for start in (-1, 1, 1.5, torch.tensor(0)):
        refused("expected q_start to be an integer from 0 to 0, found", q_start=start)
    refused("of one dtype", q=q.double(), k=k.double(), v=k.double())
    refused("of one dtype", v=k.half())
    refused(r"'doc' of shape \[8\]", doc=torch.zeros(2, 8))
    refused(r"'w' of shape \[4\]", w=torch.zeros(2))
    refused(r"'t' of shape \[4\]", t=torch.zeros(5))
    refused("'doc' holds integers beyond 32 bits", doc=torch.arange(8) * 2**32)
    refused("'doc' of a dtype that is int, found torch.float32", doc=torch.zeros(8))
    with pytest.raises(TypeError, match=r"expected tensors, found 'doc' \(list\)"):
        module.attention(q, k, k, **{**tables, "doc": [0] * 8})
    with pytest.raises(ValueError, match="number of a layer, found -1"):
        module.attention(q, k, k, layer=-1, **tables)
    empty = q[:, :, :0].clone().requires_grad_()
    out = module.attention(empty, k.requires_grad_(), k, **tables)
    assert out.shape == (2, 4, 0, 16)
    out.sum().backward()
    assert k.grad is not None
    assert not k.grad.any()


def test_nothing_that_is_given_is_dropped_silently(tmp_path: Path) -> None:
    """Arguments that were put into the text, names of nothing, and gradients that are not computed."""
    text = "pattern p(w: int, unread: int[token], slope: float[head]) { attend sliding_window(w); score s * slope[h] }"
    module = load(write_standalone(lower_text(text)[0], {"w": 4}), tmp_path / "window.py")
    q, slope = torch.zeros(1, 2, 0, 16), torch.ones(2)
    module.attention(q, q, q, slope=slope, unread=torch.zeros(0, dtype=torch.int64))
    for name in ("w", "slopes"):
        with pytest.raises(TypeError, match=rf"takes no {name}"):
            module.attention(q, q, q, slope=slope, tables={name: slope})
    with pytest.raises(TypeError, match="takes no x"):
        module.attention(q, q, q, slope=slope, sizes={"x": 3})
    slope.requires_grad_()
    with pytest.raises(ValueError, match="no gradient is computed of slope"):
        module.attention(q, q, q, slope=slope)
    with torch.no_grad():
        module.attention(q, q, q, slope=slope)
    with pytest.raises(ValueError, match="no gradient is computed of scale"):
        module.attention(q, q, q, slope=slope.detach(), scale=torch.tensor(0.1, requires_grad=True))
    gated = "pattern p(gate: float[head]) { attend causal; output o * gate[h] }"
    module = load(write_standalone(lower_text(gated)[0], {}), tmp_path / "gated.py")
    with pytest.raises(ValueError, match="no gradient is computed of q, v: detach"):
        module.attention(q.clone().requires_grad_(), q, q.clone().requires_grad_(), gate=torch.ones(2))


@pytest.mark.parametrize(
    ("params", "sink", "score", "learned"),
    [
        ("sink: float[head]", "sink[h]", "s", '["sink"]'),
        ("sink: float[head]", "sink[h] * 2.0", "s", "[]"),
        ("sink: float[head]", "sink[h]", "s * sink[h]", "[]"),
        ("sink: float[layer, head]", "sink[layer, h]", "s", "[]"),
    ],
)
def test_sinks_by_head_get_a_gradient(params: str, sink: str, score: str, learned: str) -> None:
    """Where nothing else reads them."""
    text = f"pattern p({params}) {{ attend causal\n score {score}\n normalize softmax(sink = {sink}) }}"
    file = write_standalone(lower_text(text)[0], {})
    assert f"\nLEARNED = {learned}\n" in file
    assert ("Differentiable in q, k, v and sink." in file) is (learned != "[]")


@pytest.mark.parametrize(
    ("learn", "why"),
    [
        ("late", "where the score reads it depends on the score itself"),
        ("far", "the mask reads it"),
        ("doc", "it is no input of floats"),
        ("w", "it is no input of floats"),
        ("logit", "the sink reads it, by more than the head"),
        ("spare", "the score does not read it"),
        ("other", "it declares no such input"),
    ],
)
def test_what_can_have_no_gradient_is_refused(learn: str, why: str) -> None:
    text = """pattern p(w: float, doc: int[token], far: float[token], bias: float[head, 9], slope: float[head],
        spare: float[head], logit: float[head], late: float[9]) {
        attend far[q] <= far[k] & same(doc)
        score s * w + slope[h] * bias[h, min(abs(q - k), 8)] + late[floor(s)]
        normalize softmax(sink = 2.0 * logit[h])
    }"""
    program = lower_text(text)[0]
    with pytest.raises(MaskcError, match="E502") as caught:
        write_standalone(program, {"w": 1.0}, learn=[learn])
    assert f"'{learn}' of 'p' can have no gradient there: {why}" in str(caught.value)
    assert "Differentiable in q, k, v and slope." in write_standalone(program, {"w": 1.0}, learn=["slope"])
    gated = lower_text("pattern p(g: float[head]) { attend causal; output o * g[h] }")[0]
    with pytest.raises(MaskcError, match="the output expression has none in a standalone file"):
        write_standalone(gated, {}, learn=["g"])


def test_sums_go_to_the_elements_that_kernels_read(tmp_path: Path) -> None:
    """Which those are is computed with the kernels' floats of 32 bits: 0.7 * 90 is 63 there, and less in 64."""
    text = "pattern p(t: float[99], u: float[head, token]) { attend causal; score s * t[floor(0.7 * q + u[h, q])] }"
    module = load(write_standalone(lower_text(text)[0], {}, learn=["t"]), tmp_path / "steps.py")
    q, zeros = torch.arange(100)[:, None], torch.zeros(1, 100, dtype=torch.float64)
    ((name, (found,)),), _ = module.read_by_score(q, None, 0, 0, {"tables": {"u": zeros}})
    assert name == "t"
    assert found.flatten().tolist() == np.floor(np.float32(0.7) * np.arange(100, dtype=np.float32)).tolist()


@pytest.mark.parametrize("target", ["cuda:80", "cuda:90", "cuda:120"])
def test_tiles_are_those_of_the_dtype(target: str, tmp_path: Path) -> None:
    """Those of 16 bits would spill kilobytes a thread, or not fit."""
    chip = parse_target(target)
    module = load(write_standalone(lower_text("causal")[0], {}, chip), tmp_path / "tiles.py")
    for tiles, dtype in ((module.TILES, "bfloat16"), (module.TILES_OF_FLOAT32, "float32")):
        for (stage, width), found in tiles.items():
            assert Config(*found) == config(stage, chip, width, dtype)
    assert module.TILES != module.TILES_OF_FLOAT32


def test_inputs_that_decide_about_no_tile_leave_the_plan(tmp_path: Path) -> None:
    text = "pattern p(doc: int[token], slope: float[head]) { attend same(doc)\n score s * slope[h] }"
    module = load(write_standalone(lower_text(text)[0], {}), tmp_path / "slopes.py")
    doc, slope = torch.arange(64) // 20, torch.ones(1)

    def plan() -> Any:
        given = {"q_len": 64, "k_len": 64, "offset": 0, "layer": 0, "heads": 1, "tables": {"doc": doc, "slope": slope}}
        return module.plan(given, 1, 1, 16, 16, torch.device("cpu"), False)

    first = plan()
    slope += 1.0
    assert plan() is first
    assert module.read("slope", slope) is slope
    kept = module.read("doc", doc)
    assert kept.dtype == torch.int32
    assert module.read("doc", doc) is kept
    doc += 1
    assert module.read("doc", doc)[0] == 1


@pytest.mark.parametrize(
    ("space", "good", "bad"),
    [
        ("grid(y, x)", ({"x": 4}, {"x": 3, "y": 4}, {"x": 12}), ({"x": 5}, {"x": 3, "y": 3}, {"x": 0}, {"x": -4})),
        (
            "text ++ grid(y, x)",
            ({"text": 2, "x": 5}, {"text": 12, "x": 5}),
            ({"text": 13, "x": 5}, {"text": 3, "x": 5}),
        ),
    ],
)
def test_extents_make_up_the_length(space: str, good: Any, bad: Any, tmp_path: Path) -> None:
    program = lower_text(f"pattern p over {space} {{ attend window(1, 1) on x }}")[0]
    module = load(write_standalone(program, {}), tmp_path / "grid.py")
    fits = functools.partial(module.adds_up, 12, module.SPACES["k"])
    assert [fits(sizes) for sizes in (*good, *bad)] == [True] * len(good) + [False] * len(bad)
    q = torch.zeros(1, 1, 12, 16)
    with pytest.raises(ValueError, match="do not make up 12 tokens"):
        module.attention(q, q, q, sizes=bad[0])


def test_inputs_that_change_before_the_backward_pass_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its plan would be that of the changed ones."""
    text = "pattern p(doc: int[token]) { attend same(doc) & causal }"
    module = load(write_standalone(lower_text(text)[0], {}), tmp_path / "documents.py")
    monkeypatch.setattr(module, "run", lambda *arguments: None)
    q, doc = torch.zeros(1, 1, 4, 16, requires_grad=True), torch.zeros(4, dtype=torch.int64)
    module.attention(q, q, q, doc=doc).sum().backward()
    out = module.attention(q, q, q, doc=doc)
    doc[2:] = 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_kernels_are_given_negated_views_as_they_are_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "pattern p(slope: float[head]) { attend causal; score s + slope[h] * k }"
    module = load(write_standalone(lower_text(text)[0], {}), tmp_path / "negated.py")
    read: list[Any] = []

    def run(kernel: Any, stage: str, heads: int, given: Any, values: Any, *rest: Any) -> None:
        read.extend([*values.values(), *given["tables"].values()])

    monkeypatch.setattr(module, "run", run)
    q = torch.ones(1, 2, 4, 16, dtype=torch.complex64).conj().imag.requires_grad_()
    out = module.attention(q, q, q, slope=torch.ones(2, dtype=torch.complex64).conj().imag)
    out.backward(torch.ones(out.shape, dtype=torch.complex64).conj().imag)
    tensors = [x for x in read if isinstance(x, torch.Tensor)]
    assert len(tensors) > 10
    assert not any(x.is_neg() for x in tensors)


def test_only_what_a_mask_needs_is_in_its_file() -> None:
    causal = write_standalone(lower_text("causal")[0], {})
    assert "def hashed" not in causal
    assert "def extremes" not in causal
    assert "def hashed" in write_standalone(lower_text("hash(q, k) % 3 == 0")[0], {})


#: Runs every file named in a list, in a process where maskc cannot be imported.
_DRIVER = """
import importlib.util, json, sys, warnings
sys.modules["maskc"] = None
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
sys.path.append(sys.argv[1])
from tests.gpu.older import mend
mend()
found = {}
for name in json.load(open("names.json")):
    given = torch.load(f"{name}.pt")
    spec = importlib.util.spec_from_file_location("attention_file", f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    leaves = [x.requires_grad_(given["differentiable"]) for x in given["tensors"]]
    leaves += [given["tables"][n].requires_grad_() for n in module.LEARNED]
    out = module.attention(*leaves[:3], **given["options"], **given["tables"])
    result = [out.detach()]
    if given["differentiable"]:
        out.square().sum().backward()
        result += [x.grad for x in leaves]
    torch.save(result, f"{name}-out.pt")
assert not [m for m in sys.modules if m.startswith("maskc.")]
print("done")
"""

#: Cases with nothing that standalone files leave out: decoding.
CORPUS = [n for n, c in CASES.items() if c.splits is None and c.dtype == "float32"]
FEW = ["causal", "documents-batch", "grid", "by-head", "sink-and-gate", "score-inputs", "prefix-ragged", "edges"]
FEW += ["negative-scale", "alibi", "chunk-of-queries"]
GALLERY = ROOT / "examples" / "gallery"


def can_learn(program: Program, binding: Binding, name: str) -> bool:
    """Whether an input can have a gradient."""
    try:
        learned_by(KernelSpec(specialised(program, binding.args), binding.batched), [name])
    except MaskcError as error:
        assert error.codes == ("E502",)
        return False
    return True


def write_case(
    name: str, program: Program, binding: Binding, floats: dict[str, Any], tmp_path: Path, **more: Any
) -> Any:
    """Write a file and its inputs; what the reference gives in float64."""
    generator = torch.Generator().manual_seed(0)
    kv_heads, dims, scale = more.get("kv_heads", binding.heads), more.get("dims", (16, 16)), more.get("scale")
    shapes = [(binding.heads, binding.q_len, dims[0]), (kv_heads, binding.k_len, dims[0])]
    shapes.append((kv_heads, binding.k_len, dims[1]))
    tensors = [torch.randn(binding.batch, *shape, generator=generator) for shape in shapes]
    learn = {n for n in floats if can_learn(program, binding, n)}
    text = write_standalone(program, binding.args, batched=binding.batched, learn=learn)
    names = load(text, tmp_path / f"{name}.py").LEARNED
    assert learn <= {*names}
    tables = {n: torch.as_tensor(np.array(x)) for n, x in binding.tables.items()} | floats
    differentiable = specialised(program, binding.args).output is OUTPUT
    options = {"layer": binding.layer, "sizes": dict(binding.sizes), "scale": scale, "q_start": binding.q_start}
    given = {"tensors": tensors, "tables": tables, "options": options, "differentiable": differentiable}
    torch.save(given, tmp_path / f"{name}.pt")
    exact = [x.double().requires_grad_(differentiable) for x in tensors]
    factor = dims[0] ** -0.5 if scale is None else scale
    tables = {n: x.double().requires_grad_(n in names) for n, x in floats.items()}
    wanted, _ = attention(program, binding, *exact, scale=factor, floats=tables)
    exact += [tables[n] for n in names]
    if not differentiable:
        return [wanted]
    wanted.square().sum().backward()
    return [wanted.detach(), *(torch.zeros_like(x) if x.grad is None else x.grad for x in exact)]


def run_files(wanted: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The largest difference of each case, relative to the largest element."""
    (tmp_path / "names.json").write_text(json.dumps(list(wanted)))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    words = [sys.executable, "-c", _DRIVER, str(ROOT)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {}
    for name, expected in wanted.items():
        results = torch.load(tmp_path / f"{name}-out.pt")
        worst = [
            float(((a - b).abs().max() / b.abs().max().clamp(min=1.0)).nan_to_num(torch.inf))
            for a, b in zip(results, expected, strict=True)
            if b.numel()
        ]
        found[name] = max(worst, default=0.0)
    return found


def corpus_case(name: str, tmp_path: Path) -> Any:
    case = CASES[name]
    program = lower_text(case.text)[0]
    sizes = {"heads": case.heads, "layer": case.layer, "batch": case.batch, "sizes": case.sizes}
    values = {n: np.asarray(x) for n, x in case.inputs.items()}
    binding = bind(program, case.q_len, case.k_len, **sizes, values=values, q_start=case.q_start)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    floats = {n: torch.randn(shape, generator=generator) for n, shape in case.floats.items()}
    extra = {n for n, x in floats.items() if x.ndim > len(program.parameter(n).domain)}
    binding = binding.replace(batched=binding.batched | extra)
    more = {"kv_heads": case.kv_heads, "dims": (case.dim, case.value_dim), "scale": case.scale}
    return write_case(name, program, binding, floats, tmp_path, **more)


@pytest.mark.parametrize("names", [FEW, pytest.param(CORPUS, marks=pytest.mark.slow)], ids=["few", "all"])
def test_corpus_without_maskc(names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {name: corpus_case(name, tmp_path) for name in names}
    sinks = lower_text("pattern p(sink: float[head]) { attend window(9) & q > 2\n normalize softmax(sink = sink[h]) }")[
        0
    ]
    binding = bind(sinks, 40, 40, heads=4, layer=0, batch=2, sizes={}, values={"sink": [0.0] * 4})
    wanted["learned"] = write_case("learned", sinks, binding, {"sink": torch.randn(4)}, tmp_path, kv_heads=2)
    found = run_files(wanted, tmp_path, monkeypatch)
    assert {n: x for n, x in found.items() if not x < 1e-5} == {}


@functools.lru_cache(maxsize=1)
def gallery() -> dict[str, Program]:
    """Every program of the gallery."""
    files = sorted(GALLERY.rglob("*.mask"))
    return {f"{f.stem}-{p.name}": p for f in files for p in lower_source(read_source(f)).programs}


def setting_of(program: Program, **more: Any) -> Binding:
    scalars = {p.name: 8 for p in program.params if p.is_scalar and p.type is Type.INT and p.default is None}
    made = make_setting([program], heads=2, layer=0, seed=3, values=scalars, **more)
    values = {n: x for n, x in made.values.items() if n in {p.name for p in program.params}}
    sizes = {"heads": 2, "layer": 0, "batch": 1, "sizes": made.sizes}
    return bind(program, made.q_len, made.k_len, **sizes, values=values)  # type: ignore[arg-type]


SOME = ("sliding_tile", "swin", "longformer", "bigbird", "dinat", "block_diffusion", "speculative_tree", "longnet")


@pytest.mark.parametrize(
    "name", [n if n.startswith(SOME) else pytest.param(n, marks=pytest.mark.slow) for n in gallery()]
)
def test_tiles_of_the_gallery_are_exact(name: str, tmp_path: Path) -> None:
    program = gallery()[name]
    try:
        binding = setting_of(program, length=96)
        module = load(write_standalone(program, binding.args), tmp_path / "gallery.py")
    except MaskcError as error:
        # An argument or a size cannot be made up, or kernels cannot compute it.
        assert error.codes[0] in ("E501", "E506", "E702"), error
        pytest.skip(str(error).split("\n")[0])
    found = module.tile_kinds(module.mask, given_of(binding), 0, 1, 8, 16, torch.device("cpu"))
    assert found.tolist() == kinds_of(dense(program, binding, 1, 0), 8, 16)

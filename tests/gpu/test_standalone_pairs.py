"""Gradients of position biases in standalone files: right in a process without maskc, against formulas in float64; the
same bits every time; every live tile once, a bounded number of pairs at a time."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from maskc.backends.triton.aot import Shape, compile_kernel
from maskc.backends.triton.configs import Config, parse_target, shared_memory
from maskc.backends.triton.pairs import JOBS, write_pairs
from maskc.backends.triton.spec import KernelSpec, specialised
from maskc.backends.triton.standalone import write_standalone
from maskc.backends.triton.standalone_gradients import learned_by
from maskc.lower import lower_text
from tests.gpu.conftest import ROOT
from tests.gpu.test_ahead_of_time import MATRIX
from tests.gpu.test_standalone import load

Tensor = torch.Tensor
#: Scores and which pairs are kept, from scaled products (batch, heads, queries, keys), positions of queries
#: (queries, 1) and keys, and tables.
Formula = Callable[[Tensor, Tensor, Tensor, dict[str, Tensor]], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Case:
    """A pattern, a call, and its formula. ``learn``: shapes of the inputs with gradients; ``tables``: the others."""

    text: str
    formula: Formula
    learn: dict[str, tuple[int, ...]]
    tables: dict[str, list[Any]] = field(default_factory=dict)
    args: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    batched: frozenset[str] = frozenset()
    shape: tuple[int, int, int, int, int] = (1, 2, 2, 40, 40)  # batch, heads, key heads, queries, keys
    layer: int = 0
    sink: str | None = None
    softmax: bool = True
    double: bool = False  # tables of 64 bits


EVERY = torch.ones((), dtype=torch.bool)
DOCUMENTS = [[i // 15 for i in range(40)], [i // 27 for i in range(40)]]


def relative(s: Tensor, q: Tensor, k: Tensor, t: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return s + t["bias"][:, k - q + 44], EVERY


def buckets_of_t5(s: Tensor, q: Tensor, k: Tensor, t: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """As in the paper's code, for 8 buckets and distances up to 20."""
    distance = (k - q).abs()
    far = 2 + (distance.clamp(min=1) / 2).log() / math.log(20 / 2) * 2
    bucket = 4 * (k > q) + torch.where(distance < 2, distance, far.floor().long().clamp(max=3))
    return s + t["bias"][:, bucket], (k < t["length"][:, None])[:, None, None]


def steps_of_a_grid(s: Tensor, q: Tensor, k: Tensor, t: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return s + t["table"][:, q // 9 - k // 9 + 4, q % 9 - k % 9 + 8], EVERY


def by_batch(s: Tensor, q: Tensor, k: Tensor, t: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    same = t["doc"][:, q] == t["doc"][:, None, k]
    return s + t["bias"][:, :, (q - k).clamp(min=0)], (same & (k <= q))[:, None]


def of_every_pair(s: Tensor, q: Tensor, k: Tensor, t: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return s + t["bias"], ((q - k).abs() <= 12) & (q % 3 > 0)


def together(s: Tensor, q: Tensor, k: Tensor, t: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    s = s + t["far"][(q - k).clamp(0, 15)] * t["gain"][:, None, None] + t["both"][q % 3, k % 3]
    return 4.0 * torch.tanh(s / 4.0), (q - k <= 9) & (k - q <= 4)


def by_head_and_layer(s: Tensor, q: Tensor, k: Tensor, t: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    kept = (k <= q) & (q - k < t["w"][:, None, None])
    return s + t["bias"][1][(q - k).clamp(0, 19)], kept


def in_order_of_words(s: Tensor, q: Tensor, k: Tensor, t: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return s + t["bias"][t["kind"][q], t["kind"][k]], k <= q


T5 = (ROOT / "examples" / "models" / "t5_encoder.mask").read_text(encoding="utf-8")
CASES = {
    "relative": Case(
        "pattern p(bias: float[head, 89]) { attend all\n score s + bias[h, k - q + 44] }",
        relative,
        {"bias": (4, 89)},
        shape=(1, 4, 2, 45, 45),
        double=True,
    ),
    "fewer-queries": Case(
        "pattern p(bias: float[head, 89]) { attend all\n score s + bias[h, k - q + 44] }",
        relative,
        {"bias": (2, 89)},
        shape=(1, 2, 1, 21, 45),
    ),
    "t5": Case(
        T5,
        buckets_of_t5,
        {"bias": (2, 8)},
        {"length": [17, 40]},
        args={"buckets": 8, "far": 20},
        shape=(2, 2, 2, 40, 40),
    ),
    "grid": Case(
        "pattern p(table: float[head, 9, 17]) over grid(y, x) { attend all\n"
        " score s + table[h, y[q] - y[k] + 4, x[q] - x[k] + 8] }",
        steps_of_a_grid,
        {"table": (2, 9, 17)},
        sizes={"y": 5, "x": 9},
        shape=(1, 2, 2, 45, 45),
    ),
    "by-batch": Case(
        "pattern p(doc: int[token], bias: float[head, 40]) { attend same(doc) & causal\n score s + bias[h, q - k] }",
        by_batch,
        {"bias": (2, 2, 40)},
        {"doc": DOCUMENTS},
        batched=frozenset({"doc", "bias"}),
        shape=(2, 2, 2, 40, 40),
    ),
    "every-pair": Case(
        "pattern p(bias: float[q, k]) { attend window(12, 12) & q % 3 > 0\n score s + bias[q, k] }",
        of_every_pair,
        {"bias": (21, 45)},
        shape=(2, 4, 2, 21, 45),
    ),
    "together": Case(
        "pattern p(far: float[16], both: float[3, 3], gain: float[head], sink: float[head]) { attend window(9, 4)\n"
        " score 4.0 * tanh((s + far[q - k] * gain[h] + both[q % 3, k % 3]) / 4.0)\n"
        " normalize softmax(sink = sink[h]) }",
        together,
        {"far": (16,), "both": (3, 3), "gain": (2,), "sink": (2,)},
        sink="sink",
    ),
    "by-head-and-layer": Case(
        "pattern p(w: int[head], bias: float[layer, 20]) { attend causal & q - k < w[h]\n"
        " score s + bias[layer, q - k]\n normalize sigmoid }",
        by_head_and_layer,
        {"bias": (3, 20)},
        {"w": [3, 30, 9]},
        shape=(1, 3, 1, 40, 40),
        layer=1,
        softmax=False,
    ),
    "by-kind": Case(
        "pattern p(kind: int[token], bias: float[3, 3]) { attend causal\n score s + bias[kind[q], kind[k]] }",
        in_order_of_words,
        {"bias": (3, 3)},
        {"kind": [i * i % 3 for i in range(33)]},
        shape=(1, 2, 2, 33, 33),
    ),
}

#: Runs every file of a list, some of them twice, in a process where maskc cannot be imported.
_DRIVER = """
import importlib.util, json, sys, warnings
sys.modules["maskc"] = None
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
sys.path.append(sys.argv[1])
from tests.gpu.faster import hurry
from tests.gpu.older import mend
hurry()
mend()
for name in json.load(open("names.json")):
    given = torch.load(f"{name}.pt")
    spec = importlib.util.spec_from_file_location("attention_file", f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.MOST_PAIRS, module.MOST_TILES = 1024, 2  # of the interpreter's tiles, which have 256
    leaves = [x.requires_grad_() for x in (*given["tensors"], *given["learned"].values())]
    tables = {**given["tables"], **dict(zip(given["learned"], leaves[3:]))}
    results = []
    for _ in range(1 + given["twice"]):
        out = module.attention(*leaves[:3], **given["options"], **tables)
        results.append([out.detach(), *torch.autograd.grad(out.square().sum(), leaves)])
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[-1])), name
    torch.save(results[0], f"{name}-out.pt")
assert not [m for m in sys.modules if m.startswith("maskc.")]
"""


def exact(case: Case, tensors: list[Tensor], learned: dict[str, Tensor], tables: dict[str, Tensor]) -> list[Tensor]:
    """The output and all gradients by the formula in float64."""
    leaves = [x.double().requires_grad_() for x in (*tensors, *learned.values())]
    q, k, v = leaves[:3]
    known = {**tables, **dict(zip(learned, leaves[3:], strict=True))}
    group = q.shape[1] // k.shape[1]
    products = q @ k.repeat_interleave(group, 1).transpose(2, 3) * 0.25
    columns = torch.arange(k.shape[2])
    rows = columns[-q.shape[2] :, None]
    scores, kept = case.formula(products, rows, columns, known)
    scores = torch.where(kept, scores, -torch.inf)
    if case.softmax:
        sink = known[case.sink] if case.sink else torch.full(q.shape[1:2], -torch.inf)
        some = torch.cat([scores, sink[:, None, None].expand(*scores.shape[:3], 1)], 3)
        empty = (some == -torch.inf).all(3, keepdim=True)
        weights = some.masked_fill(empty, 0.0).softmax(3)[..., :-1] * ~empty
    else:
        weights = scores.sigmoid()
    out = weights @ v.repeat_interleave(group, 1)
    return [out.detach(), *torch.autograd.grad(out.square().sum(), leaves)]


def test_gradients_are_right_and_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {}
    for name, case in CASES.items():
        generator = torch.Generator().manual_seed(0)
        batch, heads, kv_heads, q_len, k_len = case.shape
        shapes = [(batch, heads, q_len, 16), (batch, kv_heads, k_len, 16), (batch, kv_heads, k_len, 16)]
        tensors = [torch.randn(shape, generator=generator) for shape in shapes]
        learned = {n: torch.randn(shape, generator=generator) for n, shape in case.learn.items()}
        learned = {n: x.double() if case.double else x for n, x in learned.items()}
        tables = {n: torch.tensor(x) for n, x in case.tables.items()}
        text = write_standalone(lower_text(case.text)[0], case.args, batched=case.batched, learn=case.learn)
        (tmp_path / f"{name}.py").write_text(text)
        options = {"layer": case.layer, "sizes": case.sizes, "scale": 0.25}
        given = {"tensors": tensors, "learned": learned, "tables": tables, "options": options}
        given["twice"] = name in ("fewer-queries", "by-kind")
        torch.save(given, tmp_path / f"{name}.pt")
        wanted[name] = exact(case, tensors, learned, tables)
    (tmp_path / "names.json").write_text(json.dumps(list(wanted)))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    words = [sys.executable, "-c", _DRIVER, str(ROOT)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    wrong = {}
    for name, expected in wanted.items():
        names = ("out", "q", "k", "v", *CASES[name].learn)
        for what, a, b in zip(names, torch.load(tmp_path / f"{name}-out.pt"), expected, strict=True):
            error = float(((a - b).abs().max() / b.abs().max()).nan_to_num(torch.inf))
            if not error < 1e-5:
                wrong[name, what] = error
    assert wrong == {}


@dataclass
class Recorder:
    """In place of the kernel: what each program instance adds up, and blocks that say how much that is."""

    arg_names: tuple[str, ...]
    found: Counter[tuple[int, int, int]]

    def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
        def start(num_warps: int, num_stages: int, **given: Any) -> None:
            lists = {name: given[name].tolist() for name in JOBS}
            for i in range(*grid):
                members = lists["members"][lists["member_first"][i] : lists["member_last"][i]]
                tiles = slice(lists["tile_first"][i], lists["tile_last"][i])
                rows, columns = (lists[name][tiles] for name in ("tile_rows", "tile_columns"))
                assert 1 <= len(members) * len(rows) <= 64
                self.found.update((m, r, c) for m in members for r, c in zip(rows, columns, strict=True))
                given["table_0_ptr"][i] = len(members) * len(rows)

        return start


class Largest(TorchDispatchMode):
    """How many elements the largest tensor has."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(x, Tensor):
                self.most = max(self.most, x.untyped_storage().nbytes() // x.element_size())
        return out


@pytest.mark.parametrize("mask", ["", "& q - k < w[h]", "& same(doc)", "& same(doc) & q - k < w[h]"])
@pytest.mark.parametrize("place", ["q - k + 400", "q % 20 * 20 + k % 20", "h * 9 + q - k", "h * 9 + max(q, 2 * k)"])
@pytest.mark.parametrize("own", [False, True], ids=["one", "by-batch"])
def test_every_live_tile_once_and_few_pairs_at_a_time(mask: str, place: str, own: bool, tmp_path: Path) -> None:
    batch, heads, n, tile = 2, 3, 400, 16
    text = f"pattern p(w: int[head], doc: int[token], t: float[800]) {{ attend causal {mask}\n score s + t[{place}] }}"
    batched = frozenset({"doc", "t"} if own else {"doc"})
    module = load(write_standalone(lower_text(text)[0], {}, batched=batched, learn=["t"]), tmp_path / "file.py")
    w, doc = torch.tensor([5, 100, 999]), torch.stack([torch.arange(n) // 90, torch.arange(n) // 300])
    t = torch.zeros((batch, 800) if own else (800,))
    found: Counter[tuple[int, int, int]] = Counter()
    module.attention_pairs = Recorder(tuple(module.attention_pairs.arg_names), found)
    module.MOST_PAIRS = 40 * tile * tile
    given = {"q_len": n, "k_len": n, "offset": 0, "layer": 0, "heads": heads, "tables": {"w": w, "doc": doc, "t": t}}
    given["tables"] = {name: given["tables"][name] for name in module.TABLES}
    q = torch.zeros(batch, heads, n, 16)
    total = {"t": torch.zeros(t.shape, dtype=torch.float64)}
    module.plan(given, batch, heads, tile, tile, q.device, False)
    values = {"do_ptr": q, "level_ptr": None, "delta_ptr": None, "q_ptr": q, "k_ptr": q, "v_ptr": q, "scale": 1.0}
    with Largest() as largest:
        module.pull_pairs(total, given, values, q, q, q)
    i, j = torch.arange(n)[:, None], torch.arange(n)
    kept = (j <= i).expand(batch, heads, n, n)
    kept = kept & (i - j < w[:, None, None]) if "w" in mask else kept
    kept = kept & (doc[:, :, None] == doc[:, None])[:, None] if "doc" in mask else kept
    live = kept.unflatten(3, (-1, tile)).unflatten(2, (-1, tile)).any(5).any(3).flatten(0, 1)
    assert found == Counter(map(tuple, live.nonzero().tolist()))
    assert int(total["t"].sum()) == tile * tile * int(live.sum())
    # Blocks, beside zeros where they are summed along diagonals; q has fewer elements.
    assert largest.most <= 2 * module.MOST_PAIRS < batch * heads * n * n / 16


@pytest.mark.parametrize(
    ("name", "dim"),
    [("t5", 128), ("together", 64), *(pytest.param("grid", d, marks=pytest.mark.slow) for d in (64, 128))],
)
def test_kernels_compile_for_hopper(name: str, dim: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the tiles of the file, without spilling; the file holds their text."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    case, target = CASES[name], parse_target("cuda:90")
    program = lower_text(case.text)[0]
    file = write_standalone(program, case.args, target, case.batched, learn=case.learn)
    spec = KernelSpec(specialised(program, case.args), case.batched, steady=True, cleared=False)
    kernel = write_pairs(learned_by(spec, case.learn)[0])
    assert kernel.function in file
    chosen = Config(*load(file, tmp_path / "file.py").TILES["pairs", dim])
    for ragged in (False, True):
        found = compile_kernel(kernel, program, target, chosen, Shape(head_dim=dim, value_dim=dim, ragged=ragged))
        assert found.shared <= shared_memory(target)
        assert found.spilled == 0
        assert MATRIX["cuda:90"] in found.tensor_cores


def test_places_along_diagonals_are_found() -> None:
    """Where a place is a function of the difference, nothing is scattered pair by pair."""
    expected = {"relative": {"bias": True}, "t5": {"bias": True}, "grid": {"table": False}}
    for name, of in {**expected, "together": {"far": True, "both": False}}.items():
        case = CASES[name]
        file = write_standalone(lower_text(case.text)[0], case.args, batched=case.batched, learn=case.learn)
        found = re.findall(r'^    \("(\w+)", places_\d, (True|False)\),$', file, re.MULTILINE)
        assert dict(found) == {name: str(along) for name, along in of.items()}


def test_inputs_that_need_no_gradient_cost_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["relative"]
    module = load(write_standalone(lower_text(case.text)[0], {}, learn=["bias"]), tmp_path / "file.py")
    calls: list[Any] = []
    monkeypatch.setattr(module, "run", lambda *given: None)
    monkeypatch.setattr(module, "pull_pairs", lambda *given: calls.append(given))
    q, bias = torch.zeros(1, 2, 8, 16, requires_grad=True), torch.zeros(2, 89)
    module.attention(q, q, q, bias=bias).sum().backward()
    assert len(calls) == 0
    module.attention(q, q, q, bias=bias.requires_grad_()).sum().backward()
    assert len(calls) == 1

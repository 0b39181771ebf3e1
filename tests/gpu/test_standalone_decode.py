"""Decoding by standalone files: what the loop over entries gives in float64, of dense caches and of pages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskc.backends.triton.configs import Config, config, parse_target
from maskc.backends.triton.standalone import write_standalone
from maskc.lower import lower_text
from maskc.tiles.extents import find_extents
from tests.gpu.test_standalone import load
from tests.serving.calls import CASES, Call, make

Tensor = torch.Tensor

#: Runs ``decode`` of every file named in a list, in a process where maskc cannot be imported.
_DRIVER = """
import importlib.util, json, sys, warnings
sys.modules["maskc"] = None
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
for name in json.load(open("names.json")):
    given = torch.load(f"{name}.pt")
    spec = importlib.util.spec_from_file_location("attention_file", f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    options = {**given["options"], "return_lse": module.SOFTMAX}
    found = {}
    for layout in ("dense", "paged"):
        result = module.decode(given["q"], *given[layout], **options)
        found[layout] = result if module.SOFTMAX else (result, None)
    torch.save(found, f"{name}-out.pt")
assert not [m for m in sys.modules if m.startswith("maskc.")]
"""

FEW = ["shorter-than-queries", "documents-batch", "by-query", "batched-gate", "sigmoid", "image", "cross"]
FEW += ["gone-documents"]


def write_call(name: str, made: Call, path: Path) -> None:
    case, program = made.case, made.op.program
    args = {p.name: case.args[p.name] for p in program.params if p.is_scalar and p.name in case.args}
    tables = {n: torch.as_tensor(np.asarray(x)) for n, x in ({**case.args, **made.inputs}).items() if n not in args}
    batched = frozenset(n for n, x in tables.items() if x.ndim > len(program.parameter(n).domain))
    (path / f"{name}.py").write_text(write_standalone(program, args, batched=batched, decode=True))
    rows = (case.rows if program.cross else min(case.rows, n) for n in case.lengths)
    each = [find_extents(program, r, n, case.sizes) for r, n in zip(rows, case.lengths, strict=True)]
    sizes = {n: torch.tensor([sizes[n] for sizes in each]) for n in each[0]}
    read = load((path / f"{name}.py").read_text(), path / f"{name}_read.py").SIZES
    options = {"sizes": {n: x for n, x in sizes.items() if n in read}, "tables": tables, "layer": case.layer}
    options["start"] = made.start
    given = {"q": made.q, "options": options, "dense": (made.k, made.v, made.lengths)}
    torch.save(given | {"paged": (made.k_pages, made.v_pages, made.lengths, made.table)}, path / f"{name}.pt")


@pytest.mark.parametrize(
    "names", [FEW, pytest.param([n for n in CASES if n not in FEW], marks=pytest.mark.slow)], ids=["few", "others"]
)
def test_decoding_without_maskc(names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {name: make(CASES[name]) for name in names}
    for name, call in made.items():
        write_call(name, call, tmp_path)
    (tmp_path / "names.json").write_text(json.dumps(names))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    words = [sys.executable, "-c", _DRIVER]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for name, call in made.items():
        wanted, found = call.wanted(), torch.load(tmp_path / f"{name}-out.pt")
        for layout, (out, lse) in found.items():
            torch.testing.assert_close(out.double(), wanted[0], rtol=1e-5, atol=1e-5, msg=f"{name}, {layout}")
            if lse is not None:
                torch.testing.assert_close(lse.double(), wanted[1], rtol=1e-5, atol=1e-5, msg=f"{name}, {layout}")


_LONG = """
import sys
sys.modules["maskc"] = None
import torch
import window
torch.manual_seed(0)
q, k, v = (torch.randn(2, heads, n, 16).requires_grad_() for heads, n in ((4, 3), (2, 1030), (2, 1030)))
decoded, run_cached = [], window.run_cached
window.run_cached = lambda *given: decoded.append(len(given)) or run_cached(*given)
out = window.attention(q, k, v)
distance = torch.arange(1027, 1030)[:, None] - torch.arange(1030)
keep = (distance >= 0) & (distance < 20)
same = [x.detach().double().requires_grad_() for x in (q, k, v)]
wanted = torch.nn.functional.scaled_dot_product_attention(*same, attn_mask=keep, enable_gqa=True)
torch.testing.assert_close(out.double(), wanted, rtol=1e-5, atol=1e-5)
out.square().sum().backward()
wanted.square().sum().backward()
for a, b in zip((q, k, v), same, strict=True):
    torch.testing.assert_close(a.grad.double(), b.grad, rtol=1e-4, atol=1e-5)
assert len(decoded) == 1
window.attention(q, k[:, :, :1000], v[:, :, :1000])
assert len(decoded) == 1
for start in (0, 500, 1027):
    distance = start + torch.arange(3)[:, None] - torch.arange(1030)
    keep = (distance >= 0) & (distance < 20)
    wanted = torch.nn.functional.scaled_dot_product_attention(*same, attn_mask=keep, enable_gqa=True)
    out = window.attention(q, k, v, q_start=start)
    torch.testing.assert_close(out.double(), wanted, rtol=1e-5, atol=1e-5)
assert len(decoded) == 4
"""


_VIEWS = """
import sys
sys.modules["maskc"] = None
import torch
import views
torch.manual_seed(0)
q, k, v = torch.randn(2, 2, 1, 16), torch.randn(2, 2, 12, 16), torch.randn(2, 2, 12, 16)
every = torch.tensor([[11, 2, 3, 6], [7, 1, 4, 5]])
for lengths, start, text in (
    (every[:, 0], every[:, 1], every[:, 2]),
    (every[:1, 0].expand(2), every[:1, 1].expand(2), every[:1, 2].expand(2)),
):
    out = views.decode(q, k, v, lengths, start=start, sizes={"text": text}, scale=torch.tensor(0.5))
    for b in range(2):
        n, first = int(lengths[b]), int(start[b])
        at = torch.arange(first, n)
        keep = ((at < int(text[b])) | (at > n - 3)).expand(1, -1)
        found = torch.nn.functional.scaled_dot_product_attention(
            *(x[b].double() for x in (q, k[:, :, : n - first], v[:, :, : n - first])), attn_mask=keep, scale=0.5
        )
        torch.testing.assert_close(out[b].double(), found, rtol=1e-5, atol=1e-5)
"""


def test_lengths_may_be_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns of a table, or one number expanded: kernels read them one after another. So may a scale be a tensor."""
    text = "pattern p over text ++ rest { attend k in text | (k <= q & q - k < 2) }"
    (tmp_path / "views.py").write_text(write_standalone(lower_text(text)[0], {}, decode=True))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    words = [sys.executable, "-c", _VIEWS]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


_BEYOND = """
import sys
sys.modules["maskc"] = None
import torch
import window
torch.manual_seed(0)
q, k, v = torch.randn(2, 2, 1, 16), torch.randn(2, 2, 12, 16), torch.randn(2, 2, 12, 16)
wanted = torch.nn.functional.scaled_dot_product_attention(q, k[:, :, 1:5], v[:, :, 1:5])
for length in (2**31 - 1, 2**32 + 5, 2**62 + 5):
    for start in (None, [0, 0]):
        out = window.decode(q, k, v, [length, 5], start=start)
        assert out[0].isnan().all(), length
        torch.testing.assert_close(out[1], wanted[1])
    assert not window.decode(q, k, v, [-length, -5]).any()
    assert not window.decode(q, k, v, [5, 5], start=[length, 6]).any()
for given in ((k[:0], v[:0], []), (k.transpose(1, 2), v.transpose(1, 2), [], torch.zeros(0, 3, dtype=torch.int32))):
    out, lse = window.decode(q[:0], *given, return_lse=True)
    assert (out.shape, lse.shape) == ((0, 2, 1, 16), (0, 2, 1))
"""


def test_lengths_that_32_bits_do_not_hold_and_no_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a length is beyond every cache: nobody takes its lower bits for it."""
    (tmp_path / "window.py").write_text(write_standalone(lower_text("sliding_window(4)")[0], {}, decode=True))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    words = [sys.executable, "-c", _BEYOND]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_few_queries_over_many_keys_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernels find the tiles by themselves; gradients follow as ever."""
    (tmp_path / "window.py").write_text(write_standalone(lower_text("sliding_window(20)")[0], {}, decode=True))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    words = [sys.executable, "-c", _LONG]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    documents = "pattern p(doc: int[token]) { attend causal & same(doc) }"
    for text, few in (("causal", True), (documents, False)):
        file = write_standalone(lower_text(text)[0], {}, decode=True)
        assert ("too few rows to keep a GPU busy" in file) is few
    assert "def decode" not in write_standalone(lower_text("causal")[0], {})


def test_tiles_are_those_of_decoding(tmp_path: Path) -> None:
    chip = parse_target("cuda:90")
    module = load(write_standalone(lower_text("causal")[0], {}, chip, decode=True), tmp_path / "tiles.py")
    for tiles, dtype in ((module.TILES, "bfloat16"), (module.TILES_OF_FLOAT32, "float32")):
        found = {width: tile for (stage, width), tile in tiles.items() if stage == "decode"}
        assert {w: Config(*tile) for w, tile in found.items()} == {
            w: config("decode", chip, w, dtype) for w in (64, 128, 256)
        }


def test_caches_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    text = "pattern p(doc: int[token], gate: float[head]) { attend same(doc) & causal; output o * gate[h] }"
    module = load(write_standalone(lower_text(text)[0], {}, decode=True), tmp_path / "refused.py")
    q, cache = torch.zeros(2, 4, 3, 16), torch.zeros(2, 2, 40, 16)
    pages, table = torch.zeros(7, 8, 2, 16), torch.zeros(2, 5, dtype=torch.int32)
    tables = {"doc": torch.zeros(40, dtype=torch.int64), "gate": torch.ones(4)}

    def refused(why: str, *given: Any, kind: type[Exception] = ValueError, **more: Any) -> None:
        with pytest.raises(kind, match=why):
            module.decode(*given, **{**tables, **more})

    refused(r"lengths of shape \(B\)", q, cache, cache, [40])
    refused("lengths to be int32 or int64", q, cache, cache, torch.ones(2))
    refused(r"decode\(\) takes no w", q, cache, cache, [40, 3], kind=TypeError, w=table)
    refused(r"k_cache \(B, Hk, capacity, D\)", q, cache[:1], cache[:1], [40, 3])
    refused(r"k_cache pages \(pages, keys, Hk, D\)", q, pages, pages[:, :4], [40, 3], table)
    refused(r"block_table of shape \(B, most pages\)", q, pages, pages, [40, 3], table[:1])
    refused("block_table to be int32 or int64", q, pages, pages, [40, 3], table.float())
    refused("in groups of key heads", q[:, :3], cache, cache, [40, 3])
    refused("of one dtype", q.double(), cache, cache, [40, 3])
    refused("interpreter computes bfloat16 wrongly", *(x.bfloat16() for x in (q, cache, cache)), [40, 3])
    refused(r"'gate' of shape \[4\]", q, cache, cache, [40, 3], gate=torch.ones(3))
    refused("computes no gradient, of q: call it", q.clone().requires_grad_(), cache, cache, [40, 3])
    with pytest.raises(TypeError, match=r"decode\(\) needs doc, gate"):
        module.decode(q, cache, cache, [40, 3])
    with pytest.raises(TypeError, match="expected tensors"):
        module.decode(q, [0], cache, [40, 3], **tables)
    empty = module.decode(q[:, :, :0], cache, cache, [40, 3], **tables)
    assert empty.shape == (2, 4, 0, 16)
    sigmoid = lower_text("pattern p { attend causal; normalize sigmoid }")[0]
    module = load(write_standalone(sigmoid, {}, decode=True), tmp_path / "sigmoid.py")
    with pytest.raises(ValueError, match="no log-sum-exp"):
        module.decode(q, cache, cache, [40, 3], return_lse=True)

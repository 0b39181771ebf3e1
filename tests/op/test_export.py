"""``torch.export``: one graph for all lengths and batch sizes, which can be stored."""

from __future__ import annotations

import gc
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.export import Dim
from torch.fx.experimental.proxy_tensor import make_fx

import maskc
from maskc.backends.finding import find_source
from maskc.nn import Attention

Tensor = torch.Tensor
DOCS = "pattern p(doc: int[token], t: float[head]) { attend same(doc) & causal; score s * t[h] }"
GRID = "pattern p over grid(y, x) { attend window(1, 1) on y }"
holds_ops = pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="graphs of torch 2.6 hold no ops")


class Layer(torch.nn.Module):
    def __init__(self, text: str, **options: Any) -> None:
        super().__init__()
        self.op = maskc.compile(text, heads=4, **options)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, doc: Tensor, t: Tensor) -> Any:
        return self.op(q, k, v, doc=doc, t=t, return_lse=True)


class Grid(Layer):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Any:  # type: ignore[override]
        return self.op(q, k, v, sizes={"x": q.shape[2] // 4})


class Step(Layer):
    def forward(self, q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Any:  # type: ignore[override]
        return self.op.decode(q, k, v, lengths)


def tensors(n: int = 16, batch: int = 3, queries: int | None = None) -> list[Tensor]:
    return [torch.randn(batch, 4, x, 8) for x in (n if queries is None else queries, n, n)]


N, B = Dim("n", min=2, max=4096), Dim("b", min=2, max=64)


@pytest.mark.parametrize("strict", [False, True])
def test_lengths_and_batch_sizes(strict: bool) -> None:
    layer = Layer(DOCS)
    shapes = (*({0: B, 2: N},) * 3, {0: N}, None)
    given = (*tensors(), torch.arange(16) // 5, torch.rand(4))
    exported = torch.export.export(layer, given, dynamic_shapes=shapes, strict=strict)
    for n, batch in ((24, 2), (33, 5)):
        more = (*tensors(n, batch), torch.arange(n) // 7, torch.rand(4))
        torch.testing.assert_close(exported.module()(*more), layer(*more))


def test_modules_with_gradients() -> None:
    module = Attention(32, 4, "sliding_window(5)")
    shapes = ({0: B, 1: N},)
    exported = torch.export.export(module, (torch.randn(3, 16, 32),), dynamic_shapes=shapes, strict=False).module()
    x = torch.randn(5, 33, 32, requires_grad=True)
    torch.testing.assert_close(*(torch.autograd.grad(run(x).sin().sum(), x) for run in (exported, module)))


def test_extents_that_follow_from_a_length() -> None:
    layer = Grid(GRID)
    exported = torch.export.export(layer, tuple(tensors()), dynamic_shapes=({2: 4 * N},) * 3, strict=False)
    for n in (20, 32):
        x = tensors(n)
        torch.testing.assert_close(exported.module()(*x), layer(*x))


def test_decoding() -> None:
    layer, given = Step("causal"), (*tensors(queries=1), torch.tensor([3, 16, 5]))
    shapes = ({0: B}, {0: B, 2: N}, {0: B, 2: N}, {0: B})
    exported = torch.export.export(layer, given, dynamic_shapes=shapes, strict=False)
    more = (*tensors(40, 2, queries=1), torch.tensor([40, 1]))
    torch.testing.assert_close(exported.module()(*more), layer(*more))


def test_a_graph_finds_an_equal_op_and_no_other() -> None:
    op, x = maskc.compile(GRID, heads=4, sizes={"x": 4}), tensors()
    wanted, graph = op(*x), make_fx(op, tracing_mode="fake")(*tensors())
    del op
    gc.collect()
    others: list[object] = [maskc.compile(GRID, heads=4, sizes={"x": 4}, layer=1)]
    others.append(maskc.compile(GRID.replace("1, 1", "1, 2"), heads=4, sizes={"x": 4}))
    with pytest.raises(RuntimeError, match="compile the same pattern again"):
        graph(*x)
    others.append(maskc.compile(GRID, heads=4, sizes={"x": 4}))
    torch.testing.assert_close(graph(*x), wanted)


STORED = """
pattern p(doc: int[token], t: float[head], w: int[head], n: float, kind: {near, far} = near) {
    attend causal & same(doc) & match kind { near: sliding_window(w[h]); far: all }
    score s * t[h] * n
}
"""


@holds_ops
@pytest.mark.parametrize("strict", [False, True])
def test_a_stored_graph_makes_its_op_again(strict: bool) -> None:
    given = (*tensors(), torch.arange(16) // 5, torch.rand(4))
    more: dict[str, Any] = {"w": np.array([3, 4, 5, 6]), "n": 0.25, "kind": "near", "t": torch.ones(4)}
    layer = Layer(STORED, layer=np.int64(3), budget=10**9, **more)
    wanted, stored = layer(*given), io.BytesIO()
    torch.export.save(torch.export.export(layer, given, strict=strict), stored)
    del layer
    gc.collect()
    stored.seek(0)
    program = torch.export.load(stored)
    q = given[0].clone().requires_grad_()
    for _ in range(2):
        torch.testing.assert_close(program.module()(*given), wanted)
    program.module()(q, *given[1:])[0].sum().backward()
    torch.testing.assert_close(q.grad, torch.autograd.grad(Layer(STORED, **more)(q, *given[1:])[0].sum(), q)[0])


@holds_ops
def test_what_a_graph_says_of_its_op_is_not_edited() -> None:
    exported = torch.export.export(Step("causal"), (*tensors(queries=1), torch.tensor([3, 16, 5])), strict=False)
    (node,) = (n for n in exported.graph.nodes if n.target is torch.ops.maskc.decode.default)
    (named,) = (x for x in node.args if isinstance(x, str))
    del exported, node
    gc.collect()
    assert find_source(named).source.layer == 0
    with pytest.raises(RuntimeError, match="the graph was edited or damaged"):
        find_source(named.replace("mask-", "mask-0").replace('"layer": 0', '"layer": 1'))


ELSEWHERE = """
import sys, torch, maskc.op
(given, wanted), graph = torch.load(sys.argv[1]), torch.export.load(sys.argv[2]).module()
torch.testing.assert_close(graph(*given), wanted)
"""


@holds_ops
def test_a_stored_graph_runs_in_another_process(tmp_path: Path) -> None:
    layer, given = Step("causal"), (*tensors(queries=1), torch.tensor([3, 16, 5]))
    torch.save((given, layer(*given)), tmp_path / "given.pt")
    torch.export.save(torch.export.export(layer, given, strict=False), tmp_path / "graph.pt2")
    command = [sys.executable, "-c", ELSEWHERE, str(tmp_path / "given.pt"), str(tmp_path / "graph.pt2")]
    subprocess.run(command, check=True)


def test_handles_are_the_same_in_every_process() -> None:
    code = f"import maskc; print(maskc.compile({DOCS!r}, heads=4, layer=2).handle)"
    said = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    one, other = (x.stdout.split()[-1] for x in said)
    assert one == other
    alive = [maskc.compile(DOCS, heads=4, layer=2) for _ in range(2)]
    content = one.rpartition(".")[0]
    assert {op.handle.rpartition(".")[0] for op in alive} == {content}
    assert alive[0].handle != alive[1].handle
    for options in ({"layer": 3}, {"layer": 2, "layout": "auto"}, {"layer": 2, "backend": "cpu"}, {"check": True}):
        assert maskc.compile(DOCS, heads=4, **options).handle.rpartition(".")[0] != content

"""The operators under torch's own checks, compilers, threads and processes."""

from __future__ import annotations

import multiprocessing
import threading
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import maskc
from maskc.backends import library
from maskc.backends.handles import handle_of
from tests.cpu.calls import case

TEXT = """pattern p(doc: int[token], slope: float[head]) {
    attend causal & same(doc)
    score s + slope[h] * (q - k)
}"""


class Layer(torch.nn.Module):
    def __init__(self, text: str = TEXT) -> None:
        super().__init__()
        self.op = maskc.compile(text, heads=2, backend="cpu")
        self.slope = torch.nn.Parameter(torch.tensor([0.1, -0.2]))

    def forward(self, q: Any, k: Any, v: Any, doc: Any) -> Any:
        out, lse = self.op(q * 2, k, v, doc=doc, slope=self.slope, return_lse=True)
        return out + lse[..., None]


def tensors(n: int = 40) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    return *(torch.randn(1, 2, n, 16, requires_grad=True) for _ in range(3)), torch.arange(n) // 9


def all_gradients(layer: Any, parameter: torch.Tensor, given: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    return [*torch.autograd.grad(layer(*given).sin().sum(), [*given[:3], parameter])]


def close(a: list[torch.Tensor], b: list[torch.Tensor]) -> None:
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y)


OPCHECKED = [
    ("causal", {}),
    ("pattern p(t: float[head]) {\n attend sliding_window(9)\n score s * t[h]\n output o * t[h]\n}", {"t": (2,)}),
]


@pytest.mark.parametrize(("text", "floats"), OPCHECKED)
def test_opcheck(text: str, floats: dict[str, tuple[int, ...]]) -> None:
    one = case(text, 20, heads=2, kv_heads=1, batch=1, dtype=torch.float32, floats=floats)
    given = (one.q, one.k, one.v, list(one.floats.values()), handle_of(one.entry), None, 0.25)
    torch.library.opcheck(library.attention, given)


@pytest.mark.parametrize(
    "text",
    [
        "sliding_window(5)",
        "causal & q != 3",
        "pattern p(t: float[head], g: float[q]) {\n attend sliding_window(5)\n score s + t[h] * (q - k)\n"
        " normalize softmax(sink = t[h])\n output o * g[q]\n}",
        "pattern p(t: float[head], g: float[q]) {\n attend causal\n score t[h] * s * g[q]\n normalize sigmoid\n}",
    ],
)
def test_gradcheck(text: str) -> None:
    floats = {"t": (2,), "g": (9,)} if text.startswith("pattern") else {}
    one = case(text, 9, heads=2, kv_heads=1, batch=1, dim=3, floats=floats)
    handle = handle_of(one.entry)
    every = one.entry.program.normalizer.kind == "softmax" and "q !=" not in text  # an empty row's is not finite

    def run(q: Any, k: Any, v: Any, *given: Any) -> Any:
        return library.attention(q, k, v, list(given), handle, None, 0.5)[: 2 if every else 1]

    assert torch.autograd.gradcheck(run, one.leaves)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_in_one_graph(dynamic: bool) -> None:
    layer = Layer()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for n in (40, 56):
        given = tensors(n)
        torch.testing.assert_close(compiled(*given), layer(*given))
        close(all_gradients(compiled, layer.slope, given), all_gradients(layer, layer.slope, given))
    other = (*given[:3], torch.arange(56) // 5)  # another input: no plan is baked into the graph
    torch.testing.assert_close(compiled(*other), layer(*other))


def test_export() -> None:
    layer, given = Layer(), tensors()
    exported = torch.export.export(layer, given).module()
    torch.testing.assert_close(exported(*given), layer(*given))


def test_activation_checkpointing() -> None:
    layer, given = Layer(), tensors()
    again = lambda *x: checkpoint(layer, *x, use_reentrant=False)  # noqa: E731
    close(all_gradients(again, layer.slope, given), all_gradients(layer, layer.slope, given))


def test_vmap() -> None:
    layer = Layer()
    q, k, v, doc = (x.detach() for x in tensors())
    many = torch.stack([q, 2 * q, -q])
    out = torch.func.vmap(lambda one: layer.op(one, k, v, doc=doc, slope=layer.slope.detach()))(many)
    for one, found in zip(many, out, strict=True):
        torch.testing.assert_close(found, layer.op(one, k, v, doc=doc, slope=layer.slope.detach()))


def test_only_inputs_that_need_a_gradient_get_one() -> None:
    op = maskc.compile(
        "pattern p(gain: float[head], bias: float[head, 9]) { attend causal\n score s * gain[h] + bias[h, q - k] }",
        heads=2,
        backend="cpu",
    )
    q, k, v, _ = tensors(12)
    gain, bias = torch.randn(2, requires_grad=True), torch.randn(2, 9)
    op(q, k, v, gain=gain, bias=bias).sum().backward()
    whole = torch.autograd.grad(op(q, k, v, gain=gain, bias=bias.requires_grad_()).sum(), [q, gain])
    assert bias.grad is None
    assert q.grad is not None
    assert gain.grad is not None
    close([q.grad, gain.grad], [*whole])
    given = maskc.compile("pattern p(bias: float[head]) { attend all\n score s + bias[h] * k }", heads=2, backend="cpu")
    entry, _ = given.entry_of(q, k, v, {"bias": torch.ones(2)}, {})
    out, lse, _ = entry.forward(q, k, v, [torch.ones(2)], 0.25)
    grads = entry.backward(q, k, v, [torch.ones(2)], out, lse, out, None, 0.25, [False])
    assert not grads[3][0].any()


def test_double_backward_is_refused() -> None:
    q, k, v, doc = tensors()
    (grad,) = torch.autograd.grad(Layer()(q, k, v, doc).sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once"):
        grad.sum().backward()


def test_a_graph_that_outlives_its_op_says_so() -> None:
    q, k, v, _ = tensors()
    with pytest.raises(RuntimeError, match="no longer exists"):
        library.attention(q, k, v, [], "0.0", None, 1.0)


def test_backward_after_many_other_plans() -> None:
    op = maskc.compile("sliding_window(5)", heads=2, backend="cpu")
    q, k, v, _ = tensors()
    out = op(q, k, v)
    for n in range(1, 70):  # more than are remembered
        op(*(torch.randn(1, 2, n, 4) for _ in range(3)))
    assert len(op.compiled._memory) <= 32
    (grad,) = torch.autograd.grad(out.sum(), q)
    (wanted,) = torch.autograd.grad(op(q, k, v).sum(), q)
    assert torch.equal(grad, wanted)


def test_threads() -> None:
    layer = Layer()
    given = {n: tensors(n) for n in range(20, 60, 5)}
    wanted = {n: layer(*x) for n, x in given.items()}
    wrong: list[int] = []

    def work() -> None:
        for n, x in given.items():
            if not torch.equal(layer(*x), wanted[n]):
                wrong.append(n)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def _child(queue: Any, layer: Layer, given: Any) -> None:
    torch.set_num_threads(1)
    queue.put(layer(*given).detach().sum().item())


def test_after_fork() -> None:
    layer, given = Layer(), tuple(x.detach() for x in tensors())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        wanted = layer(*given).detach().sum().item()
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        child = context.Process(target=_child, args=(queue, layer, given))
        child.start()
        assert queue.get(timeout=60) == wanted
        child.join()
    finally:
        torch.set_num_threads(threads)


class Samples(torch.utils.data.Dataset[torch.Tensor]):
    """Attention computed where a sample is made."""

    def __init__(self, layer: Layer, given: tuple[torch.Tensor, ...]) -> None:
        self.layer, self.given = layer, given

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        q, *rest = self.given
        found: torch.Tensor = self.layer(q * index, *rest)
        return found.detach()


def test_in_workers_of_a_data_loader() -> None:
    samples = Samples(Layer(), tuple(x.detach() for x in tensors()))
    found = [*torch.utils.data.DataLoader(samples, batch_size=None, num_workers=2, multiprocessing_context="fork")]
    for index, one in enumerate(found):
        torch.testing.assert_close(one, samples[index])

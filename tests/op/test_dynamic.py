"""One graph of torch.compile serves all lengths, batch sizes, extents and head dimensions: nothing is traced again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import maskc
from maskc.backends import library
from maskc.backends.handles import name_call
from maskc.nn import Attention

Tensor = torch.Tensor
LENGTHS = (16, 24, 40, 33)


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()


def tensors(n: int, keys: int | None = None, batch: int = 3, dim: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n)
    lengths = (n, *[n if keys is None else keys] * 2)
    return [torch.randn(batch, 4, x, dim, generator=generator).requires_grad_() for x in lengths]


def graphs(
    work: Callable[..., Tensor], calls: Iterable[list[Any]], mark: Iterable[tuple[int, int]] = (), **options: Any
) -> int:
    """How many graphs the calls of ``work`` make, which give what they give outside, gradients included."""
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(work, fullgraph=True, backend=counter, **options)
    for given in calls:
        for place, dim in mark:
            torch._dynamo.mark_dynamic(given[place], dim)
        found, wanted = compiled(*given), work(*given)
        torch.testing.assert_close(found, wanted)
        leaves = [x for x in given if isinstance(x, Tensor) and x.requires_grad]
        if leaves:
            one, other = (torch.autograd.grad(x.sin().sum(), leaves) for x in (found, wanted))
            torch.testing.assert_close(one, other)
    return int(counter.frame_count)


def given(text: str, n: int) -> list[Any]:
    """Values of the one input that the pattern declares, if it declares one, for ``n`` tokens."""
    generator = torch.Generator().manual_seed(n)
    shapes = {"[q]": (n,), "[head]": (4,), "[head, q, k]": (4, n, n)}
    if "doc:" in text:
        return [torch.arange(n) // 5]
    found = next((shape for domain, shape in shapes.items() if f"float{domain}" in text), None)
    return [] if found is None else [torch.randn(found, generator=generator).requires_grad_()]


@pytest.mark.parametrize(
    "text",
    [
        "sliding_window(8) | sinks(2)",
        "pattern p(x: float[head]) { attend causal; normalize softmax(sink = x[h]) }",
        "pattern p(x: float[head, q, k]) { attend causal; score s + x[h, q, k]; normalize sigmoid }",
        "pattern p(x: float[q]) { attend causal; output o * x[q] }",
        "pattern p(doc: int[token]) { attend same(doc) & causal }",
    ],
)
def test_lengths(text: str) -> None:
    op = maskc.compile(text, heads=4)
    name = "doc" if "doc:" in text else "x"

    def work(q: Tensor, k: Tensor, v: Tensor, *more: Tensor) -> Tensor:
        return op(q, k, v, inputs={name: more[0]} if more else {})

    calls = [[*tensors(n), *given(text, n)] for n in LENGTHS]
    assert graphs(work, calls, dynamic=True) == 1
    assert op.cache_info().misses == len(LENGTHS)  # a plan for each length, shared by all calls


def test_the_second_length_makes_lengths_dynamic() -> None:
    op = maskc.compile("causal", heads=4)
    assert graphs(lambda *x: op(*x, return_lse=True)[1], [tensors(n) for n in LENGTHS]) == 2
    assert graphs(Attention(32, 4, "causal"), [[torch.randn(2, n, 32)] for n in LENGTHS]) == 2


def test_batch_sizes_and_lengths_that_are_marked() -> None:
    op = maskc.compile("sliding_window(5)", heads=4)
    every = [(i, dim) for i in range(3) for dim in (0, 2)]
    sizes = ((16, 3), (24, 5), (40, 2), (33, 4))
    assert graphs(lambda *x: op(*x), [tensors(n, batch=b) for n, b in sizes], every) == 1
    assert graphs(lambda *x: op(*x), [tensors(16, batch=b) for b in (3, 5, 2)], [(i, 0) for i in range(3)]) == 1


def test_queries_over_keys_of_one_length() -> None:
    op = maskc.compile("sliding_window(5)", heads=4)
    assert graphs(lambda *x: op(*x), [tensors(n, keys=64) for n in (3, 5, 2, 64)], [(0, 2)]) == 1


def test_lengths_of_which_nothing_is_known() -> None:
    op = maskc.compile("causal", heads=4)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda *x: op(*x), fullgraph=True, backend=counter)
    for n, batch in ((16, 3), (1, 1), (5, 2)):  # 1 among them, of which torch makes a graph of its own otherwise
        x = tensors(n, batch=batch)
        for one in x:
            torch._dynamo.decorators.mark_unbacked(one, 0)
            torch._dynamo.decorators.mark_unbacked(one, 2)
        torch.testing.assert_close(compiled(*x), op(*x))
    assert counter.frame_count == 1


def test_head_dimensions() -> None:
    op = maskc.compile("causal", heads=4)  # the usual scale is of the dimension, and so no number that a graph holds
    assert graphs(lambda *x: op(*x), [tensors(16, dim=dim) for dim in (8, 12, 20)], dynamic=True) == 1


def test_scales() -> None:
    op = maskc.compile("causal", heads=4)
    calls = [[*tensors(16), scale] for scale in (0.1, 0.2, 0.3)]
    made = graphs(lambda q, k, v, scale: op(q * scale, k, v, scale=1.0), calls, dynamic=True)
    assert made <= 2  # in older versions of torch once of a number


GRID = "pattern p over grid(y, x) { attend window(1, 1) on y & window(0, 2) on x }"


def test_extents() -> None:
    op = maskc.compile(GRID, heads=4)
    calls = [tensors(4 * x) for x in (4, 6, 10, 7)]
    assert graphs(lambda q, k, v: op(q, k, v, sizes={"x": q.shape[2] // 4}), calls, dynamic=True) == 1
    more = [[*tensors(3 * x), x] for x in (4, 6, 10, 7)]
    assert graphs(lambda q, k, v, x: op(q, k, v, sizes={"x": x, "y": 3}), more, dynamic=True) == 1
    assert graphs(lambda q, k, v, x: op(q, k, v, sizes={"x": x}), more) == 2  # once of numbers


def test_extents_that_do_not_fit_are_found_when_the_graph_runs() -> None:
    op = maskc.compile(GRID, heads=4)
    compiled = torch.compile(
        lambda q, k, v, x: op(q, k, v, sizes={"x": x}), fullgraph=True, backend="eager", dynamic=True
    )
    compiled(*tensors(16), 4)
    with torch._dynamo.config.patch(error_on_recompile=True), pytest.raises(maskc.MaskcError) as error:
        compiled(*tensors(20), 7)
    assert error.value.codes == ("E506",)


def test_modules() -> None:
    module = Attention(32, 4, "sliding_window(5)", kv_heads=2)
    calls = [[torch.randn(2, n, 32).requires_grad_()] for n in LENGTHS]
    assert graphs(module, calls, dynamic=True) == 1
    batches = [[torch.randn(b, 16, 32).requires_grad_()] for b in (3, 5, 2)]
    assert graphs(module, batches, [(0, 0)]) == 1
    layers = torch.nn.Sequential(*(Attention(32, 4, "causal", layer=i) for i in range(2)))
    assert graphs(layers, calls, dynamic=True) == 1


def test_decoding() -> None:
    op = maskc.compile("sliding_window(9) | sinks(2)", heads=4)
    sizes = ((16, 3), (24, 5), (40, 2))
    calls = [[x.detach() for x in tensors(1, n, batch=b)] + [torch.arange(1, b + 1) * n // b] for n, b in sizes]
    with torch.no_grad():
        assert graphs(lambda *x: op.decode(*x), calls, dynamic=True) == 1
        grid = maskc.compile("pattern p over grid(y, x) { attend same(y) }", heads=4)
        wide = [[x.detach() for x in tensors(1, 4 * x)] + [x] for x in (4, 6, 10)]

        def step(q: Tensor, k: Tensor, v: Tensor, x: int) -> Tensor:
            return grid.decode(q, k, v, torch.full((3,), 4 * x), sizes={"x": x})

        assert graphs(step, wide, dynamic=True) == 1


def test_the_operator_with_extents_as_torch_wants_it() -> None:
    op = maskc.compile(GRID, heads=4)
    named = name_call(op.handle, (), ("x", "y"))
    torch.library.opcheck(library.attention, (*tensors(12), [], named, [4, 3], None))

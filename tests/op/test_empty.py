"""There may be no batch entry, no query and no key; heads and dimensions there must be."""

from __future__ import annotations

import pytest
import torch

import maskc
from maskc.diagnostics import MaskcError
from tests.op import empty

CALLS = [(name, shape) for name in empty.TEXTS for shape in empty.SHAPES if empty.possible(name, shape)]


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(("name", "shape"), CALLS)
def test_nothing_in_a_call(backend: str, name: str, shape: tuple[int, int, int]) -> None:
    empty.call(backend, name, shape)


@pytest.mark.parametrize(("name", "shape"), CALLS)
def test_nothing_in_a_graph(name: str, shape: tuple[int, int, int]) -> None:
    empty.call("cpu", name, shape, traced=True)


@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize("traced", [False, True])
def test_nothing_in_a_cache(paged: bool, traced: bool) -> None:
    empty.decode("cpu", paged, traced)
    if not traced:
        empty.decode("reference", paged)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("dim", "value_dim"), [(8, 0), (0, 8), (0, 0)])
@pytest.mark.parametrize("backend", ["cpu", "reference", "auto"])
def test_dimensions_of_0_are_refused(backend: str, dim: int, value_dim: int, device: str) -> None:
    op = maskc.compile("causal", heads=2, backend=backend)
    q, k, v = (torch.zeros(1, 2, 4, d, device=device) for d in (dim, dim, value_dim))
    pages = [torch.zeros(3, 2, 2, d, device=device) for d in (dim, value_dim)]
    table = torch.zeros(1, 2, dtype=torch.int32, device=device)
    calls = [
        lambda: op(q, k, v),
        lambda: op(q, k, v, scale=1.0, return_lse=True),
        lambda: op.decode(q, k, v, [4]),
        lambda: op.decode(q, *pages, [4], table),
        lambda: torch.func.vmap(op)(q[None], k[None], v[None]),
    ]
    for call in calls:
        with pytest.raises(MaskcError, match="dimensions must not be 0") as error:
            call()
        assert error.value.codes == ("E510",)


@pytest.mark.parametrize(("dim", "value_dim"), [(8, 0), (0, 8)])
def test_dimensions_of_0_are_refused_in_a_graph(dim: int, value_dim: int) -> None:
    op = maskc.compile("causal", heads=2)
    q, k, v = (torch.zeros(1, 2, 4, d) for d in (dim, dim, value_dim))
    lengths = torch.tensor([4])
    for work in (lambda: op(q, k, v), lambda: op.decode(q, k, v, lengths)):
        with pytest.raises(MaskcError, match="dimensions must not be 0"):
            torch.compile(work, backend="eager", fullgraph=True)()

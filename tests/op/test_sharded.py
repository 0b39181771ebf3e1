"""Calls of DTensors, split by batch entries or heads: what one process would compute, or why not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor

import maskc
from maskc import MaskcError

BIAS = "pattern p(doc: int[token], bias: float[16]) { attend causal & same(doc); score s + bias[q - k] }"
DOC = [0] * 5 + [1] * 11


def tensors(heads: int = 2, batch: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, n, 16, 8) for n in (4, heads, heads)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def wanted(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    at = torch.arange(16)
    distance = at[:, None] - at
    doc = torch.tensor(DOC)
    keep = (distance >= 0) & (doc[:, None] == doc)
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = q @ k.mT * q.shape[-1] ** -0.5 + torch.where(keep, bias[distance.clamp(0)], -torch.inf)
    return scores.softmax(-1) @ v, scores.logsumexp(-1)


def _compute(rank: int, folder: str) -> None:
    """Results and gradients of both ways to split; the first process writes them."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    found = []
    for shape, placements in (
        ((2,), [Shard(1)]),
        ((2,), [Shard(0)]),
        ((1, 2), [Shard(0), Shard(1)]),
        ((2,), [Replicate()]),
    ):
        mesh = init_device_mesh("cpu", shape)
        given = [distribute_tensor(x, mesh, placements).requires_grad_() for x in tensors()]
        bias = distribute_tensor(torch.linspace(-1, 1, 16, dtype=torch.float64), mesh, [Replicate()] * len(shape))
        op = maskc.compile(BIAS, heads=4)
        out, lse = op(*given, return_lse=True, doc=DOC, bias=bias.requires_grad_())
        assert out.placements == lse.placements == tuple(placements)
        (out.square().sum() + lse.sum()).backward()
        found.append([x.full_tensor().detach() for x in (out, lse, *(x.grad for x in (*given, bias)))])
    if rank == 0:
        torch.save(found, f"{folder}/found.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_compute_what_one_does(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_compute, (str(tmp_path),), nprocs=2)
    given = [x.requires_grad_() for x in (*tensors(), torch.linspace(-1, 1, 16, dtype=torch.float64))]
    out, lse = wanted(*given)
    (out.square().sum() + lse.sum()).backward()
    for found_out, found_lse, *gradients in torch.load(tmp_path / "found.pt"):
        torch.testing.assert_close(found_out, out.detach())
        torch.testing.assert_close(found_lse, lse.detach())
        for gradient, x in zip(gradients, given, strict=True):
            torch.testing.assert_close(gradient, x.grad)


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """Of two processes, of which one is there: nothing is sent."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield init_device_mesh("cpu", (2,))
    dist.destroy_process_group()


Spread = Callable[..., list[Any]]


@pytest.fixture
def spread(mesh: DeviceMesh) -> Spread:
    """``tensors``, spread out."""

    def spread(placement: Placement, **shape: int) -> list[Any]:
        return [distribute_tensor(x, mesh, [placement]) for x in tensors(**shape)]

    return spread


def refused(code: str, words: str, work: Callable[[], object]) -> None:
    with pytest.raises(MaskcError, match=re.escape(words)) as error:
        work()
    assert error.value.codes == (code,)


def test_a_part_is_of_the_heads_of_a_process(mesh: DeviceMesh) -> None:
    op = maskc.compile("sliding_window(3)", heads=4)
    q, k, v = (x[:, : x.shape[1] // 2] for x in tensors())  # not by ``spread``: what torch 2.11 spreads here is empty
    out = op(*(DTensor.from_local(x, mesh, [Shard(1)], run_check=False) for x in (q, k, v)))
    assert isinstance(out, DTensor)
    assert (out.shape, out.to_local().shape) == ((2, 4, 16, 8), (2, 2, 16, 8))
    at = torch.arange(16)
    distance = at[:, None] - at
    keep = (distance >= 0) & (distance < 3)
    same = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=keep, enable_gqa=True)
    torch.testing.assert_close(out.to_local(), same)


EACH = """
pattern p(n: int[batch], doc: int[token], w: int[head], slope: float[head], own: float[batch, head]) {
    attend causal & k < n[b] & same(doc) & q - k < w[h] + h + heads
    score s + slope[h] * (q - k)
    normalize softmax(sink = own[b, h])
}
"""


@pytest.mark.parametrize("placements", [[Shard(1)], [Shard(0)], [Shard(0), Shard(1)], [Shard(1), Shard(0)]])
@pytest.mark.parametrize("rank", range(4))
def test_each_process_knows_which_part_is_its_own(placements: list[Placement], rank: int) -> None:
    """Everything differs by entry and by head. The second processes of a mesh, too, though only one is here."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    shape = (4,) if len(placements) == 1 else (2, 2)
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=4)
    try:
        mesh = init_device_mesh("cpu", shape)
        q, k, v = tensors(heads=4, batch=4)
        n, doc = [16, 9, 3, 12], [DOC, [0] * 16, DOC[::-1], list(range(16))]
        slope, own = torch.linspace(-1, 1, 4).double(), torch.linspace(-2, 2, 16).double().view(4, 4)
        at, h = torch.arange(16), torch.arange(4)[:, None, None]
        distance, rows = at[:, None] - at, torch.tensor(doc)
        keep = (distance >= 0) & (distance < torch.tensor([1, 2, 0, 9])[:, None, None] + h + 4)
        keep = keep & (at < torch.tensor(n)[:, None, None, None]) & (rows[:, None, :, None] == rows[:, None, None, :])
        scores = (q @ k.transpose(2, 3) / 8**0.5 + slope[:, None, None] * distance).masked_fill(~keep, -torch.inf)
        sink = own[:, :, None, None].expand(4, 4, 16, 1)
        whole = torch.cat([scores, sink], -1).softmax(-1)[..., :-1] @ v
        part, given = whole, [q, k, v]
        for size, at_, placement in zip(mesh.shape, mesh.get_coordinate(), placements, strict=True):
            part, *given = (x.chunk(size, placement.dim)[at_] for x in (part, *given))
        spread = [DTensor.from_local(x, mesh, placements, run_check=False) for x in given]
        learned = {"slope": slope, "own": own}
        whole_here = [Replicate()] * len(shape)
        inputs = {m: DTensor.from_local(x, mesh, whole_here, run_check=False) for m, x in learned.items()}
        out = maskc.compile(EACH, heads=4, w=[1, 2, 0, 9])(*spread, n=n, doc=doc, **inputs)
        assert out.placements == tuple(placements)
        torch.testing.assert_close(out.to_local(), part)
    finally:
        dist.destroy_process_group()


def test_what_a_process_does_not_know_is_refused(mesh: DeviceMesh, spread: Spread) -> None:
    op = maskc.compile("causal", heads=4)
    numbered = maskc.compile("pattern p(n: int[batch]) { attend causal & k < n[b] + b }", heads=4)
    refused("E702", "'p' numbers the batch entries", lambda: numbered(*spread(Shard(0)), n=[3, 5]))
    assert numbered(*spread(Shard(1)), n=[3, 5]).placements == (Shard(1),)
    documents = maskc.compile("pattern p(doc: int[token]) { attend same(doc) }", heads=4)
    refused("E505", "doc is of 3 batch entries, and q of 2", lambda: documents(*spread(Shard(0)), doc=[DOC] * 3))
    for placement in (Shard(2), Shard(3)):
        refused("E702", "a query needs whole keys, and all keys", lambda p=placement: op(*spread(p)))
    refused("E510", "k has 1 heads, which do not make 2 equal parts", lambda: op(*spread(Shard(1), heads=1)))
    refused("E510", "q has 3 batch entries, which do not make 2", lambda: op(*spread(Shard(0), batch=3)))
    q, k, v = spread(Shard(1))
    refused("E511", "k is no DTensor", lambda: op(q, tensors()[1], v))
    refused("E511", "v is placed as", lambda: op(q, k, v.redistribute(mesh, [Replicate()])))
    refused("E702", "decoding takes no DTensors", lambda: op.decode(q[:, :, :1], k, v, [16, 16]))
    biased, bias = maskc.compile(BIAS, heads=4), torch.zeros(16).requires_grad_()
    refused("E702", "bias requires a gradient", lambda: biased(q, k, v, doc=DOC, bias=bias))
    split = distribute_tensor(bias.detach(), mesh, [Shard(0)])
    refused("E702", "bias is not replicated", lambda: biased(q, k, v, doc=DOC, bias=split))
    refused("E511", "bias is a DTensor, and q, k and v are not", lambda: biased(*tensors(), doc=DOC, bias=split))

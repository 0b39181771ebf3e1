"""Systems of the gallery that take several patterns, put together: the whole is what its description says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import maskc

GALLERY = Path(__file__).parents[2] / "examples" / "gallery"
BATCH, HEADS, N, DIM = 2, 3, 12, 4
SIZES = {"y": 3, "x": 4}

backends = pytest.mark.parametrize("backend", ["reference", "cpu"])


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


Q, K, V = (drawn(BATCH, HEADS, N, DIM, seed=i) for i in range(3))
S = Q @ K.mT / DIM**0.5
PAST = torch.ones(N, N, dtype=torch.bool).tril()


class System:
    """The patterns of one file, called by name."""

    def __init__(self, file: str, backend: str, **arguments: Any) -> None:
        self.file, self.backend, self.arguments = str(GALLERY / file), backend, arguments

    def __call__(self, name: str, q: Any = Q, k: Any = K, v: Any = V, *, lse: bool = False, **inputs: Any) -> Any:
        fixed = {p.name for p in maskc.load(self.file, name).program.params if p.when == "compile"}
        op = maskc.compile(
            self.file, name=name, heads=HEADS, backend=self.backend,
            **{x: value for x, value in self.arguments.items() if x in fixed or x == "sizes"},
        )  # fmt: skip
        return op(q, k, v, return_lse=lse, inputs=inputs)


def softmax(s: torch.Tensor, seen: torch.Tensor | None = None, dim: int = -1) -> torch.Tensor:
    return torch.softmax(s if seen is None else s.masked_fill(~seen, -torch.inf), dim)


@backends
def test_affine_scaled(backend: str) -> None:
    system, scale, shift = System("weights/affine_scaled.mask", backend), *drawn(2, BATCH, N, HEADS)
    weights = (scale.mT[..., None] * softmax(S, PAST) + shift.mT[..., None]) * PAST
    torch.testing.assert_close(system("scaled", scale=scale) + system("shifted", shift=shift), weights @ V)


@backends
def test_cog_attention(backend: str) -> None:
    system = System("weights/cog_attention.mask", backend)
    total = system("magnitudes", lse=True)[1]
    got = system("added", total=total) - system("deleted", total=total)
    torch.testing.assert_close(got, (S.sign() * softmax(S.abs(), PAST)) @ V)


@backends
def test_convit(backend: str) -> None:
    system, gate = System("scores/convit.mask", backend, sizes=SIZES), drawn(HEADS)
    locality, down, across = drawn(HEADS).abs(), drawn(HEADS, seed=1), drawn(HEADS, seed=2)
    y, x = torch.arange(N) // 4, torch.arange(N) % 4
    rows, columns = y - y[:, None] - down[:, None, None], x - x[:, None] - across[:, None, None]
    place = softmax(-locality[:, None, None] * (rows**2 + columns**2))
    share = torch.sigmoid(gate)[:, None, None]
    got = system("by_content", gate=gate) + system("by_place", gate=gate, locality=locality, down=down, across=across)
    torch.testing.assert_close(got, ((1 - share) * softmax(S) + share * place) @ V)


@backends
def test_softpag(backend: str) -> None:
    sizes = {"text": 4, "y": 2, "x": 4}
    system, strength = System("weights/headhunter.mask", backend, sizes=sizes), torch.tensor([[0.0, 0.3, 1.0]])
    drawn_maps = torch.lerp(softmax(S), torch.eye(N, dtype=S.dtype).expand_as(S), strength[0, :, None, None].to(S))
    strength = strength.to(S)
    torch.testing.assert_close(system("map", strength=strength) + system("identity", strength=strength), drawn_maps @ V)


@backends
def test_dependency_vit(backend: str) -> None:
    """Senders' queries meet receivers' keys; the map's rows sum to 1, and its transpose is applied."""
    system = System("weights/dependency_vit.mask", backend, sizes=SIZES)
    sent = system("sending", lse=True)[1]
    torch.testing.assert_close(system("receiving", K, Q, V, sent=sent), softmax(S).mT @ V)


@backends
def test_layout_blend(backend: str) -> None:
    """Image tokens of an object blend two attentions, to the words of the whole and to the object's own."""
    object_of = torch.tensor([-1, 0, 0, 1, 2, 2, -1, 1, 0, 2, 1, 1])
    described, blend = torch.tensor([0, 0, 1, 2, 2, 2, 2, 1, 1, 1, 0, 0]), torch.tensor([0.2, 0.5, 0.9]).to(S)
    system = System("steering/layout_blend.mask", backend, sizes=SIZES, objects=3)
    share = torch.where(object_of < 0, 0.0, blend[object_of])[:, None]
    local = softmax(S, described == object_of.clamp(min=0)[:, None])
    got = system("global_description", object=object_of, blend=blend)
    got = got + system("local_description", object=object_of, described=described, blend=blend)
    torch.testing.assert_close(got, ((1 - share) * softmax(S) + share * local) @ V)


@backends
def test_visual_attention_sink(backend: str) -> None:
    kind = torch.tensor([2, 0, 1, 2, 2, 1, 0, 0, 1, 2, 0, 2])
    system = System("weights/visual_attention_sink.mask", backend, image_centric=[True, False, True], moved=0.4)
    sinks, visual = (system(name, kind=kind, lse=True)[1] for name in ("sinks_only", "visual_only"))
    weights = softmax(S, PAST)
    taken = 0.4 * weights * (kind == 1)
    shares = weights * (kind == 2) / (weights * (kind == 2)).sum(-1, keepdim=True)
    want = weights - taken + taken.sum(-1, keepdim=True) * shares
    want[:, 1] = weights[:, 1]
    got = system("redistributed", kind=kind, ratio=torch.exp(sinks - visual))
    torch.testing.assert_close(got, want @ V)

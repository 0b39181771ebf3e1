"""``torch.func``: reverse mode, vmap and functional calls give what plain calls do; what is refused says so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.autograd import forward_ad

import maskc
from maskc.backends.cpu.entry import Entry

TEXT = """pattern p(doc: int[token], slope: float[head]) {
    attend causal & same(doc)
    score s + slope[h] * (q - k)
    output o * slope[h]
}"""


class Layer(torch.nn.Module):
    def __init__(self, text: str = TEXT) -> None:
        super().__init__()
        self.op = maskc.compile(text, heads=2, backend="cpu")
        self.slope = torch.nn.Parameter(torch.tensor([0.1, -0.2]))

    def forward(self, q: Any, k: Any, v: Any, doc: Any) -> Any:
        return self.op(q, k, v, doc=doc, slope=self.slope, return_lse=True)


def tensors(n: int = 20) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    return *(torch.randn(1, 2, n, 8) for _ in range(3)), torch.arange(n) // 7


def loss(layer: Layer, parameters: Any, *given: Any) -> Any:
    out, lse = torch.func.functional_call(layer, parameters, given)
    return (out * lse[..., None].sin()).sum()


def wanted(layer: Layer, given: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """Gradients of the slope, and of q, k and v, by plain autograd."""
    leaves = [x.clone().requires_grad_() for x in given[:3]]
    return [*torch.autograd.grad(loss(layer, {}, *leaves, given[3]), [layer.slope, *leaves])]


def test_grad_of_parameters_and_tensors() -> None:
    layer, given = Layer(), tensors()
    parameters = {"slope": layer.slope.detach()}
    run = torch.func.grad(lambda p, q, k, v: loss(layer, p, q, k, v, given[3]), argnums=(0, 1, 2, 3))
    of_parameters, *rest = run(parameters, *given[:3])
    for a, b in zip([of_parameters["slope"], *rest], wanted(layer, given), strict=True):
        torch.testing.assert_close(a, b)


def test_vjp_and_jacrev() -> None:
    op = maskc.compile("causal", heads=2, backend="cpu")
    q, k, v, _ = tensors(6)
    weight = torch.randn(1, 2, 6, 8)
    leaf = q.clone().requires_grad_()
    (expected,) = torch.autograd.grad(op(leaf, k, v), leaf, weight)
    torch.testing.assert_close(torch.func.vjp(lambda x: op(x, k, v), q)[1](weight)[0], expected)
    jacobian = torch.func.jacrev(lambda x: (op(x, k, v) * weight).sum(dim=(0, 1, 3)))(q)
    torch.testing.assert_close(jacobian.sum(dim=0), expected)


def test_gradients_of_every_entry() -> None:
    layer, (q, k, v, doc) = Layer(), tensors()
    many, slopes = torch.stack([q, 2 * q, -q]), torch.tensor([[0.1, 0.2], [0.3, -0.1], [0.0, 1.0]])

    def one(x: Any, slope: Any) -> Any:
        return loss(layer, {"slope": slope}, x, k, v, doc)

    found = torch.func.vmap(torch.func.grad(one, argnums=(0, 1)))(many, slopes)
    for i in range(3):
        for a, b in zip(found, torch.func.grad(one, argnums=(0, 1))(many[i], slopes[i]), strict=True):
            torch.testing.assert_close(a[i], b)


def test_what_the_mask_reads_cannot_be_mapped_over() -> None:
    layer, (q, k, v, doc) = Layer(), tensors()
    with pytest.raises(maskc.MaskcError, match="vmap hides"):
        torch.func.vmap(lambda d: layer(q, k, v, d)[0])(torch.stack([doc, doc]))


def test_forward_mode_is_refused() -> None:
    op = maskc.compile("causal", heads=2, backend="cpu")
    q, k, v, _ = tensors()
    with pytest.raises(RuntimeError, match="forward-mode"):
        torch.func.jvp(lambda x: op(x, k, v), (q,), (q,))
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="forward-mode"):
        op(forward_ad.make_dual(q, q), k, v)
    leaf = q.clone().requires_grad_()
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="forward-mode"):
        torch.autograd.grad(op(leaf, k, v), leaf, forward_ad.make_dual(q, q))
    with forward_ad.dual_level():  # nothing has a tangent
        torch.testing.assert_close(op(q, k, v), op(q, k, v))


def test_second_derivatives_are_refused() -> None:
    op = maskc.compile("causal", heads=2, backend="cpu")
    q, k, v, _ = tensors()
    first = torch.func.grad(lambda x: op(x, k, v).sum())
    with pytest.raises(RuntimeError, match="differentiated once"):
        torch.func.grad(lambda x: first(x).sum())(q)


def test_vmap_over_nothing() -> None:
    text = "pattern p(gain: float[q]) over decoder -> encoder { attend all; output o * gain[q] }"
    op = maskc.compile(text, heads=4)
    q, k, v, gain = (torch.zeros(0, *shape) for shape in ((2, 4, 6, 8), (2, 2, 5, 8), (2, 2, 5, 7), (6,)))

    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, gain: torch.Tensor) -> Any:
        return op(q, k, v, gain=gain, return_lse=True)

    for mapped in (torch.func.vmap(run), torch.compile(torch.func.vmap(run), backend="eager", fullgraph=True)):
        out, lse = mapped(q, k, v, gain)
        assert (out.shape, lse.shape) == ((0, 2, 4, 6, 7), (0, 2, 4, 6))
    # Gradients inside, and outside: of what is not mapped they are 0.
    gradient = torch.func.grad(lambda *x: run(*x)[0].sum(), argnums=(0, 3))
    assert [x.shape for x in torch.func.vmap(gradient)(q, k, v, gain)] == [q.shape, gain.shape]
    whole = torch.ones(6, requires_grad=True)
    out, _ = torch.func.vmap(run, in_dims=(0, 0, 0, None))(q, k, v, whole)
    (found,) = torch.autograd.grad(out.sum(), whole)
    assert torch.equal(found, torch.zeros(6))


def test_a_scale_that_is_mapped_over() -> None:
    op = maskc.compile("causal", heads=2, backend="cpu")
    q, k, v, _ = tensors()
    with pytest.raises(maskc.MaskcError, match="scale the queries instead"):
        torch.func.vmap(lambda s: op(q, k, v, scale=s))(torch.rand(2))


def test_backends_without_an_operator_say_so() -> None:
    op = maskc.compile("causal", heads=2, backend="reference")
    q, k, v, _ = tensors()
    with pytest.raises(maskc.MaskcError, match="'reference' cannot run under") as error:
        torch.func.vmap(lambda x: op(x, k, v))(torch.stack([q, q]))
    assert error.value.codes == ("E702",)
    gradient = torch.func.grad(lambda x: op(x, k, v).sum())(q)  # the reference is made of torch's own operators
    leaf = q.clone().requires_grad_()
    torch.testing.assert_close(gradient, torch.autograd.grad(op(leaf, k, v).sum(), leaf)[0])


def test_check_mode_compares_what_vmap_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    op = maskc.compile("causal & q > 2", heads=2, backend="cpu", check=True)
    q, k, v, _ = tensors()
    many = torch.stack([q, -q])

    def gradients() -> torch.Tensor:
        return torch.func.vmap(torch.func.grad(lambda x: op(x, k, v, return_lse=True)[0].sum()))(many)

    leaf = (-q).requires_grad_()
    torch.testing.assert_close(gradients()[1], torch.autograd.grad(op(leaf, k, v).sum(), leaf)[0])
    right = Entry.forward
    monkeypatch.setattr(Entry, "forward", lambda *given: (right(*given)[0] + 1, *right(*given)[1:]))
    with pytest.raises(RuntimeError, match="differs from the reference by 1"):
        gradients()


def test_decoding_under_transforms_says_so() -> None:
    op = maskc.compile("causal", heads=2)
    (q, _, _, _), (_, k, v, _) = tensors(1), tensors()
    lengths = torch.tensor([[20], [3]])
    calls = [
        lambda: torch.func.vmap(lambda x: op.decode(x, k, v, [20]))(torch.stack([q, q])),
        lambda: torch.func.vmap(lambda n: op.decode(q, k, v, n))(lengths),
        lambda: torch.func.grad(lambda x: op.decode(x, k, v, [20]).sum())(q),
        lambda: torch.func.jvp(lambda x: op.decode(x, k, v, [20]), (q,), (q,)),
    ]
    for call in calls:
        with pytest.raises(maskc.MaskcError, match="decoding takes no tensors") as error:
            call()
        assert error.value.codes == ("E702",)
    nothing = torch.func.vmap(lambda x: x + op.decode(q, k, v, [20]))(torch.stack([q, q]))  # is not mapped over
    torch.testing.assert_close(nothing[0], q + op.decode(q, k, v, [20]))

"""Check mode: results of a backend beside those of the dense reference."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from maskc.knobs import TRITON_PRECISION
from maskc.reference.attention import attention

if TYPE_CHECKING:
    from maskc.backends.entries import Entry
    from maskc.ir.binding import Binding
    from maskc.ir.program import Program

__all__ = ["CheckedEntry", "assert_close", "compare", "reference_at"]

Tensor = torch.Tensor

#: Largest difference from the reference that check mode lets pass, absolute and relative.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}


def compare(
    program: Program,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor | None,
    *,
    binding: Binding,
    floats: Mapping[str, torch.Tensor],
    scale: float,
    return_lse: bool,
) -> None:
    """Raise RuntimeError where a backend's result is not the reference's: a defect of the backend."""
    with torch.no_grad():
        wanted, wanted_lse = attention(program, binding, q, k, v, scale=scale, floats=floats)
    pairs = [("output", out, wanted)]
    if return_lse and lse is not None and wanted_lse is not None:
        pairs.append(("log-sum-exp", lse, wanted_lse))
    assert_close(program.name, q.dtype, pairs)


def reference_at(
    rows: Sequence[int],
    program: Program,
    binding: Binding,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    floats: Mapping[str, Tensor],
) -> tuple[Tensor, Tensor | None]:
    """Output and log-sum-exp of the queries ``rows``, as the reference has them."""
    return attention(program, binding, q, k, v, scale=q.shape[3] ** -0.5, floats=floats, rows=rows)


@dataclass(frozen=True, eq=False)
class CheckedEntry:
    """An entry whose results are compared, in a graph too: see ``maskc.backends.entries.Entry``. ``names``: of the
    floats."""

    entry: Entry
    program: Program
    binding: Binding
    names: tuple[str, ...]
    return_lse: bool

    @property
    def plain_output(self) -> bool:
        """Whether the program has no output expression."""
        return self.entry.plain_output

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, floats: Sequence[Tensor], scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the entry gives. Raises RuntimeError where that is not the reference's."""
        found = self.entry.forward(q, k, v, floats, scale)
        given = dict(zip(self.names, floats, strict=True))
        options: dict[str, Any] = {"binding": self.binding, "floats": given, "scale": scale}
        compare(self.program, q, k, v, *found[:2], return_lse=self.return_lse, **options)
        return found

    def backward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        floats: Sequence[Tensor],
        out: Tensor,
        lse: Tensor,
        grad: Tensor,
        grad_lse: Tensor | None,
        scale: float,
        wanted: Sequence[bool] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """The entry's gradients. Raises RuntimeError where they are not the reference's."""
        found = self.entry.backward(q, k, v, floats, out, lse, grad, grad_lse, scale, wanted)
        asked = [True] * len(floats) if wanted is None else wanted
        learned = [name for name, needed in zip(self.names, asked, strict=True) if needed]
        gradients = [*found[:3], *(x for x, needed in zip(found[3], asked, strict=True) if needed)]

        def reference(dtype: torch.dtype) -> list[Tensor]:
            return self._reference((q, k, v), floats, learned, grad, grad_lse, scale, dtype)

        exact = reference(torch.float64)
        usual = exact if q.dtype == torch.float64 else reference(torch.float32)
        terms = _longest(grad) * _longest(v)  # of a score's gradient, of which the mean over the keys is taken away
        terms_of = {"q": terms * _longest(k) * abs(scale), "k": terms * _longest(q) * abs(scale)}
        terms_of |= {name: terms * x for name, x in self._slopes((q, k, v), floats, learned, scale).items()}
        for name, *of in zip(("q", "k", "v", *learned), gradients, exact, usual, strict=True):
            what = f"gradient of {name} of {self.program.name!r}"
            _compare_gradient(what, q.dtype, *of, terms=terms_of.get(name, terms))
        return found

    def _slopes(
        self, tensors: tuple[Tensor, Tensor, Tensor], floats: Sequence[Tensor], learned: Sequence[str], scale: float
    ) -> dict[str, float]:
        """Of the ``learned`` floats, by how much scores change with one element, added up over all pairs with their
        weights: so often a rounding of a score's gradient counts in that of the element."""
        if not learned:
            return {}
        with _differentiable():
            q, k, v, *rest = (x.detach().double() for x in (*tensors, *floats))
            given = {name: x.requires_grad_(name in learned) for name, x in zip(self.names, rest, strict=True)}
            _, lse = attention(self.program, self.binding, q, k, v, scale=scale, floats=given)
            if lse is None or not lse.requires_grad:
                return {}
            # The derivative of a row's log-sum-exp by a score is the weight of its key.
            whole = torch.where(lse.isfinite(), lse, 0.0).sum()
            found = torch.autograd.grad(whole, [given[name] for name in learned], allow_unused=True)
        known = {
            name: g.nan_to_num(0.0, 0.0, 0.0).abs() for name, g in zip(learned, found, strict=True) if g is not None
        }
        return {name: max(1.0, float(g.max())) for name, g in known.items() if g.numel()}

    def _reference(
        self,
        tensors: tuple[Tensor, Tensor, Tensor],
        floats: Sequence[Tensor],
        learned: Sequence[str],
        grad: Tensor,
        grad_lse: Tensor | None,
        scale: float,
        dtype: torch.dtype,
    ) -> list[Tensor]:
        """The reference's gradients of q, k, v and the ``learned`` floats, computed in ``dtype``."""
        with _differentiable():
            q, k, v, *rest = (x.detach().to(dtype).requires_grad_() for x in (*tensors, *floats))
            given = dict(zip(self.names, rest, strict=True))
            out, lse = attention(self.program, self.binding, q, k, v, scale=scale, floats=given)
            of = [(out, grad)] if grad_lse is None or lse is None else [(out, grad), (lse, grad_lse)]
            of = [(x, g.detach().to(x.dtype)) for x, g in of if x.requires_grad]
            leaves = [q, k, v, *(given[name] for name in learned)]
            found = torch.autograd.grad([x for x, _ in of], leaves, [g for _, g in of], allow_unused=True)
        return [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]


@contextlib.contextmanager
def _differentiable() -> Iterator[None]:
    """Where autograd sees what is done, inside an operator too, where torch has switched that off."""
    keys = (torch._C.DispatchKey.AutogradFunctionality, torch._C.DispatchKey.ADInplaceOrView)
    with contextlib.ExitStack() as stack:
        for key in keys:
            stack.enter_context(torch._C._SetExcludeDispatchKeyGuard(key, False))
        with torch.enable_grad():
            yield


#: So many times as far from the exact gradient as the reference in 32 bits may another be: what rounding makes
#: of differences of large numbers is no defect.
_ROUNDINGS = 32.0
#: So many roundings of terms that cancel: all of them do where a query sees one key, and the gradient is 0.
_CANCELLED = 4.0


def _longest(x: Tensor) -> float:
    """The length of the longest finite row."""
    rows = x.detach().double().norm(dim=-1)
    return float(rows[rows.isfinite()].max()) if bool(rows.isfinite().any()) else 0.0


def _compare_gradient(
    what: str, dtype: torch.dtype, found: Tensor, exact: Tensor, usual: Tensor, *, terms: float
) -> None:
    """Raise RuntimeError where ``found`` is not ``exact``, beside its largest element. Where that is not finite, or is
    beyond the dtype of the gradient, anything is right. ``terms``: how large what the gradient is a sum of may be."""
    wanted = exact.to(found.dtype).to(exact.dtype)
    known = wanted.isfinite() & usual.isfinite()
    if not bool(known.any()):
        return
    rounding = (usual - exact)[known].abs().max().item()
    allowed = _tolerance(dtype) * wanted[known].abs().max().item() + _ROUNDINGS * rounding
    allowed += _CANCELLED * torch.finfo(torch.promote_types(dtype, torch.float32)).eps * terms
    worst = (found.to(exact.dtype) - wanted)[known].abs().nan_to_num(torch.inf).max().item()
    if worst > allowed:
        raise RuntimeError(f"check mode: the {what} differs from the reference by {worst:.3g}")


def _tolerance(dtype: torch.dtype) -> float:
    if dtype == torch.float32 and TRITON_PRECISION.value() == "tf32":
        return _TOLERANCE[torch.float16]  # ten bits, as those of float16
    return _TOLERANCE.get(dtype, 3e-2)


def assert_close(name: str, dtype: torch.dtype, pairs: Iterable[tuple[str, torch.Tensor, torch.Tensor]]) -> None:
    """Raise RuntimeError where a result of the pattern ``name`` is wrong; ``pairs``: what it is, found, wanted."""
    tolerance = _tolerance(dtype)
    for what, found, expected in pairs:
        if not torch.allclose(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True):
            worst = (found - expected).abs().nan_to_num(torch.inf).max().item()
            raise RuntimeError(f"check mode: the {what} of {name!r} differs from the reference by {worst:.3g}")

"""Check mode: results of a backend beside those of the dense reference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from maskc.reference.attention import attention

if TYPE_CHECKING:
    from maskc.backends.library import Entry
    from maskc.ir.binding import Binding
    from maskc.ir.program import Program

__all__ = ["CheckedEntry", "assert_close", "compare"]

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


@dataclass(frozen=True, eq=False)
class CheckedEntry:
    """An entry whose results are compared, in a graph too: see ``maskc.backends.library.Entry``. ``names``: of the
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

    def backward(self, *given: Any) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """The entry's gradients."""
        return self.entry.backward(*given)


def assert_close(name: str, dtype: torch.dtype, pairs: Iterable[tuple[str, torch.Tensor, torch.Tensor]]) -> None:
    """Raise RuntimeError where a result of the pattern ``name`` is wrong; ``pairs``: what it is, found, wanted."""
    tolerance = _TOLERANCE.get(dtype, 3e-2)
    for what, found, expected in pairs:
        if not torch.allclose(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True):
            worst = (found - expected).abs().nan_to_num(torch.inf).max().item()
            raise RuntimeError(f"check mode: the {what} of {name!r} differs from the reference by {worst:.3g}")

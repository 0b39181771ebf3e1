"""Boxes of (query, key), and what values an expression takes in each of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy.typing as npt

__all__ = ["NO_VARIABLES", "Boxes", "Range"]

Array = npt.NDArray[Any]
NO_VARIABLES: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes of absolute positions: ``q0 <= q <= q1`` and ``k0 <= k <= k1`` (int64, ends included).

    ``q_width`` and ``k_width`` are the extents of the smallest tile that each box holds; ``single`` marks
    boxes that lie within one tile. ``q_step``: positions are those congruent to ``q0`` modulo it.
    """

    q0: Array
    q1: Array
    k0: Array
    k1: Array
    q_width: Array
    k_width: Array
    single: Array
    q_step: int = 1
    k_step: int = 1

    def part(self, which: slice) -> Boxes:
        """Some of the boxes; what all have in common stays."""
        arrays = ("q0", "q1", "k0", "k1", "q_width", "k_width", "single")
        count = self.q0.shape
        return replace(self, **{n: x[which] for n in arrays if (x := getattr(self, n)).shape == count})


@dataclass(frozen=True, eq=False)
class Range:
    """What an expression can be in each box.

    Attributes:
        lo, hi: bounds; arrays that broadcast over the boxes, or scalars.
        modulus, residue: every value is congruent to ``residue`` modulo ``modulus`` (0: it is a constant).
        exact: ``lo`` and ``hi`` are attained. dense: so is every value between that obeys the congruence.
        uses: the variables that the expression depends on.
        form: ``(a, b, c)`` if the value is ``a*q + b*k + c``, with ``a`` and ``b`` integers and ``c`` broadcasting.
    """

    lo: Any
    hi: Any
    modulus: int = 1
    residue: Any = 0
    exact: Any = False
    dense: Any = False
    uses: frozenset[str] = NO_VARIABLES
    form: tuple[int, int, Any] | None = field(default=None)

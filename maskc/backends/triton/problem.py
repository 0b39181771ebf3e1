"""What is computed under one binding, and how: what all stages of kernels are made from."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

from maskc.backends.triton.masks import every_query_keeps_a_key
from maskc.backends.triton.spec import Form, Kernel, KernelSpec, specialised
from maskc.backends.triton.stages import kernel_of
from maskc.ir.program import OUTPUT
from maskc.tiles.budget import BUDGET

if TYPE_CHECKING:
    from maskc.backends.triton.configs import Config
    from maskc.ir.binding import Binding
    from maskc.ir.program import Program
    from maskc.tiles.plan import TilePlan

__all__ = ["Problem"]

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Problem:
    """A program, a binding and the names of its float inputs: all that a call needs but tensors.

    ``precision``: of products in float32, "ieee" or "tf32". ``configs``: configurations that replace the
    defaults, by stage. ``splits``: program instances that share the keys of a row when decoding; None: as many as
    keep the device busy, and none where there are many queries. ``layout``: the order of the tokens, as
    ``make_plan`` takes it, for kernels of many queries; tensors stay in the tokens' own. ``autotune``:
    "off", "cached" or "on", where ``configs`` has no row; ``budget``: seconds that measuring one kernel may take.
    ``workers``: program instances that run at once, by which long rows are cut; None: what the device has.
    ``planning``: what a plan may cost, as ``make_plan`` takes its budget.
    """

    program: Program
    binding: Binding
    names: tuple[str, ...]
    precision: str = "ieee"
    configs: Mapping[str, Config] = field(default_factory=dict)
    splits: int | None = None
    layout: str = "none"
    autotune: str = "off"
    budget: float = 10.0
    workers: int | None = None
    planning: int = BUDGET
    _memory: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def plain_output(self) -> bool:
        """Whether the program has no output expression."""
        return self.program.output is OUTPUT

    @functools.cached_property
    def text_program(self) -> Program:
        """What kernels are written from."""
        return specialised(self.program, self.binding.args)

    @functools.cached_property
    def every_query_keeps_a_key(self) -> bool:
        """Whether the planner proves it, so that the backward pass has no empty rows to care for."""
        return every_query_keeps_a_key(self.program, self.binding)

    def plan(self, q_tile: int, k_tile: int, layout: str = "none") -> TilePlan:
        """The tiles of the mask, in tiles of the given size."""
        from maskc.tiles import make_plan

        def make() -> TilePlan:
            program, binding, budget = self.program, self.binding, self.planning
            return make_plan(program, binding, q_tile=q_tile, k_tile=k_tile, layout=layout, budget=budget)

        return self._remembered(("tiles", q_tile, k_tile, layout), make)

    def kernel(self, stage: str, form: Form, grad_tables: frozenset[str] = frozenset()) -> Kernel:
        """The kernel of a stage for plans of a form."""

        spec = KernelSpec(self.text_program, self.binding.batched, grad_tables=grad_tables, **form._asdict())
        return self._remembered((stage, form, grad_tables), lambda: kernel_of(stage, spec))

    def _remembered(self, key: Any, make: Callable[[], _T]) -> _T:
        if key not in self._memory:
            self._memory[key] = make()
        return cast("_T", self._memory[key])

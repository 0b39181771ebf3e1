"""From a program and a binding to a tile plan."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.arguments import expect, integer
from maskc.diagnostics import MaskcError
from maskc.ir.binding import Binding
from maskc.ir.nodes import Lookup, Param, postorder
from maskc.ir.program import Program
from maskc.tiles.analysis import analyse
from maskc.tiles.budget import BUDGET, OWN_MASKS, Budget, Outdone, Watch, within_memory
from maskc.tiles.classify import Classifier
from maskc.tiles.grid import Grid, Rectangles
from maskc.tiles.groups import Members, members
from maskc.tiles.layouts.relaid import tiles_in_order
from maskc.tiles.layouts.suggest import LEAST_GAIN, Layout, candidates, check_layout
from maskc.tiles.rowform import RowForm
from maskc.tiles.rowwise import rowwise
from maskc.tiles.runs import assemble
from maskc.tiles.subdivide import subdivide
from maskc.tiles.tiling import Group, Order, Runs, Tiling
from maskc.tiles.values import fail

__all__ = ["make_tiling", "plans_by_mask"]

Array = npt.NDArray[Any]


def make_tiling(
    program: Program,
    binding: Binding,
    *,
    q_tile: int = 128,
    k_tile: int = 128,
    layout: str = "none",
    budget: int = BUDGET,
    watch: Watch | None = None,
) -> Tiling:
    """See ``maskc.tiles.make_plan``."""
    expect("program", program, Program, "a maskc.Program")
    expect("binding", binding, Binding, "a maskc.Binding")
    check_layout(layout)
    q_tile, k_tile = integer("q_tile", q_tile, 1, _LARGEST_TILE), integer("k_tile", k_tile, 1, _LARGEST_TILE)
    if not isinstance(budget, float):
        budget = integer("budget", budget, 0)
    _check_bound(program, binding)
    grid = Grid(binding.q_len, binding.k_len, q_tile, k_tile, binding.offset)
    with within_memory("planning this mask"):
        job = _Job(program, binding, grid, Budget(budget, watch))
        if layout == "none" or not binding.q_len or not binding.k_len:
            with _hint_at_orders(program):
                return job.plan(None, "")
        return job.laid_out(layout)


def plans_by_mask(
    program: Program, binding: Binding, budget: Budget, *, q_tile: int = 128, k_tile: int = 128
) -> Iterator[Tiling]:
    """A plan for each distinct mask that heads and batch entries have, one after another: that of batch entry 0 and
    head 0 first, and then always that of the first batch entry, and its first head, of which there was none. A plan's
    first group holds that entry and that head. What is not asked for is not planned.

    Raises MaskcError E801 as ``make_plan`` does.
    """
    grid = Grid(binding.q_len, binding.k_len, q_tile, k_tile, binding.offset)
    with within_memory("planning these masks"):
        job = _Job(program, binding, grid, budget)
        first = [sorted(products, key=_first) for products in job.members]
    for products in sorted(first, key=lambda products: _first(products[0])):
        budget.each, budget.nodes = job.each, job.nodes
        budget.spend(_MASK, OWN_MASKS)
        with within_memory("planning this mask"):
            groups = job.groups(products, None)
        yield Tiling(program, binding, q_tile, k_tile, tuple(groups))


def _first(product: Members) -> tuple[int, int]:
    heads, batches = product
    return batches[0], heads[0]


#: What each mask costs at least, whatever it is: in a proof, and in a plan those beyond the first.
_MASK, _NEXT = 1 << 16, 1 << 14
#: A tile may be longer than any sequence, but no longer than positions of 32 bits, which runs hold.
_LARGEST_TILE = 2147483647


def _check_bound(program: Program, binding: Binding) -> None:
    """Raises E501 where the mask reads what the binding, which was made for another program, does not hold."""
    for node in postorder([program.mask]):
        if isinstance(node, Param | Lookup) and node.name not in binding.args and node.name not in binding.tables:
            hint = "bind this very program: maskc.make_binding(program, ...)"
            raise fail("E501", f"the binding holds no {node.name!r}, which {program.name!r} reads", hint)


@contextlib.contextmanager
def _hint_at_orders(program: Program) -> Iterator[None]:
    """E801 of a mask over a grid says that there are other orders of the tokens."""
    try:
        yield
    except MaskcError as e:
        if e.codes == ("E801",) and any(len(s.extents) > 1 for s in program.k_space.segments):
            (found,) = e.diagnostics
            other = 'a tile is a stretch of the grid\'s last axis: try blocks of the grid (layout="auto"), or else '
            raise MaskcError(replace(found, hint=other + (found.hint or ""))) from None
        raise


class _Job:
    """One call of ``make_tiling``."""

    def __init__(self, program: Program, binding: Binding, grid: Grid, budget: Budget) -> None:
        self.program, self.binding, self.grid, self.budget = program, binding, grid, budget
        self.analysis = analyse(program, binding)
        self.each = budget.measure.each(self.analysis.program, binding)
        self.nodes = sum(1 for _ in postorder([self.analysis.program.mask]))
        self.members = members(self.analysis.program, binding)
        self.fields: dict[Any, Any] = {}

    def classifier(self, head: int, batch: int) -> Classifier:
        bound = self.analysis.program
        return Classifier(bound.mask, self.binding, bound.params, head, batch, self.fields, self.budget)

    def plan(self, layout: Layout | None, reason: str) -> Tiling:
        groups: list[Group] = []
        self.budget.each, self.budget.nodes = self.each, self.nodes
        for later, products in zip(reversed(range(len(self.members))), self.members, strict=True):
            self.budget.begin(later, sum(len(h) * len(b) for h, b in products), _computed(groups))
            if groups:  # The first is what was asked for at least.
                self.budget.spend(_NEXT, OWN_MASKS)
            groups += self.groups(products, layout)
        orders = (Order(reason=reason),) * 2 if layout is None else layout.orders(reason)
        return Tiling(self.program, self.binding, self.grid.q_tile, self.grid.k_tile, tuple(groups), *orders)

    def groups(self, products: list[Members], layout: Layout | None) -> list[Group]:
        """Those of one mask."""
        heads, batches = products[0]
        runs = self.runs(self.classifier(heads[0], batches[0]), layout)
        return [Group(h, b, runs) for h, b in products]

    def runs(self, c: Classifier, layout: Layout | None) -> Runs:
        grid = self.grid
        if not grid.rows or not grid.cols:
            empty = np.zeros(0, np.int32)
            return Runs(np.zeros(grid.rows + 1, np.int32), empty, empty, empty.astype(np.uint8))
        if layout is None:
            found = _tiles(c, self.analysis.form, grid, self.budget)
        else:
            found = tiles_in_order(c, layout, grid, self.budget)
        return assemble(grid.rows, grid.cols, found.r0, found.r1, found.c0, found.c1, found.kind)

    def laid_out(self, layout: str) -> Tiling:
        """The plan with the fewest tiles among the orders that the mask suggests (and, if free to choose, none)."""
        if layout == "auto" and self.grid.rows == 1:
            return self.plan(None, _FEW_QUERIES)
        spaces = (self.program.q_space, self.program.k_space)
        heads, batches = self.members[0][0]
        found = list(candidates(self.classifier(heads[0], batches[0]), self.grid, spaces, layout))
        if ":" in layout:
            return self.plan(found[0], "asked for")
        if not found:
            return self.plan(None, _NO_ORDER)
        return self._best(found, layout == "auto")

    def _best(self, found: list[Layout], free: bool) -> Tiling:
        """The plan in the best of some orders; if ``free``, the tokens' own where none is much better."""
        limit = min(_TRIALS, self.budget.limit) if free else 2 * self.budget.limit
        plans = self._trials(found, limit)
        tried = [(plan, each) for plan, each in zip(plans, found, strict=True) if plan is not None]
        most = LEAST_GAIN * min((_executed(plan) for plan, _ in tried), default=math.inf)
        tokens = self._trial(None, limit // 2, most) if free else None
        left_out = ", ".join(each.name for plan, each in zip(plans, found, strict=True) if plan is None)
        left_out = left_out and f"not tried, since planning in it takes too long: {left_out}"
        if not tried and isinstance(tokens, Tiling):
            return _named(tokens, left_out)
        if not tried:
            try:
                return self.plan(None, left_out)
            except MaskcError:  # Then an order is taken whatever it costs to plan in.
                plans, left_out = self._trials(found, self.budget.limit), ""
                tried = [(plan, each) for plan, each in zip(plans, found, strict=True) if plan is not None]
                if not tried:
                    raise
        best, chosen = min(tried, key=lambda t: _executed(t[0]))
        reason = _reason(tokens, tried, free) + (left_out and f" ({left_out})")
        if isinstance(tokens, Tiling) and _executed(tokens) < most:
            return _named(tokens, f"no order has at least {LEAST_GAIN} times fewer tiles: {chosen.name} has {reason}")
        q_order, k_order = chosen.orders(reason)
        return replace(best, q_order=q_order, k_order=k_order)

    def _trials(self, layouts: list[Layout], left: int) -> list[Tiling | None]:
        """Plans in some orders. Together they cost no more than ``left``, and each but the last no more than half of
        what is left of that; None for those that would."""
        plans = list[Tiling | None]()
        for each in layouts:
            before = self.budget.before
            found = self._trial(each, left if each is layouts[-1] else left // 2)
            plans.append(found if isinstance(found, Tiling) else None)
            left -= self.budget.before - before
        return plans

    def _trial(self, layout: Layout | None, limit: int, most: float = math.inf) -> Tiling | int | None:
        """The plan in an order; None if it costs more than ``limit``; where it is given up because it has ``most``
        tiles to compute, or more, how many it has at least."""
        whole = self.budget
        self.budget = Budget(limit, whole.watch, whole.before, most=most)
        try:
            return self.plan(layout, "")
        except Outdone as e:
            return e.tiles
        except MaskcError:
            return None
        finally:
            whole.before += self.budget.spent
            self.budget = whole


#: What trying orders of the tokens may cost together, in evaluations of the mask, and half as much again for their own
#: order: a few seconds. That one comes last: once another is known to be much better, it need not be planned in full.
_TRIALS = 100_000_000
_NO_ORDER = "the mask suggests no order of the tokens"
_FEW_QUERIES = "for a single row of tiles, gathering the keys costs more than it saves"


def _named(plan: Tiling, reason: str) -> Tiling:
    """A plan in the tokens' own order, with the reason for that."""
    return replace(plan, q_order=Order(reason=reason), k_order=Order(reason=reason))


def _reason(tokens: Tiling | int | None, tried: list[tuple[Tiling, Layout]], compared: bool) -> str:
    """The tiles of the best order, of the tokens' own (a number: at least so many), and of the others tried."""
    first, *rest = sorted(tried, key=lambda t: _executed(t[0]))
    own = " (the tokens' own order takes too long to plan)" if compared else ""
    if tokens is not None:
        number = f"at least {tokens:,}" if isinstance(tokens, int) else f"{_executed(tokens):,}"
        own = f" instead of {number} in the tokens' own order"
    others = ", ".join(f"{layout.name} {_executed(plan):,}" for plan, layout in rest)
    return f"{_executed(first[0]):,} tiles{own}" + (f" (also tried: {others})" if others else "")


def _executed(plan: Tiling) -> int:
    """Tiles that are computed, over all heads and batch entries."""
    return _computed(plan.groups)


def _computed(groups: Sequence[Group]) -> int:
    return sum(int((g.runs.end - g.runs.start).sum()) * len(g.heads) * len(g.batches) for g in groups)


def _tiles(c: Classifier, form: RowForm | None, grid: Grid, budget: Budget) -> Rectangles:
    found = rowwise(c, form, grid, budget) if form is not None else None
    if found is None:
        return subdivide(c, grid, None, budget)
    done, unknown = found
    return Rectangles.join([done, subdivide(c, grid, unknown, budget)]) if unknown.size else done

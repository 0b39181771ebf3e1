"""What would make a mask cheaper: each sentence rests on figures of a plan that was really made."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from maskc.ir.nodes import Apply, Const, Exists, Lookup, Node, Symbol, postorder
from maskc.ir.ops import apply
from maskc.ir.rewrite import substitute
from maskc.tiles.analysis import analyse
from maskc.tiles.compare import TILE_SIZES, Allowance, compare_tiles
from maskc.tiles.cost import ROUGH, CostModel, plan_cost
from maskc.tiles.figures import Advice, Statistics
from maskc.tiles.report import numbers
from maskc.tiles.rowsets import row_sets
from maskc.tiles.runs import row_of_runs

if TYPE_CHECKING:
    import numpy.typing as npt

    from maskc.tiles.tiling import Runs, Tiling

    Array = npt.NDArray[np.int64]

__all__ = ["advice", "union_tiles"]

_WORTH = 1.1  # times faster, or it is not mentioned
_BUDGET = 20_000_000  # evaluations that trying each kind of alternative may cost: about half a second
_MOST_RUNS = 1 << 21  # with more, alternatives are not planned
_FEW = 0.05  # share of queries that look ahead as if by mistake
_SIMILAR = (0.7, 1.3)  # share of the pairs that a rounded window may keep
_Q, _K = Symbol("q"), Symbol("k")


def advice(plan: Tiling, found: Statistics, furthest: Array, model: CostModel = ROUGH) -> Iterator[Advice]:
    """What to do, the defects of the mask first. ``found``: the plan's statistics without advice; ``furthest``: the
    last key that each query sees, as ``survey`` finds it."""
    if not found.useful_pairs:
        if found.useful_exact and found.dense_pairs:
            yield Advice("empty", "the mask keeps no pair: every output is zero")
        return
    yield from _blind(found)
    yield from _ahead(plan, found, furthest)
    if found.runs <= _MOST_RUNS:
        yield from _tiles(plan, model)
        yield from _layout(plan)
        yield from _stride(plan, found, model)
        yield from _share(plan)
    yield from _balance(found)
    yield from _cache(found)


def _blind(found: Statistics) -> Iterator[Advice]:
    for g in found.groups:
        if g.blind:
            heads = _named("head", g.heads) if len(found.groups) > 1 else "the mask"
            first = f"the first is query {g.first_blind}"
            text = (
                f"{g.blind:,} queries of {heads} keep no key ({first}): their output is zero; `assert some k` says so"
            )
            yield Advice("blind", text)
            return


def _ahead(plan: Tiling, found: Statistics, furthest: Array) -> Iterator[Advice]:
    """Keys of the future, where the pattern claims that there are none, or where only few queries see some."""
    if found.liveness is None or found.liveness.causal or plan.program.cross or not found.liveness.exact:
        return
    claimed = any(a.claim is apply("le", _K, _Q) for a in plan.program.assertions)
    b = plan.binding
    q = np.arange(b.q_len) + b.offset
    ahead = furthest > q
    count, first = int(ahead.sum()), int(np.argmax(ahead))
    if claimed or count <= _FEW * b.q_len:
        why = "although the pattern asserts `k <= q`" if claimed else "which few others do: for decoding add `& causal`"
        yield Advice(
            "ahead",
            f"{count:,} queries see later keys (query {int(q[first])} sees key {int(furthest[first])}), {why}",
        )


def _tiles(plan: Tiling, model: CostModel) -> Iterator[Advice]:
    choice = compare_tiles(plan, TILE_SIZES, model, plan.q_order.name.partition(":")[0], _BUDGET)
    best, gain = choice.plan, plan_cost(plan, model) / choice.cost
    if gain > _WORTH:
        fewer = _executed(plan) / max(1, _executed(best))
        does = f"execute {fewer:.1f} times fewer pairs and " if fewer > 1.05 else ""
        text = f"tiles of {best.q_tile} x {best.k_tile} would {does}run {gain:.1f} times faster by the cost model"
        yield Advice("tiles", text, gain)
    if choice.left_out:
        sizes = ", ".join(f"{q} x {k}" for q, k in choice.left_out)
        yield Advice("untried", f"tiles of {sizes} were not compared: planning them takes too long here")


def _layout(plan: Tiling) -> Iterator[Advice]:
    if plan.q_order.name != "none":
        return
    size = {"q_tile": plan.q_tile, "k_tile": plan.k_tile}
    other = Allowance(2 * _BUDGET).plan(plan.program, plan.binding, layout="auto", **size)
    if other is None:
        yield Advice("untried", "other orders of the tokens were not compared: planning them takes too long here")
    elif other.q_order.name != "none" and _executed(plan) > _WORTH * _executed(other):
        gain = _executed(plan) / max(1, _executed(other))
        text = f"in the token order {other.q_order.name} it would execute {gain:.1f} times fewer pairs: use layout auto"
        yield Advice("layout", text, gain)


def _stride(plan: Tiling, found: Statistics, model: CostModel) -> Iterator[Advice]:
    """Groups of queries that share one window."""
    if found.liveness is None or found.partial * 20 < found.full or not _is_regular(_bound(plan)):
        return
    causal = found.liveness.exact and found.liveness.causal
    own, best = plan_cost(plan, model), None
    allowance, size = Allowance(_BUDGET), {"q_tile": plan.q_tile, "k_tile": plan.k_tile}
    layout = plan.q_order.name.partition(":")[0]
    on_grid = bool(_coordinates(_bound(plan)))
    for stride in (2, 4, 8) if on_grid else (plan.q_tile,):
        changed = _shared(plan, stride, causal)
        if changed is None:
            continue
        other = allowance.plan(plan.program.replace(mask=changed), plan.binding, layout=layout, **size)
        gain = 0.0 if other is None else own / plan_cost(other, model)
        if other is None or gain <= max(_WORTH, 0.0 if best is None else best[1] * 1.05):
            continue
        kept = _kept(other)  # Last: counting takes longer than planning.
        if kept is not None and _SIMILAR[0] <= kept / found.useful_pairs <= _SIMILAR[1]:
            best = (stride, gain, kept / found.useful_pairs)
    if best is not None:
        shared = f"every {best[0]} queries {'along each axis ' if on_grid else ''}share the window of their"
        text = (
            f"the window is not aligned with tiles: with stride {best[0]} ({shared} {'last' if causal else 'middle'} "
            f"one) it would run {best[1]:.1f} times faster, keeping {100 * best[2]:.0f} % as many pairs"
        )
        yield Advice("stride", text, best[1])


def _is_regular(mask: Node) -> bool:
    """Whether windows may be rounded: nothing is looked up or drawn, and blocks of queries do not share theirs yet."""
    nodes = list(postorder([mask]))
    if any(isinstance(n, (Lookup, Exists)) or (isinstance(n, Apply) and n.op == "hash") for n in nodes):
        return False
    places = _coordinates(mask)
    return not places or any(isinstance(n, Apply) and n.op == "mod" for n in places)


def _bound(plan: Tiling) -> Node:
    return analyse(plan.program, plan.binding).program.mask


def _coordinates(mask: Node) -> dict[Node, int | None]:
    """Coordinates of the query (``q // 80 % 48``) with their extents where these are known; the largest terms."""
    found: dict[Node, int | None] = {}
    for node in postorder([mask]):
        if not (isinstance(node, Apply) and node.op in ("floordiv", "mod") and isinstance(node.args[1], Const)):
            continue
        inner, divisor = node.args[0], int(node.args[1].value)
        if divisor > 1 and (inner is _Q or inner in found):
            found.pop(inner, None)
            found[node] = divisor if node.op == "mod" else None
    return found


def _shared(plan: Tiling, stride: int, causal: bool) -> Node | None:
    """The mask with every ``stride`` queries looking as their middle one does; causal ones as their last."""
    mask, end = _bound(plan), plan.binding.offset + plan.binding.q_len
    places = _coordinates(mask) or {_Q: end}
    mapping: dict[Node, Node] = {}
    for node, extent in places.items():
        if extent is None:
            divisor = node.children[1]
            extent = -(-end // int(divisor.value)) if isinstance(divisor, Const) else end
        start = apply("mul", apply("floordiv", node, Const(stride)), Const(stride))
        leader = apply("add", start, Const(stride - 1 if causal else stride // 2))
        mapping[node] = apply("min", leader, Const(extent - 1))
    changed = substitute(mask, mapping)
    return None if changed is mask else apply("and", changed, apply("le", _K, _Q)) if causal else changed


def _kept(plan: Tiling) -> int | None:
    total = 0
    for g in plan.groups:
        sets = row_sets(plan.program, plan.binding, g.heads[0], g.batches[0])
        if sets is None:
            return None
        total += int(sets.counts().sum()) * len(g.heads) * len(g.batches)
    return total


def _executed(plan: Tiling) -> int:
    tiles = sum(int((g.runs.end - g.runs.start).sum()) * len(g.heads) * len(g.batches) for g in plan.groups)
    return tiles * plan.q_tile * plan.k_tile


def _share(plan: Tiling) -> Iterator[Advice]:
    """Masks whose tiles are nearly the same."""
    distinct = {id(g.runs): g for g in plan.groups}
    groups = sorted(distinct.values(), key=lambda g: int((g.runs.end - g.runs.start).sum()))
    for a, b in list(itertools.pairwise(groups))[:31]:
        first, second = (int((g.runs.end - g.runs.start).sum()) for g in (a, b))
        if not first or second > first * (1 + _FEW):
            continue
        both = union_tiles(a.runs, b.runs, plan.cols)
        more = 2 * both / (first + second) - 1
        if more <= _FEW:
            what = "heads" if a.heads != b.heads else "batch entries"
            one, two = (a.heads, b.heads) if a.heads != b.heads else (a.batches, b.batches)
            cost = "the same tiles" if more == 0 else f"{100 * more:.1f} % more tiles"
            pairs = f"{numbers(one)} and {numbers(two)}"
            yield Advice("share", f"{what} {pairs} could share one plan: it would execute {cost}")
            return


def union_tiles(a: Runs, b: Runs, cols: int) -> int:
    """How many tiles are computed by either of two sets of runs over the same rows and ``cols`` columns."""
    row = np.concatenate([row_of_runs(a), row_of_runs(b)]) * (cols + 1)
    start, end = row + np.concatenate([a.start, b.start]), row + np.concatenate([a.end, b.end])
    at = np.concatenate([start, end])
    order = np.argsort(at, kind="stable")
    open_ = np.cumsum(np.where(order < start.size, 1, -1))
    return int(np.diff(at[order])[open_[:-1] > 0].sum()) if at.size else 0


def _balance(found: Statistics) -> Iterator[Advice]:
    b = found.balance
    if b is None or b.in_order < _WORTH * min(b.heaviest_first, b.split):
        return
    how, after = ("heaviest rows first", b.heaviest_first)
    if b.split * _WORTH < b.heaviest_first:
        rows = "1 long row" if b.split_rows == 1 else f"{b.split_rows:,} long rows"
        how, after = f"heaviest rows first and {rows} split along the keys", b.split
    text = (
        f"on {b.workers} workers the longest takes {b.in_order:.2f} times the mean: {how} makes that {after:.2f} "
        "(maskc.tiles.schedule)"
    )
    yield Advice("balance", text, b.in_order / after)


def _cache(found: Statistics) -> Iterator[Advice]:
    live = found.liveness
    if live is None or not live.exact or not live.causal or found.reach is None or 2 * live.most > found.k_len:
        return
    text = f"decoding needs a KV cache of {live.most:,} keys, not of {found.k_len:,}: no later query sees the others"
    yield Advice("cache", text, found.k_len / live.most if live.most else None)


def _named(what: str, which: tuple[int, ...]) -> str:
    return f"{what}{'s' if len(which) > 1 else ''} {numbers(which)}"

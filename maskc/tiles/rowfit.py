"""A row form fitted to a grid of tiles and to what the inputs hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.ir.nodes import FALSE, TRUE, Const, Node, Symbol, Type
from maskc.ir.ops import apply, conjunction, disjunction
from maskc.passes.rows import conjuncts
from maskc.tiles.budget import OPERATIONS, Budget
from maskc.tiles.classify import Classifier
from maskc.tiles.columns import Columns, PairColumns, columns_of_keys, joint_labels, shared_labels
from maskc.tiles.differences import Diagonals, diagonals, with_differences
from maskc.tiles.equalities import equal_label, label_pair
from maskc.tiles.grid import Grid
from maskc.tiles.orderings import Order, ordered_places, places_in_order
from maskc.tiles.rowform import Bounds, RowForm, Solved, cuts_of, on_difference

__all__ = ["columns_of", "fitted"]

Array = npt.NDArray[Any]


def fitted(c: Classifier, form: RowForm, grid: Grid) -> tuple[RowForm, dict[str, Array]]:
    """The form for a grid, and where the runs of labels start that are contiguous (and where the last one ends).

    Labels that come back later become pairs of labels, which some keys may need none of. A condition on ``q - k``
    becomes a clause for each stretch of differences that it holds for. Remainders of ``q - k`` whose period is below
    what a tile holds are no digits: every tile has all of them.
    """
    labels = {name: _label_runs(c, name, grid.k_len) for x in form.clauses for name in x.labels}
    bounds = {name: found for name, found in labels.items() if found is not None}
    types = {p.name: p.type for p in c.params if p.name in labels and p.name not in bounds}
    clauses = tuple(_by_remainder(_with_pairs(c, x, types, grid), grid) for x in form.clauses)
    clauses = with_differences(c, clauses, grid)
    clauses = tuple(_settled(x, grid) for x in _by_difference(c, clauses, grid))
    clauses = tuple(_joined(clauses))
    cuts = {cut for x in clauses for d in x.digits for cut in d.cuts}
    cuts |= {cut for x in clauses if x.digits for cut in cuts_of(x.guard)}
    return RowForm(clauses, tuple(sorted({*form.cuts, *cuts}))), bounds


def _by_difference(c: Classifier, clauses: tuple[Solved, ...], grid: Grid) -> Iterator[Solved]:
    """Clauses with the same union, without conditions on ``q - k``, but for those that make very many stretches."""
    first, end = grid.offset - grid.k_len + 1, grid.offset + grid.q_len
    left = _MOST_STRETCHES
    for clause in clauses:
        stretches, rest = None, []
        together: Array | bool = True
        for part in conjuncts(clause.residual):
            condition = on_difference(part)
            if condition is not None:
                holds = _holds(c, condition, np.arange(first, end, dtype=np.int64), "k", c.budget) & together
                edges = np.flatnonzero(np.diff(holds, prepend=False, append=False)).reshape(-1, 2) + first
                if len(edges) <= left:
                    stretches, together = edges.tolist(), holds
                    continue
            rest.append(part)
        if stretches is None:
            yield clause
            continue
        left -= len(stretches)
        for low, high in stretches:
            lo = () if high == end else (apply("sub", Symbol("q"), Const(high - 1)),)
            hi = () if low == first else (apply("sub", Symbol("q"), Const(low - 1)),)
            bounds = Bounds((*clause.bounds.lo, *lo), (*clause.bounds.hi, *hi))
            yield replace(clause, bounds=bounds, residual=conjunction(rest))


#: Stretches of differences that conditions may hold for, all together, to be solved one by one.
_MOST_STRETCHES = 256


_MANY = 8  # pieces of a row of tiles


def _by_remainder(clause: Solved, grid: Grid) -> Solved:
    """The clause with ``q % n == k % n`` as ``(q - k) % n == 0`` where no other digit goes with it, and as a digit it
    would cut rows of tiles into many pieces."""
    most = min(grid.q_tile, grid.k_tile) // _MANY
    if all(d.part is not None or (d.alike is not None and d.modulus <= most) for d in clause.digits):
        return replace(
            clause, digits=tuple(replace(d, part=d.alike if d.part is None else d.part) for d in clause.digits)
        )
    return clause


def _settled(clause: Solved, grid: Grid) -> Solved:
    """The clause with its difference as a period or as a digit, and conditions that digits do not go with put last."""
    others = tuple(d for d in clause.digits if d.part is None)
    short = [d for d in clause.digits if d.part is not None and d.modulus < grid.q_tile + grid.k_tile]
    rest = [clause.residual]
    if not others and len(short) == len(clause.digits) == 1:
        return replace(clause, digits=(), period=short[0].modulus, once=not short[0].wraps)
    rest += [d.part for d in short if d.part is not None]
    digits = tuple(d for d in clause.digits if d not in short)
    if digits:
        rest += [clause.keep, *_of_pairs(clause)]
        clause = replace(clause, pairs=(), unequal=False, order=None, keep=TRUE)
    return replace(clause, digits=digits, residual=conjunction([x for x in rest if x is not TRUE]))


def _joined(clauses: tuple[Solved, ...]) -> Iterator[Solved]:
    """The clauses, those on the key alone within the same bounds as one, and as one with those on labels there, if any:
    ``same(doc) | mark[k]``. What two clauses touch is known by neither."""
    within: dict[Bounds, list[Solved]] = {}
    for x in clauses:
        if x.guard is TRUE is x.residual and not (x.digits or x.labels or x.period) and (x.pairs or x.keep is not TRUE):
            within.setdefault(x.bounds, []).append(x)
        else:
            yield x
    for found in within.values():
        labelled, on_key = ([x for x in found if bool(x.pairs) is some] for some in (True, False))
        keep = disjunction([x.keep for x in on_key])
        unequal = [x for x in labelled if x.unequal and x.keep is TRUE]
        if len(unequal) > 1:  # one pair of labels is not equal, or another one
            every = replace(unequal[0], pairs=tuple(dict.fromkeys(pair for x in unequal for pair in x.pairs)))
            labelled = [every, *(x for x in labelled if x not in unequal)]
        yield from (replace(x, free=keep) for x in labelled)
        if on_key and not labelled:
            yield replace(on_key[0], keep=keep)


def _label_runs(c: Classifier, name: str, k_len: int) -> Array | None:
    """Where runs of equal labels start, and where the last one ends; None if a label comes back later."""
    table = c.table(name)
    if table.ndim != 1 or table.size < k_len or not k_len:
        return None
    runs = c.label_runs(name)
    return None if runs.scattered else np.append(runs.starts[runs.starts < k_len], k_len)


def _with_pairs(c: Classifier, clause: Solved, scattered: Mapping[str, Type], grid: Grid) -> Solved:
    """The clause with scattered labels as pairs of labels. Contiguous ones that are not equal are known by boxes, and
    so are numbers in an order that rise with the position."""
    same = tuple(label_pair(name, scattered[name]) for name in clause.labels if name in scattered)
    labels = tuple(name for name in clause.labels if name not in scattered)
    plain = clause.guard is TRUE is clause.keep
    by_boxes = clause.unequal and plain and all(_contiguous(c, pair, grid.k_len) for pair in clause.pairs)
    by_boxes |= clause.order is not None and (grid.rows < _FEW_ROWS or _monotone(c, clause.order, grid))
    if by_boxes or (same and (clause.unequal or clause.order is not None)):
        residual = conjunction([x for x in (clause.residual, *_of_pairs(clause)) if x is not TRUE])
        clause = replace(clause, pairs=(), unequal=False, order=None, residual=residual)
    return replace(clause, labels=labels, pairs=(*same, *clause.pairs))


def _contiguous(c: Classifier, pair: tuple[Node, Node], k_len: int) -> bool:
    name = equal_label(apply("eq", *pair))
    return name is not None and _label_runs(c, name, k_len) is not None


#: Rows of tiles of which boxes are few, and take less than reading all keys, as for a step of decoding.
_FEW_ROWS = 16


def _monotone(c: Classifier, order: Order, grid: Grid) -> bool:
    """Whether what is in order rises, or falls, from each position to the next, at the queries and at the keys."""
    queries = c.points_of(order.query, np.arange(grid.offset, grid.offset + grid.q_len, dtype=np.int64), "q")
    keys = c.points_of(order.key, np.arange(grid.k_len, dtype=np.int64), "k")
    return all(not (x[1:] < x[:-1]).any() or not (x[1:] > x[:-1]).any() for x in (queries, keys))


def _of_pairs(clause: Solved) -> list[Node]:
    """What a clause says of its pairs of labels."""
    if clause.order is not None:
        return [clause.order.condition]
    if clause.unequal:
        return [disjunction([apply("ne", *pair) for pair in clause.pairs])]
    return [apply("eq", *pair) for pair in clause.pairs]


def columns_of(
    c: Classifier,
    clause: Solved,
    grid: Grid,
    starts: Array,
    reach: Callable[[Solved], tuple[Array, Array]],
    budget: Budget,
) -> Columns | PairColumns | Diagonals | None:
    """The key tiles that a clause's condition on the key passes, that its condition on ``q - k`` does, or that share a
    label with each fragment, or are in order with it, of queries and keys that its conditions admit. ``reach``: the key
    tiles that each fragment of queries may meet. None if there is no such condition, or if finding them takes too long.
    Raises MaskcError E801.
    """
    if clause.differences is not None:
        return diagonals(clause.differences, grid, starts, reach(clause), budget)
    if clause.keep is TRUE and not clause.pairs:
        return None
    keys = np.arange(grid.k_len, dtype=np.int64)
    kept = _holds(c, clause.keep, keys, "k", budget)
    if not clause.pairs:
        return columns_of_keys(np.asarray(kept), grid.k_tile)
    queries = np.arange(grid.offset, grid.offset + grid.q_len, dtype=np.int64)
    admitted = _holds(c, clause.guard, queries, "q", budget), kept
    free = None if clause.free is FALSE else np.asarray(_holds(c, clause.free, keys, "k", budget))
    if (order := clause.order) is not None:
        values = c.points_of(order.query, queries, "q"), c.points_of(order.key, keys, "k")
        places = places_in_order(*values, order.strict, order.unordered, admitted, free)
        return ordered_places(*places, starts, grid.k_tile, reach(clause), budget)
    q_labels = [c.points_of(a, queries, "q").astype(np.int64, copy=False) for a, _ in clause.pairs]
    k_labels = [c.points_of(b, keys, "k").astype(np.int64, copy=False) for _, b in clause.pairs]
    labels = joint_labels(q_labels, k_labels)
    return shared_labels(*labels, starts, grid.k_tile, reach(clause), budget, admitted, free, clause.unequal)


def _holds(c: Classifier, condition: Node, at: Array, name: str, budget: Budget | None) -> Array | bool:
    """Whether a condition on the query or on the key alone holds, at each of some of them."""
    if condition is TRUE:
        return True
    of = "conditions on the key" if name == "k" else "conditions on the query"
    if budget is not None:
        budget.spend(at.size * (1 + c.size_of(condition) // OPERATIONS), of)
    return c.points_of(condition, at, name)

"""A row form fitted to a grid of tiles and to what the inputs hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from maskc.ir.nodes import TRUE, Lookup, Node, Symbol, Type
from maskc.ir.ops import apply, conjunction
from maskc.tiles.budget import OPERATIONS, Budget
from maskc.tiles.classify import Classifier
from maskc.tiles.columns import Columns, SharedLabels, columns_of_keys, joint_labels, shared_labels
from maskc.tiles.grid import Grid
from maskc.tiles.rowform import RowForm, Solved, cuts_of

__all__ = ["columns_of", "fitted"]

Array = npt.NDArray[Any]


def fitted(c: Classifier, form: RowForm, grid: Grid) -> tuple[RowForm, dict[str, Array]]:
    """The form for a grid, and where the runs of labels start that are contiguous (and where the last one ends).

    Labels that come back later become pairs of labels. Remainders of ``q - k`` whose period is below what a tile
    holds are no digits: every tile has all of them.
    """
    labels = {name: _label_runs(c, name, grid.k_len) for x in form.clauses for name in x.labels}
    bounds = {name: found for name, found in labels.items() if found is not None}
    types = {p.name: p.type for p in c.params if p.name in labels and p.name not in bounds}
    clauses = tuple(_settled(_with_pairs(x, types), grid) for x in form.clauses)
    cuts = {cut for x in clauses for d in x.digits for cut in d.cuts}
    cuts |= {cut for x in clauses if x.digits for cut in cuts_of(x.guard)}
    return RowForm(clauses, tuple(sorted({*form.cuts, *cuts}))), bounds


def _settled(clause: Solved, grid: Grid) -> Solved:
    """The clause with its difference as a period or as a digit, and conditions that digits do not go with put last."""
    others = tuple(d for d in clause.digits if d.part is None)
    short = [d for d in clause.digits if d.part is not None and d.modulus < grid.q_tile + grid.k_tile]
    rest = [clause.residual]
    if not others and len(short) == len(clause.digits) == 1:
        return replace(clause, digits=(), period=short[0].modulus)
    rest += [d.part for d in short if d.part is not None]
    digits = tuple(d for d in clause.digits if d not in short)
    pairs, keep = clause.pairs, clause.keep
    if digits:
        rest += [keep, *(apply("eq", *pair) for pair in pairs)]
        pairs, keep = (), TRUE
    return replace(
        clause, digits=digits, pairs=pairs, keep=keep, residual=conjunction([x for x in rest if x is not TRUE])
    )


def _label_runs(c: Classifier, name: str, k_len: int) -> Array | None:
    """Where runs of equal labels start, and where the last one ends; None if a label comes back later."""
    table = c.table(name)
    if table.ndim != 1 or table.size < k_len or not k_len:
        return None
    runs = c.label_runs(name)
    return None if runs.scattered else np.append(runs.starts[runs.starts < k_len], k_len)


def _with_pairs(clause: Solved, scattered: Mapping[str, Type]) -> Solved:
    """The clause with scattered labels as pairs of labels."""
    same = tuple(_pair(name, scattered[name]) for name in clause.labels if name in scattered)
    labels = tuple(name for name in clause.labels if name not in scattered)
    return replace(clause, labels=labels, pairs=(*same, *clause.pairs))


def _pair(name: str, type_: Type) -> tuple[Node, Node]:
    return Lookup(name, type_, (Symbol("q"),)), Lookup(name, type_, (Symbol("k"),))


def columns_of(
    c: Classifier,
    clause: Solved,
    grid: Grid,
    starts: Array,
    reach: Callable[[Solved], tuple[Array, Array]],
    budget: Budget,
) -> Columns | SharedLabels | None:
    """The key tiles that a clause's condition on the key passes, or that share a label with each fragment, of queries
    and keys that its conditions admit. ``reach``: the key tiles that each fragment of queries may meet. None if there
    is no such condition, or if comparing labels takes too long. Raises MaskcError E801."""
    if clause.keep is TRUE and not clause.pairs:
        return None
    keys = np.arange(grid.k_len, dtype=np.int64)
    kept = _holds(c, clause.keep, keys, "k", budget)
    if not clause.pairs:
        return columns_of_keys(np.asarray(kept), grid.k_tile)
    queries = np.arange(grid.offset, grid.offset + grid.q_len, dtype=np.int64)
    admitted = _holds(c, clause.guard, queries, "q", budget), kept
    q_labels = [c.points_of(a, queries, "q").astype(np.int64, copy=False) for a, _ in clause.pairs]
    k_labels = [c.points_of(b, keys, "k").astype(np.int64, copy=False) for _, b in clause.pairs]
    return shared_labels(*joint_labels(q_labels, k_labels), starts, grid.k_tile, reach(clause), budget, admitted)


def _holds(c: Classifier, condition: Node, at: Array, name: str, budget: Budget) -> Array | bool:
    """Whether a condition on the query or on the key alone holds, at each of some of them."""
    if condition is TRUE:
        return True
    of = "conditions on the key" if name == "k" else "conditions on the query"
    budget.spend(at.size * (1 + c.size_of(condition) // OPERATIONS), of)
    return c.points_of(condition, at, name)

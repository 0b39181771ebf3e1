"""What pictures of every kind share: plans of a bearable size, differences as masks, bands along the axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from maskc.diagnostics import Diagnostic, MaskcError
from maskc.ir.nodes import Const, Lookup, Node, Param, Size
from maskc.ir.ops import conjunction, negation
from maskc.ir.program import Parameter, Program, Space
from maskc.ir.rewrite import map_program, rebuild, substitute

if TYPE_CHECKING:
    from maskc.ir.binding import Binding
    from maskc.tiles.tiling import Tiling

__all__ = ["Band", "apart", "bands", "closed", "constants", "difference", "plan_within"]

#: Spans of a band at most; one with more is only noise.
_MOST_SPANS = 64
#: What planning for a picture may cost, in evaluations of the mask at a point: about a second.
BUDGET = 100_000_000


@dataclass(frozen=True)
class Band:
    """Stretches of a sequence that belong together. ``name``: of the segments, or of the input that tells them apart.
    ``spans``: (start, end, label, colour number), from the first token shown."""

    name: str
    spans: tuple[tuple[int, int, str, int], ...]


def bands(program: Program, binding: Binding, side: str) -> tuple[Band, ...]:
    """The segments of a space, if it has several, and the inputs that give every token a label or a number,
    if they come in stretches. ``side``: "q" or "k"."""
    space = program.q_space if side == "q" and program.cross else program.k_space
    first, length = (binding.offset, binding.q_len) if side == "q" else (0, binding.k_len)
    found = [_segments(space, binding, first, length)] if len(space.segments) > 1 else []
    for p in program.params:
        along = (side, "token") if not program.cross or side == "k" else (side,)
        if len(p.domain) == 1 and p.domain[0] in along and p.type.value != "float" and p.name in binding.tables:
            band = _input(p, binding, first if p.domain[0] != "q" else 0, length)
            if 1 < len(band.spans) <= _MOST_SPANS:
                found.append(band)
    return tuple(found)


def _segments(space: Space, binding: Binding, first: int, length: int) -> Band:
    spans, at = [], 0
    for i, segment in enumerate(space.segments):
        extent = 1
        for size in segment.extents:
            extent *= binding.size(size.name)
        start, end = max(at - first, 0), min(at + extent - first, length)
        if start < end:
            spans.append((start, end, segment.name or ", ".join(segment.axes), i))
        at += extent
    return Band("segment", tuple(spans))


def _input(p: Parameter, binding: Binding, first: int, length: int) -> Band:
    import numpy as np

    table = np.asarray(binding.tables[p.name])
    values = (table[0] if p.name in binding.batched else table)[first : first + length].astype(np.int64)
    cuts = np.flatnonzero(np.diff(values)) + 1
    if cuts.size >= _MOST_SPANS or not values.size:
        return Band(p.name, ())
    starts, ends = [0, *cuts.tolist()], [*cuts.tolist(), int(values.size)]
    spans = []
    for start, end in zip(starts, ends, strict=True):
        value = int(values[start])
        label = p.labels[value] if p.labels and 0 <= value < len(p.labels) else f"{p.name} {value}"
        spans.append((start, end, label, value % 6))
    return Band(p.name, tuple(spans))


def closed(program: Program, binding: Binding) -> Program:
    """The program with its scalars and sizes put in, so that it can meet another one."""
    known = constants(program, binding)
    return map_program(program, lambda node: substitute(node, known))


def constants(program: Program, binding: Binding) -> dict[Node, Node]:
    """What stands for the scalars and sizes of a program."""
    known: dict[Node, Node] = {Size(n): Const(int(v)) for n, v in binding.sizes.items()}
    known[Size("q")], known[Size("k")] = Const(binding.q_len), Const(binding.k_len)
    for p in program.params:
        if p.is_scalar and p.name in binding.args:
            known[Param(p.name, p.type)] = Const(binding.args[p.name])
    return known


def difference(
    a: tuple[Program, Binding], b: tuple[Program, Binding]
) -> tuple[Binding, tuple[tuple[str, Program], ...]]:
    """One binding for two programs, and three programs: what both keep, what only the first, only the second keeps.

    Raises MaskcError (E504) if they are not over the same lengths.
    """
    one, two = a[1], b[1]
    shape = [(x.q_len, x.k_len, x.offset, x.heads) for x in (one, two)]
    if shape[0] != shape[1]:
        message = f"{a[0].name!r} and {b[0].name!r} cannot be compared: they are over different lengths"
        raise MaskcError(Diagnostic("E504", message, hint="compare self-attention with self-attention"))
    b = apart(a, b)
    two = b[1]
    names = [a[0].name, b[0].name] if a[0].name != b[0].name else ["the first", "the second"]
    params = {p.name: p for program, _ in (b, a) for p in program.params if not p.is_scalar}
    binding = one.replace(tables={**two.tables, **one.tables}, batched=one.batched | two.batched)
    first, second = closed(*a), closed(*b)
    masks = (
        ("both", conjunction([first.mask, second.mask])),
        (f"only {names[0]}", conjunction([first.mask, negation(second.mask)])),
        (f"only {names[1]}", conjunction([second.mask, negation(first.mask)])),
    )
    base = first.replace(params=tuple(params.values()))
    return binding, tuple((label, base.replace(mask=mask)) for label, mask in masks)


def apart(a: tuple[Program, Binding], b: tuple[Program, Binding]) -> tuple[Program, Binding]:
    """The second of two programs, with other names for tables that the first declares otherwise: labels of enumerations
    are numbers by their own order."""
    import numpy as np

    (one, mine), (two, theirs) = a, b
    other = {p.name: p for p in one.params}
    clash = {
        p.name: f"{p.name}'"
        for p in two.params
        if p.name in mine.tables and p.name in theirs.tables
        if replace(p, default=None) != replace(other[p.name], default=None)
        or not np.array_equal(mine.tables[p.name], theirs.tables[p.name])
    }

    def renamed(n: Node) -> Node:
        return Lookup(clash[n.name], n.type, n.indices) if isinstance(n, Lookup) and n.name in clash else n

    program = map_program(two, lambda root: rebuild(root, renamed))
    params = tuple(replace(p, name=clash.get(p.name, p.name)) for p in two.params)
    tables = {clash.get(name, name): table for name, table in theirs.tables.items()}
    batched = frozenset(clash.get(name, name) for name in theirs.batched)
    return program.replace(params=params), theirs.replace(tables=tables, batched=batched)


def plan_within(
    jobs: Sequence[tuple[Program, Binding]], *, tile: int = 128, most_runs: int = 120_000
) -> tuple[int, list[Tiling], bool]:
    """Plans of all jobs at one tile size: ``tile``, or the smallest doubling of it that keeps the runs few.

    Coarse plans are made first, since they tell what finer ones cost. The last value is False where even
    they are too much work: then every tile is called partial, and no one knows.
    """
    longest = max([1, *(n for _, b in jobs for n in (b.q_len, b.k_len))])
    size = tile
    while -(-longest // size) > 1024:
        size *= 2
    try:
        plans = _plans(jobs, size)
    except MaskcError as error:
        if error.codes != ("E801",):
            raise
        return size, [_unknown(program, binding, size) for program, binding in jobs], False
    while _runs(plans) > most_runs and size < longest:
        size *= 2
        plans = _plans(jobs, size)
    while size > tile and 4 * _runs(plans) <= most_runs:
        try:
            finer = _plans(jobs, size // 2)
        except MaskcError:
            break
        if _runs(finer) > most_runs:
            break
        size, plans = size // 2, finer
    return size, plans, True


def _plans(jobs: Sequence[tuple[Program, Binding]], tile: int) -> list[Tiling]:
    from maskc.tiles.planner import make_tiling

    made: dict[Any, Tiling] = {}
    for program, binding in jobs:
        key = (id(binding), program.mask)
        if key not in made:
            made[key] = make_tiling(program, binding, q_tile=tile, k_tile=tile, budget=BUDGET)
    return [made[(id(binding), program.mask)] for program, binding in jobs]


def _unknown(program: Program, binding: Binding, tile: int) -> Tiling:
    import numpy as np

    from maskc.tiles.runs import assemble
    from maskc.tiles.tiling import PARTIAL, Group, Tiling

    rows, cols = -(-binding.q_len // tile), -(-binding.k_len // tile)
    first = np.arange(rows, dtype=np.int64)
    kind = np.full(rows, PARTIAL, np.uint8)
    runs = assemble(rows, cols, first, first + 1, first * 0, first * 0 + cols, kind)
    everyone = tuple(range(binding.heads)), tuple(range(binding.batch))
    return Tiling(program, binding, tile, tile, (Group(*everyone, runs),))


def _runs(plans: Sequence[Tiling]) -> int:
    return sum({id(g.runs): g.runs.start.size for p in plans for g in p.groups}.values())

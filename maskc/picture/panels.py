"""Panels: grids of cells with a meaning each, and the ways to make one: of masks, differences, scores, neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from maskc.diagnostics import Diagnostic, MaskcError
from maskc.ir.nodes import Symbol, Type, postorder
from maskc.ir.program import Program
from maskc.picture.cells import fold, folded
from maskc.picture.scene import BUDGET, Band, bands, difference

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from maskc.ir.binding import Binding
    from maskc.tiles.tiling import Tiling

    Matrix = npt.NDArray[np.uint8]
    Bits = npt.NDArray[np.bool_]

__all__ = [
    "COLORS",
    "Panel",
    "diff_panel",
    "heat_panels",
    "is_scored",
    "mask_panels",
    "plan_panels",
    "reach_panel",
]

#: Colour of every class of cell, on light and on dark ground. Within a scale lightness alone tells them apart;
#: the two sides of a difference are blue and vermilion, which the colour-blind tell apart too.
COLORS: dict[str, tuple[str, str]] = {
    "none": ("#ffffff", "#10151b"),
    "some1": ("#dbe9f6", "#1b3147"),
    "some2": ("#abcfe6", "#24507a"),
    "some3": ("#68abd3", "#3478ac"),
    "some4": ("#3282bd", "#62a3d6"),
    "full": ("#084594", "#b3daff"),
    "both": ("#969ca3", "#6e7882"),
    "first": ("#084594", "#8cc4ff"),
    "second": ("#d55e00", "#f0a03c"),
    "mixed": ("#2b0a3d", "#f3e6ff"),
    "self": ("#e5007e", "#ff5fb0"),
    **{f"more{i}": c for i, c in enumerate([("#c8cdd3", "#3c4650"), ("#a4bfdc", "#46688c"), ("#5f92c8", "#5f98cd"),
                                           ("#084594", "#b3daff")])},
    **{f"less{i}": c for i, c in enumerate([("#c8cdd3", "#3c4650"), ("#e6b58c", "#80592e"), ("#dd8540", "#b87a33"),
                                           ("#b34700", "#ffb65c")])},
    **{f"step{i}": c for i, c in enumerate([("#0b2e5c", "#e8f3ff"), ("#08519c", "#b3daff"), ("#3182bd", "#7db8ea"),
                                           ("#6baed6", "#4c8fc6"), ("#9ecae1", "#35699a"), ("#c6dbef", "#264a6e"),
                                           ("#e3eef8", "#1b3147")])},
}  # fmt: skip
_EVALUATED = 1 << 20
_MOST_REACH = 2048
_PRODUCT = 1024  # multiplications of a product of matrices that take as long as an evaluation of a mask


@dataclass(frozen=True, eq=False)
class Panel:
    """A grid of cells.

    Attributes:
        title: what is shown.
        cells: (rows, columns); the number of each cell's class.
        classes: (key of ``COLORS``, label) by number; those of an empty label are not in the legend.
        q_step, k_step: queries and keys a cell covers.
        q_len, k_len, q_start: lengths, and the absolute position of the first query.
        tile: draw a grid of so many queries and keys; 0 for none.
        q_bands, k_bands: stripes along the axes.
        axes: names of the vertical and of the horizontal axis.
        note: a line below.
    """

    title: str
    cells: Matrix
    classes: tuple[tuple[str, str], ...]
    q_step: int
    k_step: int
    q_len: int
    k_len: int
    q_start: int = 0
    tile: int = 0
    q_bands: tuple[Band, ...] = ()
    k_bands: tuple[Band, ...] = ()
    axes: tuple[str, str] = ("query", "key")
    note: str = ""


_SHADES = (
    ("none", "not kept"),
    ("some1", ""),
    ("some2", "some kept"),
    ("some3", ""),
    ("some4", ""),
    ("full", "all kept"),
)
_PAIRS = (*_SHADES[:1], *((c, "") for c, _ in _SHADES[1:5]), ("full", "kept"))


def mask_panels(
    program: Program, binding: Binding, heads: Sequence[int] = (0,), *, cells: int = 96, tile: int = 128
) -> list[Panel]:
    """One panel a head, in at most ``cells`` rows and columns.

    Short masks are counted, cell by cell; long ones are taken from a plan with tiles of the cells' size,
    so that a mask of a million tokens takes no longer. Where that is too irregular to be planned, a cell
    shows its first pair, and the panel says so.
    """
    from maskc.tiles.budget import evaluations_of

    step = _step(binding, cells)
    try:
        pairs = binding.q_len * binding.k_len * evaluations_of(program, binding, outright=True)
        kinds = {} if pairs <= _EVALUATED else _kinds(program, binding, step)
    except MaskcError as error:
        if error.codes != ("E801",):
            raise
        return [_first_pairs(program, binding, head, step) for head in heads]
    found = []
    for head in heads:
        cell = kinds[head] if kinds else _counted(program, binding, head, cells)
        title = f"head {head} of {binding.heads}" if binding.heads > 1 else ""
        found.append(_over(program, binding, title, cell, _PAIRS if step == 1 else _SHADES, step, tile))
    return found


def _step(binding: Binding, cells: int) -> int:
    step = max(1, -(-max(binding.q_len, binding.k_len) // cells))
    unit = 1 if step <= 16 else 8 if step <= 1024 else 1024
    return -(-step // unit) * unit


def _over(
    program: Program,
    binding: Binding,
    title: str,
    cells: Matrix,
    classes: tuple[tuple[str, str], ...],
    step: int,
    tile: int,
) -> Panel:
    sides = [bands(program, binding, side)[:1] for side in ("q", "k")]
    return Panel(
        title, cells, classes, step, step, binding.q_len, binding.k_len, binding.offset, tile, sides[0], sides[1]
    )


def _first_pairs(program: Program, binding: Binding, head: int, step: int) -> Panel:
    import numpy as np

    from maskc.ir.evaluate import kept

    q = binding.offset + np.arange(0, binding.q_len, step, dtype=np.int64)[:, None]
    k = np.arange(0, binding.k_len, step, dtype=np.int64)[None]
    held = kept(program.mask, binding, q=q, k=k, h=head, params=program.params)
    cell = np.where(held, 5, 0).astype(np.uint8)
    title = f"head {head} of {binding.heads}" if binding.heads > 1 else ""
    panel = _over(program, binding, title, cell, _PAIRS, step, 0)
    note = "The mask is too irregular to be planned at this length: a cell shows its first pair only."
    return Panel(**{**vars(panel), "note": note})


def _counted(program: Program, binding: Binding, head: int, cells: int) -> Matrix:
    import numpy as np

    from maskc.picture.cells import survey

    found = survey(program, binding, head=head, rows=cells, columns=cells)
    shade = 1 + np.minimum(np.nan_to_num(found.density, nan=0.5) * 4, 3).astype(np.uint8)
    return np.choose(found.kind, [np.zeros_like(shade), shade, np.full_like(shade, 5)]).astype(np.uint8)


def _kinds(program: Program, binding: Binding, step: int) -> dict[int, Matrix]:
    """The shade of every cell for every head, from a plan with tiles that are not too coarse to be evaluated."""
    import numpy as np

    from maskc.tiles.planner import make_tiling
    from maskc.tiles.runs import to_dense

    side = fold(step, max(binding.q_len, binding.k_len))
    tile = step // side
    plan = make_tiling(program, binding, q_tile=tile, k_tile=tile, budget=BUDGET)
    numbers = np.array([0, 2, 5], np.uint8)
    made: dict[int, Matrix] = {}
    found = {}
    for head in range(binding.heads):
        runs = plan.group_of(head).runs
        if id(runs) not in made:
            made[id(runs)] = numbers[folded(to_dense(plan.group_of(head).runs, plan.cols), side, side)]
        found[head] = made[id(runs)]
    return found


def plan_panels(plan: Tiling, *, cells: int = 96) -> list[Panel]:
    """The tiles of a plan, one panel for each mask that heads and batch entries share; laid-out positions."""
    import numpy as np

    from maskc.tiles.runs import to_dense

    high, wide = (max(1, -(-n // cells)) for n in (plan.rows, plan.cols))
    classes = (("none", "empty"), ("some2", "partial"), ("full", "full"))
    binding, found = plan.binding, []
    for group in {id(g.runs): g for g in plan.groups}.values():
        heads = [h for g in plan.groups if g.runs is group.runs for h in g.heads]
        cell = folded(to_dense(group.runs, plan.cols), high, wide).astype(np.uint8)
        title = f"heads {_listed(sorted(set(heads)))}" if binding.heads > 1 else ""
        steps = (plan.q_tile * high, plan.k_tile * wide)
        tile = plan.q_tile if plan.q_tile == plan.k_tile and high == 1 else 0
        axes = ("query" if plan.q_order.index is None else f"query, laid out by {plan.q_order.name}",
                "key" if plan.k_order.index is None else f"key, laid out by {plan.k_order.name}")  # fmt: skip
        found.append(Panel(title, cell, classes, *steps, binding.q_len, binding.k_len, binding.offset, tile, axes=axes))
    return found


def _listed(numbers: Sequence[int]) -> str:
    text = ", ".join(map(str, numbers[:8]))
    return text if len(numbers) <= 8 else f"{text} and {len(numbers) - 8} more"


def diff_panel(
    a: tuple[Program, Binding], b: tuple[Program, Binding], head: int = 0, *, cells: int = 96, tile: int = 128
) -> Panel:
    """What both patterns keep, and what only one does. A cell with a pair that only one keeps shows that, however much
    both keep there: the least difference is seen at any size.

    Raises MaskcError if they are over different lengths, or the planner refuses.
    """
    import numpy as np

    binding, masks = difference(a, b)
    step = _step(binding, cells)
    both, first, second = (_kinds(p, binding, step)[head] > 0 for _, p in masks)
    cell = np.where(first & second, 4, np.where(second, 3, np.where(first, 2, both))).astype(np.uint8)
    names = [label for label, _ in masks]
    mixed = "some of each" if (cell == 4).any() else ""
    labels = [*names, ""] if step == 1 else [names[0], *(f"some {n}" for n in names[1:]), mixed]
    classes = (("none", "neither"), *zip(("both", "first", "second", "mixed"), labels, strict=True))
    note = "" if step == 1 else "A cell with a pair that only one keeps shows that, whatever else it holds."
    panel = _over(a[0], binding, f"head {head}" if binding.heads > 1 else "", cell, classes, step, tile)
    return Panel(**{**vars(panel), "note": note})


def heat_panels(program: Program, binding: Binding, heads: Sequence[int] = (0,), *, cells: int = 96) -> list[Panel]:
    """What the score expression makes of a score of 0, at the first pair of every cell that is kept: a panel a head,
    all on one scale.

    Raises KeyError if it reads an input that was not given.
    """
    step = _step(binding, cells)
    scores = [_scores(program, binding, head, step) for head in heads]
    most = max([0.0, *(float(abs(score[shown]).max()) for score, _, shown in scores if shown.any())])
    return [
        _heat(program, binding, head, step, most, score, kept)
        for head, (score, kept, _) in zip(heads, scores, strict=True)
    ]


def _scores(program: Program, binding: Binding, head: int, step: int) -> tuple[npt.NDArray[np.float64], Bits, Bits]:
    """Scores at the first pair of every cell; whether it is kept; and whether, besides, its score is finite."""
    import numpy as np

    from maskc.ir.evaluate import evaluate

    q = binding.offset + np.arange(0, binding.q_len, step, dtype=np.int64)[:, None]
    k = np.arange(0, binding.k_len, step, dtype=np.int64)[None]
    at: dict[str, Any] = {"q": q, "k": k, "h": head, "b": 0, "params": program.params}
    shape = (q.size, k.size)
    kept = np.broadcast_to(evaluate(program.mask, binding, **at), shape)
    score = np.broadcast_to(evaluate(program.score, binding, s=np.zeros(shape), **at), shape)
    return score, kept, kept & np.isfinite(score)


def _heat(
    program: Program, binding: Binding, head: int, step: int, most: float, score: npt.NDArray[np.float64], kept: Bits
) -> Panel:
    """One head's panel; ``most``: the end of the scale."""
    import numpy as np

    finite = np.where(kept & np.isfinite(score), score, 0)
    level = np.minimum(3, np.ceil(3 * np.abs(finite) / (most or 1.0))).astype(np.uint8)
    cell = np.where(score < 0, 4 + level, level + 1)
    cell = np.where(level == 0, 1, cell)
    cell = np.where(kept, np.where(np.isneginf(score), 0, cell), 0).astype(np.uint8)
    bounds = [f"{most * i / 3:.3g}" for i in range(4)]
    more = tuple((f"more{i}", f"+{bounds[i - 1]} to +{bounds[i]}") for i in (1, 2, 3))
    less = tuple((f"less{i}", f"\N{MINUS SIGN}{bounds[i - 1]} to \N{MINUS SIGN}{bounds[i]}") for i in (1, 2, 3))
    classes = (("none", "not kept"), ("more0", "unchanged"), *more, *less)
    used = set(np.unique(cell).tolist()) | {0, 1}
    classes = tuple((c, label if i in used else "") for i, (c, label) in enumerate(classes))
    note = "" if step == 1 else "Evaluated at the first pair of every cell."
    title = "score at s = 0" + (f", head {head}" if binding.heads > 1 else "")
    panel = _over(program, binding, title, cell, classes, step, 0)
    return Panel(**{**vars(panel), "note": note})


def reach_panel(program: Program, layers: Sequence[Binding], head: int | None = None, *, cells: int = 96) -> Panel:
    """After how many layers a query knows of a key: by way of any head, or of one.

    ``layers``: a binding for every layer, over one sequence. A cell shows the least of its pairs.
    Raises MaskcError: E504 beyond 2048 tokens, where the exact answer takes too long, and for cross-attention; E801
    where a mask that takes long, many heads or many layers make it take too long.
    """
    import numpy as np

    first = layers[0]
    if first.q_len != first.k_len or first.cross or program.cross:
        raise MaskcError(Diagnostic("E504", "reach is about self-attention over a whole sequence"))
    if first.q_len > _MOST_REACH:
        message = f"reach is drawn for up to {_MOST_REACH} tokens, not {first.q_len}"
        raise MaskcError(Diagnostic("E504", message, hint=f"give a shorter length, as in --q {_MOST_REACH}"))
    after = _reach(program, layers, head)
    step = _step(first, cells)
    starts = np.arange(0, first.q_len, step)
    least = np.minimum.reduceat(np.minimum.reduceat(after, starts, axis=0), starts, axis=1)
    never = len(layers) + 1
    cell = np.where(least == never, 0, 1 + np.minimum(least - 1, 6)).astype(np.uint8)
    names = [f"after {i} layer{'s' if i > 1 else ''}" for i in range(1, len(layers) + 1)][:7]
    if len(layers) > 7:
        names[6] = "after 7 or more"
    classes = (("none", "never"), *((f"step{i}", name) for i, name in enumerate(names)))
    panel = _over(program, first, "reach", cell, classes, step, 0)
    return Panel(**{**vars(panel), "note": "By residual connections, every token knows of itself from the start."})


def _reach(program: Program, layers: Sequence[Binding], head: int | None) -> npt.NDArray[np.int64]:
    """(n, n): after how many layers query q can depend on the input of key k; one more than there are if never."""
    import numpy as np

    from maskc.ir.evaluate import dense
    from maskc.tiles.budget import BUDGET, Budget, evaluations_of

    n = layers[0].q_len
    budget = Budget(BUDGET)
    known = np.eye(n, dtype=np.float32)
    after = np.full((n, n), len(layers) + 1, np.int64)
    spoken = {x.name for x in postorder([program.mask]) if isinstance(x, Symbol)}
    for i, binding in enumerate(layers):
        heads = range(binding.heads) if head is None else [head]
        kept = np.zeros((n, n), np.bool_)
        budget.spend(n**3 // _PRODUCT, "what each layer brings")
        budget.each = evaluations_of(program, binding)
        for h in heads if "h" in spoken else heads[:1]:
            budget.evaluate(n * n, "every pair, of every head and layer")
            kept |= dense(program, binding, h)
        seen = kept.astype(np.float32) @ known + known > 0
        after = np.where(seen & (after > len(layers)), i + 1, after)
        if seen.all() or ("layer" not in spoken and (seen == (known > 0)).all()):
            break  # further layers bring nothing new
        known = seen.astype(np.float32)
    return after


def is_scored(program: Program) -> bool:
    """Whether there is a score expression to draw."""
    return program.score is not Symbol("s") and program.score.type is Type.FLOAT

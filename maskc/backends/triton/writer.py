"""What all kernels share: the frame of a file, its arguments, the loops over tiles and the mask of partial ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from maskc.backends.triton.expressions import Block, Expressions, table_name, without_brackets
from maskc.backends.triton.places import InnerText, place_arguments
from maskc.backends.triton.sides import ends_with_queries
from maskc.backends.triton.spec import Argument, Kernel, KernelSpec
from maskc.backends.triton.spelling import HELPERS, ascii_text
from maskc.backends.triton.tiles import FULL_ENDS, PART_ENDS, PART_SKIP, RECORD, SHARE
from maskc.ir.nodes import Node
from maskc.ir.text import MOST_SHOWN, print_node

__all__ = [
    "CAREFUL",
    "CONSTANTS",
    "arguments",
    "assemble",
    "bounds_lines",
    "careful_rows",
    "hide_lines",
    "instance_lines",
    "interval_lines",
    "joined_lines",
    "keep_lines",
    "key_tile_lines",
    "line_of",
    "loop_lines",
    "origin",
    "partial_lines",
    "plan_line",
    "query_tile_lines",
    "row_lines",
    "share_lines",
    "stored_ragged",
]

CONSTANTS = """LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)
LN2: tl.constexpr = tl.constexpr(0.6931471805599453)
# Below every score, and finite, so that a row that has kept nothing yet needs no special care.
LOWEST: tl.constexpr = tl.constexpr(-3.0e38)
"""

#: Arguments that every kernel has, in order: the plan, lengths and strides come after the tensors.
PLAN = ("plan_of", "schedule", "full_tiles", "part_tiles")
#: The same where full and partial tiles are one sequence.
JOINED_PLAN = ("plan_of", "schedule", "tiles")


def plan_line(place: str, name: str = "plan") -> str:
    """Which mask the head at ``place`` of all heads of batch entries has."""
    return f"{name} = 0 if ONE_PLAN else tl.load(plan_of + {place})"


def line_of(plan: str) -> str:
    """A line of the schedule: that of the row of tiles that an instance works for, under a mask."""
    return f"line = schedule + ({plan} * tile_rows + slot) * {RECORD}"


def instance_lines(head: str, heads: str, *, careful: bool = False, numbered: bool = True) -> list[str]:
    """What a program instance works for: its ``slot`` in the schedule, the ``head`` of ``heads``, the batch entry
    ``b``; where ``numbered`` also its ``program``, one number for all three, which is all that a ``FLAT`` grid has.
    ``careful``: as the start of ``careful_rows``, by ``number``."""
    return [
        f"if {'CAREFUL or FLAT' if careful else 'FLAT'}:",
        f"    program = {'number if CAREFUL else ' if careful else ''}tl.program_id(0)",
        f"    slot, {head}, b = program % tile_rows, program // tile_rows % {heads}, program // tile_rows // {heads}",
        "else:",
        f"    slot, {head}, b = tl.program_id(0), tl.program_id(1), tl.program_id(2)",
        *([f"    program = (b * {heads} + {head}) * tile_rows + slot"] if numbered else []),
    ]


def row_lines(spec: KernelSpec, plan: str = "plan") -> list[str]:
    """Which row of tiles a program instance works for, by the plan's schedule. All that an instance has to wait for
    is read first, at once: each step from one load to the next costs it a good part of the time of a tile."""
    lines = [
        "# Rows with much work come first in the schedule, so that none of them is left for the end.",
        line_of(plan),
        "tile_row = tl.load(line)",
    ]
    if spec.shared:
        lines += [
            "# Long rows are cut into shares, which leave their part to be joined; -1: a whole row.",
            f"share = tl.load(line + {SHARE})",
        ]
    return lines


def bounds_lines(joined: bool = False) -> list[str]:
    """Where the loops over full and over partial tiles start and end, by a line of the schedule: tiles themselves, or
    places in the list of them. ``joined``: there is one loop; unless tiles are listed, full ones are a run in it."""
    if joined:
        return [
            f"tile_a, tile_z = tl.load(line + {PART_ENDS[0]}), tl.load(line + {PART_ENDS[1]})",
            "if ONE_RUN:",
            f"    full_a, full_z = tl.load(line + {FULL_ENDS[0]}), tl.load(line + {FULL_ENDS[1]})",
            "else:",
            "    next_tile = tl.load(tiles + tile_a)",
        ]
    return [
        f"full_a, full_z = tl.load(line + {FULL_ENDS[0]}), tl.load(line + {FULL_ENDS[1]})",
        f"part_a, part_z = tl.load(line + {PART_ENDS[0]}), tl.load(line + {PART_ENDS[1]})",
        "if FULL_RUN == 2:  # two runs of tiles: where the first one ends, and how far it is to the second",
        "    skip = full_tiles + (plan * tile_rows + slot) * 2",
        "    full_cut, full_gap = tl.load(skip), tl.load(skip + 1)",
        "elif not FULL_RUN:",
        "    full_next = tl.load(full_tiles + full_a)",
        "if PART_RUN == 2:",
        f"    part_cut, part_gap = tl.load(line + {PART_SKIP[0]}), tl.load(line + {PART_SKIP[1]})",
        "elif not PART_RUN:",
        "    part_next = tl.load(part_tiles + part_a)",
    ]


def share_lines(side: str, matrices: Sequence[tuple[str, str, str]], vectors: Sequence[tuple[str, str]]) -> list[str]:
    """Leave an instance's part of a row in float32 buffers (shares, rows of other programs, tile, width), and nothing
    for the stores that follow. ``matrices``: buffer, value, and the name of the places in its last axis, whose width
    is that name in capitals. ``vectors``: buffer, value."""
    tile = f"{side.upper()}_TILE"
    place = f"tl.cast(share * (programs // tile_rows) + program // tile_rows, tl.int64) * {tile}"
    lines = [
        "",
        f"    place = {place} + tl.arange(0, {tile})",
        f"    cut = {side}_there & (share >= 0)",
    ]
    for buffer, value, axis in matrices:
        there = f"cut[:, None] & ({axis}[None, :] < {axis.upper()})"
        lines.append(
            f"    tl.store({buffer} + place[:, None] * {axis.upper()} + {axis}[None, :], {value}, mask={there})"
        )
    lines += [f"    tl.store({buffer} + place, {value}, mask=cut)" for buffer, value in vectors]
    return [*lines, f"    {side}_there = {side}_there & (share < 0)"]


def stored_ragged(spec: KernelSpec, side: str) -> str:
    """Whether some of a tile's tokens have no place in what is written, as text. Where all do, nothing is compared:
    a place that only goes into addresses is a constant away from the last one's, and takes no register."""
    return "True" if spec.shared else f"RAGGED_{side.upper()}"


def origin(*parts: tuple[str, Node]) -> list[str]:
    """Comments that say which expressions of the pattern the lines below compute. Printable ASCII only."""
    return [f"# {word} {ascii_text(print_node(node, most=MOST_SHOWN))}" for word, node in parts]


def arguments(tensors: Sequence[tuple[str, str]], spec: KernelSpec, used: Expressions, strides: str) -> list[Argument]:
    """All arguments: ``tensors`` with their kinds, the plan, intervals, tables, extents, lengths and strides.

    ``strides``: the tensors that have strides of their own, as words.
    """
    out = [Argument(name, kind) for name, kind in tensors]
    out += [Argument(name, "int32") for name in (JOINED_PLAN if spec.joined else PLAN)]
    if spec.clauses is not None:
        out += [Argument(name, "int32") for name in ("interval_low", "interval_high")]
    if spec.boxed:
        out += [
            *(Argument(name, "int32") for name in ("box_low", "box_high", "box_point")),
            Argument("box_guard", "int"),
        ]
    params = spec.program.params
    pointers = {table_name(p.name, params): p.name for p in params}
    tables = [name for name in used.used if name in pointers]
    out += [Argument(name, "table", pointers[name]) for name in tables]
    usual = ["q_len", "k_len", "offset", "heads", "group", "tile_rows"]
    more = [name for name in used.used if name not in pointers and name not in usual]
    out += [Argument(name, "int") for name in (*usual, *more)]
    out += [*place_arguments("q", spec.q_steps), *place_arguments("k", spec.k_steps)]
    out.append(Argument("scale", "float"))
    for tensor in strides.split():
        kinds = {"n": "constexpr"} if spec.steady else {}
        out += [Argument(f"{tensor}_s{axis}", kinds.get(axis, "int")) for axis in "bhnd"]
    return out


CONSTEXPRS = (
    "FLAT",
    "AT_ONCE",
    "D",
    "D_PAD",
    "DV",
    "DV_PAD",
    "Q_TILE",
    "K_TILE",
    "RAGGED_Q",
    "RAGGED_K",
    "FULL_RUN",
    "PART_RUN",
    "ONE_RUN",
    "ONE_PLAN",
    "PRECISION",
)


def assemble(name: str, purpose: str, args: list[Argument], body: list[str], helpers: Iterable[str]) -> Kernel:
    """The file: header, helper functions, the kernel."""
    words = set(re.findall(r"\w+", "\n".join(body)))
    args = [*args, *(Argument(c, "constexpr") for c in CONSTEXPRS if c in words)]
    wanted = {key for key in helpers if key in words}
    ordered = tuple(key for key in HELPERS if key in wanted)
    function = "@triton.jit\ndef " + name + "(\n" + _wrapped(args) + "\n):\n" + "\n".join(body)
    parts = [
        f'"""{purpose}\n\nWritten by maskc from a pattern; the same text serves all lengths.\n"""',
        "import triton\nimport triton.language as tl",
        CONSTANTS.rstrip(),
        *(HELPERS[key].rstrip() for key in ordered),
        function,
    ]
    return Kernel(name, "\n\n\n".join(parts) + "\n", tuple(args), function, ordered)


def _wrapped(args: list[Argument]) -> str:
    lines, line = [], "   "
    for a in args:
        word = f" {a.name}: tl.constexpr," if a.kind == "constexpr" else f" {a.name},"
        if len(line) + len(word) > 110:
            lines.append(line)
            line = "   "
        line += word
    return "\n".join([*lines, line])


def loop_lines(kind: str) -> list[str]:
    """The head of the loop. A row's tiles of one kind that are contiguous need no list, nor do two runs of them. A list
    is read one tile ahead: the loads of a tile whose place is itself loaded in the same turn would not be under way
    before that turn, however many stages the pipeline has."""
    run = f"{kind.upper()}_RUN"
    return [
        f"for i in tl.range({kind}_a, {kind}_z):",
        f"    if {run} == 2:",
        f"        tile = i + tl.where(i >= {kind}_cut, {kind}_gap, 0)",
        f"    elif {run}:",
        "        tile = i",
        "    else:",
        f"        tile = {kind}_next",
        f"        {kind}_next = tl.load({kind}_tiles + i + 1)",
    ]


def joined_lines() -> list[str]:
    """The head of the one loop over full and partial tiles in order. Listed tiles are twice their number, and one more
    where they are partial; the list is read one tile ahead, as those of ``loop_lines``."""
    return [
        "# Full tiles, every pair of which is kept, and partial ones.",
        "for i in tl.range(tile_a, tile_z):",
        "    if ONE_RUN:",
        "        tile, partial = i, (i < full_a) | (i >= full_z)",
        "    else:",
        "        tile, partial = next_tile >> 1, (next_tile & 1) != 0",
        "        next_tile = tl.load(tiles + i + 1)",
    ]


def partial_lines(block: Block, masked: Block | None, name: str, otherwise: str) -> None:
    """In a loop over all tiles, set ``name`` to ``otherwise`` where a partial tile keeps no pair; ``masked``, nested in
    ``block``, sets ``keep``. None: nothing, as in the loop over full tiles."""
    if masked is not None:
        block.add("if partial:")
        masked.add(f"{name} = tl.where(keep, {name}, {otherwise})")
        block.lines += masked.lines


def key_tile_lines(block: Block, keys: InnerText, positions: bool) -> None:
    """Where a tile of keys is; with ``positions``, also where its tokens are."""
    if positions:
        block.add("k_idx = tile * K_TILE + k_in[None, :]")
    found = keys.positions if positions else ()
    for line in [*found, *keys.inside] if keys.row == "k_idx" else [*keys.inside, *found]:
        block.add(line)


def query_tile_lines(block: Block, queries: InnerText, partial: bool, positions: bool) -> None:
    """Where a tile of queries is; with ``positions``, also where its tokens are. ``partial``: some may be missing."""
    block.add("q_idx = tile * Q_TILE + q_in")
    if partial:
        block.add("q_there = q_idx < q_len")
    if queries.row == "q_idx":
        lines = [*(queries.positions if positions else ()), *queries.inside]
    else:
        lines = [*queries.inside, *queries.positions]
    for line in lines:
        block.add(line)


def interval_lines(spec: KernelSpec, block: Block, index: str, there: str, orient: str) -> None:
    """Load what the plan says of every query of a tile: the bounds of its key intervals, or of its box. ``orient``: how
    a vector is given two axes."""
    if spec.boxed:
        block.add(f"place = tl.cast(plan, tl.int64) * q_len + {index}")
        for name in ("low", "high"):
            block.add(f"{name} = load(box_{name} + place, {there}, RAGGED_Q){orient}")
    for c in range(spec.clauses or 0):
        block.add(f"place = (tl.cast(plan, tl.int64) * {spec.clauses} + {c}) * q_len + {index}")
        block.add(f"low_{c} = load(interval_low + place, {there}, RAGGED_Q){orient}")
        block.add(f"high_{c} = load(interval_high + place, {there}, RAGGED_Q){orient}")


_ROWS = """
    first, last, step = 0, 1, 1
    if CAREFUL:
        # Once more, and slowly, for rows with a NaN: it may be in a key that no query of a partial tile keeps.
        first, step = tl.program_id(0), tl.num_programs(0)
        mine = first + tl.arange(0, 1024) * step
        last = tl.where(tl.max(tl.load(poisoned + mine, mask=mine < programs, other=0), 0) > 0, programs, 0)
    for number in tl.range(first, last, step):
{instance}
        if not CAREFUL or tl.load(poisoned + program) != 0:
"""
#: Arguments of kernels that are started a second time for rows with a NaN.
CAREFUL = (Argument("poisoned", "int32"), Argument("programs", "int"), Argument("CAREFUL", "constexpr"))


def careful_rows(body: Sequence[str], result: str, instance: Sequence[str], alike: bool = True) -> list[str]:
    """The ``body`` of a kernel that computes the matrix ``result``, so that it can be started a second time for the
    rows that got a NaN. With the care that this takes in every partial tile, it would be half as fast. ``instance``:
    the lines that say what a program instance works for: see ``instance_lines``. ``alike``: only keys bring a NaN that
    is none of a row's own, not what a row that keeps nothing holds itself."""
    start = _ROWS.format(instance="\n".join(f"        {line}" for line in instance))
    inside = [f"        {line}" if line else "" for text in body for line in text.split("\n")]
    note = ["if not CAREFUL:", f"    nothing = tl.sum({result} * 0.0, 1)  # but for NaN and infinity"]
    if alike:
        note += [
            "    # Times 0 such a key still gives NaN: in every row of a column alike, so the first row tells.",
            "    at = tl.arange(0, Q_TILE)",
            "    tl.store(poisoned + program + at * 0, (nothing != nothing).to(tl.int32), mask=at == 0)",
        ]
    else:
        note.append("    tl.store(poisoned + program, tl.max((nothing != nothing).to(tl.int32)))")
    note = [f"            {line}" for line in note]
    return [*start.strip("\n").split("\n"), *inside, *note]


def hide_lines(block: Block, name: str, axis: int, transposed: bool) -> None:
    """With care, set to 0 what is in the tile ``name`` of keys that no query needs which is there."""
    block.add("if CAREFUL:")
    block.add(f"    {name} = visible({name}, keep & q_there[:, None], {axis}, {transposed})")


def keep_lines(
    spec: KernelSpec, used: Expressions, block: Block, before: Block, ragged: Sequence[tuple[str, str]]
) -> None:
    """Lines that set ``keep``: which pairs of a partial tile are kept, over both axes.

    ``ragged``: flags, and what holds of pairs that exist, for the sides on which a tile may be ragged.
    """
    for line in origin(("attend", spec.program.mask)):
        block.add(line)
    whole = "(Q_TILE, K_TILE)" if used.outer == "q" else "(K_TILE, Q_TILE)"
    if spec.clauses is not None:
        # The bounds are laid-out positions of keys and never pass the end.
        place = "k_pos" if spec.k_steps is None else "k_idx" if used.outer == "q" else "k_idx[:, None]"
        words = [f"({place} >= low_{c}) & ({place} < high_{c})" for c in range(spec.clauses)]
        text = " | ".join(f"({w})" for w in words) if len(words) > 1 else "".join(words)
        block.add(f"keep = {text}" if words else f"keep = tl.full({whole}, 0, tl.int1)")
        return
    if spec.boxed:
        where, index = (block, "k_idx") if used.outer == "q" else (before, "k_idx[:, None]")
        where.add(f"point = tl.load(box_point + tl.cast(plan, tl.int64) * k_len + {index})")
        # All bits of the guard in both: one instruction for what is not, and its comparison with 0.
        block.add("keep = (~((point - low) & (high - point)) & box_guard) == 0")
        _ragged_lines(spec, block, ragged)
        return
    text = used.write(spec.program.mask, block, before, double=True)
    if used.depends(spec.program.mask) >= {"q", "k"}:
        block.add(f"keep = {without_brackets(text)}")
    else:
        # By way of an integer: the interpreter takes a comparison of two floats of no shape for a float.
        block.add(f"keep = (tl.zeros({whole}, tl.int32) + tl.where({without_brackets(text)}, 1, 0)) != 0")
    _ragged_lines(spec, block, ragged)


def _ragged_lines(spec: KernelSpec, block: Block, ragged: Sequence[tuple[str, str]]) -> None:
    for flag, there in ragged:
        if flag == "RAGGED_K" and not spec.boxed and spec.k_steps is None and ends_with_queries(spec.program):
            continue  # no query that is there keeps a key beyond the last one
        block.add(f"if {flag}:")
        block.add(f"    keep = keep & ({there})")

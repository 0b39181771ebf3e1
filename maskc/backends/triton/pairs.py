"""The kernel of the gradients of float inputs that are read by query and key together, such as position biases.

A program instance owns one block of sums over pairs, (Q_TILE, K_TILE): it adds up, in registers, the derivatives of
a list of tiles that read the same elements at the same places. Tiles along a diagonal do where a look-up depends
on ``q - k`` alone; those of several heads or batch entries do where it does not depend on these. Which elements a
block belongs to is left to the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from maskc.backends.triton.backward import buffers, score_lookups, tensors
from maskc.backends.triton.expressions import Block, Expressions, Unsupported
from maskc.backends.triton.spec import Argument, Kernel, KernelSpec
from maskc.backends.triton.weights import derivatives, is_softmax, slope_lines, statistic_line, times, weigh
from maskc.backends.triton.writer import PLAN, arguments, assemble, keep_lines
from maskc.ir.nodes import Apply, Lookup, Node, Symbol, Type, postorder
from maskc.passes.linear import linear

__all__ = ["JOBS", "Grouping", "grouping", "is_by_difference", "write_pairs"]

#: The lists that say what a program instance adds up: first and last member and tile of each; what they are.
JOBS = ("member_first", "member_last", "tile_first", "tile_last", "members", "tile_rows", "tile_columns")

_HEAD = """
    program = tl.program_id(0)
    member_a = tl.load(member_first + program)
    member_z = tl.load(member_last + program)
    tile_a = tl.load(tile_first + program)
    tile_z = tl.load(tile_last + program)
    q_in = tl.arange(0, Q_TILE)
    k_in = tl.arange(0, K_TILE)
    d = tl.arange(0, D_PAD)
    dv = tl.arange(0, DV_PAD)
    q_at = q_in[:, None] * q_sn + d[None, :] * q_sd
    do_at = q_in[:, None] * do_sn + dv[None, :] * do_sd
    k_at = k_in[None, :] * k_sn + d[:, None] * k_sd
    v_at = k_in[None, :] * v_sn + dv[:, None] * v_sd
"""

_LOOPS = """
    # Heads of batch entries, and their tiles, one after another: the order of the sum never changes.
    for member in tl.range(member_a, member_z):
        bh = tl.load(members + member)
        b = bh // heads
        h = bh % heads
        q_base = q_ptr + tl.cast(b, tl.int64) * q_sb + tl.cast(h, tl.int64) * q_sh
        do_base = do_ptr + tl.cast(b, tl.int64) * do_sb + tl.cast(h, tl.int64) * do_sh
        k_base = k_ptr + tl.cast(b, tl.int64) * k_sb + tl.cast(h // group, tl.int64) * k_sh
        v_base = v_ptr + tl.cast(b, tl.int64) * v_sb + tl.cast(h // group, tl.int64) * v_sh
        for i in tl.range(tile_a, tile_z):
            q_shift = tl.cast(tl.load(tile_rows + i), tl.int64) * Q_TILE
            k_shift = tl.cast(tl.load(tile_columns + i), tl.int64) * K_TILE
            q_idx = tl.cast(q_shift, tl.int32) + q_in
            k_idx = tl.cast(k_shift, tl.int32) + k_in[None, :]
            q_there = q_idx < q_len
            q_pos = offset + q_idx[:, None]
            k_pos = k_idx
            row = tl.cast(bh, tl.int64) * q_len + q_idx
"""

_LOADS = """
            query = load(q_base + q_shift * q_sn + q_at, q_there[:, None] & (d[None, :] < D), RAGGED_Q or D != D_PAD)
            key = load(k_base + k_shift * k_sn + k_at, (k_idx < k_len) & (d[:, None] < D), RAGGED_K or D != D_PAD)
            score = tl.dot(query, key, input_precision=PRECISION)
"""

_PRODUCT = """
            out_there = q_there[:, None] & (dv[None, :] < DV)
            grad_out = load(do_base + q_shift * do_sn + do_at, out_there, RAGGED_Q or DV != DV_PAD)
            value = load(v_base + k_shift * v_sn + v_at, (k_idx < k_len) & (dv[:, None] < DV), RAGGED_K or DV != DV_PAD)
            grad_weight = tl.dot(grad_out, value, input_precision=PRECISION)
"""


def write_pairs(spec: KernelSpec) -> Kernel:
    """The sums over pairs of ``score_lookups``, a block for each program instance. The mask is evaluated at every
    pair: a list may hold tiles that a member does not keep. Raises Unsupported."""
    lookups = score_lookups(spec).pairs
    for node in lookups:
        if Symbol("s") in postorder(node.indices):
            raise Unsupported(f"the gradient of {node.name!r}, whose place depends on the score, is not computed")
    by_lookups = derivatives(spec, lookups)[1:]
    used = Expressions(spec.program, spec.batched, "q", [spec.program.score, spec.program.mask, *by_lookups])
    before, block = Block(indent=3, hoisted=True), Block(indent=3)
    keep_lines(spec, used, block, before, [("RAGGED_Q", "q_there[:, None]"), ("RAGGED_K", "k_idx < k_len")])
    block.lines += _PRODUCT.strip("\n").split("\n")
    for name in ("level", "delta") if is_softmax(spec) else ():
        block.add(statistic_line(name, "row", "[:, None]"))
    weigh(spec, used, block, before, True)
    slope_lines(spec, block, "always")
    for i, slope in enumerate(by_lookups):
        block.add(f"table_{i} += {times(used, slope, block, before, True)}")
    lines = _HEAD.strip("\n").split("\n")
    lines += [f"    table_{i} = tl.zeros((Q_TILE, K_TILE), tl.float32)" for i in range(len(lookups))]
    lines += [*_LOOPS.rstrip().split("\n"), *before.lines, *_LOADS.strip("\n").split("\n"), *block.lines, ""]
    lines.append("    place = (tl.cast(program, tl.int64) * Q_TILE + q_in[:, None]) * K_TILE + k_in[None, :]")
    lines += [f"    tl.store(table_{i}_ptr + place, table_{i})" for i in range(len(lookups))]
    args = arguments([*tensors(spec, ""), *buffers(lookups)], spec, used, "q k v do")
    args = [Argument(name, "int32") for name in JOBS] + [a for a in args if a.name not in PLAN and a.name not in JOBS]
    purpose = "Attention, backward: sums over pairs."
    return assemble("attention_pairs", purpose, args, lines, ["load", *used.helpers])


class Grouping(NamedTuple):
    """What the sums of some look-ups are kept apart by: the head, the batch entry; and whether tiles with one
    difference of row and column may share them."""

    by_head: bool
    by_batch: bool
    by_difference: bool


def grouping(lookups: Sequence[Lookup], batched: frozenset[str], square: bool) -> Grouping:
    """The grouping that suits all of the look-ups. ``square``: tiles are as wide as they are high."""
    below = list(postorder(lookups))
    by_batch = Symbol("b") in below or any(isinstance(n, Lookup) and n.name in batched for n in below)
    return Grouping(Symbol("h") in below, by_batch, square and all(is_by_difference(n) for n in lookups))


def is_by_difference(node: Node) -> bool:
    """Whether the value of ``node`` is a function of ``q - k``: the same if both move by one."""
    found: dict[Node, bool] = {}
    for n in postorder([node]):
        form = linear(n) if n.type is Type.INT else None
        if isinstance(n, Apply) and n.op in _COMPARISONS and n.args[0].type is Type.INT:
            form = linear(n.args[0]).plus(linear(n.args[1]), -1)  # both sides may move alike
        if form is None or form.terms == ((n, 1),):
            found[n] = n not in _POSITIONS and all(found[c] for c in n.children)
        else:
            shift = sum(factor for atom, factor in form.terms if atom in _POSITIONS)
            found[n] = shift == 0 and all(found[atom] for atom, _ in form.terms if atom not in _POSITIONS)
    return found[node]


_POSITIONS = {Symbol("q"): 1, Symbol("k"): 1}
_COMPARISONS = ("lt", "le", "eq", "ne")

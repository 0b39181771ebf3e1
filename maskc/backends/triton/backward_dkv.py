"""The backward kernel of dK and dV, by columns of tiles: on the transposed plan."""

from __future__ import annotations

from collections.abc import Sequence

from maskc.backends.triton.backward import (
    buffers,
    clears_empty_rows,
    expressions_of,
    grad_score,
    indented,
    indented_lines,
    loop_head,
    score_lookups,
    tensors,
    text_lines,
)
from maskc.backends.triton.expressions import Block, Expressions
from maskc.backends.triton.places import inner_text, outer_text
from maskc.backends.triton.spec import Argument, Kernel, KernelSpec
from maskc.backends.triton.tiles import FULL_ENDS
from maskc.backends.triton.weights import is_softmax, slope_lines, statistic_line, weigh
from maskc.backends.triton.writer import (
    arguments,
    assemble,
    bounds_lines,
    instance_lines,
    interval_lines,
    joined_lines,
    keep_lines,
    line_of,
    partial_lines,
    plan_line,
    query_tile_lines,
    row_lines,
    share_lines,
    stored_ragged,
)
from maskc.ir.nodes import Node

__all__ = ["write_dkv"]

_DKV_HEAD = """
    kv_heads = heads // group
{instance}
    {plan}
{taken}

    k_in = tl.arange(0, K_TILE)
    k_idx = tile_row * K_TILE + k_in
    k_there = k_idx < k_len
{tokens}    d = tl.arange(0, D_PAD)
    dv = tl.arange(0, DV_PAD)
{shift}    k_at = {k_rows} + d[None, :] * k_sd
    k_base = k_ptr + tl.cast(b, tl.int64) * k_sb + tl.cast(kv_head, tl.int64) * k_sh{k_start}
    key = load(k_base + k_at, k_there[:, None] & (d[None, :] < D), RAGGED_K or D != D_PAD)
    v_at = {v_rows} + dv[None, :] * v_sd
    v_base = v_ptr + tl.cast(b, tl.int64) * v_sb + tl.cast(kv_head, tl.int64) * v_sh{v_start}
    value = load(v_base + v_at, k_there[:, None] & (dv[None, :] < DV), RAGGED_K or DV != DV_PAD)
{queries}
    grad_key = tl.zeros((K_TILE, D_PAD), tl.float32)
    grad_value = tl.zeros((K_TILE, DV_PAD), tl.float32)

    # The query heads that share this key head, one after another: the order of the sum never changes.
    for member in range(group):
        h = kv_head * group + member
        bh = b * heads + h
        {plan_of_head}
        {line}
{bounds}
        q_base = q_ptr + tl.cast(b, tl.int64) * q_sb + tl.cast(h, tl.int64) * q_sh
        do_base = do_ptr + tl.cast(b, tl.int64) * do_sb + tl.cast(h, tl.int64) * do_sh
        row = tl.cast(bh, tl.int64) * q_len
"""
_QUERIES = (("q", "[None, :]"), ("do", "[:, None]"))

_UNKEPT = """
    {line}
    if tl.load(line + {full_first}) == tl.load(line + {full_last}):
        # Else a tile is kept whole, and so is every key by some query. One that is not gets 0, even for a value of NaN.
        unkept = tl.max(tl.abs(grad_value), 1) == 0.0
        grad_key = tl.where(unkept[:, None] & (grad_key != grad_key), 0.0, grad_key)
"""

_DKV_STORE = """
    dk_at = {dk_rows} + d[None, :] * dk_sd
    dk_base = dk_ptr + tl.cast(b, tl.int64) * dk_sb + tl.cast(kv_head, tl.int64) * dk_sh{dk_start}
    dk_there = k_there[:, None] & (d[None, :] < D)
    store(dk_base + dk_at, grad_key * scale, dk_there, {ragged} or D != D_PAD)
    dv_at = {dv_rows} + dv[None, :] * dv_sd
    dv_base = dv_ptr + tl.cast(b, tl.int64) * dv_sb + tl.cast(kv_head, tl.int64) * dv_sh{dv_start}
    dv_there = k_there[:, None] & (dv[None, :] < DV)
    store(dv_base + dv_at, grad_value, dv_there, {ragged} or DV != DV_PAD)
"""


def write_dkv(spec: KernelSpec) -> Kernel:
    """dK and dV on the transposed plan, and the column sums of ``score_lookups``. Raises Unsupported."""
    lookups = score_lookups(spec).columns
    used = expressions_of(spec, "k", lookups)
    before = Block(indent=2, hoisted=True)
    inner = [f"        table_{i} = tl.zeros((K_TILE,), tl.float32)" for i in range(len(lookups))]
    loops: list[str] = []
    if spec.joined:
        loops += ["", *indented_lines(joined_lines(), 2), *_joined_dkv_body(spec, used, before)]
    for kind in () if spec.joined else ("full", "part"):
        loops += loop_head(kind, 2) + _dkv_body(spec, used, before, lookups, kind == "part")
    columns = outer_text("k", spec.k_steps, "k_in", "K_TILE", spec.steady)
    queries = "\n".join(f"    {x}" for x in inner_text("q", spec.q_steps, _QUERIES, spec.steady).before)
    fields = {"plan": plan_line("b * heads + kv_head * group", "first_plan"), "plan_of_head": plan_line("bh")}
    fields |= {"instance": indented(instance_lines("kv_head", "kv_heads", numbered=spec.shared), 1)}
    fields |= {"taken": indented(row_lines(spec, "first_plan"), 1), "bounds": indented(bounds_lines(spec.joined), 2)}
    head = columns.fill(_DKV_HEAD, queries=queries, line=line_of("plan"), **fields)
    lines = [*text_lines(head), *inner, *before.lines, *loops]
    lines += [
        f"        store(table_{i}_ptr + tl.cast(bh, tl.int64) * k_len + {columns.row}, table_{i}, k_there, RAGGED_K)"
        for i in range(len(lookups))
    ]
    if clears_empty_rows(spec):
        lines += [
            "",
            *text_lines(_UNKEPT.format(line=line_of("first_plan"), full_first=FULL_ENDS[0], full_last=FULL_ENDS[1])),
        ]
    given = []
    if spec.shared:
        pair = [("share_dk_ptr", "grad_key * scale", "d"), ("share_dv_ptr", "grad_value", "dv")]
        lines += share_lines("k", pair, [])
        given = [(name, "float32") for name, _, _ in pair]
    lines += ["", *text_lines(columns.fill(_DKV_STORE, ragged=stored_ragged(spec, "k")))]
    args = arguments([*tensors(spec, "dk dv"), *given, *buffers(lookups)], spec, used, "q k v do dk dv")
    args += [Argument("programs", "int")] if spec.shared else []
    helpers = ["load", "store", "spread", "visible", *used.helpers]
    return assemble("attention_dkv", "Attention, backward: dK and dV.", args, lines, helpers)


def _dkv_body(spec: KernelSpec, used: Expressions, before: Block, lookups: Sequence[Node], partial: bool) -> list[str]:
    block = Block(indent=3)
    queries = inner_text("q", spec.q_steps, _QUERIES, spec.steady)
    query_tile_lines(block, queries, partial, partial or not spec.plain_score)
    masked = "RAGGED_Q or " if partial else ""
    q_there = "q_there[None, :] & (d[:, None] < D)" if partial else "d[:, None] < D"
    do_there = "q_there[:, None] & (dv[None, :] < DV)" if partial else "dv[None, :] < DV"
    block.add(f"query = load({queries.pointer.format('q')}, {q_there}, {masked}D != D_PAD)")
    block.add("score = tl.dot(key, query, input_precision=PRECISION)")
    place = f"row + {queries.row}"
    if is_softmax(spec):
        block.add(statistic_line("level", place, "[None, :]", whole=not partial))
    block.add(f"grad_out = load({queries.pointer.format('do')}, {do_there}, {masked}DV != DV_PAD)")
    block.add("grad_weight = tl.dot(value, tl.trans(grad_out), input_precision=PRECISION)")
    if partial:
        if spec.masked_by_plan:
            interval_lines(spec, block, "q_idx", "q_there", "[None, :]")
        keep_lines(spec, used, block, before, [("RAGGED_Q", "q_there[None, :]")])
    weigh(spec, used, block, before, partial)
    if is_softmax(spec):
        block.add(statistic_line("delta", place, "[None, :]", whole=not partial))
    grad = grad_score(spec, used, block, before, lookups, partial)
    if partial and not clears_empty_rows(spec):
        block.add("needed = keep & k_there[:, None]")
        block.add("query = visible(query, needed, 0, True)")
        block.add("grad_out = visible(grad_out, needed, 0, False)")
    _add_gradients(block, grad)
    return block.lines


def _add_gradients(block: Block, grad: str) -> None:
    """What a tile of queries adds to dV and, with the gradient of scores called ``grad``, to dK."""
    block.add("grad_value = tl.dot(tl.cast(weight, grad_out.dtype), grad_out, grad_value, input_precision=PRECISION)")
    block.add(f"grad_key = tl.dot(tl.cast({grad}, query.dtype), tl.trans(query), grad_key, input_precision=PRECISION)")


def _joined_dkv_body(spec: KernelSpec, used: Expressions, before: Block) -> list[str]:
    """The body of the loop over all tiles, of a spec that ``joins_dkv``."""
    block = Block(indent=3)
    queries = inner_text("q", spec.q_steps, _QUERIES, spec.steady)
    query_tile_lines(block, queries, False, False)
    block.add(f"query = load({queries.pointer.format('q')}, d[:, None] < D, D != D_PAD)")
    block.add("score = tl.dot(key, query, input_precision=PRECISION)")
    place = f"row + {queries.row}"
    block.add(statistic_line("level", place, "[None, :]", whole=True))
    block.add(f"grad_out = load({queries.pointer.format('do')}, dv[None, :] < DV, DV != DV_PAD)")
    block.add("grad_weight = tl.dot(value, tl.trans(grad_out), input_precision=PRECISION)")
    masked = block.nested()
    for line in queries.positions if queries.row == "q_idx" else ():
        masked.add(line)
    keep_lines(spec, used, masked, before, [])
    partial_lines(block, masked, "score", 'float("-inf")')
    weigh(spec, used, block, before, False)
    block.add(statistic_line("delta", place, "[None, :]", whole=True))
    slope_lines(spec, block)
    _add_gradients(block, "grad_score")
    return block.lines

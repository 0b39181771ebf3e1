"""The backward kernel of dQ, by rows of tiles; it leaves delta and the level of each row for that of dK and dV."""

from __future__ import annotations

from collections.abc import Sequence

from maskc.backends.triton.backward import (
    buffers,
    clears_empty_rows,
    expressions_of,
    grad_score,
    indented,
    loop_head,
    score_lookups,
    sums_delta_again,
    tensors,
    text_lines,
)
from maskc.backends.triton.expressions import Block, Expressions
from maskc.backends.triton.places import inner_text, outer_text
from maskc.backends.triton.spec import Argument, Kernel, KernelSpec
from maskc.backends.triton.weights import derivatives, is_softmax, times, weigh
from maskc.backends.triton.writer import (
    CAREFUL,
    arguments,
    assemble,
    bounds_lines,
    careful_rows,
    hide_lines,
    instance_lines,
    interval_lines,
    keep_lines,
    key_tile_lines,
    plan_line,
    row_lines,
    share_lines,
    stored_ragged,
)
from maskc.ir.nodes import Node

__all__ = ["write_dq"]

_DQ_HEAD = """
    bh = b * heads + h
    {plan}
{taken}

    q_in = tl.arange(0, Q_TILE)
    q_idx = tile_row * Q_TILE + q_in
    q_there = q_idx < q_len
{tokens}    d = tl.arange(0, D_PAD)
    dv = tl.arange(0, DV_PAD)
{shift}    q_at = {q_rows} + d[None, :] * q_sd
    q_base = q_ptr + tl.cast(b, tl.int64) * q_sb + tl.cast(h, tl.int64) * q_sh{q_start}
    query = load(q_base + q_at, q_there[:, None] & (d[None, :] < D), RAGGED_Q or D != D_PAD)
    do_at = {do_rows} + dv[None, :] * do_sd
    do_base = do_ptr + tl.cast(b, tl.int64) * do_sb + tl.cast(h, tl.int64) * do_sh{do_start}
    out_there = q_there[:, None] & (dv[None, :] < DV)
    grad_out = load(do_base + do_at, out_there, RAGGED_Q or DV != DV_PAD)
    row = tl.cast(bh, tl.int64) * q_len + {row}
"""

_OUT = """
    o_at = {o_rows} + dv[None, :] * o_sd
    o_base = out_ptr + tl.cast(b, tl.int64) * o_sb + tl.cast(h, tl.int64) * o_sh{o_start}
    out = load(o_base + o_at, out_there, RAGGED_Q or DV != DV_PAD)
    if LSE_GRAD:
        lse_grad = load(lse_grad_ptr + row, q_there, RAGGED_Q)
    lse = load(lse_ptr + row, q_there, RAGGED_Q, float("-inf"))
"""
_DELTA = """
    average = tl.sum(tl.cast(out, tl.float32) * tl.cast(grad_out, tl.float32), 1)
    delta_row = average
    if LSE_GRAD:
        # Whatever follows from a log-sum-exp of minus infinity.
        delta_row -= tl.where(lse == float("-inf"), 0.0, lse_grad)
"""
_LEVEL = """
    level_row = tl.where(lse == float("-inf"), float("inf"), lse * LOG2E)
    store(level_ptr + row, level_row, q_there, RAGGED_Q)
    level = level_row[:, None]
"""
_DELTA_STORE = "    store(delta_ptr + row, delta_row, q_there, RAGGED_Q)"
_EXACT_DELTA = """
    # What the average lacks for having been taken of a rounded output.
    lacking = exact - average
    delta_row += lacking
"""

_DQ_KEYS = """
    k_base = k_ptr + tl.cast(b, tl.int64) * k_sb + tl.cast(h // group, tl.int64) * k_sh
    v_base = v_ptr + tl.cast(b, tl.int64) * v_sb + tl.cast(h // group, tl.int64) * v_sh
"""
_KEYS = (("k", "[None, :]"), ("v", "[None, :]"))

_DQ_STORE = """
    dq_at = {dq_rows} + d[None, :] * dq_sd
    dq_base = dq_ptr + tl.cast(b, tl.int64) * dq_sb + tl.cast(h, tl.int64) * dq_sh{dq_start}
    store(dq_base + dq_at, dq * scale, q_there[:, None] & (d[None, :] < D), {ragged} or D != D_PAD)
"""


def write_dq(spec: KernelSpec) -> Kernel:
    """dQ, and the row sums of ``score_lookups``. Raises Unsupported."""
    lookups = score_lookups(spec).rows
    used = expressions_of(spec, "q", lookups)
    before = Block(hoisted=True)
    rows = outer_text("q", spec.q_steps, "q_in", "Q_TILE", spec.steady)
    softmax, exact = is_softmax(spec), sums_delta_again(spec)
    taken = [*row_lines(spec), *bounds_lines()]
    lines = text_lines(rows.fill(_DQ_HEAD, plan=plan_line("bh"), taken=indented(taken, 1)))
    delta = []
    if softmax:
        lines += text_lines(rows.fill(_OUT))
        delta = [*text_lines(_LEVEL), *text_lines(_DELTA), *([] if exact else [_DELTA_STORE])]
        delta.append("    delta = delta_row[:, None]")
    lines += [*text_lines(_DQ_KEYS), *(f"    {x}" for x in inner_text("k", spec.k_steps, _KEYS, spec.steady).before)]
    sums = [f"table_{i}" for i in range(len(lookups))]
    sums += ["exact", *(f"share_{i}" for i in range(len(lookups)))] if exact else []
    start = ["dq = tl.zeros((Q_TILE, D_PAD), tl.float32)", *(f"{s} = tl.zeros((Q_TILE,), tl.float32)" for s in sums)]
    if spec.masked_by_plan:
        interval_lines(spec, before, "q_idx", "q_there", "[:, None]")
    loops: list[str] = []
    for kind in ("full", "part"):
        loops += loop_head(kind, 1) + _dq_body(spec, used, before, lookups, kind == "part")
    # All loads come before the first result of one, so that they are under way together.
    lines += [*(f"    {line}" for line in start), *before.lines, *delta, *loops]
    if spec.shared:
        lines += share_lines("q", [("share_dq_ptr", "dq * scale", "d")], [])
    ragged = stored_ragged(spec, "q")
    lines += ["", *text_lines(rows.fill(_DQ_STORE, ragged=ragged))]
    if exact:
        lines += [*_EXACT_DELTA.rstrip().split("\n"), _DELTA_STORE]
        lines += [f"    table_{i} -= lacking * share_{i}" for i in range(len(lookups))]
    lines += [f"    store(table_{i}_ptr + row, table_{i}, q_there, {ragged})" for i in range(len(lookups))]
    given = [("out_ptr", "data"), ("lse_ptr", "float32"), ("lse_grad_ptr", "float32")] if softmax else []
    given += [("share_dq_ptr", "float32")] if spec.shared else []
    args = arguments([*tensors(spec, "dq"), *given, *buffers(lookups)], spec, used, f"q k v do{' o' * softmax} dq")
    args += [*CAREFUL, *([Argument("LSE_GRAD", "constexpr")] if softmax else [])]
    instance = instance_lines("h", "heads", careful=True)
    lines = careful_rows(lines, "dq", instance, alike=clears_empty_rows(spec))
    helpers = ["load", "store", "spread", "visible", *used.helpers]
    return assemble("attention_dq", "Attention, backward: dQ.", args, lines, helpers)


def _dq_body(spec: KernelSpec, used: Expressions, before: Block, lookups: Sequence[Node], partial: bool) -> list[str]:
    block = Block(indent=2)
    k_there, v_there, k_masked, v_masked = "d[:, None] < D", "dv[:, None] < DV", "D != D_PAD", "DV != DV_PAD"
    keys = inner_text("k", spec.k_steps, _KEYS, spec.steady)
    key_tile_lines(block, keys, partial or not spec.plain_score)
    if partial:
        k_there, v_there = f"(k_idx < k_len) & ({k_there})", f"(k_idx < k_len) & ({v_there})"
        k_masked, v_masked = f"RAGGED_K or {k_masked}", f"RAGGED_K or {v_masked}"
    block.add(f"key = load({keys.pointer.format('k')}, {k_there}, {k_masked})")
    block.add("score = tl.dot(query, key, input_precision=PRECISION)")
    block.add(f"value = load({keys.pointer.format('v')}, {v_there}, {v_masked})")
    block.add("grad_weight = tl.dot(grad_out, value, input_precision=PRECISION)")
    if partial:
        keep_lines(spec, used, block, before, [("RAGGED_K", "k_idx < k_len")])
    weigh(spec, used, block, before, partial)
    grad = grad_score(spec, used, block, before, lookups, partial)
    if sums_delta_again(spec):
        _sum_again(spec, used, block, before, lookups, partial)
    if partial:
        hide_lines(block, "key", 0, True)
    block.add(f"dq = tl.dot(tl.cast({grad}, key.dtype), tl.trans(key), dq, input_precision=PRECISION)")
    return block.lines


def _sum_again(
    spec: KernelSpec, used: Expressions, block: Block, before: Block, lookups: Sequence[Node], partial: bool
) -> None:
    """Delta from the weights, and the part of every sum over a row that is proportional to it."""
    product = "weight * grad_weight"
    block.add(f"exact += tl.sum({f'tl.where(keep, {product}, 0.0)' if partial else product}, 1)")
    for i, node in enumerate(derivatives(spec, lookups)[1:]):
        block.add(f"share_{i} += tl.sum({times(used, node, block, before, partial, of='weight')}, 1)")

"""The backward kernels: dQ by rows of tiles, dK with dV by columns. Nothing is accumulated by atomics.

Under softmax the gradient of a score is the weight times the difference between its own dot product and *delta*, the
average of all of them in its row. The kernel of dQ computes delta from the output and leaves it for the others, and
with it the *level* of a row: its log-sum-exp in units of log 2, or infinity where it keeps nothing, so that its weights
are 0.

Gradients of the float tensors in a score: what a look-up reads is taken for a variable, and the sum of its
derivative over a row (or a column) is written to a buffer of its own; where each element of the tensor is
read, and how often, is left to the caller. An output of 16 bits makes delta inexact by more than such sums can bear:
a slope times a distance of thousands adds up thousands of times that error. So where there are any, delta is summed
again from the weights, and what the sums took from the inexact one is put right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from maskc.backends.triton.expressions import Block, Expressions
from maskc.backends.triton.places import inner_text, outer_text
from maskc.backends.triton.spec import Argument, Kernel, KernelSpec
from maskc.backends.triton.tiles import FULL_ENDS
from maskc.backends.triton.weights import (
    Hidden,
    derivatives,
    is_softmax,
    slope_lines,
    statistic_line,
    times,
    weigh,
)
from maskc.backends.triton.writer import (
    CAREFUL,
    arguments,
    assemble,
    bounds_lines,
    careful_rows,
    hide_lines,
    instance_lines,
    interval_lines,
    joined_lines,
    keep_lines,
    key_tile_lines,
    line_of,
    loop_lines,
    partial_lines,
    plan_line,
    query_tile_lines,
    row_lines,
    share_lines,
    stored_ragged,
)
from maskc.ir.derivative import float_lookups
from maskc.ir.nodes import Const, Lookup, Node, Symbol

__all__ = ["clears_empty_rows", "joins_dkv", "score_lookups", "sums_delta_again", "write_dkv", "write_dq"]

_S = Symbol("s")

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


class ScoreLookups(NamedTuple):
    """The look-ups in a score that receive a gradient, by what their derivatives are summed over: a query's row,
    a key's column, or neither, since they differ between the pairs of both."""

    rows: tuple[Lookup, ...]
    columns: tuple[Lookup, ...]
    pairs: tuple[Lookup, ...]


def score_lookups(spec: KernelSpec) -> ScoreLookups:
    """The look-ups of ``spec.grad_tables`` in the score."""
    used = Expressions(spec.program, spec.batched, "q", [spec.program.score])
    found: tuple[list[Lookup], ...] = ([], [], [])
    for node in float_lookups(spec.program.score):
        if node.name in spec.grad_tables:
            depends = used.depends(node)
            found[0 if depends <= {"q"} else 1 if depends <= {"k"} else 2].append(node)
    return ScoreLookups(*map(tuple, found))


def clears_empty_rows(spec: KernelSpec) -> bool:
    """Whether the caller sets queries, and gradients of outputs, to 0 where a query keeps no key.

    The log-sum-exp tells which those are, beside a sink that of the sink; where it does not, the kernel of dK and dV
    takes care in every partial tile, at the cost of registers.
    """
    return is_softmax(spec) and (spec.cleared or spec.program.normalizer.sink is None)


def write_dq(spec: KernelSpec) -> Kernel:
    """dQ, and the row sums of ``score_lookups``. Raises Unsupported."""
    lookups = score_lookups(spec).rows
    used = _expressions(spec, "q", lookups)
    before = Block(hoisted=True)
    rows = outer_text("q", spec.q_steps, "q_in", "Q_TILE", spec.steady)
    softmax, exact = is_softmax(spec), sums_delta_again(spec)
    taken = [*row_lines(spec), *bounds_lines()]
    lines = _lines(rows.fill(_DQ_HEAD, plan=plan_line("bh"), taken=_indented(taken, 1)))
    delta = []
    if softmax:
        lines += _lines(rows.fill(_OUT))
        delta = [*_lines(_LEVEL), *_lines(_DELTA), *([] if exact else [_DELTA_STORE]), "    delta = delta_row[:, None]"]
    lines += [*_lines(_DQ_KEYS), *(f"    {x}" for x in inner_text("k", spec.k_steps, _KEYS, spec.steady).before)]
    sums = [f"table_{i}" for i in range(len(lookups))]
    sums += ["exact", *(f"share_{i}" for i in range(len(lookups)))] if exact else []
    start = ["dq = tl.zeros((Q_TILE, D_PAD), tl.float32)", *(f"{s} = tl.zeros((Q_TILE,), tl.float32)" for s in sums)]
    if spec.masked_by_plan:
        interval_lines(spec, before, "q_idx", "q_there", "[:, None]")
    loops: list[str] = []
    for kind in ("full", "part"):
        loops += _loop_head(kind, 1) + _dq_body(spec, used, before, lookups, kind == "part")
    # All loads come before the first result of one, so that they are under way together.
    lines += [*(f"    {line}" for line in start), *before.lines, *delta, *loops]
    if spec.shared:
        lines += share_lines("q", [("share_dq_ptr", "dq * scale", "d")], [])
    ragged = stored_ragged(spec, "q")
    lines += ["", *_lines(rows.fill(_DQ_STORE, ragged=ragged))]
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


def write_dkv(spec: KernelSpec) -> Kernel:
    """dK and dV on the transposed plan, and the column sums of ``score_lookups``. Raises Unsupported."""
    lookups = score_lookups(spec).columns
    used = _expressions(spec, "k", lookups)
    before = Block(indent=2, hoisted=True)
    inner = [f"        table_{i} = tl.zeros((K_TILE,), tl.float32)" for i in range(len(lookups))]
    loops: list[str] = []
    if spec.joined:
        loops += ["", *_indented_lines(joined_lines(), 2), *_joined_dkv_body(spec, used, before)]
    for kind in () if spec.joined else ("full", "part"):
        loops += _loop_head(kind, 2) + _dkv_body(spec, used, before, lookups, kind == "part")
    columns = outer_text("k", spec.k_steps, "k_in", "K_TILE", spec.steady)
    queries = "\n".join(f"    {x}" for x in inner_text("q", spec.q_steps, _QUERIES, spec.steady).before)
    fields = {"plan": plan_line("b * heads + kv_head * group", "first_plan"), "plan_of_head": plan_line("bh")}
    fields |= {"instance": _indented(instance_lines("kv_head", "kv_heads", numbered=spec.shared), 1)}
    fields |= {"taken": _indented(row_lines(spec, "first_plan"), 1), "bounds": _indented(bounds_lines(spec.joined), 2)}
    lines = (
        _lines(columns.fill(_DKV_HEAD, queries=queries, line=line_of("plan"), **fields)) + inner + before.lines + loops
    )
    lines += [
        f"        store(table_{i}_ptr + tl.cast(bh, tl.int64) * k_len + {columns.row}, table_{i}, k_there, RAGGED_K)"
        for i in range(len(lookups))
    ]
    if clears_empty_rows(spec):
        lines += [
            "",
            *_lines(_UNKEPT.format(line=line_of("first_plan"), full_first=FULL_ENDS[0], full_last=FULL_ENDS[1])),
        ]
    given = []
    if spec.shared:
        pair = [("share_dk_ptr", "grad_key * scale", "d"), ("share_dv_ptr", "grad_value", "dv")]
        lines += share_lines("k", pair, [])
        given = [(name, "float32") for name, _, _ in pair]
    lines += ["", *_lines(columns.fill(_DKV_STORE, ragged=stored_ragged(spec, "k")))]
    args = arguments([*tensors(spec, "dk dv"), *given, *buffers(lookups)], spec, used, "q k v do dk dv")
    args += [Argument("programs", "int")] if spec.shared else []
    helpers = ["load", "store", "spread", "visible", *used.helpers]
    return assemble("attention_dkv", "Attention, backward: dK and dV.", args, lines, helpers)


def _lines(text: str) -> list[str]:
    return text.strip("\n").split("\n")


def _indented(lines: Sequence[str], indent: int) -> str:
    return "\n".join(_indented_lines(lines, indent))


def _indented_lines(lines: Sequence[str], indent: int) -> list[str]:
    return [f"{'    ' * indent}{line}" for line in lines]


def tensors(spec: KernelSpec, grads: str) -> list[tuple[str, str]]:
    out = [(f"{name}_ptr", "data") for name in ("q", "k", "v", "do")]
    if is_softmax(spec):
        out += [("level_ptr", "float32"), ("delta_ptr", "float32")]
    return out + [(f"{name}_ptr", "data") for name in grads.split()]


def buffers(lookups: Sequence[Node]) -> list[tuple[str, str]]:
    return [(f"table_{i}_ptr", "float32") for i in range(len(lookups))]


def _expressions(spec: KernelSpec, outer: str, lookups: Sequence[Node]) -> Expressions:
    roots = [spec.program.score, *derivatives(spec, lookups)]
    if not spec.masked_by_plan:
        roots.append(spec.program.mask)
    return Expressions(spec.program, spec.batched, outer, roots)


def _loop_head(kind: str, indent: int) -> list[str]:
    note = "Full tiles: every pair is kept." if kind == "full" else "Partial tiles."
    return ["", *_indented_lines([f"# {note}", *loop_lines(kind)], indent)]


def sums_delta_again(spec: KernelSpec) -> bool:
    """Whether the kernel of dQ leaves a delta that it has summed from the weights: see the head of this file."""
    return is_softmax(spec) and any(score_lookups(spec))


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
    grad = _grad_score(spec, used, block, before, lookups, partial)
    if sums_delta_again(spec):
        _sum_again(spec, used, block, before, lookups, partial)
    if partial:
        hide_lines(block, "key", 0, True)
    block.add(f"dq = tl.dot(tl.cast({grad}, key.dtype), tl.trans(key), dq, input_precision=PRECISION)")
    return block.lines


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
    grad = _grad_score(spec, used, block, before, lookups, partial)
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


def joins_dkv(spec: KernelSpec) -> bool:
    """Whether the kernel of dK and dV can have full and partial tiles as one sequence: nothing that follows the weights
    asks which pairs are kept."""
    return spec.plain_score and is_softmax(spec) and clears_empty_rows(spec)


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


def _grad_score(
    spec: KernelSpec,
    used: Expressions,
    block: Block,
    before: Block,
    lookups: Sequence[Node],
    partial: bool,
) -> str:
    """From ``weight`` and ``grad_weight`` to the gradient by the dot product; its name."""
    hidden: Hidden = "never"
    if partial and used.outer == "q":
        hidden = "if CAREFUL"
    elif partial and (lookups or not clears_empty_rows(spec)):
        hidden = "always"
    slope_lines(spec, block, hidden)
    by_score, *by_lookups = derivatives(spec, lookups)
    for i, node in enumerate(by_lookups):
        block.add(f"table_{i} += tl.sum({times(used, node, block, before, partial)}, 1)")
    if isinstance(by_score, Const) and by_score.value == 1.0:
        return "grad_score"
    block.add(f"grad_dot = {times(used, by_score, block, before, partial)}")
    return "grad_dot"


def _sum_again(
    spec: KernelSpec, used: Expressions, block: Block, before: Block, lookups: Sequence[Node], partial: bool
) -> None:
    """Delta from the weights, and the part of every sum over a row that is proportional to it."""
    product = "weight * grad_weight"
    block.add(f"exact += tl.sum({f'tl.where(keep, {product}, 0.0)' if partial else product}, 1)")
    for i, node in enumerate(derivatives(spec, lookups)[1:]):
        block.add(f"share_{i} += tl.sum({times(used, node, block, before, partial, of='weight')}, 1)")

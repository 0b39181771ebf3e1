"""The forward kernel: attention of one tile of queries over the live tiles of keys, with online softmax."""

from __future__ import annotations

from collections.abc import Iterable

from maskc.backends.triton.expressions import Block, Expressions
from maskc.backends.triton.places import OuterText, inner_text, outer_text
from maskc.backends.triton.spec import Argument, Kernel, KernelSpec
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
    loop_lines,
    origin,
    partial_lines,
    plan_line,
    row_lines,
    share_lines,
    stored_ragged,
)
from maskc.ir.program import OUTPUT

__all__ = ["kind_of", "weight_lines", "write_forward"]

_HEAD = """
    bh = b * heads + h
    {plan}
{taken}

    q_idx = tile_row * Q_TILE + tl.arange(0, Q_TILE)
    q_there = q_idx < q_len
{tokens}    d = tl.arange(0, D_PAD)
    dv = tl.arange(0, DV_PAD)
{note}{shift}    q_base = q_ptr + tl.cast(b, tl.int64) * q_sb + tl.cast(h, tl.int64) * q_sh{q_start}
    q_at = {q_rows} + d[None, :] * q_sd
    query = load(q_base + q_at, q_there[:, None] & (d[None, :] < D), RAGGED_Q or D != D_PAD)
    k_base = k_ptr + tl.cast(b, tl.int64) * k_sb + tl.cast(h // group, tl.int64) * k_sh
    v_base = v_ptr + tl.cast(b, tl.int64) * v_sb + tl.cast(h // group, tl.int64) * v_sh
"""

_SHIFT = "    # Where a tile starts is computed in 64 bits, places within it in 32.\n"

_PACKED_HEAD = """
    # A row is one query of one of the PACK heads that share a key head and a plan.
    first_head = pack * PACK
    {plan}
{taken}

    row = tl.arange(0, Q_TILE)
    head = first_head + row % PACK
    h = head[:, None]
    q_in = row // PACK
    q_idx = tile_row * (Q_TILE // PACK) + q_in
    q_there = q_idx < q_len
{tokens}    d = tl.arange(0, D_PAD)
    dv = tl.arange(0, DV_PAD)
{note}{shift}    q_base = q_ptr + tl.cast(b, tl.int64) * q_sb{q_start}
    q_at = tl.cast(h, tl.int64) * q_sh + {q_rows} + d[None, :] * q_sd
    query = load(q_base + q_at, q_there[:, None] & (d[None, :] < D), RAGGED_Q or D != D_PAD)
    k_base = k_ptr + tl.cast(b, tl.int64) * k_sb + tl.cast(first_head // group, tl.int64) * k_sh
    v_base = v_ptr + tl.cast(b, tl.int64) * v_sb + tl.cast(first_head // group, tl.int64) * v_sh
"""

_KEYS = (("k", "[None, :]"), ("v", "[:, None]"))


def write_forward(spec: KernelSpec) -> Kernel:
    """The forward kernel of ``spec``. Where there is an output expression, ``plain_ptr`` receives the output
    before it. Raises Unsupported."""
    used = _expressions(spec)
    sink, start = _start(spec, used)
    hoisted, loops = _loops(spec, used)
    near, size = ("q_in", "(Q_TILE // PACK)") if spec.packed else ("tl.arange(0, Q_TILE)", "Q_TILE")
    rows = outer_text("q", spec.q_steps, near, size, spec.steady and not spec.packed)
    taken = "\n".join(_indented([*row_lines(spec), *bounds_lines(spec.joined)]))
    plan = plan_line("b * heads + first_head" if spec.packed else "bh")
    fields = {"note": _SHIFT if rows.shift else "", "taken": taken, "plan": plan}
    head = rows.fill(_PACKED_HEAD if spec.packed else _HEAD, **fields)
    lines = [*head.strip("\n").split("\n"), *_keys(spec), *(f"    {line}" for line in (_ACC, *sink, *start))]
    lines = [*lines, *hoisted, *loops, *_finish(spec, used, rows)]
    instance = instance_lines(*(("pack", "packs") if spec.packed else ("h", "heads")), careful=True)
    lines = careful_rows(lines, "acc", ["packs = heads // PACK", *instance] if spec.packed else instance)
    tensors = [(f"{name}_ptr", "data") for name in ("q", "k", "v", "out")]
    if spec.program.output is not OUTPUT:
        tensors.append(("plain_ptr", "data"))
    if kind_of(spec) == "softmax":
        tensors.append(("lse_ptr", "float32"))
    if spec.shared:
        tensors += [("share_out_ptr", "float32"), *([("share_lse_ptr", "float32")] if _softmax(spec) else [])]
    args = [*arguments(tensors, spec, used, "q k v o"), *CAREFUL]
    args += [Argument("shares", "int")] if spec.shared and spec.program.normalizer.sink is not None else []
    args += [Argument("PACK", "constexpr")] if spec.packed else []
    return assemble(
        "attention_forward", "Attention, forward.", args, lines, ["load", "store", "spread", "visible", *used.helpers]
    )


def _expressions(spec: KernelSpec) -> Expressions:
    program = spec.program
    roots = [program.score, program.output, *([] if program.normalizer.sink is None else [program.normalizer.sink])]
    if not spec.masked_by_plan:
        roots.append(program.mask)
    return Expressions(program, spec.batched, "q", roots, spec.packed)


def kind_of(spec: KernelSpec) -> str:
    """How weights come about: "softmax", or "plain" where each is made from its own score."""
    return "softmax" if spec.program.normalizer.kind == "softmax" else "plain"


def _softmax(spec: KernelSpec) -> bool:
    return kind_of(spec) == "softmax"


def _start(spec: KernelSpec, used: Expressions) -> tuple[list[str], list[str]]:
    """The sink, and what the accumulators start from. A sink is a key that has been met already and whose value is
    0."""
    sink = spec.program.normalizer.sink
    if sink is None or kind_of(spec) != "softmax":
        return [], _empty_start(spec)
    block = Block(hoisted=True)
    for line in origin(("sink", sink)):
        block.add(line)
    text = used.write(sink, block, block)
    block.add(f"sink = tl.reshape(tl.broadcast_to(tl.cast({text}, tl.float32), (Q_TILE, 1)), (Q_TILE,)) * LOG2E")
    if spec.shared:
        block.add(
            'sink = tl.where(tl.maximum(share, 0) % shares == 0, sink, float("-inf"))  # in the first share alone'
        )
    return [line.removeprefix("    ") for line in block.lines], [
        "top = tl.maximum(sink, LOWEST)",
        "total = tl.exp2(sink - top)",
    ]


_ACC = "acc = tl.zeros((Q_TILE, DV_PAD), tl.float32)"


def _empty_start(spec: KernelSpec) -> list[str]:
    if kind_of(spec) != "softmax":
        return []
    return [
        "top = tl.full((Q_TILE,), LOWEST, tl.float32)  # the largest score so far, in units of log 2",
        "total = tl.zeros((Q_TILE,), tl.float32)",
    ]


def _loops(spec: KernelSpec, used: Expressions) -> tuple[list[str], list[str]]:
    """What stands before the loops, and the loops over full and over partial tiles."""
    before, lines = Block(hoisted=True), []
    if spec.masked_by_plan:
        interval_lines(spec, before, "q_idx", "q_there", "[:, None]")
    if spec.joined:
        lines += ["", *_indented(joined_lines()), *_joined_body(spec, used, before)]
        return before.lines, lines
    for kind in ("full", "part"):
        note = "Full tiles: every pair is kept." if kind == "full" else "Partial tiles."
        lines += ["", f"    # {note}", *_indented(loop_lines(kind))]
        lines += _body(spec, used, before, kind == "part")
    return before.lines, lines


def _keys(spec: KernelSpec) -> list[str]:
    return _indented(inner_text("k", spec.k_steps, _KEYS, spec.steady).before)


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _body(spec: KernelSpec, used: Expressions, before: Block, partial: bool) -> list[str]:
    block = Block(indent=2)
    keys = inner_text("k", spec.k_steps, _KEYS, spec.steady)
    there, masked = "d[:, None] < D", "D != D_PAD"
    key_tile_lines(block, keys, partial or not spec.plain_score)
    if partial:
        there, masked = "(k_idx < k_len) & (d[:, None] < D)", "RAGGED_K or D != D_PAD"
    block.add(f"key = load({keys.pointer.format('k')}, {there}, {masked})")
    block.add("score = tl.dot(query, key, input_precision=PRECISION)")
    if partial:
        keep_lines(spec, used, block, before, [("RAGGED_K", "k_idx < k_len")])
    weight_lines(spec, used, block, before, partial)
    there, masked = "dv[None, :] < DV", "DV != DV_PAD"
    if partial:
        there = "(tile * K_TILE + k_in[:, None] < k_len) & (dv[None, :] < DV)"
        masked = "RAGGED_K or DV != DV_PAD"
    block.add(f"value = load({keys.pointer.format('v')}, {there}, {masked})")
    if partial:
        hide_lines(block, "value", 0, False)
    block.add("acc = tl.dot(tl.cast(weight, value.dtype), value, acc, input_precision=PRECISION)")
    return block.lines


def _joined_body(spec: KernelSpec, used: Expressions, before: Block) -> list[str]:
    """The body of the loop over all tiles. The branch around the mask keeps Triton from waiting for a tile of values
    where it waits for the keys: without it, both are one wait."""
    block = Block(indent=2)
    keys = inner_text("k", spec.k_steps, _KEYS, spec.steady)
    key_tile_lines(block, keys, not spec.plain_score)
    block.add(f"key = load({keys.pointer.format('k')}, d[:, None] < D, D != D_PAD)")
    block.add("score = tl.dot(query, key, input_precision=PRECISION)")
    masked = block.nested()
    if spec.plain_score:
        for line in ("k_idx = tile * K_TILE + k_in[None, :]", *keys.positions):
            masked.add(line)
    keep_lines(spec, used, masked, before, [])
    block.add("if CAREFUL:")
    block.add("    keep = tl.full((Q_TILE, K_TILE), 1, tl.int1)")
    weight_lines(spec, used, block, before, False, masked)
    block.add(f"value = load({keys.pointer.format('v')}, dv[None, :] < DV, DV != DV_PAD)")
    hide_lines(block, "value", 0, False)
    block.add("acc = tl.dot(tl.cast(weight, value.dtype), value, acc, input_precision=PRECISION)")
    return block.lines


def weight_lines(
    spec: KernelSpec, used: Expressions, block: Block, before: Block, partial: bool, masked: Block | None = None
) -> None:
    """From ``score``, the dot products, to ``weight``; under softmax relative to the largest so far. ``partial``: of
    the pairs in ``keep`` alone. ``masked``: so in partial tiles, for which this block sets ``keep``."""
    program, softmax = spec.program, kind_of(spec) == "softmax"
    if not (spec.plain_score and softmax):
        block.add("score = score * scale")
    logit = "score"
    if not spec.plain_score:
        for line in origin(("score", program.score)):
            block.add(line)
        logit = used.write_pairs(program.score, block, before)
    if not softmax:
        sigmoid = program.normalizer.kind == "sigmoid"
        block.add(f"weight = tl.sigmoid({logit})" if sigmoid else f"weight = tl.maximum({logit}, 0.0)")
        if partial:
            block.add("weight = tl.where(keep, weight, 0.0)")
        partial_lines(block, masked, "weight", "0.0")
        return
    unit = "(scale * LOG2E)" if spec.plain_score else "LOG2E"
    if partial:
        logit = f"tl.where(keep, {logit}, float({_MINUS}))"
    if logit != "score":
        block.add(f"score = {logit}")
    partial_lines(block, masked, "score", f"float({_MINUS})")
    block.add(f"new_top = tl.maximum(top, tl.max(score, 1) * {unit})")
    block.add(f"weight = tl.exp2(score * {unit} - new_top[:, None])")
    block.add("rescale = tl.exp2(top - new_top)")
    block.add("total = total * rescale + tl.sum(weight, 1)")
    block.add("acc = acc * rescale[:, None]")
    block.add("top = new_top")


_MINUS = '"-inf"'

_SOFTMAX_TAIL = """
    empty = total == 0.0
    total = tl.where(empty, 1.0, total)
    out = acc * (1.0 / total)[:, None]
    lse = tl.where(empty, float("-inf"), (top + tl.log2(total)) * LN2)
"""
_LSE_STORE = "    store(lse_ptr + tl.cast({bh}, tl.int64) * q_len + {row}, lse, q_there, {ragged})"

_PLACE = [
    "    o_base = tl.cast(b, tl.int64) * o_sb{of_head}{o_start}",
    "    o_at = o_base + {of_row}{o_rows} + dv[None, :] * o_sd",
    "    o_there = q_there[:, None] & (dv[None, :] < DV)",
]
_STORE = "    store({name} + o_at, out, o_there, {ragged} or DV != DV_PAD)"


def _finish(spec: KernelSpec, used: Expressions, rows: OuterText) -> list[str]:
    """The lines after the loops."""
    before = Block(hoisted=True)
    bh, head = ("b * heads + head" if spec.packed else "bh"), "tl.cast(h, tl.int64) * o_sh"
    before.lines += _SOFTMAX_TAIL.rstrip().split("\n") if _softmax(spec) else ["", "    out = acc"]
    if spec.shared:
        vectors = [("share_lse_ptr", "lse")] if _softmax(spec) else []
        before.lines += share_lines("q", [("share_out_ptr", "out", "dv")], vectors)
    ragged = stored_ragged(spec, "q")
    before.lines += [_LSE_STORE.format(bh=bh, row=rows.row, ragged=ragged)] if _softmax(spec) else []
    of_head, of_row = ("", f"{head} + ") if spec.packed else (f" + {head}", "")
    place = [rows.fill(line, of_head=of_head, of_row=of_row) for line in _PLACE]
    if spec.program.output is not OUTPUT:
        # The backward pass needs the output as it was before.
        before.lines += [*place, _STORE.format(name="plain_ptr", ragged=ragged)]
        for line in origin(("output", spec.program.output)):
            before.add(line)
        block = Block()
        text = used.write_array(spec.program.output, block, before)
        before.lines += block.lines
        before.add(f"out = tl.broadcast_to({text}, (Q_TILE, DV_PAD))")
    else:
        before.lines += place
    return [*before.lines, _STORE.format(name="out_ptr", ragged=ragged)]

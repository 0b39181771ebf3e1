"""The kernels of decoding: a few queries, and keys whose number is each batch entry's own.

``attention_cached`` finds the tiles of keys that an entry's queries may keep by itself, from the entry's
length, or reads them off a list; several program instances share them. ``attention_merge`` joins
what they leave, and does what a query alone decides: sink and output.
"""

from __future__ import annotations

import re
from collections import Counter

from maskc.backends.keybounds import key_ranges
from maskc.backends.triton.expressions import Block, Expressions, table_name
from maskc.backends.triton.forward import kind_of, weight_lines
from maskc.backends.triton.reach import listed_loop, range_loops
from maskc.backends.triton.spec import Argument, Kernel, KernelSpec
from maskc.backends.triton.writer import assemble, keep_lines, origin
from maskc.ir.program import OUTPUT, Program

__all__ = ["lists_pay", "write_cached", "write_merge"]

_HEAD = """
    program = tl.program_id(0)
    split = program % splits
    packs = heads // PACK
    q_tiles = tl.cdiv(rows, Q_TILE // PACK)
    tile_row = program // splits % q_tiles
    b = program // splits // q_tiles // packs
    # A row is one query of one of the PACK heads that share a key head.
    first_head = program // splits // q_tiles % packs * PACK
"""

_ROWS = """    row = tl.arange(0, Q_TILE)
    head = first_head + row % PACK
    h = head[:, None]
    q_idx = tile_row * (Q_TILE // PACK) + row // PACK
    q_stored = (row // PACK < Q_TILE // PACK) & (q_idx < rows)
    # The queries are the last positions of the entry but for those behind them, as far as it has so many.
    # A length that 32 bits do not hold is none of any cache: it is clipped, and stays beyond all of them.
    k_len = tl.cast(tl.minimum(tl.maximum(tl.load(lengths + b), 0), 1 << 30), tl.int32)
    k_end = tl.maximum(k_len, 1)
"""
_ONE_SEQUENCE = """    offset = k_len - rows - behind
    q_len = tl.minimum(rows, k_len)
"""
_CROSS = """    offset = 0
    q_len = rows
"""
_REST = """    q_there = q_stored & (offset + q_idx >= 0)
    q_pos = tl.maximum(offset + q_idx, 0)[:, None]
    d = tl.arange(0, D_PAD)
    dv = tl.arange(0, DV_PAD)
"""

_KEYS = """    k_start = tl.cast(tl.minimum(tl.maximum(tl.load(starts + b), 0), 1 << 30), tl.int32) if STARTED else 0
    q_base = q_ptr + tl.cast(b, tl.int64) * q_sb
    q_at = tl.cast(h, tl.int64) * q_sh + tl.cast(q_idx[:, None], tl.int64) * q_sn + d[None, :] * q_sd
    query = tl.load(q_base + q_at, mask=q_there[:, None] & (d[None, :] < D), other=0.0)
    k_base = k_ptr + tl.cast(first_head // group, tl.int64) * k_sh
    v_base = v_ptr + tl.cast(first_head // group, tl.int64) * v_sh
    if PAGE == 0:
        k_base += tl.cast(b, tl.int64) * k_sb
        v_base += tl.cast(b, tl.int64) * v_sb
    table = block_table + tl.cast(b, tl.int64) * table_sb
    k_in = tl.arange(0, K_TILE)
    acc = tl.zeros((Q_TILE, DV_PAD), tl.float32)
"""

_WHERE = """        k_near = tile * K_TILE + k_in
        k_idx = k_near[None, :]
        k_pos = k_idx
{there}        # Where the keys are in the cache; a key that should be there, but is not, makes the output NaN.
        slot = k_near - k_start
        held = {held}
        if PAGE == 0:
            k_at = tl.cast(slot, tl.int64) * k_sn
            v_at = tl.cast(slot, tl.int64) * v_sn
        else:
            if STARTED or PAGE % K_TILE != 0:
                page = tl.load(table + slot // PAGE * table_sn, mask=held, other=-1)
            else:
                # A tile is part of one page.
                first = tile * K_TILE
                page = tl.load(table + first // PAGE * table_sn, mask=first < capacity, other=-1)
            held = held & (page >= 0) & (page < pages)
            k_at = tl.cast(page, tl.int64) * k_sb + tl.cast(slot % PAGE, tl.int64) * k_sn
            v_at = tl.cast(page, tl.int64) * v_sb + tl.cast(slot % PAGE, tl.int64) * v_sn
        key = tl.load(
            k_base + k_at[None, :] + d[:, None] * k_sd, mask=held[None, :] & (d[:, None] < D), other=0.0
        )
        score = tl.dot(query, key, input_precision=PRECISION)
"""

_VALUES = """
        value = tl.load(
            v_base + v_at[:, None] + dv[None, :] * v_sd,
            mask=held[:, None] & (dv[None, :] < DV),
            other=float("nan"),
        )
{visible}        acc = tl.dot(tl.cast(weight, value.dtype), value, acc, input_precision=PRECISION)
"""

#: What partial tiles need and full ones, whose keys are all there and kept by every query, do not.
_OF_PARTIAL = {
    "there": "        k_there = (k_near >= k_start) & (k_near < k_len)\n",
    "held": "k_there & (slot < capacity)",
    "visible": "        value = visible(value, keep, 0, False)\n",
}
_OF_FULL = {"there": "", "held": "slot < capacity", "visible": ""}

_PARTIAL = """
    # Partial results, one a split: (splits, batch, heads, rows, DV).
    place = ((tl.cast(split, tl.int64) * batch + b) * heads + head) * rows + q_idx
    tl.store(part_ptr + place[:, None] * DV + dv[None, :], out, mask=q_stored[:, None] & (dv[None, :] < DV))
"""
_NORMALISED = """
    empty = total == 0.0
    total = tl.where(empty, 1.0, total)
    out = acc / total[:, None]
    lse = tl.where(empty, float("-inf"), (top + tl.log2(total)) * LN2)
"""


def lists_pay(program: Program) -> bool:
    """Whether a plan made on the host may find fewer live tiles of keys than the kernel does. Pass a normal form."""
    return not key_ranges(program.mask)[1]


def write_cached(spec: KernelSpec) -> Kernel:
    """The kernel that leaves a partial output (a sum, where there is no softmax) and its log-sum-exp for each split.
    Raises Unsupported."""
    program, softmax = spec.program, kind_of(spec) == "softmax"
    ranges, exact = key_ranges(program.mask)
    bounds = [n for c in ranges for n in (c.lo, c.hi, c.residual) if n is not None]
    roots = [program.mask, program.score, *bounds]
    used = Expressions(program, spec.batched, "q", roots, True, by_entry=True)
    before = Block(hoisted=True)
    loops = [listed_loop()] if spec.listed else range_loops(ranges, exact, used, before)
    inner = [[*loop.head, *_body(spec, used, before, loop.full)] for loop in loops]
    lines = [*_rows(spec, used), *_text(_KEYS)]
    if softmax:
        lines += _START
    lines += [*before.lines, *(line for each in inner for line in each)]
    lines += _text(_NORMALISED if softmax else "\n    out = acc\n") + _text(_PARTIAL)
    tensors = [(f"{name}_ptr", "data") for name in "qkv"] + [("part_ptr", "float32")]
    if softmax:
        lines.append("    tl.store(lse_ptr + place, lse, mask=q_stored)")
        tensors.append(("lse_ptr", "float32"))
    integers = ["lengths", "starts", "block_table", *(("tiles_first", "tiles") if spec.listed else ())]
    args = [*_arguments(tensors, integers, spec, used), *_ints("group", "capacity", "pages", "table_sb", "table_sn")]
    args += [Argument("scale", "float"), *_ints(*(f"{t}_s{axis}" for t in "qkv" for axis in "bhnd"))]
    args += [Argument(name, "constexpr") for name in ("PAGE", "STARTED")]
    return assemble("attention_cached", "Attention over caches.", args, _read(lines), ["visible", *used.helpers])


def _body(spec: KernelSpec, used: Expressions, before: Block, full: bool) -> list[str]:
    """What a loop does with a tile; ``full``: every query that is there keeps all of its keys. What comes out for
    queries that are not there is not stored, or replaced by the merge."""
    block, parts = Block(indent=2), _OF_FULL if full else _OF_PARTIAL
    if not full:
        keep_lines(spec, used, block, before, [])
        block.add("keep = keep & k_there[None, :] & q_there[:, None]")
    weight_lines(spec, used, block, before, not full)
    return [*_text(_WHERE.format(**parts)), *block.lines, *_text(_VALUES.format(**parts))]


_START = [
    "    top = tl.full((Q_TILE,), LOWEST, tl.float32)  # the largest score so far, in units of log 2",
    "    total = tl.zeros((Q_TILE,), tl.float32)",
]


def _text(template: str) -> list[str]:
    return template.rstrip("\n").split("\n")


def _ints(*names: str) -> list[Argument]:
    return [Argument(name, "int") for name in names]


def _rows(spec: KernelSpec, used: Expressions) -> list[str]:
    sizes = [f"    {name} = tl.load({name}_of + b)" for name in used.used if name.startswith("size_")]
    head = _HEAD.strip("\n") + "\n" + _ROWS + (_CROSS if spec.program.cross else _ONE_SEQUENCE) + _REST
    return [*_text(head), *sizes]


def _read(lines: list[str]) -> list[str]:
    """The lines but for those of ``_ROWS`` and ``_REST`` whose value no other line reads."""
    count = Counter(word for line in lines for word in set(re.findall(r"\w+", line)))
    return [line for line in lines if not any(line.startswith(f"    {n} = ") and count[n] == 1 for n in _MAYBE_READ)]


_MAYBE_READ = ("k_end", "offset", "q_len", "q_pos", "d", "dv", "h")


def _arguments(
    tensors: list[tuple[str, str]], integers: list[str], spec: KernelSpec, used: Expressions
) -> list[Argument]:
    params = spec.program.params
    pointers = {table_name(p.name, params): p.name for p in params}
    sizes = [f"{name}_of" for name in used.used if name.startswith("size_")]
    known = {"q_len", "k_len", "offset", "heads", *pointers, *(name.removesuffix("_of") for name in sizes)}
    out = [Argument(name, kind) for name, kind in tensors]
    out += [Argument(name, "int32") for name in (*integers, *sizes)]
    out += [Argument(name, "table", pointers[name]) for name in used.used if name in pointers]
    behind = () if spec.program.cross else ("behind",)
    out += _ints("rows", "batch", "heads", "splits", *behind, *(name for name in used.used if name not in known))
    return [*out, Argument("PACK", "constexpr")]


_JOIN = """
    for s in tl.range(0, splits):
        place = ((tl.cast(s, tl.int64) * batch + b) * heads + head) * rows + q_idx
        there = q_stored[:, None] & (dv[None, :] < DV)
        part = tl.load(part_ptr + place[:, None] * DV + dv[None, :], mask=there, other=0.0)
"""
_JOIN_SOFTMAX = """
        lse = tl.load(lse_ptr + place, mask=q_stored, other=float("-inf")) * LOG2E
        new_top = tl.maximum(top, lse)
        rescale = tl.exp2(top - new_top)
        weight = tl.exp2(lse - new_top)
        acc = acc * rescale[:, None] + part * weight[:, None]
        total = total * rescale + weight
        top = new_top
"""
_PLACES = """
    o_at = tl.cast(h, tl.int64) * o_sh + tl.cast(q_idx[:, None], tl.int64) * o_sn + dv[None, :] * o_sd
    o_at += tl.cast(b, tl.int64) * o_sb
    o_there = q_stored[:, None] & (dv[None, :] < DV)
"""
_STORE = """
    result = tl.cast(tl.where(q_there[:, None], out, 0.0), out_ptr.dtype.element_ty)
    tl.store({} + o_at, result, mask=o_there)
"""
_STORE_LSE = """
    lse = tl.where(q_there, lse, float("-inf"))
    tl.store(whole_ptr + (tl.cast(b, tl.int64) * heads + head) * rows + q_idx, lse, mask=q_stored)
"""


def write_merge(spec: KernelSpec) -> Kernel:
    """The kernel that joins what ``attention_cached`` left. Where there is an output expression, ``plain_ptr``
    receives the output before it. Raises Unsupported."""
    program, softmax = spec.program, kind_of(spec) == "softmax"
    sink = program.normalizer.sink if softmax else None
    roots = [program.output, *([] if sink is None else [sink])]
    used = Expressions(program, spec.batched, "q", roots, True, by_entry=True)
    block = Block(hoisted=True)
    block.add("acc = tl.zeros((Q_TILE, DV_PAD), tl.float32)")
    if sink is None:
        block.lines += _START if softmax else []
    else:
        for line in origin(("sink", sink)):
            block.add(line)
        text = used.write(sink, block, block)
        block.add(f"sink = tl.reshape(tl.broadcast_to(tl.cast({text}, tl.float32), (Q_TILE, 1)), (Q_TILE,)) * LOG2E")
        block.add("top = tl.maximum(sink, LOWEST)")
        block.add("total = tl.exp2(sink - top)")
    block.lines += _text(_JOIN.strip("\n"))
    if softmax:
        block.lines += _text(_JOIN_SOFTMAX.strip("\n")) + _text(_NORMALISED)
    else:
        block.lines += ["        acc += part", "    out = acc"]
    output = _output(spec, used, block)
    lines = [*_rows(spec, used), *block.lines, *output, *(_text(_STORE_LSE) if softmax else [])]
    # The program instances of this kernel are not split: each has all splits of its rows.
    lines = [line.replace("program // splits", "program") for line in lines if line != "    split = program % splits"]
    tensors = [("part_ptr", "float32"), *([("lse_ptr", "float32"), ("whole_ptr", "float32")] if softmax else [])]
    tensors += [("out_ptr", "data"), *([] if program.output is OUTPUT else [("plain_ptr", "data")])]
    args = _arguments(tensors, ["lengths"], spec, used)
    args += _ints(*(f"o_s{axis}" for axis in "bhnd"))
    return assemble("attention_merge", "The results of splits, joined.", args, _read(lines), used.helpers)


def _output(spec: KernelSpec, used: Expressions, before: Block) -> list[str]:
    """From ``out``, what the splits have together, to what is stored."""
    lines, output = _text(_PLACES), spec.program.output
    if output is not OUTPUT:
        # The backward pass needs the output as it was before.
        lines += _text(_STORE.format("plain_ptr"))
        block = Block(parent=before, hoisted=True)
        for line in origin(("output", output)):
            block.add(line)
        text = used.write_array(output, block, block)
        block.add(f"out = tl.broadcast_to({text}, (Q_TILE, DV_PAD))")
        lines += block.lines
    return [*lines, *_text(_STORE.format("out_ptr"))]

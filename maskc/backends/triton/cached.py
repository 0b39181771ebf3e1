"""The kernels of decoding: a few queries, and keys whose number is each batch entry's own.

``attention_cached`` finds the tiles of keys that an entry's queries may keep by itself, from the entry's
length, or reads them off a list; several program instances share them. ``attention_merge`` joins
what they leave, and does what a query alone decides: sink and output.
"""

from __future__ import annotations

import itertools

from maskc.backends.decoding import key_ranges
from maskc.backends.triton.expressions import Block, Expressions, table_name
from maskc.backends.triton.forward import kind_of, weight_lines
from maskc.backends.triton.spec import Argument, Kernel, KernelSpec
from maskc.backends.triton.writer import assemble, keep_lines, origin
from maskc.ir.nodes import TRUE
from maskc.ir.program import OUTPUT, Program
from maskc.passes.rows import Clause

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
    # The queries are the last positions of the entry, as far as it has so many.
    k_len = tl.cast(tl.load(lengths + b), tl.int32)
    k_end = tl.maximum(k_len, 1)
"""
_ONE_SEQUENCE = """    offset = k_len - rows
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

_KEYS = """    k_start = tl.cast(tl.load(starts + b), tl.int32) if STARTED else 0
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

_WHERE = """
        k_near = tile * K_TILE + k_in
        k_idx = k_near[None, :]
        k_pos = k_idx
        k_there = (k_near >= k_start) & (k_near < k_len)
        # Where the keys are in the cache; a key that should be there, but is not, makes the output NaN.
        slot = k_near - k_start
        held = k_there & (slot < capacity)
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
        value = visible(value, keep, 0, False)
        acc = tl.dot(tl.cast(weight, value.dtype), value, acc, input_precision=PRECISION)
"""

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
    ranges = () if spec.listed else key_ranges(program.mask)[0]
    bounds = [n for c in ranges for n in (c.lo, c.hi, c.residual) if n is not None]
    roots = [program.mask, program.score, *bounds]
    used = Expressions(program, spec.batched, "q", roots, True, by_entry=True)
    before, block = Block(hoisted=True), Block(indent=2)
    keep_lines(spec, used, block, before, [])
    block.add("keep = keep & k_there[None, :] & q_there[:, None]")
    weight_lines(spec, used, block, before, True)
    loop = _listed() if spec.listed else _ranged(ranges, used, before)
    lines = [*_rows(spec, used), *_text(_KEYS)]
    if softmax:
        lines += _START
    lines += [*before.lines, *loop, *_text(_WHERE), *block.lines, *_text(_VALUES)]
    lines += _text(_NORMALISED if softmax else "\n    out = acc\n") + _text(_PARTIAL)
    tensors = [(f"{name}_ptr", "data") for name in "qkv"] + [("part_ptr", "float32")]
    if softmax:
        lines.append("    tl.store(lse_ptr + place, lse, mask=q_stored)")
        tensors.append(("lse_ptr", "float32"))
    integers = ["lengths", "starts", "block_table", *(("tiles_first", "tiles") if spec.listed else ())]
    args = [*_arguments(tensors, integers, spec, used), *_ints("group", "capacity", "pages", "table_sb", "table_sn")]
    args += [Argument("scale", "float"), *_ints(*(f"{t}_s{axis}" for t in "qkv" for axis in "bhnd"))]
    args += [Argument(name, "constexpr") for name in ("PAGE", "STARTED")]
    return assemble("attention_cached", "Attention over caches.", args, lines, ["visible", *used.helpers])


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
    out += _ints("rows", "batch", "heads", "splits", *(name for name in used.used if name not in known))
    return [*out, Argument("PACK", "constexpr")]


def _listed() -> list[str]:
    return [
        "    pack = b * packs + first_head // PACK",
        "    first_tile = tl.load(tiles_first + pack)",
        "    total_tiles = tl.load(tiles_first + pack + 1) - first_tile",
        *_SHARE,
        "        tile = tl.load(tiles + first_tile + i)",
    ]


_SHARE = [
    "    # Each split has an equal share of the tiles.",
    "    for i in tl.range(total_tiles * split // splits, total_tiles * (split + 1) // splits):",
]


def _ranged(ranges: tuple[Clause, ...], used: Expressions, block: Block) -> list[str]:
    """The head of the loop over the tiles of all ranges, in order, each tile once. ``block``: what is before it,
    where the ranges are found from their bounds at the queries of this tile."""
    names = []
    for i, clause in enumerate(ranges):
        names.append(_range_lines(i, clause, used, block))
    names = _sorted(names, block)
    reach, ends = "", list[tuple[str, str]]()
    for i, (first, last) in enumerate(names):
        # What an earlier range has is left out.
        block.add(f"first_tile_{i} = {f'tl.maximum({first}, {reach})' if reach else first}")
        block.add(f"last_tile_{i} = tl.maximum(first_tile_{i}, {last})")
        before = f" + end_{i - 1}" if i else ""
        block.add(f"end_{i} = last_tile_{i} - first_tile_{i}{before}")
        ends.append((f"end_{i}", f"last_tile_{i} - end_{i}"))
        reach = f"last_tile_{i}"
    block.add(f"total_tiles = {ends[-1][0] if ends else '0'}")
    lines = [*_SHARE, f"        tile = i + ({ends[0][1]})" if ends else "        tile = i"]
    for (end, _), (_, shift) in itertools.pairwise(ends):
        lines.append(f"        tile = tl.where(i < {end}, tile, i + ({shift}))")
    return lines


def _range_lines(i: int, clause: Clause, used: Expressions, block: Block) -> tuple[str, str]:
    for line in origin(*((word, n) for word, n in (("from", clause.lo), ("to", clause.hi)) if n is not None)):
        block.add(line)
    there = "q_there[:, None]"
    if clause.residual is not TRUE:
        there += f" & ({used.write(clause.residual, block, block, double=True)})"
    low = "k_start" if clause.lo is None else used.write(clause.lo, block, block)
    high = "k_len" if clause.hi is None else used.write(clause.hi, block, block)
    block.add(f"low_{i} = tl.min(tl.min(tl.where({there}, tl.maximum({low}, k_start), k_len), 1), 0)")
    block.add(f"high_{i} = tl.max(tl.max(tl.where({there}, tl.minimum({high}, k_len), 0), 1), 0)")
    block.add(f"some_{i} = high_{i} > low_{i}")
    block.add(f"from_{i} = tl.where(some_{i}, tl.cast(low_{i}, tl.int32) // K_TILE, 0)")
    block.add(f"to_{i} = tl.where(some_{i}, tl.cdiv(tl.cast(high_{i}, tl.int32), K_TILE), 0)")
    return f"from_{i}", f"to_{i}"


def _sorted(names: list[tuple[str, str]], block: Block) -> list[tuple[str, str]]:
    """Names of the same ranges by where they start: compared and exchanged, each with each."""
    names, count = list(names), 0
    for i in range(1, len(names)):
        for j in range(i, 0, -1):
            (a, x), (b, y) = names[j - 1], names[j]
            block.add(f"later_{count} = {b} < {a}")
            for k, (first, second) in enumerate(((a, b), (x, y))):
                block.add(f"lower_{count}_{k} = tl.where(later_{count}, {second}, {first})")
                block.add(f"upper_{count}_{k} = tl.where(later_{count}, {first}, {second})")
            names[j - 1] = (f"lower_{count}_0", f"lower_{count}_1")
            names[j] = (f"upper_{count}_0", f"upper_{count}_1")
            count += 1
    return names


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
    return assemble("attention_merge", "The results of splits, joined.", args, lines, used.helpers)


def _output(spec: KernelSpec, used: Expressions, before: Block) -> list[str]:
    """From ``out``, what the splits have together, to what is stored."""
    lines, output = _text(_PLACES), spec.program.output
    if output is not OUTPUT:
        # The backward pass needs the output as it was before.
        lines += _text(_STORE.format("plain_ptr"))
        block = Block(parent=before, hoisted=True)
        for line in origin(("output", output)):
            block.add(line)
        text = used.write(output, block, block)
        block.add(f"out = tl.broadcast_to({text}, (Q_TILE, DV_PAD))")
        lines += block.lines
    return [*lines, *_text(_STORE.format("out_ptr"))]

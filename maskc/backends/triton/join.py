"""What the shares of a long row of tiles leave, joined in a fixed order and put where it belongs: see ``shares``."""

from __future__ import annotations

import torch

from maskc.backends.triton.configs import Config
from maskc.backends.triton.launch import Prepared, pad
from maskc.backends.triton.shares import Joint
from maskc.backends.triton.spec import Argument, Kernel
from maskc.backends.triton.writer import assemble

__all__ = ["prepared_join", "write_join"]

Tensor = torch.Tensor

_BODY = """
    program = tl.program_id(0)
    cut = program // programs
    other = program % programs
    entry = tl.arange(0, TILE)
    # An entry is a token of one of the PACK heads that share a row of tiles.
    token = tl.load(rows + cut) * (TILE // PACK) + entry // PACK
    b = other // (heads // PACK)
    h = other % (heads // PACK) * PACK + entry % PACK
    there = token < length
    w = tl.arange(0, WIDTH_PAD)
    acc = tl.zeros((TILE, WIDTH_PAD), tl.float32)
{start}
    for share in tl.range(0, count):
        place = tl.cast((cut * count + share) * programs + other, tl.int64) * TILE + entry
        part_there = there[:, None] & (w[None, :] < WIDTH)
        part = tl.load(part_ptr + place[:, None] * WIDTH + w[None, :], mask=part_there, other=0.0)
{add}

    at = tl.cast(token, tl.int64)[:, None] * s_n + w[None, :] * s_d
    base = tl.cast(b, tl.int64) * s_b + tl.cast(h, tl.int64)[:, None] * s_h
    into = into_ptr + base + at
"""
_STORE = "    tl.store(into, tl.cast({}, into_ptr.dtype.element_ty), mask=there[:, None] & (w[None, :] < WIDTH))"
_START = """
    top = tl.full((TILE,), LOWEST, tl.float32)
    total = tl.zeros((TILE,), tl.float32)"""
_ADD = """
        lse_part = tl.load(part_lse_ptr + place, mask=there, other=float("-inf")) * LOG2E
        new_top = tl.maximum(top, lse_part)
        weight = tl.exp2(lse_part - new_top)
        rescale = tl.exp2(top - new_top)
        total = total * rescale + weight
        # A share in which a query keeps nothing leaves what may not be a number.
        acc = acc * rescale[:, None] + tl.where(weight[:, None] > 0.0, part * weight[:, None], 0.0)
        top = new_top"""
_LSE = """
    empty = total == 0.0
    total = tl.where(empty, 1.0, total)
    lse = tl.where(empty, float("-inf"), (top + tl.log2(total)) * LN2)
    tl.store(lse_ptr + (tl.cast(b, tl.int64) * heads + h) * length + token, lse, mask=there)"""


def write_join(averages: bool) -> Kernel:
    """The kernel that joins parts (rows * count, programs, TILE, WIDTH), float32, into a tensor (B, H, N, WIDTH): sums,
    or ``averages`` by the log-sum-exps of the parts, with that of all."""
    start, add = (_START, _ADD) if averages else ("", "        acc += part")
    lines = _BODY.format(start=start.strip("\n"), add=add.strip("\n")).strip("\n").split("\n")
    lines += _LSE.strip("\n").split("\n") if averages else []
    lines.append(_STORE.format("acc / total[:, None]" if averages else "acc"))
    tensors = [("part_ptr", "float32"), ("into_ptr", "data"), ("rows", "int32")]
    tensors += [("part_lse_ptr", "float32"), ("lse_ptr", "float32")] if averages else []
    numbers = ("count", "programs", "heads", "length", "s_b", "s_h", "s_n", "s_d")
    args = [*(Argument(n, kind) for n, kind in tensors), *(Argument(n, "int") for n in numbers)]
    args += [Argument(n, "constexpr") for n in ("TILE", "PACK", "WIDTH", "WIDTH_PAD")]
    return assemble("attention_join", "The shares of long rows, joined.", args, lines, [])


def prepared_join(joint: Joint, part: Tensor, into: Tensor, pack: int, averages: bool) -> Prepared:
    """The kernel of ``write_join``, ready for tensors like ``part`` (rows * count, programs, tile, width) and ``into``
    (B, H, N, width), whose rows in ``joint`` were cut. ``pack``: heads that share a row of tiles."""
    _, programs, tile, width = part.shape
    shared = {"rows": joint.rows, "count": joint.count, "programs": programs, "heads": into.shape[1]}
    shared |= {"length": into.shape[2], "TILE": tile, "PACK": pack, "WIDTH": width, "WIDTH_PAD": pad(width)}
    shared |= {f"s_{axis}": int(s) for axis, s in zip("bhnd", into.stride(), strict=True)}
    count = joint.rows.numel() * programs
    return Prepared(write_join(averages), (count, 1, 1), shared, Config(tile, tile, 8, 1), into.device)

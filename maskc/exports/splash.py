"""Splash attention of JAX, for TPUs: which blocks are computed, in order, and the masks of those that are not whole.

What the arrays mean is taken from ``MaskInfo`` in ``jax.experimental.pallas.ops.tpu.splash_attention``, and from what
its kernels read of them. A row of blocks has an entry for each block that is computed, and is filled up to the longest
row. ``block_mask`` is 2 where every pair of a block is kept, 1 where ``partial_mask_blocks`` says which, and 0 where
nothing is left to do; ``data_next`` is the block that is loaded, and ``mask_next`` the mask. Where there is nothing to
do, or no mask is needed, they name the next one that is: it is on its way meanwhile.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from maskc.diagnostics import fail
from maskc.exports.stretches import Unfit, partial_tiles, same_mask, tiles_at_once
from maskc.tiles.runs import concatenated_ranges, row_of_runs
from maskc.tiles.tiling import FULL

if TYPE_CHECKING:
    from maskc.exports import Export
    from maskc.tiles.plan import TilePlan
    from maskc.tiles.tiling import Group

__all__ = ["splash", "splash_kernel"]

Array = npt.NDArray[Any]
#: Of the blocks that are computed: their rows, columns, and the numbers of their masks, -1 where every pair is kept.
Blocks = tuple[Array, Array, Array]
_MOST_ENTRIES = 1 << 24  # in each array; they lie in a TPU's scalar memory, which is far smaller
_MOST_PAIRS = 1 << 28  # in blocks whose masks are written out, a byte each
_LOOK = 1 << 28  # pairs of partial tiles that are looked at, where the mask cannot be solved for the key


def splash(plan: TilePlan, kv_heads: int) -> tuple[dict[str, Array], dict[str, Any]]:
    """Arrays for the forward pass and dQ, and for dK and dV; and the sizes of blocks. Raises Unfit."""
    b, sizes = plan.binding, {"block_q": plan.q_tile, "block_kv": plan.k_tile}
    for name, length, size in (("queries", b.q_len, plan.q_tile), ("keys", b.k_len, plan.k_tile)):
        if length % size:
            raise Unfit(
                f"Splash has whole blocks, and {length} {name} are none of {size}: pad, or give --q-tile and --k-tile"
            )
    masks = _Masks(plan)
    heads = [masks.blocks(group) for group in _groups(plan)]
    arrays = _info(heads, plan.rows)
    turned = [_turned(blocks) for blocks in heads]
    arrays |= {f"dkv_{name}": x.swapaxes(1, 2) for name, x in _info(turned, b.k_len // plan.k_tile).items()}
    arrays = {name: _small(x) for name, x in arrays.items()}
    if masks.known:
        arrays["partial_mask_blocks"] = masks.written()
    return arrays, sizes


def splash_kernel(found: Export, **options: Any) -> Any:
    """The ``SplashAttentionKernel`` of an export, for q (heads, queries, dim), which is not scaled, and k and v (key
    heads, keys, dim); ``jax.vmap`` it over a batch.

    Args:
        options: what else that class takes, such as ``attn_logits_soft_cap`` or ``interpret``; with ``is_mqa=True``
            k and v are (keys, dim).

    Raises MaskcError E703 where JAX is missing, and E503 for an export in another format.
    """
    if found.format != "splash":
        raise fail("E503", f"expected an export to 'splash', found one to {found.format!r}")
    kernel, info = (_jax(f"splash_attention_{name}") for name in ("kernel", "mask_info"))
    number = importlib.import_module("jax.numpy")
    a = {name: number.asarray(x) for name, x in found.arrays.items()}
    masks = a.get("partial_mask_blocks")
    forward = info.MaskInfo(a["data_next"], a.get("mask_next"), a["block_mask"], masks, None)
    turned = None if masks is None else masks.swapaxes(1, 2)
    backward = info.MaskInfo(a["dkv_data_next"], a.get("dkv_mask_next"), a["dkv_block_mask"], turned, None)
    q, k = found.options["block_q"], found.options["block_kv"]
    sizes = {f"block_q{part}": q for part in ("", "_dq", "_dkv")} | {
        f"block_kv{part}": k for part in ("", "_dq", "_dkv")
    }
    usual = {"is_mqa": False, "save_residuals": False, "mask_value": kernel.DEFAULT_MASK_VALUE, "mask_function": None}
    usual |= {"attn_logits_soft_cap": None, "residual_checkpoint_name": None, "interpret": False}
    usual["block_sizes"] = kernel.BlockSizes(**sizes)
    return kernel.SplashAttentionKernel(forward, forward, backward, **(usual | options))


def _jax(name: str) -> Any:
    try:
        return importlib.import_module(f"jax.experimental.pallas.ops.tpu.splash_attention.{name}")
    except ModuleNotFoundError:
        raise fail("E703", "kernels of Splash attention need JAX, which is not installed", "install jax") from None


def _turned(blocks: Blocks) -> Blocks:
    """Column by column, with rows and columns exchanged."""
    rows, cols, number = blocks
    order = np.argsort(cols, kind="stable")
    return cols[order], rows[order], number[order]


def _groups(plan: TilePlan) -> list[Group]:
    """That of each head, or one for all heads. Raises Unfit where batch entries have masks of their own."""
    by_head: dict[int, list[Group]] = {h: [] for h in range(plan.binding.heads)}
    for group in plan.groups:
        for h in group.heads:
            by_head[h].append(group)
    found = [groups[0] for groups in by_head.values()]
    if not all(same_mask(plan, group, groups[0]) for groups in by_head.values() for group in groups):
        raise Unfit("Splash has one mask for all batch entries, and theirs differ: export them one by one")
    return found[:1] if all(same_mask(plan, group, found[0]) for group in found) else found


class _Masks:
    """The masks of blocks, each once; numbers are given in the order in which they are met."""

    def __init__(self, plan: TilePlan) -> None:
        self._plan = plan
        self.known: dict[bytes, int] = {}

    def blocks(self, group: Group) -> Blocks:
        """The blocks of a mask, row by row. Raises Unfit where a query keeps nothing."""
        plan, runs = self._plan, group.runs
        width = (runs.end - runs.start).astype(np.int64)
        _check_size(1, plan.rows, int(np.bincount(row_of_runs(runs), width).max(initial=0)))
        row = np.repeat(row_of_runs(runs).astype(np.int64), width)
        full = np.repeat(runs.kind == FULL, width)
        number = np.full(row.size, -1, np.int64)
        seen = np.zeros((plan.rows, plan.q_tile), np.bool_)
        seen[row[full]] = True
        rows, cols = partial_tiles(group)
        numbers = []
        for part, keeps, kept in self._parts(group, rows, cols):
            numbers += [self._number(x) for x in kept]
            np.logical_or.at(seen, rows[part], keeps)
        number[~full] = numbers
        if not seen.all():
            query = int(np.argmin(seen))
            raise Unfit(f"Splash divides by 0 where a query keeps no key, and query {query} keeps none")
        return row, concatenated_ranges(runs.start.astype(np.int64), width), number

    def _parts(self, group: Group, rows: Array, cols: Array) -> Iterator[tuple[slice, Array, list[bytes]]]:
        """Some partial tiles after others: which, whether each of their queries keeps a key, and the bits of each."""
        plan, ends = self._plan, self._plan.intervals(group)
        if ends is None and rows.size * plan.q_tile * plan.k_tile > _LOOK:
            raise Unfit("its edges are too long, and cannot be solved for the key")
        drawn: dict[bytes, bytes] = {}  # what ends of intervals within a tile come to
        step = tiles_at_once(plan)
        for a in range(0, rows.size, step):
            part = slice(a, a + step)
            if ends is None:
                masks: Array = plan.tile_mask(group, rows[part], cols[part])
                bits = np.packbits(masks.reshape(len(masks), -1), axis=1)
                yield part, np.any(masks, axis=2), [x.tobytes() for x in bits]
                continue
            within = _within(plan, np.array(ends), rows[part], cols[part])
            for key, one in ((x.tobytes(), x) for x in within):
                if key not in drawn:
                    drawn[key] = np.packbits(_drawn(one, plan.k_tile)).tobytes()
            yield part, np.any(within[:, :, 1] > within[:, :, 0], axis=1), [drawn[x.tobytes()] for x in within]

    def _number(self, bits: bytes) -> int:
        if bits not in self.known and (len(self.known) + 1) * self._plan.q_tile * self._plan.k_tile > _MOST_PAIRS:
            raise Unfit(f"Splash wants a mask of every pair in more than {len(self.known)} blocks")
        return self.known.setdefault(bits, len(self.known))

    def written(self) -> Array:
        """(masks, q_tile, k_tile)."""
        shape = len(self.known), self._plan.q_tile, self._plan.k_tile
        bits = np.frombuffer(b"".join(self.known), np.uint8).reshape(len(self.known), -1)
        return np.unpackbits(bits, axis=1, count=shape[1] * shape[2]).reshape(shape).astype(np.bool_)


def _within(plan: TilePlan, ends: Array, rows: Array, cols: Array) -> Array:
    """Of (intervals, 2, q_len) keys, what lies in each tile: (tiles, intervals, 2, q_tile), from the tile's first key
    on, (0, 0) for what does not."""
    found = ends.reshape(*ends.shape[:2], plan.rows, plan.q_tile)[:, :, rows].transpose(2, 0, 1, 3)
    found = np.clip(found - (cols * plan.k_tile)[:, None, None, None], 0, plan.k_tile).astype(np.int32)
    return cast(Array, np.where(found[:, :, :1] < found[:, :, 1:], found, np.int32(0)))


def _drawn(ends: Array, width: int) -> Array:
    """(intervals, 2, q_tile) as (q_tile, width) pairs."""
    key = np.arange(width)
    return cast(Array, np.any((ends[:, 0, :, None] <= key) & (key < ends[:, 1, :, None]), axis=0))


def _info(heads: list[Blocks], rows: int) -> dict[str, Array]:
    """``block_mask``, ``data_next`` and, where there are masks, ``mask_next``: (heads, rows, longest row)."""
    counts = [np.bincount(row, minlength=rows) for row, _, _ in heads]
    shape = (len(heads), rows, max(int(count.max(initial=0)) for count in counts))
    _check_size(*shape)
    found = {"data_next": np.zeros(shape, np.int64), "block_mask": np.zeros(shape, np.int64)}
    if any((number >= 0).any() for _, _, number in heads):
        found["mask_next"] = np.zeros(shape, np.int64)
    for h, ((row, col, number), count) in enumerate(zip(heads, counts, strict=True)):
        place = row * shape[2] + np.arange(row.size) - (np.cumsum(count) - count)[row]
        found["block_mask"][h].flat[place] = np.where(number < 0, 2, 1)
        found["data_next"][h] = _next(place, col, shape[1:])
        if "mask_next" in found:
            found["mask_next"][h] = _next(place[number >= 0], number[number >= 0], shape[1:])
    return found


def _check_size(heads: int, rows: int, longest: int) -> None:
    if heads * rows * longest > _MOST_ENTRIES:
        raise Unfit(f"it has {rows} rows of {longest} blocks, too many for a TPU: give larger --q-tile and --k-tile")


def _next(place: Array, value: Array, shape: tuple[int, ...]) -> Array:
    """At every place of an array the value at the next place that has one; behind the last one, the first."""
    if not place.size:
        return np.zeros(shape, np.int64)
    which = np.full(shape[0] * shape[1], place.size, np.int64)
    which[place] = np.arange(place.size)
    nearest = np.minimum.accumulate(which[::-1])[::-1] % place.size
    return cast(Array, value[nearest].reshape(shape))


def _small(x: Array) -> Array:
    """As integers that hold it, of as few bytes as there are: scalar memory is scarce."""
    most = int(x.max(initial=0))
    return x.astype(next(t for t in (np.int8, np.int16, np.int32) if most <= np.iinfo(t).max), order="C")

"""Decoding: few queries, whose keys several program instances share. Both kernels, started together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from maskc.backends.triton.ahead import compile_together
from maskc.backends.triton.cached import lists_pay
from maskc.backends.triton.launch import Job, Prepared, addresses_of, on_device, pad, strides, table_arguments
from maskc.backends.triton.spec import Form, Kernel
from maskc.tiles.runs import concatenated_ranges

if TYPE_CHECKING:
    from maskc.backends.triton.configs import Config
    from maskc.backends.triton.problem import Problem
    from maskc.tiles.plan import TilePlan

__all__ = [
    "Decoder",
    "Sharing",
    "cache_arguments",
    "decodes",
    "entry_decoder",
    "live_tiles",
    "sharing_of",
    "tile_lists",
]

Tensor = torch.Tensor
Tiles = npt.NDArray[np.int32]
_FEW_QUERIES = 16
_MANY_KEYS = 1024
_KEYS_A_SPLIT = 256
_EACH = 8  # program instances for each multiprocessor: fastest on an H100
_MOST_ROWS = 64  # of a tile: queries times heads that share a key head


def decodes(entry: Problem) -> bool:
    """Whether a call is decoded; else the forward kernel has enough rows to keep a device busy."""
    if entry.splits is not None:
        return entry.splits > 0
    b = entry.binding
    return b.q_len <= _FEW_QUERIES and b.k_len >= _MANY_KEYS


@dataclass(frozen=True)
class Sharing:
    """How program instances share a call: ``pack`` query heads are rows of a tile of ``q_tile``, and ``splits``
    instances share the keys of a tile."""

    batch: int
    heads: int
    rows: int
    pack: int
    q_tile: int
    splits: int = 1

    @property
    def tiles(self) -> int:
        """Tiles of rows, over all batch entries and heads."""
        return self.batch * (self.heads // self.pack) * -(-self.rows // (self.q_tile // self.pack))


def sharing_of(q: Tensor, kv_heads: int, keys: int, splits: int | None) -> Sharing:
    """For queries (B, Hq, Nq, D) over at most ``keys`` keys. ``splits`` None: as many as keep the device busy."""
    batch, heads, rows, _ = q.shape
    group = heads // kv_heads
    pack = max(n for n in range(1, min(group, _MOST_ROWS) + 1) if group % n == 0)
    whole = Sharing(batch, heads, rows, pack, min(_MOST_ROWS, pad(rows * pack)))
    return replace(whole, splits=splits or _splits(whole.tiles, keys, q.device))


def _splits(tiles: int, keys: int, device: torch.device) -> int:
    if device.type != "cuda":
        return 2
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return max(1, min(keys // _KEYS_A_SPLIT, -(-_EACH * processors // tiles), 128))


class Decoder:
    """Both kernels, ready for tensors of some shapes, strides and dtypes.

    ``kernels``: that of the parts, and that which joins them. ``shared``: arguments that stay the same from call to
    call, but those that follow from ``sharing`` and from ``q`` (B, Hq, Nq, D) and ``out`` (B, Hq, Nq, Dv), and
    ``behind``, positions behind the last query, where there are any.
    """

    def __init__(
        self,
        kernels: tuple[Kernel, Kernel],
        sharing: Sharing,
        chosen: Config,
        q: Tensor,
        out: Tensor,
        shared: Mapping[str, Any],
        precision: str,
    ) -> None:
        d, dv = q.shape[3], out.shape[3]
        self.sharing, self.k_tile = sharing, chosen.k_tile
        self._device = q.device
        self._shape = (sharing.splits, *q.shape[:3], dv)
        every = {
            "behind": 0,
            **shared,
            **{"rows": sharing.rows, "batch": sharing.batch, "heads": sharing.heads, "splits": sharing.splits},
            **{"PACK": sharing.pack, "Q_TILE": sharing.q_tile, "K_TILE": chosen.k_tile, "PRECISION": precision},
            **{"D": d, "D_PAD": pad(d), "DV": dv, "DV_PAD": pad(dv)},
            **strides("q", q),
            **strides("o", out),
        }
        tile = replace(chosen, q_tile=sharing.q_tile)
        parts, merge = kernels
        self._kernels = (
            Prepared(parts, (sharing.tiles * sharing.splits, 1, 1), every, tile, q.device),
            Prepared(merge, (sharing.tiles, 1, 1), every, tile, q.device),
        )

    def start(self, tensors: Mapping[str, Tensor], scale: float) -> None:
        """Start both on the current stream. ``tensors``: those that calls bring, by the names of arguments."""
        every, floats = self._complete(tensors), {"scale": scale}
        addresses = addresses_of(every)
        jobs = [kernel.job(every, floats) for kernel in self._kernels if addresses[1] not in kernel.codes]
        if len(jobs) > 1:
            compile_together(jobs)
        for kernel in self._kernels:
            kernel.start_at(addresses, every, floats)

    def jobs(self, tensors: Mapping[str, Tensor], scale: float) -> list[Job]:
        """Both, to be compiled for such tensors."""
        every = self._complete(tensors)
        return [kernel.job(every, {"scale": scale}) for kernel in self._kernels]

    def _complete(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a call, and those for what the parts leave."""
        parts = torch.empty(self._shape, dtype=torch.float32, device=self._device)
        lses = torch.empty(self._shape[:4], dtype=torch.float32, device=self._device)
        return {**tensors, "part_ptr": parts, "lse_ptr": lses}


def cache_arguments(k: Tensor, v: Tensor, table: Tensor | None) -> dict[str, int]:
    """What caches (B, Hkv, Nmax, D) are like; with ``table`` (B, max_blocks) pages (blocks, block_size, Hkv, D)."""
    axes = "bhnd" if table is None else "bnhd"  # of pages, "b" is the page
    page = 0 if table is None else k.shape[1]
    rows, columns = (0, 0) if table is None else table.stride()
    return {
        **{"PAGE": page, "pages": k.shape[0], "table_sb": rows, "table_sn": columns},
        "capacity": k.shape[2] if table is None else table.shape[1] * page,
        **{f"{n}_s{axis}": s for n, x in (("k", k), ("v", v)) for axis, s in zip(axes, x.stride(), strict=True)},
    }


def live_tiles(plan: TilePlan, heads: Iterable[int], batch: int = 0) -> Tiles:
    """The tiles of keys that any query of some heads of a batch entry keeps, in order."""
    wanted = set(heads)
    runs = [g.runs for g in plan.groups if batch in g.batches and wanted.intersection(g.heads)]
    tiles = [concatenated_ranges(r.start.astype(np.int64), (r.end - r.start).astype(np.int64)) for r in runs]
    return np.unique(np.concatenate([np.zeros(0, np.int64), *tiles])).astype(np.int32)


def tile_lists(lists: Sequence[Tiles]) -> dict[str, Tiles]:
    """Lists of tiles as arguments: one after another, and where each starts."""
    first = np.cumsum([0, *(x.size for x in lists)]).astype(np.int32)
    return {"tiles_first": first, "tiles": np.concatenate([*lists, np.zeros(1, np.int32)])}


def entry_decoder(
    entry: Problem, chosen: Config, tensors: Mapping[str, Tensor], tables: Mapping[str, Tensor]
) -> Decoder:
    """The kernels for calls with such tensors. What is fixed for the entry is copied to the device here: lengths,
    extents, tables, and the list of live tiles where the kernel cannot find them."""
    b, q, k, v = entry.binding, tensors["q_ptr"], tensors["k_ptr"], tensors["v_ptr"]
    listed = lists_pay(entry.text_program)
    kernels = entry.kernel("decode", Form(listed=listed)), entry.kernel("merge", Form())
    read = dict.fromkeys(name for kernel in kernels for name in kernel.tables)
    sharing = sharing_of(q, k.shape[1], b.k_len, entry.splits)
    extents = {f"size_{name}_of": extent for name, extent in b.sizes.items()}
    arrays = {n: np.full(b.batch, x, np.int32) for n, x in {"lengths": b.k_len, **extents}.items()}
    if listed:
        plan, packs = entry.plan(pad(b.q_len), chosen.k_tile), range(0, b.heads, sharing.pack)
        arrays |= tile_lists(
            [live_tiles(plan, range(h, h + sharing.pack), batch) for batch in range(b.batch) for h in packs]
        )
    fixed = {name: on_device(x, q.device) for name, x in arrays.items()}
    static, moving = (tuple(n for n in read if (n in tables) == given) for given in (False, True))
    shared = {
        **entry._remembered(
            ("tables", static, q.device), lambda: table_arguments(entry.program, b, {}, static, q.device)
        ),
        **{n: x for n, x in table_arguments(entry.program, b, tables, moving, q.device).items() if n not in tensors},
        **{**fixed, "starts": fixed["lengths"], "block_table": fixed["lengths"], "STARTED": False},
        **{"group": b.heads // k.shape[1], "layer": b.layer, **cache_arguments(k, v, None)},
        "behind": b.k_len - b.q_len - b.offset,
    }
    return Decoder(kernels, sharing, chosen, q, tensors["out_ptr"], shared, entry.precision)

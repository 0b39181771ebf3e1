"""Decoding over caches by two kernels: what they are handed. Nothing waits for the device where lengths are there."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from maskc.backends.decoding import DecodeCall, check_kept_pages, key_ranges
from maskc.backends.triton.cached import CachedSpec, write_cached, write_merge
from maskc.backends.triton.configs import Config
from maskc.backends.triton.decode import splits_for
from maskc.backends.triton.launch import default_config, launch, pad, strides, table_arguments
from maskc.backends.triton.masks import pair_values
from maskc.backends.triton.spec import Kernel, KernelSpec, specialised
from maskc.ir.binding import Binding
from maskc.ir.program import Program
from maskc.tiles import make_plan
from maskc.tiles.runs import concatenated_ranges
from maskc.tiles.values import fail

__all__ = ["CachedKernels", "decode"]

Tensor = torch.Tensor
_MOST_ROWS = 64  # of a tile: queries times heads that share a key head


def decode(call: DecodeCall, precision: str) -> tuple[Tensor, Tensor]:
    """Output (B, Hq, Nq, Dv) in the dtype of ``q``, and log-sum-exp (B, Hq, Nq) in float32 (0 without a softmax).

    Raises Unsupported, WideIntegers, E504 for pages that there are not (where the table is on the CPU), and E506.
    """
    batched = _batched(call)
    kernels = call.compiled.remember(
        ("triton decode", batched, precision), None, lambda: CachedKernels(call.compiled.program, batched, precision)
    )
    return kernels.run(call)


def _batched(call: DecodeCall) -> frozenset[str]:
    if call.binding is not None:
        return call.binding.batched
    domains = {p.name: p.domain for p in call.program.params}
    return call.batched | {n for n, x in call.inputs.items() if isinstance(x, Tensor) and x.ndim > len(domains[n])}


@dataclass(frozen=True, eq=False)
class CachedKernels:
    """The kernels of a program, with what was given when compiling still open.

    ``listed``: whether the tiles of keys are planned on the host; None: where that finds fewer and lengths are known.
    ``config``, ``splits``: replace the defaults.
    """

    program: Program
    batched: frozenset[str]
    precision: str
    listed: bool | None = None
    config: Config | None = None
    splits: int | None = None

    def run(self, call: DecodeCall) -> tuple[Tensor, Tensor]:
        """See ``decode``."""
        q = call.q
        out = torch.empty(
            (q.shape[0], q.shape[2], q.shape[1], call.v.shape[3]), dtype=q.dtype, device=q.device
        ).transpose(1, 2)
        lse = torch.zeros(q.shape[:3], dtype=torch.float32, device=q.device)
        if out.numel():
            if call.binding is not None and call.block_table is not None and call.block_table.device.type == "cpu":
                for cohort in call.cohorts():
                    check_kept_pages(cohort)
            _Launch(self, call, self.text(call)).start(out, lse)
        return out, lse

    def text(self, call: DecodeCall) -> tuple[CachedSpec, Kernel, Kernel]:
        """What the kernels are written from, and both of them."""
        return self._texts(tuple(sorted(call.compiled.args.items())), call.binding is not None)

    @functools.cache  # noqa: B019  # lives as long as the op
    def _texts(self, args: tuple[tuple[str, Any], ...], known: bool) -> tuple[CachedSpec, Kernel, Kernel]:
        program = specialised(self.program, dict(args))
        ranges, exact = key_ranges(program.mask)
        listed = known and not exact if self.listed is None else self.listed
        spec = CachedSpec(KernelSpec(program, self.batched), None if listed else ranges, self.program.cross)
        return spec, write_cached(spec), write_merge(spec)


class _Launch:
    """One call."""

    def __init__(self, owner: CachedKernels, call: DecodeCall, text: tuple[CachedSpec, Kernel, Kernel]) -> None:
        self.owner, self.call = owner, call
        self.spec, self.kernel, self.merge = text
        q = call.q
        self.batch, self.heads, self.rows, dim = q.shape
        self.device = q.device
        group = self.heads // call.kv_heads
        self.pack = max(n for n in range(1, min(group, _MOST_ROWS) + 1) if group % n == 0)
        values = pair_values(self.spec.kernel.program, None)
        chosen = owner.config or default_config("decode", self.device, dim, call.v.shape[3], q.dtype, values)
        self.q_tile = min(_MOST_ROWS, pad(self.rows * self.pack))
        self.chosen = Config(self.q_tile, chosen.k_tile, chosen.warps, chosen.stages)
        tiles = -(-self.rows // (self.q_tile // self.pack))
        self.instances = self.batch * (self.heads // self.pack) * tiles
        self.splits = owner.splits or splits_for(self.instances, call.capacity, self.device)

    def start(self, out: Tensor, lse: Tensor) -> None:
        call = self.call
        parts = torch.empty((self.splits, *out.shape), dtype=torch.float32, device=self.device)
        lses = torch.empty(parts.shape[:4], dtype=torch.float32, device=self.device)
        values: dict[str, Any] = {
            **self._tensors(),
            **self._numbers(),
            **self._sizes(),
            "part_ptr": parts,
            "lse_ptr": lses,
        }
        q, scale = (call.q, call.scale) if call.scale > 0 else (call.q * call.scale, 1.0)
        # The kernels take the largest score of a row before they scale it, so the factor has to be positive.
        values |= {"q_ptr": q, "scale": float(scale), **strides("q", q)}
        if self.spec.ranges is None:
            values |= self._tiles()
        first = {**values, **self._tables(self.kernel)}
        launch(self.kernel, self.instances * self.splits, first, self.chosen, self.device)
        last = {**values, **self._tables(self.merge), "out_ptr": out, "whole_ptr": lse, **strides("o", out)}
        launch(self.merge, self.instances, last, self.chosen, self.device)

    def _tensors(self) -> dict[str, Any]:
        call = self.call
        lengths = self._on_device(call.lengths)
        starts = lengths if call.start is None else self._on_device(call.start)
        table = lengths[None] if call.block_table is None else self._on_device(call.block_table)
        values: dict[str, Any] = {"k_ptr": call.k, "v_ptr": call.v}
        values |= {"lengths": lengths, "starts": starts, "block_table": table}
        values |= {"table_sb": table.stride(0), "table_sn": table.stride(1)}
        axes = "bhnd" if call.block_table is None else "bnhd"  # of pages, "b" is the page
        for name, x in (("k", call.k), ("v", call.v)):
            values |= {f"{name}_s{axis}": int(s) for axis, s in zip(axes, x.stride(), strict=True)}
        return values

    def _on_device(self, x: Tensor) -> Tensor:
        return x.to(self.device, torch.int32, non_blocking=True)

    def _numbers(self) -> dict[str, Any]:
        call = self.call
        d, dv = call.q.shape[3], call.v.shape[3]
        return {
            **{"rows": self.rows, "batch": self.batch, "heads": self.heads, "splits": self.splits},
            **{"group": self.heads // call.kv_heads, "layer": call.compiled.layer, "PACK": self.pack},
            **{"capacity": call.capacity, "pages": call.k.shape[0], "PAGE": call.block_size},
            **{"D": d, "D_PAD": pad(d), "DV": dv, "DV_PAD": pad(dv), "PRECISION": self.owner.precision},
            **{"Q_TILE": self.q_tile, "K_TILE": self.chosen.k_tile, "STARTED": call.start is not None},
            **dict.fromkeys(("RAGGED_Q", "RAGGED_K", "FULL_RUN", "PART_RUN"), False),
        }

    def _sizes(self) -> dict[str, Tensor]:
        """The extents of segments and axes, of each entry."""
        asked = {a.name for kernel in (self.kernel, self.merge) for a in kernel.arguments if a.name.startswith("size_")}
        names = [name.removeprefix("size_").removesuffix("_of") for name in asked]
        extents = np.zeros((len(names), self.batch), np.int32)
        if names and self.call.binding is not None:
            for cohort in self.call.cohorts():
                for i, name in enumerate(names):
                    extents[i, list(cohort.entries)] = cohort.binding.sizes[name]
        elif names:
            found = self._given_sizes(names)
            extents[:] = [[found[name]] for name in names]
        rows = self._on_device(torch.from_numpy(extents)) if names else extents
        return {f"size_{name}_of": rows[i] for i, name in enumerate(names)}

    def _given_sizes(self, names: list[str]) -> Mapping[str, int]:
        found = dict(self.call.sizes)
        for space in (self.call.program.q_space, self.call.program.k_space):
            for s in space.segments:
                if s.name and s.axes and all(a in found for a in s.axes):
                    found[s.name] = int(np.prod([found[a] for a in s.axes]))
        for name in names:
            if name not in found:
                why = f"the extent of {name} follows from the length, which is on a device"
                raise fail("E506", why, f'give sizes={{"{name}": ...}}, or lengths on the CPU')
        return found

    def _tables(self, kernel: Kernel) -> dict[str, Any]:
        """The tables and inputs that a kernel reads; those on a device as they are."""
        call = self.call
        known, fixed, host = dict(call.floats), list[str](), list[str]()
        for name in kernel.tables:
            x = call.inputs.get(name)
            if name in call.floats:
                host.append(name)
            elif isinstance(x, Tensor) and (call.binding is None or x.device.type != "cpu"):
                known[name] = x.to(torch.int8) if x.dtype == torch.bool else x.to(torch.int32)
                host.append(name)
            else:
                (fixed if name in call.compiled.tables else host).append(name)
        static = Binding(0, 0, tables=call.compiled.tables)
        make = functools.partial(table_arguments, call.program, static, {}, tuple(fixed), self.device)
        found = call.compiled.remember(("triton decode tables", tuple(fixed), self.device), None, make)
        return {**found, **table_arguments(call.program, call.binding or static, known, tuple(host), self.device)}

    def _tiles(self) -> dict[str, Tensor]:
        """The live tiles of keys of every entry and pack of heads, planned."""
        call, packs = self.call, self.heads // self.pack
        lists = [np.zeros(0, np.int32)] * (self.batch * packs)
        for cohort in call.cohorts():
            plan = make_plan(*cohort.one(), q_tile=pad(self.rows), k_tile=self.chosen.k_tile)
            for pack in range(packs):
                heads = set(range(pack * self.pack, (pack + 1) * self.pack))
                runs = [g.runs for g in plan.groups if heads & set(g.heads)]
                tiles = [
                    concatenated_ranges(r.start.astype(np.int64), (r.end - r.start).astype(np.int64)) for r in runs
                ]
                union = np.unique(np.concatenate([np.zeros(0, np.int64), *tiles])).astype(np.int32)
                for entry in cohort.entries:
                    lists[entry * packs + pack] = union
        first = np.cumsum([0, *(x.size for x in lists)]).astype(np.int32)
        every = np.concatenate([*lists, np.zeros(1, np.int32)])
        return {
            "tiles_first": self._on_device(torch.from_numpy(first)),
            "tiles": self._on_device(torch.from_numpy(every)),
        }

"""Decoding over caches by two kernels: what they are handed. Nothing waits for the device where lengths are there."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch

from maskc.backends.decoding import DecodeCall, check_kept_pages
from maskc.backends.triton.cached import lists_pay
from maskc.backends.triton.configs import Config
from maskc.backends.triton.decode import Decoder, cache_arguments, live_tiles, sharing_of, tile_lists
from maskc.backends.triton.expressions import extent_name
from maskc.backends.triton.launch import capturing, default_config, heads_inside, on_device, pad, table_arguments
from maskc.backends.triton.masks import pair_values
from maskc.backends.triton.spec import Kernel, KernelSpec, specialised
from maskc.backends.triton.stages import kernel_of
from maskc.ir.binding import Binding
from maskc.ir.program import OUTPUT, Program
from maskc.tiles import make_plan
from maskc.tiles.values import fail

__all__ = ["CachedKernels", "decode"]

Tensor = torch.Tensor
_Extents = tuple[tuple[str, int], ...]
_PREPARED = 64  # kinds of calls whose kernels are kept ready


def decode(call: DecodeCall, precision: str) -> tuple[Tensor, Tensor]:
    """Output (B, Hq, Nq, Dv) in the dtype of ``q``, and log-sum-exp (B, Hq, Nq) in float32 (0 without a softmax).

    Raises Unsupported, E504 for pages that there are not (where the table is on the CPU), E506, and E702 for integers
    beyond 32 bits.
    """
    batched = _batched(call)
    kernels = call.compiled.remember(
        ("triton decode", batched, precision), None, lambda: CachedKernels(call.compiled.program, batched, precision)
    )
    return kernels.run(call)


def _batched(call: DecodeCall) -> frozenset[str]:
    if call.binding is not None:
        return call.binding.batched
    given = [(n, x) for n, x in call.inputs.items() if isinstance(x, Tensor)]
    return call.batched.union(n for n, x in given if x.ndim > len(call.program.parameter(n).domain))


@dataclass(frozen=True)
class _Text:
    """Both kernels, and the names of the arguments that are ``tables`` and inputs, and ``sizes`` (extents)."""

    kernels: tuple[Kernel, Kernel]
    listed: bool
    tables: Mapping[str, str]
    sizes: Mapping[str, str]
    pair_values: int


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
    _texts: dict[bool, _Text] = field(default_factory=dict, repr=False)
    _decoders: OrderedDict[Hashable, Decoder] = field(default_factory=OrderedDict, repr=False)

    def run(self, call: DecodeCall) -> tuple[Tensor, Tensor]:
        """See ``decode``."""
        q = call.q
        out = heads_inside(q, call.v.shape[3])
        if not out.numel():
            return out, torch.zeros(q.shape[:3], dtype=torch.float32, device=q.device)
        if call.binding is not None and call.block_table is not None and call.block_table.device.type == "cpu":
            for cohort in call.cohorts():
                check_kept_pages(cohort)
        text = self._text(call)
        softmax = self.program.normalizer.kind == "softmax"
        lse = (torch.empty if softmax else torch.zeros)(q.shape[:3], dtype=torch.float32, device=q.device)
        results = {"out_ptr": out, "whole_ptr": lse}
        if self.program.output is not OUTPUT:
            results["plain_ptr"] = heads_inside(q, call.v.shape[3])
        # The kernels take the largest score of a row before they scale it, so the factor has to be positive.
        q, scale = (q, call.scale) if call.scale > 0 else (q * call.scale, 1.0)
        tensors = {"q_ptr": q, "k_ptr": call.k, "v_ptr": call.v, **results, **_moving(call, text)}
        decoder = self._decoder(call, text, tensors)
        if capturing(q.device):
            call.compiled.hold(decoder)  # tables that it owns lie where the graph will read them
        if text.listed:
            tensors |= _listed(call, decoder)
        decoder.start(tensors, scale)
        return out, lse

    def _text(self, call: DecodeCall) -> _Text:
        known = call.binding is not None
        if known not in self._texts:
            self._texts[known] = self._written(specialised(self.program, call.compiled.args), known)
        return self._texts[known]

    def _written(self, program: Program, known: bool) -> _Text:
        listed = known and lists_pay(program) if self.listed is None else self.listed
        spec = KernelSpec(program, self.batched, listed=listed)
        kernels = kernel_of("decode", spec), kernel_of("merge", KernelSpec(program, self.batched))
        every = [a for kernel in kernels for a in kernel.arguments]
        tables = {a.table: a.name for a in every if a.table is not None}
        sizes = {a.name.removeprefix("size_").removesuffix("_of"): a.name for a in every if a.name.startswith("size_")}
        return _Text(kernels, listed, tables, sizes, pair_values(program, None))

    def _decoder(self, call: DecodeCall, text: _Text, tensors: Mapping[str, Tensor]) -> Decoder:
        """The kernels for such tensors; kept for the kinds of calls met last."""
        like = tuple([(x.shape, x.stride(), x.dtype) for x in tensors.values()])
        extents = _given_extents(call, text) if call.binding is None and text.sizes else ()
        key = (text.listed, call.q.device, call.start is None, call.block_table is None, extents, like)
        found = self._decoders.pop(key, None) or self._prepared(call, text, tensors, extents)
        # Taken out and put back, which is safe with other threads about; the one used last is at the end.
        self._decoders[key] = found
        while len(self._decoders) > _PREPARED:
            self._decoders.popitem(last=False)
        return found

    def _prepared(self, call: DecodeCall, text: _Text, tensors: Mapping[str, Tensor], extents: _Extents) -> Decoder:
        q, program = tensors["q_ptr"], call.program  # which is not the call's where the scale is in it
        sharing = sharing_of(q, call.kv_heads, call.capacity, self.splits)
        chosen = self.config or default_config(
            "decode", q.device, q.shape[3], call.v.shape[3], q.dtype, text.pair_values
        )
        static = tuple(n for n in text.tables if n in call.compiled.tables)
        held = Binding(0, 0, tables=call.compiled.tables)
        fixed = call.compiled.remember(
            ("triton decode tables", static, q.device),
            None,
            lambda: table_arguments(program, held, {}, static, q.device),
        )
        moving = {n: tensors[argument].shape for n, argument in text.tables.items() if argument in tensors}
        rows = {argument: on_device(np.full(q.shape[0], x, np.int32), q.device) for argument, x in extents}
        shared = {
            **{**fixed, **rows},
            **{extent_name(n, d, program.params): x for n, shape in moving.items() for d, x in enumerate(shape)},
            **cache_arguments(call.k, call.v, call.block_table),
            **{"group": q.shape[1] // call.kv_heads, "layer": call.compiled.layer, "STARTED": call.start is not None},
        }
        return Decoder(text.kernels, sharing, chosen, q, tensors["out_ptr"], shared, self.precision)


def _moving(call: DecodeCall, text: _Text) -> dict[str, Tensor]:
    """What a call brings beside q, caches and results, by argument: as it is where it lies on the device of ``q``."""
    lengths = _here(call, call.lengths)
    found = {
        "lengths": lengths,
        "starts": lengths if call.start is None else _here(call, call.start),
        "block_table": lengths if call.block_table is None else _here(call, call.block_table),
    }
    if text.sizes and call.binding is not None:
        found |= zip(text.sizes.values(), _extents(call, text), strict=True)
    for name, argument in text.tables.items():
        if name not in call.compiled.tables:
            found[argument] = _input(call, name, argument)
    return found


def _here(call: DecodeCall, x: Tensor) -> Tensor:
    """On the device of ``q``. Raises RuntimeError while a CUDA graph is captured, which would copy at every replay from
    memory that may be gone by then."""
    if x.device == call.q.device:
        return x
    if capturing(call.q.device):
        raise RuntimeError("give op.decode lengths and start on the device while a CUDA graph is captured")
    return x.to(call.q.device, torch.int32, non_blocking=True)


def _input(call: DecodeCall, name: str, argument: str) -> Tensor:
    """An input as kernels read it. Raises E702 for integers beyond 32 bits where it lies on the CPU."""
    x = call.floats.get(name)
    if x is None:
        x = call.inputs.get(name)
        if call.binding is not None and not (isinstance(x, Tensor) and x.device.type != "cpu"):
            return cast("Tensor", table_arguments(call.program, call.binding, {}, (name,), call.q.device)[argument])
        assert isinstance(x, Tensor)
        x = x.to(torch.int8 if x.dtype == torch.bool else torch.int32)
    return x.contiguous() if x.numel() else x.new_zeros((1,) * x.ndim)


def _extents(call: DecodeCall, text: _Text) -> Tensor:
    """The extents of segments and axes of each entry, (names, B): they follow from its length."""
    extents = np.zeros((len(text.sizes), call.q.shape[0]), np.int32)
    for cohort in call.cohorts():
        for i, name in enumerate(text.sizes):
            extents[i, list(cohort.entries)] = cohort.binding.sizes[name]
    return _here(call, torch.from_numpy(extents))


def _given_extents(call: DecodeCall, text: _Text) -> _Extents:
    """Extents that are the same for all entries, where lengths are on a device. Raises E506 where one is not given."""
    found = dict(call.sizes)
    for space in (call.program.q_space, call.program.k_space):
        for s in space.segments:
            if s.name and s.axes and all(a in found for a in s.axes):
                found[s.name] = int(np.prod([found[a] for a in s.axes]))
    for name in text.sizes:
        if name not in found:
            why = f"the extent of {name} follows from the length, which is on a device"
            raise fail("E506", why, f'give sizes={{"{name}": ...}}, or lengths on the CPU')
    return tuple((argument, found[name]) for name, argument in text.sizes.items())


def _listed(call: DecodeCall, decoder: Decoder) -> dict[str, Tensor]:
    """The live tiles of keys of every entry and pack of heads, planned."""
    batch, heads, rows, _ = call.q.shape
    packs = range(0, heads, decoder.sharing.pack)
    lists = [np.zeros(0, np.int32)] * (batch * len(packs))
    for cohort in call.cohorts():
        budget = call.compiled.budget
        plan = make_plan(*cohort.one(), q_tile=pad(rows), k_tile=decoder.k_tile, budget=budget)
        for i, first in enumerate(packs):
            tiles = live_tiles(plan, range(first, first + decoder.sharing.pack))
            for entry in cohort.entries:
                lists[entry * len(packs) + i] = tiles
    return {name: _here(call, torch.from_numpy(x)) for name, x in tile_lists(lists).items()}

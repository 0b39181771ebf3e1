"""Decoding with a cache of keys: the call that backends are handed, and what of it is known on the host.

Every batch entry has a length of its own, and with it a mask of its own. Entries of equal length are
one ``Cohort``: a program under a binding, as for any call.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from maskc.arguments import shown
from maskc.ir.binding import Binding
from maskc.ir.evaluate import dense
from maskc.ir.nodes import Const, Lookup, Symbol, postorder
from maskc.ir.ops import apply, conjunction
from maskc.ir.program import Parameter, Program
from maskc.ir.rewrite import map_program, mentions, substitute
from maskc.tensors import check_dense, check_tensors
from maskc.tiles.extents import find_extents
from maskc.tiles.values import fail

if TYPE_CHECKING:
    from maskc.backends import Compiled

__all__ = [
    "Cohort",
    "DecodeCall",
    "check_caches",
    "check_integers",
    "check_kept_pages",
    "check_lengths",
    "kept_keys",
]

Tensor = torch.Tensor
Ints = npt.NDArray[np.int64]
_BATCH = Symbol("b")


@dataclass(frozen=True, eq=False)
class DecodeCall:
    """A call of ``op.decode``, checked as far as it can be without looking at what a GPU holds.

    Attributes:
        compiled: the pattern.
        q: (B, Hq, Nq, D); k, v: the caches, (B, Hkv, Nmax, D) or pages (num_blocks, block_size, Hkv, D).
        lengths: (B,), integers: keys of each entry. start: position of each cache's first key, or None.
        block_table: (B, max_blocks), integers, for pages; else None.
        inputs: inputs that are no floats, as they were given; floats: the others, on the device of ``q``.
        sizes: extents that were given. scale: factor of the dot products.
        return_lse: whether the log-sum-exp is asked for.
        batched: float inputs that have a batch dimension in front.
        binding: the inputs checked and converted, at the inputs' own extent; None where ``lengths`` are on a device.
    """

    compiled: Compiled
    q: Tensor
    k: Tensor
    v: Tensor
    lengths: Tensor
    start: Tensor | None
    block_table: Tensor | None
    inputs: Mapping[str, Any]
    floats: Mapping[str, Tensor]
    sizes: Mapping[str, int]
    scale: float
    return_lse: bool = False
    batched: frozenset[str] = frozenset()
    binding: Binding | None = None

    @property
    def program(self) -> Program:
        """The program, as lowered."""
        return self.compiled.program

    @property
    def block_size(self) -> int:
        """Keys a page; 0 where there are no pages."""
        return 0 if self.block_table is None else int(self.k.shape[1])

    @property
    def kv_heads(self) -> int:
        """Number of key heads."""
        return int(self.k.shape[1] if self.block_table is None else self.k.shape[2])

    @property
    def capacity(self) -> int:
        """Keys that the cache of an entry can hold."""
        return int(self.k.shape[2] if self.block_table is None else self.block_table.shape[1] * self.block_size)

    @functools.cached_property
    def numbered(self) -> bool:
        """Whether the program uses the number of a batch entry itself."""
        return self.compiled.remember("numbered", None, lambda: speaks_of_batch(self.program))

    def cohorts(self) -> Iterator[Cohort]:
        """Batch entries of equal length, start and mask, together. Entries that hold no query are in none.

        Needs ``binding``. Raises E506 where sizes do not fit a length.
        """
        assert self.binding is not None
        batched = self.binding.batched
        known = self.compiled.remember(("by entry", batched), None, lambda: depends_on_entry(self.program, batched))
        alone = self.numbered or known
        starts = [0] * len(self.lengths) if self.start is None else self.start.tolist()
        found: dict[tuple[int, ...], list[int]] = {}
        for entry, (length, start) in enumerate(zip(self.lengths.tolist(), starts, strict=True)):
            if length or self.program.cross:
                found.setdefault((length, start, entry if alone else -1), []).append(entry)
        for (length, start, _), entries in found.items():
            rows = self.q.shape[2] if self.program.cross else min(self.q.shape[2], length)
            yield Cohort(self, tuple(entries), length, start, rows, self._sizes(rows, length))

    def _sizes(self, rows: int, length: int) -> Mapping[str, int]:
        """The extents that an entry's length leaves; where there are none, all entries share one answer."""
        program = self.program
        if program.q_space.segments or program.k_space.segments:
            return find_extents(program, rows, length, self.sizes)
        return self._no_sizes

    @functools.cached_property
    def _no_sizes(self) -> Mapping[str, int]:
        return find_extents(self.program, 0, 0, self.sizes)


def _cut(
    p: Parameter, x: Any, batched: bool, *, rows: int, length: int, entries: tuple[int, ...], numbered: bool
) -> Any:
    """The part of an input that some entries read: the last ``rows`` queries, the first ``length`` tokens."""
    domain = ("batch", *p.domain) if batched else p.domain
    for axis, d in enumerate(domain):
        if d in ("token", "k"):
            x = x[(slice(None),) * axis + (slice(0, length),)]
        elif d == "q":
            x = x[(slice(None),) * axis + (slice(x.shape[axis] - rows, None),)]
        elif d == "batch" and not (numbered and not batched):
            x = x[(slice(None),) * axis + (list(entries),)]
    return x


@dataclass(frozen=True, eq=False)
class Cohort:
    """Batch entries that share a mask: of equal ``length``, with ``rows`` queries each, and the same ``sizes``.

    ``start``: keys before it are not in the cache, and no query keeps them.
    """

    call: DecodeCall
    entries: tuple[int, ...]
    length: int
    start: int
    rows: int
    sizes: Mapping[str, int]

    def only(self, entries: tuple[int, ...]) -> Cohort:
        """Some of the entries."""
        return self if entries == self.entries else replace(self, entries=entries)

    @property
    def offset(self) -> int:
        """Absolute position of the first query."""
        return 0 if self.call.program.cross else self.length - self.rows

    @functools.cached_property
    def program(self) -> Program:
        """The program; of an entry whose number it uses, which is alone, with that number put in."""
        program = self.call.program
        if not self.call.numbered:
            return program
        entry = Const(self.entries[0])
        return map_program(program, lambda root: substitute(root, {_BATCH: entry}))

    @functools.cached_property
    def binding(self) -> Binding:
        """The binding, of batch ``len(entries)``."""
        whole = self.call.binding
        assert whole is not None
        tables = self._cut(whole.tables, whole.batched)
        fixed = (whole.heads, whole.layer, len(self.entries), self.sizes, whole.args)
        return Binding(self.rows, self.length, self.call.program.cross, *fixed, tables, whole.batched)

    @functools.cached_property
    def floats(self) -> Mapping[str, Tensor]:
        """The float inputs."""
        whole = self.call.binding
        assert whole is not None
        return self._cut(self.call.floats, whole.batched)

    def _cut(self, inputs: Mapping[str, Any], batched: Collection[str]) -> dict[str, Any]:
        params = {p.name: p for p in self.program.params} if inputs else {}
        numbered = self.call.numbered
        known: dict[str, Any] = {"rows": self.rows, "length": self.length, "entries": self.entries}
        return {n: _cut(params[n], x, n in batched, numbered=numbered, **known) for n, x in inputs.items()}

    def one(self) -> tuple[Program, Binding]:
        """What plans the mask, which is that of the first entry: with the keys that are not there masked."""
        program, binding = self.program, self.binding
        if self.start:
            there = apply("le", Const(self.start), Symbol("k"))
            program = program.replace(mask=conjunction([there, program.mask]))
        tables = {n: x[0] if n in binding.batched else x for n, x in binding.tables.items()}
        return program, binding.replace(batch=1, tables=tables, batched=frozenset())


def speaks_of_batch(program: Program) -> bool:
    """Whether the number of a batch entry is used but to look up what was given for it."""
    params = {p.name: p for p in program.params}
    return any(
        n is _BATCH and not (isinstance(user, Lookup) and params[user.name].domain[i] == "batch")
        for user in postorder(program.roots())
        for i, n in enumerate(user.children)
    ) or any(root is _BATCH for root in program.roots())


def depends_on_entry(program: Program, batched: frozenset[str]) -> bool:
    """Whether the mask reads anything that is given for each batch entry."""
    mask = [program.mask]
    read = any(isinstance(n, Lookup) and n.name in batched for n in postorder(mask))
    return read or "b" in mentions(mask)[program.mask]


def check_caches(q: Tensor, k: Tensor, v: Tensor, table: Tensor | None, heads: int) -> None:
    """Raises E510 (shape), E511 (dtype) or E512 (device) where q and caches cannot be attended with."""
    if table is None:
        if all(isinstance(x, Tensor) and x.ndim == 4 and not x.is_nested for x in (q, k)) and len(q) != len(k):
            shapes = f"q {tuple(q.shape)}, k_cache {tuple(k.shape)}"
            hint = "caches that lie in pages need a block_table"
            raise fail("E510", f"q and k_cache must have the same number of batch entries: {shapes}", hint)
        check_tensors(q, k, v, heads, "_cache")
        return
    for name, x in (("q", q), ("k_cache", k), ("v_cache", v)):
        if isinstance(x, Tensor):
            check_dense(name, x)
        if not isinstance(x, Tensor) or x.ndim != 4:
            layout = "(batch, heads, length, dim)" if name == "q" else "pages (num_blocks, block_size, heads, dim)"
            raise fail("E510", f"{name} must be {layout}, not {tuple(x.shape) if isinstance(x, Tensor) else shown(x)}")
    shapes = f"q {tuple(q.shape)}, k_cache {tuple(k.shape)}, v_cache {tuple(v.shape)}"
    if k.shape[:3] != v.shape[:3]:
        raise fail("E510", f"k_cache and v_cache must agree in blocks, block size and heads: {shapes}")
    if not k.shape[1]:
        raise fail("E510", f"a page holds no key: {shapes}")
    # One page stands for the cache of each entry.
    keys, values = (x.new_empty(()).expand(q.shape[0], x.shape[2], x.shape[1], x.shape[3]) for x in (k, v))
    check_tensors(q, keys, values, heads, "_cache", f"{shapes}, where pages are (num_blocks, block_size, heads, dim)")
    if not isinstance(table, Tensor):
        hint = "convert: torch.tensor(block_table, device=q.device)"
        raise fail("E511", f"block_table must be a torch tensor, not {shown(table)}", hint)
    check_dense("block_table", table)
    check_integers("block_table", table)
    if table.ndim != 2 or table.shape[0] != q.shape[0]:
        raise fail("E510", f"block_table must be (batch, max_blocks) = ({q.shape[0]}, ...), not {tuple(table.shape)}")
    if table.device != q.device:
        raise fail(
            "E512", f"q is on {q.device}, but block_table is on {table.device}", "move it: block_table.to(q.device)"
        )


def check_integers(name: str, x: Tensor) -> None:
    """Raises E511 where the elements are not int32 or int64."""
    if x.dtype not in (torch.int32, torch.int64):
        raise fail("E511", f"{name} must be int32 or int64, not {x.dtype}", f"convert: {name}.int()")


def check_lengths(call: DecodeCall) -> None:
    """Raises E504 where a length, known on the host, is none, or is beyond what the cache holds."""
    starts = torch.zeros_like(call.lengths) if call.start is None else call.start
    for entry, (length, start) in enumerate(zip(call.lengths.tolist(), starts.tolist(), strict=True)):
        if length < 0 or not 0 <= start <= max(length, 0):
            said = "lengths must be at least 0, and start between 0 and the length"
            raise fail("E504", f"{said}: entry {entry} has length {length} and start {start}")
        if length - start > call.capacity:
            held = "" if call.block_table is None else f" ({call.block_table.shape[1]} pages of {call.block_size})"
            raise fail(
                "E504",
                f"entry {entry} has {length - start} keys, but its cache holds {call.capacity}{held}",
                "lengths count the keys that are in the cache, the new ones included",
            )


def _check_pages(call: DecodeCall, entry: int, pages: Ints) -> None:
    """Raises E504 where a page that holds a key that is kept is not one of the cache. Needs the table on the host."""
    found = pages[(pages < 0) | (pages >= call.k.shape[0])]
    if found.size:
        what = f"entry {entry} keeps keys on page {int(found[0])} of block_table"
        there = f"there are pages 0 to {call.k.shape[0] - 1}" if call.k.shape[0] else "the cache has no pages"
        raise fail(
            "E504",
            f"{what}, but {there}",
            "-1 may stand only for pages none of whose keys is kept",
        )


def kept_keys(cohort: Cohort) -> npt.NDArray[np.bool_]:
    """Whether any query of any head keeps a key, (length,), in time of the whole mask."""
    program, binding = cohort.one()
    found: npt.NDArray[np.bool_] = np.zeros(binding.k_len, np.bool_)
    for h in range(binding.heads):
        found |= dense(program, binding, h).any(axis=0)
    return found


def check_kept_pages(cohort: Cohort) -> None:
    """``_check_pages`` for all entries, in time of the whole mask if a page is none of the cache."""
    call, held = cohort.call, cohort.binding.k_len - cohort.start
    if call.block_table is None:
        return
    pages = call.block_table[list(cohort.entries), : -(-held // call.block_size)].cpu().numpy()
    if not ((pages < 0) | (pages >= call.k.shape[0])).any():
        return
    needed = np.unique((np.flatnonzero(kept_keys(cohort)) - cohort.start) // call.block_size)
    for entry, row in zip(cohort.entries, pages, strict=True):
        _check_pages(call, entry, row[needed])

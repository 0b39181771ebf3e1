"""Lengths, sizes and inputs for a program, made up where nobody gives any: for pictures and trials."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from maskc.diagnostics import Diagnostic, MaskcError
from maskc.ir.binding import MAX_HEADS, MAX_LAYERS
from maskc.ir.interval import MAX_TOKENS
from maskc.ir.nodes import Type

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from maskc.ir.binding import Binding
    from maskc.ir.program import Parameter, Program, Segment, Space

__all__ = [
    "MAX_HEADS",
    "MAX_LAYERS",
    "MAX_LENGTH",
    "MAX_MADE_UP",
    "Setting",
    "check_sizes",
    "fixed_length",
    "given_lengths",
    "make_setting",
]

#: Queries or keys at most.
MAX_LENGTH = MAX_TOKENS
#: Values of a table or input that are made up at most: 256 MiB as 64-bit numbers. A signature may ask for any number.
MAX_MADE_UP = 1 << 25


@dataclass(frozen=True)
class Setting:
    """Lengths, sizes and values for a program. ``made_up``: one sentence for each thing that was not given; ``batch``:
    number of batch entries, None for that of the inputs, or 1; ``usual_length``: whether nothing told a length."""

    q_len: int
    k_len: int
    heads: int
    layer: int
    sizes: Mapping[str, int]
    values: Mapping[str, Any]
    made_up: tuple[str, ...] = ()
    batch: int | None = None
    usual_length: bool = False

    def bind(self, program: Program) -> Binding:
        """The binding. Values and sizes that ``program`` does not declare are left out. Raises MaskcError."""
        from maskc.tiles.binding import bind

        known = {p.name for p in program.params}
        values = {name: value for name, value in self.values.items() if name in known}
        sizes = {name: size for name, size in self.sizes.items() if name in _size_names(program)}
        lengths: dict[str, Any] = {"heads": self.heads, "layer": self.layer, "batch": self.batch}
        return bind(program, self.q_len, self.k_len, **lengths, sizes=sizes, values=values)


def make_setting(
    programs: Sequence[Program],
    *,
    q: int | None = None,
    k: int | None = None,
    head: int = 0,
    heads: int | None = None,
    usual_heads: int = 1,
    layer: int = 0,
    sizes: Mapping[str, int] | None = None,
    values: Mapping[str, Any] | None = None,
    seed: int = 0,
    length: int = 256,
    batch: int | None = None,
) -> Setting:
    """Values for all ``programs`` alike, made up from ``seed`` where ``values`` gives none.

    ``head``: one that there must be. ``usual_heads``: how many there are if neither ``heads`` nor a table of
    ``values`` tells. ``q`` and ``k`` are as many as the inputs among ``values`` have, where neither says otherwise.
    ``length``: of the sequence if none of these and no ``sizes`` tell. In cross-attention there are as many queries as
    the sizes tell, unless ``q`` or an input does; else as many as keys. ``batch``: number of batch entries, None for
    that of the inputs, or 1. Raises MaskcError E502 (no program declares one of ``sizes``), E504, and E505 where
    inputs have unlike lengths.
    """
    given = dict(values or {})
    q, k = given_lengths(programs, given, q, k)
    heads = heads or max([head + 1, *([n for _, n in _given_extents(programs, given, {"head"})] or [usual_heads])])
    if head >= heads:
        raise MaskcError(Diagnostic("E504", f"there is no head {head} among {heads}", hint="heads count from 0"))
    from maskc.tiles.binding import check_limits

    extents = dict(sizes or {})
    check_sizes(programs, extents)
    told = [n for n in (fixed_length(program.k_space, extents) for program in programs) if n]
    usual_length = k is None and q is None and not told
    k_len = length if usual_length else k if k is not None else q if q is not None else told[0]
    check_limits(q_len=k_len if q is None else q, k_len=k_len, heads=heads, layer=layer)
    notes: list[str] = []
    for program in programs:
        extents = _complete_sizes(program.k_space, k_len, extents, notes)
    for program in programs:
        if program.cross:
            extents = _shared_sizes(program, k_len, extents, notes, free=q is None)
    asked = [fixed_length(program.q_space, extents) for program in programs if program.cross] if q is None else []
    q_len = q if q is not None else next((n for n in asked if n is not None), k_len)
    for program in programs:
        if program.cross:
            extents = _complete_sizes(program.q_space, q_len, extents, notes)
    check_limits(q_len=q_len, k_len=k_len, heads=heads, layer=layer)
    defaults = {p.name: p.default.value for program in programs for p in program.params if p.default is not None}
    maker = _Maker(q_len, k_len, heads, layer, seed, {**defaults, **given}, notes, batch or 1)
    for program in programs:
        for p in program.params:
            if p.name not in given and p.default is None and not p.is_scalar:
                given[p.name] = maker.table(p)
    return Setting(q_len, k_len, heads, layer, extents, given, tuple(notes), batch, usual_length)


def _size_names(program: Program) -> tuple[str, ...]:
    return tuple(e.name for space in (program.q_space, program.k_space) for s in space.segments for e in s.extents)


def check_sizes(programs: Sequence[Program], sizes: Mapping[str, int]) -> None:
    """Every size must be one of some program. Raises E502."""
    from maskc.tiles.values import fail, suggestion

    known = [name for program in programs for name in _size_names(program)]
    for name in sizes:
        if name in known:
            continue
        which = f"the pattern {programs[0].name!r} has no segment"
        if len(programs) > 1:
            which = f"neither pattern, {' nor '.join(repr(p.name) for p in programs)}, has a segment"
        hint = suggestion(name, sorted({*known})) or "a pattern without `over` is plain tokens and takes no sizes"
        raise fail("E502", f"sizes: {which} or axis {name!r}", hint)


def given_lengths(
    programs: Sequence[Program], values: Mapping[str, Any], q: int | None = None, k: int | None = None
) -> tuple[int | None, int | None]:
    """``q`` and ``k``, or how many queries and keys the inputs among ``values`` are for; None where nothing tells.
    Raises E505 where inputs do not agree."""
    if q is None:
        q = _agreed(_given_extents(programs, values, {"q"}), "queries")
    if k is None:
        k = _agreed(_given_extents(programs, values, {"k", "token"}), "keys")
    return q, k


def _agreed(found: Sequence[tuple[str, int]], what: str) -> int | None:
    """The one extent of what was found, if anything was. Raises E505 where there are several."""
    for name, count in found[1:]:
        if count != found[0][1]:
            message = f"{found[0][0]} is for {found[0][1]} {what}, {name} for {count}"
            raise MaskcError(Diagnostic("E505", message, hint="give inputs of one length"))
    return found[0][1] if found else None


def _given_extents(
    programs: Sequence[Program], values: Mapping[str, Any], domains: Container[str]
) -> list[tuple[str, int]]:
    """The names of the given tables over one of ``domains``, each with its extent."""
    import numpy as np

    found = []
    for p in (p for program in programs for p in program.params if p.domain and p.name in values):
        try:
            shape = np.shape(values[p.name])
        except ValueError:  # Lists of unlike lengths: what binds them says so.
            continue
        if len(shape) in (len(p.domain), len(p.domain) + 1):  # There may be a batch dimension in front.
            extents = zip(p.domain, shape[-len(p.domain) :], strict=True)
            found += [(p.name, int(extent)) for domain, extent in extents if domain in domains]
    return found


def fixed_length(space: Space, sizes: Mapping[str, int]) -> int | None:
    """The length that follows from the sizes given, if it does."""
    total = 0
    for segment in space.segments:
        extents = [sizes.get(e.name) for e in segment.extents]
        if None in extents:
            return None
        total += math.prod(e for e in extents if e is not None)
    return total if space.segments else None


def _complete_sizes(space: Space, length: int, sizes: Mapping[str, int], notes: list[str]) -> dict[str, int]:
    """Sizes for a space of which nothing is known, so that they fill the length; said in ``notes``."""
    found = dict(sizes)
    names = [e.name for s in space.segments for e in s.extents]
    if len(names) >= 2 and not any(n in found for n in names):  # The last unknown extent follows from the length.
        made = _fill(space.segments, length)
        found.update(made)
        notes.append("sizes " + ", ".join(f"{n}={v}" for n, v in made.items()) + " are chosen to fill the length")
    return found


def _shared_sizes(
    program: Program, k_len: int, sizes: Mapping[str, int], notes: list[str], free: bool
) -> dict[str, int]:
    """With the sizes that the keys' space settles, where the queries' names some of them and not the same in all: what
    else it names could not be chosen without. ``free``: the number of queries is, so that the others are 2."""
    from maskc.tiles.extents import find_extents, space_names

    mine, theirs = space_names(program.q_space), space_names(program.k_space)
    alike = {*mine} == {*theirs} or not {*mine} & {*theirs} or fixed_length(program.q_space, sizes) is not None
    if alike or len([n for n in theirs if n not in sizes]) > 1:
        return dict(sizes)
    keys_only = program.replace(q_space=program.k_space, cross=False)
    known = find_extents(keys_only, k_len, k_len, {n: v for n, v in sizes.items() if n in theirs})
    made = {n: 2 for n in mine if free and n not in theirs and n not in sizes}
    if made:
        notes.append("sizes " + ", ".join(f"{n}={v}" for n, v in made.items()) + " are chosen")
    return {**sizes, **{n: known[n] for n in theirs}, **made}


def _fill(segments: Sequence[Segment], length: int) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for i, segment in enumerate(segments):
        share = length if i == len(segments) - 1 else length // (8 * len(segments))
        if i < len(segments) - 1 and segment.axes:
            share = length // len(segments)
        elif not any(s.axes for s in segments):  # No text beside pictures, which is short: all alike.
            share = length // (len(segments) - i)
        extents = _factors(share, len(segment.extents))
        sizes.update({e.name: n for e, n in zip(segment.extents, extents, strict=True)})
        length -= math.prod(extents)
    return sizes


def _factors(number: int, count: int) -> list[int]:
    """``count`` factors of ``number``, as alike as can be, the smallest first."""
    found: list[int] = []
    for left in range(count, 1, -1):
        root = max(1, round(number ** (1 / left)))
        found.append(next((f for f in range(root, 0, -1) if number % f == 0), 1))
        number //= found[-1]
    return [*found, number]


@dataclass(frozen=True)
class _Maker:
    """Draws plausible tables and inputs; the same from the same seed."""

    q_len: int
    k_len: int
    heads: int
    layer: int
    seed: int
    scalars: Mapping[str, Any]
    notes: list[str]
    batch: int

    def table(self, p: Parameter) -> npt.NDArray[Any]:
        """A value for ``p``, noted in ``notes``. Raises E504 if it would be too large."""
        import zlib

        import numpy as np

        rng = np.random.default_rng([self.seed, zlib.crc32(p.name.encode())])
        shape = tuple(self._extent(d) for d in p.domain)
        if math.prod(shape) > MAX_MADE_UP:
            message = f"{p.name} was not given, and has {math.prod(shape)} values: that is too many to make up"
            hint = f"give {p.name}, or make it smaller: at most {MAX_MADE_UP} values are made up"
            raise MaskcError(Diagnostic("E504", message, hint=hint))
        value: npt.NDArray[Any]
        if p.type is Type.FLOAT:
            what, value = "normally distributed", rng.standard_normal(shape)
        elif p.type is Type.BOOL:
            share = 0.05 if {"token", "q", "k"} & set(p.domain) and len(p.domain) == 1 else 0.5
            what, value = f"true with probability {share}", rng.random(shape) < share
        else:
            what, value = self._integers(p, shape, rng)
        self.notes.append(f"{p.name} was not given: {what} (seed {self.seed})")
        return value

    def _extent(self, domain: str | int) -> int:
        fixed = {"head": self.heads, "layer": self.layer + 1, "batch": self.batch, "q": self.q_len, "k": self.k_len}
        if isinstance(domain, int):
            return domain
        if domain == "token":
            return self.k_len
        return int(fixed[domain] if domain in fixed else self.scalars.get(domain, 1))

    def _integers(self, p: Parameter, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[str, Any]:
        import numpy as np

        low = 0 if p.low is None else p.low
        high = len(p.labels) if p.labels else p.high
        if p.domain == ("batch",) and not p.labels:  # A length, mostly; a table of blocks, say, holds none.
            most = self.k_len + 1 if high is None else high
            if self.batch > 1:
                return "drawn up to the length", rng.integers(low, max(low + 1, min(most, self.k_len + 1)), shape)
            return "drawn up to the length", np.full(shape, max(low, min(most - 1, 3 * self.k_len // 4)))
        if p.domain == ("token",) or p.domain in (("q",), ("k",)):
            count = 4 if high is None else min(high - low, 8)
            labels = np.arange(count) % max(count, 1) if p.labels else np.arange(count)
            cuts = np.sort(rng.integers(0, max(shape[0], 1), max(count - 1, 0)))
            runs = np.searchsorted(cuts, np.arange(shape[0]), side="right")
            return f"{count} runs of equal values", low + labels[runs]
        top = low + 4 if high is None else high
        return f"drawn from {low} to {top - 1}", rng.integers(low, max(top, low + 1), shape)

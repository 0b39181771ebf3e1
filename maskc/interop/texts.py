"""Text in the language, put together from numbers: nothing that a configuration says in words gets into it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["ALIBI", "BUCKETS", "MPT", "Parameter", "by_layer", "pattern_text", "window"]

ALIBI = """
## The slope of head h: a geometric series over the largest power of two that is at most the
## number of heads, and for the heads beyond it every other slope of a series that is twice as
## fine.
def alibi_slope = match h < series {
    true: exp2(-8.0 * (h + 1) / series)
    else: exp2(-4.0 * (2 * (h - series) + 1) / series)
}

## The largest power of two that is at most the number of heads.
def series = floor(exp2(floor(log2(heads))))

"""

MPT = """
## The smallest power of two that is at least the number of heads.
def series = floor(exp2(-floor(-log2(heads))))

## The place of head h in a geometric series of slopes; if the number of heads is no power of
## two, the even places of a longer series come first, then the odd ones.
def place = match heads == series, h < series // 2 {
    true, _: h + 1
    _, true: 2 * h + 2
    else: 2 * (h - series // 2) + 1
}

"""

BUCKETS = """
## The bucket of a distance: one each up to half of n, then logarithmically wider ones up to the
## distance far.
def bucket(distance, n, far) = match distance < n // 2 {
    true: distance
    else: min(n - 1, n // 2 + floor((n - n // 2) * octaves(distance, n // 2) / octaves(far, n // 2)))
}

## How often a distance is twice the unit.
def octaves(distance, unit) = log2(max(1.0, 1.0 * distance / unit))

"""


@dataclass(frozen=True)
class Parameter:
    """``declaration`` as in a signature, and a sentence about it."""

    declaration: str
    doc: str


def window(size: int) -> Parameter:
    """The parameter of a causal window."""
    return Parameter(f"window: int(1..) = {size}", "keys that a query of a local layer sees, itself included.")


def pattern_text(
    name: str,
    doc: str,
    attend: str,
    params: Sequence[Parameter] = (),
    statements: Sequence[str] = (),
    lets: Sequence[str] = (),
    space: str = "",
) -> str:
    """A pattern with its doc comment. ``statements`` come after ``attend``, ``lets`` before it."""
    lines = textwrap.wrap(doc, 92)
    for p in params:
        lines += textwrap.wrap(f"{p.declaration.partition(':')[0]}: {p.doc}", 92)
    signature = ", ".join(p.declaration for p in params)
    head = f"pattern {name}({signature})" if params else f"pattern {name}"
    body = [*lets, f"attend {attend}", *statements]
    comment = "".join(f"## {line}\n" for line in lines)
    return f"{comment}{head}{space} {{\n" + "".join(f"    {line}\n" for line in body) + "}\n"


def by_layer(kinds: Sequence[str], masks: Mapping[str, str]) -> str:
    """The mask of every layer: ``kinds[i]`` is a key of ``masks``; the text says it as shortly as it can."""
    if len(set(kinds)) == 1:
        return masks[kinds[0]]
    for period in range(2, len(kinds) // 2 + 1):
        if all(kind == kinds[i % period] for i, kind in enumerate(kinds)):
            return _match(f"layer % {period}", kinds[:period], masks)
    return _match("layer", kinds, masks)


def _match(what: str, kinds: Sequence[str], masks: Mapping[str, str]) -> str:
    """The most frequent kind becomes ``else``."""
    counts = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
    usual = max(counts, key=lambda kind: counts[kind])
    cases = [f"{' | '.join(_runs(kinds, kind))}: {masks[kind]}" for kind in counts if kind != usual]
    return f"match {what} {{ {'; '.join([*cases, f'else: {masks[usual]}'])} }}"


def _runs(kinds: Sequence[str], wanted: str) -> list[str]:
    """Where ``wanted`` is, as numbers and ranges."""
    runs: list[str] = []
    start = None
    for i in range(len(kinds) + 1):
        here = i < len(kinds) and kinds[i] == wanted
        if here and start is None:
            start = i
        elif not here and start is not None:
            runs.append(str(start) if i == start + 1 else f"{start}..{i}")
            start = None
    return runs

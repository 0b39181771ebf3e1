"""The extents of segments and grid axes: checked against the length, and the missing one found."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from maskc.arguments import integer, mapping_of, shown
from maskc.ir.interval import MAX_TOKENS
from maskc.ir.program import Program, Space
from maskc.tiles.values import fail, suggestion

__all__ = ["check_extents", "find_extents", "space_names"]


def space_names(space: Space) -> tuple[str, ...]:
    """The names that need an extent, in order and each once."""
    return tuple(dict.fromkeys(e.name for s in space.segments for e in s.extents))


def check_extents(program: Program, sizes: Mapping[str, int]) -> dict[str, int]:
    """``sizes`` as plain integers, by themselves: names and values. Raises E502, E503 and E504."""
    known = list(dict.fromkeys([*space_names(program.q_space), *space_names(program.k_space)]))
    checked = {}
    for name, value in mapping_of("sizes", sizes).items():
        if name not in known:
            hint = suggestion(name, known) or "a pattern without `over` is plain tokens and takes no sizes"
            raise fail("E502", f"sizes: the pattern {program.name!r} has no segment or axis {name!r}", hint)
        checked[name] = integer(f"sizes: {name}", value, 0, MAX_TOKENS)
    return checked


def find_extents(program: Program, q_len: int, k_len: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """The extent of every segment and axis, that of each named grid included.

    A single unknown extent of a space follows from the length. Raises E502, E503, E504, and E506
    where the extents do not add up to the length, or leave more than one open.
    """
    found = check_extents(program, sizes)
    sides = list(_sides(program, q_len, k_len))
    # Twice, since an extent found on one side may be the missing one of the other.
    for again in (False, True):
        for side, space, length in sides:
            _solve(side, space, length, found, again)
    for side, space, length in sides:
        missing = [n for n in space_names(space) if n not in found]
        if missing:
            given = ", ".join(f'"{n}": ...' for n in missing[:-1])
            raise fail(
                "E506",
                f"the extents of {', '.join(missing)} are not known, and {length} {side} leave them open",
                f"give all but one of them: sizes={{{given}}}",
            )
        if space.segments and _total(space, found) != length:
            raise fail(
                "E506",
                f"{_sum(space, found)} = {shown(_total(space, found))}, but there are {length} {side}",
                "give sizes that fit, or leave one out to let it follow from the length",
            )
    for space in (program.q_space, program.k_space):
        for s in space.segments:
            if s.name and s.axes:
                found.setdefault(s.name, math.prod(found[a] for a in s.axes))
    return found


def _sides(program: Program, q_len: int, k_len: int) -> Iterator[tuple[str, Space, int]]:
    if program.cross:
        yield "queries", program.q_space, q_len
        yield "keys", program.k_space, k_len
    else:
        yield "tokens", program.k_space, k_len


def _solve(side: str, space: Space, length: int, found: dict[str, int], settle: bool) -> None:
    """Find the one extent that is missing. Where it may be anything, beside an extent of 0, the other side may know it:
    it becomes 0 only to ``settle`` it."""
    missing = [n for n in space_names(space) if n not in found]
    if len(missing) != 1:
        return
    (name,) = missing
    fixed, step = 0, 0
    for s in space.segments:
        names = [e.name for e in s.extents]
        others = math.prod(found[n] for n in names if n != name)
        if name in names:
            step += others
        else:
            fixed += others
    rest = length - fixed
    if rest < 0 or (step == 0 and rest) or (step and rest % step):
        said = _sum(space, {**found, name: name})
        raise fail(
            "E506",
            f"no {name} fits: {said} cannot be {length}, the number of {side}",
            f"the length must be {f'{shown(fixed)} plus ' if fixed else ''}a multiple of {shown(step)}"
            if step
            else f"another extent is 0: whatever {name} is, there are {shown(fixed)}",
        )
    if step or settle:
        found[name] = rest // step if step else 0


def _total(space: Space, found: Mapping[str, int]) -> int:
    return sum(math.prod(found[e.name] for e in s.extents) for s in space.segments)


def _sum(space: Space, found: Mapping[str, int | str]) -> str:
    """The sum as the user would write it: ``text 8 + y 4 * x 5``."""

    def term(name: str) -> str:
        return name if found[name] == name else f"{name} {found[name]}"

    return " + ".join(" * ".join(term(e.name) for e in s.extents) for s in space.segments)

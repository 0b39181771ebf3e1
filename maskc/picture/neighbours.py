"""What one query sees, drawn in the image or video itself."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from maskc.diagnostics import Diagnostic, MaskcError
from maskc.ir.program import Program
from maskc.picture.panels import Panel

if TYPE_CHECKING:
    from maskc.ir.binding import Binding

__all__ = ["neighbour_panels"]


def neighbour_panels(program: Program, binding: Binding, query: int, head: int = 0, *, most: int = 16) -> list[Panel]:
    """The keys that one query sees, drawn in the image or video itself: one panel a frame, the query's own first among
    at most ``most``; a sequence without a grid is wrapped into rows.

    ``query``: absolute position. Raises MaskcError (E504) if there is no such query.
    """
    import numpy as np

    from maskc.ir.evaluate import dense

    if not binding.offset <= query < binding.offset + binding.q_len:
        there = f"there are queries {binding.offset} to {binding.offset + binding.q_len - 1}"
        raise MaskcError(Diagnostic("E504", f"there is no query {query}", hint=there))
    kept = dense(program, binding, head, 0, (query, query + 1))[0]
    cell = np.where(kept, 1, 0).astype(np.uint8)
    if not program.cross and query < binding.k_len:
        cell[query] = 3 if kept[query] else 2
    classes: tuple[tuple[str, str], ...] = (
        ("none", "not seen"),
        ("full", "seen"),
        ("self", "the query, which does not see itself"),
        ("self", "the query"),
    )
    used = set(np.unique(cell).tolist()) | {0, 1}
    classes = tuple((c, label if i in used else "") for i, (c, label) in enumerate(classes))
    panels, at = [], 0
    for name, axes, shape in _segments(program, binding):
        size = math.prod(shape)
        frames = cell[at : at + size].reshape(-1, *shape[-2:])
        for frame in range(frames.shape[0]):
            title = f"{name} {frame}".strip() if frames.shape[0] > 1 else name
            grid = frames[frame]
            panels.append(Panel(title, grid, classes, 1, 1, grid.shape[0], grid.shape[1], axes=axes))
        at += size
    return _around(panels, most)


def _around(panels: list[Panel], most: int) -> list[Panel]:
    """The frame of the query and those next to it, in order; else those that hold something."""
    own = next((i for i, p in enumerate(panels) if (p.cells >= 2).any()), 0)
    first = max(0, min(own - most // 2, len(panels) - most))
    return panels[first : first + most]


def _segments(program: Program, binding: Binding) -> list[tuple[str, tuple[str, str], tuple[int, ...]]]:
    """Name, axes and shape (at least two extents) of every stretch of keys."""
    found: list[tuple[str, tuple[str, str], tuple[int, ...]]] = []
    left = binding.k_len
    for segment in program.k_space.segments:
        extents = tuple(binding.size(e.name) for e in segment.extents)
        left -= math.prod(extents)
        if len(segment.axes) >= 2:
            outer = " ".join(segment.axes[:-2])
            name = f"{segment.name or ''} {outer}".strip()
            found.append((name, (segment.axes[-2], segment.axes[-1]), extents))
        else:
            found += _wrapped(segment.name or " ".join(segment.axes), math.prod(extents))
    if left > 0 and not program.k_space.segments:
        found += _wrapped("keys", left)
    return found


def _wrapped(name: str, length: int) -> list[tuple[str, tuple[str, str], tuple[int, ...]]]:
    """A sequence in rows of equal length, and the rest in a row of its own."""
    width = length if length <= 64 else max(16, 1 << round(math.log2(math.sqrt(2 * length))))
    rows, rest = divmod(length, width)
    axes = (f"{width} a row", name)
    found: list[tuple[str, tuple[str, str], tuple[int, ...]]] = [(name, axes, (rows, width))] if rows else []
    if rest:
        found.append((f"{name}, the rest", ("", name), (1, rest)))
    return found

"""Panels in the terminal: two characters a cell, in colours or in signs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text

from maskc.picture.panels import COLORS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from maskc.picture.panels import Panel
    from maskc.picture.terminal import Canvas

__all__ = ["draw_panels"]

#: Signs of the classes where there are no colours, in ASCII and otherwise; one is doubled to a cell's width.
_SIGNS: dict[str, tuple[str, str]] = {
    "none": (".", "·"), "some1": (":", "░"), "some2": ("+", "▒"), "some3": ("*", "▓"), "some4": ("*", "▓"),
    "full": ("#", "█"), "both": ("=", "="), "first": ("<", "<"), "second": (">", ">"), "mixed": ("<>", "<>"),
    "self": ("@", "◆"), "more0": ("0", "0"), "less0": ("0", "0"),
    **{f"more{i}": (f"+{i}", f"+{s}") for i, s in enumerate("░▒▓", 1)},
    **{f"less{i}": (f"-{i}", f"-{s}") for i, s in enumerate("░▒▓", 1)},
    **{f"step{i}": (str(i + 1), str(i + 1)) for i in range(7)},
}  # fmt: skip
_MARGIN = 8


def draw_panels(panels: Sequence[Panel], canvas: Canvas) -> Text:
    """The panels beside one another as far as the width allows, and the legend."""
    drawn = [_lines(p, canvas) for p in panels]
    text = Text(no_wrap=True, overflow="ignore", end="")
    while drawn:
        row: list[list[Text]] = []
        width = 0
        while drawn and (not row or width + drawn[0][0].cell_len + 2 <= canvas.width):
            row.append(drawn.pop(0))
            width += max(line.cell_len for line in row[-1]) + 2
        _beside(text, row)
    text.append_text(_legend(panels, canvas))
    for note in dict.fromkeys(p.note for p in panels if p.note):
        text.append(f"\n{note}")
    return text


def _beside(text: Text, row: list[list[Text]]) -> None:
    widths = [max(line.cell_len for line in lines) for lines in row]
    for i in range(max(len(lines) for lines in row)):
        line = Text()
        for lines, width in zip(row, widths, strict=True):
            piece = lines[i].copy() if i < len(lines) else Text()
            piece.pad_right(width - piece.cell_len + 2)
            line.append_text(piece)
        line.rstrip()
        text.append_text(line).append("\n")


def _lines(panel: Panel, canvas: Canvas) -> list[Text]:
    cells, step = _fitted(panel.cells, max(4, (canvas.width - _MARGIN) // 2))
    down, across = panel.axes
    head = f"{panel.title}  {down} ↓ {across} →" if canvas.unicode else f"{panel.title}  {down} down, {across} right"
    lines = [Text(" " * _MARGIN + head.strip())]
    for r in range(cells.shape[0]):
        label = str(panel.q_start + r * step * panel.q_step) if r % 5 == 0 else ""
        line = Text(label.rjust(_MARGIN - 1) + " ")
        for kind in cells[r]:
            name = panel.classes[int(kind)][0]
            line.append_text(_mark(name, canvas))
        lines.append(line)
    return lines


def _mark(name: str, canvas: Canvas) -> Text:
    if canvas.color:
        return Text("  ", style=Style(bgcolor=COLORS[name][1]))
    sign = _SIGNS[name][int(canvas.unicode)]
    return Text(sign if len(sign) == 2 else sign * 2)


def _fitted(cells: npt.NDArray[np.uint8], columns: int) -> tuple[npt.NDArray[np.uint8], int]:
    """Cells that are too many are joined; the greatest class of those that are is shown."""
    import numpy as np

    step = max(1, -(-cells.shape[1] // columns))
    if step == 1:
        return cells, 1
    rows, cols = (np.arange(0, n, step) for n in cells.shape)
    return np.maximum.reduceat(np.maximum.reduceat(cells, rows, axis=0), cols, axis=1), step


def _legend(panels: Sequence[Panel], canvas: Canvas) -> Text:
    text = Text()
    for name, label in dict.fromkeys(c for p in panels for c in p.classes if c[1]):
        text.append_text(_mark(name, canvas)).append(f" {label}  ")
    text.rstrip()
    return text

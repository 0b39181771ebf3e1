"""A mask drawn with characters, in the terminal's size and abilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text

from maskc.tiles.tiling import EMPTY, FULL

if TYPE_CHECKING:
    from maskc.picture.cells import Cells

__all__ = ["Canvas", "draw", "legend"]

#: From nearly none to nearly all pairs kept. Told apart by lightness alone, hence also by the colour-blind.
_PARTIAL = ((0, 60, 110), (0, 95, 140), (40, 130, 150), (95, 160, 140), (160, 190, 115))
_EMPTY, _FULL = (38, 38, 38), (253, 231, 37)
#: empty, partial (three densities), full.
_SHADES, _ASCII = "·░▒▓█", ".:+*#"
_MARGIN = 8  # room for the positions on the left
_FRAME = 4  # lines around the cells


@dataclass(frozen=True)
class Canvas:
    """``width`` and ``height`` in characters; whether there are colours, and characters beyond ASCII."""

    width: int = 80
    height: int = 40
    color: bool = False
    unicode: bool = True

    @property
    def halves(self) -> bool:
        """Whether a character shows two cells, one above the other: its own colour and its background's."""
        return self.color and self.unicode

    @property
    def columns(self) -> int:
        """Cells that fit beside one another."""
        room = self.width - _MARGIN
        return max(4, room if self.halves else room // 2)

    @property
    def rows(self) -> int:
        """Cells that fit below one another."""
        room = self.height - _FRAME
        return max(4, 2 * room if self.halves else room)


def draw(cells: Cells, canvas: Canvas) -> Text:
    """The cells as styled text of at most the canvas' width, positions along both axes included."""
    repeat = 1
    if canvas.halves and cells.kind.size:  # Few cells are drawn larger.
        repeat = max(1, min(4, canvas.columns // cells.kind.shape[1], canvas.rows // cells.kind.shape[0]))
    text = Text(no_wrap=True, overflow="ignore", end="")
    text.append(_key_axis(cells, 1 if canvas.halves else 2, repeat))
    height = cells.kind.shape[0] * repeat
    per_line = 2 if canvas.halves else 1
    for line, top in enumerate(range(0, height, per_line)):
        text.append("\n" + _query_label(cells, top // repeat, line))
        for column in range(cells.kind.shape[1]):
            if canvas.halves:
                below = (top + 1) // repeat if top + 1 < height else None
                text.append_text(_half(cells, top // repeat, below, column, repeat))
            else:
                text.append(_shade(cells, top, column, canvas) * 2, style=_style(cells, top, column, canvas))
    return text


def legend(cells: Cells, canvas: Canvas) -> Text:
    """One line: what a cell covers, what the colours mean, and the share of pairs kept."""
    shades = _SHADES if canvas.unicode else _ASCII
    text = Text()
    each = "a cell is one pair" if cells.q_step == 1 else f"a cell is {cells.q_step} x {cells.k_step} pairs"
    text.append(f"{each}: ")
    names = ((_EMPTY, shades[0], "none"), (_PARTIAL[2], shades[1:4], "some"), (_FULL, shades[4], "all kept"))
    for color, shade, name in names if cells.q_step > 1 else (names[0], names[2]):
        mark = "█" if canvas.halves else shade
        text.append(mark if len(mark) > 1 else mark * 2, style=Style(color=_rgb(color)) if canvas.color else Style())
        text.append(f" {name.replace('none', 'not kept').replace('all ', '') if cells.q_step == 1 else name}  ")
    if cells.kept is not None:
        text.append(f"{100 * cells.kept:.4g} % of pairs kept")
    text.rstrip()
    return text


def _rgb(color: tuple[int, int, int]) -> str:
    return f"rgb({color[0]},{color[1]},{color[2]})"


def _color(cells: Cells, row: int, column: int) -> tuple[int, int, int]:
    kind = cells.kind[row, column]
    if kind in (EMPTY, FULL):
        return _EMPTY if kind == EMPTY else _FULL
    return _PARTIAL[_level(cells, row, column, len(_PARTIAL))]


def _level(cells: Cells, row: int, column: int, levels: int) -> int:
    density = float(cells.density[row, column])
    return levels // 2 if density != density else min(levels - 1, int(density * levels))


def _half(cells: Cells, top: int, below: int | None, column: int, repeat: int) -> Text:
    color = _rgb(_color(cells, top, column))
    background = None if below is None else _rgb(_color(cells, below, column))
    return Text("▀" * repeat, style=Style(color=color, bgcolor=background))


def _shade(cells: Cells, row: int, column: int, canvas: Canvas) -> str:
    shades = _SHADES if canvas.unicode else _ASCII
    kind = cells.kind[row, column]
    if kind in (EMPTY, FULL):
        return shades[0] if kind == EMPTY else shades[4]
    return shades[1 + _level(cells, row, column, 3)]


def _style(cells: Cells, row: int, column: int, canvas: Canvas) -> Style:
    return Style(color=_rgb(_color(cells, row, column))) if canvas.color else Style()


def _key_axis(cells: Cells, width: int, repeat: int) -> str:
    """Positions of a few keys, above the cells: "0    32    64"."""
    columns = cells.kind.shape[1]
    line = "key".rjust(_MARGIN - 1) + " "
    every = max(1, 16 // (width * repeat))
    for column in range(0, columns, every):
        at = _MARGIN + column * width * repeat
        if at >= len(line):
            line = line.ljust(at) + f"{column * cells.k_step} "
    return line.rstrip()


def _query_label(cells: Cells, row: int, line: int) -> str:
    """The position of the row's first query, at every fourth line."""
    if line % 4:
        return " " * _MARGIN
    label = str(cells.q_start + row * cells.q_step)
    return (f"q {label}" if line == 0 else label).rjust(_MARGIN - 1) + " "

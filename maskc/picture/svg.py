"""Panels as an SVG: text stays text, and equal cells become one rectangle."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from maskc.picture.panels import COLORS, Panel
from maskc.picture.scene import Band

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["STRIPES", "rectangles", "svg", "thumbnail", "ticks"]

#: Colours of the stripes along the axes (Tol's muted scheme), on light and on dark ground.
STRIPES = (("#44aa99", "#2f7d70"), ("#ddcc77", "#9a8c45"), ("#cc6677", "#964a58"), ("#88ccee", "#4f8fae"),
           ("#999933", "#6d6d24"), ("#aa4499", "#7d3270"))  # fmt: skip
_INK, _SOFT, _EDGE = ("#1b1f24", "#e6edf3"), ("#57606a", "#9aa7b4"), ("#8c959f", "#6e7b88")
_LEFT, _TOP, _GAP, _LINE = 76, 40, 22, 16
_WIDEST = 1000


def svg(panels: Sequence[Panel], *, title: str = "", theme: str = "auto", size: int = 0) -> str:
    """The panels beside one another, below a title, above one legend.

    ``theme``: "light", "dark", or "auto", which follows the reader's preference. ``size``: of a panel's
    longer side in pixels; by default as fits the number of panels.
    """
    size = size or (420 if len(panels) == 1 else 220 if len(panels) <= 6 else 130)
    boxes = [_plot_size(p, size) for p in panels]
    columns = max(1, min(len(panels), _WIDEST // (size + _LEFT + _GAP)))
    width_of = max([w for w, _ in boxes], default=0) + _LEFT + _GAP
    high = max([h for _, h in boxes], default=0) + _TOP + _LINE + (10 if any(p.title for p in panels) else 0)
    top = 30 if title else 6
    parts = []
    for i, (panel, box) in enumerate(zip(panels, boxes, strict=True)):
        x, y = i % columns * width_of, top + i // columns * high
        parts.append(f'<g transform="translate({x} {y})">{_panel(panel, *box)}</g>')
    rows = -(-len(panels) // columns)
    bottom = top + rows * high
    legend, height, widest = _legend(panels, bottom)
    notes = list(dict.fromkeys(p.note for p in panels if p.note))
    parts.append(legend)
    parts += [_text(12, bottom + height + _LINE * i + 12, n, "s") for i, n in enumerate(notes)]
    total = bottom + height + _LINE * len(notes) + 10
    texts = [7.4 * len(title), widest, *(6.2 * len(n) for n in notes)]
    wide = round(max([columns * width_of, *(t + 24 for t in texts)]))
    used = {p.classes[c][0] for p in panels for c in range(len(p.classes))}
    head = f'<text class="mk-t" x="12" y="20">{_clean(title)}</text>' if title else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {total}" width="{wide}" height="{total}" '
        f'role="img" aria-label="{_clean(title or "attention mask")}"><style>{_style(used, theme)}</style>'
        f'<rect class="mk-none" width="{wide}" height="{total}"/>{head}{"".join(parts)}</svg>\n'
    )


def thumbnail(panel: Panel, size: int = 96) -> str:
    """Only the cells, for lists: a few hundred bytes to a few thousand."""
    width, height = _plot_size(panel, size)
    used = {c for c, _ in panel.classes}
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + 2} {height + 2}" width="{width + 2}" '
        f'height="{height + 2}"><style>{_style(used, "auto", words=False)}</style>'
        f'<g transform="translate(1 1)">{_cells(panel, width, height)}</g></svg>\n'
    )


def rectangles(cells: npt.NDArray[np.uint8]) -> Iterator[tuple[int, int, int, int, int]]:
    """Disjoint rectangles of equal cells that cover the grid: (class, row, column, rows, columns)."""
    import numpy as np

    open_: dict[tuple[int, int, int], int] = {}  # (class, column, end) -> first row
    for row in range(cells.shape[0] + 1):
        runs: list[tuple[int, int, int]] = []
        if row < cells.shape[0] and cells.shape[1]:
            cuts = [0, *(np.flatnonzero(np.diff(cells[row])) + 1).tolist(), cells.shape[1]]
            runs = [(int(cells[row, a]), a, b) for a, b in itertools.pairwise(cuts)]
        kept = dict.fromkeys(runs, row)
        for run, first in open_.items():
            if run in kept:
                kept[run] = first
            else:
                yield run[0], first, run[1], row - first, run[2] - run[1]
        open_ = kept


def ticks(first: int, length: int, count: int = 5) -> list[int]:
    """About ``count`` round positions from ``first`` to ``first + length - 1``."""
    if length <= 0:
        return []
    steps = (m * 10**e for e in range(20) for m in (1, 2, 5))
    step = next(s for s in steps if length <= s * count)
    return list(range(-(-first // step) * step, first + length, step))


def _plot_size(panel: Panel, size: int) -> tuple[int, int]:
    longest = max(*panel.cells.shape, 1)
    height, width = (max(10, round(size * n / longest)) for n in panel.cells.shape)
    return width, height


def _panel(panel: Panel, width: int, height: int) -> str:
    title = 10 if panel.title else 0
    inner = [_cells(panel, width, height), _grid(panel, width, height), _axes(panel, width, height)]
    inner += [_stripe(b, panel.k_len, width, True) for b in panel.k_bands]
    inner += [_stripe(b, panel.q_len, height, False) for b in panel.q_bands]
    head = _text(_LEFT, 10, panel.title, "h") if title else ""
    return f'{head}<g transform="translate({_LEFT} {_TOP + title})">{"".join(inner)}</g>'


def _cells(panel: Panel, width: int, height: int) -> str:
    rows, columns = panel.cells.shape
    paths: dict[int, list[str]] = {}
    for kind, row, column, high, wide in rectangles(panel.cells):
        if panel.classes[kind][0] != "none":
            paths.setdefault(kind, []).append(f"M{column} {row}h{wide}v{high}h-{wide}z")
    drawn = "".join(f'<path class="mk-{panel.classes[k][0]}" d="{"".join(d)}"/>' for k, d in sorted(paths.items()))
    # The last cells may be cut: the grid is stretched to whole cells and clipped by what is there.
    x = width * columns * panel.k_step / max(panel.k_len, 1) / max(columns, 1)
    y = height * rows * panel.q_step / max(panel.q_len, 1) / max(rows, 1)
    return (
        f'<rect class="mk-none" width="{width}" height="{height}"/><svg width="{width}" height="{height}">'
        f'<g transform="scale({x:.6g} {y:.6g})" shape-rendering="crispEdges">{drawn}</g></svg>'
        f'<rect class="mk-e" width="{width}" height="{height}"/>'
    )


def _grid(panel: Panel, width: int, height: int) -> str:
    """Lines between tiles, where they are far enough apart to be seen."""
    lengths = ((panel.k_len, width), (panel.q_len, height))
    if not panel.tile or any(n and panel.tile * size / n < 6 for n, size in lengths if n > panel.tile):
        return ""
    across = [f"M{width * t / panel.k_len:.5g} 0v{height}" for t in range(panel.tile, panel.k_len, panel.tile)]
    down = [f"M0 {height * t / panel.q_len:.5g}h{width}" for t in range(panel.tile, panel.q_len, panel.tile)]
    return f'<path class="mk-g" d="{"".join(across + down)}"/>' if across or down else ""


def _axes(panel: Panel, width: int, height: int) -> str:
    parts = []
    for t in ticks(0, panel.k_len, max(1, width // 55)):
        x = width * (t + (0.5 if panel.k_step == 1 else 0)) / panel.k_len
        parts.append(f'<text class="mk-s" x="{x:.4g}" y="-14" text-anchor="middle">{t}</text>')
    for t in ticks(panel.q_start, panel.q_len, max(1, height // 26)):
        y = height * (t - panel.q_start + (0.5 if panel.q_step == 1 else 0)) / panel.q_len + 3.5
        parts.append(f'<text class="mk-s" x="-12" y="{y:.4g}" text-anchor="end">{t}</text>')
    down, across = (_clean(a) for a in panel.axes)
    parts.append(f'<text class="mk-s" x="-12" y="-14" text-anchor="end">{across} →</text>')
    parts.append(
        f'<text class="mk-s" transform="translate({18 - _LEFT} 0) rotate(-90)" text-anchor="end">← {down}</text>'
    )
    return "".join(parts)


def _stripe(band: Band, length: int, size: int, across: bool) -> str:
    parts = []
    for start, end, label, number in band.spans:
        a, b = size * start / length, size * end / length
        box = f'x="{a:.5g}" y="-9" width="{b - a:.5g}" height="6"' if across else (
            f'x="-9" y="{a:.5g}" width="6" height="{b - a:.5g}"')  # fmt: skip
        parts.append(f'<rect class="mk-b{number % len(STRIPES)}" {box}><title>{_clean(label)}</title></rect>')
        if across and 6.2 * len(label) < b - a:
            parts.append(_text(round(a, 1), -26, label, "s"))
    return "".join(parts)


def _legend(panels: Sequence[Panel], y: int) -> tuple[str, int, int]:
    """The legend, its height and its width."""
    entries = list(dict.fromkeys(c for p in panels for c in p.classes if c[1]))
    if panels and panels[0].q_step > 1:
        first = panels[0]
        entries.append(("", f"a cell is {first.q_step} × {first.k_step} pairs"))
    parts, x, row, widest = [], 12.0, 0, 0.0
    for name, label in entries:
        wide = 6.4 * len(label) + (36 if name else 20)
        if x > 12 and x + wide > _WIDEST * 0.62:
            x, row = 12.0, row + 1
        at = y + row * 18
        if name:
            parts.append(f'<rect class="mk-{name} mk-k" x="{x:.5g}" y="{at}" width="12" height="12"/>')
        parts.append(_text(round(x + (17 if name else 0), 1), at + 10, label, "s"))
        x += wide
        widest = max(widest, x)
    return "".join(parts), (row + 1) * 18 + 4, round(widest)


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="mk-{kind}" x="{x}" y="{y}">{_clean(text)}</text>'


def _clean(text: str) -> str:
    """Text for XML, which has no place for control characters."""
    return escape("".join(c if c.isprintable() else " " for c in text), {'"': "&quot;"})


def _style(used: set[str], theme: str, words: bool = True) -> str:
    fonts = (
        "text{font:11px system-ui,sans-serif}.mk-t{font-size:14px;font-weight:600}.mk-h{font-weight:600}"
        ".mk-g{fill:none;stroke-width:.6;stroke-opacity:.35}"
        if words
        else ""
    )
    shapes = ".mk-e{fill:none}.mk-k{stroke-width:.8}"
    light, dark = (_colors(used, side, words) for side in (0, 1))
    if theme == "auto":
        return f"{fonts}{shapes}{light}@media(prefers-color-scheme:dark){{{dark}}}"
    return fonts + shapes + (dark if theme == "dark" else light)


def _colors(used: set[str], side: int, words: bool) -> str:
    rules = [f".mk-{name}{{fill:{COLORS[name][side]}}}" for name in sorted(used | {"none"})]
    rules.append(f".mk-e,.mk-k,.mk-g{{stroke:{_EDGE[side]}}}")
    if words:
        rules += [f".mk-b{i}{{fill:{c[side]}}}" for i, c in enumerate(STRIPES)]
        rules.append(f".mk-t,.mk-h{{fill:{_INK[side]}}}.mk-s{{fill:{_SOFT[side]}}}")
    return "".join(rules)

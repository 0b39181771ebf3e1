"""Panels as a PNG file, by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskc.diagnostics import Diagnostic, MaskcError

if TYPE_CHECKING:
    from maskc.picture.panels import Panel

__all__ = ["save_png"]

_DPI = 200
#: Ground, ink, soft ink and edges, on light and on dark.
_PAPER = {"light": ("#ffffff", "#1b1f24", "#57606a", "#8c959f"), "dark": ("#10151b", "#e6edf3", "#9aa7b4", "#6e7b88")}


def save_png(panels: Sequence[Panel], path: str | Path, *, title: str = "", theme: str = "light") -> None:
    """Draw the panels beside one another, with axes, stripes, tile grid and legend, and write them to ``path``.

    ``theme``: "light" or "dark" ("auto" is light: a PNG cannot ask). Raises E703 if matplotlib is not
    installed, E003 if the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError:
        hint = "install it with: pip install 'maskc[plot]'"
        raise MaskcError(
            Diagnostic("E703", "pictures in PNG need matplotlib, which is not installed", hint=hint)
        ) from None
    paper = _PAPER["dark" if theme == "dark" else "light"]
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    side = 4.2 if len(panels) == 1 else 2.6
    layout = ConstrainedLayoutEngine(h_pad=0.08)  # Titles of panels keep clear of the figure's.
    figure = Figure(figsize=(side * columns, side * rows + 0.6), layout=layout, facecolor=paper[0])
    FigureCanvasAgg(figure)  # Draws without a display.
    if title:
        figure.suptitle(_plain(title), fontsize=10, color=paper[1])
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, panel in zip(axes.flat, panels, strict=False):
        _panel(axis, panel, paper, int(theme == "dark"))
        _ticks(axis, panel, side)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    _legend(figure, panels, paper, int(theme == "dark"))
    _write(figure, path)


def _panel(axis: Any, panel: Panel, paper: tuple[str, ...], side: int) -> None:
    from matplotlib.colors import BoundaryNorm, ListedColormap

    from maskc.picture.panels import COLORS

    rows, columns = panel.cells.shape
    top, count = panel.q_start, len(panel.classes)
    colors = ListedColormap([COLORS[name][side] for name, _ in panel.classes])
    norm = BoundaryNorm([i - 0.5 for i in range(count + 1)], count)
    extent = (0, columns * panel.k_step or 1, top + (rows * panel.q_step or 1), top)  # An axis of nothing has none.
    axis.imshow(panel.cells, cmap=colors, norm=norm, extent=extent, interpolation="nearest", aspect="auto")
    axis.set_box_aspect(max(0.08, min(4.0, panel.q_len / max(panel.k_len, 1))))
    axis.set_xlim(0, max(panel.k_len, 1))
    axis.set_ylim(top + max(panel.q_len, 1), top)
    axis.set_xlabel(_plain(panel.axes[1]), fontsize=8, color=paper[2])
    axis.set_ylabel(_plain(panel.axes[0]), fontsize=8, color=paper[2])
    axis.tick_params(labelsize=7, colors=paper[2], length=2)
    axis.ticklabel_format(style="plain", useOffset=False)
    for spine in axis.spines.values():
        spine.set(color=paper[3], linewidth=0.6)
    if panel.title:
        axis.set_title(_plain(panel.title), fontsize=8, color=paper[1], pad=10)
    _tiles(axis, panel, paper[3])
    _stripes(axis, panel, side)


def _ticks(axis: Any, panel: Panel, side: float) -> None:
    """Whole positions, no more than fit: matplotlib takes every label for three characters wide."""
    from matplotlib.ticker import MaxNLocator

    # About three quarters of a panel are plot, which is narrower where there are more queries than keys. At 7 points a
    # digit is 4.5 points wide.
    width = 54 * side * min(1.0, max(panel.k_len, 1) / max(panel.q_len, 1))
    fit = int(width / (4.5 * len(str(panel.k_len)) + 8))
    axis.xaxis.set_major_locator(MaxNLocator(max(1, min(9, fit)), integer=True, steps=[1, 2, 5, 10]))
    axis.yaxis.set_major_locator(MaxNLocator(9, integer=True, steps=[1, 2, 5, 10]))


def _tiles(axis: Any, panel: Panel, color: str) -> None:
    if panel.tile and max(panel.q_len, panel.k_len) // panel.tile <= 48:
        for position in range(panel.tile, panel.k_len, panel.tile):
            axis.axvline(position, color=color, linewidth=0.3, alpha=0.6)
        for position in range(panel.tile, panel.q_len, panel.tile):
            axis.axhline(panel.q_start + position, color=color, linewidth=0.3, alpha=0.6)


def _stripes(axis: Any, panel: Panel, side: int) -> None:
    """Along the top and the right, outside the frame, since the labels are on the other sides."""
    from matplotlib.patches import Rectangle

    from maskc.picture.svg import STRIPES

    for band in panel.k_bands:
        for start, end, _, number in band.spans:
            place, color = axis.get_xaxis_transform(), STRIPES[number % len(STRIPES)][side]
            axis.add_patch(Rectangle((start, 1.01), end - start, 0.02, transform=place, clip_on=False, facecolor=color))
    for band in panel.q_bands:
        for start, end, _, number in band.spans:
            place, color = axis.get_yaxis_transform(), STRIPES[number % len(STRIPES)][side]
            corner = (1.01, panel.q_start + start)
            axis.add_patch(Rectangle(corner, 0.02, end - start, transform=place, clip_on=False, facecolor=color))


def _legend(figure: Any, panels: Sequence[Panel], paper: tuple[str, ...], side: int) -> None:
    from matplotlib.patches import Patch

    from maskc.picture.panels import COLORS
    from maskc.picture.svg import STRIPES

    entries = {label: COLORS[name][side] for p in panels for name, label in p.classes if label}
    spans = [s for p in panels[:1] for b in p.k_bands for s in b.spans][:12]
    for _, _, label, number in spans:
        entries.setdefault(label, STRIPES[number % len(STRIPES)][side])
    patches = [Patch(facecolor=c, edgecolor=paper[3], linewidth=0.5, label=_plain(n)) for n, c in entries.items()]
    # About how many entries fit beside one another: at 7 points a letter is a sixteenth of an inch wide, at most.
    wide = 0.6 + max([len(n) for n in entries], default=0) / 16
    columns = max(1, min(len(patches), 7, int(figure.get_figwidth() / wide)))
    figure.legend(
        handles=patches, loc="outside lower left", ncols=columns, fontsize=7, frameon=False, labelcolor=paper[2]
    )


def _plain(text: str) -> str:
    """A title as it is: matplotlib reads formulas between dollar signs."""
    return "".join(c if c.isprintable() else " " for c in text).replace("$", r"\$")


def _write(figure: Any, path: str | Path) -> None:
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=_DPI, format="png")
    except OSError as error:
        hint = "give another file, as in `--png picture.png`"
        raise MaskcError(Diagnostic("E003", f"cannot write {path}: {error.strerror}", hint=hint)) from None

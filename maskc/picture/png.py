"""A mask as a PNG file, by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskc.diagnostics import Diagnostic, MaskcError
from maskc.tiles.plan import PARTIAL

if TYPE_CHECKING:
    from maskc.picture.cells import Cells

__all__ = ["save_png"]

#: Beyond so many lines a tile grid is only grey.
_MOST_LINES = 64


def save_png(
    panels: Sequence[tuple[str, Cells]], path: str | Path, *, title: str = "", tile: int | None = None
) -> None:
    """Draw one panel a (title, cells) pair, side by side, and write them to ``path``.

    Density goes from white (no pair kept) to dark blue (all kept). ``tile``: draw lines every so
    many queries and keys. Raises E703 if matplotlib is not installed, E003 if the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        hint = "install it with: pip install 'maskc[plot]'"
        raise MaskcError(
            Diagnostic("E703", "pictures in PNG need matplotlib, which is not installed", hint=hint)
        ) from None
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns, 4.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)  # Draws without a display.
    if title:
        figure.suptitle(_plain(title))
    axes = figure.subplots(rows, columns, squeeze=False)
    image: Any = None
    for axis, panel in zip(axes.flat, panels, strict=False):
        image = _panel(axis, *panel, tile)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    figure.colorbar(image, ax=axes, shrink=0.6, label="share of pairs kept")
    _write(figure, path)


def _panel(axis: Any, title: str, cells: Cells, tile: int | None) -> Any:
    import numpy as np
    from matplotlib.colors import PowerNorm

    shown = np.where(np.isnan(cells.density) & (cells.kind == PARTIAL), 0.5, cells.density)
    rows, columns = shown.shape
    top = cells.q_start
    extent = (0, columns * cells.k_step, top + rows * cells.q_step, top)
    # By the square root, so that a single row or column kept is seen in a long sequence.
    norm = PowerNorm(0.5, 0, 1)
    image = axis.imshow(shown, cmap="Blues", norm=norm, extent=extent, interpolation="nearest", aspect="auto")
    axis.set_box_aspect(1 if cells.q_len * 8 >= cells.k_len else None)
    axis.set_xlim(0, cells.k_len)
    axis.set_ylim(top + cells.q_len, top)
    axis.set(xlabel="key", ylabel="query")
    axis.set_title(_plain(title), fontsize="medium")
    if tile and max(cells.q_len, cells.k_len) // tile <= _MOST_LINES:
        for position in range(tile, cells.k_len, tile):
            axis.axvline(position, color="0.75", linewidth=0.4)
        for position in range(tile, cells.q_len, tile):
            axis.axhline(top + position, color="0.75", linewidth=0.4)
    return image


def _plain(text: str) -> str:
    """A title as it is: matplotlib reads formulas between dollar signs."""
    return text.replace("$", r"\$")


def _write(figure: Any, path: str | Path) -> None:
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120, format="png")
    except OSError as error:
        raise MaskcError(Diagnostic("E003", f"cannot write {path}: {error.strerror}")) from None

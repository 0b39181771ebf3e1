"""What ``maskc show`` draws besides the plain picture in the terminal: panels and pages, and where they go."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from maskc.cli.style import in_line, note
from maskc.diagnostics import Diagnostic, MaskcError

if TYPE_CHECKING:
    from maskc.ir.binding import Binding
    from maskc.ir.program import Program
    from maskc.picture.panels import Panel
    from maskc.setting import Setting

__all__ = ["THEMES", "Subject", "panels_of", "position", "title_of", "write_html", "write_picture"]

THEMES = ("auto", "light", "dark")
_MOST_PANELS = 64


@dataclass(frozen=True)
class Subject:
    """What is to be seen: of ``programs`` (two: a difference) under ``given``, for ``heads``.

    ``layers``: how many to look at; ``token``: the query whose neighbourhood is meant, as it was typed;
    ``layout``: an order of the tokens that the page shows, too.
    """

    programs: Sequence[Program]
    given: Setting
    heads: Sequence[int]
    layers: int = 1
    token: str | None = None
    score: bool = False
    reach: bool = False
    layout: str = "none"

    def binding(self, program: Program, layer: int | None = None) -> Binding:
        given = self.given if layer is None else dataclasses.replace(self.given, layer=layer)
        return given.bind(program)

    @property
    def is_plain(self) -> bool:
        """Whether it is one mask, and nothing else."""
        return len(self.programs) == 1 and self.token is None and not self.score and not self.reach

    @property
    def panels(self) -> int:
        """How many panels it has: one a head, and of one mask alone one a head and layer."""
        return len(self.heads) * (self.layers if self.is_plain else 1)


def panels_of(subject: Subject, cells: int = 96) -> list[Panel]:
    """The panels that show the subject. Raises MaskcError."""
    from maskc.picture import panels as p

    program = subject.programs[0]
    binding = subject.binding(program)
    if subject.token is not None:
        from maskc.picture.neighbours import neighbour_panels

        heads, query = subject.heads[:_MOST_PANELS], position(program, binding, subject.token)
        found = [(head, panel) for head in heads for panel in neighbour_panels(program, binding, query, head)]
        if len(heads) == 1:
            return [panel for _, panel in found]
        return [dataclasses.replace(panel, title=f"head {head}: {panel.title}") for head, panel in found]
    if subject.reach:
        layers = [subject.binding(program, layer) for layer in range(subject.layers)]
        return [p.reach_panel(program, layers, cells=cells)]
    if subject.score:
        if not p.is_scored(program):
            raise MaskcError(Diagnostic("E503", f"{program.name!r} has no score expression to draw"))
        return p.heat_panels(program, binding, subject.heads[:_MOST_PANELS], cells=cells)
    if len(subject.programs) == 2:
        other = subject.programs[1]
        pair = ((program, binding), (other, subject.binding(other)))
        return [p.diff_panel(*pair, head, cells=cells) for head in subject.heads[:_MOST_PANELS]]
    if subject.layers > 1:
        return _sheet(subject, cells)
    return p.mask_panels(program, binding, subject.heads[:_MOST_PANELS], cells=cells)


def _sheet(subject: Subject, cells: int) -> list[Panel]:
    """Layer after layer, every head of it, as far as panels are drawn."""
    from maskc.picture.panels import mask_panels

    program = subject.programs[0]
    found: list[Panel] = []
    for layer in range(subject.layers):
        heads = subject.heads[: _MOST_PANELS - len(found)]
        for panel in mask_panels(program, subject.binding(program, layer), heads, cells=cells) if heads else ():
            title = f"layer {layer}" + (f", {panel.title}" if panel.title else "")
            found.append(dataclasses.replace(panel, title=title))
    return found


def position(program: Program, binding: Binding, token: str) -> int:
    """The absolute position of a query, given as such or by its coordinates in the grid: "5,7". Raises E504."""
    parts = [t.strip() for t in token.split(",")]
    if not all(t.isdecimal() and len(t) < 10 for t in parts):
        raise MaskcError(Diagnostic("E503", f"--token {token}: expected a position, or coordinates as in 5,7"))
    numbers = [int(t) for t in parts]
    if len(numbers) == 1:
        return numbers[0]
    space, at = (program.q_space if program.cross else program.k_space), 0
    for segment in space.segments:
        extents = [binding.size(e.name) for e in segment.extents]
        if len(segment.axes) == len(numbers) and all(n < e for n, e in zip(numbers, extents, strict=True)):
            inside = 0
            for n, e in zip(numbers, extents, strict=True):
                inside = inside * e + n
            return at + inside
        size = 1
        for e in extents:
            size *= e
        at += size
    raise MaskcError(Diagnostic("E504", f"--token {token}: no grid has a token at these coordinates"))


def title_of(subject: Subject) -> str:
    """One line about what is drawn."""
    given = subject.given
    names = " and ".join(p.name for p in subject.programs)
    head = f", head {subject.heads[0]}" if len(subject.heads) == 1 and given.heads > 1 else ""
    token = f", what query {subject.token} sees" if subject.token is not None else ""
    return f"{names}: {given.q_len:,} queries × {given.k_len:,} keys{head}{token}"


def write_picture(subject: Subject, path: str, ending: str, theme: str) -> None:
    """Write a picture; ``ending``: ".svg" or ".png"."""
    panels = panels_of(subject)
    if ending == ".png":
        from maskc.picture.png import save_png

        save_png(panels, path, title=title_of(subject), theme=theme)
        typer.echo(f"{in_line(path)} written")
    else:
        from maskc.picture.svg import svg

        _write(path, svg(panels, title=title_of(subject), theme=theme))
    if subject.panels > _MOST_PANELS:
        what = "pictures" if subject.panels > len(subject.heads) else "heads"
        note([f"the first {_MOST_PANELS} of {subject.panels} {what} are drawn"])


def write_html(subject: Subject, path: str, theme: str, files: Sequence[str | None]) -> None:
    """Write the page. ``files``: where the patterns were read, so that clauses are named as they are written there."""
    from maskc.cli.checking import source_of
    from maskc.picture.html import html_page

    layers = range(subject.layers) if subject.layers > 1 else [subject.given.layer]
    bindings = [[subject.binding(p, layer) for layer in layers] for p in subject.programs]
    other = (subject.programs[1], bindings[1]) if len(subject.programs) == 2 else None
    source, second = (None if f in (None, "-") else source_of(str(f)) for f in files)
    text = html_page(
        subject.programs[0],
        bindings[0],
        other=other,
        source=source,
        other_source=second,
        layout=subject.layout,
        theme=theme,
        head=subject.heads[0],
    )
    _write(path, text)


def _write(path: str, text: str) -> None:
    where = Path(path)
    try:
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_text(text, encoding="utf-8")
    except OSError as error:
        hint = "give another file: `--svg picture.svg`, `--html page.html`"
        raise MaskcError(Diagnostic("E003", f"cannot write {path}: {error.strerror}", hint=hint)) from None
    typer.echo(f"{in_line(path)} written ({len(text.encode()) / 1024:,.0f} KiB)")

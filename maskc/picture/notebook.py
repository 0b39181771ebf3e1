"""What notebooks show of patterns, plans and ops: a picture, and a few words below it."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from maskc.diagnostics import MaskcError
from maskc.ir.text import print_program

if TYPE_CHECKING:
    from maskc.ir.binding import Binding
    from maskc.ir.program import Program
    from maskc.tiles.tiling import Tiling

__all__ = ["pattern_html", "pattern_svg", "plan_html", "plan_svg"]

_LENGTH = 128
_MOST_HEADS = 8
_MOST_TILES = 1 << 25  # beyond, a plan is shown in numbers only


def pattern_svg(
    program: Program,
    args: Mapping[str, Any],
    *,
    heads: int | None = None,
    layer: int = 0,
    sizes: Mapping[str, int] | None = None,
) -> str | None:
    """The mask over a short sequence, with made-up inputs where the pattern needs any; None if it cannot be drawn.
    ``args``: the arguments that were given."""
    from maskc.picture.panels import mask_panels
    from maskc.picture.svg import svg

    found = _bound(program, args, heads, layer, sizes or {})
    if found is None:
        return None
    binding, made_up = found
    panels = mask_panels(program, binding, _shown_heads(binding), tile=0)
    lengths = f"{binding.q_len} queries × {binding.k_len} keys"
    title = f"{program.name}: {lengths}" + (", with made-up inputs" if made_up else "")
    return svg(panels, title=title)


def _bound(
    program: Program, args: Mapping[str, Any], heads: int | None, layer: int, sizes: Mapping[str, int]
) -> tuple[Binding, tuple[str, ...]] | None:
    from maskc.setting import make_setting

    wanted: dict[str, Any] = {"heads": heads, "layer": layer, "sizes": sizes, "values": args}
    try:
        given = make_setting([program], length=_LENGTH, **wanted)
        return given.bind(program), given.made_up
    except MaskcError:
        return None


def _shown_heads(binding: Binding) -> list[int]:
    """The first heads, as many as there is room for."""
    return list(range(min(binding.heads, _MOST_HEADS)))


def pattern_html(
    program: Program,
    args: Mapping[str, Any],
    *,
    heads: int | None = None,
    layer: int = 0,
    sizes: Mapping[str, int] | None = None,
) -> str:
    """The picture, and the text of the pattern."""
    picture = pattern_svg(program, args, heads=heads, layer=layer, sizes=sizes) or ""
    items = "".join(f"<li>{html.escape(f'{name} = {_short(v)}')}</li>" for name, v in args.items())
    given = f"<ul>{items}</ul>" if items else ""
    text = html.escape(print_program(program))
    return (
        f"<div>{picture}{given}<details><summary>{html.escape(program.name)}</summary><pre>{text}</pre></details></div>"
    )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:76] + " ..."


def plan_svg(plan: Tiling) -> str | None:
    """The tiles of a plan; None if there are too many."""
    from maskc.picture.panels import plan_panels
    from maskc.picture.svg import svg

    if plan.rows * plan.cols > _MOST_TILES:
        return None
    panels = plan_panels(plan)[:_MOST_HEADS]
    name, b = plan.program.name, plan.binding
    return svg(panels, title=f"{name}: {b.q_len:,} × {b.k_len:,} in tiles of {plan.q_tile} × {plan.k_tile}")


def plan_html(plan: Tiling, said: str) -> str:
    """The tiles, and what is ``said`` of them: what they cost."""
    return f"<div>{plan_svg(plan) or ''}<pre>{html.escape(said)}</pre></div>"

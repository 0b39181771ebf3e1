"""``maskc plan``: the tiles that have to be computed, and what they cost."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from maskc.cli import options as o
from maskc.cli.style import plain


def command(
    file: o.File,
    name: o.Name = None,
    q: o.Queries = None,
    k: o.Keys = None,
    heads: o.Heads = None,
    layer: o.Layer = 0,
    size: o.Sizes = [],  # noqa: B006
    arg: o.Args = [],  # noqa: B006
    seed: o.Seed = 0,
    q_tile: Annotated[int, typer.Option("--q-tile", min=1, help="Queries a tile.")] = 128,
    k_tile: Annotated[int, typer.Option("--k-tile", min=1, help="Keys a tile.")] = 128,
    layout: Annotated[
        str, typer.Option("--layout", help="Order of the tokens: none, auto, or a layout's name.")
    ] = "none",
    head_dim: Annotated[int, typer.Option("--head-dim", min=1, help="Head dimension, for FLOPs.")] = 128,
    as_json: o.Json = False,
) -> None:
    """Plan a mask: its tiles by kind, waste, work, speed-up over dense, KV cache, reach, and advice."""
    from maskc.cli.values import setting
    from maskc.tiles import make_plan
    from maskc.tiles.statistics import statistics

    program = o.program_of(file, name)
    given = setting([program], q=q, k=k, heads=heads, layer=layer, sizes=size, args=arg, seed=seed)
    for note in given.made_up:
        typer.echo(f"note: {plain(note)}", err=True)
    plan = make_plan(program, given.bind(program), q_tile=q_tile, k_tile=k_tile, layout=layout)
    found = statistics(plan, head_dim)
    if as_json:
        reason = plan.q_order.reason
        typer.echo(json.dumps({"maskc": 1, **found.to_dict(), "layout_reason": reason}))
        return
    lines = [str(found), *([f"  layout    {plan.q_order.reason}"] if plan.q_order.reason else [])]
    sys.stdout.write(plain("\n".join(lines)) + "\n")

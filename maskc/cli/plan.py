"""``maskc plan``: the tiles that have to be computed, what they cost, and what to do about it."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskc.cli import options as o
from maskc.cli.progress import progress
from maskc.cli.style import colored, note, plain
from maskc.setting import MAX_LAYERS, MAX_LENGTH

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from maskc.parallel.partitions import Partition
    from maskc.tiles.budget import Watch
    from maskc.tiles.figures import Statistics
    from maskc.tiles.plan import TilePlan
    from maskc.tiles.reach import Reach

_MOST_GROUPS = 16  # rows of the table
_WIDEST = 1000  # columns of the terminal that the table may ask for


def command(
    file: o.File,
    name: o.Name = None,
    q: o.Queries = None,
    k: o.Keys = None,
    heads: o.Heads = None,
    layer: o.Layer = 0,
    layers: Annotated[
        int | None,
        typer.Option("--layers", min=1, max=MAX_LAYERS, help="Follow information through this many unlike layers."),
    ] = None,
    size: o.Sizes = [],  # noqa: B006
    arg: o.Args = [],  # noqa: B006
    seed: o.Seed = 0,
    q_tile: Annotated[int, typer.Option("--q-tile", min=1, max=MAX_LENGTH, help="Queries a tile.")] = 128,
    k_tile: Annotated[int, typer.Option("--k-tile", min=1, max=MAX_LENGTH, help="Keys a tile.")] = 128,
    layout: Annotated[
        str, typer.Option("--layout", help="Order of the tokens: none, auto, or a layout's name.")
    ] = "none",
    head_dim: Annotated[int, typer.Option("--head-dim", min=1, max=o.MAX_DIM, help="Head dimension, for FLOPs.")] = 128,
    value_dim: Annotated[
        int | None,
        typer.Option("--value-dim", min=1, max=o.MAX_DIM, help="Of the values.", show_default="as --head-dim"),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=o.MAX_DIM, help="Rows of tiles computed at once.")
    ] = 132,
    budget: Annotated[
        int | None,
        typer.Option(
            "--budget",
            min=0,
            help="What planning may cost, in evaluations of the mask.",
            show_default="4e8, some ten seconds' work",
        ),
    ] = None,
    ranks: Annotated[
        int | None,
        typer.Option("--ranks", min=1, max=o.MAX_DIM, help="Divide the sequence among so many GPUs."),
    ] = None,
    as_json: o.Json = False,
) -> None:
    """Plan a mask: its tiles by kind, waste, work, speed-up over dense, KV cache, reach, and advice."""
    from maskc.cli.values import setting
    from maskc.tiles import make_plan
    from maskc.tiles.budget import BUDGET
    from maskc.tiles.statistics import statistics

    program = o.program_of(file, name)
    last = max(layer, (layers or 1) - 1)  # What is made up is for all layers.
    given = setting([program], q=q, k=k, heads=heads, layer=last, sizes=size, args=arg, seed=seed)
    given = dataclasses.replace(given, layer=layer)
    note(given.made_up)
    binding = given.bind(program)
    limit = BUDGET if budget is None else budget
    start = time.perf_counter()
    with progress("planning") as watch:
        plan = make_plan(program, binding, q_tile=q_tile, k_tile=k_tile, layout=layout, budget=limit, watch=watch)
    seconds = time.perf_counter() - start
    with progress("counting, and looking for advice") as watch:
        found = statistics(plan, head_dim, value_dim=value_dim, workers=workers, watch=watch)
    with progress("following layers") as watch:
        stack = None if layers is None else _stack(plan, layers, limit, watch)
    with progress("dividing") as watch:
        division = None if ranks is None else _divided(plan, ranks, limit, watch)
    if as_json:
        typer.echo(json.dumps(_data(plan, found, seconds, layers, stack, division)))
    else:
        _print(plan, found, seconds, layers, stack, division)


def _divided(plan: TilePlan, ranks: int, budget: int, watch: Watch) -> Partition:
    """The tokens of the sequence divided among ranks. Raises E504 for more than there are tokens."""
    from maskc.parallel.divide import divide, tile_for
    from maskc.tiles import make_plan

    tile = tile_for(plan.binding.k_len, ranks)
    if (plan.q_tile, plan.k_tile) != (tile, tile) or plan.q_order.index is not None:
        plan = make_plan(plan.program, plan.binding, q_tile=tile, k_tile=tile, budget=budget, watch=watch)
    return divide([plan], ranks)


def _stack(plan: TilePlan, layers: int, budget: int, watch: Watch) -> Reach | None:
    """The reach of layers 0, 1, ... with the same lengths and inputs, of which those with the same masks are planned
    once. Raises E505 where a table has fewer, and E801 where planning all of them costs more than ``budget``."""
    from maskc.diagnostics import Diagnostic, MaskcError
    from maskc.tiles import make_plan
    from maskc.tiles.binding import check_limits
    from maskc.tiles.groups import layers_alike
    from maskc.tiles.reach import reach

    check_limits(layers=layers)
    for p in plan.program.params:
        have = plan.binding.tables[p.name].shape[p.domain.index("layer")] if "layer" in p.domain else layers
        if have < layers:
            hint = f"give {p.name} for all layers, or --layers {have}"
            raise MaskcError(Diagnostic("E505", f"{p.name} has {_count(have, 'layer')}, not {layers}", hint=hint))
    alike = layers_alike(plan.program, plan.binding, layers)
    unlike = sorted(set(alike))
    options: dict[str, Any] = {"q_tile": plan.q_tile, "k_tile": plan.k_tile, "budget": budget // len(unlike)}
    plans: dict[int, TilePlan] = {}
    for layer in unlike:
        watch(len(plans), len(unlike))
        plans[layer] = make_plan(plan.program, plan.binding.replace(layer=layer), **options)
    return reach(*(plans[layer] for layer in alike))


def _data(
    plan: TilePlan,
    found: Statistics,
    seconds: float,
    layers: int | None,
    stack: Reach | None,
    division: Partition | None,
) -> dict[str, Any]:
    data = {"maskc": 1, **found.to_dict(), "layout_reason": plan.q_order.reason, "seconds": seconds}
    if layers is not None:
        of_stack = None if stack is None else {**dataclasses.asdict(stack), "complete": stack.complete}
        data["stack"] = {"layers": layers, "reach": of_stack}
    if division is not None:
        data["partition"] = division.to_dict()
    return data


def _print(
    plan: TilePlan,
    found: Statistics,
    seconds: float,
    layers: int | None,
    stack: Reach | None,
    division: Partition | None,
) -> None:
    from rich.console import Console
    from rich.text import Text

    color = colored(sys.stdout)
    console = Console(no_color=not color, force_terminal=color, markup=False, highlight=False, emoji=False)
    title = f"{found.name}: {found.q_len:,} queries x {found.k_len:,} keys"
    console.print(Text(plain(title), style="bold"))
    facts = _facts(plan, found, seconds, layers, stack)
    if division is not None:
        facts.add_row("ranks", Text(str(division)))
    console.print(facts)
    if len(found.groups) > 1:
        groups = _groups(found)
        # Numbers that are cut off tell nothing: where the table does not fit, the terminal wraps or a pager scrolls.
        needed = console.measure(groups, options=console.options.update(max_width=_WIDEST)).maximum
        width, console.width = console.width, max(console.width, needed)
        console.print(groups)
        console.width = width
    _advise(console, found)


def _facts(plan: TilePlan, s: Statistics, seconds: float, layers: int | None, stack: Reach | None) -> Table:
    from rich.table import Table
    from rich.text import Text

    from maskc.tiles.figures import pairs_text, speedup_text
    from maskc.tiles.report import cache_text, reach_text, size_text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()

    def add(what: str, text: str) -> None:
        table.add_row(what, Text(plain(text)))

    copies = f"{_count(s.heads, 'head')}, {_count(s.batch, 'batch entry', 'batch entries')}"
    add("masks", f"{s.masks} distinct among {copies}; layer {plan.binding.layer}")
    add("tiles", f"{s.q_tile} x {s.k_tile}: {s.full:,} full, {s.partial:,} partial, {s.empty:,} empty")
    add("pairs", pairs_text(s))
    dims = f"{s.head_dim}" if s.head_dim == s.value_dim else f"{s.head_dim} and {s.value_dim}"
    add("work", f"{s.flops_forward:.3g} FLOPs forward, {s.flops_backward:.3g} backward (head dimension {dims})")
    add("speed-up", speedup_text(s))
    rows = f"the longest row has {s.imbalance:.2f} times the mean"
    if s.balance is not None:
        b = s.balance
        rows += f"; on {b.workers} workers {b.in_order:.2f} in order, {b.heaviest_first:.2f} heaviest first, "
        rows += f"{b.split:.2f} with {_count(b.split_rows, 'row')} split"
    add("balance", rows)
    if s.liveness is not None:
        add("KV cache", cache_text(s.liveness))
    if s.reach is not None:
        add("reach", reach_text(s.reach))
    if layers is not None:
        add("stack", f"of layers 0 to {layers - 1}: {'not followed' if stack is None else reach_text(stack)}")
    add("layout", s.layout + (f": {plan.q_order.reason}" if plan.q_order.reason else ""))
    add("plan", f"{1000 * seconds:,.1f} ms, {_count(s.runs, 'run')}, {size_text(s.nbytes)}")
    return table


def _groups(s: Statistics) -> Table:
    from rich.table import Table

    from maskc.tiles.report import numbers, ratio_text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="cyan")
    for column in ("heads", "batch", "full", "partial", "useful pairs", "waste", "imbalance", "no key", "live keys"):
        table.add_column(column, justify="left" if column in ("heads", "batch") else "right", no_wrap=True)
    for g in s.groups[:_MOST_GROUPS]:
        about = "about " if g.sampled else ""
        blind = "" if g.blind is None else f"{g.blind:,}"
        tiles = (f"{g.full:,}", f"{g.partial:,}", f"{about}{g.useful_pairs:,}")
        ratios = (ratio_text(g.waste), ratio_text(g.imbalance))
        table.add_row(numbers(g.heads), numbers(g.batches), *tiles, *ratios, blind, f"{g.live_keys:,}")
    if len(s.groups) > _MOST_GROUPS:
        table.caption = f"and {len(s.groups) - _MOST_GROUPS} more: see --json"
    return table


def _advise(console: Console, s: Statistics) -> None:
    from rich.table import Table
    from rich.text import Text

    if not s.advice:
        return
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold green", no_wrap=True)
    table.add_column()
    for a in s.advice:
        table.add_row("advice", Text(plain(a.text)))
    console.print(table)


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"

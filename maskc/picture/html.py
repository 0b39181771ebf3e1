"""A mask as one page that needs no network: tiles from the plan, pairs evaluated exactly where one looks."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from maskc.clauses import coordinate_names, grouped, readable, source_texts
from maskc.diagnostics import MaskcError, Source
from maskc.ir.nodes import Apply, Lookup, Node, Symbol, postorder
from maskc.ir.program import SCORE, Program
from maskc.ir.rewrite import substitute
from maskc.picture.encode import Arrays, encode_nodes, encode_runs, encode_tables
from maskc.picture.scene import BUDGET, Band, apart, bands, closed, constants, difference, plan_within

if TYPE_CHECKING:
    from maskc.ir.binding import Binding
    from maskc.tiles.tiling import Tiling

__all__ = ["html_page"]

#: Expressions of more nodes are not sent along: the page then shows tiles only.
_MOST_NODES = 20_000
_MOST_CLAUSES = 300


@dataclass(frozen=True)
class _View:
    """One choice of the page. ``channels``: what is drawn over one another, as (label, value, the programs of all
    layers), where a pair has the value 1 (first), 2 (second) or 3 (both). ``roots``: masks whose sum of bits is that
    value. ``whys``: masks that are explained."""

    name: str
    channels: Sequence[tuple[str, int, Sequence[tuple[Program, Binding]]]]
    roots: Sequence[tuple[int, Node]]
    whys: Sequence[tuple[str, Node]]
    score: Node | None = None


def html_page(
    program: Program,
    bindings: Binding | Sequence[Binding],
    *,
    other: tuple[Program, Sequence[Binding]] | None = None,
    source: Source | None = None,
    other_source: Source | None = None,
    layout: str = "none",
    theme: str = "auto",
    tile: int = 128,
    head: int = 0,
) -> str:
    """The page's text.

    Args:
        program: the pattern.
        bindings: what it is applied to; several differ in their layer only, and can be switched between.
        other: a second pattern to compare with, and its bindings, one a layer too.
        source, other_source: the files, so that clauses are named as they are written there.
        layout: as ``maskc.tiles.make_plan`` takes it: an order of the tokens to look at, too, if there is a better one.
        theme: "light", "dark", or "auto": the reader's choice.
        tile: queries and keys a tile; larger ones are taken where these would make too large a page.
        head: the head that is shown first.

    Raises MaskcError if the planner refuses, or the two patterns are over different lengths.
    """
    each = [bindings] if not isinstance(bindings, Sequence) else list(bindings)
    data = _data(program, each, other, (source, other_source), layout, tile)
    lengths = f"{each[0].q_len:,} queries × {each[0].k_len:,} keys"
    title = program.name if other is None else f"{program.name} and {other[0].name}"
    return _page(title, lengths, {**data, "theme": theme, "head": head}, theme)


def _data(
    program: Program,
    each: list[Binding],
    other: tuple[Program, Sequence[Binding]] | None,
    sources: tuple[Source | None, Source | None],
    layout: str,
    tile: int,
) -> dict[str, Any]:
    theirs = {} if other is None else _sources(sources[1], other[0])
    if other is not None:
        both = [apart((program, a), (other[0], b)) for a, b in zip(each, other[1], strict=True)]
        other = both[0][0], [b for _, b in both]
    binding, views = (each[0], [_single(program, each)]) if other is None else _compared(program, each, other)
    if other is None and program.score is not SCORE:
        views.append(_scored(program, views[0]))
    jobs = [job for v in views for _, _, layers in v.channels for job in layers]
    size, plans, planned = plan_within(jobs, tile=tile)
    arrays, page = Arrays(), _Plans()
    written = _sources(sources[0], program)
    if other is not None:
        known = constants(program, each[0]), constants(other[0], other[1][0])
        pairs = [
            (n, t, k) for texts, k in zip((theirs, written), reversed(known), strict=True) for n, t in texts.items()
        ]
        written = {readable(substitute(n, k)): t for n, t, k in pairs}
    for i, v in enumerate(views):
        whys = [(label, *grouped(mask, written)) for label, mask in v.whys]
        views[i] = dataclasses.replace(v, whys=[(label, mask) for label, mask, _ in whys])
        written = {**written, **{n: t for _, _, texts in whys for n, t in texts.items()}}
    evaluated = _expressions(views, program, other, binding, arrays, written)
    numbers = evaluated.pop("numbers")
    shown, queue = [], iter(plans)
    for v in views:
        row = _shown(v, [[next(queue) for _ in layers] for _, _, layers in v.channels], page, numbers)
        if row is not None:
            shown.append(row)
    if layout != "none" and other is None:
        shown += [_laid_out(plan, shown[0], page, arrays) for plan in _plans_in(layout, program, each, size)]
    return {
        "q_len": binding.q_len,
        "k_len": binding.k_len,
        "q_start": binding.offset,
        "heads": binding.heads,
        "layers": [b.layer for b in each],
        "tile": size,
        "planned": planned,
        "views": shown,
        "plans": [encode_runs(runs, arrays) for runs in page.runs],
        "bands": {side: _spans(bands(program, binding, side)) for side in ("q", "k")},
        **evaluated,
        "block": arrays.text(),
    }


def _single(program: Program, each: Sequence[Binding]) -> _View:
    whys = [("", readable(program.mask))]
    return _View("mask", [("", 1, [(program, b) for b in each])], [(1, _simple(program, each[0]))], whys)


def _scored(program: Program, mask: _View) -> _View:
    return _View("score", mask.channels, mask.roots, mask.whys, program.score)


def _compared(
    program: Program, each: list[Binding], other: tuple[Program, Sequence[Binding]]
) -> tuple[Binding, list[_View]]:
    second, theirs = other
    pairs = [difference((program, a), (second, b)) for a, b in zip(each, theirs, strict=True)]
    binding = pairs[0][0]
    one, two = closed(program, each[0]), closed(second, theirs[0])
    merged = pairs[0][1][0][1].params
    one, two = one.replace(params=merged), two.replace(params=merged)
    bits = [(1, _simple(one, binding)), (2, _simple(two, binding))]
    whys = [(program.name, readable(one.mask)), (second.name, readable(two.mask))]
    channels = [
        (label, value, [(masks[i][1], b) for b, masks in pairs])
        for i, (label, value) in enumerate(zip([m[0] for m in pairs[0][1]], (3, 1, 2), strict=True))
    ]
    alone = [
        _View(p.name, [("", 1, [(p, b) for b, _ in pairs])], [(1, bit[1])], [("", why[1])])
        for p, bit, why in zip((one, two), bits, whys, strict=True)
    ]
    return binding, [_View("difference", channels, bits, whys), *alone]


def _simple(program: Program, binding: Binding) -> Node:
    """The mask in normal form, which is quicker to evaluate; as it is where that is too much work."""
    from maskc.passes.specialise import bind

    if sum(1 for _ in postorder([program.mask])) > 2000:
        return program.mask
    sizes = {**binding.sizes, "q": binding.q_len, "k": binding.k_len}
    try:
        return bind(program, args=binding.args, heads=binding.heads, sizes=sizes).mask
    except (MaskcError, RuntimeError):
        return program.mask


class _Plans:
    """Runs that the page carries, each once."""

    def __init__(self) -> None:
        self.runs: list[Any] = []

    def number(self, runs: Any) -> int:
        for i, each in enumerate(self.runs):
            if each is runs:
                return i
        self.runs.append(runs)
        return len(self.runs) - 1

    def of(self, plan: Tiling) -> list[int]:
        """The runs of every head."""
        return [self.number(plan.group_of(h).runs) for h in range(plan.binding.heads)]


def _shown(view: _View, plans: list[list[Tiling]], page: _Plans, numbers: Mapping[Node, int]) -> dict[str, Any] | None:
    if view.score is not None and view.score not in numbers:
        return None
    channels = [
        {"label": label, "value": value, "plans": [page.of(p) for p in layers]}
        for (label, value, _), layers in zip(view.channels, plans, strict=True)
    ]
    row: dict[str, Any] = {"name": view.name, "channels": channels}
    row["roots"] = [[bit, numbers[n]] for bit, n in view.roots if n in numbers]
    row["whys"] = [[label, numbers[n]] for label, n in view.whys if n in numbers]
    return row if view.score is None else {**row, "score": numbers[view.score]}


def _plans_in(layout: str, program: Program, each: Sequence[Binding], tile: int) -> list[Tiling]:
    """The plan in another order of the tokens, if there is one of as many tokens, and one layer only."""
    from maskc.tiles.planner import make_tiling

    binding = each[0]
    plan = make_tiling(program, binding, q_tile=tile, k_tile=tile, layout=layout, budget=BUDGET)
    sides = ((plan.q_order.index, binding.q_len), (plan.k_order.index, binding.k_len))
    fits = all(i is None or (i.size == n and (i >= 0).all()) for i, n in sides)
    moved = any(i is not None for i, _ in sides)
    return [plan] if fits and moved and len(each) == 1 else []


def _laid_out(plan: Tiling, like: dict[str, Any], page: _Plans, arrays: Arrays) -> dict[str, Any]:
    import numpy as np

    orders = {"q": plan.q_order, "k": plan.k_order}
    found = {side: arrays.add(np.asarray(o.index)) for side, o in orders.items() if o.index is not None}
    channel = {"label": "", "value": 1, "plans": [page.of(plan)]}
    return {**like, "name": f"laid out: {plan.k_order.name}", "channels": [channel], **found}


def _expressions(
    views: Sequence[_View],
    program: Program,
    other: tuple[Program, Sequence[Binding]] | None,
    binding: Binding,
    arrays: Arrays,
    sources: Mapping[Node, str],
) -> dict[str, Any]:
    """Nodes, tables and names of clauses; no nodes, and the reason, where pairs cannot be evaluated in the page."""
    roots = [n for v in views for n in (*(r for _, r in v.roots), *(w for _, w in v.whys))]
    params = {p.name: p for each in (program, *(() if other is None else (other[0],))) for p in each.params}
    scores = [v.score for v in views if v.score is not None and _readable(v.score, binding)]
    nothing: dict[str, Any] = {"nodes": [], "tables": {}, "texts": {}, "sources": {}, "numbers": {}}
    if sum(1 for _ in postorder(roots)) > _MOST_NODES:
        return {**nothing, "reason": "the mask has too many clauses to be evaluated here: tiles only"}
    try:
        tables = encode_tables([*roots, *scores], params.values(), binding, arrays)
    except ValueError as error:
        return {**nothing, "reason": f"an input holds {error}: tiles only"}
    nodes, numbers = encode_nodes([*roots, *scores], binding)
    labels = {p.name: p.labels for p in params.values() if p.labels}
    # Of two patterns the sizes are put in, and what is an axis of one may mean nothing in the other.
    names = coordinate_names(program) if other is None else {}
    texts = _texts([w for v in views for _, w in v.whys], names, labels)
    written = {numbers[n]: t for n, t in sources.items() if n in numbers}
    named = {numbers[n]: t for n, t in texts.items()}
    return {"nodes": nodes, "tables": tables, "texts": named, "sources": written, "numbers": numbers, "reason": ""}


def _readable(score: Node, binding: Binding) -> bool:
    """Whether all that a score reads was given: inputs that only scores read may be left out."""
    nodes = list(postorder([score]))
    given = all(n.name in binding.tables for n in nodes if isinstance(n, Lookup))
    return given and Symbol("o") not in nodes


def _sources(source: Source | None, program: Program) -> dict[Node, str]:
    return {} if source is None else source_texts(source, program)


def _texts(roots: Iterable[Node], names: Mapping[Node, str], labels: Mapping[str, tuple[str, ...]]) -> dict[Node, str]:
    """The core text of the clauses that can be asked about."""
    from maskc.ir.text import MOST_SHOWN, print_node

    found: dict[Node, str] = {}
    stack = list(roots)
    while stack and len(found) < _MOST_CLAUSES:
        node = stack.pop()
        if node in found:
            continue
        found[node] = print_node(node, names, labels, MOST_SHOWN)
        if isinstance(node, Apply) and node.op in ("and", "or", "not", "select"):
            stack.extend(node.args)
    return found


def _spans(found: Sequence[Band]) -> list[list[Any]]:
    return [list(span) for span in found[0].spans] if found else []


# ---- The page ----

_HELP = (
    ("drag, ⇧ arrows", "move"),
    ("wheel, + −", "zoom"),
    ("0", "show all"),
    ("arrows", "move the cursor"),
    ("h  H", "next, previous head"),
    ("l  L", "next, previous layer"),
    ("v", "next view"),
    ("g", "tile grid"),
    ("t", "light or dark"),
)


def _page(title: str, lengths: str, data: Mapping[str, Any], theme: str) -> str:
    here = files("maskc.picture")
    style = here.joinpath("page.css").read_text(encoding="utf-8")
    script = "".join(here.joinpath(n).read_text(encoding="utf-8") for n in ("evaluate.js", "page.js"))
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    forced = f' data-theme="{theme}"' if theme in ("light", "dark") else ""
    # In a script element of data only "<" can do harm; in JSON it may be written as an escape.
    carried = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    keys = "".join(f"<dt><kbd>{html.escape(k)}</kbd></dt><dd>{html.escape(d)}</dd>" for k, d in _HELP)
    return f"""<!doctype html>
<html lang="en"{forced}>
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{html.escape(title)}</h1><span class="lengths">{html.escape(lengths)}</span>
<div class="controls">
<label>view <select id="view"></select></label>
<label>head <select id="head"></select></label>
<label>layer <select id="layer"></select></label>
<label>go to <input id="go" type="text" inputmode="numeric" placeholder="query, key"></label>
<button id="fit" type="button">show all</button>
<button id="theme" type="button">light / dark</button>
</div>
</header>
<main>
<canvas id="under" role="img" aria-label="The mask: queries downward, keys to the right."></canvas>
<canvas id="over" tabindex="0" aria-label="The mask; arrows move the cursor, plus and minus zoom."></canvas>
</main>
<aside>
<h2>Pair</h2>
<div aria-live="polite"><div id="place">Point at the picture.</div><div id="kind"></div><p id="why"></p></div>
<ul id="tree"></ul>
<h2>Colours</h2><ul id="legend"></ul>
<h2>Keys</h2><dl>{keys}</dl>
</aside>
<footer id="status"></footer>
<script type="application/json" id="data">{carried}</script>
<script>{script}</script>
</body>
</html>
"""


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")

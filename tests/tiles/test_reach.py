"""Layers until nothing new is heard equal brute force on the dense mask."""

from __future__ import annotations

import dataclasses
import sys

import networkx as nx
import numpy as np
import numpy.typing as npt
import pytest

from maskc.ir.evaluate import dense
from maskc.lower import lower_text
from maskc.tiles import make_plan
from maskc.tiles.binding import make_binding
from maskc.tiles.plan import TilePlan
from maskc.tiles.reach import Reach, reach, tile_graph

from .corpus import MASKS, plain_case

Bool = npt.NDArray[np.bool_]


def brute(layers: list[Bool]) -> tuple[int, int]:
    """The fewest layers after which no query hears anything new, and how many keys the last one has heard of."""
    n = len(layers[0])
    steps = [kept | np.eye(n, dtype=np.bool_) for kept in layers]
    heard, count, quiet, used = np.eye(n, dtype=np.bool_), 0, 0, 0
    while quiet < len(steps):
        more = steps[count % len(steps)].astype(np.float32) @ heard > 0
        count += 1
        if (more == heard).all():
            quiet += 1
        else:
            quiet, used = 0, count
        heard = more
    return used, int(heard[-1].sum())


def brute_last(kept: Bool) -> tuple[int, int]:
    heard, layers = np.zeros(len(kept), np.bool_), 0
    heard[-1] = True
    while True:
        more = heard | kept[heard].any(axis=0)
        if (more == heard).all():
            return layers, int(heard.sum())
        heard, layers = more, layers + 1


def check(found: Reach | None, kept: Bool) -> None:
    assert found is not None
    assert found.keys == len(kept)
    if found.level == "tokens":
        assert (found.layers, found.reached) == (brute([kept]) if found.queries == "all" else brute_last(kept))
    else:
        assert found.reached >= brute([kept])[1]


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("length", [130, 300])
def test_reach(name: str, length: int) -> None:
    program, binding = plain_case(name, length, length)
    found = reach(make_plan(program, binding, q_tile=16, k_tile=32))
    assert found is not None
    assert length > 256 or (found.level, found.queries) == ("tokens", "all")
    check(found, dense(program, binding))


def plan_of(mask: str, n: int, tile: int = 128) -> TilePlan:
    program = lower_text(mask)[0]
    return make_plan(program, make_binding(program, n, n), q_tile=tile, k_tile=tile)


@pytest.mark.parametrize(
    ("mask", "layers", "reached"),
    [
        ("causal", 1, 100_000),
        ("sliding_window(101)", 1000, 100_000),
        ("sliding_window(2)", 99_999, 100_000),
        ("causal & chunk(1000)", 1, 1000),
        ("self", 0, 1),
        ("window(50, 50) | token[k] < 1 | token[q] < 1", 2, 100_000),
        ("causal & (sliding_window(101) | sinks(9))", 1000, 100_000),
    ],
)
def test_reach_of_long_sequences(mask: str, layers: int, reached: int) -> None:
    found = reach(plan_of(mask, 100_000))
    assert found is not None
    assert (found.layers, found.reached, found.level) == (layers, reached, "tokens")
    assert found.complete == (reached == 100_000)


@pytest.mark.parametrize("length", [100, 400])
@pytest.mark.parametrize("windows", [(5, 400), (5, 40), (1, 30), (400, 5), (3, 4, 5)])
def test_reach_of_unlike_layers(length: int, windows: tuple[int, ...]) -> None:
    plans = [plan_of(f"sliding_window({w})", length) for w in windows]
    found = reach(*plans)
    assert found is not None
    assert (found.layers, found.reached) == brute([dense(p.program, p.binding) for p in plans])
    assert found.level == "tokens"


def test_heads_hear_together() -> None:
    program = lower_text("pattern p(w: int[head]) { attend sliding_window(w[h]) }")[0]
    plan = make_plan(program, make_binding(program, 1000, 1000, heads=2, w=[2, 112]))
    found = reach(plan)
    assert found is not None
    assert (found.layers, found.reached) == (9, 1000)


def test_where_layers_cannot_be_stacked() -> None:
    program = lower_text("causal")[0]
    assert reach(make_plan(program, make_binding(program, 10, 20))) is None
    cross = lower_text("pattern p over decoder -> encoder { attend k < 90 }")[0]
    assert reach(make_plan(cross, make_binding(cross, 50, 50))) is None
    with pytest.raises(ValueError, match="unlike lengths"):
        reach(plan_of("causal", 10), plan_of("causal", 11))


def test_the_tiles_as_a_graph() -> None:
    graph = tile_graph(plan_of("chunk(256)", 2048, 64), nodes=32)
    assert graph.graph["unit"] == 64
    assert graph.number_of_nodes() == 32
    assert nx.number_strongly_connected_components(graph) == 8
    causal = tile_graph(plan_of("causal", 2048, 64), nodes=16)
    assert causal.graph["unit"] == 128
    assert set(causal.edges) == {(q, k) for q in range(16) for k in range(q + 1)}
    program = lower_text("causal")[0]
    with pytest.raises(ValueError, match="as many queries as keys"):
        tile_graph(make_plan(program, make_binding(program, 10, 20)))


def test_masks_that_take_long_are_followed_by_their_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of hundreds of cases, and layers."""
    program = lower_text("any(i in 0..500: hash(i, k, q) % 1000 == 0)")[0]
    plan = make_plan(program, make_binding(program, 256, 256))
    monkeypatch.setattr(sys.modules[reach.__module__], "dense", None)
    found = reach(*(dataclasses.replace(plan) for _ in range(200)))
    assert found is not None
    assert found.level == "tiles"


def test_ordinary_masks_are_followed_token_by_token() -> None:
    program = lower_text("match h % 32 { 0: hash(q, k) % 9 == 0; else: sliding_window(h) & k % 3 == 0 }")[0]
    plan = make_plan(program, make_binding(program, 256, 256, heads=32))
    found = reach(*[plan] * 8)
    assert found is not None
    assert found.level == "tokens"

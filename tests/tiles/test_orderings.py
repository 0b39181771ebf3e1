"""Scattered numbers in an order, by tiles: equal to formulas, and cheap where points would be many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from maskc.lower import lower_text
from maskc.tiles import make_plan
from maskc.tiles.binding import make_binding
from maskc.tiles.orderings import order_of, ordered_places, places_in_order
from maskc.tiles.tiling import FULL, PARTIAL

Mask = Callable[[Any, Any, Any], Any]
_SIGNATURE = "a: int[token], c: int[token], x: float[token], y: float[token], mark: bool[token]"
#: Masks, and the same on arrays of positions and the inputs ``t``.
ORDERS: dict[str, Mask] = {
    "a[q] <= a[k]": lambda q, k, t: t.a[q] <= t.a[k],
    "a[k] < c[q]": lambda q, k, t: t.a[k] < t.c[q],
    "causal on a": lambda q, k, t: t.a[k] <= t.a[q],
    "a[q] - a[k] < 5": lambda q, k, t: t.a[q] - t.a[k] < 5,
    "2 * a[k] - c[q] + k * k % 5 >= q // 9 - 20": lambda q, k, t: 2 * t.a[k] - t.c[q] + k * k % 5 >= q // 9 - 20,
    "abs(q - k) >= 60 & a[q] <= a[k]": lambda q, k, t: (abs(q - k) >= 60) & (t.a[q] <= t.a[k]),
    "~(a[q] > c[k] | mark[k]) & causal": lambda q, k, t: ~((t.a[q] > t.c[k]) | t.mark[k]) & (k <= q),
    "causal & (a[q] <= a[k] | mark[k])": lambda q, k, t: (k <= q) & ((t.a[q] <= t.a[k]) | t.mark[k]),
    "mark[q] & a[q] < a[k] & ~mark[k]": lambda q, k, t: t.mark[q] & (t.a[q] < t.a[k]) & ~t.mark[k],
    "abs(a[q] - a[k]) < 3 & causal": lambda q, k, t: (abs(t.a[q] - t.a[k]) < 3) & (k <= q),
    "a[q] < a[k] & (q - k) % 3 == 1": lambda q, k, t: (t.a[q] < t.a[k]) & ((q - k) % 3 == 1),
    "a[q] < a[k] & k // 9 % 4 == q // 9 % 4": lambda q, k, t: (t.a[q] < t.a[k]) & (k // 9 % 4 == q // 9 % 4),
    "a[q] < c[k] & same(a) | x[q] < x[k] & mark[q]": (
        lambda q, k, t: (t.a[q] < t.c[k]) & (t.a[q] == t.a[k]) | (t.x[q] < t.x[k]) & t.mark[q]
    ),
    "x[q] < x[k]": lambda q, k, t: t.x[q] < t.x[k],
    "y[k] <= x[q] & causal": lambda q, k, t: (t.y[k] <= t.x[q]) & (k <= q),
    "~(x[q] < y[k])": lambda q, k, t: ~(t.x[q] < t.y[k]),
    "~(x[k] <= x[q]) & mark[k]": lambda q, k, t: ~(t.x[k] <= t.x[q]) & t.mark[k],
    "~(x[q] <= y[k] & mark[q]) & k < 99": lambda q, k, t: ~((t.x[q] <= t.y[k]) & t.mark[q]) & (k < 99),
}
_EXTREME = (1 << 62) - 1


class _Inputs:
    def __init__(self, kind: str, n: int) -> None:
        rng = np.random.default_rng(n)
        integers: dict[str, Callable[[], Any]] = {
            "random": lambda: rng.integers(-9, 30, n),
            "blocks": lambda: rng.integers(0, 2, n // 37 + 1).repeat(37)[:n],
            "ranks": lambda: rng.permutation(n),
            "extremes": lambda: rng.choice([-_EXTREME, 0, 1, _EXTREME], n // 20 + 1).repeat(20)[:n],
        }
        floats = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 2.5])
        self.a, self.c = integers[kind](), integers[kind]()
        self.x, self.y = (rng.choice(floats, n // 12 + 1).repeat(12)[:n] for _ in "xy")
        self.mark = rng.random(n) < 0.8


def _kinds(mask: Any, tile: tuple[int, int]) -> Any:
    rows, cols = (np.arange(0, n, t) for n, t in zip(mask.shape, tile, strict=True))
    some, every = (f.reduceat(f.reduceat(mask, rows), cols, axis=1) for f in (np.logical_or, np.logical_and))
    return np.where(every, FULL, np.where(some, PARTIAL, 0))


@pytest.mark.parametrize("shape", [(300, 300, None, 16, 16), (301, 333, None, 8, 24), (170, 250, 41, 10, 7)], ids=str)
@pytest.mark.parametrize("kind", ["random", "blocks", "ranks", "extremes"])
@pytest.mark.parametrize("text", ORDERS)
def test_plans_of_numbers_in_an_order(text: str, kind: str, shape: tuple[int, int, int | None, int, int]) -> None:
    if kind == "extremes" and any(sign in text for sign in "+-"):
        kind = "random"  # sums of such are refused (E507)
    q_len, k_len, start, *tile = shape
    program, given = lower_text(f"pattern p({_SIGNATURE}) {{ attend {text} }}")[0], _Inputs(kind, k_len)
    binding = make_binding(program, q_len, k_len, **vars(given), **({} if start is None else {"q_start": start}))
    q, k = np.arange(q_len)[:, None] + (k_len - q_len if start is None else start), np.arange(k_len)
    plan = make_plan(program, binding, q_tile=tile[0], k_tile=tile[1])
    np.testing.assert_array_equal(plan.kinds(), _kinds(ORDERS[text](q, k, given), (tile[0], tile[1])))


def test_orders_of_heads_and_batch_entries() -> None:
    text = "pattern p(rank: int[head, token], x: float[token]) { attend rank[h, k] <= rank[h, q] & ~(x[q] < x[k]) }"
    program, rng, n = lower_text(text)[0], np.random.default_rng(0), 300
    rank, x = rng.integers(0, 40, (3, n)), rng.choice([0.0, -0.0, 1.0, np.nan], (2, n))
    plan = make_plan(program, make_binding(program, n, n, heads=3, batch=2, rank=rank, x=x), q_tile=16, k_tile=16)
    for h, b in np.ndindex(3, 2):
        mask = (rank[h] <= rank[h][:, None]) & ~(x[b][:, None] < x[b])
        np.testing.assert_array_equal(plan.kinds(plan.group_of(h, b)), _kinds(mask, (16, 16)))


@pytest.mark.parametrize("kind", ["i", "f"])
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("unordered", [False, True])
def test_places_are_in_order_where_numbers_are(kind: str, strict: bool, unordered: bool) -> None:
    rng = np.random.default_rng(0)
    values = [0.0, -0.0, np.nan, np.inf, -np.inf, 1e-320, -1e308] if kind == "f" else [-_EXTREME, _EXTREME, 0, 1, -1]
    q, k = rng.choice(values, (2, 200))
    there, free = rng.random((2, 200)) < 0.8, rng.random(200) < 0.1
    passes = (q[:, None] < k) if strict else (q[:, None] <= k)
    passes |= unordered & (np.isnan(q)[:, None] | np.isnan(k))
    passes = passes & there[0][:, None] & there[1] | free
    a, b = places_in_order(q, k, strict, unordered, (there[0], there[1]), free)
    np.testing.assert_array_equal(a[:, None] <= b, passes)
    found = ordered_places(a, b, np.array([0, 3, 50, 199]), 7)
    assert found is not None
    columns = found.rows(0, 4)
    for i, rows in enumerate(np.split(passes, [3, 50, 199])):
        kinds = np.zeros(columns.cols, np.int64)
        for run in range(columns.offsets[i], columns.offsets[i + 1]):
            kinds[columns.start[run] : columns.end[run]] = 1 + columns.whole[run]
        parts = np.split(rows, range(7, 200, 7), axis=1)
        np.testing.assert_array_equal(kinds, [int(p.any()) + int(p.all()) for p in parts])


@pytest.mark.parametrize(
    "text", ["min(a[q], k) < 3", "a[q] < a[(q + k) % 9]", "a[k] < 5", "x[q] < y[0]", "a[q] == a[k]"]
)
def test_what_is_in_no_order(text: str) -> None:
    """Sides that speak of both, or of one only."""
    assert order_of(lower_text(f"pattern p({_SIGNATURE}) {{ attend {text} }}")[0].mask) is None


@pytest.mark.parametrize(
    ("text", "kind", "most"),
    [
        ("a[q] <= a[k]", "random", 200_000),
        ("a[q] <= a[k]", "blocks", 4_000_000),
        ("a[k] < a[q]", "ranks", 200_000),
        ("causal on a & mark[k]", "ranks", 400_000),
        ("a[q] - a[k] < 5", "random", 200_000),
        ("~(x[q] < y[k])", "random", 1_000_000),
        ("abs(q - k) >= 1000 & a[q] <= a[k]", "random", 400_000),
        ("causal & (a[q] <= a[k] | mark[k])", "random", 400_000),
    ],
)
def test_orders_take_few_evaluations(text: str, kind: str, most: int) -> None:
    """At 65,536 tokens there are 262,144 tiles, and as many boxes were asked about: 6e6 evaluations."""
    n, spent = 1 << 16, [0]
    program, given = lower_text(f"pattern p({_SIGNATURE}) {{ attend {text} }}")[0], _Inputs(kind, n)
    binding = make_binding(program, n, n, **vars(given))
    make_plan(program, binding, watch=lambda done, _: spent.append(done))
    assert spent[-1] < most


@pytest.mark.parametrize("q_len", [1, 1 << 16])
def test_numbers_that_rise_are_left_to_boxes(q_len: int) -> None:
    """Which know them from their ends, and few rows of tiles, too."""
    program, n, spent = lower_text("pattern p(t: int[token]) { attend t[q] - t[k] < 5 & causal }")[0], 1 << 16, [0]
    t = np.sort(np.random.default_rng(0).integers(0, 1 << 20, n))
    make_plan(program, make_binding(program, q_len, n, t=t), watch=lambda done, _: spent.append(done))
    assert spent[-1] < 100_000

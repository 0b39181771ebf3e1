"""Attention in an order of the tokens that the plan chose is the reference's, gradients too."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from maskc.tiles import make_plan
from maskc.tiles.plan import TilePlan
from tests.cpu.calls import Case, assert_same, case, use


def laid_out(one: Case, layout: str, q_tile: int = 16, k_tile: int = 24) -> TilePlan:
    """The case with a plan in another order."""
    entry = one.entry
    plan = make_plan(entry.program, entry.binding, q_tile=q_tile, k_tile=k_tile, layout=layout)
    one.entry = dataclasses.replace(entry, made=plan)
    return plan


@pytest.mark.parametrize("way", ["rows", "tiles"])
@pytest.mark.parametrize(
    ("text", "n", "sizes", "layout"),
    [
        ("dilated(8, 8) & causal", 150, {}, "residues"),
        ("causal & (sliding_window(5) | strided(8))", 131, {}, "residues:8"),
        (
            "pattern p() over grid(y, x) { attend window(2, 2) on y & window(2, 2) on x }",
            204,
            {"y": 12, "x": 17},
            "auto",
        ),
        (
            "pattern p() over text ++ grid(y, x) { attend k in text | neighborhood(y, 3, dilation = 2) & same(x) }",
            209,
            {"text": 5, "y": 12, "x": 17},
            "blocks:4x4,4x6%2x1",
        ),
    ],
)
def test_orders_by_digits(
    text: str, n: int, sizes: dict[str, int], layout: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, way)
    one = case(text, n, **({"sizes": sizes} if sizes else {}))
    assert laid_out(one, layout).q_order.index is not None
    assert_same(one, with_lse=way == "rows")


@pytest.mark.parametrize("way", ["rows", "tiles"])
def test_sorted_documents_with_a_score(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, way)
    text = "pattern p(doc: int[token], bias: float[head]) { attend causal & same(doc); score s + bias[h] * (k - q) }"
    one = case(text, 150, floats={"bias": (4,)}, doc=np.random.default_rng(0).integers(0, 7, 150))
    assert laid_out(one, "sorted").q_order.name == "sorted:doc"
    assert_same(one, with_lse=way == "rows")


def test_fewer_queries_than_keys() -> None:
    one = case("dilated(8, 8)", 70, 150)
    assert laid_out(one, "residues:8", 16, 16).q_order.index is not None
    assert_same(one)


@pytest.mark.parametrize("layout", ["auto", "sorted", "residues:16"])
@pytest.mark.parametrize(
    "mask",
    ["same(doc) & see[q, k]", "(q - k) % 16 == 0 & see[q, k]", "same(doc) & any(i in 0..3: near[q, i] == k % 64)"],
)
def test_tables_by_query_and_something_else_beside_fewer_queries(mask: str, layout: str) -> None:
    """Their rows count from the first query given, and not from the first token."""
    rng = np.random.default_rng(0)
    see, near = rng.random((100, 230)) < 0.1, rng.integers(0, 64, (100, 3))
    text = f"pattern p(see: bool[q, k], near: int[q, 3], doc: int[token]) {{ attend {mask} }}"
    one = case(text, 100, 230, see=see, near=near, doc=rng.integers(0, 7, 230))
    laid_out(one, layout)
    assert_same(one)

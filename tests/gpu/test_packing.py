"""When heads that share a key head and a mask share a tile: where that leaves clearly less to compute."""

from __future__ import annotations

import pytest

from maskc.backends.triton.packing import forward_pack, shares_masks, work
from maskc.ir.binding import Binding
from maskc.lower import lower_text
from maskc.tiles import make_plan
from maskc.tiles.binding import bind
from maskc.tiles.plan import TilePlan


def bound(text: str, length: int, heads: int, **values: object) -> Binding:
    return bind(lower_text(text)[0], length, length, heads=heads, layer=0, batch=1, sizes={}, values=values)


def plan_of(text: str, binding: Binding, q_tile: int) -> TilePlan:
    return make_plan(lower_text(text)[0], binding, q_tile=q_tile, k_tile=128)


@pytest.mark.parametrize(
    ("text", "length", "group", "pack"),
    [
        ("window(64, 64)", 4096, 4, 4),  # two tiles of keys a row of tiles instead of three
        ("window(64, 64)", 4096, 6, 2),  # a power of 2
        ("window(64, 64)", 4096, 32, 8),  # at least 16 queries
        ("window(64, 64)", 4096, 1, 1),
        ("causal & window(128)", 4096, 4, 1),  # two tiles in both
        ("causal & window(4096)", 16384, 4, 1),
        ("causal", 16384, 4, 1),
        ("k >= 0", 4096, 4, 1),
        ("none", 4096, 4, 1),
    ],
)
def test_packs_where_it_pays(text: str, length: int, group: int, pack: int) -> None:
    binding = bound(text, length, 32 if group != 6 else 6)
    found = forward_pack(plan_of(text, binding, 128), group, lambda tile: plan_of(text, binding, tile))
    assert found == pack


def test_other_plans_are_made_only_where_they_may_pay() -> None:
    def never(q_tile: int) -> TilePlan:
        raise AssertionError(q_tile)

    assert forward_pack(plan_of("causal", bound("causal", 16384, 8), 128), 4, never) == 1


def test_work_counts_every_head() -> None:
    apart, partial = work(plan_of("causal", bound("causal", 256, 3), 128))
    assert partial == 3 * 2 * 1.5 * 128 * 128
    assert apart == partial + 3 * 128 * 128


def test_heads_with_masks_of_their_own_stay_apart() -> None:
    text = "pattern p(w: int[head]) { attend causal & q - k < w[h] }"
    assert shares_masks(plan_of(text, bound(text, 256, 4, w=[5, 5, 90, 90]), 64), 2)
    assert not shares_masks(plan_of(text, bound(text, 256, 4, w=[5, 90, 5, 90]), 64), 2)

"""Which heads and batch entries share a mask: against the masks themselves."""

from __future__ import annotations

import numpy as np
import pytest

import maskc
from maskc.ir.evaluate import dense
from maskc.tiles.binding import make_binding
from maskc.tiles.groups import members

SIGNATURE = "pattern p(n: int[batch], w: int[head], doc: int[token])"
BODIES = {
    "apart": "k < n[b] & q - k < w[h]",
    "together": "k < n[b] * w[h]",
    "cases": "k < n[b] * w[h] & any(i in 0..w[h]: k == i + b)",
    "no positions": "n[b] < w[h]",
    "inputs": "same(doc) & q - k < w[h]",
    "inputs together": "same(doc) & q - k < w[h] * n[b]",
    "neither": "causal",
}


@pytest.mark.parametrize("name", BODIES)
def test_members_share_a_mask_and_are_there_once(name: str) -> None:
    program, rng = maskc.parse(f"{SIGNATURE} {{ attend {BODIES[name]} }}").program, np.random.default_rng(0)
    for heads, batch in ((1, 1), (4, 1), (1, 5), (4, 5)):
        given = {"n": rng.integers(0, 3, batch), "w": rng.integers(0, 3, heads), "doc": rng.integers(0, 2, (batch, 4))}
        binding = make_binding(program, 4, 4, heads=heads, **given)
        found = members(program, binding)
        places = [(h, b) for products in found for hs, bs in products for h in hs for b in bs]
        assert sorted(places) == [(h, b) for h in range(heads) for b in range(batch)]
        assert [products[0][0][0] for products in found] == sorted(products[0][0][0] for products in found)
        for products in found:
            masks = {dense(program, binding, h, b).tobytes() for hs, bs in products for h in hs for b in bs}
            assert len(masks) == 1
    assert len(members(program, binding)) >= (1 if name == "neither" else 2)

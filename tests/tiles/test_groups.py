"""Which heads and batch entries share a mask: against the masks themselves."""

from __future__ import annotations

import numpy as np
import pytest

import maskc
from maskc.ir.evaluate import dense
from maskc.tiles.binding import make_binding
from maskc.tiles.groups import layers_alike, members

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


LAYERS = {
    "every fourth": ("layer % 4 == 3 | q - k < 2", [0, 0, 0, 3, 0, 0, 0, 3]),
    "a table": ("q - k < w[layer, h]", [0, 1, 0, 1, 0, 5, 0, 1]),
    "none": ("causal", [0] * 8),
    "each": ("q - k < layer", list(range(8))),
    "cases": ("any(i in 0..layer // 3: k == i)", [0, 0, 0, 3, 3, 3, 6, 6]),
    "no positions": ("layer < 4", [0, 0, 0, 0, 4, 4, 4, 4]),
    "within cases": ("any(i in 0..2: k == i + layer // 2)", [0, 0, 2, 2, 4, 4, 6, 6]),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_with_the_same_masks_are_told(name: str) -> None:
    text, expected = LAYERS[name]
    program = maskc.parse(f"pattern p(w: int[layer, head]) {{ attend {text} }}").program
    w = np.array([[1, 2], [2, 2], [1, 2], [2, 2], [1, 2], [3, 1], [1, 2], [2, 2]])
    binding = make_binding(program, 5, 5, heads=2, w=w)
    found = layers_alike(program, binding, 8)
    assert found == expected
    for layer, first in enumerate(found):
        masks = [[dense(program, binding.replace(layer=x), h, 0).tobytes() for h in (0, 1)] for x in (layer, first)]
        assert masks[0] == masks[1]

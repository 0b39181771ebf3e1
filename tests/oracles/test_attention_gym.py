"""The masks of attention-gym, and FlexAttention's block masks, against the prelude."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")
masks = pytest.importorskip("attn_gym.masks", reason="needs the extra `oracles`")

from torch.nn.attention.flex_attention import create_block_mask, create_mask  # noqa: E402

from maskc.tiles import make_plan  # noqa: E402
from maskc.tiles.binding import make_binding  # noqa: E402
from maskc.tiles.tiling import EMPTY, FULL, PARTIAL  # noqa: E402

from .patterns import Mask, expression, visible  # noqa: E402

pytestmark = pytest.mark.oracle
LENGTHS = [1, 5, 12, 33]


def theirs(mask_mod: Any, q_len: int, k_len: int | None = None) -> Mask:
    """(q_len, k_len) of a mask_mod, by FlexAttention's own create_mask."""
    mask: Mask = create_mask(mask_mod, 1, 1, q_len, k_len or q_len, device="cpu")[0, 0].numpy()
    return mask


lengths = pytest.mark.parametrize("n", LENGTHS)


@lengths
def test_causal(n: int) -> None:
    np.testing.assert_array_equal(visible(expression("causal"), n), theirs(masks.causal_mask, n))


@lengths
@pytest.mark.parametrize("window", [0, 1, 4, 40])
def test_sliding_window_has_one_key_more_there(n: int, window: int) -> None:
    expected = theirs(masks.generate_sliding_window(window), n)
    np.testing.assert_array_equal(visible(expression(f"sliding_window({window + 1})"), n), expected)
    np.testing.assert_array_equal(visible(expression(f"window({window})"), n), expected)


@lengths
@pytest.mark.parametrize("length", [1, 4, 12])
def test_prefix_lm(n: int, length: int) -> None:
    ours = visible(expression(f"causal | prefix({length})"), n)
    np.testing.assert_array_equal(ours, theirs(masks.generate_prefix_lm_mask(length), n))


@lengths
@pytest.mark.parametrize(("window", "rate"), [(4, 2), (6, 3), (5, 2), (3, 1)])
def test_dilated(n: int, window: int, rate: int) -> None:
    """Their window counts positions, ours keys on either side."""
    ours = visible(expression(f"dilated({window // rate}, {rate})"), n)
    np.testing.assert_array_equal(ours, theirs(masks.generate_dilated_sliding_window(window, rate), n))


def test_documents() -> None:
    lengths = [5, 1, 9, 3]
    offsets = masks.document_mask.length_to_offsets(lengths, "cpu")
    doc = np.repeat(np.arange(4), lengths)
    position = np.concatenate([np.arange(n) for n in lengths])
    for ours, mask in [("causal", masks.causal_mask), ("sliding_window(4)", masks.generate_sliding_window(3))]:
        expected = theirs(masks.generate_doc_mask_mod(mask, offsets), len(doc))
        program = expression(f"pattern p(doc: int[token]) {{ attend same(doc) & {ours} }}")
        np.testing.assert_array_equal(visible(program, len(doc), doc=doc), expected)
        program = expression(
            f"pattern p(doc: int[token], position: int[token]) {{ attend same(doc) & ({ours} on position) }}"
        )
        np.testing.assert_array_equal(visible(program, len(doc), doc=doc, position=position), expected)


def test_shared_prefix() -> None:
    lengths, owner = [3, 2, 2, 4, 2], [0, 0, 0, 3, 3]
    offsets = masks.document_mask.length_to_offsets(lengths, "cpu")
    doc = np.repeat(np.arange(5), lengths)
    program = expression(
        """
        pattern p(doc: int[token], prompt: int[token]) {
            attend causal & same(doc) | prompt[q] == doc[k] & different(doc)
        }
        """
    )
    expected = theirs(masks.shared_prefix.generate_shared_prefix_mask_mod(offsets, torch.tensor(owner)), len(doc))
    np.testing.assert_array_equal(visible(program, len(doc), doc=doc, prompt=np.array(owner)[doc]), expected)


@lengths
@pytest.mark.parametrize("radius", [0, 3])
def test_global_and_window(n: int, radius: int) -> None:
    chosen = np.arange(n) % 8 == 0
    mask_mod = masks.global_sliding_window.generate_global_sliding_window(radius, torch.from_numpy(chosen))
    program = expression(
        f"pattern p(is_global: bool[token]) {{ attend window({radius}, {radius}) | global(is_global) }}"
    )
    np.testing.assert_array_equal(visible(program, n, is_global=chosen), theirs(mask_mod, n))


@pytest.mark.parametrize("size", [7, 8, 11])
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_neighborhood(size: int, kernel: int) -> None:
    """On square canvases and for odd sizes, where theirs is right."""
    program = expression(
        f"pattern p over grid(y, x) {{ attend neighborhood(y, {kernel}) & neighborhood(x, {kernel}) }}"
    )
    ours = visible(program, size * size, sizes={"y": size, "x": size})
    np.testing.assert_array_equal(ours, theirs(masks.natten.generate_natten(size, size, kernel, kernel), size * size))


@pytest.mark.parametrize(("width", "height"), [(16, 24), (24, 16)])
def test_neighborhood_of_tokens_tile_by_tile(width: int, height: int) -> None:
    """A row is a sum of axes, and how many there are follows."""
    program = expression(
        """
        pattern p over grid(tile_y, tile_x, y, x) {
            attend neighborhood(tile_y * 8 + y, 7) & neighborhood(tile_x * 4 + x, 5)
        }
        """
    )
    ours = visible(program, width * height, sizes={"tile_x": width // 4, "y": 8, "x": 4})
    mask_mod = masks.natten.generate_tiled_natten(width, height, 5, 7, 4, 8)
    np.testing.assert_array_equal(ours, theirs(mask_mod, width * height))


def test_neighborhood_along_a_morton_curve() -> None:
    program = expression(
        """
        def even_bits(c: coord) = c % 2 + 2 * (c // 4 % 2) + 4 * (c // 16 % 2) + 8 * (c // 64 % 2)
        pattern p { attend neighborhood(even_bits(token), 7) & neighborhood(even_bits(token // 2), 5) }
        """
    )
    mask_mod = masks.natten.generate_morton_natten(16, 16, 7, 5)
    np.testing.assert_array_equal(visible(program, 256), theirs(mask_mod, 256))


@pytest.mark.parametrize(("canvas", "kernel", "tile"), [((8, 12), (4, 6), (2, 2)), ((12, 12), (6, 4), (2, 4))])
def test_sliding_tiles(canvas: tuple[int, int], kernel: tuple[int, int], tile: tuple[int, int]) -> None:
    """Tokens are laid out tile by tile, so a tile's number is a coordinate; 5 tokens of text follow."""
    (height, width), (kh, kw), (th, tw) = canvas, kernel, tile
    n, text = height * width, 5
    mask_mod = masks.sta.generate_sta_mask_mod_2d(canvas, kernel, tile, text)
    program = expression(
        f"""
        pattern p over grid(ty, tx, inside) ++ text {{
            attend q in text | k in text | neighborhood(ty, {kh // th}) & neighborhood(tx, {kw // tw})
        }}
        """
    )
    sizes = {"ty": height // th, "tx": width // tw, "inside": th * tw, "text": text}
    np.testing.assert_array_equal(visible(program, n + text, sizes=sizes), theirs(mask_mod, n + text))


def test_flamingo() -> None:
    """Text attends to the pictures whose interval it is in."""
    intervals = torch.tensor([[0, 7], [1, 7], [7, 12]])
    mask_mod = masks.flamingo.generate_vision_cross_attention_mask_mod(intervals, 3)
    program = expression(
        """
        pattern p(pictures: int = 3, start: int[pictures], stop: int[pictures]) over text -> grid(picture, patch) {
            attend start[picture[k]] <= q < stop[picture[k]]
        }
        """
    )
    ours = visible(
        program, 12, 9, sizes={"text": 12, "picture": 3, "patch": 3}, start=intervals[:, 0].numpy(),
        stop=intervals[:, 1].numpy(),
    )  # fmt: skip
    np.testing.assert_array_equal(ours, theirs(mask_mod, 12, 9))


@pytest.mark.parametrize("prefix", [0, 4])
def test_tree_of_drafts(prefix: int) -> None:
    """A drafted tree after a verified prefix; entering and leaving times say who descends from whom."""
    parents = [-1, 0, 1, 1, 3, 3, 0]
    ancestors = masks.jetspec.build_tree_ancestor_matrix(parents, device="cpu")
    mask_mod = masks.jetspec.generate_jetspec_tree_causal_mask_mod(prefix, ancestors)
    nodes = len(parents)
    # Depth first: 0, 1, 2, 3, 4, 5, 6; a node's exit is past its last descendant.
    enter, leave = np.array([0, 1, 2, 3, 4, 5, 6]), np.array([7, 6, 3, 6, 5, 6, 7])
    # The prefix is a chain above the root.
    enter = np.concatenate([np.arange(prefix), enter + prefix])
    leave = np.concatenate([np.full(prefix, prefix + nodes), leave + prefix])
    program = expression("pattern p(enter: int[token], leave: int[token]) { attend ancestor(enter, leave) }")
    ours = visible(program, nodes, prefix + nodes, enter=enter, leave=leave)
    np.testing.assert_array_equal(ours, theirs(mask_mod, nodes, prefix + nodes))


def test_block_diffusion() -> None:
    n, block = 12, 4
    program = expression(
        f"""
        pattern p over noised ++ clean {{
            let own = noised[q] // {block} == noised[k] // {block}
            let earlier = noised[q] // {block} > clean[k] // {block}
            let known = clean[q] // {block} >= clean[k] // {block}
            attend own | earlier | known
        }}
        """
    )
    mask_mod = masks.block_diffusion.generate_block_diffusion_mask(n, block)
    ours = visible(program, 2 * n, sizes={"noised": n, "clean": n})
    np.testing.assert_array_equal(ours, theirs(mask_mod, 2 * n))


@pytest.mark.parametrize(
    ("text", "mask_mod"),
    [
        ("causal", masks.causal_mask),
        ("sliding_window(100)", masks.generate_sliding_window(99)),
        ("causal | prefix(70)", masks.generate_prefix_lm_mask(70)),
        ("dilated(40, 2)", masks.generate_dilated_sliding_window(80, 2)),
    ],
)
@pytest.mark.parametrize("n", [256, 300])
def test_tiles_of_block_masks(text: str, mask_mod: Any, n: int) -> None:
    """create_block_mask sorts 64 x 64 tiles into full, partial and empty ones, as our plan does."""
    tile = 64
    block_mask = create_block_mask(mask_mod, 1, 1, n, n, device="cpu", BLOCK_SIZE=tile)
    program = expression(text)
    ours = visible(program, n)
    kinds = make_plan(program, make_binding(program, n, n), q_tile=tile, k_tile=tile).kinds()
    rows = -(-n // tile)
    for row in range(rows):
        full = set(_listed(block_mask.full_kv_num_blocks, block_mask.full_kv_indices, row))
        partial = set(_listed(block_mask.kv_num_blocks, block_mask.kv_indices, row))
        for column in range(rows):
            part = ours[row * tile : (row + 1) * tile, column * tile : (column + 1) * tile]
            # FlexAttention calls a ragged tile partial, even if all that is there is kept.
            whole = part.all() and part.shape == (tile, tile)
            assert (column in full) == whole, (row, column)
            assert (column in partial) == (part.any() and not whole), (row, column)
            assert kinds[row, column] == (FULL if part.all() else PARTIAL if part.any() else EMPTY), (row, column)


def _listed(counts: Any, indices: Any, row: int) -> list[int]:
    columns: list[int] = indices[0, 0, row, : counts[0, 0, row]].tolist()
    return columns

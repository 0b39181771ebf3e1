"""Models whose attention does not go through Transformers' attention interface.

Masks of Longformer and BigBird are read from their attention modules themselves: queries are 0, so
that every key kept has the same weight, and values are unit vectors, so that the output of a query
is the row of its weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")
transformers = pytest.importorskip("transformers", reason="needs the extra `oracles`")

from .patterns import Mask, model, visible, with_clause  # noqa: E402
from .recorder import tiny_model, tokens  # noqa: E402

pytestmark = pytest.mark.oracle


def hooked(net: Any, suffix: str, call: Any) -> list[dict[str, Any]]:
    """The keyword arguments that every module whose class name ends so is called with, during ``call``."""
    seen: list[dict[str, Any]] = []

    def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append({**kwargs, "module": module})

    modules = [m for m in net.modules() if type(m).__name__.endswith(suffix)]
    handles = [m.register_forward_pre_hook(note, with_kwargs=True) for m in modules]
    try:
        with torch.no_grad():
            call()
    finally:
        for handle in handles:
            handle.remove()
    assert len(seen) == len(modules) > 0
    return seen


def keeps(mask: Any) -> Mask:
    """Additive masks keep where they are 0."""
    return np.asarray(mask.numpy()) == 0


@pytest.mark.parametrize("padding", [0, 4])
@pytest.mark.parametrize(
    ("name", "config", "changes"),
    [
        ("falcon", "FalconConfig", {"num_hidden_layers": 2, "alibi": False, "head_dim": None}),
        ("bloom", "BloomConfig", {"n_layer": 2, "n_head": 4}),
        ("mpt", "MptConfig", {"n_layers": 2, "n_heads": 4, "d_model": 32, "max_seq_len": 64}),
    ],
)
def test_causal_models(name: str, config: str, changes: dict[str, Any], padding: int) -> None:
    n = 13
    net = tiny_model(getattr(transformers, config), "eager", **changes)
    real = torch.ones(1, n, dtype=torch.long)
    real[0, :padding] = 0
    calls = hooked(net, "Attention", lambda: net(input_ids=tokens(1, n), attention_mask=real, use_cache=False))
    assert len(calls) == 2
    program = with_clause(name, "real: bool[token]", "real[k]")
    rows = real[0].bool().numpy()
    for call in calls:
        mask = call["attention_mask"][0, 0]
        theirs = keeps(mask)
        ours = visible(program, n, heads=4, real=rows)
        np.testing.assert_array_equal(ours[rows], theirs[rows])


@pytest.mark.parametrize(("past", "new"), [(0, 11), (9, 1), (6, 5)])
def test_gpt_neo(past: int, new: int) -> None:
    """Its layers hold their window as a buffer, and join it with the padding when they attend."""
    n, window = past + new, 5
    net = tiny_model(
        transformers.GPTNeoConfig, "eager", num_layers=4, num_heads=4, attention_types=[[["global", "local"], 2]],
        window_size=window,
    )  # fmt: skip
    real = torch.ones(1, n, dtype=torch.long)
    real[0, :2] = 0
    cache = transformers.DynamicCache(config=net.config)
    ids = tokens(1, n)
    if past:
        with torch.no_grad():
            net(input_ids=ids[:, :past], attention_mask=real[:, :past], past_key_values=cache)
    calls = hooked(
        net,
        "SelfAttention",
        lambda: net(input_ids=ids[:, past:], attention_mask=real, past_key_values=cache),
    )
    program = with_clause("gpt_neo", "real: bool[token]", "real[k]")
    rows = real[0, past:].bool().numpy()
    for layer, call in enumerate(calls):
        buffer = call["module"].bias[0, 0, past:n, :n].numpy()
        theirs = buffer & keeps(call["attention_mask"][0, 0, :, :n])
        ours = visible(program, new, n, layer=layer, window=window, real=real[0].bool().numpy())
        np.testing.assert_array_equal(ours[rows], theirs[rows], f"layer {layer}")


def reading(module: Any, heads: int, n: int, *projections: str) -> Any:
    """Make the module show its weights; gives its input, (1, n, heads * n)."""
    with torch.no_grad():
        for name in projections:
            layer = getattr(module, name)
            layer.bias.zero_()
            layer.weight.copy_(torch.eye(heads * n) if "value" in name else torch.zeros(heads * n, heads * n))
    return torch.eye(n).repeat(1, heads)[None]


def rows_of(output: Any, heads: int, n: int) -> Any:
    """(heads, n, n) weights, from an output of shape (1, n, heads * n)."""
    return output[0].view(n, heads, n).transpose(0, 1).detach().numpy()


@pytest.mark.parametrize("window", [4, 8])
@pytest.mark.parametrize("seen", [[], [0], [0, 7, 20]], ids=["local", "one global", "three global"])
@pytest.mark.parametrize("padding", [0, 5])
def test_longformer(window: int, seen: list[int], padding: int) -> None:
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

    n, heads = 32, 2
    config = transformers.LongformerConfig(
        hidden_size=heads * n, num_attention_heads=heads, attention_window=[window], num_hidden_layers=1
    )
    module = LongformerSelfAttention(config, 0).eval()
    hidden = reading(module, heads, n, "query", "key", "value", "query_global", "key_global", "value_global")
    # -10000: padding; 0: local; 10000: global.
    kind = torch.zeros(1, n)
    kind[0, seen] = 10000.0
    kind[0, n - padding :] = -10000.0
    with torch.no_grad():
        output = module(
            hidden, kind, is_index_masked=kind < 0, is_index_global_attn=kind > 0, is_global_attn=bool(seen)
        )[0]
    is_global = (kind[0] > 0).numpy()
    real = n - padding
    for h, theirs in enumerate(rows_of(output, heads, n)):
        ours = visible(
            model("longformer"), n, heads=heads, h=h, attention_window=window, dilation=np.ones(heads, int),
            is_global=is_global,
        )  # fmt: skip
        ours = ours & (np.arange(n) < real)
        np.testing.assert_array_equal(ours[:real], theirs[:real] > 0)
        # Every key kept has the same weight: the module counts none of them twice.
        np.testing.assert_allclose(theirs[:real], ours[:real] / ours[:real].sum(1, keepdims=True), atol=1e-6)


def bigbird_weights(training: bool, blocks: int, heads: int, seed: int, drawn: int) -> Any:
    """(heads, n, n) weights of the block-sparse module, with blocks of 4 tokens."""
    from transformers.models.big_bird.modeling_big_bird import BigBirdBlockSparseAttention, BigBirdModel

    n = 4 * blocks
    config = transformers.BigBirdConfig(
        hidden_size=heads * n, num_attention_heads=heads, block_size=4, num_random_blocks=drawn,
        max_position_embeddings=n, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    module = BigBirdBlockSparseAttention(config, seed=seed).train(training)
    hidden = reading(module, heads, n, "query", "key", "value")
    blocked, band, rows, columns = BigBirdModel.create_masks_for_block_sparse_attn(torch.ones(1, n), 4)
    with torch.no_grad():
        output = module(hidden, band, rows, columns, blocked, blocked)[0]
    return rows_of(output, heads, n)


@pytest.mark.parametrize("blocks", [9, 12, 15])
def test_bigbird_without_random_blocks(blocks: int) -> None:
    """In evaluation its code draws block 0 every time, which is visible anyway."""
    for theirs in bigbird_weights(False, blocks, 1, 0, 3):
        ours = visible(model("bigbird"), 4 * blocks, block=4, random_blocks=0)
        np.testing.assert_array_equal(ours, theirs > 0)


@pytest.mark.parametrize(("blocks", "drawn"), [(9, 1), (12, 3), (15, 3)])
def test_bigbird_with_the_blocks_of_a_training_run(blocks: int, drawn: int) -> None:
    heads = 3
    weights = bigbird_weights(True, blocks, heads, 5, drawn)
    coarse = weights.reshape(heads, blocks, 4, blocks, 4).transpose(0, 1, 3, 2, 4).reshape(heads, blocks, blocks, 16)
    sees = (coarse > 0).any(-1)
    np.testing.assert_array_equal(sees, (coarse > 0).all(-1))
    bare = visible(model("bigbird"), blocks, block=1, random_blocks=0)
    table = np.zeros((heads, blocks, drawn), int)
    for h in range(heads):
        for row in range(1, blocks - 1):
            extra = np.flatnonzero(sees[h, row] & ~bare[row])
            assert len(extra) <= drawn
            table[h, row, : len(extra)] = extra
    assert table.any(), "the module drew no block at random"
    for h in range(heads):
        ours = visible(
            model("bigbird_drawn"), 4 * blocks, heads=heads, h=h, block=4, random_blocks=drawn, blocks=blocks,
            drawn=table,
        )  # fmt: skip
        np.testing.assert_array_equal(ours, weights[h] > 0)


def test_bigbird_draws_as_many_blocks_in_every_row() -> None:
    """Ours are drawn by a hash, so that only their number can be compared."""
    ours = visible(model("bigbird"), 40, block=1, random_blocks=3)
    bare = visible(model("bigbird"), 40, block=1, random_blocks=0)
    extra = (ours & ~bare).sum(1)
    assert not (bare & ~ours).any()
    assert extra.max() <= 3
    assert extra[1:-1].mean() > 2


@pytest.mark.parametrize(("height", "width", "window"), [(14, 14, 7), (12, 8, 4), (9, 6, 3), (6, 6, 6)])
def test_swin(height: int, width: int, window: int) -> None:
    """Its windows by its own shift, partition and mask, with the tokens' numbers in place of their features."""
    from transformers.models.swin.modeling_swin import SwinModel, window_partition

    config = transformers.SwinConfig(
        image_size=(height, width), patch_size=1, embed_dim=8, depths=[2], num_heads=[1], window_size=window
    )
    layers = SwinModel(config).encoder.layers[0].blocks
    n = height * width
    for layer, block in enumerate(layers):
        block.set_shift_and_window_size((height, width))
        size = block.window_size
        shifted = block.cyclic_shift(torch.arange(n).view(1, height, width, 1))
        ids = window_partition(shifted, size).view(-1, size * size).numpy()
        blocked = block.get_attn_mask(height, width, torch.float32, torch.device("cpu"))
        theirs = np.zeros((n, n), bool)
        for i, tokens_of_window in enumerate(ids):
            kept = np.ones((size**2,) * 2, bool) if blocked is None else keeps(blocked[i])
            theirs[np.ix_(tokens_of_window, tokens_of_window)] = kept
        # A window as large as the image is not shifted.
        odd = layer % 2 if window < min(height, width) else 0
        ours = visible(model("swin"), n, layer=odd, window_size=window, sizes={"y": height, "x": width})
        assert (block.shift_size > 0) == bool(odd)
        np.testing.assert_array_equal(ours, theirs, f"layer {layer}")

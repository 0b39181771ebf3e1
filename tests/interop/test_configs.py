"""Patterns read off configs are the masks that the models' own code builds."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest

import maskc
from maskc.interop.configs import parse_config, pattern_from_config, text_from_config
from maskc.interop.kinds import KINDS as CONFIG_KINDS
from maskc.ir.binding import Binding
from maskc.ir.evaluate import dense, evaluate
from maskc.ir.program import Program
from maskc.tiles.binding import make_binding

torch = pytest.importorskip("torch", reason="needs torch")
transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")

from oracles.recorder import NAME, TINY, recording, tiny_model, tokens  # noqa: E402

from .models import KINDS, config_of  # noqa: E402

pytestmark = pytest.mark.oracle

_W = {"sliding_window": 7}
#: More configs of the same kinds: class, number of layers, what is changed.
CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    **{kind: (name, 6 if "3" in kind or "4" in kind else 4, dict(own)) for kind, (name, own) in KINDS.items()},
    "mistral, no window": ("MistralConfig", 2, {"sliding_window": None}),
    "qwen2, switched off": ("Qwen2Config", 3, {"max_window_layers": 1}),
    "qwen3, listed": (
        "Qwen3Config",
        5,
        {
            **_W,
            "use_sliding_window": True,
            "layer_types": [f"{x}_attention" for x in ["full", "sliding", "sliding", "full", "full"]],
        },
    ),
    "gemma, both ways": ("GemmaConfig", 2, {"use_bidirectional_attention": True}),
    "gemma2, both ways": ("Gemma2Config", 2, {**_W, "use_bidirectional_attention": True}),
    "gemma2, uncapped": ("Gemma2Config", 3, {**_W, "attn_logit_softcapping": None}),
    "gemma3, both ways": (
        "Gemma3TextConfig",
        4,
        {"sliding_window": 9, "sliding_window_pattern": 2, "use_bidirectional_attention": True},
    ),
    "gemma3, both ways, itself alone": (
        "Gemma3TextConfig",
        2,
        {"sliding_window": 1, "sliding_window_pattern": 2, "use_bidirectional_attention": True},
    ),
    "gemma4, both ways": (
        "Gemma4TextConfig",
        6,
        {**dict(KINDS["gemma4"][1]), "sliding_window": 9, "use_bidirectional_attention": "all"},
    ),
    "gemma4, last is local": (
        "Gemma4TextConfig",
        3,
        {**dict(KINDS["gemma4"][1]), "layer_types": ["full_attention", "sliding_attention", "sliding_attention"]},
    ),
    "llama4, listed": ("Llama4TextConfig", 4, {**dict(KINDS["llama4"][1]), "no_rope_layers": [0, 1, 1, 0]}),
    "cohere2, older": ("Cohere2Config", 5, {**_W, "sliding_window_pattern": 2}),
    "smollm3, listed": ("SmolLM3Config", 4, {**_W, "use_sliding_window": True, "no_rope_layers": [0, 1, 0, 1]}),
    "smollm3, switched off": ("SmolLM3Config", 4, {}),
    "bert": ("BertConfig", 2, {}),
    "bert, decoder": ("BertConfig", 2, {"is_decoder": True}),
    "modernbert": ("ModernBertConfig", 5, {"local_attention": 8}),
    "modernbert, older": ("ModernBertConfig", 5, {"local_attention": 6, "global_attn_every_n_layers": 2}),
}
cases = pytest.mark.parametrize("case", CASES)


def scores_of(program: Program, binding: Binding, h: int) -> Any:
    """What a head adds to dot products."""
    n = binding.k_len
    at: dict[str, Any] = {"q": np.arange(n)[:, None], "k": np.arange(n)[None], "h": h, "b": 0, "s": np.zeros((n, n))}
    return evaluate(program.score, binding, params=program.params, **at)


@cache
def build(case: str) -> Any:
    name, layers, changes = CASES[case]
    return tiny_model(getattr(transformers, name), num_hidden_layers=layers, **changes)


@cache
def program_of(case: str) -> Any:
    return pattern_from_config(build(case).config).program


def visible(
    program: Any, n: int, k: int | None = None, *, layer: int = 0, h: int = 0, b: int = 0, **values: Any
) -> Any:
    k = n if k is None else k
    binding = make_binding(program, n, k, heads=4, layer=layer, **values)
    return dense(program, binding, h, b, (binding.offset, k), (0, k))


def inputs(case: str) -> dict[str, Any]:
    return {"sink_logit": np.zeros(4)} if case == "gpt_oss" else {}


def compare(case: str, calls: Any, n: int, k: int, rows: Any = slice(None), real: Any = None) -> None:
    """Every layer's recorded mask is the pattern's, where keys are real."""
    assert [c.layer for c in calls] == list(range(CASES[case][1]))
    for call in calls:
        values = inputs(case)
        ours = visible(program_of(case), n, k, layer=call.layer, **values)
        if real is not None:
            ours = ours & real
        start, count = call.kv_offset, call.mask.shape[-1]
        np.testing.assert_array_equal(ours[rows, start : start + count], call.mask[0, 0, rows], f"layer {call.layer}")
        assert not ours[rows, :start].any()


@cases
@pytest.mark.parametrize("n", [8, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 7, 23, 64))])
def test_a_whole_sequence(case: str, n: int) -> None:
    with recording() as calls:
        build(case)(input_ids=tokens(1, n))
    compare(case, calls, n, n)


@cases
def test_padding_on_the_right(case: str) -> None:
    n, length = 23, 17
    real = np.arange(n) < length
    with recording() as calls:
        build(case)(input_ids=tokens(1, n), attention_mask=torch.from_numpy(real.astype(np.int64))[None])
    compare(case, calls, n, n, slice(length), real)


@pytest.mark.parametrize(
    "case", [c for c in CASES if not c.startswith(("bert", "modernbert")) and "both ways" not in c]
)
@pytest.mark.parametrize(
    ("past", "new", "padding"),
    [(15, 1, 4), *(pytest.param(*x, marks=pytest.mark.slow) for x in ((15, 1, 0), (6, 5, 0), (6, 5, 4)))],
)
def test_decoding(case: str, past: int, new: int, padding: int) -> None:
    if case.startswith("llama4"):
        padding = 0  # chunks are counted from the first real token: see test_models
    net = build(case)
    cache = transformers.DynamicCache(config=net.config)
    real = np.arange(past + new) >= padding
    mask = torch.from_numpy(real.astype(np.int64))[None]
    ids = tokens(1, past + new)
    with recording() as calls:
        net(input_ids=ids[:, :past], attention_mask=mask[:, :past], past_key_values=cache)
        calls.clear()
        net(input_ids=ids[:, past:], attention_mask=mask, past_key_values=cache)
    compare(case, calls, new, past + new, real[past:], real)


def test_t5() -> None:
    config = transformers.T5Config(
        d_model=32, d_kv=8, d_ff=32, num_heads=4, num_layers=2, vocab_size=64, relative_attention_num_buckets=8,
        relative_attention_max_distance=20, decoder_start_token_id=0,
    )  # fmt: skip
    from oracles.test_scores import t5_bias

    n = 60
    for name in ("encoder", "decoder"):
        program = pattern_from_config(config, f"t5_{name}").program
        learned, theirs = t5_bias(name == "decoder", n, 8, 20)
        keep = visible(program, n, bias=learned)
        np.testing.assert_array_equal(keep, np.tril(np.ones((n, n), bool)) if name == "decoder" else np.ones((n, n)))
        binding = make_binding(program, n, n, heads=4, bias=learned)
        for h in range(4):
            np.testing.assert_array_equal(scores_of(program, binding, h)[keep], theirs[h][keep])


def test_pictures_and_prefixes() -> None:
    """The patterns of examples/models, which are compared with the models' code, with the config's numbers."""
    from oracles.patterns import model

    n, image = 23, np.array([-1, -1, 0, 0, 0, 0, 1, 1, 1, -1, -1, -1, *[2] * 10, -1])
    gemma3 = transformers.Gemma3Config(text_config={**TINY, "num_hidden_layers": 6, "sliding_window": 7})
    ours = pattern_from_config(gemma3).program
    for layer in range(6):
        theirs = visible(model("gemma3_vision"), n, layer=layer, image=image, window=7)
        np.testing.assert_array_equal(visible(ours, n, layer=layer, image=image), theirs)
    paligemma = pattern_from_config(transformers.PaliGemmaConfig()).program
    theirs = visible(model("paligemma"), n, prefix_length=np.array([9]))
    np.testing.assert_array_equal(visible(paligemma, n, prefix_length=np.array([9])), theirs)


def test_gemma4_with_pictures() -> None:
    from transformers.models.gemma4.modeling_gemma4 import create_masks_for_vision_model

    tiny_model(transformers.GemmaConfig, num_hidden_layers=1)  # registers the recorder
    text = config_of("gemma4", 6, use_bidirectional_attention="vision")
    image = np.array([-1, -1, 0, 0, 0, 0, 1, 1, 1, -1, -1, -1, *[2] * 10, -1])
    n = len(image)
    program = pattern_from_config({"model_type": "gemma4", "text_config": text.to_dict()}).program
    text._attn_implementation = NAME
    with recording():
        masks = create_masks_for_vision_model(
            text, inputs_embeds=torch.zeros(1, n, 32), attention_mask=torch.ones(1, n, dtype=torch.long),
            past_key_values=None, position_ids=torch.arange(n)[None], block_sequence_ids=torch.from_numpy(image)[None],
        )  # fmt: skip
    for layer, kind in enumerate(text.layer_types):
        ours = visible(program, n, layer=layer, image=image)
        np.testing.assert_array_equal(ours, masks[kind][0, 0].numpy(), f"layer {layer}")


#: Kinds whose attention is their own code: the pattern of examples/models, which is compared with that code,
#: with these arguments, is what the config means.
OWN: list[tuple[str, str, dict[str, Any], str, dict[str, Any]]] = [
    ("bloom", "BloomConfig", {}, "bloom", {}),
    ("mpt", "MptConfig", {"attn_config": {"alibi_bias_max": 16}}, "mpt", {"bias_max": 16.0}),
    ("falcon", "FalconConfig", {}, "falcon", {}),
    (
        "falcon",
        "FalconConfig",
        {"alibi": True, "hidden_size": 128, "num_attention_heads": 4},
        "falcon_rw",
        {"head_dim": 32},
    ),
    (
        "gpt_neo",
        "GPTNeoConfig",
        {"num_layers": 4, "attention_types": [[["global", "local"], 2]], "window_size": 5},
        "gpt_neo",
        {"window": 5},
    ),
    (
        "bigbird",
        "BigBirdConfig",
        {"block_size": 4, "num_random_blocks": 2},
        "bigbird",
        {"block": 4, "random_blocks": 2},
    ),
    (
        "longformer",
        "LongformerConfig",
        {"attention_window": 8, "num_hidden_layers": 2},
        "longformer",
        {"attention_window": 8, "dilation": [1] * 6},
    ),
    (
        "led_encoder",
        "LEDConfig",
        {"attention_window": 8, "encoder_layers": 2},
        "longformer",
        {"attention_window": 8, "dilation": [1] * 6},
    ),
]


@pytest.mark.parametrize(
    ("name", "config", "changes", "example", "arguments"), OWN, ids=lambda x: x if isinstance(x, str) else ""
)
def test_kinds_with_their_own_attention(name: str, config: str, changes: Any, example: str, arguments: Any) -> None:
    from oracles.patterns import model

    n, heads = 45, 6
    ours, theirs = pattern_from_config(getattr(transformers, config)(**changes), name).program, model(example)
    more = {"is_global": np.arange(n) % 20 == 3} if "is_global" in {p.name for p in ours.params} else {}
    masks, scores = [], []
    for program, values in ((ours, more), (theirs, {**more, **arguments})):
        for layer in range(4):
            binding = make_binding(program, n, n, heads=heads, layer=layer, **values)
            for h in range(heads):
                masks.append(dense(program, binding, h, 0))
                scores.append(scores_of(program, binding, h))
    half = len(masks) // 2
    np.testing.assert_array_equal(masks[:half], masks[half:])
    np.testing.assert_allclose(np.array(scores[:half]), np.array(scores[half:]))


def test_swin() -> None:
    """Windows of every stage, with the shifts that the model's own blocks choose."""
    from transformers.models.swin.modeling_swin import SwinModel

    config = transformers.SwinConfig(
        image_size=48, patch_size=2, embed_dim=8, depths=[2, 1, 3], num_heads=[1, 1, 1], window_size=6
    )
    program = pattern_from_config(config).program
    from oracles.patterns import model

    layer, seen = 0, set()
    for stage in SwinModel(config).encoder.layers:
        for block in stage.blocks:
            side = block.input_resolution[0]
            block.set_shift_and_window_size((side, side))
            sizes = {"y": side, "x": side}
            theirs = visible(
                model("swin"), side**2, layer=int(block.shift_size > 0), window_size=block.window_size, sizes=sizes
            )
            np.testing.assert_array_equal(visible(program, side**2, layer=layer, sizes=sizes), theirs)
            seen.add((side, block.shift_size))
            layer += 1
    assert seen == {(24, 0), (24, 3), (12, 0), (6, 0)}


@pytest.mark.parametrize("kind", CONFIG_KINDS, ids=lambda k: k.names[0])
def test_what_a_file_leaves_out_has_the_default_of_its_class(kind: Any) -> None:
    for name in kind.names:
        config = transformers.AutoConfig.for_model(name)
        assert text_from_config({"model_type": name, **_needed(config)}) == text_from_config(config)
        reread = parse_config(config.to_json_string())
        assert text_from_config(reread) == text_from_config(config)


def _needed(config: Any) -> dict[str, Any]:
    """What every file of composite models holds."""
    return {"text_config": config.text_config.to_dict()} if hasattr(config, "text_config") else {}


def test_a_short_text_for_every_order_of_layers() -> None:
    full, local = "full_attention", "sliding_attention"
    for types in (
        [full, local] * 3,
        [full, local, local] * 2,
        [full],
        [full, local, local, full, full],
        [local] * 5 + [full],
    ):
        config = {"model_type": "olmo3", "num_hidden_layers": len(types), "layer_types": types, "sliding_window": 3}
        program = maskc.parse(text_from_config(config)).program
        for layer, kind in enumerate(types):
            kept = int(visible(program, 9, layer=layer).sum())
            assert kept == (45 if kind == full else 3 * 9 - 3), (types, layer)


@pytest.mark.parametrize("nested", [False, True])
def test_the_command_prints_the_pattern_that_a_config_holds(nested: bool, tmp_path: Any, capsys: Any) -> None:
    """Not that of the model's own code, which it replaces."""
    from maskc.cli import main

    text = "pattern p(w: int = 4, mode: {near, far} = near, t: int[head]) over grid(y, x) {\n"
    text += "    attend match mode { near: sliding_window(w); far: sliding_window(t[h]) }\n}\n"
    stored = maskc.parse(text).with_args(w=9, mode="far", t=[1, 2])
    values = config_of("gemma3").to_dict()
    part = values["text_config"] = dict(values) if nested else {}
    (part if nested else values)["attention_pattern"] = {**stored.spec(), "sizes": {"x": 32}}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values))
    with pytest.raises(SystemExit) as ended:
        main(["import", str(path)])
    assert ended.value.code == 0
    printed = capsys.readouterr()
    found = maskc.parse(printed.out)
    assert [None if p.default is None else p.default.value for p in found.program.params] == [9, 1, None]
    assert found.program.mask is stored.program.mask
    assert "'t'" in printed.err
    assert "--size x=32" in printed.err


def test_the_command_prints_both_sides_and_refuses_what_was_edited(tmp_path: Any, capsys: Any) -> None:
    from maskc.cli import main

    spec, path = maskc.parse("window(3, 3)").spec(), tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "t5", "attention_pattern": {"encoder": spec, "decoder": spec}}))
    with pytest.raises(SystemExit):
        main(["import", str(path), "-o", str(tmp_path / "out.mask")])
    assert maskc.load(tmp_path / "out.mask", name="decoder") == maskc.parse("window(3, 3)")
    assert maskc.load(tmp_path / "out.mask", name="encoder").name == "encoder"
    capsys.readouterr()
    for wrong, code in (({**spec, "pattern": "causal"}, "E603"), (3, "E604"), ({"decoder": [1]}, "E604")):
        path.write_text(json.dumps({"model_type": "t5", "attention_pattern": wrong}))
        with pytest.raises(SystemExit) as ended:
            main(["import", str(path)])
        assert ended.value.code == 1
        assert code in capsys.readouterr().err


def test_the_command(tmp_path: Any, capsys: Any) -> None:
    from maskc.cli import main

    path, out = tmp_path / "config.json", tmp_path / "out.mask"
    path.write_text(json.dumps(config_of("gemma3").to_dict()))
    with pytest.raises(SystemExit) as ended:
        main(["import", str(path), "-o", str(out)])
    assert ended.value.code == 0
    assert maskc.load(out) == pattern_from_config(config_of("gemma3"))
    path.write_text('{"model_type": "nobody\'s"}')
    with pytest.raises(SystemExit) as ended:
        main(["import", str(path)])
    assert ended.value.code == 1
    assert "nobody's" in capsys.readouterr().err

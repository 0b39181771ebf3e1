"""A config's ``attention_pattern`` in running models: what it means, in batches, over caches, and when it is stored."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
import subprocess
import sys
from typing import Any

import pytest

import maskc

torch = pytest.importorskip("torch", reason="needs torch")
transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")

from maskc.interop.transformers import pattern_from_config, set_pattern  # noqa: E402

from .models import TINY, N, W, config_of, left_padded, model_of, tokens  # noqa: E402

#: Depends on the absolute position, on the layer and on the head.
SINKS = """
pattern streaming(window: int(1..) = 6, first: int(0..) = 2) {
    let near = match layer % 2 { 0: sliding_window(window); else: sliding_window(2 * window) }
    attend causal & match h { 0: all; else: near | sinks(first) | chunk(5) }
}
"""


def with_pattern(pattern: Any, kind: str = "llama", **changes: Any) -> Any:
    config = config_of(kind, **changes)
    set_pattern(config, pattern)
    return model_of(config)


def dense(pattern: Any, layer: int, n: int = N, **values: Any) -> torch.Tensor:
    return torch.from_numpy(maskc.dense_mask(pattern, n, n, heads=4, layer=layer, **values))


def eager_with(pattern: Any, ids: Any, kind: str = "llama", **values: Any) -> torch.Tensor:
    """Eager logits with the pattern as dense masks, one for each layer, put into its attention modules."""
    net = model_of(config_of(kind), "eager")
    lowest = torch.finfo(torch.float32).min

    def replace(module: Any, args: Any, kwargs: Any) -> Any:
        mask = dense(pattern, module.layer_idx, ids.shape[1], **values)
        return args, {**kwargs, "attention_mask": torch.zeros(mask.shape).masked_fill(~mask, lowest)}

    for layer in net.model.layers:
        layer.self_attn.register_forward_pre_hook(replace, with_kwargs=True)
    with torch.no_grad():
        return net(input_ids=ids, use_cache=False).logits


@pytest.mark.parametrize("pattern", [SINKS, "sliding_window(4)", "causal & (q - k) % 3 == 0", "window(3, 3)"])
def test_the_model_runs_the_pattern(pattern: str) -> None:
    with torch.no_grad():
        ours = with_pattern(pattern)(input_ids=tokens(), use_cache=False).logits
    torch.testing.assert_close(ours, eager_with(pattern, tokens()), atol=1e-5, rtol=0)


def test_a_text_means_the_same_with_padding_and_among_others() -> None:
    """Sinks and chunks are counted from the start of the text, wherever it lies in its row."""
    net, ids, padding = with_pattern(SINKS), tokens(1), 9
    text = ids[:, padding:]
    with torch.no_grad():
        alone = net(input_ids=text).logits[0]
        for side in ("left", "right"):
            mask = left_padded(padding) if side == "left" else left_padded(padding).flip(1)
            row = ids if side == "left" else torch.cat([text, ids[:, :padding]], 1)
            padded = net(input_ids=row.expand(2, -1), attention_mask=mask).logits[0]
            torch.testing.assert_close(padded[mask[0].bool()], alone, atol=1e-5, rtol=0)
        positions = torch.cat([torch.arange(padding), torch.arange(N - padding)])[None]
        packed = net(input_ids=ids, position_ids=positions, use_cache=False).logits[0]
    torch.testing.assert_close(packed[padding:], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("static", [False, True])
def test_generating_is_the_same_step_by_step_and_at_once(static: bool) -> None:
    net = with_pattern(SINKS)
    how = {"cache_implementation": "static"} if static else {}
    mask = left_padded()
    out = net.generate(tokens(), attention_mask=mask, max_new_tokens=8, do_sample=False, eos_token_id=None, **how)
    whole = torch.cat([mask, torch.ones(2, 8, dtype=torch.long)], 1)
    with torch.no_grad():
        at_once = net(input_ids=out, attention_mask=whole, use_cache=False).logits.argmax(-1)
    assert torch.equal(at_once[:, N - 1 : -1], out[:, N:])


def test_a_cache_that_drops_what_the_pattern_keeps_is_refused() -> None:
    ids = tokens(1)
    net = with_pattern("sliding_window(5) | sinks(2)", "mistral")
    cache = transformers.DynamicCache(config=net.config)
    with torch.no_grad():
        net(input_ids=ids[:, :12], past_key_values=cache)
    with torch.no_grad(), pytest.raises(maskc.MaskcError, match="the cache has dropped") as raised:
        net(input_ids=ids[:, 12:], past_key_values=cache)
    assert raised.value.codes == ("E702",)
    # A narrower window than the cache's is no problem, and a cache that keeps all keys is none either.
    for pattern, past in (("sliding_window(5)", True), ("sliding_window(5) | sinks(2)", False)):
        net = with_pattern(pattern, "mistral")
        cache = transformers.DynamicCache(config=net.config) if past else transformers.DynamicCache()
        with torch.no_grad():
            net(input_ids=ids[:, :12], past_key_values=cache)
            steps = net(input_ids=ids[:, 12:], past_key_values=cache).logits
            whole = net(input_ids=ids, use_cache=False).logits
        torch.testing.assert_close(steps, whole[:, 12:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["gemma2", "gpt_oss"])
def test_what_the_model_adds_to_scores_stays(kind: str) -> None:
    """Caps and learned sinks hold with another mask, and are not applied twice with the config's own pattern."""
    config = config_of(kind)
    eager = model_of(config, "eager")
    with torch.no_grad():
        implied = eager(input_ids=tokens()).logits
        explicit = with_pattern(pattern_from_config(config), kind)(input_ids=tokens()).logits
        mask_only = with_pattern(f"match layer % 2 {{ 0: sliding_window({W}); else: causal }}", kind)(
            input_ids=tokens()
        ).logits
    torch.testing.assert_close(explicit, implied, atol=1e-5, rtol=0)
    torch.testing.assert_close(mask_only, implied, atol=1e-5, rtol=0)


def test_inputs_of_the_pattern_come_with_the_call() -> None:
    pattern = "pattern p(image: int[token]) { attend causal | same(image) & image[q] >= 0 }"
    image = torch.tensor([-1] * 4 + [0] * 6 + [-1] * (N - 10))
    with torch.no_grad():
        ours = with_pattern(pattern)(input_ids=tokens(), use_cache=False, maskc_inputs={"image": image}).logits
        with pytest.raises(maskc.MaskcError, match="needs the input 'image'"):
            with_pattern(pattern)(input_ids=tokens(), use_cache=False)
        with pytest.raises(maskc.MaskcError, match="does not declare"):
            with_pattern("causal")(input_ids=tokens(), use_cache=False, maskc_inputs={"image": image})
    torch.testing.assert_close(ours, eager_with(pattern, tokens(), image=image.numpy()), atol=1e-5, rtol=0)


def test_encoder_and_decoder_have_a_pattern_each() -> None:
    config = transformers.BartConfig(
        d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=32, decoder_ffn_dim=32, vocab_size=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with pytest.raises(maskc.MaskcError, match="an encoder and a decoder"):
        set_pattern(config, "causal")
    found = {}
    specs = {
        "none": None,
        "same": {"encoder": maskc.parse("all").spec()},
        "window": {"encoder": maskc.parse("window(1, 1)").spec()},
        "first": {"decoder": maskc.parse("sinks(1)").spec()},
    }
    for name, spec in specs.items():
        config.attention_pattern = spec
        torch.manual_seed(0)
        net = transformers.AutoModel.from_config(copy.deepcopy(config), attn_implementation="maskc").eval()
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.3) if parameter.ndim > 1 else None
        with torch.no_grad():
            out = net(input_ids=tokens(1), decoder_input_ids=tokens(1, 7))
        found[name] = out.encoder_last_hidden_state, out.last_hidden_state
    torch.testing.assert_close(found["same"], found["none"])
    assert (found["window"][0] - found["none"][0]).abs().max() > 1e-2
    torch.testing.assert_close(found["first"][0], found["none"][0])
    assert (found["first"][1] - found["none"][1]).abs().max() > 1e-2


# Storing


def test_a_config_with_a_pattern_survives_every_way_of_storing_it(tmp_path: Any) -> None:
    import yaml

    pattern = maskc.parse(SINKS).with_args(window=3)
    config = config_of("llama")
    set_pattern(config, pattern)
    config.save_pretrained(tmp_path)
    whole = config.to_dict()
    for stored in (
        json.loads(json.dumps(whole)),
        yaml.safe_load(yaml.safe_dump(json.loads(config.to_json_string()))),
        pickle.loads(pickle.dumps(config)).to_dict(),
        copy.deepcopy(config).to_dict(),
        transformers.AutoConfig.from_pretrained(tmp_path).to_dict(),
    ):
        back = maskc.from_spec(stored["attention_pattern"])
        assert back == pattern
        assert back.spec()["hash"] == pattern.spec()["hash"] == stored["attention_pattern"]["hash"]


def test_a_model_comes_back_with_its_pattern(tmp_path: Any) -> None:
    net = with_pattern(SINKS)
    net.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)  # without saying which implementation
    assert again.config._attn_implementation == "maskc"
    with torch.no_grad():
        ours, theirs = (m(input_ids=tokens(), use_cache=False).logits for m in (net, again.eval()))
    assert torch.equal(ours, theirs)
    # And once more: the config that was read says it, too.
    again.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["attn_implementation"] == "maskc"


def test_a_config_that_is_saved_again_still_says_it(tmp_path: Any) -> None:
    """Without a model, without running: Transformers takes the field away when it reads a config."""
    config = config_of("llama", layers=1)
    set_pattern(config, "sliding_window(3)")
    folders = [tmp_path / str(i) for i in range(3)]
    config.save_pretrained(folders[0])
    for before, after in itertools.pairwise(folders):
        transformers.AutoConfig.from_pretrained(before).save_pretrained(after)
    said = json.loads((folders[-1] / "config.json").read_text())
    assert said["attn_implementation"] == "maskc"
    # Nor is the field needed where maskc is registered: the pattern itself chooses.
    del said["attn_implementation"]
    net = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**said))
    assert net.config._attn_implementation == "maskc"


def test_setting_the_field_chooses_the_implementation() -> None:
    config = config_of("llama", layers=1)
    config.attention_pattern = maskc.parse("sliding_window(3)").spec()
    net = transformers.AutoModelForCausalLM.from_config(config)
    assert net.config._attn_implementation == "maskc"
    assert config.to_dict()["attn_implementation"] == "maskc"
    del config.attention_pattern
    assert not hasattr(config, "attention_pattern")


def test_asking_for_another_implementation_by_name_warns(tmp_path: Any) -> None:
    with_pattern("sliding_window(3)", layers=1).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="attn_implementation='eager' was asked for, which does not run it"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")


def test_a_model_of_several_configs_comes_back_with_its_pattern(tmp_path: Any) -> None:
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.Gemma3Config(
        text_config=config_of("gemma3").to_dict(), vision_config={**vision, "image_size": 28, "patch_size": 14}
    )
    set_pattern(config, "sliding_window(3)")
    config.save_pretrained(tmp_path / "first")
    transformers.AutoConfig.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "again")
    read = transformers.AutoConfig.from_pretrained(tmp_path / "again")
    assert read._attn_implementation == read.text_config._attn_implementation == "maskc"
    assert maskc.from_spec(read.text_config.attention_pattern) == maskc.parse("sliding_window(3)")


def test_extents_come_with_the_field(tmp_path: Any) -> None:
    """A pattern over a grid needs all extents but one; the last follows from the length."""
    pattern = "pattern near over grid(y, x) { attend window(1, 1) on y & window(1, 1) on x }"
    config = config_of("llama")
    set_pattern(config, pattern, sizes={"x": 4})
    config.save_pretrained(tmp_path)
    net = model_of(transformers.AutoConfig.from_pretrained(tmp_path))
    for rows in (3, 6):
        ids = tokens(1, 4 * rows)
        with torch.no_grad():
            ours = net(input_ids=ids, use_cache=False).logits
        torch.testing.assert_close(ours, eager_with(pattern, ids, sizes={"x": 4}), atol=1e-5, rtol=0)
    with pytest.raises(maskc.MaskcError, match="no y fits"):
        net(input_ids=tokens(1, 10), use_cache=False)
    with pytest.raises(maskc.MaskcError, match="no segment or axis 'z'"):
        set_pattern(config, pattern, sizes={"z": 4})


def test_a_process_without_maskc_does_not_lose_the_pattern_silently(tmp_path: Any) -> None:
    with_pattern("sliding_window(3)", layers=1).save_pretrained(tmp_path)
    code = f"import transformers; transformers.AutoModelForCausalLM.from_pretrained({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert 'attn_implementation="maskc"' in done.stderr


def test_a_tampered_pattern_is_refused() -> None:
    config = config_of("llama", layers=1)
    set_pattern(config, "sliding_window(3)")
    config.attention_pattern["pattern"] = config.attention_pattern["pattern"].replace("3", "5")
    with pytest.raises(maskc.MaskcError) as raised:
        model_of(config)(input_ids=tokens())
    assert raised.value.codes == ("E603",)


# What cannot be honoured


@pytest.fixture(scope="module")
def plain() -> Any:
    return model_of(config_of("llama", layers=1))


def refused(match: str) -> Any:
    return pytest.raises(maskc.MaskcError, match=match)


def test_a_mask_that_is_made_already_is_refused(plain: Any) -> None:
    with refused(r"made already: Tensor \(2, 1, 26, 26\)"):
        plain(input_ids=tokens(), attention_mask=torch.zeros(2, 1, N, N))


def test_weights_of_attention_are_refused(plain: Any) -> None:
    with pytest.raises((maskc.MaskcError, ValueError), match="output_attentions"):
        plain(input_ids=tokens(), output_attentions=True)


def test_arguments_that_nobody_knows_are_refused(plain: Any) -> None:
    with refused("the argument 'segment_bias'"):
        plain(input_ids=tokens(), segment_bias=torch.ones(3))
    with refused("packed by cu_seq_lens alone"):
        plain(input_ids=tokens(), cu_seq_lens_q=torch.tensor([0, 5, N]))


@pytest.mark.parametrize(
    ("kind", "name", "sizes"),
    [
        ("Llama", "attention_dropout", TINY),
        ("Bert", "attention_probs_dropout_prob", TINY),
        ("GPT2", "attn_pdrop", {"n_embd": 32, "n_head": 4, "vocab_size": 64}),
        ("ModernBert", "attention_dropout", {**TINY, "cls_token_id": 1, "sep_token_id": 2}),
    ],
)
def test_dropout_is_refused_with_a_remedy_that_works(
    kind: str, name: str, sizes: dict[str, Any], tmp_path: Any
) -> None:
    from maskc.interop.transformers import register

    register()
    config = getattr(transformers, f"{kind}Config")(**{**sizes, "num_hidden_layers": 1, name: 0.1})
    net = transformers.AutoModel.from_config(config, attn_implementation="maskc")
    net.eval()(input_ids=tokens())
    with refused(rf"drops attention weights out \(0.1\)(.|\n)*from_pretrained\(path, {name}=0.0\)"):
        net.train()(input_ids=tokens())
    net.save_pretrained(tmp_path)
    again = transformers.AutoModel.from_pretrained(tmp_path, attn_implementation="maskc", **{name: 0.0}).train()
    again(input_ids=tokens()).last_hidden_state.sum().backward()


_SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 64}
OWN: dict[str, dict[str, Any]] = {
    "Bloom": {"hidden_size": 32, "n_layer": 1, "n_head": 4, "vocab_size": 64},
    "Mpt": {"d_model": 32, "n_layers": 1, "n_heads": 4, "vocab_size": 64},
    "Falcon": _SMALL,
    "GPTNeo": {
        "hidden_size": 32, "num_layers": 1, "num_heads": 4, "attention_types": [[["global"], 1]], "vocab_size": 64,
    },
    "Longformer": {**_SMALL, "attention_window": 4},
    "LED": {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "attention_window": 4, "vocab_size": 64},
    "BigBird": _SMALL,
}  # fmt: skip


@pytest.mark.parametrize("kind", OWN)
def test_models_with_their_own_attention_are_refused(kind: str) -> None:
    """By themselves, by their configs, and when a config that holds a pattern is read."""
    made = getattr(transformers, f"{kind}Config")(**OWN[kind])
    net = getattr(transformers, f"{kind}Model")(copy.deepcopy(made))
    stored = {**made.to_dict(), "attention_pattern": maskc.parse("causal").spec()}
    for attempt in (
        lambda: set_pattern(net, "causal"),
        lambda: set_pattern(made, "causal"),
        lambda: type(made)(**stored),
    ):
        with refused(f"{kind}Model attends by its own code") as raised:
            attempt()
        assert raised.value.codes == ("E702",)
        assert "put maskc.nn.Attention in the place" in str(raised.value)
    assert getattr(made, "attention_pattern", None) is None


def test_a_model_that_computes_with_its_masks_is_refused() -> None:
    config = transformers.BloomConfig(**OWN["Bloom"])
    net = transformers.BloomForCausalLM._from_config(config, attn_implementation="maskc")
    with refused("computes with its attention masks itself"):
        net(input_ids=tokens())


def test_a_mask_function_of_somebody_else_is_refused() -> None:
    from transformers.masking_utils import create_causal_mask

    config = config_of("llama")
    config._attn_implementation = "maskc"
    with refused("does not know: .*test_patterns"):
        create_causal_mask(config, torch.zeros(1, 5, 32), None, None, or_mask_function=lambda b, h, q, k: k == 0)

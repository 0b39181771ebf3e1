"""A config's ``attention_pattern`` in running models: what it means, in batches, over caches, and when it is stored."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
import subprocess
import sys
import warnings
from typing import Any

import pytest

import maskc

torch = pytest.importorskip("torch", reason="needs torch")
transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")

from maskc.interop.compose import numbers_heads  # noqa: E402
from maskc.interop.transformers import pattern_from_config, register, set_pattern  # noqa: E402
from maskc.interop.transformers.handle import MaskHandle  # noqa: E402

from .models import TINY, N, W, config_of, left_padded, model_of, perturbed, tokens  # noqa: E402

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
        for cached in (True, False):
            packed = net(input_ids=ids, position_ids=packed_at(padding), use_cache=cached).logits[0]
            torch.testing.assert_close(packed[padding:], alone, atol=1e-5, rtol=0)


def packed_at(start: int, batch: int = 1) -> torch.Tensor:
    """Position ids of two documents in a row, the second from ``start`` on."""
    return torch.cat([torch.arange(start), torch.arange(N - start)]).expand(batch, -1)


#: What a model knows of its pattern: that of its own code, one that counts from the start, and one that reads inputs.
PACKED = [None, SINKS, "pattern p(doc: int[token], position: int[token]) { attend causal & position[k] % 3 != 1 }"]


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt_oss"])
@pytest.mark.parametrize("pattern", PACKED, ids=["own", "sinks", "inputs"])
def test_documents_are_apart_with_an_empty_cache_too(pattern: str | None, kind: str) -> None:
    """Models make a cache by default, and Transformers looks for documents only where there is none."""
    net, ids, start = with_pattern(pattern, kind), tokens(), 10
    rows = torch.stack([packed_at(start)[0], torch.arange(N)])
    with torch.no_grad():
        alone = net(input_ids=ids[:, start:]).logits[0]
        whole = net(input_ids=ids).logits[1]
        for how in ({"use_cache": True}, {"use_cache": False}, {"past_key_values": transformers.DynamicCache()}):
            found = net(input_ids=ids, position_ids=rows, **how).logits
            torch.testing.assert_close(found[0, start:], alone, atol=1e-5, rtol=0)
            torch.testing.assert_close(found[1], whole, atol=1e-5, rtol=0)


def test_documents_that_follow_what_a_cache_holds() -> None:
    """The text in the cache may go on, before others start; behind several, nobody knows where the last one started."""
    net, ids, start = with_pattern(SINKS), tokens(1), 10
    with torch.no_grad():
        cache = transformers.DynamicCache()
        net(input_ids=ids[:, :4], past_key_values=cache)
        found = net(input_ids=ids[:, 4:], position_ids=packed_at(start)[:, 4:], past_key_values=cache).logits[0]
        torch.testing.assert_close(found[: start - 4], net(input_ids=ids[:, :start]).logits[0, 4:], atol=1e-5, rtol=0)
        torch.testing.assert_close(found[start - 4 :], net(input_ids=ids[:, start:]).logits[0], atol=1e-5, rtol=0)
        for position in (0, N - start):
            with refused(r"but the cache holds \d+ keys: other documents(.|\n)*a cache to each") as raised:
                net(input_ids=ids[:, :1], position_ids=torch.tensor([[position]]), past_key_values=cache)
            assert raised.value.codes == ("E702",)


def test_a_mask_that_is_given_says_that_each_row_is_one_text() -> None:
    """As in Transformers; positions that count otherwise, and those of encoders, say nothing about documents."""
    net, ids, ones = with_pattern(None, layers=1), tokens(), torch.ones(2, N, dtype=torch.long)
    eager = model_of(config_of("llama", layers=1), "eager")
    with torch.no_grad():
        ours, theirs = (m(ids, attention_mask=ones, position_ids=packed_at(9, 2)).logits for m in (net, eager))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


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


@pytest.mark.parametrize("place", ["q - 8", "3", "k // 2"])
def test_inputs_of_tokens_that_the_cache_has_dropped_are_not_guessed(place: str) -> None:
    """Behind the first keys the inputs are those of the keys that are left."""
    net = with_pattern(
        f"pattern p(mark: int[token]) {{ attend causal & q - k < 3 & mark[{place}] > 0 | self }}", "mistral"
    )
    ids, mark = tokens(1), (torch.arange(N) % 3 == 0).int()
    with torch.no_grad():
        whole = net(input_ids=ids, use_cache=False, maskc_inputs={"mark": mark}).logits
        for kept, cache in ((True, transformers.DynamicCache()), (False, transformers.DynamicCache(config=net.config))):
            net(input_ids=ids[:, :12], past_key_values=cache, maskc_inputs={"mark": mark})
            call = {"input_ids": ids[:, 12:], "past_key_values": cache, "maskc_inputs": {"mark": mark}}
            if kept:
                torch.testing.assert_close(net(**call).logits, whole[:, 12:], atol=1e-5, rtol=0)
            else:
                with refused("looks inputs up at other tokens, but the cache has dropped some"):
                    net(**call)


def test_inputs_of_the_keys_that_are_left_are_looked_up() -> None:
    net = with_pattern(
        "pattern p(mark: int[token]) { attend causal & q - k < 3 & mark[k + 1] > mark[q] | self }", "mistral"
    )
    ids, mark = tokens(1), torch.arange(N) % 4
    with torch.no_grad():
        cache = transformers.DynamicCache(config=net.config)
        found = []
        for ends in range(1, N + 1):
            step = {"input_ids": ids[:, ends - 1 : ends], "past_key_values": cache}
            found.append(net(**step, maskc_inputs={"mark": mark[:ends]}).logits)
            whole = net(input_ids=ids[:, :ends], use_cache=False, maskc_inputs={"mark": mark[:ends]}).logits
        torch.testing.assert_close(found[-1][:, -1], whole[:, -1], atol=1e-5, rtol=0)


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


def test_heads_that_are_split_over_processes_are_not_taken_for_all() -> None:
    """Tensor parallelism leaves each process some heads, in the model's own projections, and counts them from 0."""

    def split(pattern: str) -> Any:
        net = model_of(config_of("llama", layers=1)).model
        attention = net.layers[0].self_attn
        for name, rows in (("q_proj", slice(16, 32)), ("k_proj", slice(8, 16)), ("v_proj", slice(8, 16))):
            getattr(attention, name).weight = torch.nn.Parameter(getattr(attention, name).weight[rows])
        attention.o_proj.weight = torch.nn.Parameter(attention.o_proj.weight[:, 16:])
        set_pattern(net, pattern)
        return net(tokens(2, 20))

    assert split("sliding_window(4)").last_hidden_state.shape == (2, 20, 32)
    learned = "pattern p(logit: float[head]) { attend causal\n normalize softmax(sink = logit[h]) }"
    assert not numbers_heads(maskc.parse(learned).program)
    for pattern in ("causal & q - k < 2 ** (h + 1)", "causal & match h { 0: all; else: q - k < 3 }"):
        with pytest.raises(maskc.MaskcError, match="2 of the model's 4 heads") as error:
            split(pattern)
        assert error.value.codes == ("E702",)


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


def test_a_missing_input_is_asked_for_where_it_can_be_given() -> None:
    net = with_pattern("pattern p(image: int[token]) { attend causal & same(image) }")
    with pytest.raises(maskc.MaskcError, match=r'(?s)needs the input .image..*maskc_inputs=\{"image": \.\.\.\}'):
        net(input_ids=tokens(), use_cache=False)


def test_a_pattern_that_no_call_could_run_is_refused_when_it_is_set() -> None:
    text = "pattern p(window: int, unused: int, layers: int[layer]) { attend sliding_window(window + layers[layer]) }"
    config = config_of("llama")
    with pytest.raises(maskc.MaskcError, match=r"(?s)E501.*needs the argument .window..*with_args\(window=\.\.\.\)"):
        set_pattern(config, text)
    with pytest.raises(maskc.MaskcError, match=r"with_args\(layers=\.\.\.\)"):
        set_pattern(config, maskc.parse(text).with_args(window=4))
    set_pattern(config, maskc.parse(text).with_args(window=4, layers=[0] * config.num_hidden_layers))
    with torch.no_grad():
        model_of(config)(input_ids=tokens(), use_cache=False)
    with pytest.raises(maskc.MaskcError, match="is a pattern for cross-attention"):
        set_pattern(config, "pattern p over here -> there { attend all }")


BART = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 4, "vocab_size": 64, "dropout_rate": 0.0}


@pytest.fixture(autouse=True, scope="module")
def _registered() -> None:
    register()


SIDES = {"encoder": "window(1, 1)", "decoder": "sinks(1)"}


def two_sided(kind: str, pattern: Any = None, implementation: str = "maskc") -> Any:
    """A model with an encoder and a decoder: of one config (BART), of copies (T5), or of two (T5Gemma)."""
    side = transformers.T5GemmaModuleConfig(**TINY, num_hidden_layers=2, attn_logit_softcapping=None, sliding_window=W)
    config = {
        "bart": lambda: transformers.BartConfig(**BART),
        "t5": lambda: transformers.T5Config(**T5),
        "t5gemma": lambda: transformers.T5GemmaConfig(encoder=side, decoder=copy.deepcopy(side), vocab_size=64),
    }[kind]()
    if pattern is not None:
        set_pattern(config, pattern)
    torch.manual_seed(0)
    return perturbed(transformers.AutoModel.from_config(config, attn_implementation=implementation)).eval()


def two_outputs(net: Any) -> Any:
    with torch.no_grad():
        out = net(input_ids=tokens(1), decoder_input_ids=tokens(1, 7))
    return out.encoder_last_hidden_state, out.last_hidden_state


def differ(one: Any, other: Any) -> list[bool]:
    return [bool((x - y).abs().max() > 1e-4) for x, y in zip(one, other, strict=True)]


@pytest.mark.parametrize("kind", ["bart", "t5", "t5gemma"])
def test_encoder_and_decoder_have_a_pattern_each(kind: str, tmp_path: Any) -> None:
    """By their configs, by the models that are made already, and read again; the decoder alone leaves the encoder."""
    net = two_sided(kind, implementation="eager")
    plain = two_outputs(net)
    set_pattern(net, {"decoder": "sinks(1)"})
    assert differ(two_outputs(net), plain) == [False, True]
    set_pattern(net, SIDES)
    both = two_outputs(net)
    assert differ(both, plain) == [True, True]
    assert differ(two_outputs(two_sided(kind, SIDES)), both) == [False, False]
    net.save_pretrained(tmp_path)
    again = transformers.AutoModel.from_pretrained(tmp_path).eval()
    assert differ(two_outputs(again), both) == [False, False]
    set_pattern(net, None)
    assert differ(two_outputs(net), plain) == [False, False]
    with refused("an encoder and a decoder") as raised:
        set_pattern(net, "causal")
    assert 'set_pattern {"encoder": pattern, "decoder": pattern}' in str(raised.value)


def test_a_model_of_two_models_has_a_pattern_for_each() -> None:
    """Their modules hold other configs than they themselves."""
    small = {**TINY, "num_hidden_layers": 1}
    sides = [transformers.BertConfig(**small, is_decoder=d, add_cross_attention=d) for d in (False, True)]
    torch.manual_seed(0)
    encoder, decoder = transformers.BertModel(sides[0]), transformers.AutoModelForCausalLM.from_config(sides[1])
    net = perturbed(transformers.EncoderDecoderModel(encoder=encoder, decoder=decoder)).eval()
    found = []
    for pattern in (None, {"encoder": "window(1, 1)"}, {"decoder": "sinks(1)"}, SIDES):
        set_pattern(net, pattern)
        with torch.no_grad():
            found.append(net(input_ids=tokens(1), decoder_input_ids=tokens(1, 7)).logits)
    assert all(differ(found[i], found[j]) == [True] for i, j in itertools.combinations(range(4), 2))


def test_every_config_that_a_side_may_go_by_gets_its_pattern() -> None:
    """The parts are called otherwise in models of sound, and one config of both stands in those of pictures."""
    for kind, encoder, decoder in (
        ("Musicgen", "text_encoder", "decoder"),
        ("Dia", "encoder_config", "decoder_config"),
        ("T5Gemma2", "encoder", "decoder"),
    ):
        config = getattr(transformers, f"{kind}Config")()
        set_pattern(config, SIDES)
        held = [getattr(config, name).attention_pattern for name in (encoder, decoder)]
        assert held == [config.attention_pattern["encoder"], config.attention_pattern["decoder"]]
    config = transformers.Florence2Config()
    set_pattern(config, SIDES)
    assert config.text_config.attention_pattern == config.attention_pattern
    assert not hasattr(config.vision_config, "attention_pattern")


def test_extents_go_to_the_side_that_has_them() -> None:
    grid = "pattern near over grid(y, x) { attend window(1, 1) on y & window(1, 1) on x }"
    config = transformers.T5Config(**T5)
    set_pattern(config, {"encoder": grid, "decoder": "sinks(1)"}, sizes={"x": 13})
    assert config.attention_pattern["encoder"]["sizes"] == {"x": 13}
    assert "sizes" not in config.attention_pattern["decoder"]
    other = transformers.T5Config(**T5)
    set_pattern(other, config.attention_pattern)  # what a config holds is a pattern, too
    assert other.attention_pattern == config.attention_pattern
    with refused("no segment or axis 'z'"):
        set_pattern(config, SIDES, sizes={"z": 3})


def test_a_pattern_for_a_side_that_the_model_lacks_is_refused() -> None:
    spec = maskc.parse("sliding_window(2)").spec()
    bert = transformers.BertConfig(**TINY, num_hidden_layers=1)
    for config, has, lacks in ((config_of("llama", layers=1), "decoder", "encoder"), (bert, "encoder", "decoder")):
        with refused(f"a pattern is given for '{lacks}'"):
            set_pattern(config, {lacks: spec})
        for field in ({lacks: spec}, {has: spec, lacks: spec}):
            config.attention_pattern = field
            with refused(f"for '{lacks}', but the model is only '{has}'") as raised:
                transformers.AutoModel.from_config(config).eval()(input_ids=tokens())
            assert raised.value.codes == ("E702",)
        config.attention_pattern = {has: spec}
        transformers.AutoModel.from_config(config).eval()(input_ids=tokens())


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


@pytest.mark.parametrize("first", ["sdpa", None])
def test_setting_the_field_of_a_running_model_chooses(first: str | None) -> None:
    """Also where it runs by what Transformers takes by default, which nobody asked for."""
    torch.manual_seed(0)
    how = {} if first is None else {"attn_implementation": first}
    net = perturbed(transformers.AutoModelForCausalLM.from_config(config_of("llama"), **how)).eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        net.config.attention_pattern = maskc.parse("sliding_window(2)").spec()
        ours = net(input_ids=tokens()).logits
    assert net.config._attn_implementation == "maskc"
    torch.testing.assert_close(ours, eager_with("sliding_window(2)", tokens()), atol=1e-5, rtol=0)


def test_a_running_model_that_is_switched_by_name_warns() -> None:
    """However that is done; once for each config that loses its pattern, and not where there is none to lose."""
    net = with_pattern("sliding_window(2)", layers=1)
    with pytest.warns(UserWarning, match="attn_implementation='eager' was asked for, which does not run it"):
        net.set_attn_implementation("eager")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net.set_attn_implementation("sdpa")
        net.set_attn_implementation("maskc")
        model_of(config_of("llama", layers=1)).set_attn_implementation("eager")
    with pytest.warns(UserWarning, match="attn_implementation='sdpa' was asked for"):
        net.config._attn_implementation = "sdpa"
    config = config_of("llama", layers=1)
    set_pattern(config, "sliding_window(2)")
    with pytest.warns(UserWarning, match="attn_implementation='eager' was asked for"):
        model_of(config, "eager")


def test_setting_the_field_of_a_running_model_of_two_sides_warns() -> None:
    """The stacks of T5 hold copies of the config, which nothing but the model leads to."""
    net = two_sided("t5")
    specs = {side: maskc.parse(text).spec() for side, text in SIDES.items()}
    with pytest.warns(UserWarning, match=r"copies of it .* use set_pattern\(model, ...\)"):
        net.config.attention_pattern = specs
    fresh = transformers.T5Config(**T5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            fresh.attention_pattern = specs
        set_pattern(net, SIDES)


def test_graphs_without_a_pattern_are_traced_whole() -> None:
    """What is put into the class of configs must not break the graphs of models that run by something else."""
    net = model_of(config_of("llama", layers=1), "sdpa")
    torch.compile(net, backend="eager", fullgraph=True)(input_ids=tokens(), use_cache=False)


def gemma3(text: Any = None, **more: Any) -> Any:
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    return transformers.Gemma3Config(
        text_config={**config_of("gemma3").to_dict(), **(text or {})},
        vision_config={**vision, "image_size": 28, "patch_size": 14},
        **more,
    )


def test_a_model_of_text_and_pictures_runs_the_pattern_of_either_config() -> None:
    """Whichever the field is set in, or read from: the layers read the text's."""
    spec = {"attention_pattern": maskc.parse("sliding_window(2)").spec()}
    later, inner = gemma3(), gemma3()
    later.attention_pattern = inner.text_config.attention_pattern = spec["attention_pattern"]
    found = []
    for config in (gemma3(), gemma3(**spec), gemma3(spec), later, inner):
        torch.manual_seed(0)
        net = perturbed(transformers.Gemma3ForConditionalGeneration(config)).eval()
        with torch.no_grad():
            found.append(net(input_ids=tokens()).logits)
    plain, *ours = found
    assert [differ([one], [plain]) for one in ours] == [[True]] * 4
    assert [differ([one], [ours[0]]) for one in ours] == [[False]] * 4
    with pytest.warns(UserWarning, match="attn_implementation='eager' was asked for"):
        gemma3(spec, attn_implementation="eager")


def test_a_model_of_several_configs_comes_back_with_its_pattern(tmp_path: Any) -> None:
    config = gemma3()
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
    bert = transformers.BertConfig(**TINY, num_hidden_layers=1)
    with refused(r"made already: Tensor \(2, 26, 26\)"):
        transformers.AutoModel.from_config(bert, attn_implementation="maskc").eval()(
            input_ids=tokens(), attention_mask=torch.ones(2, N, N)
        )


def test_weights_of_attention_are_refused(plain: Any) -> None:
    with pytest.raises((maskc.MaskcError, ValueError), match="output_attentions"):
        plain(input_ids=tokens(), output_attentions=True)


@pytest.mark.parametrize("kind", ["GPT2", "OPT", "StableLm"])
def test_weights_of_attention_are_refused_where_layers_are_not_told(kind: str) -> None:
    """Transformers collects them on the way, and would give none."""
    sizes = {"n_embd": 32, "n_head": 4, "ffn_dim": 32, "word_embed_proj_dim": 32} if kind != "StableLm" else {}
    config = getattr(transformers, f"{kind}Config")(**{**TINY, **sizes, "num_hidden_layers": 1})
    net = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="maskc").eval()
    assert net(input_ids=tokens(), output_hidden_states=True).hidden_states is not None
    with refused('attn_implementation="eager" to look at them'):
        net(input_ids=tokens(), output_attentions=True)


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


@pytest.mark.filterwarnings("ignore:.* attends by its own code")
def test_a_model_that_computes_with_its_masks_is_refused() -> None:
    config = transformers.BloomConfig(**OWN["Bloom"])
    net = transformers.BloomForCausalLM._from_config(config, attn_implementation="maskc")
    with refused("computes with its attention masks itself"):
        net(input_ids=tokens())


@pytest.mark.filterwarnings("ignore:.* attends by its own code")
@pytest.mark.parametrize("kind", ["XGLM", "Mvp"])
def test_a_model_that_asks_its_masks_what_a_tensor_knows_is_refused(kind: str) -> None:
    sizes = {"d_model": 32, "vocab_size": 64, "attention_heads": 4, "num_layers": 1, **BART}
    register()
    net = transformers.AutoModel.from_config(getattr(transformers, f"{kind}Config")(**sizes))
    net.config._attn_implementation = "maskc"
    with refused(r"computes with its attention masks itself \(size\)"):
        net.eval()(input_ids=tokens())
    handle = MaskHandle.__new__(MaskHandle)
    assert not hasattr(handle, "nothing_of_a_tensor")
    assert copy.copy(handle) is not handle


def test_a_mask_function_of_somebody_else_is_refused() -> None:
    from transformers.masking_utils import create_causal_mask

    config = config_of("llama")
    config._attn_implementation = "maskc"
    with refused("does not know: .*test_patterns"):
        create_causal_mask(config, torch.zeros(1, 5, 32), None, None, or_mask_function=lambda b, h, q, k: k == 0)

"""Models, and parts of models, in which a pattern would not run: each is refused, and nothing beside it."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest

import maskc

torch = pytest.importorskip("torch", reason="needs torch")
transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")

from maskc.interop.transformers import register, set_pattern  # noqa: E402

from .models import TINY, perturbed, tokens  # noqa: E402

SPEC = maskc.parse("self").spec()
SMALL = {**TINY, "num_hidden_layers": 1}


@pytest.fixture(autouse=True, scope="module")
def _registered() -> None:
    register()


def refused(match: str) -> Any:
    return pytest.raises(maskc.MaskcError, match=match)


def same(one: Any, other: Any) -> bool:
    return bool((one - other).abs().max() < 1e-5)


NONE: dict[str, dict[str, Any]] = {
    "FNet": SMALL,
    "Mamba": {**SMALL, "state_size": 4},
    "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1]},
    # Its classes are found by the name of the implementation, beside the interface for its pictures.
    "Git": {**SMALL, "vision_config": {"hidden_size": 48, "image_size": 8, "patch_size": 4, "num_hidden_layers": 1}},
}


@pytest.mark.parametrize("kind", NONE)
def test_models_without_the_interface_are_refused(kind: str) -> None:
    """Transformers lets an implementation be chosen for them, and never calls it."""
    config = getattr(transformers, f"{kind}Config")(**NONE[kind])
    net = getattr(transformers, f"{kind}Model")(copy.deepcopy(config))
    for attempt in (
        lambda: set_pattern(net, "self"),
        lambda: set_pattern(config, "self"),
        lambda: type(config)(**NONE[kind], attention_pattern=SPEC),
    ):
        with refused(f"{kind}Model attends by its own code, if at all"):
            attempt()


def test_choosing_maskc_for_a_model_that_does_not_ask_for_it_warns() -> None:
    with pytest.warns(UserWarning, match=r"FNetModel attends by its own code, .* does nothing there"):
        transformers.AutoModel.from_config(transformers.FNetConfig(**SMALL), attn_implementation="maskc")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        transformers.AutoModel.from_config(transformers.LlamaConfig(**SMALL), attn_implementation="maskc")


NAMED: dict[str, dict[str, Any]] = {
    "FalconForCausalLM": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 64},
    "GPTJModel": {"n_embd": 32, "n_layer": 1, "n_head": 4, "rotary_dim": 4, "vocab_size": 64},
    "GitForCausalLM": NONE["Git"],
    # No Auto class names it.
    "BarkSemanticModel": {"hidden_size": 32, "num_layers": 1, "num_heads": 4, "output_vocab_size": 64},
}


@pytest.mark.parametrize("kind", NAMED)
def test_models_with_a_class_for_each_implementation_refuse_maskc(kind: str) -> None:
    """They would look it up in a dictionary of their module, which ends in a KeyError."""
    made = getattr(transformers, kind)
    config = made.config_class(**NAMED[kind])
    with refused(r'Model cannot run by attn_implementation="maskc": .*\'eager\'(.|\n)*put maskc.nn.') as raised:
        made._from_config(copy.deepcopy(config), attn_implementation="maskc")
    assert raised.value.codes == ("E702",)
    with refused("cannot run by"):  # and where the implementation is chosen before
        made(made.config_class(**NAMED[kind], attn_implementation="maskc"))
    made(config)


def test_a_part_with_a_class_for_each_implementation_keeps_its_own() -> None:
    vision = {"hidden_size": 32, "mlp_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "image_size": 32}
    vision |= {"patch_size": 16, "output_channels": 32, "window_size": 2, "global_attn_indexes": [0]}
    with refused("SamVisionModel cannot run by"):
        transformers.SamVisionModel._from_config(transformers.SamVisionConfig(**vision), attn_implementation="maskc")
    config = transformers.SamConfig(vision_config=vision)
    net = transformers.SamModel._from_config(config, attn_implementation="maskc")
    assert (net.config._attn_implementation, net.config.vision_config._attn_implementation) == ("maskc", "sdpa")


def test_what_transformers_does_not_have_is_nobody_s_own() -> None:
    """It maps one config to a class that does not exist, and another to one that a missing package would define."""
    for kind in ("VoxtralRealtimeText", "HiggsAudioV2Tokenizer"):
        config = getattr(transformers, f"{kind}Config", None)
        if config is not None:
            made = config()
            set_pattern(made, "self")
            assert made.attention_pattern == SPEC


def test_the_text_of_a_model_that_attends_to_pictures_by_its_own_code_runs_a_pattern(tmp_path: Any) -> None:
    vision = {"hidden_size": 32, "mlp_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "image_size": 32}
    config = transformers.GotOcr2Config(
        text_config={**SMALL, "model_type": "qwen2"},
        vision_config={**vision, "patch_size": 16, "output_channels": 32, "window_size": 2, "global_attn_indexes": [0]},
        image_token_id=63,
    )
    torch.manual_seed(0)
    net = perturbed(transformers.GotOcr2ForConditionalGeneration(config)).eval()
    found = []
    for pattern in (None, "self"):
        set_pattern(net, pattern)
        with torch.no_grad():
            found.append([net(input_ids=ids).logits for ids in (tokens(1), tokens(1).flip(1))])
    assert not same(found[0][0][:, -1], found[0][1].flip(1)[:, -1])
    # Each token by itself: positions are not told apart where there is nothing to compare with.
    assert same(found[1][0], found[1][1].flip(1))
    net.save_pretrained(tmp_path)
    again = transformers.GotOcr2ForConditionalGeneration.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert same(again(input_ids=tokens(1)).logits, found[1][0])


SIDED: dict[str, dict[str, Any]] = {
    "LongT5": {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 4, "vocab_size": 64},
    "PegasusX": {
        "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "vocab_size": 64,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_global_tokens": 2,
        "block_size": 4,
    },
    "Moonshine": {},
    "MoonshineStreaming": {},
}  # fmt: skip


@pytest.mark.parametrize("kind", SIDED)
def test_a_side_that_cannot_run_a_pattern_is_refused(kind: str) -> None:
    config = getattr(transformers, f"{kind}Config")(**SIDED[kind])
    for spec in ({"encoder": SPEC}, {"encoder": SPEC, "decoder": SPEC}):
        with refused(r'the encoder of \w+ (attends by|cannot be told)(.|\n)*give {"decoder": pattern} alone'):
            set_pattern(config, spec)
        with refused("the encoder of"):
            config.attention_pattern = spec
    with refused("the encoder of"):
        config.attention_pattern = SPEC  # of both
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        set_pattern(config, {"decoder": "self"})
    assert config.attention_pattern["decoder"] == SPEC


def test_the_side_that_is_not_meant_may_attend_by_its_own_code() -> None:
    sides = [transformers.XLMConfig(emb_dim=32, n_layers=1, n_heads=4, n_words=64), transformers.BertConfig(**SMALL)]
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(*sides)
    set_pattern(config, {"decoder": "self"})
    with refused("XLMModel attends by its own code"):
        set_pattern(config, {"encoder": "self"})


def test_keys_that_a_model_adds_to_those_of_its_mask_are_not_left_out() -> None:
    """DeepSeek V4 has keys that stand for many; no mask speaks of them."""
    config = transformers.DeepseekV4Config(
        **{**SMALL, "num_key_value_heads": 1, "num_hidden_layers": 4, "head_dim": 16, "sliding_window": 7},
        q_lora_rank=16, moe_intermediate_size=32, n_routed_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    net = transformers.DeepseekV4Model._from_config(config, attn_implementation="maskc").eval()
    with refused(r"\d+ keys are given, but a mask was asked for 26") as raised:
        net(input_ids=tokens())
    assert raised.value.codes == ("E702",)


def test_fewer_keys_than_queries_are_not_taken_for_those_of_another_sequence() -> None:
    """SegFormer's keys are several tokens each. Without a pattern it runs."""
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 8, 8, 8], num_attention_heads=[1, 1, 1, 1], depths=[1, 1, 1, 1], decoder_hidden_size=8
    )
    pictures = torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64)
    found = []
    for implementation in ("eager", "maskc"):
        torch.manual_seed(0)
        net = transformers.SegformerModel._from_config(config, attn_implementation=implementation).eval()
        with torch.no_grad():
            found.append(net(pictures).last_hidden_state)
    assert same(*found)
    set_pattern(net, "self")
    with refused("256 queries and 4 keys, and does not say of which sequences"):
        net(pictures)


@pytest.mark.parametrize("queries", [7, 8])
def test_attention_to_another_sequence_is_told_by_its_name_too(queries: int) -> None:
    """Dia's decoder does not say that it is one; as many queries as keys are no reason to run its pattern there."""
    side = {**TINY, "num_hidden_layers": 1, "num_key_value_heads": 4}
    cross = {"cross_hidden_size": 32, "cross_num_attention_heads": 4, "cross_head_dim": 8}
    config = transformers.DiaConfig(
        encoder_config=side,
        decoder_config={**side, **cross, "cross_num_key_value_heads": 4, "num_channels": 1},
        delay_pattern=[0], pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    found = []
    for pattern in (None, {"decoder": "causal"}):
        torch.manual_seed(0)
        net = perturbed(transformers.DiaModel(copy.deepcopy(config))).eval()
        if pattern is not None:
            set_pattern(net, pattern)
        with torch.no_grad():
            found.append(net(tokens(1, 8), decoder_input_ids=tokens(1, queries)[..., None]).last_hidden_state)
    assert same(*found)


class Mine(transformers.LlamaForCausalLM):
    """A model of somebody's own, in whose file nothing is said of attention."""


def test_a_model_derived_from_another_runs_a_pattern() -> None:
    net = Mine(transformers.LlamaConfig(**SMALL)).eval()
    set_pattern(net, "self")
    x = tokens()
    theirs = transformers.LlamaForCausalLM(copy.deepcopy(net.config)).eval()
    theirs.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert same(net(x).logits, theirs(x).logits)
        set_pattern(theirs, None)
        assert not same(net(x).logits, theirs(x).logits)

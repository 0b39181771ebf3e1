"""Models of every kind with maskc for their attention: the logits and the tokens of eager attention."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import maskc

torch = pytest.importorskip("torch", reason="needs torch")
transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")

from .models import KINDS, N, config_of, left_padded, model_of, pair, tokens  # noqa: E402

kinds = pytest.mark.parametrize("kind", KINDS)
CACHES = ("sliding", "dynamic", "static")
#: Cache, kind and number of tokens: a few in make test, all in make test-all.
GENERATED = [
    *((cache, "gemma3", 10) for cache in CACHES),
    *((CACHES[i % 3], kind, 6) for i, kind in enumerate(("llama", "qwen2", "gemma4", "gpt_oss", "llama4", "cohere2"))),
    *(pytest.param(cache, kind, 32, marks=pytest.mark.slow) for cache in CACHES for kind in KINDS),
]


def logits(kind: str, **call: Any) -> tuple[Any, Any]:
    with torch.no_grad():
        eager, ours = (net(**call).logits for net in pair(kind))
    return eager, ours


@kinds
def test_logits(kind: str) -> None:
    eager, ours = logits(kind, input_ids=tokens())
    torch.testing.assert_close(ours, eager, atol=1e-5, rtol=1e-5)


@kinds
@pytest.mark.parametrize("side", ["left", "right", "holes"])
def test_logits_with_padding(kind: str, side: str) -> None:
    if kind == "llama4" and side == "holes":
        pytest.skip("chunks are counted from the first real token in either case")
    mask = left_padded() if side == "left" else left_padded().flip(1)
    if side == "holes":
        mask = left_padded(3)
        mask[1, 11] = 0
    eager, ours = logits(kind, input_ids=tokens(), attention_mask=mask, use_cache=False)
    torch.testing.assert_close(ours[mask.bool()], eager[mask.bool()], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
def test_keys_that_the_mask_says_nothing_of_are_padding(padded: bool) -> None:
    """A mask that is too short means the same whether or not it holds padding itself."""
    mask, past, found = left_padded(4 * padded), N - 3, []
    for net in pair("llama"):
        cache = transformers.DynamicCache()
        with torch.no_grad():
            net(input_ids=tokens()[:, :past], attention_mask=mask[:, :past], past_key_values=cache)
            call = {"input_ids": tokens()[:, past:], "attention_mask": mask[:, : N - 5], "past_key_values": cache}
            found.append(net(**call).logits)
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


@kinds
@pytest.mark.parametrize("cached", [False, True])
def test_logits_of_packed_documents(kind: str, cached: bool) -> None:
    """Each document has the logits that it has alone. Eager attention agrees where it looks for documents at all."""
    lengths = (5, 12, 1, N - 18)
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    eager, ours = logits(kind, input_ids=tokens(1), position_ids=positions, use_cache=cached)
    documents = [logits(kind, input_ids=ids, use_cache=False)[0] for ids in tokens(1).split(lengths, 1)]
    alone = torch.cat(documents, 1)
    torch.testing.assert_close(ours, alone, atol=1e-5, rtol=1e-5)
    if not cached and kind != "gpt_oss":  # whose code does not hand the positions to its masks
        torch.testing.assert_close(eager, alone, atol=1e-5, rtol=1e-5)
    whole, _ = logits(kind, input_ids=tokens(1), use_cache=False)
    assert (whole - alone).abs().max() > 1e-3, "the packing is not felt"


@pytest.mark.parametrize("kind", ["gemma", "gemma2"])
def test_gemma_in_both_directions_is_causal_where_a_mask_is_made(kind: str) -> None:
    """Only SDPA, which needs none without padding, sees both ways; Gemma 2 has no SDPA."""
    flag = {"use_bidirectional_attention": True}
    for padding in (0, 3):
        mask = left_padded(padding) if padding else None
        call = {"input_ids": tokens(), "attention_mask": mask, "use_cache": False}
        real = torch.ones(2, N, dtype=torch.bool) if mask is None else mask.bool()
        with torch.no_grad():
            causal = pair(kind)[0](**call).logits[real]
            for implementation in ("eager", "maskc", "sdpa") if kind == "gemma" else ("eager", "maskc"):
                found = model_of(config_of(kind, **flag), implementation)(**call).logits[real]
                sees_ahead = (found - causal).abs().max() > 1e-2
                assert sees_ahead == (implementation == "sdpa" and not padding)


def generated(net: Any, count: int, **how: Any) -> Any:
    mask = left_padded()
    return net.generate(tokens(), attention_mask=mask, max_new_tokens=count, do_sample=False, eos_token_id=None, **how)


@pytest.mark.parametrize(("cache", "kind", "count"), GENERATED)
def test_greedy_tokens_with_left_padding(cache: str, kind: str, count: int) -> None:
    how = {"cache_implementation": "static"} if cache == "static" else {}
    results = []
    for net in pair(kind):
        if cache == "dynamic":  # without the config no layer drops its keys
            how = {"past_key_values": transformers.DynamicCache()}
        results.append(generated(net, count, **how))
    assert results[0].shape == (2, N + count)
    assert torch.equal(*results)


@pytest.mark.parametrize("kind", ["gemma2", "gpt_oss", "mixtral"])
def test_gradients_with_checkpointing(kind: str) -> None:
    found = []
    for net in pair(kind):
        net.train()
        net.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        try:
            net.zero_grad()
            net(input_ids=tokens(), labels=tokens(), use_cache=False).loss.backward()
            found.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
        finally:
            net.gradient_checkpointing_disable()
            net.eval()
            net.zero_grad()
    assert len(found[0]) == len(found[1]) > 10
    for eager, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, eager, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("cache", ["sliding", "static"])
def test_a_prompt_in_pieces(cache: str) -> None:
    """Several new tokens at once over a cache that has dropped keys: what one pass over everything gives."""
    _, net = pair("gemma3")
    ids = tokens(1)
    made = transformers.StaticCache(config=net.config, max_cache_len=40)
    past = transformers.DynamicCache(config=net.config) if cache == "sliding" else made
    with torch.no_grad():
        whole = net(input_ids=ids).logits
        pieces = [
            net(input_ids=ids[:, a:b], past_key_values=past).logits for a, b in ((0, 11), (11, 12), (12, 17), (17, N))
        ]
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-5, rtol=1e-5)


def test_encoders() -> None:
    """BERT, ModernBERT and T5, whose decoder looks at its encoder and has learned biases."""
    from maskc.interop.transformers import register

    from .models import TINY, perturbed

    register()
    lengths = torch.tensor([9, N])
    real = torch.arange(N)[None] < lengths[:, None]
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_heads": 4, "num_layers": 2, "decoder_start_token_id": 0}
    configs = {
        "bert": transformers.BertConfig(**TINY, num_hidden_layers=2),
        "modernbert": transformers.ModernBertConfig(
            **TINY, num_hidden_layers=4, local_attention=8, cls_token_id=1, sep_token_id=2
        ),
        "t5": transformers.T5Config(**sizes, vocab_size=64),
    }
    for kind, config in configs.items():
        found = []
        for implementation in ("eager", "maskc"):
            torch.manual_seed(0)
            config._attn_implementation = implementation
            net = perturbed(transformers.AutoModel.from_config(config, attn_implementation=implementation)).eval()
            more = {"decoder_input_ids": tokens(2, 6)} if kind == "t5" else {}
            with torch.no_grad():
                state = net(input_ids=tokens(), attention_mask=real.long(), **more).last_hidden_state
            found.append(state if kind == "t5" else state[real])
        torch.testing.assert_close(found[1], found[0], atol=2e-5, rtol=0, msg=lambda m, kind=kind: f"{kind}: {m}")


@pytest.mark.slow
def test_compiled_by_torch() -> None:
    """The graph breaks at every attention, and the result is the same."""
    eager, ours = pair("gemma3")
    try:
        with torch.no_grad():
            found = torch.compile(ours, backend="aot_eager")(input_ids=tokens(), use_cache=False).logits
            expected = eager(input_ids=tokens(), use_cache=False).logits
    finally:
        torch.compiler.reset()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def exported(net: Any, shapes: Any = None, **call: Any) -> Any:
    """The graph of a model, of a batch of any size by default."""
    batch = {0: torch.export.Dim("batch", min=2)}
    shapes = shapes or {name: batch if isinstance(x, torch.Tensor) else None for name, x in call.items()}
    with torch.no_grad():
        return torch.export.export(net, (), call, dynamic_shapes=shapes, strict=False).module()


@pytest.mark.parametrize("kind", ["llama", "gpt_oss"])
def test_exported_with_a_mask(kind: str) -> None:
    """The graph takes any padding: which one it was made with does not count."""
    eager, ours = (model_of(config_of(kind, 2), how) for how in ("eager", "maskc"))
    net = exported(ours, input_ids=tokens(), attention_mask=torch.ones(2, N, dtype=torch.long), use_cache=False)
    for ids, mask in ((tokens(), left_padded()), (tokens(3), left_padded().flip(1)[[0, 1, 0]])):
        call: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
        with torch.no_grad():
            found, expected = net(**call).logits, eager(**call).logits
        torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt_oss"])
def test_exported_with_positions(kind: str) -> None:
    """The graph takes any documents, each of which is as if it were alone."""
    eager, ours = (model_of(config_of(kind, 2), how) for how in ("eager", "maskc"))
    ids, cut = tokens(), 9
    one = torch.arange(N).expand(2, -1)
    packed = torch.cat([one[:, :cut], one[:, : N - cut]], 1)
    net = exported(ours, input_ids=ids, position_ids=one, use_cache=False)
    with torch.no_grad():
        found = net(input_ids=ids, position_ids=packed, use_cache=False).logits
        expected = torch.cat([eager(input_ids=x, use_cache=False).logits for x in (ids[:, :cut], ids[:, cut:])], 1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


ELSEWHERE = """
import sys, torch
from maskc.interop.transformers import register
register()
call, wanted = torch.load(sys.argv[1])
torch.testing.assert_close(torch.export.load(sys.argv[2]).module()(**call).logits, wanted, atol=1e-5, rtol=1e-5)
"""


def test_exported_for_another_process(tmp_path: Path) -> None:
    """Whose ops nobody there has compiled: what maskc makes of pattern, padding and sinks has no other name."""
    config = config_of("gpt_oss", 2, attention_pattern=maskc.parse("causal & (sliding_window(5) | sinks(2))").spec())
    ours, mask = model_of(config), left_padded()
    call = {"input_ids": tokens(), "attention_mask": mask, "use_cache": False}
    with torch.no_grad():
        torch.save((call, ours(**call).logits), tmp_path / "call.pt")
        torch.export.save(torch.export.export(ours, (), call, strict=False), tmp_path / "graph.pt2")
    command = [sys.executable, "-c", ELSEWHERE, str(tmp_path / "call.pt"), str(tmp_path / "graph.pt2")]
    subprocess.run(command, check=True)


def test_exported_for_any_length() -> None:
    shapes = {"input_ids": {1: torch.export.Dim("length", min=4)}, "use_cache": None}
    with pytest.raises(maskc.MaskcError, match="any number of tokens"):
        exported(pair("llama")[1], shapes, input_ids=tokens(), use_cache=False)


@pytest.mark.parametrize("mask", [False, True])
def test_shapes_alone(mask: bool) -> None:
    """On the device "meta" there are no values to look at, of masks and positions neither."""
    net, ids = model_of(config_of("llama")).to("meta"), tokens().to("meta")
    more = {"attention_mask": left_padded().to("meta")} if mask else {}
    assert net(input_ids=ids, **more).logits.shape == (2, N, 64)


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
@pytest.mark.parametrize("mask", [False, True])
def test_fake_tensors(mask: bool, kind: str) -> None:
    """Whose device is that of what they stand for: a step of training and one of decoding."""
    from torch._subclasses import FakeTensorMode

    from maskc.interop.transformers import register

    register()
    with FakeTensorMode():
        net = transformers.AutoModelForCausalLM.from_config(config_of(kind), attn_implementation="maskc")
        ids = torch.ones(2, N, dtype=torch.long)
        more = [{"attention_mask": torch.ones(2, n, dtype=torch.long)} if mask else {} for n in (N, N + 1)]
        out = net(input_ids=ids, **more[0])
        assert (out.logits.shape, out.logits.device.type) == ((2, N, 64), "cpu")
        out.logits.sum().backward()
        assert all(x.grad is not None and x.grad.shape == x.shape for x in net.parameters())
        with torch.no_grad():
            step = net(input_ids=ids[:, :1], past_key_values=out.past_key_values, **more[1])
        assert step.logits.shape == (2, 1, 64)

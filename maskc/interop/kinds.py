"""The kinds of models whose configurations are understood, one row each: their defaults, and what they mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from maskc.interop import texts as t
from maskc.interop.fields import MAX_LAYERS, Fields, malformed
from maskc.interop.gemma import GEMMA2, GEMMA3, GEMMA4, gemma3, gemma3_text, gemma4, gemma4_text, paligemma
from maskc.interop.layers import CHUNKED, FULL, SLIDING, alternating, every, layered, types_of, write_layers
from maskc.interop.texts import by_layer, pattern_text

__all__ = ["KINDS", "Kind"]


@dataclass(frozen=True)
class Kind:
    """``names``: values of ``model_type``. ``write``: the text of the pattern file. ``defaults``: of
    Transformers' configuration class, for fields that a file may leave out."""

    names: tuple[str, ...]
    write: Callable[[Fields], str]
    defaults: Mapping[str, Any] = field(default_factory=dict)


def _causal(name: str, doc: str) -> Callable[[Fields], str]:
    return lambda c: pattern_text(name, doc, "causal")


def _windowed(name: str, title: str) -> Callable[[Fields], str]:
    """Every layer has the window, if there is one."""

    def write(c: Fields) -> str:
        window = c.optional("sliding_window", 1)
        if window is None:
            return pattern_text(name, f"{title}: causal; the config has no sliding window.", "causal")
        doc = f"{title}: a sliding window in every layer."
        return pattern_text(name, doc, "sliding_window(window)", [t.window(window)])

    return write


def _qwen(name: str, title: str) -> Callable[[Fields], str]:
    def write(c: Fields) -> str:
        on = c.flag("use_sliding_window")
        first = c.integer("max_window_layers")
        return write_layers(name, title, c, types_of(c, SLIDING, lambda i: on and i >= first))

    return write


def _smollm3(c: Fields) -> str:
    on = c.flag("use_sliding_window") and c.optional("sliding_window", 1) is not None
    rotary = c.listed("no_rope_layers")
    period = c.integer("no_rope_layer_interval", 1)
    if rotary is not None and len(rotary) < c.layers():
        raise malformed(f"{len(rotary)} no_rope_layers for {c.layers()} layers")

    def local(i: int) -> bool:
        return on and not (rotary[i] if rotary is not None else (i + 1) % period)

    return write_layers("smollm3", "SmolLM3", c, types_of(c, SLIDING, local))


def _exaone4(c: Fields) -> str:
    types = c.layer_types((FULL, SLIDING))
    if types is None:
        period = c.integer("sliding_window_pattern", 1, MAX_LAYERS) if c.optional("sliding_window") else 1
        types = [SLIDING if (i + 1) % period else FULL for i in range(c.layers())]
    return write_layers("exaone4", "EXAONE 4", c, types)


def _gpt_oss(c: Fields) -> str:
    window, types = c.optional("sliding_window", 1), types_of(c, SLIDING, alternating(c))
    if SLIDING in types and window is None:
        raise malformed("layers with a sliding window, but 'sliding_window' is not given")
    doc = "GPT-OSS: a sliding window and everything before, by layer; each head has a learned sink."
    sink = t.Parameter("sink_logit: float[head]", "the layer's learned logit of each head, an input of every call.")
    attend = by_layer(types, {FULL: "causal", SLIDING: "sliding_window(window)"})
    params = [sink, *([t.window(window)] if SLIDING in types and window else [])]
    return pattern_text("gpt_oss", doc, attend, params, ["normalize softmax(sink = sink_logit[h])"])


def _llama4(c: Fields) -> str:
    c = c.within("text_config", _LLAMA4) if c.get("text_config") is not None else c
    rotary = c.listed("no_rope_layers") or None
    period = c.integer("no_rope_layer_interval", 1)
    if rotary is not None and len(rotary) < c.layers():
        raise malformed(f"{len(rotary)} no_rope_layers for {c.layers()} layers")
    types = types_of(c, CHUNKED, lambda i: bool(rotary[i] if rotary else (i + 1) % period))
    params = []
    if CHUNKED in types:
        size = c.optional("attention_chunk_size", 1)
        if size is None:
            raise malformed("layers with chunks, but 'attention_chunk_size' is not given")
        params.append(t.Parameter(f"chunk_size: int(1..) = {size}", "tokens in a chunk."))
    doc = "Llama 4: causal within chunks and everything before, by layer."
    attend = by_layer(types, {FULL: "causal", CHUNKED: "causal & chunk(chunk_size)"})
    return pattern_text("llama4", doc, attend, params)


def _gpt_neo(c: Fields) -> str:
    groups = c.listed("attention_types") or []
    kinds: list[str] = []
    for group in groups:
        well = isinstance(group, Sequence) and len(group) == 2 and isinstance(group[1], int)
        if not well or not isinstance(group[0], Sequence) or not 0 <= group[1] * len(group[0]) <= MAX_LAYERS:
            raise malformed("'attention_types' must be a list of [[types], times]")
        kinds += [*group[0]] * group[1]
        if len(kinds) > MAX_LAYERS:
            raise malformed(f"more than {MAX_LAYERS} layers in 'attention_types'")
    if not kinds or any(k not in ("global", "local") for k in kinds):
        raise malformed("'attention_types' must name global and local layers")
    doc = "GPT-Neo: everything before and a sliding window, by layer. Its scores are not scaled: call with scale=1."
    attend = by_layer(kinds, {"global": "causal", "local": "sliding_window(window)"})
    params = [t.window(c.integer("window_size", 1))] if "local" in kinds else []
    return pattern_text("gpt_neo", doc, attend, params)


def _falcon(c: Fields) -> str:
    if not c.flag("alibi"):
        return pattern_text("falcon", "Falcon: causal, with rotary positions.", "causal")
    dim = c.integer("hidden_size", 1) // c.integer("num_attention_heads", 1)
    doc = "Falcon with linear biases (ALiBi), which are scaled as the scores are."
    params = [t.Parameter(f"head_dim: int(1..) = {dim}", "channels of a head.")]
    score = "score s + alibi_slope * (k - q) / sqrt(head_dim)"
    return t.ALIBI + pattern_text("falcon", doc, "causal", params, [score])


def _mpt(c: Fields) -> str:
    inner = c.within("attn_config", {"alibi": True, "alibi_bias_max": 8})
    if not inner.flag("alibi"):
        return pattern_text("mpt", "MPT without linear biases: causal.", "causal")
    most = inner.number("alibi_bias_max") or 8.0
    params = [t.Parameter(f"bias_max: float = {most!r}", "the last slope is 2 to the power -bias_max.")]
    score = "score s + exp2(-bias_max * place / series) * (k - q)"
    return t.MPT + pattern_text("mpt", "MPT: causal, with linear biases (ALiBi).", "causal", params, [score])


def _bloom(c: Fields) -> str:
    score = "score s + alibi_slope * (k - q)"
    return t.ALIBI + pattern_text("bloom", "BLOOM: causal, with linear biases (ALiBi).", "causal", [], [score])


def _bert(c: Fields) -> str:
    decodes = c.flag("is_decoder")
    doc = "BERT as a decoder: causal." if decodes else "BERT: every token sees every other."
    return pattern_text("bert", doc, "causal" if decodes else "all")


def _modernbert(c: Fields) -> str:
    period = c.integer("global_attn_every_n_layers", 1)
    types = types_of(c, SLIDING, lambda i: i % period != 0)
    half = c.integer("local_attention", 2) // 2
    doc = "ModernBERT: in both directions, a window and everything by layer."
    attend = by_layer(types, {FULL: "all", SLIDING: "window(half, half)"})
    params = [t.Parameter(f"half: int(1..) = {half}", "keys that are seen on either side: local_attention // 2.")]
    return pattern_text("modernbert", doc, attend, params if SLIDING in types else [])


def _t5(c: Fields) -> str:
    buckets = c.integer("relative_attention_num_buckets", 4, 1 << 16)
    far = c.integer("relative_attention_max_distance", 2)
    params = [
        t.Parameter(f"buckets: int(4..) = {buckets}", "number of buckets."),
        t.Parameter("bias: float[head, buckets]", "the learned biases, an input of every call."),
        t.Parameter(f"far: int(2..) = {far}", "all distances from here on share a bucket."),
    ]
    doc = "T5's {}; a learned bias for each head and range of distances. Scores are not scaled: call with scale=1."
    side = "let side = match k > q { true: buckets // 2; else: 0 }"
    both = "score s + bias[h, side + bucket(abs(k - q), buckets // 2, far)]"
    one = "score s + bias[h, bucket(max(q - k, 0), buckets, far)]"
    encoder = pattern_text(
        "t5_encoder", doc.format("encoder: every token sees every other"), "all", params, [both], [side]
    )
    decoder = pattern_text("t5_decoder", doc.format("decoder: causal"), "causal", params, [one])
    return t.BUCKETS + encoder + "\n" + decoder


def _longformer(c: Fields) -> str:
    return _window_by_layer("longformer", "Longformer", c, c.layers())


def _window_by_layer(name: str, title: str, c: Fields, layers: int) -> str:
    widths = c.integers("attention_window", layers, 2)
    if any(w % 2 for w in widths):
        raise malformed("'attention_window' must be even")
    masks = {str(w): f"window({w // 2}, {w // 2})" for w in widths}
    attend = by_layer([str(w) for w in widths], masks)
    doc = f"{title}: a window on both sides, and tokens that see all and are seen by all."
    marked = t.Parameter("is_global: bool[token]", "the tokens with global attention.")
    attend = f"({attend}) | global(is_global)" if " " in attend else f"{attend} | global(is_global)"
    return pattern_text(name, doc, attend, [marked])


def _led(c: Fields) -> str:
    encoder = _window_by_layer("led_encoder", "LED's encoder", c, c.layers("encoder_layers"))
    return encoder + "\n" + pattern_text("led_decoder", "LED's decoder: causal.", "causal")


def _big_bird(c: Fields) -> str:
    if c.get("attention_type") == "original_full":
        attend = "causal" if c.flag("is_decoder") else "all"
        return pattern_text("bigbird", "BigBird with full attention.", attend)
    if c.get("attention_type") != "block_sparse":
        raise malformed("'attention_type' must be block_sparse or original_full")
    doc = (
        "BigBird: in blocks, three neighbours, the first and the last block, and a few blocks at random. "
        "Transformers draws those in training, and none otherwise: `random_blocks = 0`."
    )
    params = [
        t.Parameter(f"block: int(1..) = {c.integer('block_size', 1)}", "tokens in a block."),
        t.Parameter(f"random_blocks: int(0..) = {c.integer('num_random_blocks', 0, 1024)}", "blocks drawn at random."),
    ]
    lets = [
        "let blocks = (size(k) + block - 1) // block",
        "let ends = q // block == 0 | q // block == blocks - 1 | k // block == 0 | k // block == blocks - 1",
        "let drawn = random(random_blocks, seed = h, among = blocks)",
    ]
    return pattern_text("bigbird", doc, "ends | (window(1, 1) | drawn) on token // block", params, [], lets)


def _swin(c: Fields) -> str:
    depths = c.listed("depths", 64) or []
    size = c.integer("window_size", 1)
    sides = (
        [a // b for a, b in zip(c.integers("image_size", 2, 1), c.integers("patch_size", 2, 1), strict=True)]
        if not isinstance(c.get("image_size"), int) or not isinstance(c.get("patch_size"), int)
        else [c.integer("image_size", 1) // c.integer("patch_size", 1)] * 2
    )
    kinds: list[str] = []
    for stage, depth in enumerate(depths):
        if isinstance(depth, bool) or not isinstance(depth, int) or not 0 < depth <= MAX_LAYERS:
            raise malformed("'depths' must be numbers of layers")
        small = min(side >> stage for side in sides)
        window = max(1, min(size, small))
        kinds += [f"{window} {window // 2 if i % 2 and small > size else 0}" for i in range(depth)]
        if len(kinds) > MAX_LAYERS:
            raise malformed(f"more than {MAX_LAYERS} layers in 'depths'")
    if not kinds:
        raise malformed("'depths' is missing")
    doc = "Swin: windows of an image, shifted by half their width in every second layer of a stage."
    masks = {
        k: "shifted_window(y, {0}, {1}) & shifted_window(x, {0}, {1})".format(*k.split()) for k in dict.fromkeys(kinds)
    }
    return pattern_text("swin", doc, by_layer(kinds, masks), [], [], [], " over grid(y, x)")


_LLAMA4 = {"num_hidden_layers": 48, "no_rope_layer_interval": 4, "attention_chunk_size": 8192}
_QWEN = {"num_hidden_layers": 32, "sliding_window": 4096, "max_window_layers": 28}

_LLAMA_DOC = "Llama: causal."
_GEMMA_DOC = "Gemma: causal, which `use_bidirectional_attention` does not change in the masks Transformers builds."

#: In the order of the documentation.
KINDS: tuple[Kind, ...] = (
    Kind(("llama",), _causal("llama", _LLAMA_DOC)),
    Kind(("mistral",), _windowed("mistral", "Mistral"), {"sliding_window": 4096}),
    Kind(("mixtral",), _windowed("mixtral", "Mixtral")),
    Kind(("qwen2",), _qwen("qwen2", "Qwen2"), _QWEN),
    Kind(("qwen3",), _qwen("qwen3", "Qwen3"), _QWEN),
    Kind(("gemma",), _causal("gemma", _GEMMA_DOC)),
    Kind(("gemma2",), layered("gemma2", "Gemma 2", alternating), GEMMA2),
    Kind(("gemma3_text",), gemma3_text, GEMMA3),
    Kind(("gemma3",), gemma3),
    Kind(("gemma4_text",), gemma4_text, GEMMA4),
    Kind(("gemma4",), gemma4),
    Kind(("gpt_oss",), _gpt_oss, {"num_hidden_layers": 36, "sliding_window": 128}),
    Kind(("llama4_text", "llama4"), _llama4, _LLAMA4),
    Kind(("phi3",), _windowed("phi3", "Phi-3")),
    Kind(("starcoder2",), _windowed("starcoder2", "StarCoder2")),
    Kind(
        ("cohere2",),
        layered("cohere2", "Command R7B (Cohere 2)", every("sliding_window_pattern")),
        {"num_hidden_layers": 40, "sliding_window": 4096, "sliding_window_pattern": 4},
    ),
    Kind(
        ("olmo3",),
        layered("olmo3", "OLMo 3", lambda c: lambda i: (i + 1) % 4 != 0),
        {"num_hidden_layers": 32, "sliding_window": 4096},
    ),
    Kind(("exaone4",), _exaone4, {"num_hidden_layers": 32, "sliding_window": 4096, "sliding_window_pattern": 4}),
    Kind(("smollm3",), _smollm3, {"num_hidden_layers": 36, "no_rope_layer_interval": 4}),
    Kind(("gpt_neo",), _gpt_neo, {"attention_types": [[["global", "local"], 12]], "window_size": 256}),
    Kind(("bloom",), _bloom),
    Kind(("mpt",), _mpt),
    Kind(("falcon",), _falcon, {"hidden_size": 4544, "num_attention_heads": 71}),
    Kind(
        ("modernbert",),
        _modernbert,
        {"num_hidden_layers": 22, "local_attention": 128, "global_attn_every_n_layers": 3},
    ),
    Kind(("bert",), _bert),
    Kind(("t5",), _t5, {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128}),
    Kind(("paligemma",), paligemma),
    Kind(("longformer",), _longformer, {"num_hidden_layers": 12, "attention_window": 512}),
    Kind(("led",), _led, {"encoder_layers": 12, "attention_window": 512}),
    Kind(("big_bird",), _big_bird, {"attention_type": "block_sparse", "block_size": 64, "num_random_blocks": 3}),
    Kind(("swin",), _swin, {"depths": [2, 2, 6, 2], "window_size": 7, "image_size": 224, "patch_size": 4}),
)

"""Decoders of Transformers, layer by layer: plain, with left padding, packed, and with a cache."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")
transformers = pytest.importorskip("transformers", reason="needs the extra `oracles`")

from .patterns import Mask, model, visible, with_clause  # noqa: E402
from .recorder import Call, recording, tiny_model, tokens  # noqa: E402

pytestmark = pytest.mark.oracle
W = 7


@dataclass(frozen=True)
class Case:
    """A model kind: its configuration class, what is changed in it, and the same for our pattern."""

    name: str
    config: str
    layers: int
    changes: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)

    def values(self) -> dict[str, Any]:
        sink = {"sink_logit": np.zeros(4)} if self.name == "gpt_oss" else {}
        return {**self.arguments, **sink}


_SLIDING = {"sliding_window": W}
_SWITCHED = {**_SLIDING, "use_sliding_window": True}
_WINDOW = {"window": W}
_EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
CASES = (
    Case("mistral", "MistralConfig", 2, _SLIDING, _WINDOW),
    Case("phi3", "Phi3Config", 2, _SLIDING, _WINDOW),
    Case("gemma2", "Gemma2Config", 4, _SLIDING, _WINDOW),
    Case("gemma3", "Gemma3TextConfig", 7, _SLIDING, _WINDOW),
    Case("gemma3", "Gemma3TextConfig", 4, {**_SLIDING, "sliding_window_pattern": 2}, {**_WINDOW, "period": 2}),
    Case("gpt_oss", "GptOssConfig", 4, {**_SLIDING, **_EXPERTS}, _WINDOW),
    Case("cohere2", "Cohere2Config", 5, _SLIDING, _WINDOW),
    Case("olmo3", "Olmo3Config", 5, _SLIDING, _WINDOW),
    Case("exaone4", "Exaone4Config", 5, _SLIDING, _WINDOW),
    Case(
        "smollm3", "SmolLM3Config", 5, {**_SLIDING, "use_sliding_window": True}, {**_WINDOW, "use_sliding_window": True}
    ),
    Case("smollm3", "SmolLM3Config", 4),
    Case(
        "qwen2",
        "Qwen2Config",
        4,
        {**_SWITCHED, "max_window_layers": 2},
        {**_WINDOW, "use_sliding_window": True, "max_window_layers": 2},
    ),
    Case("qwen2", "Qwen2Config", 2, {"max_window_layers": 1}, {"max_window_layers": 1}),
    Case(
        "llama4",
        "Llama4TextConfig",
        5,
        {"attention_chunk_size": W, "intermediate_size_mlp": 32, **_EXPERTS},
        {"chunk_size": W},
    ),
)
cases = pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.name}-{c.layers}")


@cache
def build(index: int) -> Any:
    case = CASES[index]
    return tiny_model(getattr(transformers, case.config), num_hidden_layers=case.layers, **case.changes)


def compare(case: Case, calls: list[Call], expected: Any, rows: Any = slice(None), b: int = 0) -> None:
    """Every layer's mask is ``expected(layer)``; keys before those present are kept by no query."""
    assert [c.layer for c in calls] == list(range(case.layers))
    for call in calls:
        ours: Mask = expected(call.layer)
        start, count = call.kv_offset, call.mask.shape[-1]
        for head in call.mask[b]:
            np.testing.assert_array_equal(ours[rows, start : start + count], head[rows], f"layer {call.layer}")
        assert not ours[rows, :start].any(), f"layer {call.layer}: a key that the cache has dropped is kept"


@cases
@pytest.mark.parametrize("length", [1, 6, 7, 8, 22])
def test_a_whole_sequence(case: Case, length: int) -> None:
    with recording() as calls:
        build(CASES.index(case))(input_ids=tokens(1, length), use_cache=False)
    program = model(case.name)
    compare(case, calls, lambda layer: visible(program, length, heads=4, layer=layer, **case.values()))


def padded(case: Case, real: Any) -> tuple[Any, dict[str, Any]]:
    """The pattern with left padding, and its inputs."""
    values = {**case.values(), "real": real}
    if case.name != "llama4":
        return with_clause(case.name, "real: bool[token]", "real[k]"), values
    # Chunks start at the first real token.
    position = np.arange(real.shape[-1]) - np.argmax(real, axis=-1)[..., None]
    values |= {"doc": real.astype(np.int64), "position": position}
    return with_clause("llama4_packed", "real: bool[token]", "real[k]"), values


def packed(case: Case, doc: Any, position: Any) -> tuple[Any, dict[str, Any]]:
    """The pattern with packed documents, and its inputs."""
    values = {**case.values(), "doc": doc}
    if case.name != "llama4":
        return with_clause(case.name, "doc: int[token]", "same(doc)"), values
    return model("llama4_packed"), values | {"position": position}


@cases
@pytest.mark.parametrize("padding", [1, 5, 12])
def test_left_padding(case: Case, padding: int) -> None:
    length = 22
    real = np.arange(length) >= np.array([[padding], [0]])
    with recording() as calls:
        mask = torch.from_numpy(real.astype(np.int64))
        build(CASES.index(case))(input_ids=tokens(2, length), attention_mask=mask, use_cache=False)
    program, values = padded(case, real)
    for b in range(2):

        def expected(layer: int, b: int = b) -> Mask:
            return visible(program, length, heads=4, layer=layer, batch=2, b=b, **values)

        # Rows of padding queries mean nothing.
        compare(case, calls, expected, real[b], b)


@cases
def test_packed_documents(case: Case) -> None:
    lengths = [5, 12, 1, 9]
    doc = np.repeat(np.arange(4), lengths)
    position = np.concatenate([np.arange(n) for n in lengths])
    ids, positions = tokens(1, len(doc)), torch.from_numpy(position)[None]
    with recording() as calls:
        build(CASES.index(case))(input_ids=ids, position_ids=positions, use_cache=False)
    program, values = packed(case, doc, position)
    if case.name == "gpt_oss":
        # Its code keeps the positions from the mask, and so attends across documents.
        program, values = model(case.name), case.values()
    compare(case, calls, lambda layer: visible(program, len(doc), heads=4, layer=layer, **values))


def test_packed_documents_of_gpt_oss() -> None:
    """What its layers would be given, if its code told the mask functions the positions."""
    case = next(c for c in CASES if c.name == "gpt_oss")
    lengths = [5, 12, 1, 9]
    doc = np.repeat(np.arange(4), lengths)
    position = np.concatenate([np.arange(n) for n in lengths])
    config = build(CASES.index(case)).config
    program, values = packed(case, doc, position)
    with recording():
        masks = transformers.masking_utils.create_masks_for_generate(
            config, torch.zeros(1, len(doc), 32), None, None, position_ids=torch.from_numpy(position)[None]
        )
    for layer, kind in enumerate(config.layer_types):
        ours = visible(program, len(doc), heads=4, layer=layer, **values)
        np.testing.assert_array_equal(ours, masks[kind][0, 0].numpy(), f"layer {layer}")


@cases
@pytest.mark.parametrize("cropped", [True, False], ids=["sliding cache", "full cache"])
@pytest.mark.parametrize(("past", "new"), [(15, 1), (15, 5), (3, 2), (6, 1), (7, 9)])
def test_decoding(case: Case, cropped: bool, past: int, new: int) -> None:
    net = build(CASES.index(case))
    cache = transformers.DynamicCache(config=net.config) if cropped else transformers.DynamicCache()
    ids = tokens(1, past + new)
    with recording() as calls:
        net(input_ids=ids[:, :past], past_key_values=cache)
        calls.clear()
        net(input_ids=ids[:, past:], past_key_values=cache)
    program = model(case.name)
    compare(case, calls, lambda layer: visible(program, new, past + new, heads=4, layer=layer, **case.values()))


@cases
def test_decoding_with_left_padding(case: Case) -> None:
    past, new, padding = 15, 3, 4
    net = build(CASES.index(case))
    real = np.arange(past + new) >= padding
    mask = torch.from_numpy(real.astype(np.int64))[None]
    cache = transformers.DynamicCache(config=net.config)
    ids = tokens(1, past + new)
    with recording() as calls:
        net(input_ids=ids[:, :past], attention_mask=mask[:, :past], past_key_values=cache)
        calls.clear()
        net(input_ids=ids[:, past:], attention_mask=mask, past_key_values=cache)
    program, values = padded(case, real)
    compare(case, calls, lambda layer: visible(program, new, past + new, heads=4, layer=layer, **values))

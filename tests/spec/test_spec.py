"""Specs and patterns: what comes back is what was stored, and nothing else gets in."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import maskc
from maskc import MaskcError

TEXT = """
## A pattern for these tests.
pattern p(w: int = 4, x: float = 0.5, flag: bool = true,
    mode: {full, sparse} = full, t: int[layer, head], doc: int[token]) {
    attend causal & same(doc) & match mode { full: window(w); sparse: k < t[layer, h] } | flag & q == k
    score s * x
    assert k <= q
}
"""


@pytest.fixture(scope="module")
def pattern():
    return maskc.parse(TEXT)


ARGS = {"w": 7, "x": 0.1, "flag": False, "mode": "sparse", "t": [[1, 2], [3, 4]]}


@settings(max_examples=25, deadline=None)
@given(
    w=st.integers(0, 2**62),
    x=st.floats(allow_nan=False, allow_infinity=False),
    flag=st.booleans(),
    mode=st.sampled_from(["full", "sparse"]),
    t=st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=2), min_size=1, max_size=3),
)
def test_what_comes_back_is_what_was_stored(w, x, flag, mode, t):
    pattern = maskc.parse(TEXT).with_args(w=w, x=x, flag=flag, mode=mode, t=t)
    text = json.dumps(pattern.spec())
    for spec in (text, json.loads(text)):
        back = maskc.from_spec(spec)
        assert back == pattern
        assert back.program == pattern.program
        assert dict(back.args) == dict(pattern.args)
    assert maskc.from_spec(text).spec() == pattern.spec()


def test_the_form(pattern):
    spec = maskc.to_spec(pattern.with_args(**ARGS))
    assert list(spec) == ["maskc", "pattern", "args", "hash"]
    assert (spec["maskc"], spec["args"]) == (1, ARGS)
    assert maskc.parse(spec["pattern"]).program == pattern.program
    assert len(spec["hash"]) == 64


def test_the_hash_is_of_the_meaning(pattern):
    renamed = TEXT.replace("pattern p(", "pattern other(").replace("\n", "\n\n").replace(" & ", "  &  # and\n")
    assert maskc.parse(renamed) == pattern
    assert hash(maskc.parse(renamed)) == hash(pattern)
    assert maskc.parse(TEXT.replace("k <= q", "k <= q + 1")) != pattern
    assert pattern.with_args(w=4) == pattern  # its default
    assert pattern.with_args(w=5) != pattern
    assert pattern.with_args(t=[[1]]) != pattern.with_args(t=[[1, 1]])
    assert pattern.with_args(mode=1) == pattern.with_args(mode="sparse")
    assert pattern.with_args(t=torch.tensor([[1, 2]])) == pattern.with_args(t=((1, 2),))
    assert pattern != "p"


@pytest.mark.parametrize("version", [10**5000, -(10**5000), 2**40, 1e300, float("nan")], ids=list("abcde"))
def test_a_version_of_any_size(version):
    with pytest.raises(MaskcError) as raised:
        maskc.from_spec({"maskc": version, "pattern": "causal", "args": {}})
    assert raised.value.codes == ("E602",)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize("kind", ["int", "float", "bool", "{full, sparse}", "int[head]", "float[4]"])
def test_a_number_of_any_size(kind):
    value = [10**5000] if "[" in kind else 10**5000
    with pytest.raises(MaskcError):
        maskc.from_spec({"maskc": 1, "pattern": f"pattern p(x: {kind}) {{ attend causal }}", "args": {"x": value}})


def test_labels_take_no_more_room_than_is_meant():
    labels = ["a"] * (1 << 19) + ["a" * 256]  # NumPy would make all of them 1024 bytes long
    text = "pattern p(x: {a, b}[head]) { attend match x[h] { a: causal; b: all } }"
    with pytest.raises(MaskcError, match="too large") as raised:
        maskc.from_spec({"maskc": 1, "pattern": text, "args": {"x": labels}})
    assert raised.value.codes == ("E601",)


def test_the_hash_is_the_same_in_another_process(pattern):
    code = f"import maskc; print(maskc.parse({TEXT!r}).with_args(w=5).hash)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == pattern.with_args(w=5).hash


def test_patterns_are_immutable_and_can_be_pickled(pattern):
    given = pattern.with_args(**ARGS)
    assert pattern.args == {}
    back = pickle.loads(pickle.dumps(given))
    assert back == given
    assert back.program == given.program
    assert given.with_args(w=9).args == {**given.args, "w": 9}
    assert str(given) == given.text
    assert maskc.parse(str(given)).program == given.program
    with pytest.raises(AttributeError):
        given.args = {}


def test_a_spec_compiles(pattern):
    q, k, v = (torch.randn(1, 2, 5, 4) for _ in "qkv")
    spec = pattern.with_args(**ARGS).spec()
    found = maskc.compile(spec, heads=2, layer=1, backend="reference")(q, k, v, doc=[0] * 5)
    wanted = maskc.compile(pattern, heads=2, layer=1, backend="reference", **ARGS)(q, k, v, doc=[0] * 5)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("args", "code"),
    [
        ({"w": "4"}, "E503"),
        ({"v": 4}, "E502"),
        ({"doc": [1]}, "E502"),
        ({"mode": "fast"}, "E303"),
        ({"t": [[1], [1, 2]]}, "E505"),
        ({"t": [["a"]]}, "E503"),
        ({"w": None}, "E601"),
        ({"t": {"0": 1}}, "E601"),
        ([1], "E601"),
    ],
)
def test_arguments_that_are_wrong(pattern, args, code):
    with pytest.raises(MaskcError) as error:
        maskc.from_spec({"maskc": 1, "pattern": pattern.text, "args": args})
    assert error.value.codes == (code,)


def nested(depth):
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    ("spec", "code", "words"),
    [
        ("{", "E601", "not JSON"),
        ("sliding_window(8)", "E601", "maskc.parse(text).spec()"),
        ("[]", "E601", "found a list"),
        ("null", "E601", "found nothing"),
        (nested(100_000), "E601", "malformed spec"),
        ('{"maskc": 1, "pattern": "causal", "args": {"w": NaN}}', "E601", "NaN is no JSON"),
        ({"pattern": "causal"}, "E601", "is missing"),
        ({"maskc": 2, "pattern": "causal"}, "E602", "version 2"),
        ({"maskc": True, "pattern": "causal"}, "E602", "upgrade"),
        ({"maskc": 1}, "E601", '"pattern" must be a string'),
        ({"maskc": 1, "pattern": 3}, "E601", "found a int"),
        ({"maskc": 1, "pattern": "causal", "arg": {}}, "E601", "unknown keys: 'arg'"),
        ({"maskc": 1, "pattern": "causal", "hash": 3}, "E601", '"hash" must be a string'),
        ({"maskc": 1, "pattern": "causal", "hash": "0" * 64}, "E603", "hash 000000000000"),
        ({"maskc": 1, "pattern": "#" * (1 << 20) + "\ncausal"}, "E601", "at most"),
        ({"maskc": 1, "pattern": "causall"}, "E201", "causal"),
        ({"maskc": 1, "pattern": "causal", "args": {"t": json.loads(nested(20))}}, "E601", "too large"),
        ({"maskc": 1, "pattern": "causal", "args": {"t": [0] * (1 << 22), "u": [1]}}, "E601", "too large"),
    ],
)
def test_what_is_no_spec(spec, code, words):
    with pytest.raises(MaskcError) as error:
        maskc.from_spec(spec)
    assert error.value.codes == (code,)
    assert words in str(error.value)


def test_an_edited_spec_is_noticed_and_may_be_accepted(pattern):
    spec = pattern.with_args(**ARGS).spec()
    spec["args"]["w"] = 8
    with pytest.raises(MaskcError, match='remove "hash"') as error:
        maskc.from_spec(spec)
    assert error.value.codes == ("E603",)
    del spec["hash"]
    assert maskc.from_spec(spec).args["w"] == 8


def test_every_release_accepts_what_this_one_writes():
    """The stored hash depends on the text and the arguments alone: never on what the passes make of them."""
    text = "pattern p(w: int = 4) { attend k <= q & q - k < w }"
    spec = {"maskc": 1, "pattern": text + "\n", "args": {"w": 8}}
    spec["hash"] = "11fa2dbcbb01d58627e99d8f3f77c86a688c50d3037f9e454b1f344b737e5c44"
    assert maskc.from_spec(spec).args["w"] == 8
    with pytest.raises(MaskcError, match="says hash"):
        maskc.from_spec({**spec, "pattern": text.replace("<=", "<")})


def test_a_float_that_json_cannot_hold(pattern):
    with pytest.raises(MaskcError, match="finite") as error:
        pattern.with_args(x=float("inf")).spec()
    assert error.value.codes == ("E601",)

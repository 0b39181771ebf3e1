"""What the CPU computes is what the language means."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.cpu.calls import assert_same, case, use

MASKS = [
    "true",
    "false",
    "causal",
    "~causal",
    "k >= q",
    "sliding_window(20)",
    "-9 <= q - k < 12",
    "sliding_window(20) | sinks(4)",
    "-12 < q - k < 12 | k < 7 | q < 3",
    "causal & same(token // 32)",
    "causal & same(token // 10)",
    "same(token // 7)",
    "causal on token // 16",
    "sliding_window(40) & q != 5 & q // 8 != 3",
    "(q + k) % 3 == 0",
    "hash(q, k) % 4 == 0",
    "k == hash(q) % size(k)",
    "h == 0 & causal | h > 0 & sliding_window(9)",
    "h % 2 == 0 | causal",
    "b == 0 & causal | k < 3",
]


@pytest.mark.parametrize("way", ["rows", "tiles"])
@pytest.mark.parametrize("text", MASKS)
def test_masks(text: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, way)
    assert_same(case(text, 75), with_lse=way == "rows")


@pytest.mark.parametrize("way", ["rows", "tiles"])
@pytest.mark.parametrize("text", ["causal", "sliding_window(20) | sinks(4)", "~causal", "hash(q, k) % 4 == 0"])
@pytest.mark.parametrize(("n", "m"), [(1, 90), (37, 90), (33, 33), (1, 1)])
def test_fewer_queries_than_keys(text: str, n: int, m: int, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, way)
    assert_same(case(text, n, m, value_dim=24))


def test_cross_attention_with_inputs_by_query_and_key() -> None:
    text = """pattern p(a: int[q], c: int[k]) over decoder -> encoder {
        attend a[q] == c[k] & k <= q + 20
    }"""
    rng = np.random.default_rng(0)
    a, c = rng.integers(0, 3, (2, 50)), rng.integers(0, 3, (70,))
    assert_same(case(text, 50, 70, a=a, c=c))


def test_documents_that_differ_from_batch_entry_to_batch_entry() -> None:
    text = "pattern p(doc: int[token]) { attend causal & same(doc) }"
    doc = np.sort(np.random.default_rng(0).integers(0, 6, (3, 80)), axis=1)
    assert_same(case(text, 80, batch=3, doc=doc))


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (6, 1), (6, 2), (6, 6)])
@pytest.mark.parametrize("text", ["sliding_window(9)", "h < 4 & sliding_window(9) | h == 2 & causal | h == 5"])
def test_grouped_heads(text: str, heads: int, kv_heads: int) -> None:
    assert_same(case(text, heads=heads, kv_heads=kv_heads))


SCORES = {
    "alibi": ("score s + slope[h] * (q - k)", {"slope": (4,)}),
    "relative bias": ("score s + bias[h, q - k + 30]", {"bias": (4, 60)}),
    "soft cap": ("score 3 * tanh(s / 3)\n score s * temperature[h]", {"temperature": (4,)}),
    "by query, batched": ("score s * gain[q, h]", {"gain": (2, 75, 4)}),
    "extremes": ("score max(min(s, cap[h]), 0.1 * s) + abs(s)", {"cap": (4,)}),
    "functions": ("score exp(0.1 * s) + sin(s) * cos(s) + log(1 + s * s) + sqrt(1 + s * s)", {}),
    "no product": ("score 0.1 * k", {}),
}


@pytest.mark.parametrize("way", ["rows", "tiles"])
@pytest.mark.parametrize("normalize", ["softmax", "sigmoid", "relu"])
@pytest.mark.parametrize("name", SCORES)
def test_scores(name: str, normalize: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, way)
    statements, floats = SCORES[name]
    params = {"slope": "head", "bias": "head, 60", "temperature": "head", "gain": "q, head", "cap": "head"}
    signature = ", ".join(f"{n}: float[{params[n]}]" for n in floats)
    text = (
        f"pattern p({signature}) {{\n attend sliding_window(20) | sinks(3)\n {statements}\n normalize {normalize}\n}}"
    )
    assert_same(case(text, floats=floats))


@pytest.mark.parametrize("mask", ["sliding_window(9)", "causal & q > 8", "false"])
def test_sinks_and_outputs(mask: str) -> None:
    text = f"""pattern p(sink: float[head], g: float[q, head]) {{
        attend {mask}
        normalize softmax(sink = sink[h])
        output o * sigmoid(g[q, h])
    }}"""
    one = case(text, floats={"sink": (4,), "g": (75, 4)})
    assert_same(one)
    if mask == "false":
        assert torch.equal(one.run()[1], one.floats["sink"][None, :, None].expand(2, 4, 75))


def test_a_sink_that_depends_on_the_query() -> None:
    text = "pattern p(t: float[q]) {\n attend causal\n normalize softmax(sink = t[q] * 0.5)\n}"
    assert_same(case(text, 40, 60, floats={"t": (2, 40)}))


@pytest.mark.parametrize("way", ["rows", "tiles"])
def test_layouts_are_applied_and_undone(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, way)
    rng = np.random.default_rng(0)
    plan = {"q_order": rng.permutation(50), "k_order": rng.permutation(75)}
    text = "pattern p(slope: float[head]) {\n attend causal\n score s + slope[h] * (q - k)\n}"
    assert_same(case(text, 50, 75, floats={"slope": (4,)}, plan=plan))
    assert_same(case("sliding_window(20)", 50, 75, plan=plan))
    stripes = np.argsort(np.arange(75) % 5, kind="stable")
    assert_same(case("same(token % 5)", plan={"q_order": stripes, "k_order": stripes}))


def test_larger_than_a_strip_of_scores() -> None:
    text = "pattern p(slope: float[head]) {\n attend causal\n score s + slope[h] * (q - k)\n}"
    assert_same(case(text, 700, heads=2, kv_heads=1, batch=1, floats={"slope": (2,)}))

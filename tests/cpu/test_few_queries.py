"""A few queries, whose mask is looked at and not planned: what the reference gives, and as many jobs as masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import maskc
from maskc.backends.cpu.few import few_queries
from maskc.tiles.binding import make_binding
from maskc.tiles.classify import Classifier

torch = pytest.importorskip("torch", reason="needs torch")

from maskc.reference.attention import attention as reference  # noqa: E402

PATTERNS: dict[str, tuple[str, dict[str, Any]]] = {
    "causal": ("causal", {}),
    "window and sinks": ("sliding_window(9) | sinks(3)", {}),
    "stripes": ("causal & (q - k) % 5 == 0", {}),
    "by head": ("match h { 0: causal; 1: sliding_window(4); else: sinks(2) }", {}),
    "by row": ("pattern p(first: int[batch]) { attend causal & k >= first[b] }", {"first": [0, 39, 7]}),
    "by head and row": (
        "pattern p(first: int[batch]) { attend causal & k >= first[b] + h // 2 * 3 }",
        {"first": [0, 5, 5]},
    ),
    "documents": ("pattern p(doc: int[token]) { attend causal & same(doc) }", {"doc": [[0] * 20 + [1] * 20] * 3}),
    "rows without keys": ("q % 2 == 0 & sinks(2)", {}),
    "nothing": ("k > q", {}),
    "scores and a sink": ("pattern p { attend causal; score s - 0.1 * (q - k); normalize softmax(sink = 0.5) }", {}),
    "sigmoid": ("pattern p { attend sliding_window(5); normalize sigmoid }", {}),
}


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("queries", [1, 2, 8])
def test_as_the_reference(name: str, queries: int) -> None:
    text, inputs = PATTERNS[name]
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(3, heads, n, 16, generator=generator, dtype=torch.float64).requires_grad_()
        for heads, n in ((4, queries), (2, 40), (2, 40))
    )
    op = maskc.compile(text, heads=4)
    out = op(q, k, v, **inputs)
    wanted, _ = reference(op.program, op.bind(queries, 40, batch=3, **inputs), q, k, v, scale=0.25, floats={})
    torch.testing.assert_close(out, wanted)
    grads = [torch.autograd.grad(x.square().sum(), (q, k, v)) for x in (out, wanted)]
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs)


def schedules(text: str, queries: int, keys: int, **values: Any) -> Any:
    program = maskc.parse(text).program
    return few_queries(program, make_binding(program, queries, keys, heads=4, batch=3, **values))


def test_equal_masks_are_one_group() -> None:
    assert [(s.heads, s.batches) for s in schedules("causal", 1, 40)] == [((0, 1, 2, 3), (0, 1, 2))]
    by_row = schedules(PATTERNS["by row"][0], 1, 40, first=np.array([4, 0, 4]))
    assert [(s.heads, s.batches) for s in by_row] == [((0, 1, 2, 3), (0, 2)), ((0, 1, 2, 3), (1,))]


def test_only_live_keys_are_touched() -> None:
    (window,) = schedules("sliding_window(9)", 1, 4000)
    assert (window.jobs[0].k_start, window.jobs[0].k_len, window.jobs[0].mask) == (3991, 9, None)
    (ends,) = schedules("sliding_window(9) | sinks(3)", 1, 4000)
    assert ends.jobs[0].k_runs == ((0, 3), (3991, 4000))
    assert ends.jobs[0].mask is None


def test_many_queries_and_many_keys_are_planned() -> None:
    assert schedules("causal", 9, 40) is None
    assert schedules("causal", 1, 1 << 20) is None
    assert schedules("causal", 1, 1 << 16) is not None


@pytest.mark.parametrize("queries", [1, 20])
def test_where_they_are_planned_no_more_pairs_are_looked_at_than_there_are(
    queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, seen, points = 1 << 17, [0], Classifier.points

    def counted(self: Classifier, q: Any, k: Any) -> Any:
        found = points(self, q, k)
        seen[0] += found.size
        return found

    monkeypatch.setattr(Classifier, "points", counted)
    op = maskc.compile("causal & (q - k) % 64 == 0", heads=1, backend="cpu")
    q, k = torch.randn(1, 1, queries, 8), torch.randn(1, 1, tokens, 8)
    out = op(q, k, k)
    kept = k[:, :, 63::64]
    last = torch.nn.functional.scaled_dot_product_attention(q[:, :, -1:], kept, kept)
    torch.testing.assert_close(out[:, :, -1:], last)
    assert 0 < seen[0] <= 4 * queries * tokens

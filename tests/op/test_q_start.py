"""Queries from the middle of a sequence: ``q_start`` says where they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import maskc

Mask = Callable[[np.ndarray, np.ndarray], np.ndarray]
DOC = np.repeat([4, 1, 9], [50, 61, 39])
OWN = np.arange(150) % 5
#: A pattern, its inputs of the whole sequence, and what it means.
MASKS: dict[str, tuple[str, dict[str, Any], Mask]] = {
    "window": ("causal & sliding_window(40)", {}, lambda q, k: (k <= q) & (q - k < 40)),
    "both directions": ("abs(q - k) < 30 | k < 3", {}, lambda q, k: (abs(q - k) < 30) | (k < 3)),
    "documents": ("pattern p(doc: int[token]) { attend same(doc) }", {"doc": DOC}, lambda q, k: DOC[q] == DOC[k]),
    "by query": (
        "pattern p(own: int[q]) { attend (k + own[q]) % 5 == 0 & k < q + 20 }",
        {"own": OWN},
        lambda q, k: ((k + OWN[q]) % 5 == 0) & (k < q + 20),
    ),
}
STARTS = (0, 37, 64)


def attended(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kept: np.ndarray) -> torch.Tensor:
    scores = (q @ k.transpose(-1, -2)) / q.shape[-1] ** 0.5
    scores = scores.masked_fill(~torch.from_numpy(kept), -torch.inf)
    return scores.softmax(-1).nan_to_num(0.0) @ v


def tensors(length: int, *, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, n, 16, dtype=dtype, requires_grad=True) for n in (length, 150, 150))
    return q, k, v


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("length", [1, 70])
def test_a_chunk_is_what_the_formula_says(backend: str, name: str, start: int, length: int) -> None:
    text, inputs, formula = MASKS[name]
    given = {n: x[start : start + length] if n == "own" else x for n, x in inputs.items()}
    at, keys = np.arange(start, start + length)[:, None], np.arange(150)[None, :]
    kept = np.broadcast_to(formula(at, keys), (length, 150)).copy()
    np.testing.assert_array_equal(maskc.dense_mask(text, length, 150, q_start=start, **given)[0, 0], kept)
    op = maskc.compile(text, heads=2, backend=backend)
    q, k, v = tensors(length)
    ours, theirs = op(q, k, v, q_start=start, **given), attended(q, k, v, kept)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)
    weight = torch.randn_like(ours)
    for a, b in zip(*(torch.autograd.grad((x * weight).sum(), (q, k, v)) for x in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("start", STARTS)
def test_flex_gets_the_chunk_too(start: int) -> None:
    text, _, formula = MASKS["both directions"]
    q, k, v = (x.detach() for x in tensors(70, dtype=torch.float32))
    kept = formula(np.arange(start, start + 70)[:, None], np.arange(150)[None, :])
    out = maskc.compile(text, heads=2, backend="flex")(q, k, v, q_start=start)
    torch.testing.assert_close(out, attended(q, k, v, kept), atol=1e-5, rtol=1e-5)


def test_one_graph_serves_every_start() -> None:
    text, _, formula = MASKS["window"]
    op = maskc.compile(text, heads=2)
    q, k, v = tensors(70)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda start: op(q, k, v, q_start=start), fullgraph=True, dynamic=True, backend=counter)
    for start in range(5, 80, 15):
        kept = formula(np.arange(start, start + 70)[:, None], np.arange(150)[None, :])
        torch.testing.assert_close(compiled(start), attended(q, k, v, kept), atol=1e-12, rtol=1e-12)
    assert counter.frame_count == 1
    for start, why in ((81, "E506"), (-3, "E504")):
        with pytest.raises(maskc.MaskcError, match=why):
            compiled(start)


def test_plans_and_proofs_know_the_start() -> None:
    op = maskc.compile("pattern p { attend causal & sliding_window(64)\n assert k <= q }", heads=1)
    chunk = op.plan(256, 1024, q_start=512)
    whole = op.plan(1024, 1024)
    np.testing.assert_array_equal(chunk.kinds(), whole.kinds()[4:6])
    assert chunk.digest != op.plan(256, 1024).digest
    op.check(256, 1024, q_start=512)
    with pytest.raises(maskc.MaskcError, match="query 512 keeps key 513"):
        maskc.check_assertions("k <= q + 1", 256, 1024, q_start=512, claims="k <= q")
    maskc.check_assertions("k <= q + 1", 256, 1024, q_start=512, claims="k <= 768")


def test_the_last_queries_need_no_start() -> None:
    op = maskc.compile("causal & sliding_window(64)", heads=1)
    assert op.plan(70, 150, q_start=80).digest == op.plan(70, 150).digest


@pytest.mark.parametrize(
    ("start", "code", "says"),
    [
        (-1, "E504", "q_start must be at least 0, not -1"),
        (81, "E506", "from 0 to 80"),
        (True, "E503", "not True"),
        (1.5, "E503", "not 1.5"),
        ([0], "E503", "not a list"),
    ],
)
def test_a_start_that_cannot_be(start: Any, code: str, says: str) -> None:
    op = maskc.compile("causal", heads=2)
    q, k, v = tensors(70)
    calls: list[Callable[[], Any]] = [
        lambda: op(q, k, v, q_start=start),
        lambda: op(q.to("meta"), k.to("meta"), v.to("meta"), q_start=start),
        lambda: op.plan(70, 150, q_start=start),
        lambda: maskc.dense_mask("causal", 70, 150, q_start=start),
    ]
    for call in calls:
        with pytest.raises(maskc.MaskcError) as error:
            call()
        assert error.value.diagnostics[0].code == code
        assert says in str(error.value)


def test_two_sequences_have_no_start() -> None:
    op = maskc.compile("pattern p over decoder -> encoder { attend k <= q }", heads=2)
    q, k, v = tensors(70)
    with pytest.raises(maskc.MaskcError, match="two sequences"):
        op(q, k, v, q_start=3)

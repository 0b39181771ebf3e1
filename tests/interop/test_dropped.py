"""A pattern that keeps what the cache has dropped is found, however much work its mask is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", reason="the package transformers is not installed")

import maskc
from maskc.diagnostics import MaskcError
from maskc.interop.transformers import dropped
from maskc.interop.transformers.handle import Request
from maskc.op import Op

BY_HEAD = "match h { 3: sliding_window(60); else: sliding_window(20) }"
BY_ENTRY = "pattern p(width: int[batch]) { attend sliding_window(width[b]) }"
LARGE = "causal & (sliding_window(20) | any(i in 0..4096: hash(q, k, i) % 7 == i & k > q))"


def check(op: Op, rows: int, total: int, gone: int, **inputs: Any) -> None:
    """As for the last ``rows`` of ``total`` tokens, where the first ``gone`` keys are not there."""
    batch = 2 if inputs else 1
    request = Request(None, None, batch, rows, total - gone, total - rows, gone, None)  # type: ignore[arg-type]
    dropped.check_dropped(op, request, 0, inputs)


@pytest.fixture(params=["evaluated", "proved"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dropped, "_OUTRIGHT", 1 << 40 if request.param == "evaluated" else 0)


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize(
    ("text", "inputs", "most"),
    [
        ("sliding_window(20)", {}, 20),
        (BY_HEAD, {}, 60),
        (BY_ENTRY, {"width": np.array([20, 30])}, 30),
        ("sliding_window(20) & q >= 0", {}, 20),
    ],
)
def test_the_last_key_that_is_kept_decides(text: str, inputs: dict[str, Any], most: int, rows: int) -> None:
    op = maskc.compile(text, heads=4)
    first = 100 - rows - most + 1  # that the first of the queries keeps
    check(op, rows, 100, first, **inputs)
    with pytest.raises(MaskcError, match=f"has dropped \\(before {first + 1}\\)") as error:
        check(op, rows, 100, first + 1, **inputs)
    assert error.value.codes == ("E702",)


def test_nothing_is_evaluated_where_that_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many queries, and of few where the mask has many cases."""
    seen: list[int] = []
    prove = dropped._provably_kept
    monkeypatch.setattr(dropped, "_kept", None)
    monkeypatch.setattr(dropped, "_provably_kept", lambda *args: seen.append(args[2]) or prove(*args))
    check(maskc.compile("sliding_window(20)", heads=1), 1 << 16, 1 << 20, 1000)
    check(maskc.compile(LARGE, heads=1), 1, 1 << 16, 1 << 15)
    assert seen == [1000, 1 << 15]


def test_an_empty_batch_keeps_nothing() -> None:
    op = maskc.compile(BY_ENTRY, heads=1)
    request = Request(None, None, 0, 4, 20, 60, 40, None)  # type: ignore[arg-type]
    dropped.check_dropped(op, request, 0, {"width": np.zeros(0, np.int64)})

"""Plans that ops keep between calls: found again, bounded, and never stale."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import maskc


def _attention(op: maskc.Op, doc: torch.Tensor, n: int = 40) -> torch.Tensor:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 1, n, 16) for _ in range(3))
    out = op(q, k, v, doc=doc)
    assert isinstance(out, torch.Tensor)
    return out


TEXT = "pattern p(doc: int[token]) { attend causal & same(doc) }"


def test_equal_inputs_share_a_plan_and_changed_ones_do_not() -> None:
    op, reference = (maskc.compile(TEXT, heads=1, backend=name) for name in ("auto", "reference"))
    doc = torch.arange(40) // 10
    first = _attention(op, doc)
    assert op.cache_info().hits == 0
    torch.testing.assert_close(_attention(op, doc.clone()), first)
    assert op.cache_info()[:2] == (1, 1)
    doc[5:] += 7  # In place: the same tensor, other documents.
    changed = _attention(op, doc)
    assert op.cache_info().misses == 2
    assert not torch.allclose(changed, first)
    torch.testing.assert_close(changed, _attention(reference, doc))


def test_what_is_kept_is_bounded() -> None:
    op = maskc.compile("causal", heads=1)
    for n in range(1, 60):
        q = torch.randn(1, 1, n, 16)
        op(q, q, q)
    info = op.cache_info()
    assert info.misses == 59
    assert info.size <= info.limit < 59


def test_dropout_is_refused() -> None:
    q = torch.randn(1, 1, 8, 16)
    with pytest.raises(maskc.MaskcError, match="dropout is not computed"):
        maskc.compile("causal", heads=1)(q, q, q, dropout=0.1)
    allowed = maskc.compile("pattern p(dropout: int[token]) { attend same(dropout) }", heads=1)
    allowed(q, q, q, dropout=np.zeros(8, int))


def test_plans_in_another_order() -> None:
    op = maskc.compile("dilated(8, 16)", heads=1)
    own, other = op.plan(1024, 1024), op.plan(1024, 1024, layout="auto")
    assert other.k_order.index is not None
    assert other.stats.executed_pairs < own.stats.executed_pairs
    assert other.stats.useful_pairs == own.stats.useful_pairs

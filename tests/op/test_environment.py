"""What the environment variables do to compiled patterns."""

from __future__ import annotations

import pytest
import torch

import maskc


def test_stages_are_dumped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MASKC_DUMP", "normal, plan")
    op = maskc.compile("causal & q - k < 8", heads=1)
    op.plan(32, 32, q_tile=16, k_tile=16)
    text = capsys.readouterr().err
    assert "--- maskc: normal\n" in text
    assert "--- maskc: plan\n" in text
    assert "typed" not in text
    monkeypatch.setenv("MASKC_DUMP", "nromal")
    with pytest.raises(ValueError, match="MASKC_DUMP"):
        maskc.compile("causal", heads=1)


def test_every_call_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    q = torch.randn(1, 1, 8, 4)
    monkeypatch.setenv("MASKC_CHECK", "1")
    op = maskc.compile("pattern p { attend all\n assert k <= q }", heads=1)
    with pytest.raises(maskc.MaskcError) as e:
        op(q, q, q)
    assert e.value.codes == ("E513",)
    maskc.compile("pattern p { attend all\n assert k <= q }", heads=1, check=False)(q, q, q)

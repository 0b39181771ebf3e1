"""Attention over a sequence that is divided among processes: see ``processes.py`` for what they check."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import maskc
from maskc.parallel import ContextParallel

from .processes import run


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of this process."""
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("this torch has no gloo")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="this torch has no gloo")
def test_three_processes(tmp_path: Path) -> None:
    run(3, str(tmp_path))


@pytest.mark.usefixtures("alone")
def test_one_process_needs_nobody() -> None:
    op = maskc.compile("causal & sliding_window(30)", heads=2)
    attend = ContextParallel(op)
    q, k, v = (torch.randn(1, 2, 100, 16) for _ in range(3))
    torch.testing.assert_close(attend(q, k, v, attend.partition(100)), op(q, k, v))


@pytest.mark.usefixtures("alone")
def test_inputs_are_not_kept_and_may_change_in_place() -> None:
    op = maskc.compile("pattern p(doc: int[token]) { attend same(doc) }", heads=2)
    attend, doc = ContextParallel(op), torch.arange(100) // 30
    division = attend.partition(100, doc=doc)
    q, k, v = (torch.randn(1, 2, 100, 16) for _ in range(3))
    for length in (20, 7):
        doc.copy_(torch.arange(100) // length)
        torch.testing.assert_close(attend(q, k, v, division, doc=doc), op(q, k, v, doc=doc.clone()))
    gone = weakref.ref(doc)
    del doc
    gc.collect()
    assert gone() is None

"""Attention over a sequence that is divided among processes: see ``processes.py`` for what they check."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import maskc
from maskc.parallel import ContextParallel

from .processes import run


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="this torch has no gloo")
def test_three_processes(tmp_path: Path) -> None:
    run(3, str(tmp_path))


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="this torch has no gloo")
def test_one_process_needs_nobody(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        op = maskc.compile("causal & sliding_window(30)", heads=2)
        attend = ContextParallel(op)
        q, k, v = (torch.randn(1, 2, 100, 16) for _ in range(3))
        torch.testing.assert_close(attend(q, k, v, attend.partition(100)), op(q, k, v))
    finally:
        dist.destroy_process_group()

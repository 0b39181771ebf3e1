"""The training example: a few steps, by dense masks and by maskc, give the same losses."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch")
EXAMPLE = Path(__file__).parents[2] / "examples" / "train"


def test_a_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.syspath_prepend(str(EXAMPLE))
    spec = importlib.util.spec_from_file_location("train_example", EXAMPLE / "run.py")
    assert spec is not None
    assert spec.loader is not None
    run = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, run)
    spec.loader.exec_module(run)
    settings = run.Settings(steps=8, length=96, dim=16, window=8, threads=torch.get_num_threads())
    steps: list[int] = []
    names = ("eager, dense mask", "maskc")
    try:
        eager, ours = (run.train(name, settings, lambda step, loss: steps.append(step)) for name in names)
    finally:
        for name in ("model", "text"):
            sys.modules.pop(name, None)
    assert steps == [*range(1, 9)] * 2
    assert ours.losses == pytest.approx(eager.losses, abs=1e-4)
    assert min(ours.losses) < ours.losses[0] - 0.05


@pytest.mark.slow
def test_the_command(tmp_path: Any) -> None:
    words = ["--steps", "6", "--length", "128", "--window", "16", "--out", str(tmp_path / "train.png")]
    done = subprocess.run(
        [sys.executable, str(EXAMPLE / "run.py"), *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "largest difference" in done.stdout
    assert (tmp_path / "train.png").stat().st_size > 10_000

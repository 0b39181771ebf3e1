"""The interpreter's process, one a session, and caches that a run of the tests leaves nothing in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="the package triton is not installed")

ROOT = Path(__file__).parents[2]


class Interpreter:
    """Calls functions of ``tests.gpu.interpreted`` in a process where Triton interprets."""

    def __init__(self, cache: Path) -> None:
        environment = {**os.environ, "TRITON_INTERPRET": "1", "MASKC_CACHE_DIR": str(cache)}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.gpu.interpreted"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )

    def call(self, function: str, *args: Any) -> Any:
        """The function's answer; fails the test where the function raises."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([function, *args]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the interpreter's process has ended"
        answer = json.loads(line)
        if "error" in answer:
            pytest.fail(answer["error"], pytrace=False)
        return answer["answer"]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="session")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Interpreter]:
    process = Interpreter(tmp_path_factory.mktemp("kernels"))
    yield process
    process.close()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKC_CACHE_DIR", str(tmp_path / "cache"))

"""Models that several threads run at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs the extra `hf`")

_THREADS = """
import dataclasses, sys, threading
from types import SimpleNamespace
import maskc
from maskc.interop.transformers import attention

sys.setswitchinterval(1e-6)
attention.Op = lambda pattern, **options: pattern.program
attention._OPS = 32
programs = [maskc.parse(f"causal & sliding_window({i})").program for i in range(1, 41)]
how = SimpleNamespace(layer=0, heads=1)
wrong = []

def work(first):
    for i in range(4000):
        program = dataclasses.replace(programs[(first + 7 * i) % 40])  # equal, and not the same
        if attention._op(program, None, how) != program:
            wrong.append(program)

threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
for t in threads:
    t.start()
for t in threads:
    t.join()
sys.exit(bool(wrong) or len(attention._ops) != 32)
"""


def test_ops_are_found_again_by_threads() -> None:
    """Programs are compared by Python, in the middle of what a dictionary does; in a process that may crash."""
    subprocess.run([sys.executable, "-c", _THREADS], check=True)

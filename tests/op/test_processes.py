"""Ops made by many threads at once, and processes that are forked while threads are at work."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from maskc.backends.finding import find
from maskc.backends.handles import handle_of


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads change as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Thing:
    """Something that an operator may name."""


def _run(*work: threading.Thread) -> None:
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()


def test_equal_things_of_many_threads_have_names_of_their_own(restless: None) -> None:
    lost: list[str] = []

    def make() -> None:
        for _ in range(1000):
            things = [Thing() for _ in range(5)]
            names = [handle_of(x, "equal") for x in things]
            lost.extend(name for name, x in zip(names, things, strict=True) if find(name) is not x)

    _run(*(threading.Thread(target=make) for _ in range(8)))
    assert lost == []


def test_a_name_is_looked_for_while_others_are_given(restless: None) -> None:
    said: set[str] = set()
    over = threading.Event()
    kept = [Thing() for _ in range(200)]
    for x in kept:
        handle_of(x, "kept")

    def look() -> None:
        while not over.is_set():
            with pytest.raises(RuntimeError) as error:
                find("nothing.0")
            said.add(str(error.value))

    def make() -> None:
        for i in range(3000):
            handle_of(Thing(), f"{i}")

    looking = threading.Thread(target=look)
    looking.start()
    _run(*(threading.Thread(target=make) for _ in range(4)))
    over.set()
    looking.join()
    assert [x for x in said if "no longer exists" not in x] == []


_FORK = """
import os, signal, sys, threading
import torch
import maskc
from maskc.backends import finding, handles
from maskc.ir import nodes
from maskc.tiles import fields, inputs

torch.set_num_threads(1)
held, over = threading.Event(), threading.Event()

def hold():
    with nodes._lock, inputs._REGISTRY.lock, fields._growing, finding._lock, handles._lock:
        held.set()
        over.wait()

threading.Thread(target=hold).start()
held.wait()
child = os.fork()
if not child:
    signal.alarm(100)  # for one that waits for ever
    op = maskc.compile("pattern p(doc: int(0..9)[token]) { attend causal & same(doc) }", heads=1)
    q = torch.ones(1, 1, 5000, 4)
    assert torch.allclose(op(q, q, q, doc=torch.arange(5000) // 600), q)
    os._exit(0)
status = os.waitpid(child, 0)[1]
over.set()
sys.exit(status != 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_process_is_forked_while_a_thread_plans() -> None:
    """The locks that it holds then are held in the child by a thread that is no more."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", _FORK], check=True)

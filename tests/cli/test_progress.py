"""Long planning shows a bar on a terminal, and is interrupted cleanly."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from maskc.cli import progress as module
from maskc.cli.progress import progress

#: Takes as long to plan as anything may, since nearly every tile of a long sequence has to be looked at.
SLOW = "sin(0.001 * q * k) > 0.999\n"


def command(*words: str) -> list[str]:
    """The command line, which says when it is ready for a signal, though what runs the tests may ignore it."""
    code = (
        "import signal, sys; from maskc.cli import main; signal.signal(signal.SIGINT, signal.default_int_handler);"
        " print('ready', flush=True); main(sys.argv[1:])"
    )
    return [sys.executable, "-c", code, *words]


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "MASKC_CACHE_DIR": str(folder / "cache")}


def interrupted(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What is left of a command that is interrupted while it plans."""
    (folder / "slow.mask").write_text(SLOW, encoding="utf-8")
    running = subprocess.Popen(
        command(*words),
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    time.sleep(2)  # into the planning, by then
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    return subprocess.CompletedProcess(words, running.returncode, out, err)


def test_interrupted_planning_says_so_and_ends_with_130(tmp_path: Path) -> None:
    done = interrupted(tmp_path, "plan", "slow.mask", "--q", "1048576", "--budget", "100000000000")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "maskc: interrupted\n")

    (tmp_path / "quick.mask").write_text("causal\n", encoding="utf-8")
    again = subprocess.run(command("plan", "quick.mask", "--q", "256"), cwd=tmp_path, env=environment(tmp_path))
    assert again.returncode == 0  # with the cache that the first one left


def terminal(monkeypatch: pytest.MonkeyPatch, patience: float) -> io.StringIO:
    """Standard error, as a terminal. Not a fixture: pytest puts its own in place when the test begins."""
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(module, "_PATIENCE", patience)
    return stream


def test_a_bar_shows_how_much_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = terminal(monkeypatch, 0.01)
    ended = time.monotonic() + 30
    with progress("planning") as watch:
        while "50%" not in stream.getvalue() and time.monotonic() < ended:
            watch(100, 200)
            time.sleep(0.01)
    assert "planning" in stream.getvalue()
    assert "50%" in stream.getvalue()


def test_there_is_no_bar_for_what_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = terminal(monkeypatch, 60)
    with progress("planning") as watch:
        watch(1, 2)
    assert stream.getvalue() == ""


def test_there_is_no_bar_where_nobody_looks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.001)
    with progress("planning") as watch:
        time.sleep(0.05)
        watch(1, 2)
    assert capsys.readouterr() == ("", "")

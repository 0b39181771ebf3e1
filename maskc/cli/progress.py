"""A bar for work that takes long."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from maskc import knobs

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["progress"]

_PATIENCE = 0.5  # seconds before there is a bar


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, if that is a terminal, while something takes longer than half a second.

    Gives a function for what is done and how much there is in all; until it is called, the bar only moves.
    """
    if not sys.stderr.isatty() or knobs.TERM.value() == "dumb":
        yield lambda done, total: None
        return
    bar = _Bar(what)
    timer = threading.Timer(_PATIENCE, bar.start)
    timer.daemon = True
    timer.start()
    try:
        yield bar.show
    finally:
        timer.cancel()
        bar.stop()


class _Bar:
    """A bar that is not there yet, is there, or was there."""

    def __init__(self, what: str) -> None:
        self._what, self._lock, self._over = what, threading.Lock(), False
        self._done, self._total = 0, 0
        self._shown: Progress | None = None

    def start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        console = Console(stderr=True, no_color=bool(knobs.NO_COLOR.value()))
        with self._lock:
            if self._over:
                return
            self._shown = Progress(
                *columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False
            )
            self._shown.add_task(self._what, total=self._total or None, completed=self._done)
            self._shown.start()

    def show(self, done: int, total: int) -> None:
        self._done, self._total = done, total
        if self._shown is not None:
            self._shown.update(self._shown.task_ids[0], completed=done, total=total)

    def stop(self) -> None:
        with self._lock:
            self._over = True
            if self._shown is not None:
                self._shown.stop()

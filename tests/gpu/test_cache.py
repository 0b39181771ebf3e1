"""Kernel files: owner-only, whole, and written by many at once."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

from maskc.backends.triton.cache import write_kernel
from maskc.backends.triton.spec import Kernel

KERNEL = Kernel("f", "# a kernel\n" * 1000, ())


def test_only_the_owner_may_read_and_write() -> None:
    path = write_kernel(KERNEL)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_open_directory_is_closed() -> None:
    path = write_kernel(KERNEL)
    path.parent.chmod(0o777)
    write_kernel(KERNEL)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_truncated_or_changed_file_is_written_anew() -> None:
    path = write_kernel(KERNEL)
    for content in ("", KERNEL.text[:100], KERNEL.text + "import os\n"):
        path.write_text(content)
        assert write_kernel(KERNEL).read_text() == KERNEL.text


def test_written_by_many_at_once() -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(write_kernel(KERNEL))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert found[0].read_text() == KERNEL.text
    assert [p.name for p in found[0].parent.iterdir()] == [found[0].name]

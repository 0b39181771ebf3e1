"""Files kept between runs: readable and writable by their owner only, whole or not there at all.

A file that anybody else could have written is never read: kernels and parser tables are trusted.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path

from maskc import knobs

__all__ = ["directory", "read", "write"]

_DIGEST = 32  # bytes of SHA-256 in front of the content


def directory(name: str) -> Path | None:
    """The owner-only directory ``name`` in the cache; None if there cannot be one."""
    path = knobs.CACHE_DIR.value() / name
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError:
        return None
    return path if stat.S_ISDIR(found.st_mode) and _is_private(found) else None


def read(folder: str, name: str) -> bytes | None:
    """The content written under this name; None if it is missing, damaged, or could be somebody else's."""
    where = directory(folder)
    if where is None:
        return None
    try:
        with (where / name).open("rb") as file:
            if not _is_private(os.fstat(file.fileno())):
                return None
            data = file.read()
    except OSError:
        return None
    digest, content = data[:_DIGEST], data[_DIGEST:]
    return content if hashlib.sha256(content).digest() == digest else None


def write(folder: str, name: str, content: bytes) -> bool:
    """Keep a content under a name; readers see all of it or nothing. False if it could not be kept."""
    where = directory(folder)
    if where is None:
        return False
    try:
        handle, temporary = tempfile.mkstemp(dir=where)  # Created with mode 0600.
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(content).digest() + content)
        os.replace(temporary, where / name)
    except OSError:
        return False
    return True


def _is_private(found: os.stat_result) -> bool:
    mine = not hasattr(os, "getuid") or found.st_uid == os.getuid()
    return mine and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)

"""Files kept between runs: readable and writable by their owner only, and whole or not there at all.

Parser tables become objects when they are read, so nothing that anybody else could have written is ever read: neither
from a directory of theirs nor from one that they may write to, nor from below one in which they may put another in its
place. Files are written beside their place and renamed, so that processes that write one at once all leave the same
whole file; a damaged one is made anew.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import shutil
import stat
import tempfile
import warnings
from pathlib import Path

from maskc import knobs

__all__ = ["directory", "names", "read", "text_file", "write"]

_DIGEST = 32  # bytes of SHA-256 in front of the content
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def directory(name: str) -> Path | None:
    """The owner-only directory ``name`` in the cache; None, with one warning a process, if there cannot be one."""
    root = knobs.CACHE_DIR.value()
    try:
        return _own_directory(root, name)
    except OSError as error:
        _warn(str(root), error.strerror or str(error))
        return None


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
    """Keep a content under a name; readers see all of it or nothing. False, with a warning, if it cannot be kept."""
    where = directory(folder)
    return where is not None and _replace(where / name, hashlib.sha256(content).digest() + content)


def names(folder: str) -> list[str]:
    """The names of the contents that are kept, sorted; some may be damaged."""
    where = directory(folder)
    return [] if where is None else sorted(p.name for p in where.iterdir() if not p.name.startswith("."))


def text_file(folder: str, text: str, suffix: str) -> Path:
    """A file of this very text, named by its hash: in the cache, or where that is not to be had in a directory that
    goes when the process ends."""
    content = text.encode()
    name = hashlib.sha256(content).hexdigest() + suffix
    where = directory(folder)
    if where is not None and (_holds(where / name, content) or _replace(where / name, content)):
        return where / name
    path = _temporary(os.getpid()) / name
    if not _holds(path, content):
        path.write_bytes(content)
    return path


def _own_directory(root: Path, name: str) -> Path:
    """Raises OSError where it cannot be made or others may write there."""
    if str(root).startswith("~"):
        raise FileNotFoundError("no home directory is known")
    root = root.absolute()  # what is kept of a path stays true where the process goes elsewhere
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    above = root.stat()
    if hasattr(os, "getuid") and above.st_uid not in (os.getuid(), 0):
        raise PermissionError("it belongs to somebody else")
    if os.name != "nt" and above.st_mode & _OTHERS_WRITE and not above.st_mode & stat.S_ISVTX:
        raise PermissionError("others may write to it")
    path = root / name
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(f"{path} is no directory")
    if not _is_private(found):
        raise PermissionError(f"{path} belongs to somebody else, or others may write to it")
    if found.st_mode & 0o077:
        path.chmod(0o700)
    return path


def _is_private(found: os.stat_result) -> bool:
    mine = not hasattr(os, "getuid") or found.st_uid == os.getuid()
    return mine and (os.name == "nt" or not found.st_mode & _OTHERS_WRITE)


def _holds(path: Path, content: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return _is_private(os.fstat(file.fileno())) and file.read(len(content) + 1) == content
    except OSError:
        return False


def _replace(path: Path, data: bytes) -> bool:
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")  # Created with mode 0600.
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        _warn(str(path.parent), error.strerror or str(error))
        return False
    finally:  # An interrupt leaves nothing behind, either.
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    return True


@functools.lru_cache(maxsize=64)
def _warn(where: str, why: str) -> None:
    """Once for each directory and reason."""
    message = f"maskc keeps nothing in {where}: {why}; set MASKC_CACHE_DIR to a directory of your own"
    warnings.warn(message, RuntimeWarning, stacklevel=4)


@functools.lru_cache(maxsize=1)
def _temporary(process: int) -> Path:
    """A directory that goes when this process ends, and not when one does that was forked from it."""
    path = tempfile.mkdtemp(prefix="maskc-")
    atexit.register(_remove, path, process)
    return Path(path)


def _remove(path: str, process: int) -> None:
    if os.getpid() == process:
        shutil.rmtree(path, ignore_errors=True)

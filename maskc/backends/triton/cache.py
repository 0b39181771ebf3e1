"""Kernel texts as files: Triton compiles functions from the file that they are in.

A file is named by the hash of its text and written by renaming, so that processes that write it at
once all leave the same whole file. A file that does not match its name is written anew. Only the
owner may read or write the directory: what is imported from it is code.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

from maskc.backends.triton.spec import Kernel
from maskc.knobs import CACHE_DIR

__all__ = ["load_kernel", "write_kernel"]

_loaded: dict[tuple[Path, bool], Any] = {}


def load_kernel(kernel: Kernel, *, interpret: bool) -> Any:
    """The Triton function of ``kernel``. ``interpret``: whether Triton's interpreter is on, which decorators look at.

    Raises OSError where the cache directory (knob ``MASKC_CACHE_DIR``) cannot be written.
    """
    path = write_kernel(kernel)
    module = _loaded.get((path, interpret))
    if module is None:
        spec = importlib.util.spec_from_file_location(f"maskc_kernel_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        _loaded[path, interpret] = module
    return getattr(module, kernel.name)


def write_kernel(kernel: Kernel) -> Path:
    """The file that holds ``kernel``'s text; written unless it is there and whole."""
    directory = _own_directory(CACHE_DIR.value() / "triton")
    path = directory / f"{kernel.digest}.py"
    if not _is_whole(path, kernel.digest):
        handle, temporary = tempfile.mkstemp(dir=directory, suffix=".tmp")  # mode 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(kernel.text)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    return path


def _is_whole(path: Path, digest: str) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == digest
    except OSError:
        return False


def _own_directory(path: Path) -> Path:
    """``path`` as a directory that nobody else can write to."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = path.stat()
    if hasattr(os, "getuid") and found.st_uid != os.getuid():
        raise PermissionError(f"{path} belongs to somebody else; set MASKC_CACHE_DIR to a directory of your own")
    if stat.S_IMODE(found.st_mode) & 0o077:
        path.chmod(0o700)
    return path

"""Kernel texts as Triton functions.

Triton compiles the text that Python knows of a function's file. Texts become files of the cache, where people find
them; but what runs, and what Triton is told, is the text that was written in this process: no compiled copy of a file,
nor anything that has come to its place since.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import linecache
from pathlib import Path
from typing import Any

from maskc import cache
from maskc.backends.triton.spec import Kernel

__all__ = ["load_kernel"]

_loaded: dict[tuple[str, bool], Any] = {}


def load_kernel(kernel: Kernel, *, interpret: bool) -> Any:
    """The Triton function of ``kernel``. ``interpret``: whether the interpreter is on, which decorators look at."""
    module = _loaded.get((kernel.digest, interpret))
    if module is None:
        module = _module(cache.text_file("triton", kernel.text, ".py"), kernel.text)
        _loaded[kernel.digest, interpret] = module
    return getattr(module, kernel.name)


class _Text(importlib.abc.SourceLoader):
    """Loads a module from a text, as if it were in a file. Without the time of the file, Python neither reads nor
    writes a compiled copy of it."""

    def __init__(self, path: Path, text: str) -> None:
        self._path, self._text = path, text

    def get_filename(self, fullname: str) -> str:
        return str(self._path)

    def get_data(self, path: str | bytes) -> bytes:
        return self._text.encode()


def _module(path: Path, text: str) -> Any:
    # An entry without a time is never compared with the file.
    linecache.cache[str(path)] = (len(text), None, text.splitlines(keepends=True), str(path))
    spec = importlib.util.spec_from_file_location(f"maskc_kernel_{path.stem}", path, loader=_Text(path, text))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

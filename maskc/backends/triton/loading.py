"""Kernel texts as Triton functions. Triton compiles a function from the file that it is in, so texts become files."""

from __future__ import annotations

import importlib.util
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
        module = _module(cache.text_file("triton", kernel.text, ".py"))
        _loaded[kernel.digest, interpret] = module
    return getattr(module, kernel.name)


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"maskc_kernel_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

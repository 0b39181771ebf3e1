"""Kernel texts become functions, whatever the state of the cache."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path

import pytest

from maskc import cache
from maskc.backends.triton import loading
from maskc.backends.triton.loading import load_kernel
from maskc.backends.triton.spec import Kernel

_TEXT = "import triton\n\n\n@triton.jit\ndef nothing():\n    pass\n"


@pytest.fixture(autouse=True)
def _nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_loaded", {})
    cache._warn.cache_clear()


def _name(kernel: Kernel) -> str:
    name = load_kernel(kernel, interpret=False).__name__
    assert isinstance(name, str)
    return name


def test_a_kernel_is_loaded_once() -> None:
    kernel = Kernel("nothing", _TEXT, ())
    found = load_kernel(kernel, interpret=False)
    assert load_kernel(Kernel("nothing", _TEXT, ()), interpret=False) is found
    assert load_kernel(kernel, interpret=True) is not found


def test_a_damaged_text_is_not_loaded() -> None:
    kernel = Kernel("nothing", _TEXT, ())
    cache.text_file("triton", kernel.text, ".py").write_text("raise SystemExit('not ours')\n")
    assert _name(kernel) == "nothing"


def test_neither_a_compiled_copy_nor_a_later_text_is_run() -> None:
    text = "import triton\n\n\n@triton.jit\ndef one():\n    return 1\n"
    other = text.replace("1", "2")
    path = cache.text_file("triton", text, ".py")
    compiled = Path(importlib.util.cache_from_source(str(path)))
    compiled.parent.mkdir(exist_ok=True)
    compiled.write_bytes(b"cut short")
    function = load_kernel(Kernel("one", text, ()), interpret=False)
    assert "return 1" in function.src
    assert compiled.read_bytes() == b"cut short"
    path.write_text(other)
    assert "return 1" in inspect.getsource(function.fn)


def test_without_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MASKC_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.warns(RuntimeWarning, match="MASKC_CACHE_DIR"):
        assert _name(Kernel("nothing", _TEXT, ())) == "nothing"

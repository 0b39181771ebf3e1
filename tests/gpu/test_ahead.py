"""Kernels compiled side by side, by Triton itself with a driver that has no GPU."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler.errors import CompileTimeAssertionFailure
from triton.runtime import driver

import maskc
from maskc.backends.triton import ahead, ready, tune
from maskc.backends.triton import launch as launch_module
from maskc.backends.triton.ahead import compile_together
from maskc.backends.triton.configs import Config
from maskc.backends.triton.launch import Job
from maskc.backends.triton.loading import load_kernel
from maskc.backends.triton.spec import Argument, Kernel

pytestmark = pytest.mark.skipif(not hasattr(triton, "AsyncCompileMode"), reason="needs Triton 3.5")

_TEXT = """
import triton
import triton.language as tl


@triton.jit
def {name}(x_ptr, n, TILE: tl.constexpr):
    tl.static_assert(TILE < 64)
    at = tl.arange(0, TILE)
    tl.store(x_ptr + at, tl.load(x_ptr + at, at < n, 0.0) + {number}, at < n)
"""
_ARGUMENTS = (Argument("x_ptr", "data"), Argument("n", "int"), Argument("TILE", "constexpr"))


class Driver:
    """What Triton asks before it compiles."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


@pytest.fixture(autouse=True)
def _a_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    monkeypatch.setattr(driver, "_active", Driver(), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)


def job(name: str, tile: int = 16) -> Job:
    kernel = Kernel(name, _TEXT.format(name=name, number=float(len(name))), _ARGUMENTS)
    values = {"x_ptr": torch.zeros(64), "n": 40, "TILE": tile, "unused": None}
    return Job(kernel, (1, 1, 1), values, Config(16, 16, 4, 1), torch.device("cpu"))


def found(of: Job) -> list[str]:
    """What Triton has of a kernel."""
    return [type(x).__name__ for x in load_kernel(of.kernel, interpret=False).device_caches[0][0].values()]


def start(of: Job) -> Any:
    return load_kernel(of.kernel, interpret=False).warmup(grid=of.grid, **of.given, num_warps=4, num_stages=1)


def test_what_is_compiled_together_is_found_when_it_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [job("first"), job("second"), job("second", 32)]
    compile_together(jobs)
    assert [found(each) for each in jobs] == [["CompiledKernel"], *[["CompiledKernel"] * 2] * 2]
    for each in jobs:
        monkeypatch.setattr(load_kernel(each.kernel, interpret=False), "compile", None)
        assert start(each).metadata.num_warps == 4


def test_what_fails_is_left_to_the_start() -> None:
    right, wrong = job("right"), job("wrong", 64)
    compile_together([wrong, right])
    assert found(right) == ["CompiledKernel"]
    with pytest.raises(CompileTimeAssertionFailure):
        start(wrong).metadata  # noqa: B018


def test_nothing_is_left_of_the_mode() -> None:
    compile_together([job("one"), job("other", 64)])
    alone = job("alone")
    assert type(start(alone)).__name__ == "CompiledKernel"  # and not one that will be


@pytest.mark.parametrize("way", ["alone", "one processor", "an older Triton", "interpreted"])
def test_nothing_is_compiled_where_nothing_is_gained(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [job(way.replace(" ", "_")), job(way.replace(" ", "_") + "_too")][: 1 if way == "alone" else 2]
    if way == "one processor":
        monkeypatch.setattr(os, "cpu_count", lambda: 1)
    elif way == "an older Triton":
        monkeypatch.delattr(triton, "AsyncCompileMode")
    elif way == "interpreted":
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(ahead, "_compile", lambda *given: pytest.fail("compiled"))
    compile_together(jobs)


@pytest.mark.parametrize("cores", [1, 4, 16])
def test_configurations_are_compiled_before_they_are_measured(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    configs = [Config(16 << i, 16, 4, 1) for i in range(6)]
    seen: list[Any] = []
    tune.compare(configs, seen.append, lambda run: 1.0, budget=1e9, rounds=1, ahead=lambda some: seen.append([*some]))
    default, *others = configs
    batch = max(1, cores // 2)
    wanted: list[Any] = [default]
    for i in range(0, 5, batch):
        wanted += [others[i : i + batch], *others[i : i + batch]]
    assert seen == wanted


def test_kernels_that_are_started_one_after_another_are_compiled_together(monkeypatch: pytest.MonkeyPatch) -> None:
    class Code:
        class src:
            signature: dict[str, str] = {}  # noqa: RUF012

        def __getitem__(self, grid: tuple[int, int, int]) -> Any:
            return lambda *arguments: None

    seen: list[list[str]] = []
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(ready, "compile_together", lambda jobs: seen.append([x.kernel.name for x in jobs]))
    monkeypatch.setattr(launch_module, "launch", lambda *given: Code())
    op = maskc.compile("sliding_window(64)", heads=2, backend="triton")
    q, k, v = (torch.zeros(1, 2, 128, 16, requires_grad=True) for _ in range(3))
    for _ in range(2):
        op(q, k, v).sum().backward()
    assert seen == [["attention_forward"] * 2, ["attention_dq", "attention_dq", "attention_dkv"]]

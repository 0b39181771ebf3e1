"""Kernels that decode over caches: under the interpreter beside the loop over entries, and compiled for every chip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import torch

from maskc.backends.triton import launch as launch_module
from maskc.backends.triton import serving
from maskc.backends.triton.aot import Shape, compile_kernel
from maskc.backends.triton.cached import write_cached, write_merge
from maskc.backends.triton.configs import Config, config, parse_target, shared_memory
from maskc.backends.triton.spec import Kernel, KernelSpec, specialised
from maskc.diagnostics import MaskcError
from maskc.lower import lower_text
from maskc.steps import call_of
from tests.gpu.types import check_kernel
from tests.serving.calls import CASES, make

if TYPE_CHECKING:
    from tests.gpu.types import check_kernel
from tests.gpu.conftest import Interpreter

#: Entries, pages and head groups of every kind; the others of the cases are for the CPU.
_NAMES = (
    "causal-16", "shorter-than-queries", "sinks-and-window", "multi-query", "dilated", "documents-batch", "clamped",
    "entry-number-looked-up", "by-query", "by-head", "head-kinds", "none", "bias-by-token", "sink", "batched-gate",
    "sigmoid", "relu", "image", "cross", "gone-and-kept", "wide-window",
)  # fmt: skip


@pytest.mark.parametrize("name", _NAMES)
def test_is_the_loop_over_entries(interpreter: Interpreter, name: str) -> None:
    i = _NAMES.index(name)
    block, dtype = (16, 48, 12)[i % 3], "float16" if i % 5 == 0 else "float32"
    for what, error in interpreter.call("cached.decode_differences", name, block, dtype, i % 2 == 0).items():
        assert error < (5e-3 if dtype == "float16" else 2e-5), what


@pytest.mark.parametrize("scale", [0.0, -0.3])
def test_factors_that_are_not_positive(interpreter: Interpreter, scale: float) -> None:
    assert interpreter.call("cached.decode_scaled", scale) < 2e-5


@pytest.mark.parametrize(
    ("name", "listed", "splits", "k_tile"),
    [
        ("sinks-and-window", False, 3, 16),
        ("sinks-and-window", True, 1, 32),
        ("documents-batch", False, 2, 16),
        ("wide-window", False, 3, 16),
        ("dilated", True, 5, 16),
        ("padding", False, 1, 64),
        ("head-kinds", False, 4, 16),
        ("gone", False, 2, 16),
    ],
)
def test_nothing_need_be_known_on_the_host(
    interpreter: Interpreter, name: str, listed: bool, splits: int, k_tile: int
) -> None:
    assert max(interpreter.call("cached.decode_unseen", name, listed, splits, k_tile, "")) < 2e-5


@pytest.mark.parametrize("k_tile", [16, 32])
@pytest.mark.parametrize("spoiled", ["page", "length"])
def test_what_nobody_checked_gives_nan_there_and_nowhere_else(
    interpreter: Interpreter, spoiled: str, k_tile: int
) -> None:
    wrong, *others = interpreter.call("cached.decode_unseen", "causal", False, 2, k_tile, spoiled)
    assert wrong == float("inf")
    assert max(others) < 2e-5


@pytest.mark.parametrize("length", [65, 128])
def test_memory_behind_a_cache_is_none_of_it(interpreter: Interpreter, length: int) -> None:
    """In a partial tile, and in a full one."""
    assert interpreter.call("cached.decode_beyond_the_cache", length)


@pytest.mark.parametrize(("rows", "heads", "kv_heads"), [(40, 4, 2), (3, 3, 1), (17, 10, 2)])
def test_many_queries_and_odd_groups(interpreter: Interpreter, rows: int, heads: int, kv_heads: int) -> None:
    assert interpreter.call("cached.decode_many_queries", rows, heads, kv_heads) < 2e-5


def test_tables_on_the_host_are_checked(interpreter: Interpreter) -> None:
    assert "E504" in interpreter.call("cached.decode_refusal")


def test_lengths_may_be_views(interpreter: Interpreter) -> None:
    assert interpreter.call("cached.decode_of_views")


def test_a_part_of_a_table_that_is_moved_is_read_by_its_new_strides() -> None:
    made = make(CASES["window"])
    tensors = [x.to("meta") for x in (made.q, made.k_pages, made.v_pages, made.lengths)]
    wide = torch.cat([made.table, made.table], 1)
    call = call_of(made.op, (*tensors, None, wide[:, : made.table.shape[1]]), {}, {}, None)
    assert call.block_table is not None
    assert call.block_table.is_contiguous()


def test_negative_scale(interpreter: Interpreter) -> None:
    assert interpreter.call("cached.decode_and_op_agree")


@pytest.mark.parametrize("name", ["sinks-and-window", "documents-batch", "bias-by-token", "gone", "seen-pairs", "sink"])
def test_nothing_is_read_back(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tensors are without data, so that looking at a value raises."""
    started: list[str] = []
    monkeypatch.setattr(launch_module, "launch", lambda kernel, *rest: started.append(kernel.name))
    made = make(CASES[name])
    inputs = {n: torch.as_tensor(x).to("meta") for n, x in made.inputs.items()}
    tensors = [x if x is None else x.to("meta") for x in (made.q, made.k_pages, made.v_pages, made.lengths, made.start)]
    call = call_of(made.op, (*tensors, made.table.to("meta")), inputs, {}, None)
    assert call.binding is None
    out, lse = serving.decode(call, "ieee")
    assert (out.shape, lse.shape) == (made.dense().shape, made.q.shape[:3])
    assert started == ["attention_cached", "attention_merge"]


def test_a_step_like_an_earlier_one_only_hands_addresses_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept for that is bounded."""
    asked: list[str] = []
    started: list[tuple[int, int, int]] = []

    class Code:
        class src:
            signature: ClassVar[dict[str, str]] = {}

        def __getitem__(self, grid: tuple[int, int, int]) -> Any:
            return lambda *arguments: started.append(grid)

    def launch(kernel: Kernel, *rest: Any) -> Code:
        asked.append(kernel.name)
        return Code()

    monkeypatch.setattr(launch_module, "launch", launch)
    monkeypatch.setattr(serving, "_PREPARED", 2)
    made = make(CASES["sink"])
    q, k, v, table, sink = (x.to("meta") for x in (made.q, made.k_pages, made.v_pages, made.table, made.inputs["sink"]))

    def step(blocks: int, dtype: torch.dtype = torch.int32) -> list[str]:
        asked.clear()
        lengths = torch.zeros(4, dtype=dtype, device="meta")
        serving.decode(call_of(made.op, (q, k, v, lengths, None, table[:, :blocks]), {"sink": sink}, {}, None), "ieee")
        return asked.copy()

    both = ["attention_cached", "attention_merge"]
    assert step(3) == both
    assert (step(3), started) == ([], [(16, 1, 1), (8, 1, 1)])
    assert step(2) == both
    assert step(3) == []
    assert step(3, torch.int64) == both
    assert (step(3), step(2)) == ([], both)


def test_inputs_that_are_elsewhere_are_refused() -> None:
    made = make(CASES["documents"])
    tensors = [x.to("meta") for x in (made.q, made.k_pages, made.v_pages, made.lengths)]
    for doc, code in ((torch.zeros(80).int(), "E512"), (torch.zeros(80, device="meta"), "E511"), (None, "E501")):
        given = {} if doc is None else {"doc": doc}
        with pytest.raises(MaskcError, match=code):
            call_of(made.op, (*tensors, None, made.table.to("meta")), given, {}, None)
    image = make(CASES["image"])
    call = call_of(image.op, (*tensors, None, made.table.to("meta")), {}, {"x": 8}, None)
    with pytest.raises(MaskcError, match="follows from the length"):
        serving.decode(call, "ieee")


def _kernels(name: str, listed: bool) -> list[Kernel]:
    case = CASES[name]
    program = lower_text(case.text)[0]
    batched = frozenset(n for n, x in case.inputs.items() if np.ndim(x) > len(program.parameter(n).domain))
    spec = KernelSpec(specialised(program, {}), batched, listed=listed)
    return [write_cached(spec), write_merge(spec)]


@pytest.mark.parametrize(
    ("name", "listed", "masked"),
    [
        ("gone-and-kept", False, [False, True]),
        ("window", False, [False, True]),
        ("sinks-and-window", False, [True]),
        ("padding", False, [False, True]),
        ("by-query", False, [True]),
        ("documents", False, [True]),
        ("window", True, [True]),
    ],
)
def test_tiles_that_every_query_keeps_take_no_mask(name: str, listed: bool, masked: list[bool]) -> None:
    """Those of one range, where no query is without it, have a loop of their own."""
    loops = _kernels(name, listed)[0].function.split("    for ")[1:]
    assert ["keep" in loop for loop in loops] == masked


@pytest.mark.parametrize("name", CASES)
def test_every_case_has_the_right_types(name: str) -> None:
    """The interpreter lets variables change their type in a loop; the compiler does not."""
    i, case = list(CASES).index(name), CASES[name]
    program, ones = lower_text(case.text)[0], i % 2 == 0
    shape = Shape("float16", case.dim, case.value_dim, ragged=ones, ones=ones, page=(0, 16, 64)[i % 3])
    for kernel in _kernels(name, i % 4 == 0):
        assert "tt.store" in check_kernel(kernel, program, parse_target("cuda:90"), Config(16, 32, 4, 2), shape)


@pytest.mark.slow
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("page", [0, 16, 64])
@pytest.mark.parametrize("chip", ["cuda:80", "cuda:90", "cuda:100", "cuda:120", "hip:gfx942"])
def test_compiles_for_every_chip_without_spilling(chip: str, page: int, dim: int) -> None:
    name = "causal" if page == 16 else "sinks-and-window"
    program, target = lower_text(CASES[name].text)[0], parse_target(chip)
    chosen = config("decode", target, dim, "bfloat16", 3)
    for kernel in _kernels(name, page == 64):
        found = compile_kernel(kernel, program, target, chosen, Shape(head_dim=dim, value_dim=dim, page=page))
        # Two registers, which sm_90 might have had.
        assert found.spilled <= (8 if (chip, page, dim) == ("cuda:90", 0, 128) else 0)
        assert found.shared <= shared_memory(target)
        assert bool(found.tensor_cores) == (kernel.name == "attention_cached")

"""Long rows of tiles in shares: nothing is lost or done twice, and results are the reference's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from maskc.backends.triton import aot
from maskc.backends.triton.configs import Config, parse_target
from maskc.backends.triton.join import write_join
from maskc.backends.triton.shares import shared_rows
from maskc.backends.triton.tiles import kernel_plan
from maskc.lower import lower_text
from maskc.tiles import make_plan
from maskc.tiles.binding import make_binding
from tests.gpu.conftest import Interpreter
from tests.gpu.older import compiles
from tests.gpu.shared import SHARED


@pytest.mark.parametrize("by_keys", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize(
    "text",
    [
        "window(40, 40) | k < 20 | q < 20",
        "causal",
        "~window(40, 40) & (q < 20 | k < 20)",
        "causal & (k < 9 | q - k < 99 + 200 * h) | q > 1590",
    ],
)
def test_shares_are_the_row(text: str, by_keys: bool) -> None:
    program = lower_text(text)[0]
    plan = make_plan(program, make_binding(program, 1600, 1600, heads=2), q_tile=16, k_tile=16)
    whole = kernel_plan(plan, by_keys=by_keys)
    found, shares = shared_rows(whole, 400)
    assert shares is not None
    masks = whole.row_order.size // whole.rows
    assert sorted(found.row_order[: found.rows]) == list(range(found.rows))
    for mask in range(masks):
        for kind in ("full", "part"):
            for row in range(whole.rows):
                items = np.flatnonzero(shares.row_of == row) + mask * found.rows
                first, last = getattr(found, kind)[:2]
                pieces = [i for item in items for i in range(first[item], last[item])]
                at = mask * whole.rows + row
                assert pieces == list(range(getattr(whole, kind)[0][at], getattr(whole, kind)[1][at]))
    assert set(shares.share_of[shares.share_of >= 0]) == set(range(shares.rows.size * shares.count))


def test_rows_of_equal_length_are_left_whole() -> None:
    program = lower_text("sliding_window(512)")[0]
    plan = kernel_plan(make_plan(program, make_binding(program, 8192, 8192), q_tile=64, k_tile=64))
    assert shared_rows(plan, 100)[1] is None


def test_no_share_is_much_longer_than_a_fair_part() -> None:
    program = lower_text("sliding_window(256) | k < 64")[0]
    binding = make_binding(program, 65536, 65536, heads=16)
    whole = kernel_plan(make_plan(program, binding, q_tile=64, k_tile=64), by_keys=True)
    found, shares = shared_rows(whole, 264)
    assert shares is not None

    def longest(first: np.ndarray, last: np.ndarray, *_: object) -> int:  # type: ignore[type-arg]
        return int((last - first).max())

    total = 16 * int((whole.part.last - whole.part.first).sum() + (whole.full.last - whole.full.first).sum())
    assert max(longest(*whole.full), longest(*whole.part)) > 2 * total / 264
    assert max(longest(*found.full), longest(*found.part)) < 1.5 * total / 264


@pytest.mark.parametrize("pack", [1, 4])
@pytest.mark.parametrize("averages", [False, True])
@pytest.mark.parametrize("target", ["cuda:80", "cuda:90", "hip:gfx942"])
def test_the_kernel_that_joins_compiles(
    target: str, averages: bool, pack: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if not compiles(target):
        pytest.skip("needs a later Triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    sizes = {"TILE": 64, "PACK": pack, "WIDTH": 80, "WIDTH_PAD": 128}
    monkeypatch.setattr(aot, "_constants", lambda *given: sizes)
    program, chosen = lower_text("causal")[0], Config(64, 64, 8, 1)
    found = aot.compile_kernel(write_join(averages), program, parse_target(target), chosen, aot.Shape())
    assert found.spilled == 0
    assert found.shared <= 65536


@pytest.mark.parametrize("name", SHARED)
def test_results_are_those_of_the_reference(name: str, interpreter: Interpreter) -> None:
    found = interpreter.call("shared.differences", name)
    assert SHARED[name][-1] <= set(found["cut"])
    assert max(found["differences"]) < 1e-5

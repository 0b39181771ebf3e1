"""Plans at a million tokens: in little memory, by work that grows as the length does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from maskc.ir.evaluate import dense
from maskc.lower import lower_text
from maskc.tiles import make_plan
from maskc.tiles.binding import make_binding
from maskc.tiles.tiling import EMPTY

from .scale import GRIDS, PERIODS, SCATTERED, TOKENS, token_case


def test_a_million_tokens_are_planned_within_512_mib() -> None:
    path = Path(__file__).with_name("scale.py")
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = [line.rsplit(" ", 1)[0] for line in done.stdout.splitlines()]
    assert names[:-1] == [*TOKENS, *PERIODS, *SCATTERED, *GRIDS, "heads"]
    refused = done.stdout.splitlines()[-1]
    assert refused.startswith("refused E801")
    assert "would take about" in refused
    sizes = {line.rsplit(" ", 1)[0]: int(line.rsplit(" ", 1)[1]) for line in done.stdout.splitlines()[:-1]}
    assert sizes["window"] <= 2 << 20


def _work(text: str, n: int) -> int:
    """What planning evaluates, and the runs that it makes."""
    spent = [0]
    plan = make_plan(*token_case(text, n), watch=lambda done, total: spent.append(done))
    return max(spent) + plan.groups[0].runs.start.size


@pytest.mark.parametrize(
    "name",
    [n for n in (*TOKENS, *PERIODS, "padding") if n != "strided 5000"],
)
def test_work_grows_as_the_length_does(name: str) -> None:
    """Those left out have runs in every row for every few thousand keys: their plans are that large; or labels without
    any order, which are compared tile by tile."""
    lengths = [1 << e for e in (15, 17, 19)]
    work = [_work((TOKENS | PERIODS | SCATTERED)[name], n) for n in lengths]
    assert np.polyfit(np.log(lengths), np.log(work), 1)[0] <= 1.1, work


@pytest.mark.parametrize("name", ["causal", "window", "sinks"])
def test_work_grows_as_the_length_does_up_to_8_million_tokens(name: str) -> None:
    lengths = [1 << e for e in (14, 17, 20, 23)]
    work = [_work(TOKENS[name], n) for n in lengths]
    assert np.polyfit(np.log(lengths), np.log(work), 1)[0] <= 1.1, work


@pytest.mark.parametrize("count", [40, 64])
def test_unions_of_many_windows_are_solved_window_by_window(count: int) -> None:
    """By what their edges cost, and not by a look into the tiles of what is behind the first ones."""

    def union(step: int) -> str:
        return " | ".join(f"q - k >= {step * i} & q - k < {step * i + 1 + i % 4}" for i in range(count))

    n, tile = 304, 8
    program, binding = token_case(union(5), n)
    pairs = dense(program, binding, 0, 0).reshape(n // tile, tile, n // tile, tile)
    wanted = pairs.any(axis=(1, 3)).astype(np.uint8) + pairs.all(axis=(1, 3))
    np.testing.assert_array_equal(make_plan(program, binding, q_tile=tile, k_tile=tile).kinds(), wanted)
    work = [_work(union(5000), length) for length in (1 << 19, 1 << 20)]
    assert work[1] < 4 * work[0]
    assert work[1] < 200_000 * count


@pytest.mark.parametrize("text", [0, 256])
def test_a_window_on_the_place_within_a_frame_is_planned_at_a_million_tokens(text: int) -> None:
    """``y * size(x) + x`` is one digit of the position, and no sum of two that has to be looked at box by box."""
    source = "pattern p() over text ++ grid(t, y, x) { let place = y * size(x) + x; attend window(64, 64) on place }"
    program, sizes = lower_text(source)[0], {"text": text, "t": 256, "y": 48, "x": 80}
    plan = make_plan(program, make_binding(program, text + 983_040, text + 983_040, sizes=sizes))
    tiles = 48 * 80 // 128  # of a frame: each sees the part of itself, and of its neighbours, that is near
    assert (plan.stats.full, plan.stats.partial) == (0, 256 * 256 * (3 * tiles - 2))


@pytest.mark.parametrize("text", [0, 3, 96])
def test_places_within_frames_behind_a_text(text: int) -> None:
    source = (
        "pattern p() over text ++ grid(t, y, x) { let place = y * size(x) + x; attend window(2, 1) on place | same(t) }"
    )
    program, n = lower_text(source)[0], text + 5 * 4 * 6
    binding = make_binding(program, n, n, sizes={"text": text, "t": 5, "y": 4, "x": 6})
    at = np.arange(n) - text
    place, frame = at % 24, at // 24
    apart = place[:, None] - place
    want = (at >= 0)[:, None] & (at >= 0) & ((apart >= -1) & (apart <= 2) | (frame[:, None] == frame))
    plan = make_plan(program, binding, q_tile=8, k_tile=4)
    padded = np.pad(want, ((0, -n % 8), (0, -n % 4))).reshape(-(-n // 8), 8, -(-n // 4), 4).any((1, 3))
    assert np.array_equal(dense(program, binding, 0, 0), want)
    assert np.array_equal(plan.kinds(0) != EMPTY, padded)

"""Planning functions that are called with what is no tile size, no plan, no time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

import maskc
from maskc import MaskcError
from maskc.tiles import make_plan
from maskc.tiles.choose import choose_tiles
from maskc.tiles.compare import compare_tiles
from maskc.tiles.cost import fit

PROGRAM = maskc.parse("causal").program
BINDING = maskc.make_binding(PROGRAM, 300, 300)
PLANS = [make_plan(PROGRAM, BINDING, q_tile=n, k_tile=n) for n in (128, 64, 32, 16)]


def refused(code: str, words: str, work: Callable[[], object]) -> None:
    with pytest.raises(MaskcError) as error:
        work()
    assert error.value.codes == (code,)
    assert words in str(error.value)


@pytest.mark.parametrize("name", ["q_tile", "k_tile"])
@pytest.mark.parametrize(
    ("size", "code"),
    [(0, "E504"), (-1, "E504"), (10**30, "E504"), (2**63, "E504"), (1.5, "E503"), ("a", "E503"), (None, "E503")],
)
def test_tile_sizes(name: str, size: Any, code: str) -> None:
    options: dict[str, Any] = {name: size}
    refused(code, f"{name} must be", lambda: make_plan(PROGRAM, BINDING, **options))
    refused(code, f"{name} must be", lambda: maskc.compile("causal", heads=1).plan(300, 300, **options))
    if size is not None:
        refused(code, f"{name} must be", lambda: PLANS[0].transposed(**options))


def test_layouts_and_budgets() -> None:
    wrong: Any = 3
    refused("E503", "layout must be a string", lambda: make_plan(PROGRAM, BINDING, layout=wrong))
    refused("E503", "budget must be an integer", lambda: make_plan(PROGRAM, BINDING, budget="x"))  # type: ignore[arg-type]
    assert make_plan(PROGRAM, BINDING, budget=1e9) == PLANS[0]  # type: ignore[arg-type]


def test_programs_and_bindings() -> None:
    wrong: Any = "causal"
    with pytest.raises(TypeError, match=r"program must be a maskc\.Program"):
        make_plan(wrong, BINDING)
    with pytest.raises(TypeError, match=r"binding must be a maskc\.Binding"):
        make_plan(PROGRAM, wrong)
    other = maskc.parse("pattern p(w: int) { attend sliding_window(w) }").program
    refused("E501", "the binding holds no 'w'", lambda: make_plan(other, BINDING))


@pytest.mark.parametrize(
    ("plans", "seconds", "code"),
    [
        (PLANS, [1.0], "E505"),
        (PLANS, [[1.0]] * 4, "E505"),
        ([], [], "E505"),
        (PLANS, [1.0, math.nan, 1.0, 1.0], "E504"),
        (PLANS, [1.0, math.inf, 1.0, 1.0], "E504"),
        (PLANS, [1.0, 0.0, 1.0, 1.0], "E504"),
        (PLANS, [1.0, -1.0, 1.0, 1.0], "E504"),
        (PLANS, ["a"] * 4, "E503"),
    ],
)
def test_fit(plans: list[Any], seconds: list[Any], code: str) -> None:
    refused(code, "seconds", lambda: fit(plans, seconds))


def test_fit_of_what_are_no_plans() -> None:
    wrong: Any
    for wrong in (None, [1]):
        with pytest.raises(TypeError, match="plan"):
            fit(wrong, [1.0])


@pytest.mark.parametrize(
    ("sizes", "code"), [(None, "E503"), ("ab", "E503"), ([1], "E503"), ([(1, 2, 3)], "E503"), ([(0, 1)], "E504")]
)
def test_sizes_to_choose_from(sizes: Any, code: str) -> None:
    refused(code, "", lambda: choose_tiles(PROGRAM, BINDING, sizes))
    refused(code, "", lambda: compare_tiles(PLANS[0], sizes))
    refused("E505", "at least one pair", lambda: choose_tiles(PROGRAM, BINDING, []))

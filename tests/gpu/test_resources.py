"""The page of what kernels take of each chip: it is whole, and no kernel takes more than it says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from maskc.backends.triton.aot import Shape
from maskc.backends.triton.configs import parse_target
from maskc.backends.triton.emit import emit
from maskc.lower import lower_text

_FILE = Path(__file__).parents[2] / "benchmarks" / "kernels.py"
_SPEC = importlib.util.spec_from_file_location("benchmark_of_kernels", _FILE)
assert _SPEC is not None
assert _SPEC.loader is not None
_BENCHMARK = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_BENCHMARK)
PAGE, PATTERNS, STAGES, TARGETS = (getattr(_BENCHMARK, n) for n in ("PAGE", "PATTERNS", "STAGES", "TARGETS"))

Key = tuple[str, str, int, str]


def page() -> dict[Key, dict[str, int]]:
    """Spilled and shared bytes by pattern, chip, head dimension and kernel."""
    found: dict[Key, dict[str, int]] = {}
    for line in PAGE.read_text(encoding="utf-8").split("\n"):
        cells = [c.strip() for c in line.strip("|").split("|")]
        if len(cells) == 11 and cells[2].isdigit():
            shared, limit = (int(n) for n in re.findall(r"\d+", cells[9]))
            found[cells[0], cells[1], int(cells[2]), cells[3]] = {
                "spilled": int(cells[8]),
                "shared": shared,
                "limit": limit,
            }
    return found


def test_page_is_whole_and_everything_fits() -> None:
    found = page()
    assert {(t, d, s) for p, t, d, s in found if p == "causal"} == {
        (t, d, s) for t in TARGETS for d in (64, 128) for s in STAGES
    }
    assert {p for p, *_ in found} == set(PATTERNS)
    for key, row in found.items():
        assert row["shared"] <= row["limit"], key
        if key[0] == "causal" or key[3] != "dkv":
            assert row["spilled"] == 0, key


@pytest.mark.slow
@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("dim", [64, 128])
def test_no_kernel_takes_more_than_the_page_says(
    name: str, dim: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    program, known = lower_text(PATTERNS[name])[0], page()
    for target in TARGETS if name == "causal" else ("cuda:90",):
        for each in emit(program, {}, parse_target(target), Shape(head_dim=dim, value_dim=dim), STAGES):
            said = known[name, target, dim, each.stage]
            assert (each.compiled.spilled or 0) <= said["spilled"], (target, each.stage)
            assert each.compiled.shared <= said["shared"], (target, each.stage)

"""Pictures show exactly what is kept, by evaluation and by the planner alike."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from maskc.lower import lower_text
from maskc.picture import cells as module
from maskc.picture.cells import survey
from maskc.picture.terminal import Canvas, draw, legend
from maskc.tiles.binding import make_binding
from maskc.tiles.tiling import EMPTY, FULL, PARTIAL

MASKS = ["causal", "sliding_window(5) | sinks(2)", "none", "all", "chunk(7)", "hash(q, k) % 3 == 0"]


@pytest.mark.parametrize("text", MASKS)
@pytest.mark.parametrize("lengths", [(16, 16), (23, 50), (1, 30), (50, 50)])
def test_cells_are_what_the_dense_mask_holds(text: str, lengths: tuple[int, int]) -> None:
    from maskc.ir.evaluate import dense

    (program,) = lower_text(text)
    binding = make_binding(program, *lengths)
    kept = dense(program, binding)
    found = survey(program, binding, rows=10, columns=10)
    assert found.kind.shape[0] <= 10
    assert found.kind.shape[1] <= 10
    for r, row in enumerate(found.kind):
        for c, kind in enumerate(row):
            block = kept[r * found.q_step : (r + 1) * found.q_step, c * found.k_step : (c + 1) * found.k_step]
            assert kind == (FULL if block.all() else PARTIAL if block.any() else EMPTY)
            assert found.density[r, c] == block.mean()
    assert found.kept == pytest.approx(kept.mean())


@pytest.mark.parametrize("text", MASKS[:5])
def test_the_planner_draws_the_same_kinds(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (program,) = lower_text(text)
    binding = make_binding(program, 40, 70)
    counted = survey(program, binding, rows=12, columns=12)
    monkeypatch.setattr(module, "EVALUATED", 0)
    planned = survey(program, binding, rows=12, columns=12)
    assert np.array_equal(counted.kind, planned.kind)


def test_a_cell_that_is_too_large_to_be_evaluated_is_taken_from_finer_tiles() -> None:
    text = "pattern p(answer: int[token]) { attend causal & (answer[k] == 0 | same(answer)) }"
    (program,) = lower_text(text)
    answer = np.repeat(np.arange(4), 1 << 18)
    binding = make_binding(program, 1 << 20, 1 << 20, answer=answer)
    found = survey(program, binding, rows=64, columns=64)
    assert found.q_step == found.k_step == 1 << 14
    q, k = np.arange(64)[:, None], np.arange(64)[None]  # 16 cells an answer
    seen = (k // 16 == 0) | (q // 16 == k // 16)
    assert np.array_equal(found.kind, np.where(q == k, PARTIAL, np.where((k < q) & seen, FULL, EMPTY)))


def test_no_queries_or_keys_are_no_cells() -> None:
    (program,) = lower_text("causal")
    for lengths in ((0, 0), (0, 8)):
        found = survey(program, make_binding(program, *lengths), rows=8, columns=8)
        assert found.kept is None
        draw(found, Canvas())


@pytest.mark.parametrize("color", [False, True])
@pytest.mark.parametrize("unicode", [False, True])
@pytest.mark.parametrize("length", [3, 64, 1000])
def test_a_picture_fits_its_canvas(color: bool, unicode: bool, length: int) -> None:
    canvas = Canvas(60, 24, color, unicode)
    (program,) = lower_text("sliding_window(9)")
    found = survey(program, make_binding(program, length, length), rows=canvas.rows, columns=canvas.columns)
    text = draw(found, canvas)
    lines = text.plain.split("\n")
    assert len(lines) <= canvas.height - 3
    assert max(map(len, lines)) <= canvas.width
    assert (text.plain + legend(found, canvas).plain).isascii() or unicode
    assert bool(text.spans) or not color


def test_half_blocks_carry_the_colours_of_two_cells() -> None:
    (program,) = lower_text("causal")
    canvas = Canvas(12, 8, True, True)
    found = survey(program, make_binding(program, 4, 4), rows=canvas.rows, columns=canvas.columns)
    styles = {str(span.style) for span in draw(found, canvas).spans}
    full, empty = "rgb(253,231,37)", "rgb(38,38,38)"
    assert styles == {f"{full} on {full}", f"{empty} on {full}", f"{empty} on {empty}"}


def test_png_panels_are_written(tmp_path: object) -> None:
    pytest.importorskip("matplotlib")
    from pathlib import Path

    from maskc.picture.panels import mask_panels
    from maskc.picture.png import save_png

    (program,) = lower_text("sliding_window(9)")
    (panel,) = mask_panels(program, make_binding(program, 30, 64), cells=16, tile=16)
    path = Path(str(tmp_path)) / "a" / "b.png"
    save_png([panel, panel], path, title="$both$")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("lengths", [(0, 0), (0, 9)])
def test_png_panels_of_no_pairs_are_written_without_a_warning(tmp_path: Path, lengths: tuple[int, int]) -> None:
    pytest.importorskip("matplotlib")
    from maskc.picture.panels import mask_panels
    from maskc.picture.png import save_png

    (program,) = lower_text("causal")
    panels = mask_panels(program, make_binding(program, *lengths))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_png(panels, tmp_path / "nothing.png")
    assert (tmp_path / "nothing.png").exists()

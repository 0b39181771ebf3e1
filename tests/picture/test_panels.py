"""Panels show what the dense mask holds; drawing them neither loses nor adds a cell."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from maskc.diagnostics import MaskcError
from maskc.ir.evaluate import dense, evaluate
from maskc.ir.program import Program
from maskc.lower import lower_text
from maskc.picture import panels as module
from maskc.picture.neighbours import neighbour_panels
from maskc.picture.panels import COLORS, diff_panel, heat_panels, mask_panels, plan_panels, reach_panel
from maskc.picture.scene import bands
from maskc.picture.svg import rectangles, svg, thumbnail, ticks
from maskc.picture.terminal import Canvas
from maskc.picture.text import draw_panels
from maskc.tiles.binding import make_binding

GRID = "pattern g() over text ++ grid(y, x) { attend q in text & causal | window(1, 1) on y & window(2, 2) on x }"
SIZES = {"text": 5, "y": 4, "x": 7}


def lowered(text: str) -> Program:
    return lower_text(text)[0]


def blocks(mask: np.ndarray, step: int) -> list[list[np.ndarray]]:
    rows = [mask[i : i + step] for i in range(0, len(mask), step)]
    return [[row[:, j : j + step] for j in range(0, mask.shape[1], step)] for row in rows]


@pytest.mark.parametrize(
    "text", ["causal & (sliding_window(40) | sinks(4))", "chunk(33)", "hash(q, k) % 50 == 0", "none"]
)
@pytest.mark.parametrize("counted", [True, False])
def test_mask_cells(text: str, counted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not counted:
        monkeypatch.setattr(module, "_EVALUATED", 0)
    binding = make_binding(lowered(text), 150, 170)
    (panel,) = mask_panels(lowered(text), binding, cells=40)
    for row, here in zip(panel.cells, blocks(dense(lowered(text), binding), panel.q_step), strict=True):
        for cell, block in zip(row, here, strict=True):
            name = panel.classes[int(cell)][0]
            assert name == "none" if not block.any() else name == "full" if block.all() else name.startswith("some")


def test_layers_are_followed_for_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """All heads, layers, and the work that the mask is, count together."""
    looked: list[int] = []
    monkeypatch.setattr("maskc.ir.evaluate.dense", lambda p, b, h=0: looked.append(h) or dense(p, b, h))
    monkeypatch.setattr("maskc.tiles.budget.BUDGET", 1 << 18)
    plain, by_head = lowered("sliding_window(4)"), lowered("sliding_window(h + 2)")
    large = lowered("any(i in 0..4096: hash(q, k, i) == i) | sliding_window(4)")
    reach_panel(plain, [make_binding(plain, 64, 64, heads=1000)] * 4)
    assert looked == [0] * 4
    for program, heads in ((by_head, 1000), (large, 1)):
        looked.clear()
        with pytest.raises(MaskcError) as error:
            reach_panel(program, [make_binding(program, 64, 64, heads=heads)] * 4)
        assert error.value.codes == ("E801",)
        assert len(looked) < 64


def test_long_masks_are_taken_from_finer_tiles() -> None:
    binding = make_binding(lowered("causal & sliding_window(300000)"), 1 << 20, 1 << 20)
    (panel,) = mask_panels(lowered("causal & sliding_window(300000)"), binding, cells=64)
    assert panel.q_step % 1024 == 0
    step, names = panel.q_step, [c for c, _ in panel.classes]
    for row in range(panel.cells.shape[0]):
        for column in range(panel.cells.shape[1]):
            # The least and the greatest q - k of the cell tell its kind.
            low = row * step - min((1 << 20) - 1, (column + 1) * step - 1)
            high = min((1 << 20) - 1, (row + 1) * step - 1) - column * step
            kind = "none" if high < 0 or low >= 300000 else "full" if low >= 0 and high < 300000 else "some2"
            assert names[panel.cells[row, column]] == kind, (row, column)


def test_difference_cells() -> None:
    a, b = lowered("causal & sliding_window(30)"), lowered("causal & chunk(20) | k == 3")
    here = [make_binding(p, 90, 90) for p in (a, b)]
    panel = diff_panel((a, here[0]), (b, here[1]), cells=90)
    kept = [dense(p, x) for p, x in zip((a, b), here, strict=True)]
    names = np.array([c for c, _ in panel.classes])[panel.cells]
    assert np.array_equal(names == "both", kept[0] & kept[1])
    assert np.array_equal(names == "first", kept[0] & ~kept[1])
    assert np.array_equal(names == "second", kept[1] & ~kept[0])


@pytest.mark.parametrize("length", [129, 300, 5000])
def test_the_least_difference_is_seen_at_any_size(length: int) -> None:
    """An off-by-one is a pair a row: less than any cell."""
    a, b = lowered("sliding_window(100) | k == q + 7"), lowered("sliding_window(101)")
    here = [make_binding(p, length, length) for p in (a, b)]
    panel = diff_panel((a, here[0]), (b, here[1]), cells=32)
    assert panel.q_step > 1
    names = np.array([c for c, _ in panel.classes])[panel.cells]
    one, two = (dense(p, x) for p, x in zip((a, b), here, strict=True))
    first, second, both = (
        np.array([[x.any() for x in row] for row in blocks(m, panel.q_step)])
        for m in (one & ~two, two & ~one, one & two)
    )
    assert np.array_equal(names == "mixed", first & second)
    assert np.array_equal(names == "first", first & ~second)
    assert np.array_equal(names == "second", second & ~first)
    assert np.array_equal(names == "both", both & ~first & ~second)


def test_difference_of_patterns_with_arguments_of_one_name() -> None:
    a = lowered("pattern near(w: int = 3) { attend causal & sliding_window(w) }")
    b = lowered("pattern far(w: int = 5) { attend causal & sliding_window(w) }")
    panel = diff_panel((a, make_binding(a, 20, 20)), (b, make_binding(b, 20, 20)))
    counts = {
        panel.classes[int(i)][1]: int(n) for i, n in zip(*np.unique(panel.cells, return_counts=True), strict=True)
    }
    assert counts["only far"] == 17 + 16
    assert "only near" not in counts


def test_scores_are_shown_where_pairs_are_kept() -> None:
    program = lowered("pattern p() { attend causal; score s - 0.5 * (q - k) + match k { 3: 9; else: 0 } }")
    binding = make_binding(program, 40, 40)
    (panel,) = heat_panels(program, binding)
    q, k = np.arange(40)[:, None], np.arange(40)[None]
    score = np.broadcast_to(evaluate(program.score, binding, q=q, k=k, s=np.zeros((40, 40))), (40, 40))
    names = np.array([c for c, _ in panel.classes])[panel.cells]
    kept = dense(program, binding)
    assert np.array_equal(names == "none", ~kept)
    assert np.array_equal(np.char.startswith(names, "less"), kept & (score < 0))
    assert np.array_equal(np.char.startswith(names, "more"), kept & (score >= 0))


def test_scores_of_all_heads_are_on_one_scale() -> None:
    program = lowered("pattern p { attend causal; score s - (q - k) * (1 + 8 * h) / 39 }")
    panels = heat_panels(program, make_binding(program, 40, 40, heads=2), (0, 1))
    assert [p.title for p in panels] == ["score at s = 0, head 0", "score at s = 0, head 1"]
    drawn = [{p.classes[i] for i in np.unique(p.cells)} for p in panels]
    assert ("less1", "\N{MINUS SIGN}0 to \N{MINUS SIGN}3") in drawn[0] & drawn[1]
    assert {c for c, _ in drawn[0]} == {"none", "more0", "less1"}
    assert len({c for c, label in drawn[0] | drawn[1] if label}) == len(
        {label for _, label in drawn[0] | drawn[1] if label}
    )


@pytest.mark.parametrize("unicode", [False, True])
def test_signs_of_a_legend_can_be_told_apart(unicode: bool) -> None:
    from maskc.picture.text import _SIGNS

    for scale in ("more", "less", "step"):
        signs = [s[unicode] for name, s in _SIGNS.items() if name.startswith(scale)]
        assert len(signs) >= 4
        assert len(set(signs)) == len(signs), scale
    assert all(s[0].isascii() for s in _SIGNS.values())


def png_of(panels: list[Any], path: Any, **more: Any) -> Any:
    """The figure that is written to ``path``."""
    figure = pytest.importorskip("matplotlib.figure")
    from maskc.picture.png import save_png

    found: list[Any] = []
    save = figure.Figure.savefig

    def keep(self: Any, *args: Any, **more: Any) -> None:
        save(self, *args, **more)
        found.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figure.Figure, "savefig", keep)
        save_png(panels, path, **more)
    (drawn,) = found
    return drawn


def test_the_legend_of_a_png_fits(tmp_path: Any) -> None:
    program = lowered("causal & sliding_window(8)")
    panel = reach_panel(program, [make_binding(program, 64, 64)] * 6)
    drawn = png_of([panel], tmp_path / "reach.png", title="reach")
    (legend,) = drawn.legends
    box = legend.get_window_extent()
    assert box.x1 <= drawn.bbox.x1
    assert box.x0 >= 0


@pytest.mark.parametrize("length", [3, 40, 1000, 115_456, 16_777_216])
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_labels_of_positions_in_a_png_are_whole_and_stand_apart(tmp_path: Any, length: int, heads: int) -> None:
    program = lowered("causal")
    (panel,) = mask_panels(program, make_binding(program, length, length))
    drawn = png_of([panel] * heads, tmp_path / "labels.png")
    drawn.canvas.draw()  # Writing measured its letters at another resolution.
    for axis in drawn.axes[:heads]:
        labels = [t for t in axis.get_xticklabels() if 0 <= t.get_position()[0] <= length]
        boxes = [t.get_window_extent() for t in labels]
        assert len(labels) > 1 and all(t.get_text().isdigit() for t in labels)
        assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))


def test_reach_counts_layers() -> None:
    program = lowered("causal & sliding_window(4)")
    panel = reach_panel(program, [make_binding(program, 30, 30)] * 3, cells=30)
    names = np.array([c for c, _ in panel.classes])[panel.cells]
    q, k = np.arange(30)[:, None], np.arange(30)[None]
    for layer in range(3):
        wanted = (q >= k) & (-(-(q - k) // 3) == max(layer + 1, 1)) | ((q == k) & (layer == 0))
        assert np.array_equal(names == f"step{layer}", wanted)
    assert np.array_equal(names == "none", (q < k) | (q - k > 9))


@pytest.mark.parametrize("lengths", [(10, 20), (4096, 4096)])
def test_reach_refuses_what_it_cannot_do(lengths: tuple[int, int]) -> None:
    program = lowered("causal")
    with pytest.raises(MaskcError, match="E504"):
        reach_panel(program, [make_binding(program, *lengths)])


def test_neighbours_lie_in_the_grid() -> None:
    program = lowered(GRID)
    binding = make_binding(program, 33, 33, sizes=SIZES)
    query = 5 + 1 * 7 + 3
    text, image = neighbour_panels(program, binding, query)
    kept = dense(program, binding)[query]
    assert text.axes[1] == "text"
    assert image.axes == ("y", "x")
    assert image.cells.shape == (4, 7)
    assert not text.cells.any()
    assert np.array_equal(image.cells.ravel() % 2 == 1, kept[5:])
    assert image.classes[image.cells[1, 3]] == ("self", "the query")
    assert (image.cells == 1).sum() == 3 * 5 - 1


@pytest.mark.parametrize("length", [1, 7, 64, 65, 100, 1000])
def test_neighbours_without_a_grid_are_wrapped(length: int) -> None:
    program = lowered("causal & sliding_window(9)")
    found = neighbour_panels(program, make_binding(program, length, length), length - 1)
    cells = np.concatenate([p.cells.ravel() for p in found])
    assert cells.size == length
    assert np.flatnonzero(cells).tolist() == list(range(max(0, length - 9), length))


def test_a_video_shows_the_frames_around_the_query() -> None:
    program = lowered(
        "pattern v() over grid(t, y, x) { attend neighborhood(t, 3) & neighborhood(y, 3) & neighborhood(x, 3) }"
    )
    binding = make_binding(program, 40 * 6, 40 * 6, sizes={"t": 40, "y": 2, "x": 3})
    found = neighbour_panels(program, binding, 30 * 6 + 2, most=5)
    assert [p.title for p in found] == ["t 28", "t 29", "t 30", "t 31", "t 32"]
    assert [bool(p.cells.any()) for p in found] == [False, True, True, True, False]


def test_no_such_query() -> None:
    program = lowered("causal")
    with pytest.raises(MaskcError, match="there is no query 9"):
        neighbour_panels(program, make_binding(program, 4, 8), 9)


def test_bands_say_where_segments_and_modalities_are() -> None:
    program = lowered("pattern p(m: {text, image}[token]) over one ++ two { attend m[q] == m[k] & same(token) }")
    binding = make_binding(program, 4, 10, sizes={"one": 7, "two": 3}, m=[0, 0, 0, 0, 0, 1, 1, 1, 0, 0])
    segments, modality = bands(program, binding, "k")
    assert segments.spans == ((0, 7, "one", 0), (7, 10, "two", 1))
    assert modality.spans == ((0, 5, "text", 0), (5, 8, "image", 1), (8, 10, "text", 0))
    segments, modality = bands(program, binding, "q")
    assert segments.spans == ((0, 1, "one", 0), (1, 4, "two", 1))
    assert modality.spans == ((0, 2, "image", 1), (2, 4, "text", 0))


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 2)))
def test_rectangles_cover_every_cell_once(cells: np.ndarray) -> None:
    drawn, count = np.full(cells.shape, 9, np.uint8), np.zeros(cells.shape, int)
    for kind, row, column, rows, columns in rectangles(cells):
        drawn[row : row + rows, column : column + columns] = kind
        count[row : row + rows, column : column + columns] += 1
    assert (count == 1).all()
    assert np.array_equal(drawn, cells)


@given(st.integers(0, 10**7), st.integers(1, 10**7), st.integers(1, 12))
def test_ticks_are_round_and_few(first: int, length: int, count: int) -> None:
    found = ticks(first, length, count)
    assert len(found) <= count + 1
    assert all(first <= t < first + length for t in found)
    assert len({b - a for a, b in itertools.pairwise(found)}) <= 1


def drawn(text: str) -> dict[str, int]:
    """Area of every class in the paths of an SVG, in cells."""
    areas: dict[str, int] = {}
    for name, data in re.findall(r'<path class="mk-(\w+)" d="([^"]*)"', text):
        for wide, high in re.findall(r"h(\d+)v(\d+)h-", data):
            areas[name] = areas.get(name, 0) + int(wide) * int(high)
    return areas


def test_svg_holds_the_cells_and_text_as_text() -> None:
    program = lowered(GRID)
    binding = make_binding(program, 33, 33, sizes=SIZES)
    (panel,) = mask_panels(program, binding)
    text = svg([panel], title="g: <33> & more")
    root = ET.fromstring(text)
    words = ["".join(t.itertext()) for t in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"g: <33> & more", "key →", "← query", "kept", "not kept", "0", "30", "text"} <= set(words)
    assert drawn(text) == {"full": int(dense(program, binding).sum())}
    assert len(text) < 8000


@pytest.mark.parametrize("length", [1000, 1 << 20])
def test_svgs_are_small(length: int) -> None:
    program = lowered("causal & (sliding_window(300) | sinks(4))")
    panels = mask_panels(program, make_binding(program, length, length))
    assert len(svg(panels)) < 16_000
    assert len(thumbnail(panels[0])) < 12_000


def test_themes() -> None:
    panels = mask_panels(lowered("causal"), make_binding(lowered("causal"), 20, 20))
    both, light, dark = (svg(panels, theme=t) for t in ("auto", "light", "dark"))
    full = COLORS["full"]
    assert "prefers-color-scheme:dark" in both
    assert [full[0] in t for t in (both, light, dark)] == [True, True, False]
    assert [full[1] in t for t in (both, light, dark)] == [True, False, True]


def luminance(color: str) -> float:
    return sum(f * int(color[i : i + 2], 16) for f, i in ((0.2126, 1), (0.7152, 3), (0.0722, 5)))


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(
    "scale", [["none", "some1", "some2", "some3", "some4", "full"], [f"more{i}" for i in range(4)]]
)
def test_scales_can_be_read_by_lightness_alone(side: int, scale: list[str]) -> None:
    found = [luminance(COLORS[name][side]) for name in scale]
    steps = np.diff(found if side else found[::-1])
    assert (steps > 8).all()


def test_hostile_text_stays_text() -> None:
    (panel,) = mask_panels(lowered("causal"), make_binding(lowered("causal"), 4, 4))
    panel = module.Panel(**{**vars(panel), "title": "</text><script>1</script>\x00", "note": "]]><b>"})
    root = ET.fromstring(svg([panel], title='"><script>2</script>'))
    assert not list(root.iter("{http://www.w3.org/2000/svg}script"))


@pytest.mark.parametrize(
    "canvas", [Canvas(80, 30, False, False), Canvas(50, 30, True, True), Canvas(200, 30, False, True)]
)
def test_text_fits_the_width(canvas: Canvas) -> None:
    program = lowered("causal & sliding_window(9)")
    panels = mask_panels(program, make_binding(program, 60, 60, heads=5), range(5), cells=10)
    text = draw_panels(panels, canvas)
    body = text.plain.split("\n")[:-1]
    assert max(map(len, body)) <= canvas.width
    assert text.plain.isascii() == (not canvas.unicode)
    assert any(span.style for span in text.spans) == canvas.color
    assert all(f"head {h} of 5" in text.plain for h in range(5))


def test_text_holds_every_cell() -> None:
    program: Any = lowered("causal & chunk(3)")
    (panel,) = mask_panels(program, make_binding(program, 6, 6))
    lines = draw_panels([panel], Canvas(80, 30, False, False)).plain.split("\n")[1:7]
    found = np.array([[c == "#" for c in line[8::2]] for line in lines])
    assert np.array_equal(found, dense(program, make_binding(program, 6, 6)))


def test_what_cannot_be_planned_shows_single_pairs() -> None:
    program = lowered("hash(q // 90000, k // 90000) % 3 == 0 | hash(q, k) % 1000003 == 0")
    binding = make_binding(program, 1 << 20, 1 << 20)
    (panel,) = mask_panels(program, binding, cells=16)
    places = np.arange(16) * panel.q_step
    kept = evaluate(program.mask, binding, q=places[:, None], k=places[None])
    assert 0 < kept.sum() < kept.size
    assert np.array_equal(panel.cells == 5, kept)
    assert "first pair only" in panel.note


@pytest.mark.parametrize("tiles", [(16, 16), (8, 32)])
def test_plans_are_drawn_by_their_tiles(tiles: tuple[int, int]) -> None:
    from maskc.tiles import make_plan

    program = lowered("pattern p(w: int[head]) { attend causal & sliding_window(w[h]) }")
    plan = make_plan(program, make_binding(program, 200, 200, heads=3, w=[9, 70, 9]), q_tile=tiles[0], k_tile=tiles[1])
    found = plan_panels(plan)
    assert [p.title for p in found] == ["heads 0, 2", "heads 1"]
    for panel, head in zip(found, (0, 1), strict=True):
        assert np.array_equal(panel.cells, plan.kinds(plan.group_of(head)))
        assert (panel.q_step, panel.k_step) == tiles

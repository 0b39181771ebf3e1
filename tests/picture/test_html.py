"""The page: what it carries, and what a real browser shows of it."""

from __future__ import annotations

import html
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskc.clauses import Examiner, source_texts
from maskc.cli.why import sentence_of
from maskc.diagnostics import MaskcError, Source
from maskc.ir.evaluate import dense
from maskc.ir.program import Program
from maskc.lower import lower_source
from maskc.picture.html import html_page
from maskc.tiles.binding import make_binding
from tests.picture.browser import MISSING, Browser, chromium
from tests.picture.node import NODE, run_node

MILLION = 1 << 20
LIGHT = {"none": (255, 255, 255), "kept": (8, 69, 148), "second": (213, 94, 0), "both": (150, 156, 163)}


def lowered(text: str) -> tuple[Program, Source]:
    source = Source(text)
    return lower_source(source).programs[0], source


def page(text: str, *lengths: int, other: str = "", **given: Any) -> str:
    program, source = lowered(text)
    options = {k: given.pop(k) for k in ("theme", "tile", "head") if k in given}
    binding = make_binding(program, *lengths, **given)
    second = None
    if other:
        theirs = lowered(other)[0]
        second = (theirs, [make_binding(theirs, *lengths, **given)])
    return html_page(program, binding, source=source, other=second, **options)


def carried(text: str) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    data: dict[str, Any] = json.loads(found)
    return data


@pytest.mark.parametrize(
    "text",
    [
        "causal & (sliding_window(4096) | sinks(4))",
        "causal & (sliding_window(200) | strided(1024))",
        "hash(q // 64, k // 64) % 100 == 0",
    ],
)
def test_a_million_tokens_are_under_a_megabyte(text: str) -> None:
    assert len(page(text, MILLION, MILLION)) < 1 << 20


def test_inputs_of_a_million_tokens_are_under_a_megabyte() -> None:
    doc = np.sort(np.random.default_rng(0).integers(0, 500, MILLION))
    text = page("pattern p(doc: int[token]) { attend causal & same(doc) }", MILLION, MILLION, doc=doc)
    assert len(text) < 200_000


def test_nothing_is_fetched_and_nothing_foreign_runs() -> None:
    text = page("causal", 64, 64)
    assert not re.search(r"(src|href)\s*=|@import|url\(|https?://(?!www\.w3\.org/2000/svg)", text)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy


HOSTILE = "</script><script>window.broken = 1</script><img src=x onerror='window.broken=1'>&\"'"


def test_hostile_names_are_text() -> None:
    program, source = lowered("pattern p() { attend causal & k < 7 }")
    binding = make_binding(program, 64, 64)
    text = html_page(program.replace(name=HOSTILE), binding, source=source)
    assert "<img" not in text
    assert text.count("</script>") == 2
    assert html.escape(HOSTILE) in text


def test_the_tile_grows_until_the_runs_are_few() -> None:
    assert carried(page("causal & sliding_window(4096)", MILLION, MILLION))["tile"] == 128
    assert carried(page("causal & strided(1000)", MILLION, MILLION))["tile"] > 128
    assert carried(page("causal", 300, 300))["tile"] == 128


def test_heads_that_share_a_mask_share_their_runs() -> None:
    text = "pattern p(w: int[head]) { attend causal & sliding_window(w[h]) }"
    data = carried(page(text, 1000, 1000, heads=4, w=[5, 300, 5, 300]))
    assert len(data["plans"]) == 2
    assert data["views"][0]["channels"][0]["plans"] == [[0, 1, 0, 1]]


def test_layers_can_be_switched() -> None:
    program, _ = lowered("pattern p(w: int[layer]) { attend causal & sliding_window(w[layer]) }")
    given = [make_binding(program, 400, 400, layer=i, w=[5, 300]) for i in range(2)]
    data = carried(html_page(program, given))
    assert data["layers"] == [0, 1]
    assert data["views"][0]["channels"][0]["plans"] == [[0], [1]]


def test_different_lengths_are_refused() -> None:
    program, _ = lowered("causal")
    other = (program, [make_binding(program, 20, 20)])
    with pytest.raises(MaskcError, match="cannot be compared"):
        html_page(program, make_binding(program, 10, 10), other=other)


WHY = [
    ("causal & (sliding_window(40) | sinks(4))", {}),
    ("~causal | k // 8 == q // 8", {}),
    (
        "pattern p(n: int = 3, mode: {near, far} = far, m: {text, image}[token]) "
        "{ attend causal & match mode { near: window(n); far: m[q] == m[k] & k < 90 } | q == k }",
        {"m": np.arange(100) // 30 % 2},
    ),
    ("over text ++ image: grid(y, x) { attend q in text & causal | q in image & (window(1, 1) on y) }", {}),
    ("over text ++ image: grid(y, x) { attend q in text | neighborhood(y * 8 + x, 9) & neighborhood(x, 3) }", {}),
]


@pytest.mark.skipif(NODE is None, reason="node is not installed")
@pytest.mark.parametrize(("text", "given"), WHY)
def test_the_page_says_why_as_the_command_line_does(text: str, given: dict[str, Any]) -> None:
    text = f"pattern p() {text}" if text.startswith("over") else text
    sizes = {"text": 36, "y": 8, "x": 8} if "over" in text else None
    program, source = lowered(text)
    binding = make_binding(program, 100, 100, sizes=sizes, **given)
    data = carried(html_page(program, binding, source=source))
    points = [(q, k) for q in range(0, 100, 9) for k in range(0, 100, 13)]
    root = data["views"][0]["whys"][0][1]
    data["questions"] = [{"why": True, "root": root, "q": q, "k": k} for q, k in points]
    texts = source_texts(source, program)
    for (q, k), got in zip(points, run_node(data), strict=True):
        whole = Examiner(program, binding, 0, q, k, texts).examine()
        assert got == sentence_of(q, k, whole)


# ---- In the browser ----


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if MISSING:
        pytest.skip(MISSING)
    with chromium() as window:
        yield window


def picture(browser: Browser) -> np.ndarray:
    """The screenshot, (height, width, 3)."""
    image = pytest.importorskip("PIL.Image")
    return np.asarray(image.open(io.BytesIO(browser.screenshot())).convert("RGB"))


def opened(browser: Browser, folder: Path, text: str) -> None:
    path = folder / "page.html"
    path.write_text(text, encoding="utf-8")
    browser.open(path)


def colors_at(browser: Browser, pairs: list[tuple[int, int]]) -> list[tuple[int, ...]]:
    browser.settled()
    shot = picture(browser)
    spots = browser.run("return arguments[0].map(([q, k]) => maskcPage.spot(q, k))", pairs)
    return [tuple(int(v) for v in shot[int(y), int(x)]) for x, y in spots]


def around(q: int, k: int, n: int = 8) -> list[tuple[int, int]]:
    """Pairs around (q, k), but for that one: the cursor is there."""
    return [(q + i, k + j) for i in range(-n, n + 1, 2) for j in range(-n, n + 1, 3) if i and j]


TEXTS = {
    "band": ("causal & (sliding_window(4096) | sinks(4))", [(700_000, 700_000), (700_000, 695_905), (5000, 8)]),
    "stride": ("causal & (sliding_window(50) | strided(7))", [(900_001, 900_000), (900_001, 1000)]),
    "random": ("hash(q, k) % 3 == 0", [(123_456, 654_321), (MILLION - 20, 30)]),
}


@pytest.mark.parametrize("name", TEXTS)
def test_single_tokens_of_a_million(browser: Browser, tmp_path: Path, name: str) -> None:
    text, places = TEXTS[name]
    opened(browser, tmp_path, page(text, MILLION, MILLION, theme="light"))
    program, _ = lowered(text)
    binding = make_binding(program, MILLION, MILLION)
    for q, k in places:
        browser.run("maskcPage.center(arguments[0], arguments[1], 16)", q, k)
        pairs = around(q, k)
        for (a, b), color in zip(pairs, colors_at(browser, pairs), strict=True):
            kept = dense(program, binding, 0, 0, (a, a + 1), (b, b + 1))[0, 0]
            assert color == LIGHT["kept" if kept else "none"], (a, b)


def test_a_zoom_is_answered(browser: Browser, tmp_path: Path) -> None:
    """Every step from the whole down to single tokens draws, and ends with nothing left to evaluate."""
    opened(browser, tmp_path, page(TEXTS["band"][0], MILLION, MILLION, theme="light"))
    browser.run("document.getElementById('over').focus()")
    seen = []
    for _ in range(16):
        browser.keys("+")
        seen.append(browser.run("return [maskcPage.state.zx, maskcPage.stats.frame]"))
    browser.settled()
    assert [z for z, _ in seen] == sorted(z for z, _ in seen)
    assert seen[-1][0] == pytest.approx(16 / 8, rel=30)
    assert browser.run("return document.getElementById('status').textContent").endswith("every pair shown is evaluated")


def test_hover_names_pair_tile_and_clause(browser: Browser, tmp_path: Path) -> None:
    opened(browser, tmp_path, page("causal & (sliding_window(40) | sinks(4))", 256, 256, theme="light"))
    browser.run("maskcPage.center(200, 100, 16)")
    x, y = browser.run("return maskcPage.spot(205, 98)")
    browser.move(x, y)
    said = browser.run("return ['place', 'kind', 'why'].map((id) => document.getElementById(id).textContent)")
    assert said[0] == "query 205, key 98"
    assert said[1] == "tile (1, 0) is partial: some pairs kept"
    assert said[2].startswith("Query 205 does not see key 98. None of these holds: `sliding_window(40)`")


def test_going_to_a_pair_refuses_what_is_none(browser: Browser, tmp_path: Path) -> None:
    opened(browser, tmp_path, page("causal", 30, 40, theme="light"))
    go = "const g = document.getElementById('go'); g.value = arguments[0]; g.dispatchEvent(new Event('change')); "
    go += "return [document.getElementById('place').textContent, g.getAttribute('aria-invalid')]"
    assert browser.run(go, " 39, 5") == ["query 39, key 5", "false"]
    for wrong in ("-12, 7", "12", "9, 7", "12, 40", "1e1, 3", "a, b"):  # Queries are 10 to 39.
        assert browser.run(go, wrong) == ["query 39, key 5", "true"], wrong
    assert browser.run(go, "") == ["query 39, key 5", "false"]


def test_a_small_window_has_room_for_the_picture(tmp_path: Path) -> None:
    if MISSING:
        pytest.skip(MISSING)
    with chromium(500, 400) as window:
        opened(window, tmp_path, page("causal", 30, 30, theme="light"))
        height = window.run("return document.getElementById('under').clientHeight")
    assert height > 150


def test_keyboard_moves_switches_and_shows_all(browser: Browser, tmp_path: Path) -> None:
    text = "pattern p(w: int[head]) { attend causal & sliding_window(w[h]) }"
    opened(browser, tmp_path, page(text, 300, 300, heads=2, w=[5, 100], theme="light"))
    browser.run("maskcPage.center(150, 120, 16)")
    browser.keys("\ue012", "\ue015", "\ue015")  # left, down, down
    assert browser.run("return document.getElementById('place').textContent") == "query 152, key 119"
    pairs = [(160, 120), (140, 138)]
    assert colors_at(browser, pairs) == [LIGHT["none"], LIGHT["kept"]]
    browser.keys("h")
    assert colors_at(browser, pairs) == [LIGHT["kept"], LIGHT["kept"]]
    assert browser.run("return document.getElementById('head').value") == "1"
    browser.keys("0", "t")
    assert browser.run("return [maskcPage.state.x, document.documentElement.dataset.theme]") == [0, "dark"]


def test_difference_shows_who_keeps_a_pair(browser: Browser, tmp_path: Path) -> None:
    text = page("causal & sliding_window(60)", 300, 300, other="causal & chunk(50)", theme="light")
    opened(browser, tmp_path, text)
    browser.run("maskcPage.center(120, 90, 8)")
    pairs = [(110, 105), (110, 95), (149, 101 - 12), (149, 80), (100, 105), (125, 100)]
    one, two = (lowered(t)[0] for t in ("causal & sliding_window(60)", "causal & chunk(50)"))
    kept = [dense(p, make_binding(p, 300, 300)) for p in (one, two)]
    names = {(False, False): "none", (True, False): "kept", (False, True): "second", (True, True): "both"}
    assert colors_at(browser, pairs) == [LIGHT[names[bool(kept[0][p]), bool(kept[1][p])]] for p in pairs]


def test_full_and_empty_tiles_need_no_evaluation(browser: Browser, tmp_path: Path) -> None:
    opened(browser, tmp_path, page("causal", MILLION, MILLION, theme="light"))
    pairs = [(900_000, 100_000), (100_000, 900_000)]
    assert colors_at(browser, pairs) == [LIGHT["kept"], LIGHT["none"]]


def test_a_few_queries_over_many_keys(browser: Browser, tmp_path: Path) -> None:
    opened(browser, tmp_path, page("causal & sliding_window(500)", 2, 1000, theme="light"))
    pairs = [(998, 900), (999, 300), (998, 510), (999, 490)]
    assert colors_at(browser, pairs) == [LIGHT["kept"], LIGHT["none"], LIGHT["kept"], LIGHT["none"]]


def test_hostile_names_do_not_run(browser: Browser, tmp_path: Path) -> None:
    program, source = lowered("pattern p() { attend causal & k < 7 }")
    opened(browser, tmp_path, html_page(program.replace(name=HOSTILE), make_binding(program, 64, 64), source=source))
    assert browser.run("return window.broken === undefined && document.querySelectorAll('img').length === 0")
    assert browser.run("return document.querySelector('h1').textContent") == HOSTILE


@pytest.mark.parametrize("lengths", [(64, 64), (24, 64)])
def test_a_laid_out_order_shows_the_tokens_it_holds(browser: Browser, tmp_path: Path, lengths: tuple[int, int]) -> None:
    program, _ = lowered("causal & strided(8)")
    binding = make_binding(program, *lengths)
    text = html_page(program, binding, layout="residues", tile=8, theme="light")
    assert [v["name"] for v in carried(text)["views"]] == ["mask", "laid out: residues:8"]
    opened(browser, tmp_path, text)
    pairs = [(60, 52), (60, 53), (45, 13), (63, 0), (50, 50), (41, 49)]
    kept = dense(program, binding)
    wanted = [LIGHT["kept" if kept[q - binding.offset, k] else "none"] for q, k in pairs]
    before = browser.run("return maskcPage.spot(60, 52)")
    assert colors_at(browser, pairs) == wanted
    browser.keys("v")
    assert colors_at(browser, pairs) == wanted
    assert browser.run("return maskcPage.spot(60, 52)") != before
    x, y = browser.run("return maskcPage.spot(60, 53)")
    browser.move(x, y)
    assert browser.run("return document.getElementById('place').textContent") == "query 60, key 53"


def test_a_layout_that_gains_nothing_is_not_shown() -> None:
    program, _ = lowered("causal")
    text = html_page(program, make_binding(program, 64, 64), layout="auto", tile=8)
    assert [v["name"] for v in carried(text)["views"]] == ["mask"]

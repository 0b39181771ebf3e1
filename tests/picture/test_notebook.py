"""What notebooks show of patterns, plans and ops."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

import maskc
from maskc.tiles import make_plan
from maskc.tiles.binding import make_binding

HEADS = "pattern near(w: int[head], doc: int[token]) { attend causal & sliding_window(w[h]) & same(doc) }"


def texts(svg: str) -> set[str]:
    return {"".join(t.itertext()) for t in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")}


def test_patterns_are_drawn_with_made_up_inputs() -> None:
    picture = maskc.parse(HEADS)._repr_svg_()
    assert picture is not None
    assert "near: 128 queries × 128 keys, with made-up inputs" in texts(picture)


def test_tables_that_were_given_tell_the_heads() -> None:
    picture = maskc.parse(HEADS).with_args(w=[3, 50, 9])._repr_svg_()
    assert picture is not None
    assert {"head 0 of 3", "head 2 of 3"} <= texts(picture)


def test_what_cannot_be_drawn_still_has_its_text() -> None:
    pattern = maskc.parse("pattern p(n: int) { attend sliding_window(n) & k < 7 }")
    assert pattern._repr_svg_() is None
    shown = pattern._repr_html_()
    assert "<svg" not in shown
    assert "attend" in shown
    assert "k &lt; 7" in shown


def test_ops_are_drawn_for_their_heads_and_sizes() -> None:
    pytest.importorskip("torch")
    text = "pattern g() over grid(y, x) { attend window(h, h) on y & window(1, 1) on x }"
    op = maskc.compile(text, heads=2, sizes={"y": 6, "x": 5})
    picture = op._repr_svg_()
    assert picture is not None
    assert {"head 0 of 2", "head 1 of 2", "g: 30 queries × 30 keys"} <= texts(picture)
    assert picture in op._repr_html_()


def test_plans_show_their_tiles_and_what_they_cost() -> None:
    program = maskc.parse("causal & sliding_window(100)").program
    plan = make_plan(program, make_binding(program, 1000, 1000), q_tile=64, k_tile=64)
    picture = plan._repr_svg_()
    assert picture is not None
    assert {"mask: 1,000 × 1,000 in tiles of 64 × 64", "partial", "empty"} <= texts(picture)
    shown = plan._repr_html_()
    assert picture in shown
    assert str(plan).split("\n")[0].replace("&", "&amp;") in shown

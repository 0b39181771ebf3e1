"""maskc plan."""

from __future__ import annotations

import json
from typing import Any

import pytest

from maskc import tiles
from maskc.tiles import make_plan

WINDOW = (
    "pattern w(window: int = 64) {\n    attend causal & (sliding_window(window) | sinks(4))\n    assert k <= q\n}\n"
)
HEADS = "pattern two(width: int[layer, head]) {\n    attend sliding_window(width[layer, h])\n}\n"


def test_everything_is_printed(maskc: Any, write: Any) -> None:
    result = maskc("plan", write("w.mask", WINDOW), "--q", "1024", "--q-tile", "64", "--k-tile", "32")
    assert result.code == 0
    lines = " ".join(result.out.split())
    assert lines.startswith("w: 1,024 queries x 1,024 keys masks 1 distinct among 1 head, 1 batch entry; layer 0")
    assert "tiles 64 x 32: 0 full, 76 partial, 436 empty" in lines
    useful = sum(min(q + 1, 64) + min(4, max(0, q - 63)) for q in range(1024))
    assert f"pairs {useful:,} useful, {76 * 64 * 32:,} executed: waste {76 * 64 * 32 / useful:.2f}" in lines
    assert "KV cache 68 keys are live at once (at query 67), 68 at the end" in lines
    assert "advice decoding needs a KV cache of 68 keys, not of 1,024" in lines
    assert "reach the last query hears of all that it ever will after 17 layers: every key up to it" in lines


def test_no_figure_is_infinite_where_there_is_no_pair(maskc: Any, write: Any) -> None:
    text = "pattern two(w: int[head]) over decoder -> encoder {\n    attend 0 <= q - k < w[h]\n}\n"
    file = write("n.mask", text)
    for q, k in ((0, 5), (5, 0)):
        words = ("plan", file, "--q", str(q), "--k", str(k), "--heads", "2", "--arg", "w=[1, 2]")
        lines = maskc(*words).out.splitlines()
        assert [" ".join(line.split()[1:]) for line in lines if line.startswith(("pairs", "speed-up"))] == [
            "0 useful, 0 executed",
            "1.0 times over dense, by the cost model",
        ]
        assert [line.split()[5] for line in lines if line[:1] in ("0", "1")] == ["-", "-"]
        data = json.loads(maskc(*words, "--json").out, parse_constant=pytest.fail)
        assert (data["waste"], data["speedup"], data["groups"][0]["waste"]) == (None, 1.0, None)


def test_json(maskc: Any, write: Any) -> None:
    arg = "width=[[16, 300], [16, 300]]"
    result = maskc("plan", write("h.mask", HEADS), "--q", "300", "--arg", arg, "--head-dim", "64", "--json")
    assert result.code == 0
    data = json.loads(result.out)
    assert (data["maskc"], data["name"], data["heads"], data["masks"]) == (1, "two", 2, 2)
    assert [g["heads"] for g in data["groups"]] == [[0], [1]]
    assert data["flops_forward"] == 4 * 64 * data["executed_pairs"]
    assert data["useful_pairs"] == sum(min(q + 1, 16) for q in range(300)) + 300 * 301 // 2
    assert data["liveness"]["most"] == 300
    assert data["reach"]["layers"] == 1
    assert data["reach"]["complete"]
    assert data["seconds"] > 0
    assert "stack" not in data


def test_a_row_for_each_group_of_heads(maskc: Any, write: Any) -> None:
    result = maskc("plan", write("h.mask", HEADS), "--q", "300", "--arg", "width=[[16, 16, 300]]")
    assert "masks     2 distinct among 3 heads" in result.out
    rows = [line.split()[:2] for line in result.out.splitlines()]
    assert ["0-1", "0"] in rows
    assert ["2", "0"] in rows


def test_the_numbers_of_the_groups_are_whole_in_a_narrow_terminal(
    maskc: Any, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    text = "pattern p(w: int[head]) {\n    attend causal & sliding_window(w[h])\n}\n"
    given = ["--q", "65536", "--heads", "2", "--arg", "w=[1000, 60000]"]
    lines = maskc("plan", write("p.mask", text), *given).out.split("\n")
    at = next(i for i, line in enumerate(lines) if line.startswith("heads"))
    assert lines[at].split("  ")[-1].strip() == "live keys"
    assert "65,036,500" in lines[at + 1]
    assert "2,132,190,000" in lines[at + 2]
    assert max(map(len, lines[at + 3 :])) <= 40


def test_a_stack_of_unlike_layers(maskc: Any, write: Any) -> None:
    file = write("h.mask", HEADS)
    result = maskc("plan", file, "--q", "300", "--arg", "width=[[2], [11]]", "--layers", "2", "--json")
    data = json.loads(result.out)
    assert data["reach"]["layers"] == 299
    assert data["stack"]["reach"]["layers"] == 2 * 27 + 2  # 11 positions in two layers: 27 times, and 2 are left
    few = maskc("plan", file, "--q", "300", "--arg", "width=[[2], [11]]", "--layers", "3")
    assert few.code == 2
    assert "width has 2 layers, not 3" in few.err
    made_up = maskc("plan", file, "--q", "300", "--layers", "3", "--json")
    assert "note: width was not given" in made_up.err
    assert json.loads(made_up.out)["stack"]["layers"] == 3


def test_layouts_say_why(maskc: Any, write: Any) -> None:
    file = write("d.mask", "causal & dilated(16, 32)\n")
    data = json.loads(maskc("plan", file, "--q", "4096", "--layout", "auto", "--json").out)
    assert data["layout"] != "none"
    assert data["layout_reason"]
    plain = json.loads(maskc("plan", file, "--q", "4096", "--json").out)
    assert plain["executed_pairs"] > data["executed_pairs"]
    assert plain["useful_pairs"] == data["useful_pairs"]
    layouts = [a for a in plain["advice"] if a["kind"] == "layout"]
    assert layouts[0]["gain"] > 2


def test_what_is_missing_is_made_up_and_said(maskc: Any, write: Any) -> None:
    result = maskc("plan", write("h.mask", HEADS), "--q", "64", "--heads", "2")
    assert result.code == 0
    assert "note: width was not given" in result.err


def test_tables_that_come_with_the_batch_are_drawn_as_others_are(maskc: Any, write: Any) -> None:
    """Only one number a batch entry is made up as a length."""
    file = write("h.mask", "pattern p(level: {fine, dropped}[batch, 8, 8]) { attend level[b, q // 8, k // 8] == fine }")
    result = maskc("plan", file, "--q", "64", "--json")
    assert "note: level was not given: drawn from 0 to 1" in result.err
    assert 0 < json.loads(result.out)["useful_pairs"] < 64 * 64


def test_all_layers_of_a_stack_share_what_a_plan_may_cost(maskc: Any, write: Any) -> None:
    """A layer of it may be planned, but not if a thousand may cost no more than one."""
    file = write("h.mask", "pattern half { attend hash(q, k, layer) % 2 == 0 & causal }")
    tiles = ("--q", "512", "--q-tile", "2", "--k-tile", "2")
    assert maskc("plan", file, *tiles).code == 0
    many = maskc("plan", file, *tiles, "--layers", "1000")
    assert many.code == 1
    assert "E801" in many.err


def test_layers_with_the_same_mask_are_planned_once(maskc: Any, write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counted(program: Any, binding: Any, **options: Any) -> Any:
        made.append(binding.layer)
        return make_plan(program, binding, **options)

    monkeypatch.setattr(tiles, "make_plan", counted)
    file = write("h.mask", "pattern p { attend causal & (layer % 4 == 3 & q < 512 | sliding_window(16)) }")
    found = maskc("plan", file, "--q", "2048", "--layers", "1024", "--json")
    assert made == [0, 0, 3]
    stack = json.loads(found.out)["stack"]["reach"]
    assert (stack["level"], stack["reached"]) == ("tokens", 2048)


def test_the_limit_can_be_raised(maskc: Any) -> None:
    words = ("plan", "hash(q, k) % 2 == 0", "--q", "256", "--q-tile", "16", "--k-tile", "16", "--budget")
    refused = maskc(*words, "1000")
    assert refused.code == 1
    assert "E801" in refused.err
    assert "--budget" in refused.err
    assert maskc(*words, "1000000").code == 0


def test_ranks(maskc: Any, write: Any) -> None:
    file = write("w.mask", WINDOW)
    result = maskc("plan", file, "--q", "8192", "--ranks", "4")
    assert result.code == 0
    assert "ranks 4 ranks of 2,048 tokens in 1 chunk (contiguous)" in " ".join(result.out.split())
    data = json.loads(maskc("plan", file, "--q", "8192", "--ranks", "4", "--json").out)["partition"]
    assert data["chunks"] == [[[i * 2048, (i + 1) * 2048]] for i in range(4)]
    assert data["received"] == [0, 256, 256, 256]  # a tile with the sinks, one with the window before
    assert "E504" in maskc("plan", file, "--q", "3", "--ranks", "4").err
    cross = write("c.mask", "pattern c over decoder -> encoder { attend k <= q }")
    assert "E702" in maskc("plan", cross, "--q", "64", "--ranks", "4").err

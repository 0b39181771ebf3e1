"""Conditions on the key and scattered labels, by tiles: equal to brute force, and cheap where points would be many."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from maskc.lower import lower_text
from maskc.tiles import make_plan
from maskc.tiles.binding import make_binding
from maskc.tiles.budget import Budget
from maskc.tiles.columns import Columns, columns_of_keys, shared_labels
from maskc.tiles.overlay import Entries
from maskc.tiles.rowform import Solved
from maskc.tiles.rowwise import _Fragments
from maskc.tiles.tiling import FULL, PARTIAL

from .test_kinds import compare

LENGTH = 700


def _labels(kind: str, n: int, rng: np.random.Generator) -> Any:
    kinds: dict[str, Any] = {
        "few": lambda: rng.integers(-3, 3, n),
        "many": lambda: rng.integers(0, 300, n),
        "most once": lambda: rng.integers(0, 10**12, n) // rng.integers(1, 10**12, n),
        "one often": lambda: np.where(rng.random(n) < 0.7, 5, rng.integers(0, 10**6, n)),
        "in runs": lambda: rng.integers(0, 6, n // 37 + 1).repeat(37)[:n],
        "one": lambda: np.full(n, 7),
    }
    return kinds[kind]()


def _dense(columns: Columns, rows: int) -> Any:
    out = np.zeros((rows, columns.cols), np.uint8)
    for r in range(rows):
        at = slice(*((0, columns.start.size) if columns.apart else columns.offsets[r : r + 2]))
        ends = [-1]
        for start, end, whole in zip(columns.start[at], columns.end[at], columns.whole[at], strict=True):
            assert ends[-1] <= start < end
            out[r, start:end] = 2 if whole else 1
            ends.append(end)
    return out


@pytest.mark.parametrize("tile", [1, 16, 50])
@pytest.mark.parametrize("kind", ["few", "many", "most once", "one often", "in runs", "one"])
@pytest.mark.parametrize("unequal", [False, True])
@pytest.mark.parametrize("admitted", ["all", "most", "stretches", "none"])
def test_tiles_that_share_a_label(kind: str, tile: int, unequal: bool, admitted: str) -> None:
    rng = np.random.default_rng(tile)
    q_label, k_label = _labels(kind, 301, rng), _labels(kind, 333, rng)
    starts = np.unique(np.append(0, rng.integers(0, 301, 20)))
    q_there, k_there = (np.full(n, admitted == "all") for n in (301, 333))
    if admitted in ("most", "stretches"):
        q_there, k_there = rng.random(301) < 0.9, rng.random(333) < 0.9
    if admitted == "stretches":
        q_there[100:200], k_there[140:250] = False, np.arange(110) > 50
    shared = shared_labels(q_label, k_label, starts, tile, admitted=(q_there, k_there), unequal=unequal)
    assert shared is not None
    found = _dense(shared.rows(0, starts.size), starts.size)
    passes = ((q_label[:, None] == k_label) ^ unequal) & q_there[:, None] & k_there
    some = [_dense(shared.rows(a, b), b - a) for a, b in ((0, 5), (5, 5), (5, 6), (6, starts.size))]
    np.testing.assert_array_equal(np.concatenate(some), found)
    if admitted == "all":
        number = sum(np.count_nonzero(np.diff(row, prepend=0)[row > 0]) for row in found)
        assert shared.runs >= number // starts.size
    for i, rows in enumerate(np.split(passes, starts[1:])):
        for j in range(found.shape[1]):
            part = rows[:, j * tile : (j + 1) * tile]
            assert found[i, j] == (2 if part.all() else part.any())


@pytest.mark.parametrize("kind", ["few", "many", "most once", "one often", "in runs", "one"])
def test_labels_are_compared_only_where_it_is_asked(kind: str) -> None:
    rng = np.random.default_rng(7)
    q_label, k_label = _labels(kind, 3000, rng), _labels(kind, 3200, rng)
    starts = np.arange(0, 3000, 16)
    lo, hi = np.sort(rng.integers(0, 201, (2, starts.size)), axis=0)
    whole = shared_labels(q_label, k_label, starts, 16)
    part = shared_labels(q_label, k_label, starts, 16, (lo, hi))
    assert whole is not None
    assert part is not None
    wide, narrow = (_dense(x.rows(0, starts.size), starts.size) for x in (whole, part))
    for r in range(starts.size):
        np.testing.assert_array_equal(wide[r, lo[r] : hi[r]], narrow[r, lo[r] : hi[r]])


def test_runs_of_a_condition_on_the_key() -> None:
    passes = np.random.default_rng(0).random(1000) < 0.9
    passes[100:220] = False
    columns = columns_of_keys(passes, 16)
    expected = [2 if p.all() else p.any() for p in np.split(passes, range(16, 1000, 16))]
    np.testing.assert_array_equal(_dense(columns, 1)[0], expected)
    of, start, end, whole, most = columns.meet(np.array([0, 0]), np.array([3, 40]), np.array([9, 40]))
    assert (of == 0).all()
    assert start.min() >= 3
    assert end.max() <= 9
    assert whole.shape == start.shape
    for a, b, keys in zip(start, end, most, strict=True):
        assert keys == max(np.count_nonzero(passes[16 * i : 16 * i + 16]) for i in range(a, b))


CONDITIONS = {
    "labels": "causal & same(lab)",
    "labels or a window": "causal & (same(lab) | sliding_window(90))",
    "labels in documents": "same(doc) & same(lab)",
    "two kinds of labels": "same(lab) & same(other)",
    "three kinds of labels": "same(lab) & same(other) & hash(q) % 4 == hash(k, 1) % 4 & (causal | mark[k])",
    "labels that differ": "lab[q] != lab[k] & causal",
    "labels that differ, of both": "mark[q] & lab[q] != lab[k] & mark[k]",
    "not two kinds of labels": "~(same(lab) & same(other))",
    "labels that differ, or marks": "(~same(lab) | mark[k] | other[k] == 1) & causal",
    "labels that differ within documents": "same(doc) & lab[q] != lab[k] & lab[k] > 1 | ~same(doc) & mark[q]",
    "labels that differ from others": "lab[k] != other[q // 2] + 1 & k < 500 | same(other) & ~same(lab)",
    "marks that differ": "mark[q] != mark[k] & (q - k) % 3 == 1",
    "labels and periods that differ": "causal & ~same(lab) & (q - k) % 40 == 7 | ~same(doc) & k % 50 < 20",
    "labels of others": "causal & lab[k] == other[q // 2] + 1",
    "marks of both": "mark[q] & mark[k] & causal",
    "marks or a window": "sliding_window(60) | global(mark)",
    "marks and labels": "mark[k] & same(lab) | mark[q] & causal",
    "marks and labels of both": "mark[q] & mark[k] & same(lab) & (causal | lab[q] > 2)",
    "labels that some have": "same(doc) & (causal | lab[q] > 1 & same(lab))",
    "labels at a distance that some have": "lab[q] != 0 & same(lab) & other[q] > 0 & 20 < q - k < 200 | mark[q] & self",
    "labels of others that some have": "lab[k] == other[q // 2] + 1 & mark[q] & hash(k) % 3 != 0",
    "periods of labels that some have": "(q - k) % 7 == 1 & same(lab) & lab[k] > 1 & mark[q]",
    "marks in documents": "same(doc) & mark[k] & causal",
    "marks of queries in a window": "mark[q] & sliding_window(200)",
    "marks equal": "mark[q] == mark[k] & causal",
    "padding": "~mark[k] & ~mark[q] & (causal | k < 50)",
    "digits and marks": "mark[k] & (k // 10 % 7 == q // 10 % 7)",
    "digits from an offset": "(q + 5) // 4 % 9 == (k + 5) // 4 % 9 | (k // 9 - 3) // 3 % 4 < q // 30 % 4 & k < 90",
    "digits that differ": "k // 30 % 3 != q // 20 % 3 & k // 9 % 5 != 2 | (k + 11) // 50 % 4 != (q - 7) % 3 & causal",
    "digits from two offsets": "(k + 3) % 40 - (q + 3) % 40 < 7 & (k - 100) // 40 % 3 == (q - 90) // 40 % 3 & k > 11",
    "hashes of queries": "hash(q) % 3 == 0 & q - k < 100 & causal | same(lab) & hash(k) % 2 == 0",
    "long periods": "causal & (sliding_window(40) | strided(150))",
    "long periods of labels": "(q - k) % 131 == 7 & same(lab) | (k - q + 3) % 200 == 0 & mark[q]",
    "differences": "causal & (q - k) % 31 < 2 & same(doc)",
    "queries of two kinds": "causal & (hash(q) % 2 == 0 | hash(q) % 2 == 1 & q - k < 300)",
    "labels or marks": "causal & (same(lab) | mark[k] | other[k] == 1)",
    "labels or marks within bounds": "mark[k] & q - k < 100 | causal & same(lab) & mark[k] | same(other) & causal",
    "marks or few distances": "causal & (mark[k] | hash(q - k) % 40 == 0 | (q - k < 7) & lab[q] > 0)",
    "distances": "causal & (mark[min(q - k, 90)] & ~mark[k - q + 300] | q - k == 200)",
    "distances of labels": "same(lab) & hash(k - q + 3) % 30 == 0 & abs(q - k) < 300 & (mark[k] | causal)",
    "odd differences": "(2 * q - 2 * k) % 31 == 4 | (q - k) % 29 == 1 & mark[k]",
}
_SIGNATURE = "lab: int[token], doc: int[token], other: int[token], mark: bool[token]"


@pytest.mark.parametrize("shape", [(LENGTH, LENGTH, 16, 16), (333, LENGTH, 32, 24), (1, LENGTH, 16, 50)], ids=str)
@pytest.mark.parametrize("kind", ["few", "many", "one often", "in runs"])
@pytest.mark.parametrize("name", CONDITIONS)
def test_plans_with_conditions_equal_brute_force(name: str, kind: str, shape: tuple[int, int, int, int]) -> None:
    rng = np.random.default_rng(len(name))
    text = f"pattern p({_SIGNATURE}) {{ attend {CONDITIONS[name]} }}"
    program = lower_text(text)[0]
    q_len, k_len, q_tile, k_tile = shape
    every: dict[str, Any] = {
        "lab": _labels(kind, k_len, rng),
        "doc": np.sort(rng.integers(0, 6, k_len)),
        "other": _labels("few", k_len, rng),
        "mark": rng.random(k_len) < (0.01 if kind == "many" else 0.5),
    }
    compare(program, make_binding(program, q_len, k_len, heads=1, **every), q_tile, k_tile)


def test_comparing_labels_is_counted_and_left_where_it_takes_too_long() -> None:
    """Labels of which tiles have few in common take longest: each tile of each is looked at."""
    rng, starts, spent = np.random.default_rng(0), np.arange(0, 1 << 14, 128), list[int]()
    for many in (40, 200, 4000):  # of 40 labels, each tile has one that all have
        labels, budget, small = rng.integers(0, many, 1 << 14), Budget(1 << 30), Budget(100)
        assert shared_labels(labels, labels, starts, 128, None, budget) is not None
        spent.append(budget.spent)
        assert (shared_labels(labels, labels, starts, 128, None, small) is None) == (many > 40)
        assert small.spent == 0
    assert spent[0] == 0
    assert spent[2] > 4 * spent[1] > 4 * 128**2 * 8 // 48


def test_a_label_that_is_no_number_equals_nothing() -> None:
    program = lower_text("pattern p(x: float[token]) { attend x[q] == x[k] }")[0]
    x = np.repeat([0.5, np.nan, 2.0, 0.5], 20)
    compare(program, make_binding(program, 80, 80, x=x), 16, 16)


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("causal & same(doc)", {"doc": 8}),
        ("causal & same(doc)", {"doc": 1000}),
        ("causal & (same(doc) | sliding_window(256))", {"doc": 64}),
        ("causal & doc[q] // 9 == doc[k] // 9 & doc[q] % 7 == doc[k] % 7", {"doc": 1000}),
        ("causal | same(doc) & doc[q] >= 0", {"doc": -8}),
        ("causal & same(doc) & doc[q] != -1 & doc[k] != -1", {"doc": -8}),
        ("causal & ~same(doc)", {"doc": 2}),
        ("doc[q] != doc[k]", {"doc": 64}),
        ("~(causal & same(doc))", {"doc": 1000}),
        ("causal & doc[k] != -1 & ~same(doc)", {"doc": -8}),
        ("causal & mark[k]", {"mark": 0.9}),
        ("sliding_window(500) | global(mark)", {"mark": 0.0001}),
    ],
)
def test_scattered_inputs_take_few_evaluations(text: str, given: dict[str, Any]) -> None:
    """At 131,072 tokens there are 1,048,576 tiles, nearly all of which hold a kept and a dropped pair.

    ``doc``: how many labels are drawn from; if negative, they are of pictures, one a thousand tokens, and text has -1.
    """
    n, rng = 1 << 17, np.random.default_rng(0)
    ((name, amount),) = given.items()
    pictures = np.where(np.arange(n) % 1000 < 256, np.arange(n) // 1000, -1)
    values: Any = rng.random(n) < amount
    if name == "doc":
        values = rng.integers(0, amount, n) if amount > 0 else pictures
    program = lower_text(f"pattern p({name}: {'int' if name == 'doc' else 'bool'}[token]) {{ attend {text} }}")[0]
    binding = make_binding(program, n, n, heads=1, batch=1, sizes=None, **{name: values})
    plan = make_plan(program, binding, budget=5_000_000)
    kinds = plan.kinds()
    sample = rng.integers(0, 1024, (300, 2))
    near = np.stack([sample[:, 0], np.maximum(0, sample[:, 0] - rng.integers(0, 4, 300))], axis=1)
    for r, c in np.concatenate([sample, near]):
        tile = plan.tile_mask(plan.groups[0], np.array([r]), np.array([c]))
        assert kinds[r, c] == (FULL if tile.all() else PARTIAL if tile.any() else 0)


def _pictures(n: int, rng: np.random.Generator, size: int) -> Any:
    """The picture of each token, within text (-1)."""
    found, at = np.full(n, -1), size // 3
    for i in range(n):
        found[at : at + size] = i
        at += size + int(rng.integers(size // 8, 2 * size))
    return found


def _overlapping(name: str, n: int, unit: int) -> tuple[str, dict[str, Any], Any]:
    """A mask of parts that overlap: as text, what it reads, and as a function of queries and keys."""
    rng = np.random.default_rng(1)
    if name == "pictures":
        im = _pictures(n, rng, 2 * unit)
        text = "im: int[token]) { attend causal & (im[k] == -1 | same(im)) | im[q] != -1 & same(im) }"
        return text, {"im": im}, lambda q, k: (k <= q) & (im[k] == -1) | (im[q] == im[k]) & ((im[q] >= 0) | (k <= q))
    if name == "agents":
        agent, msg = rng.integers(0, 8, n // unit + 1).repeat(unit)[unit // 3 :][:n], rng.random(n) < 1 / unit
        text = "agent: int[token], msg: bool[token]) { attend causal & (same(agent) | msg[k]) }"
        return text, {"agent": agent, "msg": msg}, lambda q, k: (k <= q) & ((agent[q] == agent[k]) | msg[k])
    verticals, slashes = (np.sort(rng.choice(n, m, replace=False)) for m in (100, 50))
    if name == "lists":
        text = (
            "v: int[100], far: int[50]) "
            "{ attend causal & (any(i in 0..100: k == v[i]) | any(i in 0..50: q - k == far[i])) }"
        )
        given = {"v": verticals, "far": slashes}
    else:
        text = "v: bool[k], far: bool[k]) { attend causal & (v[k] | far[q - k]) }"
        given = {"v": np.isin(np.arange(n), verticals), "far": np.isin(np.arange(n), slashes)}
    return text, given, lambda q, k: (k <= q) & (np.isin(k, verticals) | np.isin(q - k, slashes))


@pytest.mark.parametrize("name", ["pictures", "agents", "lists", "tables"])
def test_parts_that_overlap_are_known_together(name: str) -> None:
    """Where none of them fills a tile that several touch."""
    n, tile = 997, 8
    text, given, kept = _overlapping(name, n, tile)
    program = lower_text(f"pattern p({text}")[0]
    pairs = np.zeros((-n % tile + n,) * 2, np.bool_)
    pairs[:n, :n] = kept(np.arange(n)[:, None], np.arange(n))
    there = np.pad(np.ones((n, n), np.bool_), (0, -n % tile))
    tiles = [x.reshape(len(x) // tile, tile, -1, tile) for x in (pairs, pairs | ~there)]
    wanted = tiles[0].any((1, 3)).astype(np.uint8) + tiles[1].all((1, 3))
    kinds = make_plan(program, make_binding(program, n, n, **given), q_tile=tile, k_tile=tile).kinds()
    np.testing.assert_array_equal(kinds, wanted)
    n = 1 << 16
    text, given, _ = _overlapping(name, n, 128)
    spent = [0]
    make_plan(program, make_binding(program, n, n, **given), watch=lambda done, _: spent.append(done))
    assert max(spent) < 2e7  # of 2^32 pairs, or 131,072 tiles


def test_conditions_on_the_difference_are_taken_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the stretches that all of them have, and not by those of each with those of each other."""
    n, rng = 600, np.random.default_rng(0)
    one, other = rng.random((2, n)) < 0.2
    text = "pattern p(one: bool[k], other: bool[k]) { attend causal & one[q - k] & other[q - k] & k % 40 < 30 }"
    program = lower_text(text)[0]
    solved, entries = [0], _Fragments.entries

    def counted(self: _Fragments, clause: Solved) -> Entries | None:
        solved[0] += 1
        return entries(self, clause)

    monkeypatch.setattr(_Fragments, "entries", counted)
    compare(program, make_binding(program, n, n, one=one, other=other), 16, 16)
    assert 0 < solved[0] <= np.count_nonzero(one & other) < 50


#: Masks of which parts speak of ``q - k`` alone, and the same on arrays of positions: ``d`` is ``q - k``.
DIFFERENCES: dict[str, Any] = {
    "(q - k) % 51 < 13 & (q - k) % 19 < 9": lambda q, k, d: (d % 51 < 13) & (d % 19 < 9),
    "causal & ~((q - k) % 51 < 13)": lambda q, k, d: (d >= 0) & (d % 51 >= 13),
    "causal & ((q - k) % 51 < 7 | (q - k) % 77 < 13)": lambda q, k, d: (d >= 0) & ((d % 51 < 7) | (d % 77 < 13)),
    "window(90, 5) & (q - k) % 13 == 0": lambda q, k, d: (d >= -5) & (d <= 90) & (d % 13 == 0),
    "causal & (~((q - k) % 51 < 13) | sinks(9))": lambda q, k, d: (d >= 0) & ((d % 51 >= 13) | (k < 9)),
    "causal & q % 70 < 30 & (q - k) % 51 < 13 & (q - k) % 3 != 1": (
        lambda q, k, d: (d >= 0) & (q % 70 < 30) & (d % 51 < 13) & (d % 3 != 1)
    ),
    "(q - k) % 51 < 26 & same(token // 33) | (q - k) % 60 == 59": (
        lambda q, k, d: (d % 51 < 26) & (q // 33 == k // 33) | (d % 60 == 59)
    ),
    "(q - k) * (q - k) % 97 < 40 & k < 2 * q": lambda q, k, d: (d * d % 97 < 40) & (k < 2 * q),
    "(q - k) * (q - k) % 97 < 40 | k % 41 == 3 & (q - k) % 45 < 40": (
        lambda q, k, d: (d * d % 97 < 40) | (k % 41 == 3) & (d % 45 < 40)
    ),
}


@pytest.mark.parametrize("shape", [(300, 300), (301, 333), (77, 500), (500, 512)])
@pytest.mark.parametrize("tile", [(16, 16), (16, 8), (8, 16), (24, 10), (7, 15)])
@pytest.mark.parametrize("text", DIFFERENCES)
def test_conditions_on_the_difference_are_known_by_difference(
    text: str, tile: tuple[int, int], shape: tuple[int, int]
) -> None:
    (q_len, k_len), (q_tile, k_tile) = shape, tile
    program = lower_text(text)[0]
    binding = make_binding(program, q_len, k_len)
    q, k = np.arange(q_len)[:, None] + binding.offset, np.arange(k_len)
    mask = DIFFERENCES[text](q, k, q - k)
    rows, cols = np.arange(0, q_len, q_tile), np.arange(0, k_len, k_tile)
    some, every = (
        np.asarray(f.reduceat(f.reduceat(mask, rows), cols, axis=1)) for f in (np.logical_or, np.logical_and)
    )
    plan = make_plan(program, binding, q_tile=q_tile, k_tile=k_tile)
    np.testing.assert_array_equal(plan.kinds(), np.where(every, FULL, np.where(some, PARTIAL, 0)))


@pytest.mark.parametrize(
    ("text", "most"),
    [
        ("causal & (q - k) % 512 < 128 & (q - k) % 96 < 48", 400_000),
        ("~((q - k) % 512 < 128) & causal", 700_000),
        ("causal & ((q - k) % 1000 == 0 | (q - k) % 1001 == 0)", 300_000),
        ("causal & q - k < 8192 & (q - k) % 128 == 0", 60_000),
        ("causal & ~((q - k) % 512 < 128) & (q - k) % 3 == 0", 100_000),
    ],
)
def test_conditions_on_the_difference_cost_what_their_runs_do(text: str, most: int) -> None:
    program, spent = lower_text(text)[0], []
    binding = make_binding(program, 1 << 16, 1 << 16)
    make_plan(program, binding, watch=lambda done, whole: spent.append(done))
    assert 0 < spent[-1] < most


def test_conditions_on_the_difference_within_many_documents() -> None:
    """Each of which puts fragments of queries in places of their own."""
    text = "pattern p(doc: int[token]) { attend same(doc) | causal & (q - k) % 512 < 128 }"
    program, n, spent = lower_text(text)[0], 1 << 16, [0]
    doc = np.sort(np.random.default_rng(0).integers(0, 200, n))
    binding = make_binding(program, n, n, doc=doc)
    make_plan(program, binding, watch=lambda done, whole: spent.append(done))
    assert spent[-1] < 2_500_000


@pytest.mark.parametrize("length", [400, 1 << 16])
def test_equal_remainders_beside_others(length: int) -> None:
    """``q % 4 == k % 4`` cuts no row of tiles into pieces, and what digits keep of a tile is bounded."""
    program, spent = lower_text("causal & (q % 4 == k % 4 | k % 4 == 0 | q - k < 16)")[0], [0]
    plan = make_plan(program, make_binding(program, length, length), watch=lambda done, whole: spent.append(done))
    rows = np.arange(-(-length // 128))
    np.testing.assert_array_equal(plan.kinds(), np.where(rows[:, None] >= rows, PARTIAL, 0))
    assert spent[-1] < 50_000


def _kinds(mask: Any, tile: int) -> Any:
    at = np.arange(0, mask.shape[0], tile)
    some, every = (f.reduceat(f.reduceat(mask, at), at, axis=1) for f in (np.logical_or, np.logical_and))
    return np.where(every, FULL, np.where(some, PARTIAL, 0))


@pytest.mark.parametrize(("length", "most"), [(2000, 1_000_000), (1 << 14, 12_000_000)])
def test_of_tiles_with_small_parts_that_are_open_those_are_evaluated(length: int, most: int) -> None:
    """Pictures within text that see no other picture: their ends are within tiles."""
    text = "pattern p(image: int[token]) { attend causal & ~(same(image) & image[q] >= 0) }"
    program, spent = lower_text(text)[0], [0]
    at = np.arange(length)
    image = np.where(at % 700 < 300, at // 700, -1)
    binding = make_binding(program, length, length, image=image)
    plan = make_plan(program, binding, watch=lambda done, whole: spent.append(done))
    assert spent[-1] < most
    if length < 4096:
        same = (image[:, None] == image) & (image[:, None] >= 0)
        np.testing.assert_array_equal(plan.kinds(), _kinds((at[:, None] >= at) & ~same, 128))


def test_a_few_points_tell_that_most_tiles_are_mixed() -> None:
    """A table by blocks that do not lie along tiles: most of a tile's outline need not be looked at."""
    text = "pattern p(n: int, chosen: bool[n, n]) { attend chosen[q * 7 % 4096 // 64, k * 7 % 4096 // 64] }"
    program, spent = lower_text(text)[0], [0]
    chosen = np.random.default_rng(0).random((64, 64)) < 0.125
    binding = make_binding(program, 4096, 4096, n=64, chosen=chosen)
    plan = make_plan(program, binding, watch=lambda done, whole: spent.append(done))
    block = np.arange(4096) * 7 % 4096 // 64
    np.testing.assert_array_equal(plan.kinds(), _kinds(chosen[block[:, None], block], 128))
    assert spent[-1] < 200_000

"""Structures over inputs: kept while the values live, extended where they grow, and never stale."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import torch

from maskc.ir.binding import Binding
from maskc.ir.program import Program
from maskc.lower import lower_text
from maskc.tiles import fields, inputs, make_plan
from maskc.tiles.binding import make_binding
from maskc.tiles.fields import Field, LabelRuns, Tower, field_of, label_runs
from maskc.tiles.inputs import content_key, extremes, row_classes, structure

from .corpus import brute_kinds

LONG = 6000


def intern(array: Any) -> Any:
    return inputs.intern(array, array.dtype)


def _reads(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Counts what is read to build structures, from now on."""
    read = {"tower": 0, "ascends": 0, "runs": 0, "extremes": 0}
    cover, ascends, extended = Tower.cover, fields._ascends, LabelRuns.extended

    def counted_cover(self: Tower, values: Any) -> None:
        before = self.read
        cover(self, values)
        read["tower"] += self.read - before

    def counted_ascends(values: Any) -> bool:
        read["ascends"] += values.size
        return ascends(values)

    def counted_runs(self: LabelRuns, values: Any) -> LabelRuns:
        read["runs"] += values.size - self.size
        return extended(self, values)

    monkeypatch.setattr(Tower, "cover", counted_cover)
    monkeypatch.setattr(fields, "_ascends", counted_ascends)
    monkeypatch.setattr(LabelRuns, "extended", counted_runs)
    return read


def _program(text: str) -> Program:
    return lower_text(text)[0]


def _kinds(program: Program, binding: Binding, tile: int = 64) -> Any:
    return make_plan(program, binding, q_tile=tile, k_tile=tile).kinds()


def test_equal_values_are_one_array_that_cannot_be_written_to() -> None:
    values = np.arange(LONG) // 50
    one, two = intern(values.copy()), intern(values.copy())
    assert one is two
    assert content_key(one) == content_key(two) is not None
    with pytest.raises(ValueError, match="read-only"):
        one[0] = 5
    other = values.copy()
    other[LONG // 2 + 1] += 1
    assert content_key(intern(other)) != content_key(one)


def test_bits_are_compared_not_numbers() -> None:
    values = np.zeros(LONG)
    values[7] = np.nan
    one = intern(values.copy())
    assert intern(values.copy()) is one
    values[9] = -0.0
    assert intern(values) is not one


@pytest.mark.parametrize("kind", ["numpy", "torch", "torch data", "torch through numpy"])
def test_a_changed_array_is_never_served_what_was_known_of_it(kind: str) -> None:
    """In every way in which torch's version counter, or any identity, would not tell."""
    program = _program(
        "pattern p(doc: int[token], mark: bool[token]) { attend doc[q] <= doc[k] & same(doc) | mark[k] }"
    )
    rng = np.random.default_rng(0)
    plain = np.sort(rng.integers(0, 9, LONG))
    doc: Any = plain if kind == "numpy" else torch.from_numpy(plain)
    mark = rng.random(LONG) < 0.001
    for place in (10, LONG // 2, LONG - 1):
        binding = make_binding(program, 128, LONG, doc=doc, mark=mark)
        np.testing.assert_array_equal(_kinds(program, binding), brute_kinds(program, binding, 64, 64))
        if kind == "torch data":
            doc.data[place] = 9 - doc.data[place]
        elif kind == "torch":
            doc[place] = 9 - doc[place]
        else:
            plain[place] = 9 - plain[place]
        mark[place] = not mark[place]
        assert binding.tables["doc"][place] != int(doc[place])


@pytest.mark.parametrize("labels", ["sorted", "scattered"])
def test_decoding_reads_new_labels_only(labels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = _program("pattern p(doc: int[token]) { attend causal & (same(doc) | doc[k] > doc[q] + 3) }")
    rng = np.random.default_rng(1)
    doc = rng.integers(0, 9, LONG) if labels == "scattered" else np.sort(rng.integers(0, 90, LONG))
    binding = make_binding(program, 1, LONG, doc=doc)
    plan = make_plan(program, binding)
    read = _reads(monkeypatch)
    for _ in range(150):
        doc = np.append(doc, doc[-1] + rng.integers(0, 2) if labels == "sorted" else rng.integers(0, 9))
        binding = make_binding(program, 1, doc.size, doc=doc)
        plan = make_plan(program, binding)
    np.testing.assert_array_equal(plan.kinds(), brute_kinds(program, binding, 128, 128))
    assert read["tower"] <= 2 * 64 + 150
    assert read["runs"] <= 150
    assert read["ascends"] <= 2 * 150


def test_appending_a_document_reads_that_document_only(monkeypatch: pytest.MonkeyPatch) -> None:
    program = _program("pattern p(doc: int[token]) { attend causal & same(doc) }")
    doc = np.arange(1 << 20) // 1000
    first = make_binding(program, doc.size, doc.size, doc=doc)
    make_plan(program, first)
    read = _reads(monkeypatch)
    doc = np.concatenate([doc, np.full(700, doc[-1] + 1)])
    second = make_binding(program, doc.size, doc.size, doc=doc)
    runs = make_plan(program, second).groups[0].runs
    assert sum(read.values()) <= 3 * 701
    fresh = LabelRuns.of(doc)
    np.testing.assert_array_equal(label_runs(second.tables["doc"], (), second.tables["doc"]).starts, fresh.starts)
    last = slice(int(runs.offsets[-2]), int(runs.offsets[-1]))
    assert runs.start[last].min() == fresh.starts[-1] // 128


def test_planning_again_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    program = _program("pattern p(doc: int[token], a: int[q]) { attend causal & same(doc) & k < a[q] }")
    rng = np.random.default_rng(2)
    given: dict[str, Any] = {"doc": rng.integers(0, 9, (2, LONG)), "a": rng.integers(0, LONG, LONG)}
    first = make_binding(program, LONG, LONG, **given)
    plan = make_plan(program, first)
    read = _reads(monkeypatch)
    assert make_plan(program, make_binding(program, LONG, LONG, **given)) == plan
    assert sum(read.values()) == 0


def test_batch_entries_grow_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    program = _program("pattern p(doc: int[token]) { attend doc[q] <= doc[k] | same(doc) }")
    rng = np.random.default_rng(3)
    doc = rng.integers(0, 9, (3, LONG))
    binding = make_binding(program, 40, LONG, doc=doc)
    assert [g.batches for g in make_plan(program, binding).groups] == [(0,), (1,), (2,)]
    read = _reads(monkeypatch)
    doc = np.concatenate([doc, rng.integers(0, 9, (3, 100))], axis=1)
    binding = make_binding(program, 40, doc.shape[1], doc=doc)
    plan = make_plan(program, binding)
    for b in range(3):
        np.testing.assert_array_equal(plan.kinds(plan.group_of(0, b)), brute_kinds(program, binding, 128, 128, batch=b))
    assert 0 < read["tower"] <= 3 * 192


def test_a_tree_of_extensions_answers_like_brute_force() -> None:
    """Arrays that go on differently after common beginnings share what they may and nothing else."""
    rng = np.random.default_rng(4)
    arrays = [intern(rng.integers(0, 1000, 4096 + 37))]
    for step in range(40):
        parent = arrays[int(rng.integers(0, len(arrays)))]
        cut = parent.size if step % 3 else int(rng.integers(4096, parent.size + 1))
        more = rng.integers(-1000 * step, 1000 * (step + 1), int(rng.integers(1, 400)))
        arrays.append(intern(np.concatenate([parent[:cut], more])))
        if step % 2:  # others are asked only when more of the tree is there
            _check_field(arrays[-1], rng)
    for array in arrays:
        _check_field(array, rng)
        assert extremes(array) == (array.min(), array.max())
        found, fresh = label_runs(array, (), array), LabelRuns.of(array)
        np.testing.assert_array_equal(found.starts, fresh.starts)
        assert found.scattered == fresh.scattered == (np.unique(array[fresh.starts]).size < fresh.starts.size)


def _check_field(array: Any, rng: np.random.Generator) -> None:
    first = rng.integers(0, array.size, 200)
    last = np.minimum(first + rng.integers(0, 300, 200) ** 2 // 9, array.size - 1)
    low, high, attained = field_of(array, (), array).range(first, last)
    plain = Field(array).range(first, last)
    for i in range(200):
        part = array[first[i] : last[i] + 1]
        whole = array[first[i] // 64 * 64 : (last[i] // 64 + 1) * 64]
        assert whole.min() <= low[i] <= part.min()
        assert whole.max() >= high[i] >= part.max()
        if np.broadcast_to(attained, 200)[i]:
            assert (low[i], high[i]) == (part.min(), part.max())
    for one, other in zip((low, high, attained), plain, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("size", [1, 63, 64, 65, 127, 128, 129, 4095, 4100])
def test_ranges_of_every_length(size: int) -> None:
    values = np.random.default_rng(size).integers(0, 50, size)
    first, last = (x.ravel() for x in np.meshgrid(*(np.unique(np.linspace(0, size - 1, 23).astype(int)),) * 2))
    first, last = np.minimum(first, last), np.maximum(first, last)
    low, high, _ = Field(values).range(first, last)
    for a, b, x, y in zip(first, last, low, high, strict=True):
        part = values[a : b + 1] if b - a < 16 else values[a // 64 * 64 : (b // 64 + 1) * 64]
        assert (x, y) == (part.min(), part.max())


def test_equal_rows_are_found_again_where_they_go_on() -> None:
    rng = np.random.default_rng(5)
    one = rng.integers(0, 9, (4, LONG))
    one[3] = one[1]
    kept = intern(one.copy())
    assert row_classes(kept) == [0, 1, 2, 1]
    more = np.concatenate([one, rng.integers(0, 9, (4, 5))], axis=1)
    assert row_classes(intern(more.copy())) == [0, 1, 2, 3]
    more[3, -5:] = more[1, -5:]
    assert row_classes(intern(more)) == row_classes(more) == [0, 1, 2, 1]


def test_what_is_known_goes_with_the_array() -> None:
    gc.collect()
    before = len(inputs._REGISTRY.known)
    array = intern(np.arange(LONG) * 7)
    field_of(array, (), array)
    assert len(inputs._REGISTRY.known) == before + 1
    del array
    gc.collect()
    assert len(inputs._REGISTRY.known) == before


def test_no_more_arrays_are_known_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "_MOST", 5)
    arrays = [intern(np.arange(LONG) + i) for i in range(9)]
    assert len(inputs._REGISTRY.known) <= 5
    assert content_key(arrays[0]) is None
    assert structure(arrays[0], "x", lambda: 1) is None
    assert structure(arrays[-1], "x", lambda: 1) == structure(arrays[-1], "x", lambda: 2) == 1

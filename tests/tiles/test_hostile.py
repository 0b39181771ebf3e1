"""Masks that are made to cost: planning counts what they take, and stops."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import maskc
from maskc import assertions
from maskc.assertions import prove, with_claims
from maskc.diagnostics import MaskcError
from maskc.ir.evaluate import dense
from maskc.ir.schedule import schedule
from maskc.tiles import budget as budgets
from maskc.tiles import classify as classification
from maskc.tiles import make_plan
from maskc.tiles.binding import make_binding
from maskc.tiles.boxes import Boxes
from maskc.tiles.budget import (
    BOX_COST,
    OPERATIONS,
    ORDINARY,
    Budget,
    evaluations_of,
    operations_of,
    proof_budget,
    within_memory,
)
from maskc.tiles.classify import Classifier

_NESTED = "any(i in 0..64: any(j in 0..64: hash(q, k, i, j) % 100000 == 0))"


def test_an_evaluation_of_a_large_mask_counts_as_many() -> None:
    program = maskc.parse(_NESTED).program
    binding = make_binding(program, 1 << 14, 1 << 14)
    each = evaluations_of(program, binding)
    assert each > 4096
    with pytest.raises(MaskcError) as error:
        make_plan(program, binding, budget=300 * 16 * each)
    assert error.value.codes == ("E801",)
    assert "counts as" in str(error.value)
    small = maskc.parse("sliding_window(64) | sinks(4)").program
    assert evaluations_of(small, binding) == 1


def test_no_more_is_evaluated_than_the_budget_says(monkeypatch: pytest.MonkeyPatch) -> None:
    program = maskc.parse(_NESTED).program
    binding, points = make_binding(program, 512, 512), 0
    each = evaluations_of(program, binding)
    inner = Classifier.points

    def counted(c: Classifier, q: np.ndarray, k: np.ndarray) -> np.ndarray:
        nonlocal points
        points += np.broadcast(q, k).size
        return inner(c, q, k)

    monkeypatch.setattr(Classifier, "points", counted)
    with pytest.raises(MaskcError):
        make_plan(program, binding, budget=2000 * each)
    assert points <= 2000


def test_boxes_of_nested_cases_need_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The values of all indices are not looked at for all boxes together."""
    program = maskc.parse("any(i in 0..16: any(j in 0..16: q - k == 3 * i * j + 40 * j))").program
    binding = make_binding(program, 2048, 2048)
    q0, k0 = (x.ravel() for x in np.meshgrid(np.arange(0, 2048, 64), np.arange(0, 2048, 64), indexing="ij"))
    width, single = np.full(q0.size, 64), np.ones(q0.size, bool)
    boxes = Boxes(q0, q0 + 63, k0, k0 + 63, width, width, single)
    c = Classifier(program.mask, binding, program.params)
    whole = c.classify(boxes)
    monkeypatch.setattr(classification, "RANGES_AT_ONCE", 1 << 13)
    tracemalloc.start()
    parts = c.classify(boxes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (1 << 13) * 200
    mask = dense(program, binding).reshape(32, 64, 32, 64)
    for found in (whole, parts):
        assert found.some[mask.any(axis=(1, 3)).ravel()].all()
        assert found.gap[~mask.all(axis=(1, 3)).ravel()].all()
        assert not (found.hit & ~mask.any(axis=(1, 3)).ravel()).any()


def test_periods_of_many_terms_cost_little() -> None:
    text = " | ".join(f"((q + {i}) * 3 + k) % {200 + i} * k % 7 == 5" for i in range(200))
    program = maskc.parse(text).program
    c = Classifier(program.mask, make_binding(program, 64, 64), program.params)
    assert len(c.repeats.periods) < 200
    assert schedule(program.mask).live < 12


def test_memory_that_does_not_suffice_is_an_error_of_its_own() -> None:
    with pytest.raises(MaskcError) as error, within_memory("this"):
        raise MemoryError
    assert error.value.codes == ("E801",)


def test_looking_at_pairs_of_an_ordinary_mask_is_free() -> None:
    ordinary, large = Budget(100, each=ORDINARY), Budget(100, each=ORDINARY + 10)
    ordinary.examine(10**12)
    large.examine(10)
    with pytest.raises(MaskcError):
        large.examine(1)


PROOFS = {
    "boxes": ("hash(q, k) % 2 == 0", "hash(q, k) != 12345"),
    "points": ("hash(q, k) % 3000 == 0", "some k"),
    "cases": (_NESTED, "k <= q"),
    "operators": (" | ".join(f"((q + {i}) * 3 + k) % {200 + i} * k % 7 == 5" for i in range(60)), "k <= q"),
    "sines": (" | ".join(f"sin(q * {i}.5) * cos(k * {i}.2) > 0.99999" for i in range(20)), "k <= q"),
    "keys": ("hash(q, k) % 20 == 0", "some q"),
}


@pytest.mark.parametrize("name", PROOFS)
def test_a_proof_does_no_more_than_it_counts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points of tiles, those looked at for a counterexample too, by the operations that each takes."""
    text, claim = PROOFS[name]
    program = with_claims(maskc.parse(text).program, (claim,))
    binding, budget, done = make_binding(program, 1 << 14, 1 << 14), proof_budget(), 0
    budget.limit = 1 << 25
    inner = Classifier.points

    def counted(c: Classifier, q: np.ndarray, k: np.ndarray) -> np.ndarray:
        nonlocal done
        done += np.broadcast(q, k).size * operations_of(program.replace(mask=c.mask), binding)
        return inner(c, q, k)

    monkeypatch.setattr(Classifier, "points", counted)
    with pytest.raises(MaskcError) as error:
        prove(program, binding, program.assertions[0], budget)
    assert error.value.codes == ("E801",)
    assert done <= budget.spent <= budget.limit


def test_operations_are_weighed_by_what_they_take() -> None:
    binding = make_binding(maskc.parse("causal").program, 64, 64)
    each = {t: operations_of(maskc.parse(t).program, binding) for t in ("q * 2.0 < k", "sin(q * 2.0) < k", "q % 7 < k")}
    assert each["sin(q * 2.0) < k"] == each["q * 2.0 < k"] + 12
    pairs = [maskc.parse(t).program for t in ("(q - k) * 2.0 < k", "sin((q - k) * 2.0) < k")]
    assert operations_of(pairs[1], binding) == operations_of(pairs[0], binding) + 48
    assert [evaluations_of(p, binding) for p in pairs] == [1, 3]


def test_evaluations_of_masks_of_any_size_stand_for_alike_work() -> None:
    """Up to 600 quotients of the query and the key, each of which takes as long."""
    binding = make_binding(maskc.parse("causal").program, 64, 64)
    for terms in (1, 3, 10, 12, 30, 600):
        program = maskc.parse(" | ".join(f"q * k // {i + 2} == {i}" for i in range(terms))).program
        each = evaluations_of(program, binding)
        assert each <= operations_of(program, binding) / OPERATIONS < each + 1


#: Masks that heads have of their own, lengths, and what each takes at least, beside what its tiles take.
OWN = {
    "masks": ("sliding_window(w[h])", 64, 1 << 13),
    "conditions on the key": ("k % w[h] == 0", 1 << 16, 1 << 16),
    "periods": ("(q + w[h]) % 256 * ((k + h) % 256) % 50 == 7", 256, 1 << 14),
}


@pytest.mark.parametrize("name", OWN)
def test_what_each_mask_of_heads_takes_is_counted(name: str) -> None:
    text, length, least = OWN[name]
    program, spent = maskc.parse(f"pattern p(w: int[head]) {{ attend {text} }}").program, list[int]()
    for heads in (1, 9):
        binding = make_binding(program, length, length, heads=heads, w=np.arange(heads) + 3)
        seen = [0]
        make_plan(program, binding, watch=lambda done, total, seen=seen: seen.append(done))
        spent.append(seen[-1])
    assert spent[1] - spent[0] >= 8 * least


def test_proofs_of_a_call_share_what_they_may_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "PROOF", 1 << 27)
    limits: list[Budget] = []

    def noted(limit: int | None = None) -> Budget:
        limits.append(proof_budget(limit))
        return limits[-1]

    monkeypatch.setattr(assertions, "proof_budget", noted)
    claims = [f"hash(q, k) != {n}" for n in (7, 9, 11)]
    with pytest.raises(MaskcError) as error:
        maskc.check_assertions("hash(q, k) % 2 == 0", 1 << 14, 1 << 14, claims=[*claims, "q >= 0"])
    assert error.value.codes == ("E801",) * 3
    assert 0 < sum(b.spent for b in limits) <= 1 << 27


_ROWS = "; ".join(f"{i}, {i}..{i + 5}: k <= q - {i}" for i in range(50))
_CASES = f"match q % 1000, k % 1000 {{ {_ROWS}; else: k == q }}"
_PAIRS = "any(i in 0..60: any(j in 0..60: k * i == q * j + 7))"


def _asked(text: str, n: int, budget: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """How many boxes are asked about where a mask is refused, and how many nodes are gone through for them."""
    program = maskc.parse(f"pattern p {{ attend {text} }}").program
    inner, boxes, nodes = Classifier.classify, 0, 0

    def counted(c: Classifier, asked: Boxes) -> classification.Verdict:
        nonlocal boxes, nodes
        if asked.q0.size * len(c.order) <= classification.RANGES_AT_ONCE:
            boxes, nodes = boxes + asked.q0.size, nodes + len(c.order)
        return inner(c, asked)

    monkeypatch.setattr(Classifier, "classify", counted)
    with pytest.raises(MaskcError) as error:
        make_plan(program, make_binding(program, n, n), budget=budget)
    assert error.value.codes == ("E801",)
    return boxes, nodes


def test_boxes_that_rows_leave_open_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be millions, which are asked about some at a time."""
    boxes, _ = _asked(f"{_CASES} & ~causal", 1 << 18, 100_000_000, monkeypatch)
    assert boxes * BOX_COST * 25 <= 100_000_000  # as which an evaluation of this mask counts


def test_going_through_many_nodes_for_few_boxes_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some ten microseconds each, of which the budget is to bound the seconds."""
    _, nodes = _asked(_PAIRS, 1 << 20, 100_000_000, monkeypatch)
    assert nodes < 100_000_000 // 1024

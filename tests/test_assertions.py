"""Assertions are proved by planning: against every pair, looked at one by one."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings

import maskc
from maskc.assertions import prove, with_claims
from maskc.diagnostics import MaskcError
from maskc.ir.evaluate import dense
from maskc.ir.nodes import TRUE, Symbol
from maskc.ir.ops import apply
from maskc.ir.program import Assertion
from maskc.pattern import Pattern
from maskc.tiles import budget, planner
from maskc.tiles.binding import make_binding
from tests.strategies import bindings, programs

CLAIMS = ("k <= q", "some k", "some q", "q - k < 40", "q % 3 == k % 3", "h == 0 | k < 100")


def looked_at(program, binding, assertion: Assertion):
    """The first counterexample by brute force."""
    for b in range(binding.batch):
        for h in range(binding.heads):
            kept = dense(program, binding, h, b)
            if assertion.kind == "some_key":
                wrong = [(q + binding.offset, None) for q in np.flatnonzero(~kept.any(axis=1)).tolist()]
            elif assertion.kind == "some_query":
                wrong = [(None, k) for k in np.flatnonzero(~kept.any(axis=0)).tolist()]
            else:
                claimed = dense(program.replace(mask=assertion.claim), binding, h, b)
                wrong = [(q + binding.offset, k) for q, k in np.argwhere(kept & ~claimed).tolist()]
            if wrong:
                return (b, h, *wrong[0])
    return None


def assert_proved(program, binding) -> None:
    for assertion in program.assertions:
        found = prove(program, binding, assertion)
        place = None if found.holds else (found.batch, found.head, found.query, found.key)
        assert place == looked_at(program, binding, assertion), found


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("causal", {}),
        ("sliding_window(9) | sinks(2) & causal", {}),
        ("window(5, 5)", {}),
        ("causal & (q - k) % 7 == 0", {}),
        ("(q * k) % 5 < 2 & causal", {}),
        ("k > 300", {}),
        ("hash(q, k) % 2 == 0 | q == 77", {}),
        ("pattern p(doc: int[token]) { attend causal & same(doc) }", {"doc": np.arange(333) % 5}),
        ("pattern p(doc: int[token]) { attend same(doc) & doc[k] > 0 }", {"doc": np.arange(333) // 50}),
        ("pattern p(w: int[head]) { attend sliding_window(w[h]) }", {"w": [40, 41, 0]}),
        (
            "pattern p(n: int[batch]) { attend k < n[b] }",
            {"n": [333, 5]},
        ),
    ],
)
@pytest.mark.parametrize("lengths", [(333, 333), (20, 333), (0, 0)])
def test_as_by_brute_force(text, given, lengths):
    q_len, k_len = lengths
    program = with_claims(maskc.parse(text).program, CLAIMS)
    given = {n: np.asarray(v)[:k_len] if n == "doc" else v for n, v in given.items()}
    assert_proved(program, make_binding(program, q_len, k_len, heads=3, **given))


@settings(max_examples=80, deadline=None)
@given(program=programs(scores=False), binding=bindings())
def test_random_programs(program, binding):
    every = (Assertion("all", apply("le", Symbol("k"), Symbol("q"))), Assertion("some_key"), Assertion("some_query"))
    assert_proved(program.replace(assertions=every), binding)


def test_a_million_tokens_without_looking_at_pairs():
    million = 1 << 20
    maskc.check_assertions("sliding_window(4096) | sinks(4) & causal", million, million, claims=CLAIMS[:3])
    with pytest.raises(MaskcError, match="query 4096 keeps key 0, but not q - k < 4096"):
        maskc.check_assertions("q - k <= 4096 & causal", million, million, claims=["q - k < 4096"])
    with pytest.raises(MaskcError, match="query 1048575 keeps no key"):
        maskc.check_assertions(f"causal & k > q - 5 & q < {million - 1}", million, million, claims=["some k"])
    with pytest.raises(MaskcError) as error:
        maskc.check_assertions("hash(q, k) % 2 == 0", million, million, claims=["hash(q, k) % 4 == 0"])
    assert error.value.codes == ("E801",)


def planned(monkeypatch) -> list[tuple[int, int]]:
    """The batch entry and head of every mask that is planned from here on."""
    seen, inner = [], planner._Job.classifier

    def counted(job, head, batch):
        seen.append((batch, head))
        return inner(job, head, batch)

    monkeypatch.setattr(planner._Job, "classifier", counted)
    return seen


def test_every_batch_entry_is_looked_at_and_equal_ones_once(monkeypatch):
    pattern = maskc.parse("pattern p(n: int[batch]) { attend k < n[b] & k <= q }")
    seen = planned(monkeypatch)
    maskc.check_assertions(pattern, 300, 300, claims="some k", n=[9, 4, 9, 300, 4] * 100)
    assert seen == [(0, 0), (1, 0), (3, 0)]
    with pytest.raises(MaskcError, match="in batch entry 4, head 0, query 7 keeps key 7"):
        maskc.check_assertions(pattern, 300, 300, claims="k < 7", n=[3, 7, 3, 7, 8, 9])
    documents = np.zeros((4, 300), np.int64)
    documents[2:, 200:] = 1
    text = "pattern p(doc: int[token]) { attend same(doc) & causal }"
    with pytest.raises(MaskcError, match=r"in batch entry 2, head 0, query 200 keeps key 200, but not doc\[k\] < 1"):
        maskc.check_assertions(text, 300, 300, claims="doc[k] < 1", doc=documents)


def test_batch_entries_that_no_input_tells_of():
    maskc.check_assertions("causal", 8, 8, claims="b < 1")
    with pytest.raises(MaskcError, match="in batch entry 1, head 0, query 0 keeps key 0, but not b < 1"):
        maskc.check_assertions("causal", 8, 8, claims="b < 1", batch=3)
    with pytest.raises(MaskcError, match="in batch entry 2, head 1, query 7 keeps key 0"):
        maskc.check_assertions("causal", 8, 8, claims="q - k <= 8 - b * h", batch=3, heads=2)


def test_no_mask_is_planned_after_a_counterexample(monkeypatch):
    seen = planned(monkeypatch)
    with pytest.raises(MaskcError, match="in batch entry 1, head 1, query 63 keeps key 0"):
        maskc.check_assertions("causal", 64, 64, claims="q - k < 64 - b * h", batch=100, heads=50)
    assert seen == [(0, 0), (1, 1)]


def test_what_was_looked_at_before_a_proof_took_too_much(monkeypatch):
    """Ordinary masks in most batch entries; in one a mask that nobody can plan."""
    monkeypatch.setattr(budget, "PROOF", 1 << 26)
    text = "pattern p(n: int[batch]) { attend causal & (n[b] < 5 & k >= -n[b] | hash(q, k) % 2 == 0) }"
    with pytest.raises(MaskcError) as error:
        maskc.check_assertions(text, 1 << 14, 1 << 14, claims=["some k", "q < 3", "k <= q"], n=[0, 0, 1, 2, 9, 9])
    assert error.value.codes == ("E801", "E513")
    message = str(error.value)
    assert "some k: this proof would take about" in message
    assert "; it was proved of 3 masks of heads and batch entries before" in message
    assert "assertion 2 of 'p' does not hold: in batch entry 0, head 0, query 3 keeps key 0" in message


def test_masks_beyond_number_are_refused():
    text = "pattern p(n: int[batch]) { attend q - k < n[b] & causal }"
    with pytest.raises(MaskcError, match="524,288 masks of their own: at most 262,144 are planned") as error:
        maskc.check_assertions(text, 64, 64, claims="q < 0", n=np.arange(1 << 19))
    assert error.value.codes == ("E801",)
    with pytest.raises(MaskcError, match="there are 4,096 heads x 1,048,576 batch entries: give fewer"):
        maskc.check_assertions("causal", 4, 4, claims="q - k <= h * b", heads=4096, batch=1 << 20)


FILE = """
def near(n) = q - k < n
def past = k <= q
pattern wide { attend past & near(9) }
pattern p(w: int = 6, kind: {full, recent} = recent) {
    let seen = near(w)
    attend past & seen
    assert q < 3
}
"""


def test_claims_use_what_their_file_defines():
    """Definitions, names of the pattern, its parameters, and other patterns, which the mask is then a part of."""
    pattern = maskc.parse(FILE, name="p")
    claims = ["near(6)", "past", "seen", "near(w + 1)", "kind == recent", "wide", "p", "some k"]
    for found in (pattern, pattern.with_args(w=6), pickle.loads(pickle.dumps(pattern))):
        maskc.check_assertions(found, 64, 64, claims=claims)
    with pytest.raises(MaskcError, match="query 5 keeps key 0, but not q - k < w - 1"):
        maskc.check_assertions(pattern, 64, 64, claims="near(w - 1)")
    with pytest.raises(MaskcError, match="query 3 keeps key 0, but not q < 3"):
        maskc.check_assertions(pattern, 64, 64)
    with pytest.raises(MaskcError, match="query 9 keeps key 0"):
        maskc.check_assertions(pattern, 64, 64, claims="wide", w=10)
    bare = maskc.parse("def near(n) = q - k < n\nnear(5) & causal")
    maskc.check_assertions(bare, 64, 64, claims="near(5)")


def test_what_has_no_file_has_no_definitions():
    pattern = maskc.parse(FILE, name="p")
    for found in (pattern.program, maskc.from_spec(pattern.spec()), Pattern(pattern.program.replace(mask=TRUE))):
        with pytest.raises(MaskcError, match="nothing is called `near`"):
            maskc.check_assertions(found, 8, 8, claims="near(6)")
    # The text of another program says nothing of this one.
    other = Pattern(pattern.program.replace(mask=TRUE), source=pattern.source)
    with pytest.raises(MaskcError, match="query 0 keeps key 1"):
        maskc.check_assertions(other, 8, 8, claims="k <= q")


def test_a_claim_is_bounded_together_with_its_file():
    doubled = "\n".join(f"def d{i}(n) = min(d{i - 1}(n), d{i - 1}(n))" for i in range(1, 13))
    pattern = maskc.parse(f"def d0(n) = n\n{doubled}\nd12(k) >= 0")
    maskc.check_assertions(pattern, 4, 4, claims="d12(k) <= k")
    with pytest.raises(MaskcError, match=r"<claim \d>:1:1.*has more than 200000 expressions") as error:
        maskc.check_assertions(pattern, 4, 4, claims=["d12(k) <= k"] * 9)
    assert error.value.codes == ("E901",)
    with pytest.raises(MaskcError, match="1001 statements are too many"):
        maskc.check_assertions(pattern, 4, 4, claims=["k <= q"] * 1000)


def test_errors_name_the_place_in_the_claim():
    pattern = maskc.parse("def two(n, m) = n < m\ncausal")
    with pytest.raises(MaskcError, match=r"<claim 2>:1:10: error\[E204\]: `two` needs an argument for `m`"):
        maskc.check_assertions(pattern, 4, 4, claims=["k <= q", "k <= q | two(k)"])


def test_claims_that_make_no_sense():
    with pytest.raises(MaskcError, match="nothing is called `nowhere`"):
        maskc.check_assertions("causal", 5, 5, claims=["k <= nowhere"])

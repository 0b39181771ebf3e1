"""Assertions are proved by planning: against every pair, looked at one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

import maskc
from maskc.assertions import prove, with_claims
from maskc.diagnostics import MaskcError
from maskc.ir.evaluate import dense
from maskc.ir.nodes import Symbol
from maskc.ir.ops import apply
from maskc.ir.program import Assertion
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


def test_claims_that_make_no_sense():
    with pytest.raises(MaskcError, match="nothing is called `nowhere`"):
        maskc.check_assertions("causal", 5, 5, claims=["k <= nowhere"])

"""``maskc prove``: claims that hold, and the first pair at which others do not."""

from __future__ import annotations

import json


def test_the_command(maskc, write):
    path = write("p.mask", "pattern p(w: int = 4) { attend q - k < w & k <= q\n assert k <= q }\n")
    done = maskc("prove", path, "--q", "1048576")
    assert done.code == 0
    assert "holds: k <= q" in done.out and "proved for 1,048,576 queries" in done.out
    done = maskc("prove", path, "--claim", "q - k < 3", "--claim", "some k", "--q", "100")
    assert done.code == 1
    assert "does not hold: in batch entry 0, head 0, query 3 keeps key 0" in done.out and "holds: some k" in done.out
    data = json.loads(maskc("prove", path, "--claim", "q - k < 3", "--json").out)
    assert data["claims"][0]["counterexample"] == {"batch": 0, "head": 0, "query": 3, "key": 0}
    empty = write("e.mask", "pattern p { attend causal }\n")
    assert "--claim" in maskc("prove", empty).err


def test_claims_use_the_definitions_of_their_file(maskc, write):
    path = write("p.mask", "def near(n) = q - k < n\npattern p { attend near(6) & k <= q\n assert k < 0 }\n")
    assert maskc("prove", path, "--claim", "near(7)", "--q", "64").out.startswith("holds: q - k < 7 (")
    done = maskc("prove", path, "--claim", "near(5)", "--q", "64")
    assert done.code == 1
    assert "query 5 keeps key 0, but not q - k < 5" in done.out
    done = maskc("prove", path, "--claim", "far(5)")
    assert done.code == 1
    assert "<claim>:1:1: error[E201]: nothing is called `far` here" in done.err


def test_it_says_what_it_speaks_of(maskc, write):
    lengths = write("n.mask", "pattern p(n: int[batch], w: int[layer]) { attend k < n[b] & 0 <= q - k < w[0] }\n")
    given = ("prove", lengths, "--claim", "k <= q", "--arg", "w=[4, 5]", "--q", "16")
    done = maskc(*given, "--arg", "n=[3, 9, 3]", "--layer", "1")
    assert done.out.endswith("proved for 16 queries x 16 keys, 1 head, layer 1, 3 batch entries\n")
    assert maskc(*given, "--arg", "n=[3]").out.endswith("1 head, layer 0, batch entry 0 (for more: --batch)\n")
    done = maskc(*given, "--batch", "5")
    assert done.out.endswith("1 head, layer 0, 5 batch entries\n")
    assert "n was not given" in done.err
    documents = write("d.mask", "pattern p(doc: int[token]) { attend same(doc) & causal\n assert k <= q }\n")
    assert maskc("prove", documents, "--heads", "2").out.endswith("2 heads, every batch entry with these inputs\n")
    plain = write("p.mask", "pattern p { attend causal\n assert k <= q\n assert b < 1 }\n")
    assert maskc("prove", plain).out.endswith("1 head, batch entry 0 (for more: --batch)\n")
    data = json.loads(maskc("prove", plain, "--batch", "2", "--json").out)
    assert (data["batch"], data["for"]) == (2, "256 queries x 256 keys, 1 head, 2 batch entries")
    assert data["claims"][1]["counterexample"] == {"batch": 1, "head": 0, "query": 0, "key": 0}
    assert maskc("prove", plain, "--claim", "k <= q").out.endswith("1 head, every batch entry\n")


def test_a_claim_that_takes_too_much_hides_no_other(maskc, write):
    path = write("p.mask", "hash(q, k) % 3 == 0 & causal\n")
    done = maskc("prove", path, "--claim", "hash(q, k) != 12345", "--claim", "k <= q", "--q", "1048576")
    assert "holds: k <= q (" in done.out and "proved" not in done.out
    assert "error[E801]: hash(q, k) != 12345: this proof would take about" in done.err

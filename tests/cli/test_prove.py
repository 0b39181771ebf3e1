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

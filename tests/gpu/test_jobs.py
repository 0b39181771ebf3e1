"""The jobs of the kernel of sums over pairs hold each live tile of each head and batch entry once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from maskc.backends.triton.jobs import jobs_on, pair_jobs
from maskc.backends.triton.pairs import Grouping
from maskc.ir.binding import Binding
from maskc.lower import lower_text
from maskc.tiles import make_plan
from maskc.tiles.plan import TilePlan
from maskc.tiles.runs import concatenated_ranges, row_of_runs

HEADS, BATCH = 3, 2


def plan() -> TilePlan:
    program = lower_text("pattern p(doc: int[token]) { attend same(doc) & (h > 0 | window(9, 9)) }")[0]
    doc = np.stack([np.arange(700) // 90, np.arange(700) // 300])
    binding = Binding(600, 700, heads=HEADS, batch=BATCH, tables={"doc": doc}, batched=frozenset({"doc"}))
    return make_plan(program, binding, q_tile=4, k_tile=4)


def live(of: TilePlan) -> Counter[tuple[int, int, int]]:
    """(batch entry times heads plus head, row, column) of every live tile."""
    found: Counter[tuple[int, int, int]] = Counter()
    for group in of.groups:
        length = group.runs.end - group.runs.start
        rows = np.repeat(row_of_runs(group.runs), length)
        columns = concatenated_ranges(group.runs.start, length)
        for b in group.batches:
            for h in group.heads:
                found.update((b * HEADS + h, int(r), int(c)) for r, c in zip(rows, columns, strict=True))
    return found


@pytest.mark.parametrize("by_head", [False, True])
@pytest.mark.parametrize("by_batch", [False, True])
@pytest.mark.parametrize("by_difference", [False, True])
def test_every_tile_is_added_up_once(by_head: bool, by_batch: bool, by_difference: bool) -> None:
    of = plan()
    jobs = pair_jobs(of, Grouping(by_head, by_batch, by_difference))
    found: Counter[tuple[int, int, int]] = Counter()
    for j in range(jobs.tile_first.size):
        members = jobs.members[jobs.member_first[j] : jobs.member_last[j]]
        rows, columns = (x[jobs.tile_first[j] : jobs.tile_last[j]] for x in (jobs.tile_rows, jobs.tile_columns))
        assert 1 <= members.size * rows.size <= 64
        assert rows.size == 1 or by_difference
        assert len(set((rows - columns).tolist())) == 1
        assert not by_head or len({m % HEADS for m in members.tolist()}) == 1
        assert not by_batch or len({m // HEADS for m in members.tolist()}) == 1
        found.update((m, r, c) for m in members.tolist() for r, c in zip(rows.tolist(), columns.tolist(), strict=True))
    assert found == live(of)


def test_chunks_hold_every_job_once() -> None:
    import torch

    jobs = jobs_on(pair_jobs(plan(), Grouping(True, False, True)), torch.device("cpu"))
    some = list(jobs.chunks(100))
    assert len(some) > 1
    assert max(c.count for c in some) == 100
    assert torch.equal(torch.cat([c.arguments["tile_first"] for c in some]), jobs.arguments["tile_first"])
    b, h, q, k = some[0].first(HEADS, 4, 4)
    assert (int(b[0]), int(h[0])) == (0, 0)
    assert torch.equal(q - k, 4 * (q // 4 - k // 4))

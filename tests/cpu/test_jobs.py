"""Every kept pair is computed by exactly one job, and few others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import maskc
from maskc.backends.cpu.intervals import interval_jobs
from maskc.backends.cpu.jobs import CAUSAL, Job, batch_equal, order_jobs
from maskc.backends.cpu.tiles import schedule
from maskc.ir.evaluate import dense
from maskc.tiles import make_plan
from maskc.tiles.intervals import merged


def painted(jobs: list[Job], q_len: int, k_len: int) -> np.ndarray:
    """How often each pair is kept by a job."""
    count = np.zeros((q_len, k_len), dtype=int)
    for job in jobs:
        queries, keys = job.queries(), job.keys()
        if job.mask is None:
            kept = np.ones((1, job.q_len, job.k_len), dtype=bool)
        elif job.mask is CAUSAL:
            kept = np.tri(job.q_len, job.k_len, dtype=bool)[None]
        else:
            kept = job.mask.kept().numpy()
        for i in range(job.count):
            rows, cols = queries[i][:, None], keys[min(i, len(keys) - 1)][None, :]
            np.add.at(count, (rows, cols), kept[min(i, len(kept) - 1)].astype(int))
    return count


pieces = st.tuples(st.integers(1, 60), st.integers(0, 1), st.integers(0, 1), st.integers(-10, 120), st.integers(0, 60))


@given(st.lists(st.lists(pieces, min_size=1, max_size=5), min_size=1, max_size=3), st.booleans())
@settings(deadline=None, max_examples=150)
def test_intervals_of_any_kind(clauses: list[list[tuple[int, ...]]], backward: bool) -> None:
    q_len = min(sum(p[0] for p in c) for c in clauses)
    k_len, bounds = 130, []
    for clause in clauses:
        lo = np.concatenate([start + down * np.arange(n) for n, down, _, start, _ in clause])[:q_len]
        hi = np.concatenate([start + size + up * np.arange(n) for n, _, up, start, size in clause])[:q_len]
        bounds.append((lo, hi))
    k = np.arange(k_len)
    wanted = np.any([(k >= lo[:, None]) & (k < hi[:, None]) for lo, hi in bounds], axis=0)
    jobs = batch_equal(interval_jobs(*merged(bounds, k_len), backward=backward))
    assert np.array_equal(painted(jobs, q_len, k_len), wanted.astype(int))


@given(st.lists(st.lists(pieces, min_size=1, max_size=3), min_size=1, max_size=2))
@settings(deadline=None, max_examples=50)
def test_fresh_jobs_are_the_first_at_their_queries(clauses: list[list[tuple[int, ...]]]) -> None:
    q_len = min(sum(p[0] for p in c) for c in clauses)
    bounds = []
    for clause in clauses:
        lo = np.concatenate([np.full(n, start) for n, _, _, start, _ in clause])[:q_len]
        bounds.append((lo, lo + 5))
    jobs, covered = order_jobs(batch_equal(interval_jobs(*merged(bounds, 130))), q_len)
    seen, written = np.zeros((2, q_len), dtype=bool)
    for job in jobs:
        assert job.fresh == (not seen[job.queries().ravel()].any())
        seen[job.queries().ravel()] = True
        written[job.queries().ravel()] |= job.fresh
    assert covered == bool(written.all())


@pytest.mark.parametrize(
    ("text", "most"),
    [
        ("sliding_window(512)", 1.2),
        ("causal", 1.01),
        ("causal & same(token // 256)", 1.01),
        ("causal on token // 64", 1.01),
    ],
)
def test_little_is_computed_beside_what_is_kept(text: str, most: float) -> None:
    program = maskc.parse(text).program
    binding = maskc.make_binding(program, 2048, 2048)
    jobs = schedule(make_plan(program, binding))[0][0].jobs
    assert sum(j.pairs for j in jobs) <= most * dense(program, binding).sum()


def test_decoding_touches_the_live_keys_only() -> None:
    program = maskc.parse("sliding_window(4096) | sinks(64)").program
    binding = maskc.make_binding(program, 1, 1 << 20, heads=2)
    jobs = schedule(make_plan(program, binding))[0][0].jobs
    assert sum(j.pairs for j in jobs) == 4160


def test_a_million_tokens_need_few_jobs() -> None:
    program = maskc.parse("sliding_window(1024)").program
    binding = maskc.make_binding(program, 1 << 20, 1 << 20)
    jobs = schedule(make_plan(program, binding))[0][0].jobs
    assert len(jobs) <= 3
    assert sum(j.pairs for j in jobs) <= 1.1 * (1 << 30)


def test_equal_blocks_at_regular_distances_are_one_job() -> None:
    jobs = batch_equal([Job(i * 64, 64, i * 32, 48) for i in range(5)] + [Job(1000, 64, 0, 48)])
    assert [(j.count, j.q_step, j.k_step) for j in jobs] == [(5, 64, 32), (1, 0, 0)]
    assert torch.equal(torch.from_numpy(jobs[0].queries()[4]), torch.arange(256, 320))

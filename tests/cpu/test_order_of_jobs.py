"""Every query's result is written once and merged after that, whatever the jobs' order."""

from __future__ import annotations

import numpy as np

from maskc.backends.cpu.jobs import Job, order_jobs


def test_a_job_never_writes_over_what_was_merged() -> None:
    # The second job is merged for queries 0 to 3, which the first has not met; the third meets them again.
    jobs = [Job(4, 12, 0, 1), Job(0, 4, 1, 1, 2, 4), Job(0, 4, 2, 1)]
    ordered, covered = order_jobs(jobs, 16)
    met, written = np.zeros((2, 16), dtype=bool)
    for job in ordered:
        queries = job.queries().ravel()
        assert not (job.fresh and met[queries].any())
        written[queries] |= job.fresh
        met[queries] = True
    assert covered == written.all()

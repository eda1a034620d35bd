"""What the evidence of jobs costs: time to validate one, and memory that a run keeps of each."""

from __future__ import annotations

import gc
import tempfile
import time
import tracemalloc
from collections.abc import Iterator

from benchmarks.measure import Plan, Row
from pytest_clusterjobs.config.settings import Settings
from pytest_clusterjobs.core.spec import make_spec
from pytest_clusterjobs.engine.job import Job
from pytest_clusterjobs.engine.run import Run
from pytest_clusterjobs.engine.validator import ClusterJobValidator
from pytest_clusterjobs.engine.work import Work


def validation(plan: Plan) -> Iterator[Row]:
    """What validating every job adds to a run, and what the run remembers of each."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Settings(workdir=folder, keep="never"))
        try:
            jobs = _jobs(run, plan.count(200))
            taken = [_seconds_to_validate(jobs) * 1000 for _ in range(plan.turns())]
            yield Row("validating a job", "", "ms a job", 5.0, {"ours": taken})
            kept = [_kilobytes_kept(run, plan.count(500)) for _ in range(plan.turns(0.2))]
            yield Row("what a run keeps of a validated job", "", "kB a job", 20.0, {"ours": kept})
        finally:
            run.close()


def _jobs(run: Run, count: int) -> list[Job[int]]:
    spec = make_spec(memory="500MB", time="00:10:00")
    jobs = run.submit([Work(spec, "abs", abs, (number,), {}) for number in range(count)])
    assert [job.result(300) for job in jobs] == list(range(count))
    return jobs


def _seconds_to_validate(jobs: list[Job[int]]) -> float:
    validator = ClusterJobValidator()
    started = time.perf_counter()
    for job in jobs:
        assert validator.validate(job, may_fail=True)
    return (time.perf_counter() - started) / len(jobs)


def _kilobytes_kept(run: Run, count: int) -> float:
    gc.collect()
    tracemalloc.start()
    try:
        jobs = _jobs(run, count)
        _seconds_to_validate(jobs)
        del jobs
        gc.collect()
        return tracemalloc.get_traced_memory()[0] / 1000 / count
    finally:
        tracemalloc.stop()

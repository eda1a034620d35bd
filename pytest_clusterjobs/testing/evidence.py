"""The part of the contract of all backends about evidence: what jobs are promised, are given, and use."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar

from pytest_clusterjobs.core.spec import JobSpec, make_spec
from pytest_clusterjobs.core.state import JobState
from pytest_clusterjobs.engine.job import Job
from pytest_clusterjobs.engine.run import Run
from pytest_clusterjobs.engine.validator import ClusterJobValidator
from pytest_clusterjobs.engine.work import Work


class EvidenceConformance:
    """A base of `BackendConformance`, which has the fixtures."""

    backend: ClassVar[str]
    patience_s: ClassVar[float]

    def test_job_finds_what_it_was_promised_and_gets_what_it_asks_for(self, run: Run) -> None:
        job = run.submit_call(abs, (-7,), {}, JobSpec())
        self.expect_valid(run, job, 7)

    def test_resources_are_given_as_they_were_asked_for(self, run: Run) -> None:
        info = run.probe(self.backend).info
        cores = min(2, (info.cores_per_node if info is not None else None) or 1)
        job = run.submit_call(abs, (-7,), {}, make_spec(cores=cores, memory="400MB", time="00:05:00"))
        self.expect_valid(run, job, 7)
        assert job.metrics.requested.memory_bytes == 400 * 2**20

    def test_elements_of_an_array_find_what_they_were_promised(self, run: Run) -> None:
        jobs = run.submit([Work(make_spec(time="00:10:00"), "negated", abs, (-number,), {}) for number in range(3)])
        for number, job in enumerate(jobs):
            self.expect_valid(run, job, number)

    def test_figures_were_measured_and_say_by_whom(self, run: Run) -> None:
        def work() -> int:
            return sum(range(200_000)) + len(b"x" * 20_000_000)

        job = run.submit_call(work, (), {}, JobSpec())
        job.result(self.patience_s)
        metrics = job.metrics
        silent = {"read_bytes", "written_bytes"}  # a node may hide /proc/self/io
        assert {name for name in metrics.unknown if not name.startswith("allocated.")} <= silent
        assert metrics.cpu_time_s is not None
        assert metrics.cpu_time_s > 0
        assert metrics.max_rss_bytes is not None
        assert metrics.max_rss_bytes > 20_000_000
        assert metrics.nodes
        assert metrics.observed.cores is not None
        assert {"cpu_time_s", "max_rss_bytes", "run_time_s", "queue_time_s", "exit_code"} <= metrics.sources.keys()
        assert metrics.ended_at is not None
        assert metrics.started_at is not None
        assert metrics.ended_at - metrics.started_at >= timedelta(0)
        states = list(dict.fromkeys(each.state for each in job.record.history))
        assert states == [JobState.PENDING, JobState.RUNNING, JobState.COMPLETED]

    def expect_valid(self, run: Run, job: Job[Any], value: object) -> None:
        """Have a job validated in every respect."""
        validator = ClusterJobValidator(run.backend(self.backend))
        result = validator.validate(job, value, timeout_s=self.patience_s)
        assert result, f"\n{result}"
        assert job.record.reason is None

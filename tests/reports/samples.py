"""Reports of any size, made of the engine's own records."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from pytest_clusterjobs.core.record import JobMetrics, JobRecord
from pytest_clusterjobs.core.spec import make_spec
from pytest_clusterjobs.core.state import ExitReason, JobState
from pytest_clusterjobs.reports.model import ReportedBackend, ReportedTest, RunReport

MOMENT = datetime(2025, 3, 1, 12, 0, tzinfo=timezone.utc)


def job(number: int, **changes: Any) -> dict[str, Any]:
    """Give a job that waited 5 s and ran for 10 s, as the engine hands it to a report; each tenth failed."""
    submitted = MOMENT + timedelta(seconds=number % 300)
    has_failed = number % 10 == 9
    record = JobRecord(
        job_id=str(number),
        run_id="1a2b3c4d",
        name=f"cj-1a2b3c4d-{number}-simulate",
        backend="pbs" if number % 3 == 2 else "slurm",
        spec=make_spec(cores=4, memory="1GB", time="00:05:00"),
        directory=f"/jobs/1a2b3c4d/main/{number}-simulate",
        label="simulate",
        native_id=str(40_000 + number),
        state=JobState.FAILED if has_failed else JobState.COMPLETED,
        reason=ExitReason.OUT_OF_MEMORY if has_failed else None,
        metrics=JobMetrics(
            queue_time_s=5.0,
            run_time_s=10.0,
            cpu_time_s=20.0,
            max_rss_bytes=2**29,
            exit_code=137 if has_failed else 0,
            nodes=(f"node{number % 40}",),
            submitted_at=submitted,
            started_at=submitted + timedelta(seconds=5),
            ended_at=submitted + timedelta(seconds=15),
        ),
        test_id=f"tests/test_physics.py::TestOrbits::test_energy_is_kept[{number}-slurm]",
        **changes,
    )
    return record.to_dict()


def run_report(jobs: int, **changes: Any) -> RunReport:
    """Give the report of a run of tests with a job each."""
    tests = tuple(_test(job(number)) for number in range(jobs))
    failed = sum(test.has_failed for test in tests)
    fields: dict[str, Any] = {
        "run_id": "1a2b3c4d",
        "started_at": MOMENT,
        "ended_at": MOMENT + timedelta(seconds=320),
        "exit_status": 1 if failed else 0,
        "counts": {"passed": jobs - failed, "failed": failed},
        "backends": (ReportedBackend("slurm", True, "slurm 23.11"), ReportedBackend("lsf", False, reason="no bsub")),
        "tests": tests,
        "rerun": "pytest --cluster=slurm 'tests/test_physics.py::TestOrbits::test_energy_is_kept[9-slurm]'",
    }
    return RunReport(**{**fields, **changes})


def _test(record: dict[str, Any]) -> ReportedTest:
    has_failed = record["state"] == "FAILED"
    log = "\n".join(f"step {step}: energy -0.5 <b>&" for step in range(150)) + "\nslurmstepd: error: oom_kill event"
    return ReportedTest(
        record["test"],
        "failed" if has_failed else "passed",
        record["backend"],
        15.2,
        "JobFailed: a memory limit ended it" if has_failed else "",
        jobs=(record,),
        is_cluster_test=True,
        has_run=True,
        text=log if has_failed else "",
    )

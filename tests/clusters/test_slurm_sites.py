"""Sites that differ: one with accounting and small limits, one that enforces memory."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_clusterjobs.clusters import base
from pytest_clusterjobs.clusters.base import RunningCluster
from pytest_clusterjobs.config.settings import Settings
from pytest_clusterjobs.core.errors import JobFailed
from pytest_clusterjobs.core.spec import JobSpec, make_spec
from pytest_clusterjobs.core.state import ExitReason, JobState
from pytest_clusterjobs.engine.job import Job
from pytest_clusterjobs.engine.run import Run
from pytest_clusterjobs.engine.work import Work, command_work
from tests.days import output_of, own_cluster, run_on, started
from tests.watching import wait_for

pytestmark = pytest.mark.cluster_lane("slurm")


@pytest.fixture(scope="module")
def small_site() -> Iterator[RunningCluster]:
    name = f"acct-{os.getpid()}"
    lines = ["MaxArraySize=6", "MinJobAge=2", "AccountingStorageEnforce=associations,limits,qos"]
    yield base.up("slurm", name=name, nodes=2, cpus=4, tick_ms=50, accounting=True, conf_lines=lines)
    base.down("slurm", name)


@pytest.fixture
def run(small_site: RunningCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    for variable, value in small_site.environment.items():
        monkeypatch.setenv(variable, value)
    with run_on("slurm", tmp_path / "work", lost_after_s=10) as run:
        yield run


def test_array_is_split_at_the_site_s_limit(run: Run) -> None:
    works = [Work(JobSpec(), "double", lambda number: 2 * number, (number,), {}) for number in range(14)]
    jobs = run.submit(works)
    assert [job.result(60) for job in jobs] == [2 * number for number in range(14)]
    assert [len([job for job in jobs if job.native_id.startswith(f"{array}_")]) for array in _arrays(jobs)] == [6, 6, 2]


def _arrays(jobs: list[Job[Any]]) -> list[str]:
    return list(dict.fromkeys(job.native_id.partition("_")[0] for job in jobs))


def test_accounting_explains_an_end_that_the_controller_has_forgotten(run: Run) -> None:
    job = started(run, "sleep 300")
    backend = run.backend("slurm")
    output_of("scancel", job.native_id)
    wait_for(lambda: job.state.is_terminal)
    assert job.reason is ExitReason.CANCELLED_OUTSIDE

    def is_purged() -> bool:
        argv = ["scontrol", "show", "job", job.native_id]
        return subprocess.run(argv, capture_output=True, timeout=30, check=False).returncode != 0

    wait_for(is_purged, within_s=60)
    status = backend.explain(job.native_id)
    assert status is not None
    assert (status.state, status.native_word) == (JobState.CANCELLED, "CANCELLED")
    assert f"by {os.getuid()}" in status.detail


@pytest.fixture
def two_jobs_at_once(run: Run) -> Iterator[None]:
    output_of("sacctmgr", "-i", "modify", "qos", "normal", "set", "MaxSubmitJobsPerUser=2")
    yield
    output_of("sacctmgr", "-i", "modify", "qos", "normal", "set", "MaxSubmitJobsPerUser=-1")


@pytest.mark.usefixtures("two_jobs_at_once")
def test_limit_on_submitted_jobs_makes_the_rest_wait_with_us(run: Run) -> None:
    jobs = [run.submit([command_work("sleep 0.3", JobSpec())])[0] for _ in range(4)]
    assert [job.state for job in jobs[2:]] == [JobState.NEW, JobState.NEW]
    assert "takes no more jobs" in jobs[3].record.detail
    assert [job.result(60).exit_code for job in jobs] == [0] * 4


@pytest.mark.usefixtures("two_jobs_at_once")
def test_array_that_is_larger_than_the_limit_goes_job_by_job(run: Run) -> None:
    jobs = run.submit([Work(JobSpec(), "double", lambda number: 2 * number, (number,), {}) for number in range(4)])
    assert [job.result(60) for job in jobs] == [0, 2, 4, 6]
    assert len(_arrays(jobs)) == 4


@pytest.mark.skipif(
    os.getuid() != 0 or not os.path.isdir("/sys/fs/cgroup/memory"), reason="needs root and cgroup v1: enforcing memory"
)
def test_memory_limit_is_out_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with own_cluster("slurm", monkeypatch, nodes=1, cpus=2, tick_ms=50, cgroup=True):
        run = Run(Settings(workdir=str(tmp_path / "work")))
        run.select("slurm")
        job = run.submit_call(lambda: len(bytearray(400 * 2**20)), (), {}, make_spec(memory="100MB"))
        with pytest.raises(JobFailed, match="out of memory"):
            job.result(60)
        assert (job.reason, job.record.native_word) == (ExitReason.OUT_OF_MEMORY, "OUT_OF_MEMORY")
        assert run.close().leaked == []

"""Good and bad days on a real Grid Engine: what a job gets, what ends it, what an outage does."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_clusterjobs.clusters import processes
from pytest_clusterjobs.clusters.base import RunningCluster
from pytest_clusterjobs.config.settings import Settings
from pytest_clusterjobs.core.errors import (
    JobCancelled,
    JobFailed,
    JobInfrastructureError,
    JobLost,
    JobTimeout,
    QueueTimeout,
    SubmitError,
)
from pytest_clusterjobs.core.spec import JobSpec, make_spec
from pytest_clusterjobs.core.state import ExitReason, JobState
from pytest_clusterjobs.engine.job import Job
from pytest_clusterjobs.engine.run import Run
from pytest_clusterjobs.engine.work import Work, command_work
from tests.days import command, output_of, own_cluster, run_on, started
from tests.watching import frozen, wait_for

pytestmark = [pytest.mark.cluster_lane("sge"), pytest.mark.usefixtures("sge")]


@pytest.fixture
def run(sge: RunningCluster, tmp_path: Path) -> Iterator[Run]:
    with run_on("sge", tmp_path / "work", lost_after_s=4, command_timeout_s=5) as run:
        yield run


# ---------------------------------------------------------------- what Grid Engine gives a job


def test_value_environment_and_queue_of_a_job_that_asks_for_nothing_but_a_queue(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CJ_TEST_LINES", "one\ntwo\\n three")  # -V alone cuts it after "one"
    monkeypatch.setenv("PATH", f"/cj-test:{os.environ['PATH']}")  # login shells set PATH anew
    monkeypatch.setenv("PE_HOSTFILE", "/of/another/job")

    def look() -> tuple[float, dict[str, str]]:
        return 84 / 2, dict(os.environ)

    job = run.submit_call(look, (), {}, make_spec(queue="all.q"))
    value, environment = job.result(30)
    assert (value, type(value)) == (42.0, float)
    assert environment["JOB_ID"] == job.native_id
    assert (environment["SGE_TASK_ID"], environment["NSLOTS"], environment["QUEUE"]) == ("undefined", "1", "all.q")
    assert "PE_HOSTFILE" not in environment
    assert environment["CJ_TEST_LINES"] == "one\ntwo\\n three"
    assert environment["PATH"].startswith("/cj-test:")


def test_two_cores_are_two_slots_on_one_host_and_memory_is_split_between_them(run: Run) -> None:
    def look() -> tuple[str, str, tuple[int, int]]:
        import resource

        hosts = Path(os.environ["PE_HOSTFILE"]).read_text()
        return os.environ["NSLOTS"], hosts, resource.getrlimit(resource.RLIMIT_AS)

    job = run.submit_call(look, (), {}, make_spec(cores=2, memory="1GB", time="00:05:00"))
    slots, hosts, limit = job.result(30)
    assert slots == "2"
    assert sum(int(line.split()[1]) for line in hosts.splitlines()) == 2
    assert limit == (2**30, 2**30)  # 512M for each of two slots
    shown = output_of("qacct", "-j", job.native_id) if _is_recorded(job) else ""
    assert "h_rt=300,h_vmem=512M" in shown


def _is_recorded(job: Job[Any]) -> bool:
    wait_for(lambda: subprocess.run(["qacct", "-j", job.native_id], capture_output=True, check=False).returncode == 0)
    return True


def test_array_of_200_has_every_result_and_its_own_task_ids(run: Run) -> None:
    works = [
        Work(JobSpec(), "task", lambda number: (number, os.environ["SGE_TASK_ID"]), (number,), {})
        for number in range(200)
    ]
    jobs = run.submit(works)
    assert [job.result(90) for job in jobs] == [(number, str(number + 1)) for number in range(200)]
    assert len({job.native_id.partition(".")[0] for job in jobs}) == 1
    assert jobs[0].native_id.endswith(".1")


def test_fifty_jobs_at_once_are_all_right(run: Run) -> None:
    jobs = [command(run, f"echo {number}") for number in range(50)]
    assert [job.result(90).stdout for job in jobs] == [f"{number}\n" for number in range(50)]
    assert len({job.native_id for job in jobs}) == 50


@pytest.mark.parametrize("code", [99, 100])
def test_codes_that_mean_something_to_the_daemon_are_only_codes(run: Run, code: int) -> None:
    """To the execution daemon 99 means: start it again, and 100: keep it in the queue, in error."""
    job = command(run, f"exit {code}")
    with pytest.raises(JobFailed, match=f"code {code}"):
        job.result(30)
    assert job.metrics.exit_code == code
    wait_for(lambda: subprocess.run(["qstat", "-j", job.native_id], capture_output=True, check=False).returncode != 0)


# ---------------------------------------------------------------- how Grid Engine ends a job


def test_time_limit_is_a_timeout_with_the_output_so_far(run: Run) -> None:
    job = command(run, "echo before; sleep 300", time=5)
    with pytest.raises(JobTimeout, match="time limit"):
        job.result(60)
    assert (job.state, job.reason) == (JobState.FAILED, ExitReason.TIMEOUT)
    assert job.record.native_word.startswith("failed 37")
    assert "before" in job.logs().stdout


def test_job_deleted_from_outside_says_so(run: Run) -> None:
    job = started(run, "sleep 300")
    output_of("qdel", job.native_id)
    with pytest.raises(JobCancelled, match="somebody else"):
        job.result(40)
    assert job.reason is ExitReason.CANCELLED_OUTSIDE


def test_pending_job_deleted_from_outside_is_lost_since_no_source_knows_it(run: Run) -> None:
    job = command(run, "true", extra_args=["-h"])
    output_of("qdel", job.native_id)
    with pytest.raises(JobLost, match="qacct -j"):
        job.result(40)


def test_job_in_error_ends_soon_with_its_reason_and_leaves_the_queue(run: Run) -> None:
    job = command(run, "true", extra_args=["-o", "/no/such/directory/file"])
    with pytest.raises(JobInfrastructureError, match=r"can't open output file.*/no/such/directory/file"):
        job.result(40)
    assert (job.state, job.reason) == (JobState.FAILED, ExitReason.LAUNCH_FAILURE)


def test_held_job_runs_into_queue_timeout_that_names_the_hold(run: Run) -> None:
    job = command(run, "true", queue_timeout=4, extra_args=["-h"])
    with pytest.raises(QueueTimeout, match=r"queue_timeout of 4 s.*held"):
        job.result(40)


def test_suspended_job_goes_on_as_running(run: Run) -> None:
    job = started(run, "for i in 1 2 3 4 5; do sleep 0.2; done; echo done")
    output_of("qmod", "-sj", job.native_id)
    found = run.backend("sge").query(job.record.name)
    assert found[job.native_id].status.state is JobState.RUNNING
    output_of("qmod", "-usj", job.native_id)
    assert job.result(30).stdout == "done\n"


# ---------------------------------------------------------------- what Grid Engine refuses


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"queue": "nowhere.q"}, r'unknown queue "nowhere\.q"'),
        ({"account": "nobody"}, 'project "nobody" does not exist'),
        ({"memory": "1TB"}, r"offers only hc:h_vmem=8\.000G"),
        ({"cores": 64}, "no suitable queues"),
        ({"nodes": 2}, "one host"),
        ({"gpus": 1}, "gpu_resource"),
        ({"queue": "short.q", "time": "10:00:00"}, "no suitable queues"),
    ],
)
def test_impossible_request_is_refused_at_once_with_the_reason(run: Run, resources: Any, words: str) -> None:
    with pytest.raises(SubmitError, match=words):
        command(run, "true", **resources)


# ---------------------------------------------------------------- bad days


def pid_of(cluster: RunningCluster, daemon: str) -> int:
    process = processes.recorded(cluster.directory)[daemon]
    assert process is not None
    return process.pid


def test_stopped_qmaster_changes_no_job_s_state_and_loses_none(run: Run, sge: RunningCluster) -> None:
    running = started(run, "sleep 70; echo survived")
    short = started(run, "sleep 1; echo done")
    with frozen([pid_of(sge, "qmaster")]):
        end = time.monotonic() + 60
        late = command(run, "echo late")  # its reply is lost: qsub is killed after 5 s
        assert late.state is JobState.NEW
        assert short.result(30).stdout == "done\n"
        wait_for(lambda: any("does not answer" in problem for problem in run.problems), within_s=40)
        wait_for(lambda: time.monotonic() >= end, within_s=70)
        assert running.state is JobState.RUNNING
    assert running.result(60).stdout == "survived\n"
    assert late.result(90).stdout == "late\n"
    wait_for(lambda: run.backend("sge").query(f"cj-{run.run_id}-") == {})


def test_lost_reply_to_an_array_is_repaired_by_its_name(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = subprocess.run(["which", "qsub"], capture_output=True, text=True, check=True).stdout.strip()
    fake = tmp_path / "bin" / "qsub"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\n"{real}" "$@" >/dev/null; echo "error: commlib error: got read error" >&2; exit 1\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    jobs = run.submit([command_work(f"sleep 3; echo {number}", JobSpec()) for number in range(3)])
    assert [job.result(60).stdout for job in jobs] == ["0\n", "1\n", "2\n"]
    assert {job.native_id.partition(".")[2] for job in jobs} == {"1", "2", "3"}


def test_dead_qmaster_is_told_by_the_probe_and_costs_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with own_cluster("sge", monkeypatch, slots=2) as cluster:
        run = Run(Settings(workdir=str(tmp_path / "work"), command_timeout_s=5))
        run.select("sge")
        job = started(run, "sleep 1; echo done")
        os.kill(pid_of(cluster, "qmaster"), signal.SIGKILL)
        assert job.result(30).stdout == "done\n"
        run.close()
        late = Run(Settings(workdir=str(tmp_path / "late"), command_timeout_s=5))
        late.select("sge")
        probe = late.probe("sge")
        assert not probe.is_available
        assert "the queue master does not answer" in probe.reason
        assert "unable to send message to qmaster" in probe.reason
        late.close()


def test_dead_execution_daemon_is_the_end_of_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its shepherds go on, and a new daemon finds them."""
    with own_cluster("sge", monkeypatch, slots=2) as cluster:
        run = Run(Settings(workdir=str(tmp_path / "work"), lost_after_s=4, command_timeout_s=5))
        run.select("sge")
        release = tmp_path / "release"
        job = started(run, f"until [ -e {release} ]; do sleep 0.05; done; echo survived")
        os.kill(pid_of(cluster, "execd"), signal.SIGKILL)
        assert not job.wait(8)
        assert job.state is JobState.RUNNING
        release.touch()
        assert job.result(30).stdout == "survived\n"
        waiting = command(run, "true", queue_timeout=3)
        with pytest.raises(QueueTimeout, match="queue_timeout of 3 s"):
            waiting.result(100)  # Grid Engine has given it to the dead daemon, and cannot delete it without it
        assert f"sge:{job.native_id}" in run.close().leaked  # the dead daemon cannot tell that it has ended

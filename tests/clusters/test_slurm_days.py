"""Good and bad days on a real Slurm: what ends a job, what the site refuses, what an outage does."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_clusterjobs.clusters.base import RunningCluster
from pytest_clusterjobs.config.settings import Settings
from pytest_clusterjobs.core.errors import (
    JobCancelled,
    JobInfrastructureError,
    JobLost,
    JobTimeout,
    QueueTimeout,
    SubmitError,
)
from pytest_clusterjobs.core.spec import JobSpec, make_spec
from pytest_clusterjobs.core.state import ExitReason, JobState
from pytest_clusterjobs.engine.run import Run
from pytest_clusterjobs.engine.work import Work, command_work
from tests.days import command, output_of, run_on, started
from tests.watching import frozen, wait_for

pytestmark = [pytest.mark.cluster_lane("slurm"), pytest.mark.usefixtures("slurm")]


@pytest.fixture
def run(slurm: RunningCluster, tmp_path: Path) -> Iterator[Run]:
    with run_on("slurm", tmp_path / "work", lost_after_s=4, command_timeout_s=5) as run:
        yield run


# ---------------------------------------------------------------- what Slurm gives a job


def test_environment_says_what_was_asked_for(run: Run) -> None:
    job = run.submit_call(lambda: dict(os.environ), (), {}, make_spec(cores=2, partition="urgent", time="00:05:00"))
    environment = job.result(30)
    assert environment["SLURM_JOB_ID"] == job.native_id
    assert environment["SLURM_CPUS_PER_TASK"] == "2"
    assert environment["SLURM_JOB_PARTITION"] == "urgent"
    assert output_of("squeue", "-h", "-t", "all", "-j", job.native_id, "-o", "%l").strip() == "5:00"


def test_one_core_is_said_too_and_memory_is_rounded_up(run: Run) -> None:
    job = run.submit_call(lambda: os.environ["SLURM_CPUS_PER_TASK"], (), {}, make_spec(cores=1, memory="1.5MB"))
    assert job.result(30) == "1"
    assert "MinMemoryNode=2M" in output_of("scontrol", "show", "job", job.native_id)


def test_two_nodes_are_two_nodes(run: Run) -> None:
    def nodes() -> tuple[str, str]:
        return os.environ["SLURM_JOB_NUM_NODES"], os.environ["SLURM_JOB_NODELIST"]

    number, names = run.submit_call(nodes, (), {}, make_spec(nodes=2)).result(30)
    assert number == "2"
    assert names.startswith("n[")


def test_inherited_sbatch_variables_decide_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SBATCH_PARTITION": "short", "SQUEUE_FORMAT": "%i", "SLURM_JOB_ID": "1"}.items():
        monkeypatch.setenv(name, value)
    job = run.submit_call(lambda: os.environ["SLURM_JOB_PARTITION"], (), {}, JobSpec())
    assert job.result(30) == "main"


def test_extra_directives_and_arguments_reach_sbatch(run: Run) -> None:
    spec = make_spec(extra_directives=["--comment=from-directive"], extra_args=["--nice=7"])
    job = run.submit_command("true", spec)
    job.result(30)
    shown = output_of("scontrol", "show", "job", job.native_id)
    assert "Comment=from-directive" in shown
    assert "Nice=7" in shown


# ---------------------------------------------------------------- how Slurm ends a job


def test_scheduler_s_time_limit_is_a_timeout_with_the_output_so_far(run: Run) -> None:
    job = started(run, "echo before; sleep 300", time="00:10:00")
    output_of("scontrol", "update", f"jobid={job.native_id}", "EndTime=now")
    with pytest.raises(JobTimeout, match="time limit"):
        job.result(60)
    assert (job.state, job.reason, job.record.native_word) == (JobState.FAILED, ExitReason.TIMEOUT, "TIMEOUT")
    assert "before" in job.logs().stdout


def test_job_cancelled_from_outside_says_so(run: Run) -> None:
    job = started(run, "sleep 300")
    output_of("scancel", job.native_id)
    with pytest.raises(JobCancelled, match="somebody else"):
        job.result(30)
    assert job.reason is ExitReason.CANCELLED_OUTSIDE


def test_pending_job_cancelled_from_outside_says_so(run: Run) -> None:
    job = command(run, "true", extra_args=["--hold"])
    output_of("scancel", job.native_id)
    with pytest.raises(JobCancelled, match="somebody else"):
        job.result(30)


def test_node_failure_without_requeue_is_the_cluster_s_trouble(run: Run) -> None:
    job = started(run, "sleep 300", extra_args=["--no-requeue", "--nodelist=n3"])
    try:
        output_of("scontrol", "update", "nodename=n3", "state=down", "reason=test")
        with pytest.raises(JobInfrastructureError, match="lost its node"):
            job.result(30)
    finally:
        wait_for(lambda: output_of("sinfo", "-h", "-n", "n3", "-p", "main", "-o", "%t").strip() == "idle")
    assert (job.reason, job.record.native_word) == (ExitReason.NODE_FAILURE, "NODE_FAIL")


def test_requeued_job_is_one_job_that_starts_again(run: Run) -> None:
    script = 'echo "start ${SLURM_RESTART_COUNT:-0}"; [ "${SLURM_RESTART_COUNT:-0}" = 1 ] || sleep 300'
    job = started(run, script)
    native_id = job.native_id
    output_of("scontrol", "requeue", native_id)
    assert "start 1" in job.result(60).stdout
    assert (job.native_id, job.state, job.metrics.restarts) == (native_id, JobState.COMPLETED, 1)


def test_preempted_job_without_requeue_says_so(run: Run) -> None:
    victims = [started(run, "sleep 300", cores=4, partition="scavenge", extra_args=["--no-requeue"]) for _ in range(4)]
    urgent = command(run, "true", cores=4, partition="urgent")
    assert urgent.result(60).exit_code == 0
    wait_for(lambda: any(job.state.is_terminal for job in victims))
    ended = next(job for job in victims if job.state.is_terminal)
    assert (ended.state, ended.reason) == (JobState.FAILED, ExitReason.PREEMPTED)


# ---------------------------------------------------------------- what Slurm refuses


def test_refused_submission_has_command_and_stderr(run: Run) -> None:
    with pytest.raises(SubmitError) as caught:
        command(run, "true", partition="nowhere")
    assert "invalid partition" in caught.value.stderr
    assert caught.value.command.startswith("sbatch ")


def test_hopeless_pending_reason_ends_the_wait_with_it(run: Run) -> None:
    job = command(run, "true", partition="short", time="01:00:00")
    with pytest.raises(QueueTimeout, match="PartitionTimeLimit"):
        job.result(30)
    assert (job.state, job.reason) == (JobState.CANCELLED, ExitReason.NEVER_STARTS)


def test_more_cores_than_any_node_has_is_refused_with_both_numbers(run: Run) -> None:
    with pytest.raises(SubmitError, match="asks for 64 cores per node, and there are 4"):
        command(run, "true", cores=64)


def test_queue_timeout_names_the_pending_reason(run: Run) -> None:
    job = command(run, "true", queue_timeout=4, extra_args=["--hold"])
    with pytest.raises(QueueTimeout, match=r"queue_timeout of 4 s.*JobHeldUser"):
        job.result(30)
    assert job.reason is ExitReason.QUEUE_TIMEOUT


def test_max_jobs_makes_the_rest_wait_with_us(slurm: RunningCluster, tmp_path: Path) -> None:
    run = Run(Settings(workdir=str(tmp_path / "work"), max_jobs=2))
    run.select("slurm")
    jobs = [command(run, "sleep 0.5") for _ in range(5)]
    living = len(output_of("squeue", "-h", "--me").splitlines())
    assert living <= 2
    assert sum(job.state is JobState.NEW for job in jobs) == 3
    assert [job.result(60).exit_code for job in jobs] == [0] * 5
    assert run.close().problems == []


# ---------------------------------------------------------------- bad days


def test_outage_changes_no_job_s_state_and_loses_none(run: Run, slurm: RunningCluster) -> None:
    running = started(run, "sleep 70; echo survived")
    short = started(run, "sleep 2; echo done")
    slurmctld = int((slurm.directory / "run" / "slurmctld.pid").read_text())
    with frozen([slurmctld]):
        end = time.monotonic() + 60
        late = command(run, "echo late")  # its reply is lost: sbatch is killed after 5 s
        assert late.state is JobState.NEW
        assert short.result(30).stdout == "done\n"
        wait_for(lambda: any("does not answer" in problem for problem in run.problems), within_s=40)
        wait_for(lambda: time.monotonic() >= end, within_s=70)
        assert running.state is JobState.RUNNING
    assert running.result(60).stdout == "survived\n"
    assert late.result(90).stdout == "late\n"
    names = output_of("squeue", "-h", "-t", "all", "--me", "-o", "%j").split()
    assert names.count(late.record.name) == 1


def test_vanished_job_is_lost_and_every_source_is_named(run: Run) -> None:
    # 22.05 forgets elements that are cancelled one by one before they start; there is no accounting in this lane.
    jobs = run.submit([command_work("sleep 300", make_spec(extra_args=["--hold"]))] * 4)
    output_of("scancel", *(job.native_id for job in jobs))
    assert all(job.wait(60) for job in jobs)
    lost = [job for job in jobs if job.state is JobState.LOST]
    assert lost
    assert {job.state for job in jobs} <= {JobState.LOST, JobState.CANCELLED}
    with pytest.raises(JobLost, match=r"result file, exit code, queue, scontrol show job, sacct"):
        lost[0].result()


def sbatch_that(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put an sbatch before the real one; ``$REAL`` is that."""
    real = subprocess.run(["which", "sbatch"], capture_output=True, text=True, check=True).stdout.strip()
    folder.mkdir()
    fake = folder / "sbatch"
    fake.write_text(f"#!/bin/bash\nREAL={real}\n{script}\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_lost_reply_is_repaired_by_the_job_s_name_and_never_doubled(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_reply = '"$REAL" "$@" >/dev/null; echo "sbatch: error: Socket timed out on send/recv operation" >&2; exit 1'
    sbatch_that(tmp_path / "bin", monkeypatch, lose_reply)
    job = command(run, "echo once")
    assert job.result(60).stdout == "once\n"
    names = output_of("squeue", "-h", "-t", "all", "--me", "-o", "%j").split()
    assert names.count(job.record.name) == 1


def test_hanging_sbatch_that_made_the_job_is_found_by_its_name(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sbatch_that(tmp_path / "bin", monkeypatch, '"$REAL" "$@" >/dev/null; sleep 100')
    job = command(run, "echo once")
    assert job.result(60).stdout == "once\n"
    assert job.native_id


def test_warnings_before_the_id_do_not_confuse(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = 'echo "*** 3 jobs of yours wait since 2024 ***"; echo "sbatch: warning: 12" >&2; exec "$REAL" "$@"'
    sbatch_that(tmp_path / "bin", monkeypatch, noise)
    job = command(run, "echo fine")
    assert job.result(30).stdout == "fine\n"
    assert job.native_id.isdigit()


def test_site_limit_makes_the_job_wait_with_us(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = (
        f"if [ ! -e {tmp_path}/once ]; then touch {tmp_path}/once\n"
        'echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2\n'
        'echo "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy" >&2; exit 1; fi\n'
        'exec "$REAL" "$@"'
    )
    sbatch_that(tmp_path / "bin", monkeypatch, limit)
    job = command(run, "echo patient")
    assert (job.state, "takes no more jobs" in job.record.detail) == (JobState.NEW, True)
    assert job.result(60).stdout == "patient\n"


def test_array_of_a_thousand_has_every_result_in_order(run: Run) -> None:
    works = [Work(JobSpec(), "square", lambda number: number * number, (number,), {}) for number in range(1000)]
    jobs = run.submit(works)
    assert len({job.native_id.partition("_")[0] for job in jobs}) == 1
    assert [job.result(400) for job in jobs] == [number * number for number in range(1000)]

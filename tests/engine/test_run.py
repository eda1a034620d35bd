"""A run: where jobs go, what is submitted together, and what may no longer be submitted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_clusterjobs.config.settings import Settings
from pytest_clusterjobs.core.errors import JobCancelled, PayloadError, SpecError, UnknownBackendError, UsageError
from pytest_clusterjobs.core.spec import JobSpec, lay_over, make_spec
from pytest_clusterjobs.core.state import ExitReason, JobState
from pytest_clusterjobs.engine.run import Run
from pytest_clusterjobs.engine.work import Work, command_work

if TYPE_CHECKING:
    from tests.scripted import Stage
else:
    from scripted import Stage


def shapes(stage: Stage) -> list[int]:
    return [len(submission.directories) for submission in stage.backend.submissions]


def square(x: int) -> int:
    return x * x


# ---------------------------------------------------------------- where jobs go


def test_nothing_is_on_disk_before_the_first_job(tmp_path: Path) -> None:
    run = Run(Settings(workdir=str(tmp_path / "work")))
    run.close()
    assert list(tmp_path.iterdir()) == []


def test_unknown_backend_is_named_with_the_nearest(stage: Stage) -> None:
    for use in (lambda: stage.run.select("scriptd"), lambda: stage.command(backend="scriptd")):
        with pytest.raises(UnknownBackendError, match="did you mean 'scripted'"):
            use()
    assert stage.run.records == []


def test_job_s_own_backend_beats_the_selected_one(stage: Stage) -> None:
    stage.run.select("local")
    assert stage.command(backend="scripted").record.backend == "scripted"


def test_run_ids_are_random_and_in_every_name(stage: Stage) -> None:
    assert len({Run(Settings(workdir="/x")).run_id for _ in range(100)}) == 100
    job = stage.command("sleep 1", name="My job: no. 1!")
    assert job.record.name == "cj-0badcafe-1-My-job-no.-1"
    assert stage.backend.submissions[0].name == job.record.name


def test_workers_numbers_never_meet(stage: Stage) -> None:
    jobs = [stage.open(worker).submit_command("true", JobSpec()) for worker in ("main", "gw0", "gw1")]
    assert [job.job_id for job in jobs] == ["1", "gw0.1", "gw1.1"]
    assert len({job.record.directory for job in jobs}) == 3


@pytest.mark.parametrize("name", ["a b", "x/../y", "\u00fc", "-rf", "a\nb", "." * 100, "x" * 500, "%j", "#SBATCH"])
def test_odd_names_become_safe_ones(stage: Stage, name: str) -> None:
    record = stage.command(name=name).record
    assert record.name.startswith("cj-0badcafe-1-")
    assert len(record.name) < 60
    assert set(record.name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
    assert os.path.dirname(record.directory) == stage.run.store.directory


def test_two_submissions_of_one_name_never_collide(stage: Stage) -> None:
    records = [stage.command(name="same").record for _ in range(20)]
    assert len({record.directory for record in records}) == len({record.name for record in records}) == 20


def test_defaults_lie_below_what_a_job_asks_for(stage: Stage) -> None:
    stage.run.select("scripted", defaults=make_spec(cores=4, partition="main", memory="1GB"))
    spec = stage.command(cores=2).record.spec
    assert (spec.cores, spec.partition, spec.memory_bytes) == (2, "main", 2**30)
    assert lay_over(make_spec(cores=4), JobSpec()).cores == 4


def test_jobs_remember_their_test(stage: Stage) -> None:
    stage.run.select("scripted", "test_x.py::test_one")
    job = stage.command()
    assert job.record.test_id == "test_x.py::test_one"
    assert stage.run.jobs_of("test_x.py::test_one") == [job]
    assert stage.run.jobs_of("other") == []


# ---------------------------------------------------------------- what is submitted together


def test_equal_shapes_are_one_array_and_others_their_own_jobs(stage: Stage) -> None:
    works = [Work(make_spec(cores=cores), "square", square, (cores,)) for cores in (1, 2, 1, 1, 2, 3)]
    jobs = stage.run.submit(works)
    assert sorted(shapes(stage)) == [1, 2, 3]
    assert [job.native_id for job in jobs] == ["1_0", "2_0", "1_1", "1_2", "2_1", "3"]
    assert [job.record.spec.cores for job in jobs] == [1, 2, 1, 1, 2, 3]


def test_array_is_split_at_the_site_s_limit(stage: Stage) -> None:
    stage.backend.array_size = 4
    stage.run.submit([command_work("true", JobSpec())] * 10)
    assert shapes(stage) == [4, 4, 2]


def test_array_shares_its_function_and_has_arguments_of_its_own(stage: Stage) -> None:
    jobs = stage.run.submit([Work(JobSpec(), "square", square, (number,)) for number in range(3)])
    parent = Path(jobs[0].record.directory).parent
    assert [path.name for path in parent.glob("function*")] == ["function-0.pkl"]
    assert all(Path(job.record.directory, "arguments.pkl").exists() for job in jobs)
    assert stage.backend.submissions[0].directories == tuple(job.record.directory for job in jobs)


def test_limit_on_concurrency_reaches_the_scheduler(stage: Stage) -> None:
    stage.run.submit([command_work("true", JobSpec())] * 3, max_concurrent=2)
    assert stage.backend.submissions[0].max_concurrent == 2


def test_batch_gathers_and_submits_at_its_end(stage: Stage) -> None:
    with stage.run.gather():
        jobs = [stage.command() for _ in range(3)]
        assert stage.backend.submissions == []
        assert {job.state for job in jobs} == {JobState.NEW}
    assert shapes(stage) == [3]


def test_waiting_inside_a_batch_submits_it_first(stage: Stage) -> None:
    """Waiting for a job that is held back would have no end."""
    with stage.run.gather():
        job = stage.command()
        job.wait(0)
        assert shapes(stage) == [1]


def test_batch_that_raises_submits_nothing_and_ends_its_jobs(stage: Stage) -> None:
    """Its jobs had no name yet, and the error named none."""
    jobs = []

    def gather() -> None:
        with stage.run.gather():
            jobs.append(stage.command())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        gather()
    [record] = stage.run.records
    assert stage.backend.submissions == []
    assert (record.state, record.reason) == (JobState.CANCELLED, ExitReason.CANCELLED)
    with pytest.raises(JobCancelled, match=r"^true was cancelled: the batch was never submitted"):
        jobs[0].result(0)
    assert stage.command().state is JobState.PENDING


def test_batch_in_a_batch_is_an_error(stage: Stage) -> None:
    with stage.run.gather(), pytest.raises(UsageError, match="inside another one"), stage.run.gather():
        pass


def test_nothing_is_submitted_when_one_argument_cannot_travel(stage: Stage) -> None:
    import threading

    works = [Work(JobSpec(), "square", square, (given,)) for given in (1, threading.Lock())]
    with pytest.raises(PayloadError, match="argument 'x'"):
        stage.run.submit(works)
    assert stage.backend.submissions == []
    assert stage.run.records == []


# ---------------------------------------------------------------- what may not be submitted


def test_closed_run_takes_no_more_jobs(stage: Stage) -> None:
    stage.command()
    stage.run.close()
    with pytest.raises(UsageError, match="the run 0badcafe has ended"):
        stage.command()


def test_job_cannot_submit_jobs_unless_it_is_allowed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTERJOBS_JOB_ID", "1")
    with pytest.raises(UsageError, match="itself a cluster job"):
        stage.command()
    monkeypatch.setenv("CLUSTERJOBS_NESTED", "submit")
    assert stage.command().state is JobState.PENDING


@pytest.mark.parametrize("command", ["", "  ", [], [""], ["a\0b"], "a\0b"])
def test_command_that_is_none_is_an_error_before_anything_is_made(stage: Stage, command: Any) -> None:
    with pytest.raises(SpecError):
        stage.run.submit_command(command, JobSpec())
    assert stage.run.records == []


# ---------------------------------------------------------------- asking and cancelling


def test_probe_asks_once(stage: Stage) -> None:
    probe = stage.run.probe("scripted")
    assert (probe.is_available, probe.reason) == (True, "")
    stage.backend.is_down = True
    assert stage.run.probe("scripted") is probe
    assert stage.open("gw0").probe("scripted").reason == "scripted: the controller is down"


def test_probe_is_shared_by_the_workers(stage: Stage) -> None:
    assert stage.open("gw0").probe("scripted").is_available
    stage.backend.is_down = True
    shared = stage.open("gw1").probe("scripted")
    assert shared.is_available
    assert shared.info is not None
    assert shared.info.version == "scripted 1.0"


def test_cancel_of_a_job_of_another_run_does_nothing(stage: Stage) -> None:
    job, other = stage.command(), stage.open(run_id="11111111").submit_command("true", JobSpec())
    stage.run.cancel([other])
    stage.pass_time(5)
    assert stage.backend.cancels == []
    assert job.state is JobState.PENDING


def test_progress_is_told_while_somebody_waits(stage: Stage) -> None:
    seen: list[int] = []
    stage.run.on_wait = lambda records: seen.append(len(records))
    stage.command()
    stage.run.tick()
    assert seen == [1]


# ---------------------------------------------------------------- forked children

FORKS = """
import os, sys, time
from pytest_clusterjobs import cluster

@cluster
def double(x):
    while not os.path.exists("go"):
        time.sleep(0.01)
    return 2 * x

running = double.submit(3)
child = os.fork()
if child == 0:
    for use in (lambda: double(4), running.result):
        try:
            use()
        except RuntimeError as error:
            print(error, flush=True)
    sys.exit(7)  # with what is registered for the interpreter's end
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
open("go", "w").close()
print(running.result(30))
"""


def test_forked_child_neither_hangs_nor_ends_the_run_of_its_parent(tmp_path: Path) -> None:
    """It waited for threads that it does not have, and its end cancelled the parent's jobs."""
    argv = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    first, second, *rest = done.stdout.splitlines()
    assert first == second == "this process was forked from the one that the jobs belong to; submit and wait there"
    assert rest == ["7", "6"]

"""Good and bad days on the fake LSF: what a job gets, what ends it, what an outage does. See test_lsf_fake.py for what
the fake is held to.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pytest_clusterjobs.config.settings import Settings
from pytest_clusterjobs.core.errors import JobCancelled, JobFailed, JobTimeout, QueueTimeout, SpecError, SubmitError
from pytest_clusterjobs.core.spec import JobSpec, make_spec
from pytest_clusterjobs.core.state import ExitReason, JobState
from pytest_clusterjobs.engine.run import Run
from pytest_clusterjobs.engine.work import Work, command_work
from pytest_clusterjobs.testing.fakes import fake_lsf
from pytest_clusterjobs.testing.fakes.cluster import ENDED
from pytest_clusterjobs.testing.fakes.place import FakePlace
from tests import days, watching
from tests.days import command, run_on

VERSIONS = ["10.1", "volclava-2.2", "openlava-3.0"]
PATIENCE_S = 120
wait_for = partial(watching.wait_for, within_s=PATIENCE_S)
started = partial(days.started, within_s=PATIENCE_S)


@pytest.fixture
def place(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePlace]:
    settings = {"version": "volclava-2.2", "slots": 8, **getattr(request, "param", {})}
    with fake_lsf(tmp_path / "lsf", **settings) as place:
        for name, value in place.environment.items():
            monkeypatch.setenv(name, value)
        yield place


def with_settings(**settings: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("place", [settings], indirect=True, ids=[",".join(settings)])


in_every_dialect = pytest.mark.parametrize(
    "place", [{"version": version, "minute_s": 0.5} for version in VERSIONS], indirect=True, ids=VERSIONS
)


@pytest.fixture
def run(place: FakePlace, tmp_path: Path) -> Iterator[Run]:
    with run_on("lsf", tmp_path / "work", lost_after_s=8, command_timeout_s=20) as run:
        yield run


def impatient(tmp_path: Path) -> Run:
    """Give a run that waits but a moment for a command."""
    run = Run(Settings(workdir=str(tmp_path / "impatient"), lost_after_s=8, command_timeout_s=2))
    run.select("lsf")
    return run


def bkill(*native_ids: str) -> None:
    subprocess.run(["bkill", *native_ids], capture_output=True, timeout=60, check=True)


def submissions(place: FakePlace) -> int:
    return sum(argv[:2] == ["bsub", "-o"] for argv in place.calls())


# ---------------------------------------------------------------- what LSF gives a job


def test_value_environment_and_queue_of_a_job(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CJ_TEST_LINES", "one\ntwo\\n three")
    monkeypatch.setenv("CJ_TEST_SCRIPT", "A='b'; export A")
    monkeypatch.setenv("LSB_JOBINDEX", "7")
    monkeypatch.setenv("BSUB_QUIET", "1")

    def look() -> tuple[float, dict[str, str]]:
        return 84 / 2, dict(os.environ)

    job = run.submit_call(look, (), {}, make_spec(queue="short", cores=2, memory="1GB", time="00:05:00"))
    value, environment = job.result(PATIENCE_S)
    assert (value, type(value)) == (42.0, float)
    assert (environment["LSB_JOBID"], environment["LSB_JOBINDEX"]) == (job.native_id, "0")
    assert (environment["LSB_QUEUE"], environment["LSB_HOSTS"]) == ("short", "lsfhost lsfhost")
    assert environment["CJ_TEST_LINES"] == "one\ntwo\\n three"
    assert environment["CJ_TEST_SCRIPT"] == "A='b'; export A"
    assert not {"BSUB_QUIET", "LSB_NTRIES"} & environment.keys()


def test_array_of_100_has_every_result_at_its_own_index(run: Run, place: FakePlace) -> None:
    def look(number: int) -> tuple[int, int]:
        return number * number, int(os.environ["LSB_JOBINDEX"])

    jobs = run.submit([Work(JobSpec(), "look", look, (number,), {}) for number in range(100)])
    assert [job.result(PATIENCE_S) for job in jobs] == [(number * number, number + 1) for number in range(100)]
    assert [job.native_id for job in jobs] == [f"1[{index}]" for index in range(1, 101)]
    assert submissions(place) == 1


def test_50_jobs_at_once_have_50_ids_and_results(run: Run, place: FakePlace) -> None:
    jobs = [command(run, f"echo {number}") for number in range(50)]
    assert [job.result(PATIENCE_S).stdout for job in jobs] == [f"{number}\n" for number in range(50)]
    assert len({job.native_id for job in jobs}) == 50
    assert submissions(place) == 50


@with_settings(max_array=10)
def test_array_above_the_site_s_limit_is_split(run: Run, place: FakePlace) -> None:
    jobs = run.submit([command_work(f"echo {number}", JobSpec()) for number in range(25)])
    assert [job.result(PATIENCE_S).stdout for job in jobs] == [f"{number}\n" for number in range(25)]
    assert len({job.native_id.partition("[")[0] for job in jobs}) == 3


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"queue": "closed"}, "closed: Queue has been closed"),
        ({"queue": "short", "time": "01:00:00"}, r"RUNLIMIT: Cannot exceed queue's hard limit\(s\)"),
        ({"cores": 64}, "asks for 64 cores per host, and there are 8"),
        ({"memory": "1TB"}, "asks for 1048576 MiB of memory per host, and there are 24105"),
        ({"nodes": 64}, "asks for 64 hosts, and there are 1"),
        ({"constraint": "foo==1"}, "Bad resource requirement syntax"),
        ({"gpus": 1}, "illegal option -- gpu"),
    ],
)
def test_refusal_is_the_job_s_own_with_the_words_of_lsf(run: Run, resources: dict[str, Any], words: str) -> None:
    with pytest.raises(SubmitError, match=words):
        command(run, "true", **resources).result(PATIENCE_S)


# ---------------------------------------------------------------- what ends a job


@in_every_dialect
def test_run_limit_is_a_time_out(run: Run) -> None:
    job = command(run, "echo before; sleep 300", time=60)
    with pytest.raises(JobTimeout, match="ran into its time limit"):
        job.result(PATIENCE_S)
    assert (job.state, job.reason, job.record.native_word) == (JobState.FAILED, ExitReason.TIMEOUT, "EXIT")
    assert job.logs().stdout == "before\n"


@with_settings(minute_s=0.5)
def test_job_that_ignores_its_run_limit_is_a_time_out_soon(run: Run) -> None:
    def ignore() -> None:
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        time.sleep(300)

    job = run.submit_call(ignore, (), {}, make_spec(time=60))
    with pytest.raises(JobTimeout, match="ran into its time limit"):
        job.result(60)
    assert job.reason is ExitReason.TIMEOUT


@in_every_dialect
def test_running_job_that_somebody_else_kills_was_cancelled_outside(run: Run) -> None:
    job = started(run, "sleep 300")
    bkill(job.native_id)
    with pytest.raises(JobCancelled):
        job.result(PATIENCE_S)
    assert job.reason is ExitReason.CANCELLED_OUTSIDE


@in_every_dialect
def test_waiting_job_that_somebody_else_kills_was_cancelled_outside(run: Run) -> None:
    job = command(run, "true", queue="held")
    bkill(job.native_id)
    with pytest.raises(JobCancelled):
        job.result(PATIENCE_S)
    assert job.reason is ExitReason.CANCELLED_OUTSIDE


@in_every_dialect
def test_job_that_waited_too_long_says_what_for(run: Run) -> None:
    job = command(run, "true", queue="held", queue_timeout=5)
    with pytest.raises(QueueTimeout, match="it waited for: The queue is inactivated by the administrator"):
        job.result(PATIENCE_S)


@pytest.mark.parametrize(
    "place", [{"version": version, "enforces_memory": True} for version in VERSIONS], indirect=True, ids=VERSIONS
)
def test_memory_limit_is_told(run: Run) -> None:
    def take() -> None:
        data = bytearray(300 << 20)
        time.sleep(300)
        del data

    job = run.submit_call(take, (), {}, make_spec(memory="150MB"))
    with pytest.raises(JobFailed, match="ran out of memory"):
        job.result(PATIENCE_S)
    assert job.reason is ExitReason.OUT_OF_MEMORY


def test_function_that_ends_by_usr2_of_its_own_has_not_run_out_of_time(run: Run) -> None:
    job = run.submit_call(os.kill, (), {}, JobSpec())
    with pytest.raises(TypeError):
        job.result(PATIENCE_S)
    job = command(run, "kill -USR2 $$; sleep 300")
    with pytest.raises(JobFailed, match="SIGUSR2"):
        job.result(PATIENCE_S)
    assert job.reason is ExitReason.SIGNAL


@with_settings(clean_period_s=0.0)
def test_job_that_bjobs_forgets_at_once_ends_by_its_own_evidence_or_its_history(run: Run) -> None:
    good, bad, killed = command(run, "echo fine"), command(run, "exit 7"), started(run, "sleep 300")
    bkill(killed.native_id)
    assert good.result(PATIENCE_S).stdout == "fine\n"
    for job in (bad, killed):
        assert job.wait(PATIENCE_S)
    assert bad.metrics.exit_code == 7
    assert killed.reason is ExitReason.CANCELLED_OUTSIDE


# ---------------------------------------------------------------- troubles


def test_answer_from_an_old_copy_takes_no_start_back(run: Run, place: FakePlace) -> None:
    """A child of mbatchd answers bjobs, from a copy that is made anew every five seconds."""
    place.set(is_scheduling=False)
    job = command(run, f"until [ -e {run.directory}/go ]; do sleep 0.05; done; exit 3")
    place.set(copied_at=time.time())
    place.set(is_scheduling=True)
    wait_for(lambda: job.state is JobState.RUNNING)
    asked = len(place.calls())
    wait_for(lambda: len(place.calls()) > asked + 1)
    assert (job.state, job.metrics.restarts) == (JobState.RUNNING, 0)
    place.set(copied_at=None)
    Path(run.directory, "go").touch()
    assert job.wait(PATIENCE_S)
    assert (job.metrics.exit_code, job.metrics.restarts) == (3, 0)


def test_job_that_is_in_no_copy_yet_is_not_lost_and_is_cancelled_none_the_less(run: Run, place: FakePlace) -> None:
    place.set(copied_at=time.time())
    ends, lives = command(run, "sleep 4; exit 3"), started(run, "sleep 300")
    assert ends.wait(PATIENCE_S)
    assert ends.metrics.exit_code == 3
    assert lives.state is JobState.RUNNING
    lives.cancel()
    with pytest.raises(JobCancelled):
        lives.result(PATIENCE_S)
    assert run.close().leaked == []


@pytest.mark.parametrize(
    "outage", ["mbatchd", *(pytest.param(each, marks=pytest.mark.slow) for each in ("lim", "hung"))]
)
def test_no_job_changes_its_state_while_lsf_is_away(place: FakePlace, tmp_path: Path, outage: str) -> None:
    """Jobs run on meanwhile; one ends, and its own evidence tells, without LSF."""
    run = impatient(tmp_path)
    lives, ends = started(run, "sleep 300"), started(run, f"until [ -e {tmp_path}/go ]; do sleep 0.05; done; exit 3")
    waits = command(run, "true", queue="held")
    place.set(outage=outage)
    asked = len(place.calls())
    (tmp_path / "go").touch()
    assert ends.wait(PATIENCE_S)
    assert (ends.state, ends.metrics.exit_code) == (JobState.FAILED, 3)
    wait_for(lambda: len(place.calls()) > asked + 2)
    assert (lives.state, waits.state) == (JobState.RUNNING, JobState.PENDING)
    place.set(outage="")
    lives.cancel()
    with pytest.raises(JobCancelled):
        lives.result(PATIENCE_S)
    assert waits.state is JobState.PENDING
    assert run.close().leaked == []


def test_submission_that_begins_while_lsf_is_away_waits_for_it(place: FakePlace, tmp_path: Path) -> None:
    """It asks for the hosts first; that nobody answers refuses no job."""
    run = impatient(tmp_path)
    place.set(outage="mbatchd")
    job = command(run, "echo late", cores=2)
    assert "waits with us" in job.record.detail
    place.set(outage="")
    assert job.result(PATIENCE_S).stdout == "late\n"
    assert run.close().leaked == []


@pytest.mark.parametrize("count", [1, 3])
def test_submission_whose_reply_is_lost_is_found_by_its_name_and_made_once(
    place: FakePlace, tmp_path: Path, count: int
) -> None:
    run = impatient(tmp_path)
    run.backend("lsf").array_limit()
    place.set(lost_replies=1)
    jobs = run.submit([command_work(f"echo {number}", JobSpec()) for number in range(count)])
    assert [job.result(PATIENCE_S).stdout for job in jobs] == [f"{number}\n" for number in range(count)]
    with place.cluster.look() as queue:
        assert len(list(queue.jobs())) == count
    assert submissions(place) == 1
    assert run.close().leaked == []


def test_ghost_of_a_daemon_that_hung_is_taken_for_the_job_it_is(place: FakePlace, tmp_path: Path) -> None:
    """A bsub that our time limit ended still became a job, seen with volclava 2.2."""
    run = impatient(tmp_path)
    run.backend("lsf").array_limit()
    place.set(outage="hung")
    job = command(run, "echo once")
    place.set(outage="")
    assert job.result(PATIENCE_S).stdout == "once\n"
    with place.cluster.look() as queue:
        assert len(list(queue.jobs())) == 1
    assert run.close().leaked == []


@with_settings(max_pending=1, slots=1)
def test_limit_on_waiting_jobs_is_waited_for(place: FakePlace, tmp_path: Path) -> None:
    run = impatient(tmp_path)
    first, second = started(run, f"until [ -e {tmp_path}/go ]; do sleep 0.05; done"), command(run, "true")
    third = command(run, "echo third")
    assert "takes no more jobs now" in third.record.detail
    (tmp_path / "go").touch()
    assert third.result(PATIENCE_S).stdout == "third\n"
    assert (first.state, second.state) == (JobState.COMPLETED, JobState.COMPLETED)
    assert run.close().leaked == []


def test_jobs_of_others_survive_everything_we_cancel(run: Run, place: FakePlace) -> None:
    """To bkill, 0 means every job of the user."""
    other = subprocess.run(["bsub", "sleep", "300"], capture_output=True, text=True, timeout=60, check=True).stdout
    jobs = run.submit([command_work("sleep 300", JobSpec())] * 5)
    run.cancel(jobs)
    assert all(job.wait(PATIENCE_S) for job in jobs)
    for wrong in ("0", "-1", "0[1]"):
        with pytest.raises(SpecError):
            run.backend("lsf").cancel([wrong])
    run.close()
    with place.cluster.look() as queue:
        assert [str(job.number) for job in queue.jobs() if job.state != ENDED] == ["1"]
    assert "Job <1> is submitted" in other
    assert not [argv for argv in place.calls() if argv[0] == "bkill" and "0" in argv]


# ---------------------------------------------------------------- through pytest


def test_pytest_runs_functions_and_test_bodies_on_lsf(place: FakePlace, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os
        from pytest_clusterjobs import cluster

        @cluster(cores=2, memory="1GB", time="00:05:00")
        def square(number):
            return number * number, os.environ["LSB_JOBID"]

        def test_call():
            assert square(6)[0] == 36

        def test_map():
            assert [value for value, _ in square.map(range(4))] == [0, 1, 4, 9]

        @cluster
        def test_body(tmp_path):
            assert os.environ["LSB_JOBID"].isdigit()
            raise ValueError("Intentional test error")
        """
    )
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--cluster=lsf"]
    done = subprocess.run(argv, cwd=pytester.path, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert "2 passed" in done.stdout
    assert "1 failed" in done.stdout
    assert "ValueError: Intentional test error" in done.stdout


def test_pytest_says_why_lsf_cannot_be_used(pytester: pytest.Pytester, place: FakePlace) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.cluster('lsf')\ndef test_x(cluster_jobs): pass")
    place.set(outage="lim")
    argv = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "-m", "real_world or cluster"]
    done = subprocess.run(argv, cwd=pytester.path, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert "1 skipped" in done.stdout
    assert "LIM is down; try later" in done.stdout

"""Good and bad days on an OpenPBS that is not there: what a job gets, what ends it, what an outage does."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

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
from pytest_clusterjobs.engine.run import Run
from pytest_clusterjobs.engine.work import Work, command_work
from pytest_clusterjobs.testing.fakes import fake_pbs
from pytest_clusterjobs.testing.fakes.place import FakePlace
from tests.days import command, output_of, run_on, started
from tests.watching import wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def pbs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[FakePlace]:
    settings = getattr(request, "param", {})
    with fake_pbs(tmp_path / "pbs", **{"slots": 8, **settings}) as place:
        monkeypatch.setenv("PATH", place.environment["PATH"])
        yield place


@pytest.fixture
def run(pbs: FakePlace, tmp_path: Path) -> Iterator[Run]:
    with run_on("pbs", tmp_path / "work", lost_after_s=3, command_timeout_s=2) as run:
        yield run


def with_settings(**settings: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("pbs", [settings], indirect=True, ids=["-".join(settings)])


# ---------------------------------------------------------------- what PBS gives a job


def test_job_sees_the_variables_of_the_contract(run: Run) -> None:
    def look() -> tuple[int, dict[str, str], str]:
        return 6 * 7, dict(os.environ), Path(os.environ["PBS_NODEFILE"]).read_text()

    job = run.submit_call(look, (), {}, make_spec(cores=2, queue="workq", memory="100MB", time="00:05:00"))
    value, environment, nodes = job.result(30)
    assert value == 42
    assert environment["PBS_JOBID"] == job.native_id
    assert environment["PBS_QUEUE"] == "workq"
    assert environment["NCPUS"] == "2"
    assert environment["PBS_O_WORKDIR"] == os.getcwd()
    assert environment["TMPDIR"].endswith(f"pbs.{job.native_id}")
    assert len(nodes.split()) == 2
    assert "PBS_ARRAY_INDEX" not in environment


def test_array_of_200_has_every_result_and_its_own_indices(run: Run) -> None:
    works = [
        Work(JobSpec(), "task", lambda number: (number, os.environ["PBS_ARRAY_INDEX"]), (number,), {})
        for number in range(200)
    ]
    jobs = run.submit(works)
    assert [job.result(90) for job in jobs] == [(number, str(number)) for number in range(200)]
    assert len({job.native_id.partition("[")[0] for job in jobs}) == 1
    assert "[0]." in jobs[0].native_id


def test_fifty_jobs_at_once_are_all_right_and_asked_about_together(run: Run, pbs: FakePlace) -> None:
    jobs = [command(run, f"echo {number}") for number in range(50)]
    assert [job.result(90).stdout for job in jobs] == [f"{number}\n" for number in range(50)]
    assert len({job.native_id for job in jobs}) == 50
    questions = [argv for argv in pbs.calls() if argv[0] in ("qstat", "qselect")]
    assert len(questions) < 50


@with_settings(max_array_size=5)
def test_array_beyond_the_site_s_limit_is_several_arrays(run: Run) -> None:
    jobs = run.submit([command_work(f"echo {number}", JobSpec()) for number in range(12)])
    assert [job.result(60).stdout for job in jobs] == [f"{number}\n" for number in range(12)]
    assert len({job.native_id.partition("[")[0] for job in jobs}) == 3


def test_queue_that_is_not_there_is_refused_and_named(run: Run) -> None:
    with pytest.raises(SubmitError, match="Unknown queue"):
        command(run, "true", queue="nosuch").result(30)


def test_directory_with_letters_beyond_ascii_is_no_obstacle(pbs: FakePlace, tmp_path: Path) -> None:
    """qsub refuses such a path for the job's output, whatever the locale is."""
    with run_on("pbs", tmp_path / "Jörg 1" / "work") as run:
        assert command(run, "echo über").result(30).stdout == "über\n"


def test_job_that_a_job_submits_outlives_it(run: Run, tmp_path: Path) -> None:
    made = tmp_path / "made"
    outer = command(run, f"qsub -j oe -o /dev/null -N inner -- /bin/sh -c 'sleep 2; touch {made}'")
    inner = outer.result(30).stdout.strip()
    assert inner
    wait_for(lambda: f"{inner} " not in output_of("qstat"))
    assert made.exists()
    assert "Exit_status = 0" in output_of("qstat", "-x", "-f", inner)


# ---------------------------------------------------------------- how PBS ends a job


@pytest.mark.parametrize("history", [True, False])
def test_time_limit_is_a_timeout_with_the_output_so_far(
    history: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_pbs(tmp_path / "pbs", history=history) as place:
        monkeypatch.setenv("PATH", place.environment["PATH"])
        run = Run(Settings(workdir=str(tmp_path / "work"), lost_after_s=3))
        run.select("pbs")
        job = command(run, "echo before; sleep 300", time=6)
        with pytest.raises(JobTimeout):
            job.result(60)
        assert (job.state, job.reason) == (JobState.FAILED, ExitReason.TIMEOUT)
        assert "before" in job.logs().stdout
        run.close()


@with_settings(slots=1, history=False)
def test_element_s_time_limit_is_a_timeout_where_pbs_knows_no_more_than_that_it_failed(run: Run) -> None:
    jobs = run.submit([command_work(f"sleep {seconds}", make_spec(time=12)) for seconds in (300, 4)])
    with pytest.raises(JobTimeout):
        jobs[0].result(60)
    assert jobs[1].result(30).exit_code == 0


def test_job_deleted_from_outside_was_cancelled_outside(run: Run) -> None:
    running = started(run, "sleep 300")
    output_of("qdel", running.native_id)
    with pytest.raises(JobCancelled):
        running.result(30)
    assert running.reason is ExitReason.CANCELLED_OUTSIDE


@with_settings(slots=1)
def test_pending_job_deleted_from_outside_was_cancelled_outside(run: Run) -> None:
    started(run, "sleep 300")
    waiting = command(run, "true")
    output_of("qdel", waiting.native_id)
    with pytest.raises(JobCancelled):
        waiting.result(30)
    assert waiting.reason is ExitReason.CANCELLED_OUTSIDE


@pytest.mark.parametrize("pbs", [{"slots": 1, "history": history} for history in (True, False)], indirect=True)
def test_pending_element_deleted_from_outside_was_cancelled_outside(run: Run) -> None:
    """PBS shows such an element with its array's exit status, which is 0 as long as the array lasts."""
    jobs = run.submit([command_work(f"sleep {seconds}", JobSpec()) for seconds in (300, 0)])
    wait_for(lambda: jobs[0].state is JobState.RUNNING)
    output_of("qdel", jobs[1].native_id)
    with pytest.raises(JobCancelled):
        jobs[1].result(30)
    assert jobs[1].reason is ExitReason.CANCELLED_OUTSIDE


@with_settings(slots=1, history=False)
def test_without_history_such_a_job_is_lost_since_no_source_knows_it(run: Run) -> None:
    started(run, "sleep 300")
    waiting = command(run, "true")
    output_of("qdel", waiting.native_id)
    with pytest.raises(JobLost, match="qstat -x -f"):
        waiting.result(30)


def test_job_that_can_never_run_is_told_so_and_taken_away(run: Run) -> None:
    job = command(run, "true", cores=64)
    with pytest.raises(QueueTimeout, match="Can Never Run: Insufficient amount of resource: ncpus"):
        job.result(30)
    assert job.reason is ExitReason.NEVER_STARTS
    wait_for(lambda: output_of("qselect") == "")


def test_array_that_can_never_run_is_told_so_for_every_element(run: Run) -> None:
    """Its elements show the array's comment, for they have none of their own."""
    jobs = run.submit([command_work(f"echo {number}", make_spec(cores=64)) for number in range(3)])
    for job in jobs:
        with pytest.raises(QueueTimeout, match="Can Never Run: Insufficient amount of resource: ncpus"):
            job.result(30)
    wait_for(lambda: output_of("qselect") == "")


def test_job_that_cannot_be_started_ends_with_the_server_s_words_and_is_taken_away(run: Run, tmp_path: Path) -> None:
    """PBS tries 20 times, as when the node does not see the directory of the job's output, and then holds the job."""
    job = command(run, "true", extra_args=["-o", str(tmp_path / "unseen" / "log")])
    with pytest.raises(JobInfrastructureError, match="too many failed attempts to run; do the nodes know the user"):
        job.result(30)
    assert (job.state, job.reason) == (JobState.FAILED, ExitReason.LAUNCH_FAILURE)
    wait_for(lambda: output_of("qselect") == "")


def test_job_in_a_queue_that_is_not_started_waits(run: Run) -> None:
    job = command(run, "true", queue="held", queue_timeout=2)
    with pytest.raises(QueueTimeout, match="queue_timeout of 2 s"):
        job.result(30)


@with_settings(max_jobs=2)
def test_limit_of_the_site_makes_jobs_wait_and_none_is_refused(run: Run) -> None:
    jobs = [command(run, f"sleep 0.3; echo {number}") for number in range(5)]
    assert [job.result(90).stdout for job in jobs] == [f"{number}\n" for number in range(5)]


# ---------------------------------------------------------------- bad days


def test_outage_longer_than_the_grace_changes_no_job_s_state(run: Run, pbs: FakePlace, tmp_path: Path) -> None:
    go = tmp_path / "go"
    jobs = [started(run, f"until [ -e {go} ]; do sleep 0.1; done; exit {code}") for code in (0, 7)]
    pbs.set(server="down")
    asked = len(pbs.calls())
    until = time.monotonic() + 5  # lost_after_s is 3
    while time.monotonic() < until:
        assert [job.state for job in jobs] == [JobState.RUNNING] * 2
        time.sleep(0.1)
    assert len(pbs.calls()) > asked
    pbs.set(server="up")
    go.touch()
    assert jobs[0].result(30).exit_code == 0
    with pytest.raises(JobFailed, match="code 7"):
        jobs[1].result(30)


def test_submission_in_an_outage_is_made_once_when_it_is_over(run: Run, pbs: FakePlace) -> None:
    pbs.set(server="down")
    job = command(run, "echo late")
    wait_for(lambda: any(argv[0] == "qsub" for argv in pbs.calls()))
    pbs.set(server="up")
    assert job.result(60).stdout == "late\n"
    assert output_of("qselect", "-x").count("\n") == 1


@pytest.mark.parametrize("count", [1, 3])
def test_lost_reply_is_repaired_by_the_name_and_nothing_runs_twice(
    run: Run, pbs: FakePlace, tmp_path: Path, count: int
) -> None:
    pbs.set(lost_replies=1)
    ran = tmp_path / "ran"
    jobs = run.submit([command_work(f"echo {number} >>{ran}; sleep 4", JobSpec()) for number in range(count)])
    for job in jobs:
        job.result(60)
    assert sorted(ran.read_text().split()) == [str(number) for number in range(count)]
    assert output_of("qselect", "-x").count("\n") == 1


def test_hung_server_changes_nothing_either(run: Run, pbs: FakePlace) -> None:
    job = started(run, "sleep 6; echo over")
    pbs.set(server="hung")
    assert job.result(60).stdout == "over\n"  # its own evidence is enough
    pbs.set(server="up")


@with_settings(version="23.06.06")
def test_other_jobs_odd_environments_hide_nothing_of_ours(run: Run) -> None:
    """One of them makes the JSON of the whole list invalid."""
    output_of("qsub", "-h", "-v", "A=+5,B=nan", "--", "/bin/true")
    output_of("qsub", "-h", "-v", "A=one\nJob Id: 0.x\n    job_state = F", "--", "/bin/true")
    job = started(run, "sleep 1; echo ours")
    assert job.result(30).stdout == "ours\n"


def test_cancel_of_many_with_one_gone_takes_all_the_others(run: Run) -> None:
    jobs = [started(run, "sleep 300") for _ in range(3)]
    output_of("qdel", jobs[0].native_id)
    run.cancel(jobs)
    assert all(job.wait(30) for job in jobs)
    wait_for(lambda: output_of("qselect") == "")


def test_job_of_a_node_that_is_down_is_cancelled_and_leaves_nothing(run: Run, pbs: FakePlace) -> None:
    job = started(run, "sleep 300", timeout=3)
    pbs.set(node="down")
    with pytest.raises(JobTimeout):
        job.result(30)
    assert job.reason is ExitReason.RUN_TIMEOUT
    wait_for(lambda: output_of("qselect") == "")


@pytest.mark.parametrize("count", [1, 3])
@with_settings(unseen_s=12)
def test_job_that_is_not_seen_for_a_while_is_not_lost(pbs: FakePlace, tmp_path: Path, count: int) -> None:
    with run_on("pbs", tmp_path / "work", lost_after_s=20) as run:
        jobs = run.submit([command_work(f"sleep 14; echo {number}", JobSpec()) for number in range(count)])
        assert [job.result(60).stdout for job in jobs] == [f"{number}\n" for number in range(count)]
        assert output_of("qselect", "-x").count("\n") == 1


@with_settings(end_delay_s=6)
def test_job_whose_end_takes_pbs_long_is_over_with_its_own_evidence(run: Run) -> None:
    """The state E lasts as long as output is carried, epilogues run and the notice of the end is on its way."""
    begun = time.monotonic()
    ended, ending = command(run, "echo over"), started(run, "sleep 300")
    assert ended.result(30).stdout == "over\n"
    assert " E workq" in output_of("qstat")
    assert time.monotonic() - begun < 5
    run.backend("pbs").cancel([ended.native_id])
    run.cancel([ending])
    assert ending.wait(30)
    assert (ended.state, ending.state) == (JobState.COMPLETED, JobState.CANCELLED)


@with_settings(end_delay_s=4)
def test_time_limit_is_a_timeout_where_pbs_tells_it_later_than_the_job(run: Run) -> None:
    with pytest.raises(JobTimeout):
        command(run, "sleep 300", time=1).result(60)


def test_cancel_of_an_array_of_which_some_have_ended_takes_the_others(run: Run) -> None:
    """qdel names a finished element in words of its own while the array lasts: it was taken for an outage."""
    jobs = run.submit([command_work(text, JobSpec()) for text in ("true", "sleep 300", "sleep 300")])
    wait_for(lambda: [job.state for job in jobs[1:]] == [JobState.RUNNING] * 2)
    array = jobs[0].native_id.replace("[0]", "[]")
    wait_for(lambda: output_of("qstat", "-t", array).count(" X ") == 1)
    run.backend("pbs").cancel([job.native_id for job in jobs[:2]])
    wait_for(lambda: output_of("qstat", "-t", array).count(" X ") == 2)
    run.cancel(jobs)
    assert all(job.wait(30) for job in jobs)
    assert [job.state for job in jobs] == [JobState.COMPLETED, JobState.CANCELLED, JobState.CANCELLED]


@with_settings(login_shell=True)
def test_what_the_login_shell_does_before_a_job_changes_nothing_in_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PBS starts a job in the user's login shell, in the home directory, with what the profile has set there."""
    home = tmp_path / "home"
    home.mkdir()
    (home / ".bash_profile").write_text(
        "echo 'Last login: never'; echo 'no mail' >&2\ncd /; umask 0; ulimit -n 99\n"
        "export PATH=/nowhere WHOSE=profile PYTHONSTARTUP=/nowhere CLUSTERJOBS_MARK=/nowhere\n"
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WHOSE", "ours")
    job = command(run, "echo $WHOSE; umask; type -P bash; pwd")
    whose, mask, bash, folder = job.result(30).stdout.splitlines()
    assert (whose, mask, os.path.basename(bash)) == ("ours", "0077", "bash")
    assert folder == os.getcwd()
    assert job.logs().stderr == ""

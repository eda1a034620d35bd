"""The end of a run: nothing is left running, what is kept is kept by policy, and trouble is told."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_clusterjobs.backends.base import ENVIRONMENT, QueuedJob
from pytest_clusterjobs.core.errors import SubmitLimit
from pytest_clusterjobs.core.spec import JobSpec
from pytest_clusterjobs.core.state import ExitReason, JobState
from pytest_clusterjobs.engine import closing
from pytest_clusterjobs.engine.work import command_work

if TYPE_CHECKING:
    from tests.scripted import RUNNING, Stage
else:
    from scripted import RUNNING, Stage


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give jobs that will not go a moment instead of 15 s."""
    monkeypatch.setattr(closing, "_GONE_S", 0.1)
    monkeypatch.setattr(closing, "_LOOK_AGAIN_S", 0.01)


def test_what_runs_is_cancelled_in_one_command(stage: Stage) -> None:
    jobs = [stage.started(), stage.command(), *stage.run.submit([command_work("true", JobSpec())] * 2)]
    report = stage.run.close()
    assert stage.backend.cancels == [["1", "2", "3_0", "3_1"]]
    assert report.cancelled == [job.record for job in jobs]
    assert {(job.record.state, job.reason, job.record.detail) for job in jobs} == {
        (JobState.CANCELLED, ExitReason.CANCELLED, "the run ended")
    }
    assert (report.leaked, report.problems) == ([], [])


def test_job_that_waits_with_us_ends_without_a_command(stage: Stage) -> None:
    stage.backend.errors.extend([SubmitLimit("later")] * 9)
    job = stage.command()
    report = stage.run.close()
    assert (job.record.state, report.cancelled) == (JobState.CANCELLED, [job.record])
    assert stage.backend.cancels == []


def test_end_that_comes_in_time_is_taken(stage: Stage) -> None:
    job = stage.started()
    stage.envelope(job, 5)
    stage.mark(job, 0)
    stage.run.close()
    assert job.record.state is JobState.COMPLETED


def test_job_that_we_never_heard_of_is_found_by_its_name(stage: Stage) -> None:
    """As after a lost reply: the scheduler has a job of ours that no record knows."""
    stage.finish(stage.started())
    stage.backend.queue["77"] = QueuedJob("cj-0badcafe-9-lost", RUNNING)
    stage.backend.queue["78"] = QueuedJob("cj-11111111-9-other", RUNNING)
    report = stage.run.close()
    assert stage.backend.cancels == [["77"]]
    assert report.leaked == []


def test_job_that_will_not_go_is_reported(stage: Stage) -> None:
    job = stage.started()
    stage.backend.obeys = False
    report = stage.run.close()
    assert report.leaked == [f"scripted:{job.native_id}"]
    assert job.record.state is JobState.CANCELLED


def test_job_that_may_not_be_cancelled_is_reported_with_what_the_scheduler_said(stage: Stage) -> None:
    job = stage.started()
    stage.backend.refusal = "one moment\ndenied: you are not a manager\n"
    report = stage.run.close()
    assert report.leaked == [f"scripted:{job.native_id}"]
    assert report.problems == [
        "scripted: cannot cancel 1 jobs: exit code 1 (denied: you are not a manager)",
        "scripted: cannot cancel what was left: exit code 1 (denied: you are not a manager)",
    ]
    assert len(stage.backend.cancels) > 2  # what was refused once is tried again


def test_scheduler_that_is_down_is_told_and_stops_nothing(stage: Stage) -> None:
    job = stage.started()
    stage.backend.is_down = True
    report = stage.run.close()
    assert any("cannot cancel 1 jobs" in problem for problem in report.problems)
    assert any("cannot tell whether jobs were left" in problem for problem in report.problems)
    assert job.record.state is JobState.CANCELLED


def test_scheduler_that_was_never_used_is_not_asked(stage: Stage) -> None:
    stage.run.backend("scripted")
    stage.run.close()
    assert stage.backend.queries == []


def test_closing_again_gives_the_same_report_and_does_nothing(stage: Stage) -> None:
    stage.started()
    report = stage.run.close()
    assert stage.run.close() is report
    assert len(stage.backend.cancels) == 1


def test_worker_cancels_its_own_jobs_and_no_other_s(stage: Stage) -> None:
    mine, other = stage.open("gw1"), stage.open("gw10")
    mine.submit_command("true", JobSpec())
    other.submit_command("true", JobSpec())
    mine.close()
    assert stage.backend.cancels == [["1"]]
    assert stage.backend.queries[-1][1] == "cj-0badcafe-gw1."


# ---------------------------------------------------------------- directories


@pytest.mark.parametrize(
    ("keep", "kept"), [("failed", [False, True, True]), ("always", [True] * 3), ("never", [False] * 3)]
)
def test_directories_are_kept_by_policy(stage: Stage, keep: str, kept: list[bool]) -> None:
    run = stage.open(keep=keep)
    good, bad, cancelled = (stage.started() for _ in range(3))
    stage.finish(good)
    stage.mark(bad, 1)
    stage.turn()
    report = run.close()
    folders = [job.record.directory for job in (good, bad, cancelled)]
    assert [os.path.isdir(folder) for folder in folders] == kept
    assert report.kept == [folder for folder, is_kept in zip(folders, kept, strict=True) if is_kept]
    assert [job.record.is_kept for job in (good, bad, cancelled)] == kept
    assert os.path.isdir(run.directory) is any(kept)


def test_job_s_own_policy_beats_the_run_s(stage: Stage) -> None:
    run = stage.open(keep="never")
    jobs = [stage.started(keep="always"), stage.started()]
    for job in jobs:
        stage.finish(job)
    assert run.close().kept == [jobs[0].record.directory]


def test_failure_that_a_test_expected_is_not_kept_and_a_failed_test_s_jobs_are(stage: Stage) -> None:
    stage.run.select("scripted", "test_good")
    expected = stage.started()
    stage.mark(expected, 1)
    stage.run.select("scripted", "test_bad")
    fine = stage.started()
    stage.finish(fine)
    stage.run.keep_jobs_of("test_bad")
    assert stage.run.close().kept == [fine.record.directory]


def test_values_of_env_do_not_stay_in_what_is_kept(stage: Stage) -> None:
    job = stage.started()
    path = Path(job.record.directory, ENVIRONMENT)
    path.write_text("export TOKEN=secret\n")
    stage.mark(job, 1)
    stage.turn()
    stage.run.close()
    assert Path(job.record.directory).is_dir()
    assert not path.exists()


def test_only_the_failed_elements_of_an_array_are_kept(stage: Stage) -> None:
    jobs = stage.run.submit([command_work("true", JobSpec())] * 3)
    for job, code in zip(jobs, (0, 1, 0), strict=True):
        stage.start(job)
        stage.envelope(job, outcome="exit", exit_code=code, signal=None)
        stage.mark(job, code)
    stage.turn()
    stage.run.close()
    assert [os.path.isdir(job.record.directory) for job in jobs] == [False, True, False]


def test_kept_run_is_marked_as_ended_and_another_leaves_nothing(stage: Stage) -> None:
    job = stage.started()
    stage.mark(job, 1)
    stage.turn()
    stage.run.close()
    assert json.loads(Path(stage.run.directory, "run.json").read_text())["is_closed"] is True
    other = stage.open(run_id="11111111")
    other.submit_command("true", JobSpec())
    other.close()
    assert sorted(os.listdir(stage.root / "work")) == [".gitignore", "0badcafe", "11111111"]
    assert other.records[0].is_kept  # it was cancelled by the end: that is no success


# ---------------------------------------------------------------- workers that were killed


def test_jobs_of_a_killed_worker_are_cancelled_and_its_room_is_given_back(stage: Stage) -> None:
    controller, dead = stage.open(max_jobs=2), stage.open("gw1", max_jobs=2)
    jobs = [dead.submit_command("true", JobSpec()) for _ in range(2)]
    stage.runs.remove(dead)
    assert not controller.room.take(1)
    assert sorted(controller.adopt_dead_worker("gw1")) == ["scripted:1", "scripted:2"]
    assert stage.backend.cancels == [["1", "2"]]
    assert controller.room.take(2)
    assert [job.native_id for job in jobs] == ["1", "2"]


def test_environments_that_a_killed_worker_left_do_not_stay(stage: Stage) -> None:
    controller, dead = stage.open(), stage.open("gw1")
    job = dead.submit_command("true", JobSpec())
    stage.runs.remove(dead)
    environment = Path(job.record.directory, ENVIRONMENT)
    environment.write_text("export TOKEN=of-nobody\n")
    controller.adopt_dead_worker("gw1")
    assert not environment.exists()
    assert Path(job.record.directory, "order.json").exists()


def test_journal_that_was_cut_off_is_read_as_far_as_it_goes(stage: Stage) -> None:
    controller, dead = stage.open(), stage.open("gw1")
    dead.submit_command("true", JobSpec())
    stage.runs.remove(dead)
    with open(os.path.join(dead.store.directory, "journal.jsonl"), "a") as journal:
        journal.write('{"event": "intent", "backend": "scri')
    assert controller.adopt_dead_worker("gw1") == ["scripted:1"]


def test_worker_that_left_nothing_is_no_trouble(stage: Stage) -> None:
    assert stage.run.adopt_dead_worker("gw7") == []
    assert stage.backend.queries == []


def test_scheduler_that_is_down_when_a_worker_died_is_told(stage: Stage) -> None:
    controller, dead = stage.open(), stage.open("gw1")
    dead.submit_command("true", JobSpec())
    stage.runs.remove(dead)
    stage.backend.is_down = True
    assert controller.adopt_dead_worker("gw1") == []
    assert controller.problems == ["scripted: cannot cancel what gw1 left: the controller is down"]


def test_directory_that_cannot_be_tidied_is_a_problem_and_the_rest_of_the_report_is_given(stage: Stage) -> None:
    """On a full disk what had been cancelled was told no more, and that jobs may be left, which was not so."""
    job = stage.command(keep="always")
    Path(f"{stage.run.store.run_file}.{os.getpid()}.tmp").mkdir()  # in the place of the file that is renamed
    report = stage.run.close()
    assert report.cancelled == [job.record]
    assert report.problems == [f"cannot tidy up {stage.run.store.root}: Is a directory"]

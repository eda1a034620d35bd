"""The monitor sees what nodes announce, keeps our own limits, and asks no scheduler for either."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_clusterjobs.core.errors import (
    JobFailed,
    JobInfrastructureError,
    JobTimeout,
    QueueTimeout,
    SubmitUnknown,
)
from pytest_clusterjobs.core.state import ExitReason, JobState, JobStatus

if TYPE_CHECKING:
    from tests.scripted import CANCELLED, COMPLETED, PENDING, RUNNING, Stage, failed
else:
    from scripted import CANCELLED, COMPLETED, PENDING, RUNNING, Stage, failed


# ---------------------------------------------------------------- marks


def test_start_and_end_are_seen_without_a_question(stage: Stage) -> None:
    job = stage.call()
    mark = Path(stage.run.store.mark(job.job_id))
    Path(f"{mark}.start").touch()
    stage.turn()
    seen = [job.state]
    stage.envelope(job, [1, 2])
    mark.write_text("0")
    stage.turn()
    assert [*seen, job.state] == [JobState.RUNNING, JobState.COMPLETED]
    assert job.result(0) == [1, 2]
    assert stage.backend.queries == []
    assert list(mark.parent.iterdir()) == []


def test_end_whose_start_was_never_seen_is_an_end(stage: Stage) -> None:
    job = stage.call()
    stage.envelope(job, 1)
    stage.mark(job, 0)
    stage.turn()
    assert job.state is JobState.COMPLETED


def test_asking_for_the_state_looks_for_marks(stage: Stage) -> None:
    job = stage.call()
    stage.envelope(job, 1)
    stage.mark(job, 0)
    stage.clock.now += 1
    assert job.state is JobState.COMPLETED


@pytest.mark.parametrize("text", ["", " ", "\n", "-", "x"])
def test_mark_that_is_being_written_is_no_end_yet(stage: Stage, text: str) -> None:
    job = stage.started()
    stage.mark(job, text)
    stage.turn()
    assert not job.done()
    stage.mark(job, 3)
    stage.turn()
    assert (job.state, job.metrics.exit_code) == (JobState.FAILED, 3)


def test_mark_of_no_job_of_ours_is_removed(stage: Stage) -> None:
    """A fresh cluster starts at job 1 again: old files answered for new jobs elsewhere."""
    job = stage.started()
    stray = Path(stage.run.store.mark("99"))
    stray.write_text("0")
    stage.turn()
    assert not stray.exists()
    assert job.state is JobState.RUNNING


def test_mark_is_kept_until_the_submit_command_has_returned(stage: Stage) -> None:
    stage.backend.errors.append(SubmitUnknown("no answer"))
    stage.backend.makes_lost_jobs = True
    job = stage.call()
    stage.envelope(job, 8)
    stage.mark(job, 0)
    stage.turn()
    assert not job.done()
    stage.pass_time(10)
    assert job.result(0) == 8


# ---------------------------------------------------------------- exit codes


@pytest.mark.parametrize(("code", "reason"), [(1, ExitReason.NONZERO_EXIT), (139, ExitReason.SIGNAL)])
def test_exit_code_without_a_result_is_the_end(stage: Stage, code: int, reason: ExitReason) -> None:
    job = stage.started()
    stage.mark(job, code)
    stage.turn()
    assert (job.state, job.reason) == (JobState.FAILED, reason)


def test_exit_code_0_without_a_result_is_no_success(stage: Stage) -> None:
    job = stage.started()
    stage.mark(job, 0)
    stage.turn()
    with pytest.raises(JobFailed, match="left no result"):
        job.result(0)
    assert job.metrics.exit_code == 0


def test_code_of_a_module_that_is_missing_counts_only_where_modules_were_asked_for(stage: Stage) -> None:
    with_modules, without = stage.started(modules=["gcc"]), stage.started()
    for job in (with_modules, without):
        stage.mark(job, 96)
    stage.turn()
    with pytest.raises(JobInfrastructureError, match="environment module"):
        with_modules.result(0)
    assert without.reason is ExitReason.NONZERO_EXIT


def test_result_beats_the_exit_code(stage: Stage) -> None:
    job = stage.started()
    stage.envelope(job, 5)
    stage.mark(job, 1)  # as after an epilogue that could
    stage.turn()
    assert job.result(0) == 5


def test_damaged_header_ends_the_job_with_the_file_s_name(stage: Stage) -> None:
    job = stage.started()
    Path(job.record.directory, "result.cj").write_text("{}\n")
    stage.mark(job, 0)
    stage.turn()
    with pytest.raises(JobInfrastructureError, match=r"result\.cj is no envelope"):
        job.result(0)


# ---------------------------------------------------------------- our own limits


def test_timeout_counts_from_the_start_and_says_that_it_was_ours(stage: Stage) -> None:
    job = stage.call(timeout=30)
    stage.pass_time(300)
    assert not job.done()
    stage.start(job)
    stage.pass_time(29)
    assert stage.backend.cancels == []
    stage.pass_time(10)
    with pytest.raises(JobTimeout, match=r"longer than timeout allows.*timeout of 30 s"):
        job.result(0)
    assert (job.state, job.reason) == (JobState.CANCELLED, ExitReason.RUN_TIMEOUT)


def test_queue_timeout_counts_until_the_start_and_names_the_pending_reason(stage: Stage) -> None:
    waiting, running = stage.call(queue_timeout=60), stage.started(queue_timeout=60)
    stage.backend.says(waiting.native_id, JobStatus(JobState.PENDING, "PENDING", detail="Priority"))
    stage.pass_time(100)
    with pytest.raises(QueueTimeout, match=r"queue_timeout of 60 s, it waited for: Priority"):
        waiting.result(0)
    assert running.state is JobState.RUNNING


def test_settings_give_the_limits_of_jobs_that_have_none(stage: Stage) -> None:
    stage.open(timeout_s=10, queue_timeout_s=20)
    running, patient, waiting = stage.started(), stage.started(timeout=1000), stage.call()
    stage.pass_time(15)
    assert (running.reason, patient.reason, waiting.reason) == (ExitReason.RUN_TIMEOUT, None, None)
    stage.pass_time(15)
    assert (patient.reason, waiting.reason) == (None, ExitReason.QUEUE_TIMEOUT)


def test_first_reason_of_a_cancel_stays(stage: Stage) -> None:
    stage.backend.obeys = False
    job = stage.started(timeout=30)
    stage.pass_time(31)
    job.cancel()
    stage.mark(job, 143)
    stage.turn()
    assert job.reason is ExitReason.RUN_TIMEOUT


def test_job_that_ends_while_we_cancel_it_keeps_its_own_exception(stage: Stage) -> None:
    stage.backend.obeys = False
    job = stage.started(timeout=30)
    stage.pass_time(31)
    chain = [{"type": "ValueError", "module": "builtins", "message": "x", "frames": [], "notes": [], "link": ""}]
    stage.envelope(job, outcome="exception", exit_code=1, chain=chain, traceback="")
    stage.mark(job, 1)
    stage.turn()
    assert job.reason is ExitReason.EXCEPTION


def test_command_ended_by_our_cancel_is_cancelled_though_its_envelope_says_signal(stage: Stage) -> None:
    job = stage.started()
    stage.backend.obeys = False
    job.cancel()
    stage.envelope(job, outcome="exit", exit_code=143, signal=15)
    stage.mark(job, 143)
    stage.turn()
    assert (job.state, job.reason) == (JobState.CANCELLED, ExitReason.CANCELLED)


def test_job_that_runs_for_the_scheduler_alone_has_a_limit_too(stage: Stage) -> None:
    """On a node that hangs it ran without an end: nothing told of its start, from which its timeout counts."""
    stage.open(lost_after_s=30)
    job = stage.call(timeout=100)
    stage.backend.says(job.native_id, RUNNING)
    stage.backend.obeys = False
    stage.pass_time(120)
    assert stage.backend.cancels == []
    stage.pass_time(40)
    assert stage.backend.cancels == [[job.native_id]]
    stage.pass_time(120)
    with pytest.raises(JobTimeout, match=r"timeout of 100 s; the scheduler says that it runs, and nothing else does"):
        job.result(0)


def test_time_in_which_the_scheduler_alone_says_running_does_not_count_once_it_is_back_in_the_queue(
    stage: Stage,
) -> None:
    stage.open(lost_after_s=30)
    job = stage.call(timeout=100)
    for status in (RUNNING, PENDING, RUNNING):
        stage.backend.says(job.native_id, status)
        stage.pass_time(90)
    assert stage.backend.cancels == []


# ---------------------------------------------------------------- schedulers that announce changes


@pytest.fixture
def push(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr(type(stage.backend), "has_push", True)
    return stage


def announce(stage: Stage, job: Any, status: JobStatus) -> None:
    stage.backend.says(job.native_id, status)
    stage.run._monitor.job_changed(job.native_id)
    stage.run._monitor.step(stage.clock.now)


def test_announced_changes_are_taken_as_they_are(push: Stage) -> None:
    job = push.call()
    announce(push, job, PENDING)
    seen = [job.state]
    announce(push, job, RUNNING)
    seen.append(job.state)
    push.envelope(job, 3)
    announce(push, job, COMPLETED)
    assert [*seen, job.state] == [JobState.PENDING, JobState.RUNNING, JobState.COMPLETED]
    assert push.backend.queries == []


def test_announced_end_decides_where_the_job_left_nothing(push: Stage) -> None:
    killed, cancelled, silent = push.call(), push.call(), push.call()
    announce(push, killed, failed(ExitReason.OUT_OF_MEMORY))
    announce(push, cancelled, CANCELLED)
    announce(push, silent, COMPLETED)
    assert (killed.reason, cancelled.reason, silent.reason) == (
        ExitReason.OUT_OF_MEMORY,
        ExitReason.CANCELLED_OUTSIDE,
        ExitReason.NONZERO_EXIT,
    )


def test_announced_end_by_a_module_that_is_missing_is_the_environment_s(push: Stage) -> None:
    """Locally it was an exit code 96 that nothing explained."""
    job = push.call(modules=["gcc"])
    announce(push, job, failed(ExitReason.NONZERO_EXIT, "EXITED", exit_code=96))
    with pytest.raises(JobInfrastructureError, match="environment module"):
        job.result(0)


def test_announcement_about_an_unknown_or_ended_job_changes_nothing(push: Stage) -> None:
    job = push.call()
    push.envelope(job, 3)
    announce(push, job, COMPLETED)
    announce(push, job, failed(ExitReason.NODE_FAILURE))
    push.run._monitor.job_changed("no such job")
    push.turn()
    assert (job.state, job.result(0)) == (JobState.COMPLETED, 3)
